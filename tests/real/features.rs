//! Every shipped feature, installed for real in Debian 12 and 13: what it promises is there, a second run does nothing,
//! and nothing comes from anywhere but the node's proxy.

use phoenix::desired::Key;
use serde_json::{Value, json};

use crate::engine::template;
use crate::stand_ins::{DRIVER, StandIns};
use crate::world::{DEBIAN_12, DEBIAN_13, PROXY, Real, container, lxc_key};

/// One Debian and the objects in it.
struct Release {
    code: &'static str,
    image: &'static str,
    number: u32,
}

const RELEASES: [Release; 2] = [
    Release {
        code: "bookworm",
        image: DEBIAN_12,
        number: 12,
    },
    Release {
        code: "trixie",
        image: DEBIAN_13,
        number: 13,
    },
];

/// The template that the others come from: it alone knows the proxy.
pub fn base(name: &str, image: &str) -> Value {
    let mut manifest = template(name, "Template");
    let guest = &mut manifest["spec"]["lxc"];
    guest["source"]["image"]["volid"] = json!(image);
    guest["capabilities"] = json!({"nesting": true});
    guest["features"] = json!([{"name": "base_setup", "parameters": {"http-proxy": PROXY, "packages": "file"}}]);
    manifest
}

/// A clone of a template with features.
pub fn clone(name: &str, template: &str, fields: Value) -> Value {
    let mut manifest = container(name, DEBIAN_12, fields);
    manifest["spec"]["source"] = json!({"templateRef": {"name": template}});
    manifest["spec"]["capabilities"] = json!({"nesting": true});
    manifest
}

fn apps(release: &Release, stand_ins: &StandIns, portainer: bool, service: bool) -> Value {
    let mut python = json!({"pip-index-url": format!("http://files.test/{}/simple/", release.code)});
    if service {
        python["service"] = json!("hello");
        python["listen-address"] = json!("127.0.0.1");
    }
    let ollama = json!({
        "archive-url": "http://files.test/ollama-linux-amd64.tar.zst",
        "archive-sha256": stand_ins.ollama_sha256, "listen-address": "127.0.0.1",
    });
    let mut features = json!([
        {"name": "docker"},
        {"name": "python_api_service", "parameters": python},
        {"name": "ollama", "parameters": ollama},
        {"name": "llamacpp", "parameters": {
            "version": "b7489", "archive-sha256": stand_ins.llamacpp_sha256,
            "archive-url": "http://files.test/llama-b7489-bin-ubuntu-vulkan-x64.tar.gz",
        }},
    ]);
    if portainer {
        features.as_array_mut().unwrap().push(json!({"name": "portainer"}));
    }
    clone(
        &format!("apps-{}", release.number),
        &format!("base-{}", release.number),
        json!({"features": features}),
    )
}

fn nvidia(release: &Release, stand_ins: &StandIns) -> Value {
    let parameters = json!({
        "driver-version": DRIVER, "runfile-url": format!("http://files.test/{}", StandIns::runfile()),
        "runfile-sha256": stand_ins.runfile_sha256,
    });
    let features = json!([
        {"name": "nvidia", "parameters": parameters},
        {"name": "vllm", "parameters": {"pip-index-url": format!("http://files.test/{}/simple/", release.code)}},
    ]);
    clone(
        &format!("ai-{}", release.number),
        &format!("base-{}", release.number),
        json!({"features": features, "rootfs": {"size": "32Gi"}}),
    )
}

/// What the runner's records in the guest say: feature, hash and attempt of each run.
fn records(real: &Real, key: &Key) -> String {
    real.sh(key, "cd /var/lib/phoenix && ls -1 */run.* && cat */run.* | grep exit")
}

const SERVICE: &str = "mkdir -p /srv/api/hello && cat >/srv/api/hello/main.py <<'END'\n\
    from fastapi import FastAPI\napp = FastAPI()\n\n@app.get('/hello/{name}')\ndef hello(name: str):\n    \
    return {'hello': name}\nEND\n";

/// An image of Portainer's name made of the guest's own files: it answers on port 9443 as Portainer does.
const PORTAINER: &str = r#"set -eu
mkdir -p /tmp/image && cd /tmp/image
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=portainer 2>/dev/null
for file in /usr/bin/openssl $(ldd /usr/bin/openssl | grep -o '/[^ ]*'); do
    mkdir -p ".$(dirname "$file")"
    cp -L "$file" ".$file"
done
tar -c . | docker import --change 'ENTRYPOINT ["/usr/bin/openssl","s_server","-accept","9443","-cert","/cert.pem","-key","/key.pem","-www"]' \
    - portainer/portainer-ce:2.33.6
docker run --rm --entrypoint /usr/bin/openssl portainer/portainer-ce:2.33.6 version
"#;

#[tokio::test(flavor = "multi_thread")]
async fn features_and_what_builds_on_them() {
    let Some(mut real) = Real::start().await else { return };
    real.ship_features();
    let stand_ins = StandIns::make(&real.node);
    let mut all = Vec::new();
    for release in &RELEASES {
        let name = format!("base-{}", release.number);
        real.world.store.apply(base(&name, release.image));
        all.push(real.world.store.apply(apps(release, &stand_ins, false, false)));
        all.push(real.world.store.apply(nvidia(release, &stand_ins)));
    }
    real.ready(&all).await;
    for release in &RELEASES {
        let apps_key = lxc_key(&format!("apps-{}", release.number));
        looks_right(&real, &apps_key, release);
        real.sh(&apps_key, SERVICE);
        println!(
            "docker in {apps_key}: {}",
            real.sh(&apps_key, PORTAINER).lines().last().unwrap()
        );
        real.world.store.apply(apps(release, &stand_ins, true, true));
    }
    real.ready(&all).await;
    for release in &RELEASES {
        let apps_key = lxc_key(&format!("apps-{}", release.number));
        let hello = real.sh(&apps_key, "curl -fsS --noproxy '*' http://127.0.0.1:8080/hello/world");
        assert_eq!(hello, r#"{"hello":"world"}"#);
        let portainer = real.sh(&apps_key, "curl -fsSk --noproxy '*' https://127.0.0.1:9443/");
        assert!(portainer.contains("Ciphers supported"), "{portainer}");
    }
    a_second_run_does_nothing(&mut real, &all).await;
    // Packages came through the proxy, and nothing tried to get out beside it.
    let log = real.node.text("proxy.log");
    assert!(
        log.contains("docker.io_") && log.contains("http://files.test/bookworm/simple/vllm/ 200 own"),
        "{log}"
    );
    let refused: Vec<&str> = log.lines().filter(|line| line.ends_with("refused")).collect();
    assert!(refused.is_empty(), "{refused:?}");
    // What takes long to install is used further.
    crate::servers::one_after_the_other(&mut real, &apps(&RELEASES[0], &stand_ins, true, true)).await;
    crate::vllm::from_installation_to_recovery(&mut real, &nvidia(&RELEASES[0], &stand_ins)).await;
    crate::legacy::scripts_run_unmodified(&mut real, "base-12").await;
}

fn looks_right(real: &Real, apps: &Key, release: &Release) {
    let version = real.sh(apps, "cat /etc/debian_version");
    assert!(version.starts_with(&release.number.to_string()), "{version}");
    // What the template has is not repeated in its clones: the records came along, and no attempt was added.
    let base = records(real, apps);
    assert_eq!(base.matches("feature-base-setup/run.").count(), 1, "{base}");
    let ai = lxc_key(&format!("ai-{}", release.number));
    assert_eq!(real.sh(&ai, "nvidia-smi --query-gpu=driver_version").trim(), DRIVER);
    assert_eq!(
        real.sh(&ai, "/opt/vllm/bin/python -c 'import vllm; print(vllm.__version__)'")
            .trim(),
        "0.15.1"
    );
    assert!(
        real.sh(apps, "curl -fsS --noproxy '*' http://127.0.0.1:11434/api/version")
            .contains("0.32.7")
    );
    assert!(
        real.sh(apps, "docker info --format '{{.Driver}}'").contains("overlay"),
        "Docker's storage"
    );
}

/// Looks again and again, with a new operator too: nothing is started. Then the records are lost: every script runs
/// once more, finds everything there, and changes nothing; `install` itself may run again too.
async fn a_second_run_does_nothing(real: &mut Real, keys: &[Key]) {
    let before: Vec<String> = keys.iter().map(|key| records(real, key)).collect();
    real.world.restart();
    real.ready(keys).await;
    let after: Vec<String> = keys.iter().map(|key| records(real, key)).collect();
    assert_eq!(before, after);
    let services = "systemctl show --property=MainPID docker.service ollama.service python-api@hello.service; \
                    docker ps -q 2>/dev/null || true";
    let running: Vec<String> = keys.iter().map(|key| real.sh(key, services)).collect();
    for key in keys {
        real.sh(key, "rm -rf /var/lib/phoenix/feature-*");
    }
    real.world.restart();
    real.until("every feature was run again", |real| {
        keys.iter().all(|key| {
            let object = real.object(key);
            let features = object.status.features.unwrap_or_default();
            features
                .iter()
                .all(|f| f.state.as_deref() == Some("Succeeded") && f.attempts == Some(1))
                && real
                    .sh(key, "ls /var/lib/phoenix")
                    .lines()
                    .filter(|l| l.starts_with("feature-"))
                    .count()
                    == features.len()
        })
    })
    .await;
    for (key, running) in keys.iter().zip(running) {
        let said = real.sh(key, "cat /var/lib/phoenix/feature-*/output.*");
        let features = real.object(key).status.features.unwrap_or_default().len();
        assert_eq!(said.matches("already there").count(), features, "{key}: {said}");
        assert_eq!(real.sh(key, services), running, "{key}");
    }
}

//! What the shipped scripts would do on Ubuntu, which is not installed here: package sources and package lists, in a
//! Debian container that says it is Ubuntu and whose package manager only tells what it is asked for.

use std::path::Path;

use phoenix::crd::PhoenixFeature;
use serde_json::json;

use crate::world::{DEBIAN_12, Real, container};

struct Release {
    version: &'static str,
    code: &'static str,
    /// The file of package sources, as Ubuntu ships it, and with both mirrors set.
    file: &'static str,
    before: &'static str,
    after: &'static str,
    /// What the archive knows of what the scripts ask for.
    known: &'static str,
    docker: &'static str,
}

const RELEASES: [Release; 2] = [
    Release {
        version: "22.04",
        code: "jammy",
        file: "/etc/apt/sources.list",
        before: "# See the help\ndeb http://archive.example/ubuntu jammy main restricted\n\
                 deb http://archive.example/ubuntu jammy-updates main restricted\n\
                 deb [arch=amd64] http://security.example/ubuntu jammy-security main restricted\n\
                 deb https://ppa.example/x jammy stable\n",
        after: "# See the help\ndeb http://mirror.lan/ubuntu jammy main restricted\n\
                deb http://mirror.lan/ubuntu jammy-updates main restricted\n\
                deb [arch=amd64] http://mirror.lan/security jammy-security main restricted\n\
                deb https://ppa.example/x jammy stable\n",
        known: "docker.io docker-buildx docker-compose-v2 docker-compose",
        docker: "iptables docker.io docker-buildx docker-compose-v2",
    },
    Release {
        version: "24.04",
        code: "noble",
        file: "/etc/apt/sources.list.d/ubuntu.sources",
        before: "Types: deb\nURIs: http://archive.example/ubuntu/\nSuites: noble noble-updates noble-backports\n\
                 Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
                 Types: deb\nURIs: http://security.example/ubuntu/\nSuites: noble-security\n\
                 Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/k.gpg\n",
        after: "Types: deb\nURIs: http://mirror.lan/ubuntu\nSuites: noble noble-updates noble-backports\n\
                Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
                Types: deb\nURIs: http://mirror.lan/security\nSuites: noble-security\n\
                Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/k.gpg\n\n",
        known: "docker.io docker-buildx docker-compose-v2",
        docker: "iptables docker.io docker-buildx docker-compose-v2",
    },
];

/// The package manager's stand-in tells what it is asked for, and stops a script at its first installation.
const STUBS: &str = r#"
cat >/usr/local/sbin/apt-get <<'END'
#!/bin/sh
case " $* " in *' install '*) ;; *) exit 0 ;; esac
for word do case $word in install | -*) ;; *) printf '%s ' "$word" ;; esac; done >/root/asked
exit 42
END
cat >/usr/local/sbin/apt-cache <<'END'
#!/bin/sh
if grep -qw -- "$2" /root/known; then echo '  Candidate: 1.0'; else echo '  Candidate: (none)'; fi
END
chmod 0755 /usr/local/sbin/apt-get /usr/local/sbin/apt-cache
"#;

fn install(feature: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/features/{feature}.yaml"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str::<PhoenixFeature>(&text).unwrap().spec.install
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_and_packages_on_ubuntu() {
    let Some(mut real) = Real::start().await else { return };
    let fields = json!({"capabilities": {"nesting": true}});
    let key = real.world.store.apply(container("ubuntu", DEBIAN_12, fields));
    real.ready(std::slice::from_ref(&key)).await;
    real.sh(&key, STUBS);
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    for release in &RELEASES {
        let system = format!(
            "ID=ubuntu\nVERSION_ID={}\nVERSION_CODENAME={}\nPRETTY_NAME='Ubuntu {}'\n",
            release.version, release.code, release.version
        );
        let prepare = format!(
            "rm -rf /etc/os-release /etc/apt/sources.list* /var/backups/phoenix-apt; mkdir -p /etc/apt/sources.list.d\n\
             printf %s {} >/etc/os-release\nprintf %s {} >{}\necho {} >/root/known\n",
            quoted(&system),
            quoted(release.before),
            release.file,
            release.known
        );
        real.sh(&key, &prepare);
        let run = |feature: &str, environment: &str| {
            let script = format!(
                "{environment} sh -c {} 2>&1; echo ended with $?",
                quoted(&install(feature))
            );
            let said = real.sh(&key, &script);
            assert!(
                said.trim_end().ends_with("ended with 42"),
                "{feature} on {}: {said}",
                release.version
            );
            real.sh(&key, "cat /root/asked").trim().to_owned()
        };
        let mirrors =
            "PHOENIX_APT_MIRROR=http://mirror.lan/ubuntu PHOENIX_APT_SECURITY_MIRROR=http://mirror.lan/security";
        let packages = run("base-setup", mirrors);
        assert!(
            packages.starts_with("ca-certificates curl gnupg iproute2"),
            "{packages}"
        );
        assert_eq!(
            real.sh(&key, &format!("cat {}", release.file)),
            release.after,
            "{}",
            release.version
        );
        let kept = real.sh(
            &key,
            &format!(
                "cat /var/backups/phoenix-apt/{}",
                release.file.rsplit('/').next().unwrap()
            ),
        );
        assert_eq!(kept, release.before);
        assert_eq!(run("docker", ""), release.docker, "{}", release.version);
        assert_eq!(run("python-api-service", ""), "python3 python3-venv");
        assert_eq!(run("vllm", ""), "python3 python3-venv python3-dev gcc g++ libc6-dev");
    }
}

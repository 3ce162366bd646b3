//! A model server from installation to recovery, with a small server in vLLM's place.

use phoenix::desired::Key;
use serde_json::{Value, json};

use crate::world::{DEBIAN_12, DEBIAN_13, Real, container, lxc_key};

/// The container with vLLM in it, and now with a model.
fn guest(installed: &Value, server: Value) -> Value {
    let mut block = json!({
        "model": "Qwen/Qwen2.5-0.5B", "servedName": "qwen", "cachePath": "/models",
        "tokenSecretRef": {"name": "hf", "key": "token"},
        "apiKeySecretRef": {"name": "hf", "key": "api"},
        "extraArgs": ["--override-generation-config", "{\"a\": \"50% $HOME\"}"],
    });
    for (key, value) in server.as_object().unwrap() {
        block[key] = value.clone();
    }
    let mut manifest = installed.clone();
    manifest["spec"]["vllm"] = block;
    manifest
}

fn ask(real: &Real, key: &Key, path: &str, body: Option<Value>) -> Value {
    let data = body
        .map(|b| format!("-H 'Content-Type: application/json' --data-binary '{b}'"))
        .unwrap_or_default();
    let text = real.sh(
        key,
        &format!("curl -fsS --noproxy '*' -H 'Authorization: Bearer sk-one' {data} http://127.0.0.1:8000{path}"),
    );
    serde_json::from_str(&text).unwrap()
}

/// A piece of what the server says of a model that it cannot load.
fn model_words(model: &str) -> &str {
    match model {
        "crash/out-of-memory" => "CUDA out of memory",
        "crash/no-such-model" => "not a valid model identifier",
        "crash/gated" => "gated repo",
        _ => "does not match the quantization method",
    }
}

/// Goes through it all in a container whose features are installed.
pub async fn from_installation_to_recovery(real: &mut Real, installed: &Value) {
    let secret =
        json!({"metadata": {"name": "hf", "namespace": "ai"}, "stringData": {"token": "hf_abc\n", "api": "sk-one"}});
    real.world
        .store
        .objects
        .insert_secret(serde_json::from_value(secret).unwrap());
    let key = real.world.store.apply(guest(installed, json!({})));
    let keys = [key.clone()];
    real.ready(&keys).await;

    assert_eq!(ask(real, &key, "/v1/models", None)["data"][0]["id"], "qwen");
    let prompt = json!({"model": "qwen", "prompt": "hello", "max_tokens": 4});
    assert_eq!(
        ask(real, &key, "/v1/completions", Some(prompt))["choices"][0]["text"],
        " echo: hello"
    );
    let told = ask(real, &key, "/test/arguments", None);
    let argv: Vec<&str> = told["argv"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    assert!(
        argv.starts_with(&["serve", "Qwen/Qwen2.5-0.5B", "--host", "0.0.0.0"]),
        "{argv:?}"
    );
    assert_eq!(argv.last(), Some(&"{\"a\": \"50% $HOME\"}"));
    assert_eq!((&told["hfHome"], &told["token"]), (&json!("/models"), &json!("hf_abc")));
    let mode = real.sh(
        &key,
        "stat -c %a:%U /etc/phoenix/vllm.env; grep -c -e 'hf_ab[c]' -e 'sk-on[e]' /etc/systemd/system/vllm.service || true
         cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sk-on[e]' || true
         curl -s -o /dev/null -w '%{http_code}' --noproxy '*' http://127.0.0.1:8000/v1/models",
    );
    assert_eq!(mode, "600:root\n0\n0\n401", "who shows no key is refused");

    // A changed parameter restarts the unit and nothing else.
    let boot = real.sh(&key, "stat -c %Y /proc/1; ls /var/lib/phoenix/feature-*");
    real.world.store.apply(guest(installed, json!({"maxModelLen": 4096})));
    real.ready(&keys).await;
    let changed = ask(real, &key, "/test/arguments", None);
    assert!(
        changed["argv"].to_string().contains("\"--max-model-len\",\"4096\""),
        "{changed}"
    );
    assert_ne!(changed["pid"], told["pid"]);
    assert_eq!(real.sh(&key, "stat -c %Y /proc/1; ls /var/lib/phoenix/feature-*"), boot);
    // Looked at again, it is left alone.
    real.world.restart();
    real.ready(&keys).await;
    assert_eq!(ask(real, &key, "/test/arguments", None)["pid"], changed["pid"]);

    // While it loads, its journal tells how far it is.
    real.sh(&key, "touch /run/test-hold-loading");
    real.world.store.apply(guest(installed, json!({"maxModelLen": 8192})));
    let at = key.clone();
    real.until("the progress is told", move |real| {
        let message = real.object(&at).status.message.unwrap_or_default();
        message.contains("3/4")
    })
    .await;
    real.sh(&key, "rm /run/test-hold-loading");
    real.ready(&keys).await;

    // A server that cannot load says why, and recovers when that is mended.
    for (model, words) in [
        ("crash/out-of-memory", "the GPU's memory does not suffice"),
        ("crash/no-such-model", "there is no such model"),
        ("crash/gated", "token"),
        ("crash/quantization", "quantization"),
    ] {
        real.world.store.apply(guest(installed, json!({"model": model})));
        let at = key.clone();
        real.until(model, move |real| {
            let conditions = real.object(&at).status.conditions;
            let healthy = conditions.iter().find(|c| c.type_ == "Healthy");
            healthy.is_some_and(|c| {
                c.reason == "ModelServerFailed" && c.message.contains(words) && c.message.contains(model_words(model))
            })
        })
        .await;
    }
    real.world
        .store
        .apply(guest(installed, json!({"servedName": "mended"})));
    real.ready(&keys).await;
    assert_eq!(ask(real, &key, "/v1/models", None)["data"][0]["id"], "mended");
}

/// In vLLM's place: a program that says how it was started, and ends; and a sleep that says how long it should, and
/// lasts only while a file is there.
const ENDING: &str = r#"
mkdir -p /opt/vllm/bin /etc/systemd/system/vllm.service.d
cat > /opt/vllm/bin/vllm << 'END'
#!/bin/sh
echo "$@" >> /root/starts
exit 1
END
cat > /opt/vllm/bin/sleep << 'END'
#!/bin/sh
echo "$1" >> /root/pauses
while [ -e /root/hold ]; do /bin/sleep 0.1; done
END
chmod 0755 /opt/vllm/bin/*
printf '[Service]\nRestartSec=100ms\n' > /etc/systemd/system/vllm.service.d/test.conf
"#;

/// The pauses between ends and starts grow, on the systemd of either Debian, and hold nothing up that somebody asks for.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_grow_until_somebody_asks() {
    let Some(mut real) = Real::start().await else { return };
    let feature = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"name": "vllm", "namespace": "ai"}, "spec": {"install": ENDING},
    });
    let feature = serde_json::from_value(feature).unwrap();
    real.world.store.objects.insert_feature(feature);
    for (name, image) in [("ending-12", DEBIAN_12), ("ending-13", DEBIAN_13)] {
        let with = |block: Value| container(name, image, json!({"features": [{"name": "vllm"}], "vllm": block}));
        let key = real.world.store.apply(with(json!({"model": "m"})));
        let shows = |real: &Real, script: &str, words: &str| {
            real.object(&lxc_key(name)).status.vllm.is_some() && real.sh(&lxc_key(name), script).contains(words)
        };
        real.until("growing pauses", |real| {
            shows(real, "cat /root/pauses 2>&1 || true", "10\n30\n70\n150\n290\n290\n")
        })
        .await;

        // Within a pause the server counts as failing, and a changed argument ends the pause.
        real.sh(&key, "touch /root/hold");
        real.until("a pause", |real| {
            shows(real, "systemctl show vllm.service -p SubState", "SubState=start-pre")
        })
        .await;
        assert_ne!(
            real.sh(&key, "systemctl show vllm.service -p NRestarts"),
            "NRestarts=0\n"
        );
        real.world.store.apply(with(json!({"model": "m", "maxModelLen": 4096})));
        real.until("the changed argument", |real| {
            shows(real, "cat /root/starts", "--max-model-len 4096")
        })
        .await;
        // The pauses begin anew, and a restart by hand is not held up either.
        real.until("a first pause", |real| {
            shows(
                real,
                "tail -n 1 /root/pauses; systemctl show vllm.service -p SubState",
                "10\nSubState=start-pre",
            )
        })
        .await;
        let starts = real.sh(&key, "wc -l < /root/starts");
        real.sh(&key, "systemctl restart vllm.service || true");
        assert_ne!(real.sh(&key, "wc -l < /root/starts"), starts);
        let journal = real.sh(&key, "systemctl stop vllm.service; journalctl -u vllm.service -o cat");
        assert!(journal.contains("times: started in 290 seconds"), "{journal}");
        assert!(!journal.contains("Unknown"), "{journal}");
    }
}

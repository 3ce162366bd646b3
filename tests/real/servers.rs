//! Ollama and llama.cpp servers by their blocks, one after the other in one container, with small servers in their place.

use phoenix::desired::Key;
use serde_json::{Value, json};

use crate::world::{Real, lxc_key};

fn with(installed: &Value, block: &str, server: Value) -> Value {
    let mut manifest = installed.clone();
    manifest["spec"][block] = server;
    manifest
}

fn ask(real: &Real, key: &Key, url: &str) -> Value {
    serde_json::from_str(&real.sh(key, &format!("curl -fsS --noproxy '*' {url}"))).unwrap()
}

/// Waits until the condition Healthy says these words.
async fn healthy_says(real: &mut Real, key: &Key, reason: &str, words: &str) {
    let (at, reason, words) = (key.clone(), reason.to_string(), words.to_string());
    real.until(&words.clone(), move |real| {
        let conditions = real.object(&at).status.conditions;
        let healthy = conditions.iter().find(|c| c.type_ == "Healthy");
        healthy.is_some_and(|c| c.reason == reason && c.message.contains(&words))
    })
    .await;
}

/// The container has both programs.
pub async fn one_after_the_other(real: &mut Real, installed: &Value) {
    let key = lxc_key(installed["metadata"]["name"].as_str().unwrap());
    ollama(real, &key, installed).await;
    llamacpp(real, &key, installed).await;
    // Back again: what llama.cpp's script took away is put in place anew.
    let block = json!({"models": ["tiny:1b"], "host": "127.0.0.1", "port": 11500});
    real.world.store.apply(with(installed, "ollama", block));
    real.ready(std::slice::from_ref(&key)).await;
    let active = real.sh(&key, "systemctl is-active ollama.service llamacpp.service || true");
    assert_eq!(active.lines().collect::<Vec<_>>(), ["active", "inactive"]);
    let status = real.object(&key).status;
    assert_eq!(status.model_server.map(|s| s.name).as_deref(), Some("ollama"));
}

async fn ollama(real: &mut Real, key: &Key, installed: &Value) {
    let keys = std::slice::from_ref(key);
    let block = |models: Value| {
        json!({"models": models, "host": "127.0.0.1", "port": 11500, "modelsPath": "/srv/models", "keepAlive": "-1",
            "environment": [{"name": "OLLAMA_NUM_PARALLEL", "value": "2"}]})
    };
    real.sh(key, "touch /run/test-hold-pulling");
    real.world
        .store
        .apply(with(installed, "ollama", block(json!(["tiny:1b"]))));
    healthy_says(real, key, "ModelLoading", "pulling tiny:1b: 100 % of 4000 MB").await;
    real.sh(key, "rm /run/test-hold-pulling");
    real.ready(keys).await;
    let told = ask(real, key, "http://127.0.0.1:11500/test/environment");
    assert_eq!(told["OLLAMA_MODELS"], "/srv/models");
    assert_eq!(
        (&told["OLLAMA_KEEP_ALIVE"], &told["OLLAMA_NUM_PARALLEL"]),
        (&json!("-1"), &json!("2"))
    );

    // One more model restarts nothing, and one that does not exist is told.
    real.world.store.apply(with(
        installed,
        "ollama",
        block(json!(["tiny:1b", "embed", "absent:1b"])),
    ));
    healthy_says(real, key, "ModelServerFailed", "there is no such model").await;
    real.world
        .store
        .apply(with(installed, "ollama", block(json!(["embed", "tiny:1b"]))));
    real.ready(keys).await;
    let same = ask(real, key, "http://127.0.0.1:11500/test/environment");
    assert_eq!(same["pid"], told["pid"]);
    assert_eq!(
        real.sh(key, "cat /run/phoenix/ollama.completed | cut -d' ' -f2").trim(),
        "embed"
    );

    // The server ends by itself: its models are looked at anew, and the first one answers again.
    let before = real.sh(key, "cat /run/phoenix/ollama.completed");
    real.sh(key, "systemctl kill --signal=KILL ollama.service");
    let at = key.clone();
    real.until("the model answers once more", move |real| {
        let now = real.sh(&at, "cat /run/phoenix/ollama.completed");
        now != before && now.ends_with(" embed")
    })
    .await;
    real.ready(keys).await;
}

async fn llamacpp(real: &mut Real, key: &Key, installed: &Value) {
    let keys = std::slice::from_ref(key);
    let secret = json!({"metadata": {"name": "clients", "namespace": "ai"}, "stringData": {"key": "sk-llama"}});
    real.world
        .store
        .objects
        .insert_secret(serde_json::from_value(secret).unwrap());
    let block = |model: &str| {
        json!({"model": model, "servedName": "tiny", "port": 8090, "contextSize": 4096, "cachePath": "/srv/llama",
            "apiKeySecretRef": {"name": "clients", "key": "key"}, "extraArgs": ["--metrics"]})
    };
    for (model, words) in [
        ("/crash/memory.gguf", "memory does not suffice"),
        ("/crash/absent.gguf", "model is no GGUF file"),
    ] {
        real.world.store.apply(with(installed, "llamacpp", block(model)));
        healthy_says(real, key, "ModelServerFailed", words).await;
    }
    real.world
        .store
        .apply(with(installed, "llamacpp", block("/srv/tiny.gguf")));
    real.ready(keys).await;
    let told = ask(real, key, "http://127.0.0.1:8090/test/arguments");
    let argv = [
        "--model",
        "/srv/tiny.gguf",
        "--alias",
        "tiny",
        "--host",
        "0.0.0.0",
        "--port",
        "8090",
    ];
    assert_eq!(told["argv"].as_array().unwrap()[..8], argv.map(|word| json!(word)));
    assert_eq!(told["cache"], "/srv/llama");
    let status = real.object(key).status;
    assert_eq!(status.model_server.map(|s| s.name).as_deref(), Some("llamacpp"));
    let active = real.sh(
        key,
        "systemctl is-active ollama.service ollama-models.service || true; ls /etc/phoenix/ollama.env 2>&1 || true",
    );
    assert!(
        active.starts_with("inactive\ninactive\n") && active.contains("No such file"),
        "{active}"
    );
}

//! Ollama and llama.cpp: the files that their blocks become.

use crate::desired::ScriptRole;

use super::*;

fn server(name: &str, fields: &str) -> Result<Script, Blocked> {
    let text = format!("  features: [{{name: {name}}}]\n  {name}: {{{fields}}}");
    let all = lxc_scripts(&with_lxc(&text))?;
    Ok(find(all, name))
}

#[test]
fn fields_of_ollama_are_in_its_environment() {
    let script = server("ollama", "models: [\"qwen3:8b\", gemma3]").unwrap();
    assert_eq!(script.role, ScriptRole::ModelServer);
    assert!(script.environment.is_empty());
    let environment = &file(&script, "/run/phoenix/ollama/ollama.env").content;
    assert_eq!(
        environment.lines().skip(1).collect::<Vec<_>>(),
        ["OLLAMA_HOST=\"0.0.0.0:11434\""]
    );
    assert_eq!(
        file(&script, "/run/phoenix/ollama/ollama-models.list").content,
        "qwen3:8b\ngemma3\n"
    );
    assert!(
        file(&script, "/run/phoenix/ollama/ollama-models")
            .content
            .contains("base=http://127.0.0.1:11434 ")
    );

    let fields = "models: [m], host: \"::\", port: 11500, modelsPath: /models, contextLength: 8192, keepAlive: 1h30m, \
                  environment: [{name: OLLAMA_DEBUG, value: a\"b}]";
    let script = server("ollama", fields).unwrap();
    let environment = &file(&script, "/run/phoenix/ollama/ollama.env").content;
    let wanted = [
        "OLLAMA_HOST=\"[::]:11500\"",
        "OLLAMA_MODELS=\"/models\"",
        "OLLAMA_CONTEXT_LENGTH=\"8192\"",
        "OLLAMA_KEEP_ALIVE=\"1h30m\"",
        "OLLAMA_DEBUG=\"a\\\"b\"",
    ];
    assert_eq!(environment.lines().skip(1).collect::<Vec<_>>(), wanted);
    assert_eq!(script.environment["PHOENIX_OLLAMA_MODELS_PATH"], "/models");
    assert!(
        file(&script, "/run/phoenix/ollama/ollama-models")
            .content
            .contains("base=http://[::1]:11500 ")
    );
}

#[test]
fn fields_of_llamacpp_become_arguments() {
    for (fields, wanted) in [
        (
            "model: ggml-org/gemma-3-4b-it-GGUF:Q4_K_M",
            "--hf-repo ggml-org/gemma-3-4b-it-GGUF:Q4_K_M --alias ggml-org/gemma-3-4b-it-GGUF:Q4_K_M --host 0.0.0.0 --port 8080",
        ),
        (
            "model: /models/a b.gguf, servedName: a, contextSize: 4096, gpuLayers: 99, parallel: 2, embeddings: true, \
             host: 127.0.0.1, port: 81, extraArgs: [--metrics]",
            "--model \"/models/a b.gguf\" --alias a --host 127.0.0.1 --port 81 --ctx-size 4096 --n-gpu-layers 99 --parallel 2 \
             --embeddings --metrics",
        ),
    ] {
        let script = server("llamacpp", fields).unwrap();
        let unit = &file(&script, "/run/phoenix/llamacpp/llamacpp.service").content;
        let line = format!("ExecStart=/opt/llamacpp/bin/llama-server {wanted}\n");
        assert!(unit.contains(&line), "{unit}");
        assert!(
            unit.contains("ExecStartPre=-/bin/sh /etc/phoenix/llamacpp-pause\n"),
            "{unit}"
        );
    }
    let script = server("llamacpp", "model: m, cachePath: /models").unwrap();
    let environment = &file(&script, "/run/phoenix/llamacpp/llamacpp.env").content;
    assert!(environment.ends_with("\nLLAMA_CACHE=\"/models\"\n"), "{environment}");
    let pause = &file(&script, "/run/phoenix/llamacpp/llamacpp-pause").content;
    assert!(
        pause.contains("systemctl show llamacpp.service") && !pause.contains("vllm"),
        "{pause}"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    for (name, fields, words) in [
        (
            "llamacpp",
            "model: --help",
            "spec.llamacpp.model: \"--help\" reads as an option: give a path",
        ),
        (
            "llamacpp",
            "model: m, cachePath: /a, environment: [{name: LLAMA_CACHE, value: /b}]",
            "spec.llamacpp.environment[LLAMA_CACHE]: spec.llamacpp.cachePath sets LLAMA_CACHE already",
        ),
        (
            "ollama",
            "models: [m], environment: [{name: OLLAMA_HOST, value: \"0.0.0.0\"}]",
            "spec.ollama.environment[OLLAMA_HOST]: spec.ollama.host sets OLLAMA_HOST already",
        ),
    ] {
        let text = format!("  features: [{{name: {name}}}]\n  {name}: {{{fields}}}");
        let (reason, message) = blocked(&text);
        assert_eq!(reason, Reason::InvalidSpec);
        assert!(message.starts_with(words), "{message}");
    }
}

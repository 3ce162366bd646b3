//! The llama.cpp server of a guest (`llama-server`).
//!
//! Options are those of its README; models of Hugging Face are downloaded by the server itself (`--hf-repo`).

use crate::crd::{LlamaCpp, Probe};
use crate::desired::{Blocked, GuestObject, Objects, Script};

use super::server::{self, Arguments, HOST, ModelServer, Service, no_option};

/// The name of block, feature, script and unit.
pub(super) const NAME: &str = "llamacpp";
/// Port where none is given.
pub(super) const PORT: i64 = 8080;

/// The script that writes and starts llamacpp.service.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn script(object: &GuestObject, server: &LlamaCpp, objects: &dyn Objects) -> Result<Script, Blocked> {
    let field = format!("{}.{NAME}", object.field_prefix());
    let wish = "a path such as /models/gemma.gguf, or a Hugging Face repository such as ggml-org/gemma-3-4b-it-GGUF";
    no_option(&format!("{field}.model"), Some(&server.model), wish)?;
    no_option(
        &format!("{field}.servedName"),
        server.served_name.as_ref(),
        "another name",
    )?;
    let arguments = arguments(server);
    arguments.check(&field)?;
    let token = server::token(object, server.token_secret_ref.as_ref(), objects, &field)?;
    let (key, extra) = (server.api_key_secret_ref.as_ref(), server.extra_args.as_ref());
    let key = server::api_key(object, key, extra, objects, &field)?;
    let known = [
        ("LLAMA_CACHE", "cachePath", server.cache_path.as_deref()),
        ("HF_TOKEN", "tokenSecretRef", token.as_deref()),
        ("LLAMA_API_KEY", "apiKeySecretRef", key.as_deref()),
    ];
    let environment = server::environment_file(object, &known, server.environment.as_deref(), objects, &field)?;
    let service = Service {
        name: NAME,
        title: "llama.cpp",
        folder: "/opt/llamacpp/bin",
        program: "llama-server",
        arguments,
        environment,
        cache: server.cache_path.as_deref(),
    };
    Ok(service.script())
}

/// Arguments of `llama-server`. The user's own come last, and the last one of two counts.
fn arguments(server: &LlamaCpp) -> Arguments {
    let text = |number: Option<i64>| number.map(|n| n.to_string());
    let source = if server.model.starts_with('/') {
        "--model"
    } else {
        "--hf-repo"
    };
    let host = server.host.clone().unwrap_or_else(|| HOST.into());
    let mut words = Arguments::default();
    words.option("model", source, Some(server.model.clone()));
    // Always given: what the server calls itself otherwise depends on its version.
    words.option("servedName", "--alias", Some(served(server).to_string()));
    words.option("host", "--host", Some(host));
    words.option("port", "--port", text(server.port.or(Some(PORT))));
    words.option("contextSize", "--ctx-size", text(server.context_size));
    words.option("gpuLayers", "--n-gpu-layers", text(server.gpu_layers));
    words.option("parallel", "--parallel", text(server.parallel));
    if server.embeddings == Some(true) {
        words.word("embeddings", "--embeddings");
    }
    words.extra(server.extra_args.as_ref());
    words
}

fn served(server: &LlamaCpp) -> &str {
    server.served_name.as_ref().unwrap_or(&server.model)
}

/// The probe of a llama.cpp server.
pub(super) fn probe(server: &LlamaCpp) -> Probe {
    let kind = if server.embeddings == Some(true) {
        "embedding"
    } else {
        "chat"
    };
    server::service_probe(ModelServer::LlamaCpp(server), served(server), kind)
}

//! The vLLM server of a guest: its systemd unit, its environment file, the script that puts them in place, its probe.
//!
//! Arguments are those of `vllm serve` of vLLM 0.10.1 and newer; older ones know no `--runner`.

use crate::crd::{Probe, Vllm, VllmModelType};
use crate::desired::gpus::share_for_vllm;
use crate::desired::{Blocked, GuestObject, Objects, Script};

use super::server::{self, Arguments, HOST, ModelServer, Service, no_option};
use super::{invalid, vllm_flags};

/// The feature that brings `/opt/vllm/bin/vllm`.
pub(super) const FEATURE: &str = "vllm";
/// Port where none is given.
pub(super) const PORT: i64 = 8000;

/// The script that writes and starts vllm.service.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn script(object: &GuestObject, server: &Vllm, objects: &dyn Objects) -> Result<Script, Blocked> {
    let server = &within_share(object, server);
    let field = format!("{}.vllm", object.field_prefix());
    for (part, value, wish) in [
        (
            "model",
            Some(&server.model),
            "a model id such as Qwen/Qwen2.5-7B-Instruct, or a path",
        ),
        ("servedName", server.served_name.as_ref(), "another name"),
        (
            "quantization",
            server.quantization.as_ref(),
            "a quantization such as awq_marlin",
        ),
        ("dtype", server.dtype.as_ref(), "a data type such as float16"),
    ] {
        no_option(&format!("{field}.{part}"), value, wish)?;
    }
    let arguments = arguments(server);
    arguments.check(&field)?;
    let token = server::token(object, server.token_secret_ref.as_ref(), objects, &field)?;
    let (key, extra) = (server.api_key_secret_ref.as_ref(), server.extra_args.as_ref());
    let key = server::api_key(object, key, extra, objects, &field)?;
    let known = [
        ("HF_HOME", "cachePath", server.cache_path.as_deref()),
        ("HF_TOKEN", "tokenSecretRef", token.as_deref()),
        ("VLLM_API_KEY", "apiKeySecretRef", key.as_deref()),
    ];
    let environment = server::environment_file(object, &known, server.environment.as_deref(), objects, &field)?;
    let service = Service {
        name: FEATURE,
        title: "vLLM",
        folder: "/opt/vllm/bin",
        program: "vllm serve",
        arguments,
        environment,
        cache: server.cache_path.as_deref(),
    };
    Ok(service.script())
}

/// Checks the arguments where the version that the object's own feature installs is the one whose options are known. A
/// guest that has vLLM from its template may have it from an older revision of that, and further packages may bring
/// plugins, which add options: the server refuses them itself then, and the probe tells.
///
/// # Errors
/// `InvalidSpec`.
pub(super) fn knows_arguments(object: &GuestObject, server: &Vllm, feature: &Script) -> Result<(), Blocked> {
    let parameter = |name: &str| feature.environment.get(name).map(String::as_str).unwrap_or_default();
    let version = vllm_flags::version();
    if parameter("PHOENIX_VERSION") != version || !parameter("PHOENIX_EXTRA_PACKAGES").is_empty() {
        return Ok(());
    }
    let mut options = arguments(server).0;
    // The first one is the model.
    options.remove(0);
    let words: Vec<&str> = options.iter().map(|a| a.word.as_str()).collect();
    match vllm_flags::fault(&words) {
        None => Ok(()),
        Some((at, fault)) => Err(invalid(format!(
            "{}.vllm.{}: vLLM {version}, which the feature {} installs here, {fault}",
            object.field_prefix(),
            options[at].field,
            feature.name
        ))),
    }
}

/// The server with the share of its GPUs' memory that `gpus` gives it, where its block does not say how much it takes.
fn within_share(object: &GuestObject, server: &Vllm) -> Vllm {
    let share = object.lxc().and_then(share_for_vllm);
    Vllm {
        gpu_memory_utilization: server.gpu_memory_utilization.or(share),
        ..server.clone()
    }
}

/// Arguments of `vllm serve`. The user's own come last, and with vLLM the last one counts.
fn arguments(server: &Vllm) -> Arguments {
    let text = |number: Option<i64>| number.map(|n| n.to_string());
    let runner = match server.model_type.unwrap_or_default() {
        VllmModelType::Chat => None,
        VllmModelType::Embedding => Some("pooling".to_string()),
    };
    let host = server.host.clone().unwrap_or_else(|| HOST.into());
    let share = server.gpu_memory_utilization.map(|v| v.to_string());
    let mut words = Arguments::default();
    words.word("model", &server.model);
    words.option("host", "--host", Some(host));
    words.option("port", "--port", text(server.port.or(Some(PORT))));
    words.option("servedName", "--served-model-name", server.served_name.clone());
    words.option("modelType", "--runner", runner);
    words.option("quantization", "--quantization", server.quantization.clone());
    words.option("dtype", "--dtype", server.dtype.clone());
    words.option("maxModelLen", "--max-model-len", text(server.max_model_len));
    words.option("gpuMemoryUtilization", "--gpu-memory-utilization", share);
    let size = text(server.tensor_parallel_size);
    words.option("tensorParallelSize", "--tensor-parallel-size", size);
    if server.trust_remote_code == Some(true) {
        words.word("trustRemoteCode", "--trust-remote-code");
    }
    if server.sleep_mode == Some(true) {
        words.word("sleepMode", "--enable-sleep-mode");
    }
    words.extra(server.extra_args.as_ref());
    words
}

/// The probe of a vLLM server.
pub(super) fn probe(server: &Vllm) -> Probe {
    let kind = match server.model_type.unwrap_or_default() {
        VllmModelType::Chat => "chat",
        VllmModelType::Embedding => "embedding",
    };
    let model = server.served_name.as_ref().unwrap_or(&server.model);
    server::service_probe(ModelServer::Vllm(server), model, kind)
}

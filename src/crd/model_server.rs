//! Model servers in guests: vLLM, Ollama and llama.cpp.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::common::{EnvVar, KeyRef};
use super::schema;

/// What a vLLM server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VllmModelType {
    /// Chat and completions.
    #[default]
    Chat,
    /// Embeddings.
    Embedding,
}

/// A vLLM server, run as the systemd unit vllm.service. Needs the feature `vllm`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vllm {
    /// Model: a Hugging Face id or a path in the guest.
    #[schemars(length(min = 1, max = 512))]
    pub model: String,
    /// Name under which the model is served. Default: the model id.
    #[schemars(length(min = 1, max = 512))]
    pub served_name: Option<String>,
    /// Quantization such as awq_marlin, gptq or fp8.
    #[schemars(length(min = 1, max = 64))]
    pub quantization: Option<String>,
    /// Maximum context length, in tokens.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_model_len: Option<i64>,
    /// Fraction of each GPU's memory that vLLM uses, above 0 and at most 1.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub gpu_memory_utilization: Option<f64>,
    /// Number of GPUs that share the model; at most as many as `gpus` lists.
    #[schemars(range(min = 1, max = 64))]
    pub tensor_parallel_size: Option<i64>,
    /// Data type such as auto, float16 or bfloat16.
    #[schemars(length(min = 1, max = 32))]
    pub dtype: Option<String>,
    /// Address that the HTTP server listens on, such as 127.0.0.1 behind a proxy in the guest, or :: for IPv6 too.
    /// Default: 0.0.0.0.
    #[serde(default)]
    #[schemars(schema_with = "schema::ip")]
    pub host: Option<String>,
    /// Port of the HTTP server. Default: 8000.
    #[serde(default)]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i64>,
    /// Key that clients have to show (Authorization: Bearer), from a key of a Secret in the object's namespace. A change
    /// restarts the server. Absent: none is asked for.
    pub api_key_secret_ref: Option<KeyRef>,
    /// Whether the server can be put to sleep, which gives its GPUs' memory back.
    pub sleep_mode: Option<bool>,
    /// What the model is for. Default: chat.
    pub model_type: Option<VllmModelType>,
    /// Run code that comes with the model's repository.
    pub trust_remote_code: Option<bool>,
    /// Folder for downloaded models (HF_HOME), preferably on a volume.
    #[serde(default)]
    #[schemars(schema_with = "schema::mount_path")]
    pub cache_path: Option<String>,
    /// Hugging Face token, from a key of a Secret in the object's namespace.
    pub token_secret_ref: Option<KeyRef>,
    /// Environment of the server, such as NCCL_P2P_DISABLE or HF_HUB_OFFLINE. A change restarts the server.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub environment: Option<Vec<EnvVar>>,
    /// Further arguments, passed unchanged.
    #[schemars(length(max = 64))]
    pub extra_args: Option<Vec<String>>,
}

/// An Ollama server, run as the systemd unit ollama.service. Needs the feature `ollama`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ollama {
    /// Models that the server has, as `ollama pull` names them, such as qwen3:8b. Those that it lacks are pulled, in this
    /// order; others that it has stay. The first one answers a prompt after each start of the server.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")), extend("x-kubernetes-list-type" = "set"))]
    pub models: Vec<String>,
    /// Address that the HTTP server listens on, such as 127.0.0.1 behind a proxy in the guest, or :: for IPv6 too.
    /// Default: 0.0.0.0. Ollama asks nobody for a key.
    #[serde(default)]
    #[schemars(schema_with = "schema::ip")]
    pub host: Option<String>,
    /// Port of the HTTP server. Default: 11434.
    #[serde(default)]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i64>,
    /// Folder for models (OLLAMA_MODELS), preferably on a volume. Absent: the parameter models-dir of the feature.
    #[serde(default)]
    #[schemars(schema_with = "schema::mount_path")]
    pub models_path: Option<String>,
    /// Context length of every model, in tokens (OLLAMA_CONTEXT_LENGTH). Absent: Ollama's own.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_length: Option<i64>,
    /// How long a model stays in memory after its last request, such as 30m; -1 is for ever (OLLAMA_KEEP_ALIVE). Absent:
    /// Ollama's own, which is 5 minutes.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^(-1|([0-9]+(s|m|h))+|0)$"))]
    pub keep_alive: Option<String>,
    /// Environment of the server, such as OLLAMA_NUM_PARALLEL or OLLAMA_FLASH_ATTENTION. A change restarts the server.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub environment: Option<Vec<EnvVar>>,
}

/// A llama.cpp server (llama-server), run as the systemd unit llamacpp.service. Needs the feature `llamacpp`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LlamaCpp {
    /// Model: the path of a GGUF file in the guest, or a Hugging Face repository with GGUF files, with a quantization if it
    /// has several, such as ggml-org/gemma-3-4b-it-GGUF:Q4_K_M.
    #[schemars(length(min = 1, max = 512))]
    pub model: String,
    /// Name under which the model is served. Default: `model`.
    #[schemars(length(min = 1, max = 512))]
    pub served_name: Option<String>,
    /// Context of all requests at a time, in tokens; 0 is what the model says. Absent: llama.cpp's own.
    #[schemars(range(min = 0, max = 100_000_000))]
    pub context_size: Option<i64>,
    /// Layers of the model that the GPUs keep; the others are computed by the processor. Absent: llama.cpp's own.
    #[schemars(range(min = 0, max = 100_000))]
    pub gpu_layers: Option<i64>,
    /// Requests answered at a time; they share the context. Absent: llama.cpp's own.
    #[schemars(range(min = 1, max = 4096))]
    pub parallel: Option<i64>,
    /// Whether the model makes embeddings, and no text. Default: false.
    pub embeddings: Option<bool>,
    /// Address that the HTTP server listens on, such as 127.0.0.1 behind a proxy in the guest, or :: for IPv6 too.
    /// Default: 0.0.0.0.
    #[serde(default)]
    #[schemars(schema_with = "schema::ip")]
    pub host: Option<String>,
    /// Port of the HTTP server. Default: 8080.
    #[serde(default)]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i64>,
    /// Key that clients have to show (Authorization: Bearer), from a key of a Secret in the object's namespace. A change
    /// restarts the server. Absent: none is asked for.
    pub api_key_secret_ref: Option<KeyRef>,
    /// Folder for downloaded models (LLAMA_CACHE), preferably on a volume.
    #[serde(default)]
    #[schemars(schema_with = "schema::mount_path")]
    pub cache_path: Option<String>,
    /// Hugging Face token, from a key of a Secret in the object's namespace.
    pub token_secret_ref: Option<KeyRef>,
    /// Environment of the server, such as GGML_CUDA_ENABLE_UNIFIED_MEMORY. A change restarts the server.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub environment: Option<Vec<EnvVar>>,
    /// Further arguments, passed unchanged.
    #[schemars(length(max = 64))]
    pub extra_args: Option<Vec<String>>,
}

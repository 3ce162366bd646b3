//! The fields of `spec.vllm` that legacy values go to, and which texts fit them.

use crate::crd::{Vllm, VllmModelType};

use super::super::json::Node;
use super::super::values;

/// A field of `spec.vllm` with its keys and its options.
pub struct Field {
    /// Its name below `spec.vllm`.
    pub name: &'static str,
    /// Keys of a guest that hold it.
    pub keys: &'static [&'static str],
    /// Options of `vllm serve` for it, without dashes; the first is the usual one.
    pub options: &'static [&'static str],
    /// What is expected, for messages.
    pub expected: &'static str,
}

type Words = &'static [&'static str];

const fn field(name: &'static str, keys: Words, options: Words, expected: &'static str) -> Field {
    Field {
        name,
        keys,
        options,
        expected,
    }
}

/// All fields that the legacy files have.
pub const FIELDS: &[Field] = &[
    field("model", &["vllm_model"], &["model"], "a model"),
    field(
        "servedName",
        &["vllm_served_model_name"],
        &["served-model-name"],
        "a name",
    ),
    field(
        "quantization",
        &["vllm_quantization"],
        &["quantization", "q"],
        "a quantization such as awq_marlin",
    ),
    field(
        "maxModelLen",
        &["vllm_max_model_len"],
        &["max-model-len"],
        "a whole number above 0",
    ),
    field(
        "gpuMemoryUtilization",
        &["vllm_gpu_memory_utilization"],
        &["gpu-memory-utilization"],
        "a number from 0.01 to 1",
    ),
    field(
        "tensorParallelSize",
        &["vllm_tensor_parallel_size"],
        &["tensor-parallel-size", "tp"],
        "a whole number from 1 to 64",
    ),
    field("dtype", &["vllm_dtype"], &["dtype"], "a data type such as float16"),
    field("port", &["vllm_port", "vllm_api_port"], &["port"], "a port"),
    field("modelType", &["vllm_model_type"], &[], "chat or embedding"),
    field(
        "trustRemoteCode",
        &["vllm_trust_remote_code"],
        &["trust-remote-code"],
        "true or false",
    ),
];

/// The field of an option, if it has one.
pub fn of_option(option: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|f| f.options.contains(&option))
}

/// The field called `name`.
pub fn named(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|f| f.name == name)
}

/// Sets a field from text; None if the text does not fit.
pub fn set(vllm: &mut Vllm, field: &Field, text: &str) -> Option<()> {
    let node = Node::String(text.to_owned());
    let whole = |low: i64, high: i64| values::integer(&node).filter(|n| (low..=high).contains(n));
    // What begins with a dash would read as an option of vLLM, and no argument holds a NUL.
    let word = |max: usize| {
        let fits = (1..=max).contains(&text.len()) && !text.starts_with('-') && !text.contains('\0');
        fits.then(|| text.to_owned())
    };
    match field.name {
        "model" => vllm.model = word(512)?,
        "servedName" => vllm.served_name = Some(word(512)?),
        "quantization" => vllm.quantization = Some(word(64)?),
        "maxModelLen" => {
            let size = values::integer(&node).or_else(|| tokens(text));
            vllm.max_model_len = Some(size.filter(|n| (1..=100_000_000).contains(n))?);
        }
        "gpuMemoryUtilization" => {
            let share = match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
                None => text.trim().parse::<f64>().ok()?,
            };
            vllm.gpu_memory_utilization = Some(Some(share).filter(|v| (0.01..=1.0).contains(v))?);
        }
        "tensorParallelSize" => vllm.tensor_parallel_size = Some(whole(1, 64)?),
        "dtype" => vllm.dtype = Some(word(32)?),
        "port" => vllm.port = Some(whole(1, 65535)?),
        "modelType" => vllm.model_type = Some(model_type(text)?),
        _ => vllm.trust_remote_code = Some(values::boolean(&node)?),
    }
    Some(())
}

/// The field's value as text, if it is set.
pub fn get(vllm: &Vllm, field: &Field) -> Option<String> {
    match field.name {
        "model" => Some(vllm.model.clone()).filter(|m| !m.is_empty()),
        "servedName" => vllm.served_name.clone(),
        "quantization" => vllm.quantization.clone(),
        "maxModelLen" => vllm.max_model_len.map(|v| v.to_string()),
        "gpuMemoryUtilization" => vllm.gpu_memory_utilization.map(|v| v.to_string()),
        "tensorParallelSize" => vllm.tensor_parallel_size.map(|v| v.to_string()),
        "dtype" => vllm.dtype.clone(),
        "port" => vllm.port.map(|v| v.to_string()),
        "modelType" => vllm.model_type.map(|v| match v {
            VllmModelType::Chat => "chat".to_owned(),
            VllmModelType::Embedding => "embedding".to_owned(),
        }),
        _ => vllm.trust_remote_code.map(|v| v.to_string()),
    }
}

/// The text as the field would hold it; None if it does not fit.
pub fn normal(field: &Field, text: &str) -> Option<String> {
    let mut other = Vllm::default();
    set(&mut other, field, text)?;
    get(&other, field)
}

fn model_type(text: &str) -> Option<VllmModelType> {
    match text.to_ascii_lowercase().as_str() {
        "chat" | "generate" | "completion" => Some(VllmModelType::Chat),
        "embedding" | "embed" | "embeddings" => Some(VllmModelType::Embedding),
        _ => None,
    }
}

/// A number of tokens as vLLM takes it: `8k` is 8000, `8K` is 8192.
fn tokens(text: &str) -> Option<i64> {
    let text = text.trim();
    let unit = text.chars().last()?;
    let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
    let factor = match unit {
        'k' => 1e3,
        'm' => 1e6,
        'K' => 1024.0,
        'M' => 1024.0 * 1024.0,
        _ => return None,
    };
    let tokens = number * factor;
    (tokens.fract() == 0.0 && tokens.abs() < 9e15).then_some(tokens as i64)
}

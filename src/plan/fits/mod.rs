//! Does it fit? Weights, memory for working and KV cache of a vLLM server against the part of its GPUs that it may take. An
//! estimate from the shapes of known models (`models.txt`): it warns, and holds nothing back.

mod shapes;
#[cfg(test)]
mod tests;
mod told;

use crate::crd::{Vllm, VllmModelType};

use shapes::{Shape, shape};
pub use told::MAY_NOT_FIT;

/// What a server takes beside weights and KV cache on each card: the CUDA context, NCCL, activations, CUDA graphs. A round
/// figure, not measured.
const WORKING: f64 = 1.5 * GIB;
/// Part of a card's memory that vLLM takes where nothing is given.
const DEFAULT_SHARE: f64 = 0.9;
/// Tokens of a block of the KV cache: lengths are told in multiples of it.
const BLOCK: u64 = 16;
/// Largest `maxModelLen` that a spec may have.
const LONGEST: u64 = 100_000_000;
const GIB: f64 = 1_073_741_824.0;

/// Options in `extraArgs` with which the estimate would be another one, or none.
const UNKNOWN: &[&str] = &[
    "calculate-kv-scales",
    "cpu-offload-gb",
    "data-parallel-size",
    "decode-context-parallel-size",
    "dtype",
    "enable-lora",
    "gpu-memory-utilization",
    "hf-overrides",
    "kv-cache-memory-bytes",
    "load-format",
    "max-model-len",
    "model",
    "pipeline-parallel-size",
    "quantization",
    "speculative-config",
    "tensor-parallel-size",
];

/// What a server takes of each of its GPUs, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// What it may take.
    pub budget: f64,
    /// Weights.
    pub weights: f64,
    /// KV cache for one request of `maxModelLen` tokens, where the spec gives that.
    pub cache: Option<f64>,
    /// Largest `maxModelLen` that fits; `None`: not even the weights do.
    pub longest: Option<u64>,
    /// `maxModelLen` of the spec.
    wanted: Option<u64>,
}

/// What a server comes to on cards of so many MiB each. `None`: nobody knows, be it for the model, its quantization, an
/// option or a card.
pub fn estimate(server: &Vllm, cards: &[Option<u64>]) -> Option<Estimate> {
    if server.model_type == Some(VllmModelType::Embedding) {
        return None;
    }
    let smallest = cards.iter().copied().collect::<Option<Vec<u64>>>()?.into_iter().min()?;
    let cache_bytes = bytes_of_cache(server)?;
    let (shape, bits) = shape(&server.model, server.quantization.as_deref(), server.dtype.as_deref())?;
    let gpus = u64::try_from(server.tensor_parallel_size.unwrap_or(1)).ok()?.max(1);
    let share = server.gpu_memory_utilization.unwrap_or(DEFAULT_SHARE);
    let budget = smallest as f64 * 1024.0 * 1024.0 * share;
    let weights = shape.weights(bits) / gpus as f64;
    let cache = |tokens: u64| shape.cache(tokens, gpus) * cache_bytes;
    let room = budget - weights - WORKING;
    let blocks = largest(LONGEST / BLOCK, |blocks| cache(blocks * BLOCK) <= room);
    let wanted = server.max_model_len.and_then(|n| u64::try_from(n).ok());
    Some(Estimate {
        budget,
        weights,
        cache: wanted.map(cache),
        longest: Some(blocks * BLOCK).filter(|tokens| *tokens > 0),
        wanted,
    })
}

/// The largest number up to a limit for which something holds that holds for all smaller ones, or 0.
fn largest(limit: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, limit);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match holds(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

impl Estimate {
    /// Why it may not fit, for people; `None`: it does.
    pub fn warning(&self, prefix: &str, model: &str) -> Option<String> {
        let gib = |bytes: f64| format!("{:.1} GiB", bytes / GIB);
        let has = format!(
            "its weights take about {} of each GPU, working memory {}, and the server may take {}",
            gib(self.weights),
            gib(WORKING),
            gib(self.budget)
        );
        match (self.longest, self.wanted, self.cache) {
            (None, ..) => Some(format!(
                "{prefix}.vllm.model: {model} may not fit: {has}: take a quantized one, more GPUs (tensorParallelSize), or a larger share"
            )),
            (Some(longest), Some(wanted), Some(cache)) if wanted > longest => Some(format!(
                "{prefix}.vllm.maxModelLen: {wanted} tokens of {model} may not fit: {has}; their KV cache takes {}: {longest} is about the most that fits",
                gib(cache)
            )),
            _ => None,
        }
    }
}

/// Bytes of a number in the KV cache; `None`: an option makes everything else than it is thought here.
fn bytes_of_cache(server: &Vllm) -> Option<f64> {
    let mut bytes = match server.dtype.as_deref() {
        Some("float32" | "float") => 4.0,
        _ => 2.0,
    };
    let mut words = server.extra_args.iter().flatten().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--") else {
            match word {
                "-q" | "-pp" | "-tp" | "-dp" | "-dcp" => return None,
                _ => continue,
            }
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, words.peek().copied()),
        };
        let name = name.replace('_', "-");
        let first = name.split('.').next().unwrap_or_default();
        if UNKNOWN.iter().any(|unknown| unknown.starts_with(first)) {
            return None;
        }
        if name == "kv-cache-dtype" {
            match value? {
                "auto" => {}
                "bfloat16" => bytes = 2.0,
                value if value.starts_with("fp8") => bytes = 1.0,
                _ => return None,
            }
        }
    }
    Some(bytes)
}

impl Shape {
    /// Bytes of all weights, with so many bits for each that can be quantized.
    fn weights(&self, bits: Bits) -> f64 {
        self.weights * bits.weights / 8.0 + self.others * bits.others / 8.0
    }

    /// Numbers that the KV cache of one request holds on each of so many GPUs.
    fn cache(&self, tokens: u64, gpus: u64) -> f64 {
        // Heads are shared out; where there are fewer than GPUs, each GPU has a copy of one.
        let heads = self.heads.div_ceil(gpus);
        let full = (self.layers - self.windowed) * tokens;
        let windowed = self.windowed * tokens.min(self.window);
        2.0 * (heads * self.head) as f64 * (full + windowed) as f64
    }
}

/// Bits for each parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bits {
    weights: f64,
    others: f64,
}

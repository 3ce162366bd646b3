//! Shapes of known models, and how their weights are quantized.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Bits;

static KNOWN: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
    let lines = include_str!("models.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(Shape::read).collect()
});

/// Words in names that say how a model was trained: its shape is the same.
const TRAINED: &[&str] = &[
    "instruct", "chat", "it", "hf", "base", "meta", "thinking", "2507", "2411",
];
/// Words in names that say how the weights are kept, with the bits of each: scales are counted. `None`: with another word.
const KEPT: &[(&str, Option<f64>)] = &[
    ("awq", Some(FOUR)),
    ("gptq", Some(FOUR)),
    ("int4", Some(FOUR)),
    ("4bit", Some(FOUR)),
    ("w4a16", Some(FOUR)),
    ("mxfp4", Some(FOUR)),
    ("bnb", Some(BLOCKS_OF_64)),
    ("nvfp4", Some(BLOCKS_OF_64)),
    ("fp8", Some(8.0)),
    ("int8", Some(8.0)),
    ("8bit", Some(8.0)),
    ("w8a8", Some(8.0)),
    ("w8a16", Some(8.0)),
    ("quantized", None),
    ("dynamic", None),
    ("marlin", None),
    ("g128", None),
    ("bf16", Some(16.0)),
    ("fp16", Some(16.0)),
];
/// Four bits, with a scale of 16 bits and a zero point for each 128.
const FOUR: f64 = 4.25;
/// Four bits, with a scale of 32 bits for each 64, or one of 8 bits for each 16.
const BLOCKS_OF_64: f64 = 4.5;

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// Parameters that are quantized, and all others.
    pub weights: f64,
    pub others: f64,
    pub layers: u64,
    /// Key-value heads, and the size of each.
    pub heads: u64,
    pub head: u64,
    /// Layers that attend to a window only, and its tokens.
    pub windowed: u64,
    pub window: u64,
    /// How the published checkpoint is quantized.
    pub native: Option<&'static str>,
}

impl Shape {
    /// Lines that do not read as the file's head says are left out; a test looks for them.
    fn read(line: &'static str) -> Option<(String, Shape)> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let shape = Shape {
            weights: number()? as f64 * 1e6,
            others: number()? as f64 * 1e6,
            layers: number()?,
            heads: number()?,
            head: number()?,
            windowed: number()?,
            window: number()?,
            native: None,
        };
        let native = words.next();
        Some((name.to_lowercase(), Shape { native, ..shape }))
    }
}

/// The shape of a model by its name, and the bits of its parameters; `None`: nobody knows.
pub(super) fn shape(model: &str, quantization: Option<&str>, dtype: Option<&str>) -> Option<(&'static Shape, Bits)> {
    let name = model.trim_end_matches('/').rsplit('/').next()?.to_lowercase();
    let kept = |word: &str| KEPT.iter().find(|(known, _)| *known == word);
    // What is quantized is often told behind a dot: Qwen3-8B-quantized.w4a16.
    let words = name
        .split(['-', '_'])
        .flat_map(|word| match word.strip_prefix("quantized.") {
            Some(rest) => vec!["quantized", rest],
            None => vec![word],
        });
    let (marks, own): (Vec<&str>, Vec<&str>) = words.partition(|word| kept(word).is_some());
    let own: Vec<&str> = own.into_iter().filter(|word| !TRAINED.contains(word)).collect();
    let shape = KNOWN.get(&own.join("-"))?;
    let marked = || marks.iter().filter_map(|word| kept(word)?.1).reduce(wider);
    let plain = match dtype {
        None | Some("auto" | "half" | "float16" | "bfloat16") => 16.0,
        Some("float" | "float32") => 32.0,
        Some(_) => return None,
    };
    let weights = match quantization {
        // The checkpoint's own wins: what the option names is then how it is computed.
        Some(option) => Some(of_option(option, marked())?),
        None => marked().or_else(|| kept(shape.native?)?.1),
    };
    let bits = Bits {
        weights: weights.unwrap_or(plain),
        others: plain,
    };
    Some((shape, bits))
}

/// Of several marks the wider one: `GPTQ-Int8` has eight bits, `AWQ-INT4` four; `bnb-4bit` keeps its blocks' scales.
fn wider(one: f64, other: f64) -> f64 {
    one.max(other)
}

/// Bits that `--quantization` stands for.
fn of_option(option: &str, marked: Option<f64>) -> Option<f64> {
    match option {
        "awq" | "awq_marlin" | "gptq" | "gptq_marlin" => Some(marked.unwrap_or(FOUR)),
        "mxfp4" => Some(FOUR),
        "bitsandbytes" => Some(BLOCKS_OF_64),
        "fp8" | "fbgemm_fp8" | "ptpc_fp8" => Some(8.0),
        "compressed-tensors" => marked,
        _ => None,
    }
}

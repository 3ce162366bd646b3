//! Names in legacy files as options of `vllm serve`, and which of them hold secrets.

use crate::desired::scripts::vllm_flags;

use super::super::json::{self, Node};

/// Names of vLLM's configuration classes, and of people, that are no option of that name.
const ALIASES: &[(&str, &str)] = &[
    ("model-id", "model"),
    ("model-name", "model"),
    ("model-name-or-path", "model"),
    ("model-tag", "model"),
    ("served-name", "served-model-name"),
    ("served-model-names", "served-model-name"),
    ("max-model-length", "max-model-len"),
    ("gpu-memory-util", "gpu-memory-utilization"),
    ("tp", "tensor-parallel-size"),
    ("tp-size", "tensor-parallel-size"),
    ("pp", "pipeline-parallel-size"),
    ("pp-size", "pipeline-parallel-size"),
    ("api-port", "port"),
    ("server-port", "port"),
    // CacheConfig, SchedulerConfig, MultiModalConfig.
    ("cache-dtype", "kv-cache-dtype"),
    ("policy", "scheduling-policy"),
    ("limit-per-prompt", "limit-mm-per-prompt"),
];

/// Options whose value must not stand in a manifest.
const SECRET: &[&str] = &["api-key", "hf-token", "ssl-keyfile-password"];

/// What is in the name of a key that holds a secret.
const SECRET_PARTS: &[&str] = &["password", "passwd", "secret", "api-key", "apikey", "private-key"];

/// `maxModelLen`, `max_model_len` and `--max-model-len` in kebab case.
pub fn kebab(key: &str) -> String {
    let chars: Vec<char> = key.trim().trim_start_matches('-').chars().collect();
    let mut name = String::new();
    for (n, c) in chars.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|b| chars.get(b));
        let next_is_small = chars.get(n + 1).is_some_and(char::is_ascii_lowercase);
        // A word begins at a capital behind a small letter, and at the last of several capitals: KVCache is kv-cache.
        let begins = c.is_ascii_uppercase()
            && before.is_some_and(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || b.is_ascii_uppercase() && next_is_small
            });
        if (begins || !c.is_alphanumeric()) && !name.ends_with('-') {
            name.push('-');
        }
        if c.is_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        }
    }
    let name = name.trim_matches('-');
    // vLLMEngineConfig
    name.replacen("v-llm", "vllm", usize::from(name.starts_with("v-llm")))
}

/// The option that a key means: vLLM's options are the kebab case of its configuration's fields.
pub fn option(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    let name = kebab(last);
    let name = name.strip_prefix("vllm-").unwrap_or(&name);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    alias.map_or(name, |(_, option)| option).to_owned()
}

/// Whether an option holds a secret. vLLM takes underscores for dashes, and the beginning of a name for the name.
pub fn is_secret(option: &str) -> bool {
    let name = kebab(option);
    if vllm_flags::form(&name).is_some() {
        return SECRET.contains(&name.as_str());
    }
    let cut_short = |secret: &&str| name.len() > 3 && secret.starts_with(name.as_str());
    SECRET.iter().any(cut_short) || SECRET_PARTS.iter().any(|part| name.contains(part)) || is_token(&name)
}

/// A token that lets in, and no number of tokens.
fn is_token(name: &str) -> bool {
    name.split('-').any(|word| word == "token")
}

/// Whether a value is a secret, or holds one under one of its keys.
pub fn holds_secret(key: &str, node: &Node) -> bool {
    match node {
        Node::Null => false,
        Node::Object(object) => {
            let inner = |(key, value): &(String, Node)| holds_secret(key, value);
            is_secret(key) && !object.entries.is_empty() || object.entries.iter().any(inner)
        }
        Node::Array(items) => items.iter().any(|item| holds_secret(key, item)),
        Node::String(text) if text.trim_start().starts_with(['{', '[']) => {
            is_secret(key) || json::parse(text.as_bytes()).is_ok_and(|inner| holds_secret(key, &inner))
        }
        Node::String(text) => !text.is_empty() && is_secret(key),
        Node::Number(_) | Node::Bool(_) => is_secret(key) && !is_token(&kebab(key)),
    }
}

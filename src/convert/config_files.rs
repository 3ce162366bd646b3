//! The legacy files as application scripts expect them beside themselves.

use super::json::At;
use super::ledger::Ledger;
use super::report::Severity;
use super::{Input, Options, Role, scripts, vllm};

/// The legacy files as application scripts expect them beside themselves, without secrets.
pub fn config_files(
    inputs: &[Input],
    files: &[String],
    roots: &[At],
    roles: &[Role],
    options: &Options,
    ledger: &mut Ledger,
) -> Vec<(String, String)> {
    if options.applications.is_none() {
        return Vec::new();
    }
    let names = [
        (Role::Hypervisor, "phoenix_hypervisor_config.json"),
        (Role::Lxc, "phoenix_lxc_configs.json"),
        (Role::Vm, "phoenix_vm_configs.json"),
    ];
    let mut out = Vec::new();
    for (role, name) in names {
        let mut of_role = roots
            .iter()
            .zip(roles)
            .filter(|(_, r)| **r == role)
            .map(|(root, _)| root);
        let Some(root) = of_role.next() else { continue };
        if let Some(second) = of_role.next() {
            let message = format!("application scripts read one {name}; they get the first of the given files");
            ledger.find(Severity::Warning, second, message, "merge the files");
        }
        let mut json = root.node.to_json();
        let text = if blank_secrets(&mut json, "") {
            let message = format!("{name} holds secrets; the copy that application scripts get has them blank");
            ledger.find(
                Severity::Warning,
                root,
                message,
                "give scripts their secrets through Secrets",
            );
            serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
        } else {
            let file = files.get(root.file);
            let given = inputs.iter().find(|i| Some(&i.file) == file);
            let bytes = given.map(|i| i.bytes.as_slice()).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim_start_matches('\u{feff}').to_owned()
        };
        match text.len() {
            1..=scripts::LARGEST => out.push((name.to_owned(), text)),
            _ => {
                let message = format!("{name} is too large for a ConfigMap; application scripts do not get it");
                ledger.find(
                    Severity::Warning,
                    root,
                    message,
                    "split the fleet, or rewrite the scripts",
                );
            }
        }
    }
    out
}

/// Blanks values of keys that hold secrets; true if there were any. Paths of files that hold secrets are none.
fn blank_secrets(value: &mut serde_json::Value, key: &str) -> bool {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            // A variable may be written as {"name": …, "value": …}.
            let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
            let name = Some(name.to_owned()).filter(|name| vllm::is_secret(name));
            map.iter_mut().fold(false, |any, (key, value)| {
                let key = name.as_ref().filter(|_| key == "value").unwrap_or(key);
                blank_secrets(value, key) | any
            })
        }
        Value::Array(items) => {
            let within = items
                .iter_mut()
                .fold(false, |any, value| blank_secrets(value, key) | any);
            blank_arguments(items.iter_mut().filter_map(as_text)) | within
        }
        Value::String(text) => {
            let key = key.to_ascii_lowercase();
            let named = [
                "password",
                "passwd",
                "secret",
                "token",
                "api_key",
                "apikey",
                "private_key",
            ];
            let secret = named.iter().any(|n| key.contains(n)) && !text.is_empty();
            let secret = secret && text != "NOT_SET" && !text.starts_with('/');
            if secret {
                text.clear();
            }
            secret || blank_inside(text, &key)
        }
        _ => false,
    }
}

fn as_text(value: &mut serde_json::Value) -> Option<&mut String> {
    match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    }
}

/// Blanks the values of options and variables that hold secrets, as `--api-key X` and `HF_TOKEN=X`; true if there were any.
/// Paths, and what a shell fills in, are none.
fn blank_arguments<'t>(words: impl Iterator<Item = &'t mut String>) -> bool {
    let tells = |value: &str| !value.is_empty() && !value.starts_with(['/', '$']);
    let mut any = false;
    let mut secret = false;
    for word in words {
        let named = word
            .split_once('=')
            .filter(|(name, value)| vllm::is_secret(name) && tells(value));
        if let Some((name, _)) = named {
            *word = format!("{name}=");
            any = true;
        } else if word.starts_with('-') {
            secret = !word.contains('=') && vllm::is_secret(word);
        } else if secret && tells(word) {
            word.clear();
            any = true;
        }
    }
    any
}

/// Blanks secrets in a text that is JSON or a command line itself; true if there were any.
fn blank_inside(text: &mut String, key: &str) -> bool {
    if text.trim_start().starts_with(['{', '[']) {
        let Ok(mut value) = serde_json::from_str(text) else {
            return false;
        };
        let any = blank_secrets(&mut value, key);
        if any {
            *text = value.to_string();
        }
        return any;
    }
    if !text.contains(['-', '=']) {
        return false;
    }
    let mut words = shlex::split(text).unwrap_or_default();
    let any = blank_arguments(words.iter_mut());
    if let (true, Ok(blanked)) = (any, shlex::try_join(words.iter().map(String::as_str))) {
        *text = blanked;
    }
    any
}

//! Names of objects and list entries, made from what people wrote.

use std::collections::BTreeSet;

/// Longest object name that is made: short enough for labels and file names.
const MAX_NAME: usize = 63;

/// A Kubernetes object name (RFC 1123 subdomain): lower-case, everything else than letters, digits and dots is `-`.
/// None if nothing is left.
pub fn object_name(text: &str) -> Option<String> {
    let mapped: String = (text.trim().chars())
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || c == '.' => c,
            _ => '-',
        })
        .take(MAX_NAME)
        .collect();
    let labels: Vec<_> = mapped
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|l| !l.is_empty())
        .collect();
    (!labels.is_empty()).then(|| labels.join("."))
}

/// The name of a list entry: lower-case letters, digits, `-` and, where it stands already, `_`.
pub fn entry_name(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.trim().chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            c if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(MAX_NAME);
    let name = name.trim_matches(|c| c == '-' || c == '_');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The name of a feature: an entry name in kebab case (`base_setup` is `base-setup`).
pub fn feature_name(text: &str) -> Option<String> {
    entry_name(&text.replace('_', "-"))
}

/// A name that is not among `used`, by appending `-suffix`, then `-suffix-2` and so on; it is then used.
pub fn unique(used: &mut BTreeSet<String>, name: String, suffix: &str) -> String {
    if used.insert(name.clone()) {
        return name;
    }
    let mut n = 1;
    loop {
        let tail = if n == 1 {
            format!("-{suffix}")
        } else {
            format!("-{suffix}-{n}")
        };
        let keep: String = name.chars().take(MAX_NAME.saturating_sub(tail.len())).collect();
        let candidate = format!("{}{tail}", keep.trim_end_matches(['-', '.', '_']));
        if used.insert(candidate.clone()) {
            return candidate;
        }
        n += 1;
    }
}

/// The host name that Phoenix gives by itself to an object of this name.
pub fn default_hostname(object: &str) -> String {
    object.replace('.', "-")
}

//! The regular expressions of schemas and names, each compiled once: an object is held against dozens of them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;

/// By pattern; `None` for one that cannot be compiled. They come from the CRDs, so there is an end of them.
static COMPILED: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);

/// Whether a text matches; nothing matches a pattern that cannot be compiled.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    compiled(pattern).is_some_and(|regex| regex.is_match(text))
}

fn compiled(pattern: &str) -> Option<Regex> {
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = all.get(pattern) {
        return regex.clone();
    }
    let regex = Regex::new(pattern).ok();
    all.insert(pattern.to_owned(), regex.clone());
    regex
}

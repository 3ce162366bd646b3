//! Reading scalars that Perl wrote: numbers arrive as text, booleans as 0 and 1, either as `null` (facts A.2).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// The text of a scalar; lists and maps have none.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(if *on { "1" } else { "0" }.to_owned()),
        _ => None,
    }
}

/// A number or its text; `null` and empty text are 0.
pub(super) fn number<'de, D: Deserializer<'de>, T: FromNumber>(deserializer: D) -> Result<T, D::Error> {
    opt_number(deserializer).map(Option::unwrap_or_default)
}

/// A number or its text; `null` and empty text are nothing.
pub(super) fn opt_number<'de, D: Deserializer<'de>, T: FromNumber>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match scalar(&value).as_deref().map(str::trim) {
        None if value.is_null() => Ok(None),
        Some("") => Ok(None),
        Some(text) => T::from_text(text)
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no number"))),
        None => Err(D::Error::custom("expected a number")),
    }
}

/// 0, 1, their texts, `true`, `false`; absent and `null` are false.
pub(super) fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match scalar(&value).as_deref() {
        None | Some("" | "0") => Ok(false),
        Some(text) => {
            crate::pve::property::parse_bool(text).ok_or_else(|| D::Error::custom(format!("{text:?} is no boolean")))
        }
    }
}

/// Any scalar as text; `null` is nothing.
pub(super) fn opt_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(scalar(&Value::deserialize(deserializer)?))
}

/// Any scalar as text; `null` is empty.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    opt_text(deserializer).map(Option::unwrap_or_default)
}

/// A list written as text, divided by `separators`; empty parts are left out.
fn parts(text: &str, separators: &[char]) -> Vec<String> {
    text.split(separators)
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Proxmox's lists: comma, semicolon, blanks.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(parts(&text(deserializer)?, &[',', ';', ' ', '\n', '\t']))
}

/// A map of scalars as texts; lists and maps in it are left out.
pub(super) fn text_map(value: serde_json::Map<String, Value>) -> BTreeMap<String, String> {
    value.into_iter().filter_map(|(k, v)| Some((k, scalar(&v)?))).collect()
}

/// Numbers that [`number`] reads.
pub(super) trait FromNumber: Default + Sized {
    fn from_text(text: &str) -> Option<Self>;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl FromNumber for $t {
            fn from_text(text: &str) -> Option<Self> {
                // Byte counts may come as `1.5e9` once they have been through Perl's arithmetic.
                text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|f| f.is_finite()).map(|f| f as $t))
            }
        }
    )*};
}
integers!(u8, u32, u64, i64);

impl FromNumber for f64 {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|f: &f64| f.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Row {
        #[serde(deserialize_with = "number")]
        vmid: u32,
        #[serde(default, deserialize_with = "opt_number")]
        mem: Option<u64>,
        #[serde(default, deserialize_with = "boolean")]
        template: bool,
        #[serde(default, deserialize_with = "opt_text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "list")]
        tags: Vec<String>,
    }

    #[test]
    fn scalars_are_read_in_every_type() {
        let strict = json!({"vmid": 100, "mem": 1500000000u64, "template": 1, "name": "7", "tags": "a;b"});
        let loose = json!({"vmid": "100", "mem": "1.5e9", "template": "1", "name": 7, "tags": "a,b "});
        let read = |v: Value| serde_json::from_value::<Row>(v).unwrap();
        assert_eq!(read(strict), read(loose));
        let bare = read(json!({"vmid": "5", "mem": null, "template": null, "name": null}));
        assert_eq!(
            bare,
            Row {
                vmid: 5,
                mem: None,
                template: false,
                name: None,
                tags: vec![]
            }
        );
        assert!(serde_json::from_value::<Row>(json!({"vmid": "abc"})).is_err());
        assert!(serde_json::from_value::<Row>(json!({"vmid": [1]})).is_err());
    }
}

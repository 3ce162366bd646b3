//! The API description: which methods exist, who may call them, which parameters they take.
//!
//! `methods.json` is made by `compact.py` from Proxmox's own API description (9.1).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

pub mod firewall_formats;
pub mod formats;
pub mod property_formats;
pub mod validate;

/// Description of one parameter or of one key of a property string.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Property {
    /// JSON type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Name of a format, or the keys of a property string.
    pub format: Option<Format>,
    /// Allowed values.
    #[serde(rename = "enum")]
    pub values: Option<Vec<Value>>,
    /// Smallest number.
    pub minimum: Option<f64>,
    /// Largest number.
    pub maximum: Option<f64>,
    /// Shortest text.
    #[serde(rename = "minLength")]
    pub min_length: Option<Number>,
    /// Longest text.
    #[serde(rename = "maxLength")]
    pub max_length: Option<Number>,
    /// Regular expression for the whole text.
    pub pattern: Option<String>,
    /// May be left out.
    pub optional: Option<Value>,
    /// Other parameter that must be there too.
    pub requires: Option<String>,
    /// The key that a part of a property string without `=` belongs to.
    pub default_key: Option<Value>,
    /// Other name for a key of a property string.
    pub alias: Option<String>,
    /// Key that takes the name under which an aliased key was given.
    #[serde(rename = "keyAlias")]
    pub key_alias: Option<String>,
    /// Description of list members.
    pub items: Option<Box<Property>>,
}

/// A format: the name of a check, or the keys of a property string.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Format {
    /// Name of a check.
    Named(String),
    /// Keys of a property string.
    Keys(BTreeMap<String, Property>),
}

/// A number that may be written as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// A number.
    Plain(u64),
    /// Text.
    Text(String),
}

impl Number {
    /// The value.
    pub fn get(&self) -> u64 {
        match self {
            Self::Plain(value) => *value,
            Self::Text(text) => text.parse().unwrap_or_default(),
        }
    }
}

impl Property {
    /// Whether it may be left out.
    pub fn is_optional(&self) -> bool {
        truthy(self.optional.as_ref())
    }

    /// Whether it is the default key of its property string.
    pub fn is_default_key(&self) -> bool {
        truthy(self.default_key.as_ref())
    }
}

fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => text != "0" && !text.is_empty(),
        Some(_) => true,
    }
}

/// Description of one method of one path.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Method {
    /// Who may call it; only `root@pam` when absent.
    pub permissions: Option<Permissions>,
    /// 0 where tokens are refused.
    pub allowtoken: Option<u8>,
    /// Set when another daemon or node does the work.
    pub proxy: Option<u8>,
    /// Key of the names in the answer, when it lists the paths below.
    pub index: Option<String>,
    /// Parameters; absent where they are not known here.
    pub properties: Option<BTreeMap<String, Property>>,
    /// Set when unknown parameters are let through.
    pub additional: Option<u8>,
}

/// Who may call a method.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// `all` for any authenticated caller, `world` for anybody.
    pub user: Option<String>,
    /// An expression of privilege checks.
    pub check: Option<Value>,
}

type Methods = BTreeMap<String, BTreeMap<String, Method>>;

static METHODS: LazyLock<Methods> = LazyLock::new(|| {
    // A broken file would fail the first test that touches the API.
    serde_json::from_str(include_str!("methods.json")).unwrap_or_default()
});

/// A path that matched, with what stood in its placeholders.
#[derive(Debug, Clone)]
pub struct Found {
    /// The path with placeholders.
    pub template: &'static str,
    /// Values of the placeholders.
    pub values: BTreeMap<String, String>,
}

/// Placeholders that take the rest of the path, slashes included.
const REST: &[&str] = &["{volume}", "{cidr}"];

/// A path of the description, by its parts.
struct Template {
    text: &'static String,
    parts: Vec<&'static str>,
    /// How many parts are no placeholders.
    literals: usize,
}

/// The paths by their first part, which is never a placeholder, and the number of parts that they fit: those that take
/// the rest of a path under 0.
static TEMPLATES: LazyLock<HashMap<(&'static str, usize), Vec<Template>>> = LazyLock::new(|| {
    let mut templates: HashMap<_, Vec<Template>> = HashMap::new();
    for text in METHODS.keys().chain(std::iter::once(&*ROOT)) {
        let parts = parts_of(text);
        let first = parts.first().copied().unwrap_or_default();
        let takes_rest = parts.last().is_some_and(|last| REST.contains(last));
        let number = if takes_rest { 0 } else { parts.len() };
        let literals = parts.iter().filter(|part| !part.starts_with('{')).count();
        let template = Template { text, parts, literals };
        templates.entry((first, number)).or_default().push(template);
    }
    templates
});

fn parts_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// Whether a path that may be longer has the literal parts of a template.
fn fits(template: &[&str], parts: &[&str]) -> bool {
    let mut pairs = template.iter().zip(parts);
    parts.len() >= template.len() && pairs.all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
}

fn values(template: &[&str], parts: &[&str]) -> BTreeMap<String, String> {
    let named = template.iter().enumerate().filter_map(|(at, wanted)| {
        let name = wanted.strip_prefix('{')?.strip_suffix('}')?;
        let value = match REST.contains(wanted) {
            true => parts[at..].join("/"),
            false => parts[at].to_owned(),
        };
        Some((name.to_owned(), value))
    });
    named.collect()
}

/// Finds the path: literal parts win over placeholders.
pub fn find(path: &str) -> Option<Found> {
    let parts = parts_of(path);
    let first = parts.first().copied().unwrap_or_default();
    let sorts = [parts.len(), 0].map(|number| TEMPLATES.get(&(first, number)));
    let fitting = sorts
        .into_iter()
        .take(1 + usize::from(!parts.is_empty()))
        .flatten()
        .flatten();
    let fitting = fitting.filter(|t| fits(&t.parts, &parts));
    let best = fitting.max_by_key(|t| (t.literals, std::cmp::Reverse(t.text.len())))?;
    Some(Found {
        template: best.text,
        values: values(&best.parts, &parts),
    })
}

static ROOT: LazyLock<String> = LazyLock::new(|| "/".to_owned());
static ROOT_INDEX: LazyLock<Method> = LazyLock::new(|| Method {
    permissions: Some(Permissions {
        user: Some("all".to_owned()),
        check: None,
    }),
    index: Some("subdir".to_owned()),
    properties: Some(BTreeMap::new()),
    ..Method::default()
});

/// Description of a method.
pub fn method(template: &str, verb: &str) -> Option<&'static Method> {
    if template == "/" && verb == "GET" {
        return Some(&ROOT_INDEX);
    }
    METHODS.get(template)?.get(verb)
}

/// Options that are numbers in answers, of containers and of machines.
static INTEGERS: LazyLock<[BTreeSet<&str>; 2]> = LazyLock::new(|| ["lxc", "qemu"].map(integer_options));

fn integer_options(kind: &str) -> BTreeSet<&'static str> {
    let methods = METHODS.get(&format!("/nodes/{{node}}/{kind}/{{vmid}}/config"));
    let properties = methods.and_then(|m| m.get("PUT")?.properties.as_ref());
    let number = |property: &Property| matches!(property.kind.as_deref(), Some("integer" | "boolean"));
    let numbers = properties
        .into_iter()
        .flatten()
        .filter(|(_, property)| number(property));
    numbers.map(|(name, _)| name.as_str()).collect()
}

/// Whether an option of `PUT /nodes/{node}/lxc/{vmid}/config` or its machine counterpart is a number in answers.
pub fn is_integer_option(kind: &str, key: &str) -> bool {
    INTEGERS[usize::from(kind == "qemu")].contains(key)
}

/// Names directly below a path, for index answers.
pub fn children(template: &str) -> Vec<String> {
    let prefix = format!("{}/", template.trim_end_matches('/'));
    let mut names: Vec<String> = METHODS
        .keys()
        .filter_map(|path| path.strip_prefix(&prefix)?.split('/').next())
        .filter(|name| !name.starts_with('{'))
        .map(str::to_owned)
        .collect();
    names.dedup();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found() {
        let found = find("/nodes/pve1/lxc/100/status/current").unwrap();
        assert_eq!(found.template, "/nodes/{node}/lxc/{vmid}/status/current");
        assert_eq!(found.values["vmid"], "100");
        let found = find("/nodes//pve1/storage/zfs/content/zfs:basevol-1-disk-0/subvol-2-disk-0").unwrap();
        assert_eq!(found.values["volume"], "zfs:basevol-1-disk-0/subvol-2-disk-0");
        assert!(find("/nope").is_none());
        assert!(method("/version", "GET").is_some() && method("/version", "PUT").is_none());
        assert!(is_integer_option("lxc", "memory") && !is_integer_option("lxc", "cpulimit"));
    }

    #[test]
    fn every_pattern_compiles() {
        fn walk(properties: &BTreeMap<String, Property>) -> usize {
            properties
                .values()
                .map(|property| {
                    if let Some(pattern) = &property.pattern {
                        assert!(validate::regex(pattern).is_some(), "{pattern}");
                    }
                    1 + match &property.format {
                        Some(Format::Keys(keys)) => walk(keys),
                        _ => 0,
                    }
                })
                .sum()
        }
        let count: usize = METHODS
            .values()
            .flat_map(|m| m.values())
            .flat_map(|m| m.properties.as_ref())
            .map(walk)
            .sum();
        assert!(count > 1000, "{count}");
    }
}

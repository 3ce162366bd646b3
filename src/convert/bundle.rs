//! Files in ConfigMaps.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::KeyRef;

/// Bytes of one ConfigMap, as JSON. `kubectl apply` keeps a copy of the object in an annotation of at most 256 KiB.
const CHUNK: usize = 180_000;

/// A ConfigMap that is being filled.
#[derive(Debug, Default)]
pub struct ConfigMap {
    /// Name of the object.
    pub name: String,
    /// Files by key.
    pub data: BTreeMap<String, String>,
    size: usize,
}

/// Files of one sort, spread over ConfigMaps.
#[derive(Debug)]
pub struct Bundle {
    base: &'static str,
    maps: Vec<ConfigMap>,
    /// Where each file is.
    placed: BTreeMap<String, KeyRef>,
}

impl Bundle {
    /// An empty bundle whose ConfigMaps are called `base`, `base-2`, ….
    pub fn new(base: &'static str) -> Self {
        Bundle {
            base,
            maps: Vec::new(),
            placed: BTreeMap::new(),
        }
    }

    /// The ConfigMaps.
    pub fn maps(&self) -> &[ConfigMap] {
        &self.maps
    }

    /// Bytes of all files, as JSON.
    pub fn size(&self) -> usize {
        self.maps.iter().map(|map| map.size).sum()
    }

    /// Puts a file in, once.
    pub fn put(&mut self, path: &str, text: &str) -> KeyRef {
        if let Some(place) = self.placed.get(path) {
            return place.clone();
        }
        let size = serde_json::to_string(text).map_or(text.len(), |json| json.len());
        if self.maps.last().is_none_or(|map| map.size + size > CHUNK) {
            let name = match self.maps.len() {
                0 => self.base.to_owned(),
                n => format!("{}-{}", self.base, n + 1),
            };
            self.maps.push(ConfigMap {
                name,
                ..ConfigMap::default()
            });
        }
        let taken: BTreeSet<&String> = self.placed.values().map(|k| &k.key).collect();
        let file = config_key(path.rsplit('/').next().unwrap_or(path));
        let key = if taken.contains(&file) { config_key(path) } else { file };
        let mut place = KeyRef {
            name: String::new(),
            key: key.clone(),
        };
        let mut n = 2;
        while taken.contains(&place.key) {
            place.key = format!("{n}.{key}");
            n += 1;
        }
        if let Some(map) = self.maps.last_mut() {
            map.size += size;
            map.data.insert(place.key.clone(), text.to_owned());
            place.name.clone_from(&map.name);
        }
        self.placed.insert(path.to_owned(), place.clone());
        place
    }
}

/// A key of a ConfigMap: letters, digits, `-`, `_` and `.`.
fn config_key(path: &str) -> String {
    let key: String = path
        .trim_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '.'
            }
        })
        .take(200)
        .collect();
    match key.trim_matches('.') {
        "" => "file".to_owned(),
        _ => key.trim_start_matches("..").to_owned(),
    }
}

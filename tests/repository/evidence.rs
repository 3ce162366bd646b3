//! The list of promises (`tests/evidence/promises.json`) names tests and protections that there are, and every protection
//! belongs to one promise.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn promises() -> Vec<Value> {
    let text = fs::read_to_string(root().join("tests/evidence/promises.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn words<'a>(promise: &'a Value, field: &str) -> Vec<&'a str> {
    let list = promise[field].as_array().unwrap();
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

/// The sources below a folder: path and text.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// Whether a module or a test of this name is in the sources of a program.
fn exists(sources: &[(PathBuf, String)], name: &str) -> bool {
    // Tests of `operator moments` are lines of a macro.
    let test = Regex::new(&format!(r#"(?m)\b(fn|mod) {name}\b|^    {name}: ""#)).unwrap();
    sources
        .iter()
        .any(|(path, text)| path.file_stem().is_some_and(|stem| stem == name) || test.is_match(text))
}

#[test]
fn every_named_test_exists() {
    let mut programs: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for promise in promises() {
        let tests = words(&promise, "tests");
        assert!(!tests.is_empty(), "{} has no tests", promise["name"]);
        for test in tests {
            let (program, path) = test.split_once(' ').unwrap();
            let folder = match program {
                "lib" => root().join("src"),
                _ => root().join("tests").join(program),
            };
            let sources = programs.entry(program.into()).or_insert_with(|| {
                let mut found = Vec::new();
                sources(&folder, &mut found);
                found
            });
            for name in path.split("::").filter(|name| *name != "tests") {
                assert!(
                    exists(sources, name),
                    "{}: no test {test}: {name} is not there",
                    promise["name"]
                );
            }
        }
    }
}

/// The protections by file, as `tests/protections/rows.py` lists them.
fn rows() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("tests/protections/rows.py")).unwrap();
    let line = Regex::new(r#"^    "(src/[^"]+)": \[|^        \("([^"]+)", "#).unwrap();
    let (mut file, mut rows) = (String::new(), Vec::new());
    for found in text.lines().filter_map(|text| line.captures(text)) {
        match (found.get(1), found.get(2)) {
            (Some(name), _) => file = name.as_str().into(),
            (_, Some(row)) => rows.push((file.clone(), row.as_str().into())),
            _ => {}
        }
    }
    assert!(rows.len() > 100, "{} rows", rows.len());
    rows
}

/// A promise names a file for all rows of it that no promise names by themselves.
#[test]
fn every_protection_belongs_to_one_promise() {
    let (promises, rows) = (promises(), rows());
    let named: Vec<&str> = promises.iter().flat_map(|p| words(p, "protections")).collect();
    for name in &named {
        let there = rows.iter().any(|(file, row)| file == name || row == name);
        assert!(there, "no protection and no file with protections: {name}");
    }
    for (file, row) in &rows {
        let times = |name: &String| named.iter().filter(|n| **n == name.as_str()).count();
        let by_itself = times(row);
        assert!(
            by_itself == 1 || (by_itself == 0 && times(file) == 1),
            "{row} of {file} is named {by_itself} times and its file {} times",
            times(file)
        );
    }
}

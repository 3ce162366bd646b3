//! The documentation names every field and every shipped feature, and its links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use phoenix::reason::Reason;

use clap::CommandFactory;
use kube::core::crd::CustomResourceExt;
use phoenix::crd::{PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The part of a page below a heading of second order.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &page[start + 1..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

#[test]
fn every_field_of_a_spec_is_in_the_page_of_kinds() {
    let page = read("docs/kinds.md");
    let kinds = [
        PhoenixLXC::crd(),
        PhoenixTemplate::crd(),
        PhoenixHypervisor::crd(),
        PhoenixFeature::crd(),
        PhoenixVM::crd(),
    ];
    for crd in kinds {
        let kind = &crd.spec.names.kind;
        let text = section(&page, kind);
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let Value::Object(fields) = spec else {
            panic!("{kind}: no spec")
        };
        assert!(!fields.is_empty(), "{kind}: no fields");
        for field in fields.keys() {
            assert!(
                text.contains(&format!("`{field}`")),
                "docs/kinds.md: {kind} lacks `{field}`"
            );
        }
    }
}

/// What a tenant may be given is what the owner of a hypervisor has to know before giving it.
#[test]
fn every_entry_of_allow_is_in_the_page_of_security() {
    let page = read("docs/security.md");
    let text = section(&page, "What a tenant can do");
    let schema = serde_json::to_value(PhoenixHypervisor::crd()).unwrap();
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let entries = spec["allow"]["properties"].as_object().unwrap();
    assert!(entries.len() > 10, "{entries:?}");
    for entry in entries.keys() {
        let row = format!("\n| `{entry}` |");
        assert!(
            text.contains(&row),
            "docs/security.md: the table of allow lacks `{entry}`"
        );
    }
    assert!(read("README.md").contains("(docs/security.md)"));
}

#[test]
fn every_shipped_feature_and_parameter_is_in_the_page_of_features() {
    let page = read("docs/features.md");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("config/features")).unwrap() {
        let file = entry.unwrap().path();
        let feature: PhoenixFeature = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let name = feature.metadata.name.unwrap();
        let text = section(&page, &name);
        for parameter in feature.spec.parameters.iter().flatten() {
            let row = text
                .lines()
                .find(|l| l.starts_with(&format!("| `{}` |", parameter.name)));
            let row = row.unwrap_or_else(|| panic!("docs/features.md: {name} lacks `{}`", parameter.name));
            // A default that is a plain version, number or path stands in the table; URLs are told in words.
            if let Some(default) = parameter.default.as_deref().filter(|d| !d.starts_with("https://")) {
                assert!(
                    row.contains(&format!("`{default}`")),
                    "docs/features.md: {name}: {row} lacks {default}"
                );
            }
        }
        seen += 1;
    }
    assert!(seen >= 7, "only {seen} features");
}

/// The pages of a folder of the repository and of those below, as paths from the repository's root.
fn pages_below(folder: &str) -> Vec<String> {
    let files = files_below(&[folder]);
    let mut pages: Vec<String> = files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_string())
        .collect();
    pages.sort();
    pages
}

/// What is not in the table of contents is not in the website.
#[test]
fn the_table_of_contents_has_every_page_once() {
    let summary = read("docs/SUMMARY.md");
    let linked = summary
        .split("](")
        .skip(1)
        .map(|rest| format!("docs/{}", rest.split(')').next().unwrap()));
    let mut linked: Vec<String> = linked.chain(["docs/SUMMARY.md".to_string()]).collect();
    linked.sort();
    assert_eq!(linked, pages_below("docs"));
}

#[test]
fn the_reference_is_up_to_date() {
    for crd in phoenix::crd::all().unwrap() {
        let page = format!("docs/reference/{}.md", crd.spec.names.kind.to_lowercase());
        let wanted = phoenix::crd::reference(&crd).unwrap();
        assert!(read(&page) == wanted, "{page} is out of date: run `make crds`");
    }
    assert_eq!(pages_below("docs/reference").len(), phoenix::crd::all().unwrap().len());
}

#[test]
fn the_pictures_are_up_to_date() {
    let script = root().join("docs/images/draw.py");
    let output = Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Who looks for a symptom is led to reasons and conditions that there are.
#[test]
fn troubleshooting_names_reasons_that_are_explained() {
    let reasons = read("docs/reasons.md");
    let mut seen = 0;
    for page in [
        "docs/troubleshooting.md",
        "docs/recovery.md",
        "docs/upgrade.md",
        "docs/how-to.md",
        "docs/faq.md",
    ] {
        let text = read(page);
        for word in text.split('`').skip(1).step_by(2) {
            let capitals = word.chars().filter(char::is_ascii_uppercase).count();
            let is_name = word.chars().all(|c| c.is_ascii_alphabetic()) && word.starts_with(|c: char| c.is_uppercase());
            if !is_name || capitals < 2 || word.starts_with("Phoenix") || capitals == word.len() {
                continue;
            }
            seen += 1;
            assert!(
                reasons.contains(&format!("`{word}`")),
                "{page}: `{word}` is not in docs/reasons.md"
            );
        }
    }
    assert!(seen > 50, "only {seen} names found");
}

/// Commands of the program in the pages are such that it takes.
#[test]
fn commands_in_pages_are_understood() {
    let mut seen = 0;
    for page in pages_below("docs") {
        let text = read(&page);
        for block in text.split("\n```sh\n").skip(1) {
            let block = block.split("\n```").next().unwrap();
            for line in block.lines().filter_map(|line| line.trim().strip_prefix("phoenix ")) {
                // Only plain ones: no quotes, variables or pipes.
                let line = line.split(" #").next().unwrap().split(['|', '>']).next().unwrap();
                if line.contains(['"', '\'', '$', '\\']) {
                    continue;
                }
                seen += 1;
                let words = ["phoenix"].into_iter().chain(line.split_whitespace());
                let parsed = phoenix::cli::Cli::command().try_get_matches_from(words);
                if let Err(error) = parsed {
                    panic!("{page}: phoenix {line}: {error}");
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} commands found");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = pages_below("docs");
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        pages.push(page.to_string());
    }
    let mut links = 0;
    for page in &pages {
        // What is code has no links.
        let text: String = read(page).split('`').step_by(2).collect();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').map_or((target, None), |(p, a)| (p, Some(a)));
            let file = match path {
                "" => root().join(page),
                path => root().join(page).parent().unwrap().join(path),
            };
            assert!(file.exists(), "{page} links to {target}, which is not there");
            if let Some(anchor) = anchor {
                let headings = fs::read_to_string(&file).unwrap();
                let found = headings.lines().filter(|l| l.starts_with('#')).any(|l| {
                    let title = l.trim_start_matches('#').trim().to_lowercase();
                    title.replace(' ', "-") == anchor
                });
                assert!(found, "{page} links to {target}: no such heading");
            }
        }
    }
    assert!(links > 10, "only {links} links found");
}

/// Reasons that objects can have and reasons that docs/reasons.md explains are the same.
#[test]
fn every_reason_is_documented() {
    let page = read("docs/reasons.md");
    let cells = page.lines().filter(|line| line.starts_with("| `"));
    let first_two = cells.flat_map(|line| line.split(" | ").take(2));
    let words: BTreeSet<&str> = first_two
        .filter_map(|cell| cell.trim_start_matches("| ").strip_prefix('`')?.strip_suffix('`'))
        .collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|r| !words.contains(r.as_str())).collect();
    assert!(missing.is_empty(), "docs/reasons.md lacks {missing:?}");
    // The first column of the last tables names conditions.
    let conditions = |word: &&str| !page.contains(&format!("| `{word}` | `"));
    let unknown: Vec<_> = words
        .iter()
        .filter(|word| Reason::named(word).is_none() && conditions(word) && !word.contains('='))
        .collect();
    assert!(
        unknown.is_empty(),
        "docs/reasons.md explains reasons that nothing has: {unknown:?}"
    );
}

/// Events say what was done: the first word of every action that a plan has is known with its past.
#[test]
fn every_action_can_be_told_as_done() {
    let told = read("src/plan/told.rs");
    let mut seen = 0;
    for path in files_below(&["src/plan"]) {
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("let action = format!(").skip(1) {
            let words = part.trim_start().trim_start_matches('"');
            let first = words.split([' ', '"']).next().unwrap();
            if first.starts_with('{') {
                continue;
            }
            seen += 1;
            let known = told.contains(&format!("(\"{first}\", \""));
            assert!(known, "{}: {first:?} is not in src/plan/told.rs", path.display());
        }
    }
    assert!(seen > 25, "only {seen} actions found");
}

/// Every file of these folders and of those below.
fn files_below(folders: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

/// Facts about Proxmox that comments and pages cite, and the files that do.
fn cited() -> BTreeSet<(String, String)> {
    let mut files = files_below(&["src", "tests", "docs", "benches"]);
    files.retain(|path| path.extension().is_some_and(|e| e == "rs" || e == "md"));
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("facts ") {
            // "facts K.3.1, K.2.4": each of them.
            for item in text[at + 6..].split(", ") {
                let number: String = item
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
                    .collect();
                let number = number.trim_end_matches('.');
                let mut parts = number.split('.');
                let part = parts.next().unwrap_or_default();
                let is_part = part.len() == 1 && part.chars().all(|c| c.is_ascii_uppercase());
                if !is_part || parts.any(|n| n.parse::<u32>().is_err()) {
                    break;
                }
                found.insert((number.to_string(), file.display().to_string()));
            }
        }
    }
    found
}

#[test]
fn every_fact_that_is_cited_is_in_the_page_of_facts() {
    let page = read("docs/proxmox.md");
    let cited = cited();
    assert!(cited.len() > 100, "{cited:?}");
    for (number, file) in cited {
        let mut parts = number.splitn(3, '.');
        let (part, section, item) = (parts.next().unwrap(), parts.next(), parts.next());
        let text = page.split("\n## ").find(|t| t.starts_with(&format!("{part}. ")));
        let text = text.unwrap_or_else(|| panic!("{file}: there is no part {part}"));
        let Some(section) = section else { continue };
        let text = text
            .split("\n### ")
            .find(|t| t.starts_with(&format!("{part}.{section} ")))
            .unwrap_or_else(|| panic!("{file}: there is no section {number}"));
        if let Some(item) = item {
            assert!(
                text.contains(&format!("\n{item}. ")),
                "{file}: there is no fact {number}"
            );
        }
    }
}

/// Texts that are not in the repository help nobody.
#[test]
fn nothing_refers_to_a_text_that_is_not_here() {
    for (folder, word) in [("src", "design §"), ("docs", "design §"), ("docs", "shared/")] {
        let mut files = files_below(&[folder]);
        files.retain(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(word));
        assert!(files.is_empty(), "{word}: {files:?}");
    }
}

/// Who looks for a behaviour finds its room on the page, and every room of the page is there.
#[test]
fn the_page_of_the_architecture_names_every_room() {
    let page = read("docs/architecture.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let named: BTreeSet<String> = rows.map(|(room, _)| room.trim_end_matches('/').to_string()).collect();
    let there: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["lib.rs", "main.rs"].contains(&name.as_str()))
        .collect();
    assert_eq!(named, there);
}

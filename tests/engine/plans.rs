//! Ten thousand mutated manifests go through what `phoenix plan` does: they are refused with file, line, object and
//! field, or there is a plan; nothing panics, nothing is an error of Phoenix's own, and nothing is written.
//!
//! They go through what loads files ([`load_texts`]); the objects of one that is admitted are planned beside each other.

use phoenix::crd::{PhoenixFeature, PhoenixHypervisor};
use phoenix::reason::Reason;
use phoenix::standalone::manifests::{self, Admitted, Loaded, ManifestError, Text, load_texts};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use crate::engine::{ADMISSION, World};

/// Cases of each of four tests, which run side by side.
const CASES: u32 = 2_500;

/// Documents that everything begins with: the examples, and what the other tests apply.
fn seeds() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let yaml = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    // Without namespaces of their own they find the hypervisor of the world.
    let bare = |text: String| -> String {
        let lines = text.split_inclusive('\n');
        lines
            .filter(|line| !line.trim_start().starts_with("namespace:"))
            .collect()
    };
    let mut texts: Vec<String> = yaml.map(|path| bare(std::fs::read_to_string(path).unwrap())).collect();
    let own = [
        crate::engine::guest(
            "a",
            json!({"tags": ["a"], "description": "words", "boot": {"order": 1}}),
        ),
        crate::engine::vm(
            "b",
            json!({"vga": {"type": "std"}, "health": {"liveness": {"exec": {"command": ["true"]}}}}),
        ),
        crate::engine::template("c", "Template"),
        crate::engine::vm_template("d"),
    ];
    texts.extend(own.iter().map(|object| serde_json::to_string_pretty(object).unwrap()));
    texts
}

/// A change of a text.
#[derive(Clone, Debug)]
enum Change {
    /// A line goes.
    Remove(Index),
    /// A line stands twice.
    Twice(Index),
    /// What stands after the colon of a line is another.
    Value(Index, String),
    /// A byte is another, comes, or goes.
    Byte(Index, u8, u8),
    /// All of it once more as other documents, under the same names or under others.
    Documents(bool),
}

fn change() -> impl Strategy<Value = Change> {
    let odd = proptest::sample::select(vec![
        "",
        "null",
        "~",
        "-1",
        "0",
        "1",
        "99999999999999999999",
        "1e9",
        "true",
        "[]",
        "{}",
        "''",
        "\"\\0\"",
        "\"a\\r\\n\"",
        "é",
        "\u{202e}",
        "*a",
        "&a",
        "!!binary aGk=",
        "|",
        ">-",
        "[[[[[[",
        "'",
        "2001-01-01",
        "0x10",
        ".nan",
        "1Gi",
        "10.0.0.1/24",
        "dhcp",
        "PhoenixVM",
        "Running",
        "pve",
        "a b",
        "${x}",
    ]);
    prop_oneof![
        2 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Twice),
        4 => (any::<Index>(), odd).prop_map(|(at, value)| Change::Value(at, value.to_owned())),
        2 => (any::<Index>(), any::<u8>(), 0..3u8).prop_map(|(at, byte, how)| Change::Byte(at, byte, how)),
        1 => any::<bool>().prop_map(Change::Documents),
    ]
}

fn changed(text: &str, change: &Change) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return text.to_owned();
    }
    match change {
        Change::Remove(at) => drop(lines.remove(at.index(lines.len()))),
        Change::Twice(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Change::Value(at, value) => {
            let at = at.index(lines.len());
            if let Some((key, _)) = lines[at].clone().split_once(": ") {
                lines[at] = format!("{key}: {value}");
            }
        }
        Change::Byte(at, byte, how) => {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = *byte,
                1 => bytes.insert(at, *byte),
                _ => drop(bytes.remove(at)),
            }
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Change::Documents(renamed) => {
            let name = if *renamed { "\n  name: other-" } else { "\n  name: " };
            return format!("{text}\n---\n{}", text.replace("\n  name: ", name));
        }
    }
    lines.join("\n")
}

/// What became of the inputs.
#[derive(Debug, Default)]
struct Count {
    unreadable: u32,
    empty: u32,
    twice: u32,
    refused: u32,
    planned: u32,
    blocked: u32,
}

async fn inputs(part: u8) {
    let world = World::with_ssh(&[]).await;
    world.poll().await;
    let strategy = (
        proptest::sample::select(seeds()),
        proptest::collection::vec(change(), 1..5),
    );
    let seed: u64 = std::env::var("PROPTEST_RNG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let bytes: Vec<u8> = (seed * 4 + u64::from(part)).to_le_bytes().repeat(4);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let begin = std::time::Instant::now();
    let mut count = Count::default();
    let writes = |world: &World| {
        let log = world.sim().requests();
        log.iter()
            .filter(|r| r.is_write() && r.path != "/access/ticket" && !r.path.contains("/agent/"))
            .count()
    };
    for _ in 0..CASES {
        let (seed, changes) = strategy.new_tree(&mut runner).unwrap().current();
        let text = changes.iter().fold(seed, |text, change| changed(&text, change));
        let texts = vec![Text {
            name: "x.yaml".into(),
            text: text.clone(),
            named: true,
        }];
        match load_texts(&ADMISSION, texts, "ai", &|_| None) {
            Ok(loaded) => plans(&world, loaded, &mut count).await,
            Err(ManifestError::Refused(refused)) => {
                assert!(!refused.is_empty(), "{text}");
                refused.iter().for_each(|words| told(words, &text, &mut count));
            }
            Err(other) => panic!("{other}: {text}"),
        }
    }
    assert_eq!(writes(&world), 0, "a plan writes nothing");
    println!("{count:?} {:?}", begin.elapsed());
    assert!(
        count.planned > 50 && count.refused > 100 && count.unreadable > 100 && count.twice > 10,
        "{count:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn any_manifest_is_refused_in_words_or_planned() {
    inputs(0).await;
}

#[tokio::test(start_paused = true)]
async fn any_manifest_is_refused_in_words_or_planned_in_the_second_quarter() {
    inputs(1).await;
}

#[tokio::test(start_paused = true)]
async fn any_manifest_is_refused_in_words_or_planned_in_the_third_quarter() {
    inputs(2).await;
}

#[tokio::test(start_paused = true)]
async fn any_manifest_is_refused_in_words_or_planned_in_the_last_quarter() {
    inputs(3).await;
}

/// A refusal names the file, and the line with the object and its field; or the place where no YAML can be read.
fn told(words: &str, text: &str, count: &mut Count) {
    if words.starts_with("no Phoenix objects in x.yaml") {
        count.empty += 1;
        return;
    }
    let (place, words) = words.split_once(": ").unwrap_or_default();
    let line = place.strip_prefix("x.yaml").and_then(|line| line.strip_prefix(':'));
    if let Some((_, first)) = words.split_once("the object stands also at x.yaml:") {
        assert!(line.is_some() && first.parse::<u32>().is_ok(), "{place}: {words}");
        count.twice += 1;
        return;
    }
    let verdict = ["\" is invalid: ", "\" cannot be handled as a "];
    let Some((object, field)) = verdict.iter().find_map(|verdict| words.split_once(verdict)) else {
        assert!(
            place.starts_with("x.yaml") && words.len() > 10,
            "{place}: {words}: {text}"
        );
        count.unreadable += 1;
        return;
    };
    assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "{place}: {words}");
    assert!(object.contains(" \""), "no object: {words}");
    assert!(field.contains([':', '"']), "no field: {words}");
    count.refused += 1;
}

/// Plans every guest of what was loaded, beside the others of it.
async fn plans(world: &World, loaded: Loaded, count: &mut Count) {
    let mut keys = Vec::new();
    for Admitted { value, place } in loaded.objects {
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        // Reads as its type, or a later step would fail with an error of Phoenix's own.
        let typed = match kind.as_str() {
            "PhoenixLXC" | "PhoenixVM" | "PhoenixTemplate" => {
                keys.push((world.store.apply(value), place));
                continue;
            }
            "PhoenixHypervisor" => manifests::typed::<PhoenixHypervisor>(&value).map(drop),
            "PhoenixFeature" => manifests::typed::<PhoenixFeature>(&value).map(drop),
            "Secret" => manifests::secret(&value).map(drop),
            "ConfigMap" => manifests::config_map(&value).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = typed {
            panic!("{place}: {error}: {value}");
        }
    }
    for (key, place) in &keys {
        let preview = world.preview(key).await;
        match &preview.blocked {
            Some(cause) => {
                assert_ne!(cause.reason, Reason::InternalError, "{place}: {key}: {cause}");
                assert!(cause.message.len() > 10, "{place}: {key}: {cause}");
                count.blocked += 1;
            }
            None => {
                assert!(!preview.steps.is_empty(), "{place}: {key}: a new guest has a plan");
                count.planned += 1;
            }
        }
    }
    for (key, _) in keys {
        world.store.objects.remove_guest(&key);
    }
}

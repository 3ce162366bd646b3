//! Ten thousand mutated manifests go through what `phoenix plan` does: they are refused with file, line, object and
//! field, or there is a plan; nothing panics, nothing is an error of Phoenix's own, and nothing is written.
//!
//! Reading and admission judge all of them. Of those that are admitted every object is planned in one world, whose
//! plans cost most of the time.

use phoenix::admission::{Admission, read_manifests};
use phoenix::desired::GuestObject;
use phoenix::reason::Reason;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::engine::World;

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
    let mut texts: Vec<String> = yaml.map(|path| std::fs::read_to_string(path).unwrap()).collect();
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
    /// All of it once more, as another document.
    Document,
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
        1 => Just(Change::Document),
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
        Change::Document => return format!("{text}\n---\n{text}"),
    }
    lines.join("\n")
}

/// What became of the inputs.
#[derive(Debug, Default)]
struct Count {
    unreadable: u32,
    refused: u32,
    planned: u32,
    blocked: u32,
}

async fn inputs(part: u8) {
    let world = World::with_ssh(&[]).await;
    world.poll().await;
    let admission = Admission::new().unwrap();
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
        let manifests = match read_manifests(&text, "x.yaml") {
            Ok(manifests) => manifests,
            Err(error) => {
                let said = error.to_string();
                assert!(
                    said.starts_with("x.yaml") && said.len() > "x.yaml: ".len(),
                    "{said:?} of {text}"
                );
                count.unreadable += 1;
                continue;
            }
        };
        for manifest in manifests.into_iter().filter(|m| admission.concerns(&m.value)) {
            let mut value = manifest.value;
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("namespace".into(), json!("ai"));
            }
            match admission.check(&value, None) {
                Err(violations) => {
                    assert!(!violations.is_empty() && manifest.line > 0, "{value}");
                    assert!(
                        violations.iter().all(|v| v.to_string().len() > v.field.len()),
                        "{violations:?}"
                    );
                    count.refused += 1;
                }
                Ok(admitted) => plan(&world, admitted, &mut count).await,
            }
        }
    }
    assert_eq!(writes(&world), 0, "a plan writes nothing");
    println!("{count:?} {:?}", begin.elapsed());
    assert!(
        count.planned > 100 && count.refused > 100 && count.unreadable > 100,
        "{count:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_manifest_is_refused_in_words_or_planned() {
    inputs(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_manifest_is_refused_in_words_or_planned_in_the_second_quarter() {
    inputs(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_manifest_is_refused_in_words_or_planned_in_the_third_quarter() {
    inputs(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_manifest_is_refused_in_words_or_planned_in_the_last_quarter() {
    inputs(3).await;
}

async fn plan(world: &World, admitted: Value, count: &mut Count) {
    let said = admitted.to_string();
    match admitted["kind"].as_str().unwrap_or_default() {
        "PhoenixLXC" | "PhoenixVM" | "PhoenixTemplate" => {}
        // Reads as its type, or a later step would fail with an error of Phoenix's own.
        "PhoenixHypervisor" => {
            serde_json::from_value::<phoenix::crd::PhoenixHypervisor>(admitted)
                .unwrap_or_else(|e| panic!("{e}: {said}"));
            return;
        }
        "PhoenixFeature" => {
            serde_json::from_value::<phoenix::crd::PhoenixFeature>(admitted).unwrap_or_else(|e| panic!("{e}: {said}"));
            return;
        }
        _ => return,
    }
    let key = world.store.apply(admitted);
    let preview = world.preview(&key).await;
    let object: GuestObject = crate::engine::object(world, &key);
    match &preview.blocked {
        Some(cause) => {
            assert_ne!(cause.reason, Reason::InternalError, "{cause} of {said}");
            assert!(cause.message.len() > 10, "{cause} of {said}");
            count.blocked += 1;
        }
        None => {
            assert!(
                !preview.steps.is_empty(),
                "a new guest has a plan: {:?} {said}",
                object.key
            );
            count.planned += 1;
        }
    }
    world.store.objects.remove_guest(&key);
}

//! Whatever text a kind admits, its object converges or is refused with words: every leaf that holds text, with odd ones.

use phoenix::admission::Admission;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::schema::{Leaf, leaves, place};
use super::site::site;
use super::table::Group;
use super::walk::{Row, walk};
use super::{SIDE_BY_SIDE, lxc, vm};

/// What people paste, and what tools are known to trip over.
const ODD: &[&str] = &[
    "one\r\ntwo\r\n",
    "one  ",
    "one\n",
    "\n\none",
    "one\n\n\n",
    " one",
    "\tone\ttwo",
    "\u{1}\u{1b}[31mone",
    "a\u{0}b",
    "a\u{7f}b",
    "a\u{85}b",
    "caf\u{e9}",
    "cafe\u{301}",
    "\u{1f525}",
    "a\u{2028}b",
    "\u{202e}abc",
    "\u{feff}one",
    "'one'",
    "\"one\"",
    "one\\",
    "a\\nb",
    "%",
    "%0A",
    "a%0Ab",
    "a,b",
    "a=b",
    "a;b",
    "a:b",
    "#one",
    "one # two",
    "$(id)",
    "`id`",
    "${HOME}",
    "-one",
    "--one",
    "",
    " ",
    "   ",
    "0",
    "null",
    "~",
    "a/b",
    "../a",
    "/",
    "&",
    "+",
    "*",
    "[a]",
    "{a}",
    "<a>",
    "a\u{a0}",
    "\u{a0}",
    "PHOENIX_END",
    "\u{b}a\u{c}",
    "phoenix:0",
    "phoenix-hypervisor.io",
];

/// So many of the odd texts a leaf takes that holds free text.
const FREE: usize = 6;

/// Odd texts for one leaf that its schema may take: some of the list, one as long as may be, and a few of chance.
fn odd(leaf: &Leaf, from: usize, runner: &mut TestRunner) -> Vec<String> {
    let mut texts: Vec<String> = ODD
        .iter()
        .skip(from % 3)
        .step_by(3)
        .map(|text| (*text).to_owned())
        .collect();
    if let Some(most) = leaf.schema["maxLength"].as_u64() {
        texts.push("a".repeat(usize::try_from(most.min(8192)).unwrap()));
    }
    for pattern in ["\\PC{1,12}", "[ -~]{1,24}", "(?s).{1,8}"] {
        let chance = proptest::string::string_regex(pattern).unwrap();
        texts.extend((0..1).map(|_| chance.new_tree(runner).unwrap().current()));
    }
    texts
}

/// Walks some of the texts that are admitted for every leaf.
async fn texts(kind: &'static str, base: Value, groups: Vec<Group>, part: usize, of: usize) {
    let admission = Admission::new().unwrap();
    let seed: u64 = std::env::var("PROPTEST_RNG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let leaves: Vec<Leaf> = leaves(kind).into_iter().filter(Leaf::is_text).collect();
    let mut base = base;
    base["hypervisorRef"] = json!({"name": "pve"});
    let rows = super::rows(&groups, &base, &leaves);
    let (mut walks, mut admitted) = (Vec::new(), 0);
    for (n, row) in rows.into_iter().skip(part).step_by(of).enumerate() {
        let leaf = leaves.iter().find(|leaf| leaf.path == row.leaf).unwrap();
        let with = |text: &str| {
            let mut spec = row.second.clone();
            *place(&mut spec, &row.leaf) = json!(text);
            spec
        };
        let taken: Vec<String> = odd(leaf, n, &mut runner).into_iter().filter(|text| {
            let spec: Value = serde_json::from_str(&with(text).to_string().replace("@IP", "10.20.0.7")).unwrap();
            admission.check(&json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind, "metadata": {"name": "w", "namespace": "ai"}, "spec": spec}), None).is_ok()
        }).collect();
        admitted += taken.len();
        // Names and the like take few of them; their form is told in the schema.
        if taken.len() < FREE || row.leaf.ends_with(".key") {
            continue;
        }
        // Three of them after each other; another three with every seed.
        let from = usize::try_from(seed).unwrap_or(0) * 7 + walks.len() * 3;
        for pair in 0..1 {
            let at = |n: usize| with(&taken[(from + pair * 3 + n) % taken.len()]);
            walks.push(Row {
                leaf: row.leaf.clone(),
                first: at(0),
                second: at(1),
                dropped: at(2),
            });
        }
    }
    let mut faults = Vec::new();
    for rows in walks.chunks(SIDE_BY_SIDE) {
        let world = site().await;
        let all = walk(&world, &admission, kind, rows.to_vec()).await;
        for found in all {
            // Which of them has an effect is nothing to these tests; an object that is refused with words is fine.
            faults.extend(
                found
                    .faults
                    .into_iter()
                    .filter(|f| !f.contains("is not Ready with the first value") && !f.contains("no plan of it")),
            );
        }
    }
    println!("{kind}: {} walks, {admitted} odd texts admitted", walks.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn any_text_of_a_container_converges_or_is_refused() {
    texts("PhoenixLXC", lxc::base(), lxc::groups(), 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn any_text_of_a_machine_converges_or_is_refused() {
    texts("PhoenixVM", vm::base(), vm::groups(), 0, 1).await;
}

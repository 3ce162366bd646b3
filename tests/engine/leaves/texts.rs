//! Whatever text a kind admits, its object converges or is refused with words that name the field: every leaf that holds
//! text, with odd ones that the seed draws (`PROPTEST_RNG_SEED`).
//!
//! Each text is judged alone first: by admission, by what resolves an object, and by the plan of a new guest. What passes is
//! packed, many leaves to an object, and walked in worlds whose pauses are real, so that what Proxmox refuses is not
//! asked again at once.

use std::collections::BTreeMap;

use phoenix::admission::{Admission, Violation};
use phoenix::desired::{Key, resolve};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use regex::Regex;
use serde_json::{Value, json};

use super::schema::{Leaf, leaves, place};
use super::site::site;
use super::table::Group;
use super::walk::{Found, Row, Verdict, walk};
use super::{SIDE_BY_SIDE, lxc, vm};
use crate::engine::{ADMISSION, CLUSTER, World, object};

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

/// So many odd texts of a leaf are judged, of the list and as many again of chance or of the leaf's own form.
const JUDGED: usize = 20;

/// So many texts of a leaf are walked, one after the other.
const WALKED: usize = 3;

/// Characters of the longest text: more of them only take longer.
const LONGEST: u64 = 20_000;

/// Leaves whose value decides whether there is a guest at all: their objects hold no other.
const ALONE: &[&str] = &["cpu", "hypervisorRef", "node", "pool", "source", "timezone"];

/// Texts of a leaf that its own schema refuses, of which admission is asked: it takes the most time.
const MISFITS: usize = 1;

/// Refused texts of a leaf after which no other is judged.
const REFUSED: usize = 4;

/// A leaf, what is around it, and the texts that nothing refuses before there is a guest.
struct Text {
    leaf: String,
    /// Leaves of one group have the same around them.
    group: usize,
    around: Value,
    texts: Vec<String>,
}

/// An object with texts in many leaves.
struct Pack {
    /// Whether it takes no other leaf.
    alone: bool,
    leaves: Vec<String>,
    /// Top-level fields, by the group that they are of.
    fields: BTreeMap<String, usize>,
    /// One spec for each text of its leaves.
    specs: Vec<Value>,
    /// The specs of each leaf alone.
    apart: Vec<Vec<Value>>,
}

impl Pack {
    /// A pack for each leaf, for leaves that have no guest together.
    fn taken_apart(self) -> Vec<Pack> {
        let one = |(leaf, specs): (String, Vec<Value>)| Pack {
            alone: true,
            leaves: vec![leaf],
            fields: BTreeMap::new(),
            apart: vec![specs.clone()],
            specs,
        };
        self.leaves.into_iter().zip(self.apart).map(one).collect()
    }
}

/// What may be asked without any guest.
struct Judge<'a> {
    kind: &'static str,
    admission: &'a Admission,
    world: &'a World,
    faults: Vec<String>,
    refused: usize,
    taken: usize,
}

/// Texts for one leaf.
fn odd(leaf: &Leaf, runner: &mut TestRunner) -> Vec<String> {
    let mut texts: Vec<String> = proptest::sample::subsequence(ODD, JUDGED)
        .prop_shuffle()
        .new_tree(runner)
        .unwrap()
        .current()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut patterns = vec!["\\PC{1,12}".to_owned(), "[ -~]{1,24}".into(), "(?s).{1,8}".into()];
    // A form that is told begins and ends with anchors, which no generator takes.
    let form = form_of(leaf).unwrap_or_default();
    let form = form.trim_start_matches('^').trim_end_matches('$');
    patterns.extend(std::iter::repeat_n(form.to_owned(), 3));
    for pattern in patterns.iter().filter(|pattern| !pattern.is_empty()) {
        if let Ok(chance) = proptest::string::string_regex(pattern) {
            texts.push(chance.new_tree(runner).unwrap().current());
        }
    }
    if let Some(most) = leaf.schema["maxLength"].as_u64() {
        texts.push("a".repeat(usize::try_from(most.min(LONGEST)).unwrap()));
    }
    Just(texts).prop_shuffle().new_tree(runner).unwrap().current()
}

fn manifest(kind: &str, spec: &Value) -> Value {
    let spec: Value = serde_json::from_str(&spec.to_string().replace("@IP", "10.20.0.7")).unwrap();
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
        "metadata": {"name": "w", "namespace": "ai"}, "spec": spec})
}

fn with(spec: &Value, leaf: &str, text: &str) -> Value {
    let mut spec = spec.clone();
    *place(&mut spec, leaf) = json!(text);
    spec
}

/// Whether words name a leaf; a name or key of something goes by what it is of.
fn names(words: &str, leaf: &str) -> bool {
    let mut parts = leaf.rsplit(['.', '[', ']', '{', '}']).filter(|part| !part.is_empty());
    let last = parts.next().unwrap_or_default();
    let above = parts
        .next()
        .filter(|_| ["name", "namespace", "key", "reference"].contains(&last));
    // What cannot change at all is told of the whole.
    let whole = leaf.split('.').next().filter(|_| words.contains("cannot change"));
    words.contains(last) || above.or(whole).is_some_and(|part| words.contains(part))
}

/// The expression that the texts of a leaf match, by its schema or by the rule that begins with one.
fn form_of(leaf: &Leaf) -> Option<String> {
    let rules = leaf.schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let form = |rule: &Value| {
        let (form, _) = rule["rule"]
            .as_str()?
            .strip_prefix("self.matches('")?
            .split_once("')")?;
        // As CEL reads the text between the quotes.
        Some(form.replace("\\\\", "\\"))
    };
    let pattern = leaf.schema["pattern"].as_str().map(str::to_owned);
    pattern.or_else(|| rules.into_iter().find_map(form))
}

/// Whether the leaf's own schema takes a text.
fn is_of_form(leaf: &Leaf, form: Option<&Regex>, text: &str) -> bool {
    let length = text.chars().count() as u64;
    let bound = |name: &str, or: u64| leaf.schema[name].as_u64().unwrap_or(or);
    (bound("minLength", 0)..=bound("maxLength", u64::MAX)).contains(&length)
        && form.is_none_or(|form| form.is_match(text))
}

impl Judge<'_> {
    /// The object in the store, or why it is refused before the cluster is looked at.
    fn at_sight(&self, spec: &Value) -> Result<Key, String> {
        let told = |violations: Vec<Violation>| {
            let words: Vec<String> = violations.iter().map(ToString::to_string).collect();
            words.join("; ")
        };
        let admitted = self.admission.check(&manifest(self.kind, spec), None).map_err(told)?;
        let key = self.world.store.apply(admitted);
        match resolve(&object(self.world, &key), self.world.store.as_ref(), CLUSTER) {
            Ok(_) => Ok(key),
            Err(blocked) => {
                self.world.store.objects.remove_guest(&key);
                Err(blocked.cause().to_string())
            }
        }
    }

    /// Why an object is refused before there is a guest.
    async fn refusal(&self, spec: &Value) -> Option<String> {
        let key = match self.at_sight(spec) {
            Ok(key) => key,
            Err(words) => return Some(words),
        };
        let blocked = self.world.preview(&key).await.blocked;
        self.world.store.objects.remove_guest(&key);
        blocked.map(|cause| cause.to_string())
    }

    /// Whether an object with a guest may become this one.
    fn may_become(&self, from: &Value, to: &Value) -> bool {
        let mut old = manifest(self.kind, from);
        old["status"] = json!({"vmid": 1000, "node": "phoenix"});
        self.admission.check(&manifest(self.kind, to), Some(&old)).is_ok()
    }

    /// The texts that nothing refuses; a refusal that does not name the leaf is a fault.
    async fn pass(&mut self, leaf: &Leaf, around: &Value, texts: Vec<String>) -> Vec<String> {
        let form = form_of(leaf).and_then(|form| Regex::new(&form).ok());
        let of_form = |text: &String| is_of_form(leaf, form.as_ref(), text);
        let (fit, misfit): (Vec<String>, Vec<String>) = texts.into_iter().partition(of_form);
        let leaf = leaf.path.as_str();
        let (mut passed, mut refused) = (Vec::new(), 0);
        for text in misfit.into_iter().take(MISFITS).chain(fit) {
            if passed.len() == WALKED || refused == REFUSED {
                break;
            }
            match self.refusal(&with(around, leaf, &text)).await {
                None => passed.push(text),
                Some(words) => {
                    refused += 1;
                    if !names(&words, leaf) || words.contains("InternalError") {
                        self.faults
                            .push(format!("{leaf}: {text:?} is refused without its name: {words}"));
                    }
                }
            }
        }
        self.taken += passed.len();
        self.refused += refused;
        passed
    }

    /// Puts a leaf into the first object that has room, or into one of its own.
    fn pack(&self, packs: &mut Vec<Pack>, base: &Value, text: Text) {
        let alone = ALONE.contains(&text.leaf.split('.').next().unwrap());
        let own = text.around.as_object().unwrap().iter();
        let own = own.filter(|(field, value)| base[*field] != **value && *field != "powerState");
        let mut fields: BTreeMap<String, usize> = own.map(|(field, _)| (field.clone(), text.group)).collect();
        let first = text.leaf.split(['.', '[', '{']).next().unwrap();
        fields.insert(first.to_owned(), text.group);
        let own = |n: usize| text.texts[n % text.texts.len()].as_str();
        let apart: Vec<Value> = (0..WALKED).map(|n| with(&text.around, &text.leaf, own(n))).collect();
        for pack in packs.iter_mut().filter(|pack| !alone && !pack.alone) {
            let room = |(field, group): (&String, &usize)| pack.fields.get(field).is_none_or(|of| of == group);
            if !fields.iter().all(room) || pack.leaves.contains(&text.leaf) {
                continue;
            }
            let mut specs = pack.specs.clone();
            for (n, spec) in specs.iter_mut().enumerate() {
                for field in fields.keys().filter(|field| !pack.fields.contains_key(*field)) {
                    spec[field] = text.around[field].clone();
                }
                if text.around["powerState"] == "Running" {
                    spec["powerState"] = json!("Running");
                }
                *place(spec, &text.leaf) = json!(own(n));
            }
            if self.fits(&specs) {
                pack.specs = specs;
                pack.apart.push(apart);
                pack.fields.extend(fields);
                pack.leaves.push(text.leaf);
                return;
            }
        }
        // Of fields that admit no change the texts go into objects of their own.
        packs.push(Pack {
            alone,
            leaves: vec![text.leaf],
            fields,
            specs: apart.clone(),
            apart: vec![apart],
        });
    }

    fn fits(&self, specs: &[Value]) -> bool {
        let fits = |(n, spec): (usize, &Value)| {
            let before = &specs[n.saturating_sub(1)];
            if !self.may_become(before, spec) {
                return false;
            }
            let Ok(key) = self.at_sight(spec) else { return false };
            self.world.store.objects.remove_guest(&key);
            true
        };
        specs.iter().enumerate().all(fits)
    }

    /// The packs of which there is a plan; the leaves of the others have objects of their own.
    async fn planned(&self, packs: Vec<Pack>) -> Vec<Pack> {
        let mut planned = Vec::new();
        for pack in packs {
            let mut refused = false;
            for spec in pack.specs.iter().filter(|_| pack.leaves.len() > 1) {
                refused |= self.refusal(spec).await.is_some();
            }
            match refused {
                true => planned.extend(pack.taken_apart()),
                false => planned.push(pack),
            }
        }
        planned
    }
}

/// What is wrong with a walk: words that name none of its leaves, writes that do not end, or a guest that is refused as a
/// whole, so that its other texts meet nothing.
fn amiss(found: Found, pack: &Pack) -> Vec<String> {
    let names = |words: &str| pack.leaves.iter().any(|leaf| names(words, leaf));
    let mut told = Vec::new();
    let mut faults = Vec::new();
    for fault in found.faults {
        match fault.split_once(FIRST) {
            Some((_, words)) => told.push(words.to_owned()),
            // Which text has an effect is nothing to these tests.
            None if fault.contains("no plan of it") => {}
            None => faults.push(fault),
        }
    }
    for verdict in [found.changed, found.dropped] {
        if let Verdict::Refused(words) | Verdict::Waits(words) = verdict {
            told.push(words);
        }
    }
    let whole = |words: &str| {
        ["cannot create", "cannot download"]
            .iter()
            .any(|what| words.contains(what))
    };
    for words in told {
        if !names(&words) {
            faults.push(format!("{:?}: words without the field: {words}", pack.leaves));
        } else if pack.leaves.len() > 1 && whole(&words) {
            faults.push(format!("{:?}: one of them is for ALONE: {words}", pack.leaves));
        }
    }
    faults
}

/// How the walk tells of an object that is not Ready at its beginning.
const FIRST: &str = ": is not Ready with the first value: ";

async fn texts(kind: &'static str, base: Value, groups: Vec<Group>) {
    let begin = std::time::Instant::now();
    let seed: u64 = std::env::var("PROPTEST_RNG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let leaves: Vec<Leaf> = leaves(kind).into_iter().filter(Leaf::is_text).collect();
    let mut base = base;
    base["hypervisorRef"] = json!({"name": "pve"});
    let world = real_pauses().await;
    world.poll().await;
    let mut judge = Judge {
        kind,
        admission: &ADMISSION,
        world: &world,
        faults: Vec::new(),
        refused: 0,
        taken: 0,
    };
    let (mut packs, mut walked) = (Vec::new(), 0);
    for (group, rows) in groups.iter().map(|group| group.rows(&base, &leaves)).enumerate() {
        for row in rows {
            let leaf = leaves.iter().find(|leaf| leaf.path == row.leaf).unwrap();
            let texts = judge.pass(leaf, &row.second, odd(leaf, &mut runner)).await;
            if texts.is_empty() {
                continue;
            }
            walked += 1;
            let (leaf, around) = (row.leaf, row.second);
            let text = Text {
                leaf,
                group,
                around,
                texts,
            };
            judge.pack(&mut packs, &base, text);
        }
    }
    let packs = judge.planned(packs).await;
    println!(
        "{kind}: {} leaves, {} texts refused and {} taken, {walked} leaves walked in {} objects, {:?}",
        leaves.len(),
        judge.refused,
        judge.taken,
        packs.len(),
        begin.elapsed()
    );
    let mut faults = judge.faults;
    for packs in packs.chunks(SIDE_BY_SIDE) {
        let world = real_pauses().await;
        let row = |pack: &Pack| Row {
            leaf: pack.leaves.join("."),
            first: pack.specs[0].clone(),
            second: pack.specs[1].clone(),
            dropped: pack.specs[2].clone(),
        };
        for found in walk(&world, &ADMISSION, kind, packs.iter().map(row).collect()).await {
            let pack = packs.iter().find(|pack| pack.leaves.join(".") == found.leaf).unwrap();
            faults.extend(amiss(found, pack));
        }
    }
    println!("{kind}: {:?}", begin.elapsed());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The cluster, worked on with the pauses that there are in life.
async fn real_pauses() -> World {
    let mut world = site().await;
    world.time_scale = 1.0;
    world.restart();
    world
}

#[tokio::test(start_paused = true)]
async fn any_text_of_a_container_converges_or_is_refused() {
    texts("PhoenixLXC", lxc::base(), lxc::groups()).await;
}

#[tokio::test(start_paused = true)]
async fn any_text_of_a_machine_converges_or_is_refused() {
    texts("PhoenixVM", vm::base(), vm::groups()).await;
}

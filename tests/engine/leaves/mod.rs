//! Every leaf of every kind: a changed value takes effect, waits for something that is named, or is refused; none is
//! ignored. The leaves come from the schemas, so that a new one without a row fails by name.

pub mod givers;
pub mod lines;
pub mod lxc;
mod nulls;
pub mod schema;
pub mod site;
pub mod table;
pub mod templates;
mod texts;
pub mod told;
pub mod vm;
pub mod walk;

use std::collections::{BTreeMap, BTreeSet};

use phoenix::desired::resolve;
use serde_json::{Value, json};

use crate::engine::{ADMISSION, CLUSTER, World};
use schema::{Leaf, leaves};
use site::site;
use table::Group;
use told::{BY_DOCS, BY_TEST, FEATURE, HYPERVISOR, KEPT, NEXT_REVISION};
use walk::{Found, Row, Verdict, walk};

/// Checksum of the image that can be downloaded.
pub const SUM: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Conditions that tell of a change which is not carried out.
const FINDINGS: &[(&str, &str)] = &[
    ("FeatureOutdated", "True"),
    ("VolumeNotRetained", "True"),
    ("VolumeUnclaimed", "True"),
    ("TestsPassed", "False"),
];

/// Rows that walk in one world: the time of a look grows with the number of guests.
const SIDE_BY_SIDE: usize = 16;

/// Leaves of guests that are told elsewhere.
fn elsewhere(leaf: &str) -> bool {
    BY_TEST
        .iter()
        .any(|(of, _)| leaf == *of || (of.starts_with('.') && leaf.ends_with(of)))
}

fn rows(groups: &[Group], base: &Value, leaves: &[Leaf]) -> Vec<Row> {
    groups.iter().flat_map(|group| group.rows(base, leaves)).collect()
}

/// Every leaf has a row or stands in a list, and no row stands for a leaf that is gone.
fn covered<'a>(kind: &str, leaves: &[Leaf], have: impl Iterator<Item = &'a String>, told: impl Fn(&str) -> bool) {
    let have: BTreeSet<&String> = have.collect();
    let missing: Vec<&String> = leaves
        .iter()
        .map(|leaf| &leaf.path)
        .filter(|path| !have.contains(path) && !told(path))
        .collect();
    assert!(
        missing.is_empty(),
        "{kind}: leaves without values in tests/engine/leaves: {missing:#?}"
    );
}

fn container() -> Vec<Row> {
    let leaves = leaves("PhoenixLXC");
    let mut base = lxc::base();
    base["hypervisorRef"] = json!({"name": "pve"});
    let rows = rows(&lxc::groups(), &base, &leaves);
    covered("PhoenixLXC", &leaves, rows.iter().map(|row| &row.leaf), elsewhere);
    rows
}

fn machine() -> Vec<Row> {
    let leaves = leaves("PhoenixVM");
    let mut base = vm::base();
    base["hypervisorRef"] = json!({"name": "pve"});
    let rows = rows(&vm::groups(), &base, &leaves);
    covered("PhoenixVM", &leaves, rows.iter().map(|row| &row.leaf), elsewhere);
    rows
}

/// Walks every `of`th row, from `part` on.
async fn walked(kind: &'static str, rows: Vec<Row>, part: usize, of: usize) {
    let rows: Vec<Row> = rows.into_iter().skip(part).step_by(of).collect();
    let only = std::env::var("LEAVES").unwrap_or_default();
    let rows: Vec<Row> = rows.into_iter().filter(|row| row.leaf.starts_with(&only)).collect();
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for rows in rows.chunks(SIDE_BY_SIDE) {
        let world = site().await;
        for found in walk(&world, &ADMISSION, kind, rows.to_vec()).await {
            judge(&found, &mut faults);
            *counts.entry(found.changed.word()).or_default() += 1;
            lines.push(format!("{} | {} | {}", found.leaf, found.changed, found.dropped));
        }
    }
    println!("{kind}, part {part} of {of}: {counts:?}\n{}", lines.join("\n"));
    assert!(faults.is_empty(), "{kind}:\n{}", faults.join("\n"));
}

fn judge(found: &Found, faults: &mut Vec<String>) {
    faults.extend(found.faults.iter().cloned());
    let leaf = found.leaf.as_str();
    if found.changed == Verdict::Ignored && !BY_DOCS.iter().any(|(of, _, _)| *of == leaf) {
        faults.push(format!("{leaf}: a changed value is ignored"));
    }
    let stays = KEPT.iter().any(|(of, _)| *of == leaf);
    if let (Verdict::Effect(_), Verdict::Ignored, false) = (&found.changed, &found.dropped, stays) {
        faults.push(format!(
            "{leaf}: what it set stays when it is dropped: {}",
            found.changed
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_container_is_ignored() {
    walked("PhoenixLXC", container(), 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_container_is_ignored_in_the_other_half() {
    walked("PhoenixLXC", container(), 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_machine_is_ignored() {
    walked("PhoenixVM", machine(), 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_machine_is_ignored_in_the_other_half() {
    walked("PhoenixVM", machine(), 1, 2).await;
}

fn bare(leaf: &str) -> &str {
    leaf.strip_prefix("lxc.").or(leaf.strip_prefix("vm.")).unwrap_or(leaf)
}

/// All that is wanted of an object, in words; or why it is refused.
fn wants(world: &World, kind: &str, spec: &Value) -> Result<String, String> {
    let key = world.store.apply(manifest(kind, "w0", spec));
    let object = crate::engine::object(world, &key);
    let desired = resolve(&object, world.store.as_ref(), CLUSTER).map_err(|blocked| blocked.cause().to_string())?;
    Ok(format!("{desired:?}"))
}

fn manifest(kind: &str, name: &str, spec: &Value) -> Value {
    let spec: Value = serde_json::from_str(&spec.to_string().replace("@IP", "10.20.0.7")).unwrap();
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec,
    })
}

/// The lists of what is told elsewhere are right.
#[test]
fn what_is_told_elsewhere_is_told_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: String = ["src", "tests"]
        .into_iter()
        .flat_map(|folder| rust(&root.join(folder)))
        .collect();
    for (leaf, test) in BY_TEST.iter().chain(HYPERVISOR).chain(FEATURE) {
        assert!(sources.contains(&format!("fn {test}(")), "{leaf}: no test {test}");
    }
    for (leaf, page, words) in BY_DOCS.iter().chain(NEXT_REVISION) {
        let text = std::fs::read_to_string(root.join("docs").join(page)).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{leaf}: docs/{page} does not say {words:?}");
    }
    let kinds = std::fs::read_to_string(root.join("docs/kinds.md")).unwrap();
    let stays = kinds.split("Some dropped values stay").nth(1).unwrap();
    let stays = stays.split("\n- ").next().unwrap();
    for (leaf, words) in KEPT {
        assert!(
            stays.contains(words),
            "{leaf}: docs/kinds.md does not say that it stays"
        );
    }
}

fn rust(folder: &std::path::Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(rust(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            texts.push(std::fs::read_to_string(&path).unwrap());
        }
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn the_deletion_policy_says_whether_the_guest_goes() {
    let world = &mut World::with_ssh(&[]).await;
    for (policy, stays) in [("Retain", true), ("Delete", false)] {
        let object = crate::engine::guest(&policy.to_lowercase(), json!({"deletionPolicy": policy, "network": []}));
        let key = world.store.apply(object);
        crate::engine::settled(world).await;
        let vmid = crate::engine::status(world, &key).vmid().unwrap().get();
        world.store.delete(&key);
        crate::engine::settled(world).await;
        assert_eq!(world.guests().contains_key(&vmid), stays, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_hypervisor_cannot_do_yet_is_told() {
    let world = World::new(&[]).await;
    crate::engine::hypervisor(&world, |object| {
        object.spec.host = Some(serde_json::from_value(json!({"timezone": "UTC"})).unwrap());
    });
    world.poll().await;
    let told = |world: &World| format!("{:?}", world.store.objects.hypervisors()[0].status);
    assert!(told(&world).contains("HostConfigured"), "{}", told(&world));
    crate::engine::hypervisor(&world, |object| object.spec.driver_version = Some("580".into()));
    world.poll().await;
    assert!(told(&world).contains("spec.driverVersion"), "{}", told(&world));
}

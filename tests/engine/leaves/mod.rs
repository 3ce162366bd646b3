//! Every leaf of every kind: a changed value takes effect, waits for something that is named, or is refused; none is
//! ignored. The leaves come from the schemas, so that a new one without a row fails by name.

mod lxc;
mod schema;
mod site;
mod table;

mod texts;
mod told;
mod vm;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use phoenix::admission::Admission;
use phoenix::desired::resolve;
use serde_json::{Value, json};

use crate::engine::{CLUSTER, World};
use schema::{Leaf, leaves};
use site::site;
use table::{Group, one};
use told::{BY_DOCS, BY_TEST, FEATURE, HYPERVISOR, KEPT};
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
    let admission = Admission::new().unwrap();
    let rows: Vec<Row> = rows.into_iter().skip(part).step_by(of).collect();
    let only = std::env::var("LEAVES").unwrap_or_default();
    let rows: Vec<Row> = rows.into_iter().filter(|row| row.leaf.starts_with(&only)).collect();
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for rows in rows.chunks(SIDE_BY_SIDE) {
        let world = site().await;
        for found in walk(&world, &admission, kind, rows.to_vec()).await {
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

/// The guest of a template is made as any other's; here it is shown that a changed leaf is wanted of it.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_template_is_ignored() {
    let all = leaves("PhoenixTemplate");
    let mut rows = Vec::new();
    let mut have = Vec::new();
    for (wing, base, groups) in [("lxc", lxc::base(), lxc::groups()), ("vm", vm::base(), vm::groups())] {
        let below = |leaf: &Leaf| {
            let path = leaf.path.strip_prefix(wing)?.strip_prefix('.')?.to_owned();
            Some(Leaf {
                path,
                schema: leaf.schema.clone(),
            })
        };
        let leaves: Vec<Leaf> = all.iter().filter_map(below).collect();
        let known: BTreeSet<&str> = leaves
            .iter()
            .filter_map(|leaf| leaf.path.split(['.', '[', '{']).next())
            .collect();
        for row in self::rows(&groups, &base, &leaves) {
            let whole = |mut spec: Value| {
                spec.as_object_mut()
                    .unwrap()
                    .retain(|key, _| known.contains(key.as_str()));
                json!({"hypervisorRef": {"name": "pve"}, "form": "Template", (wing): spec})
            };
            have.push(format!("{wing}.{}", row.leaf));
            rows.push(Row {
                leaf: format!("{wing}.{}", row.leaf),
                first: whole(row.first),
                second: whole(row.second),
                dropped: json!({}),
            });
        }
    }
    let own = vec![
        one("hypervisorRef.name")
            .to("pve", "other")
            .one("hypervisorRef.namespace", "ai", "other")
            .one("snapshotName", "one", "two")
            .one("tests[].name", "one", "two")
            .one("tests[].script", "#!/bin/sh\n", "#!/bin/sh\ntrue\n")
            .with(json!({"tests": [{"name": "one", "script": "#!/bin/sh\n"}]})),
        one("tests[].scriptFrom.key")
            .to("one", "two")
            .one("tests[].scriptFrom.name", "words", "others")
            .with(json!({"tests": [{"name": "one", "scriptFrom": {"name": "words", "key": "one"}}]})),
    ];
    rows.extend(self::rows(
        &own,
        &json!({"hypervisorRef": {"name": "pve"}, "lxc": lxc_of_template()}),
        &all,
    ));
    have.extend(rows.iter().map(|row| row.leaf.clone()));
    covered("PhoenixTemplate", &all, have.iter(), |leaf| {
        elsewhere(bare(leaf)) || bare(leaf) == "tests[].kind"
    });
    let world = site().await;
    let wanted = |spec: &Value| wants(&world, "PhoenixTemplate", spec);
    let mut faults = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let (first, second) = (wanted(&row.first), wanted(&row.second));
        // A template needs its agent: there is no other first value.
        if first.is_err() && row.leaf != "vm.agent.enabled" {
            faults.push(format!("{}: {first:?}", row.leaf));
        }
        *counts
            .entry(if second.is_ok() { "wanted" } else { "refused" })
            .or_default() += 1;
        // A built template is another one with another source: what is fixed for a guest is a new revision here.
        if first == second && !BY_DOCS.iter().any(|(of, _, _)| *of == bare(&row.leaf)) {
            faults.push(format!("{}: a changed value is ignored", row.leaf));
        }
    }
    println!("PhoenixTemplate: {counts:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn lxc_of_template() -> Value {
    let mut spec = lxc::base();
    spec.as_object_mut().unwrap().remove("powerState");
    spec
}

fn bare(leaf: &str) -> &str {
    leaf.strip_prefix("lxc.").or(leaf.strip_prefix("vm.")).unwrap_or(leaf)
}

/// All that is wanted of an object, in words; or why it is refused.
fn wants(world: &World, kind: &str, spec: &Value) -> Result<String, String> {
    let spec: Value = serde_json::from_str(&spec.to_string().replace("@IP", "10.20.0.7")).unwrap();
    let manifest = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
        "metadata": {"name": "w0", "namespace": "ai"}, "spec": spec,
    });
    let key = world.store.apply(manifest);
    let object = crate::engine::object(world, &key);
    let desired = resolve(&object, world.store.as_ref(), CLUSTER).map_err(|blocked| blocked.cause().to_string())?;
    Ok(format!("{desired:?}"))
}

/// What a hypervisor gives to guests changes what is wanted of them; the rest is proven by the test that is named.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_hypervisor_is_ignored() {
    let all = leaves("PhoenixHypervisor");
    let defaults = |value: Value| json!({"defaults": value});
    let groups = vec![
        one("defaults.bridge")
            .to("vmbr0", "vmbr1")
            .one("defaults.cores", 1, 2)
            .one("defaults.memory", "1Gi", "2Gi")
            .one("defaults.node", "phoenix", "two")
            .one("defaults.timezone", "host", "Europe/Berlin")
            .one(
                "defaults.rootfsStorage",
                "quickOS-lxc-disks",
                "fastData-shared-bulk-data",
            )
            .one(
                "defaults.volumeStorage",
                "quickOS-lxc-disks",
                "fastData-shared-bulk-data",
            )
            .one("defaults.diskStorage", "quickOS-vm-disks", "fastData-shared-bulk-data")
            .one("defaults.imageStorage", "local", "fastData-shared-iso")
            .one("defaults.snippetStorage", "local", "snippets")
            .one("defaults.dns.nameservers[]", "10.0.0.1", "10.0.0.2")
            .one("defaults.dns.searchDomain", "a.example", "b.example")
            .one("defaults.dns.searchDomains[]", "a.example", "b.example")
            .auto_of("defaults.capabilities.fuse")
            .auto_of("defaults.capabilities.keyctl")
            .auto_of("defaults.capabilities.mknod")
            .auto_of("defaults.capabilities.nesting")
            .auto_of("defaults.capabilities.mount[]")
            .with(defaults(json!({}))),
        one("previousClusterIds[]")
            .to("one", "two")
            .one("vmidRange.start", 1000, 1001)
            .one("vmidRange.end", 1900, 1901)
            .one("volumeOwners.idRange.start", 9900, 9901)
            .one("volumeOwners.idRange.end", 9908, 9909)
            .one(
                "volumeOwners.image",
                "local:vztmpl/one.tar.zst",
                "local:vztmpl/two.tar.zst",
            )
            .one("volumeOwners.pool", "one", "two")
            .one("volumeOwners.storage", "quickOS-lxc-disks", "fastData-shared-bulk-data"),
    ];
    let world = site().await;
    let mut base = serde_json::to_value(&world.store.objects.hypervisors()[0].spec).unwrap();
    base["defaults"]["imageStorage"] = json!("local");
    let rows = rows(&groups, &base, &all);
    let told = |leaf: &str| HYPERVISOR.iter().any(|(of, _)| leaf.starts_with(of));
    covered("PhoenixHypervisor", &all, rows.iter().map(|row| &row.leaf), told);
    let url = json!({"url": "https://images.example/one.tar.zst", "sha256": SUM});
    let container = json!({"hypervisorRef": {"name": "pve"}, "source": {"image": url}, "rootfs": {"size": "8Gi"},
        "network": [{"name": "eth0"}], "volumes": [{"name": "a", "size": "1Gi", "mountPath": "/a"}]});
    let machine = json!({"hypervisorRef": {"name": "pve"}, "source": {"cloudImage": {"volid": crate::engine::CLOUD_IMAGE}},
        "disks": [{"name": "root"}], "cloudInit": {"packages": ["one"]}});
    let with = |spec: &Value| {
        crate::engine::hypervisor(&world, |object| {
            object.spec = serde_json::from_value(spec.clone()).unwrap()
        });
        (
            wants(&world, "PhoenixLXC", &container),
            wants(&world, "PhoenixVM", &machine),
        )
    };
    let mut faults = Vec::new();
    for row in &rows {
        let (first, second) = (with(&row.first), with(&row.second));
        if first == second {
            faults.push(format!("{}: a changed value is ignored: {:?}", row.leaf, first.0.err()));
        }
    }
    println!(
        "PhoenixHypervisor: {} wanted, {} by tests",
        rows.len(),
        all.len() - rows.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a feature holds changes what runs in guests.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_feature_is_ignored() {
    let all = leaves("PhoenixFeature");
    let parameter = json!({"parameters": [{"name": "key", "default": "1"}]});
    let groups = vec![
        one("check")
            .to("true", "false")
            .one("install", "true", "false")
            .one("requires[]", "first", "second")
            .one("targets[]", "lxc", "vm"),
        one("parameters[].default")
            .to("1", "2")
            .one("parameters[].name", "key", "other")
            .one("parameters[].type", "string", "boolean")
            .with(parameter),
        one("parameters[].required")
            .auto()
            .with(json!({"parameters": [{"name": "key"}]})),
    ];
    let rows = rows(&groups, &json!({"install": "true"}), &all);
    let told = |leaf: &str| FEATURE.iter().any(|(of, _)| leaf.starts_with(of));
    covered("PhoenixFeature", &all, rows.iter().map(|row| &row.leaf), told);
    let world = site().await;
    let mut container = lxc::base();
    container["hypervisorRef"] = json!({"name": "pve"});
    container["features"] = json!([{"name": "own"}]);
    let with = |spec: &Value| {
        world.feature("own", spec.clone());
        wants(&world, "PhoenixLXC", &container)
    };
    let ignored: Vec<&String> = rows
        .iter()
        .filter(|row| with(&row.first) == with(&row.second))
        .map(|row| &row.leaf)
        .collect();
    println!(
        "PhoenixFeature: {} wanted, {} by tests",
        rows.len(),
        all.len() - rows.len()
    );
    assert!(ignored.is_empty(), "{ignored:?}");
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
    for (leaf, page, words) in BY_DOCS {
        let text = std::fs::read_to_string(root.join("docs").join(page)).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{leaf}: docs/{page} does not say {words:?}");
    }
    let kinds = std::fs::read_to_string(root.join("docs/kinds.md")).unwrap();
    let stays = kinds.split("Dropped values that stay").nth(1).unwrap();
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

//! The leaves of what guests refer to: a hypervisor's and a feature's.

use serde_json::{Value, json};

use super::schema::leaves;
use super::site::site;
use super::table::{Group, one};
use super::told::{FEATURE, HYPERVISOR};
use super::walk::{Verdict, made, walk_beside};
use super::{SUM, covered, lxc, rows, wants};
use crate::engine::{ADMISSION, CLOUD_IMAGE, World, hypervisor};

pub fn of_hypervisors() -> Vec<Group> {
    let defaults = |value: Value| json!({"defaults": value});
    vec![
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
    ]
}

/// A container and a machine that take all that a hypervisor gives.
fn takers() -> [(&'static str, Value); 2] {
    let url = json!({"url": "https://images.example/one.tar.zst", "sha256": SUM});
    let container = json!({"hypervisorRef": {"name": "pve"}, "source": {"image": url}, "rootfs": {"size": "8Gi"},
        "network": [{"name": "eth0"}], "volumes": [{"name": "a", "size": "1Gi", "mountPath": "/a"}]});
    let machine = json!({"hypervisorRef": {"name": "pve"}, "source": {"cloudImage": {"volid": CLOUD_IMAGE}},
        "disks": [{"name": "root"}], "cloudInit": {"packages": ["one"]}});
    [("PhoenixLXC", container), ("PhoenixVM", machine)]
}

/// What a hypervisor gives to guests changes what is made of them; the rest is proven by the test that is named.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_hypervisor_is_ignored() {
    let all = leaves("PhoenixHypervisor");
    let world = site().await;
    let mut base = serde_json::to_value(&world.store.objects.hypervisors()[0].spec).unwrap();
    base["defaults"]["imageStorage"] = json!("local");
    let rows = rows(&of_hypervisors(), &base, &all);
    let told = |leaf: &str| HYPERVISOR.iter().any(|(of, _)| leaf.starts_with(of));
    covered("PhoenixHypervisor", &all, rows.iter().map(|row| &row.leaf), told);
    let (mut faults, mut count) = (Vec::new(), 0);
    for (n, row) in rows.iter().enumerate() {
        let mut differ = Vec::new();
        for (kind, spec) in &takers() {
            let wanted = |of: &Value| {
                give(&world, of);
                wants(&world, kind, spec)
            };
            if wanted(&row.first) == wanted(&row.second) {
                continue;
            }
            let name = |way: &str| format!("{way}{n}-{}", kind.to_lowercase());
            give(&world, &row.first);
            let first = made(&world, kind, &name("a"), spec).await;
            give(&world, &row.second);
            let second = made(&world, kind, &name("b"), spec).await;
            differ.push((first != second, first, second));
        }
        if differ.is_empty() {
            faults.push(format!("{}: a changed value is ignored", row.leaf));
        }
        let seen = differ.iter().any(|(seen, _, _)| *seen);
        count += usize::from(seen);
        if !seen {
            faults.push(format!("{}: no guest shows it: {differ:?}", row.leaf));
        }
    }
    println!(
        "PhoenixHypervisor: {count} of guests, {} by tests",
        all.len() - rows.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn give(world: &World, spec: &Value) {
    hypervisor(world, |object| {
        object.spec = serde_json::from_value(spec.clone()).unwrap()
    });
}

pub fn of_features() -> Vec<Group> {
    let parameter = json!({"parameters": [{"name": "key", "default": "1"}]});
    vec![
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
    ]
}

/// What a feature holds changes what runs in guests that have it.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_feature_is_ignored() {
    let all = leaves("PhoenixFeature");
    let rows = rows(&of_features(), &json!({"install": "true"}), &all);
    let told = |leaf: &str| FEATURE.iter().any(|(of, _)| leaf.starts_with(of));
    covered("PhoenixFeature", &all, rows.iter().map(|row| &row.leaf), told);
    let world = site().await;
    let name = |n: usize| format!("own-{n}");
    let container = |n: usize| {
        let mut spec = lxc::base();
        spec["hypervisorRef"] = json!({"name": "pve"});
        spec["features"] = json!([{"name": name(n)}]);
        spec["powerState"] = json!("Running");
        spec
    };
    for (n, row) in rows.iter().enumerate() {
        world.feature(&name(n), row.first.clone());
    }
    let objects = rows.iter().enumerate().map(|(n, row)| (row.leaf.clone(), container(n)));
    let change = || {
        for (n, row) in rows.iter().enumerate() {
            world.feature(&name(n), row.second.clone());
        }
    };
    let found = walk_beside(&world, &ADMISSION, "PhoenixLXC", objects.collect(), change).await;
    let mut faults: Vec<String> = found.iter().flat_map(|found| found.faults.clone()).collect();
    for found in &found {
        println!("{} | {}", found.leaf, found.changed);
        if found.changed == Verdict::Ignored {
            faults.push(format!("{}: a changed value is ignored", found.leaf));
        }
    }
    println!(
        "PhoenixFeature: {} of guests, {} by tests",
        rows.len(),
        all.len() - rows.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

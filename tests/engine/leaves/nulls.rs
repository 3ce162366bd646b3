//! A field that is given as null is one that is left out, for every leaf of every kind.

use serde_json::{Value, json};

use super::schema::{leaves, place, without};
use super::{container, machine, manifest, templates};
use crate::engine::ADMISSION;

/// A spec for leaves that stand in no table.
fn base(kind: &str) -> Value {
    match kind {
        "PhoenixHypervisor" => json!({
            "endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}},
            "vmidRange": {"start": 1000, "end": 1099},
        }),
        "PhoenixFeature" => json!({"install": "true"}),
        _ => json!({"hypervisorRef": {"name": "pve"}}),
    }
}

/// Whether the field of a leaf, given as null, is as if it were left out.
fn differs(kind: &str, spec: &Value, leaf: &str) -> Option<String> {
    // Of a list or a map the whole is the field.
    let field = leaf.trim_end_matches("[]").trim_end_matches("{}");
    let verdict = |spec: &Value| match ADMISSION.check(&manifest(kind, "w0", spec), None) {
        Ok(admitted) => Ok(admitted["spec"].clone()),
        Err(refused) => Err(refused.iter().map(ToString::to_string).collect::<Vec<_>>()),
    };
    let mut null = spec.clone();
    *place(&mut null, field) = Value::Null;
    let absent = without(&null, field);
    let (absent, null) = (verdict(&absent), verdict(&null));
    (absent != null).then(|| format!("{kind} {leaf}: absent {absent:?}, null {null:?}"))
}

#[test]
fn null_is_as_good_as_absent_for_every_leaf() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for (kind, rows) in [
        ("PhoenixLXC", container()),
        ("PhoenixVM", machine()),
        ("PhoenixTemplate", templates::template()),
        ("PhoenixHypervisor", Vec::new()),
        ("PhoenixFeature", Vec::new()),
    ] {
        for leaf in leaves(kind) {
            let row = rows.iter().find(|row| row.leaf == leaf.path);
            let spec = row.map_or_else(|| base(kind), |row| row.second.clone());
            faults.extend(differs(kind, &spec, &leaf.path));
            count += 1;
        }
    }
    println!("{count} leaves");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

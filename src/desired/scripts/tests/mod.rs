//! Tests of everything that becomes a script or a probe, by tables.

mod application;
mod features;
mod probe;
mod servers;
mod vllm;
mod vllm_flags;

use crate::desired::{MemoryObjects, testing};

use super::*;

/// A hypervisor in another namespace than the guests, and a few features: some in its namespace, some in the guests'.
const WORLD: &str = include_str!("world.yaml");

/// The world with more objects.
fn world(more: &str) -> MemoryObjects {
    let objects = testing::objects(WORLD);
    testing::apply(&objects, more);
    objects
}

/// The world with a container `x`; `spec` is YAML with an indent of two.
fn with_lxc(spec: &str) -> MemoryObjects {
    world(&format!(
        "kind: PhoenixLXC\nmetadata: {{name: x}}\nspec:\n  hypervisorRef: {{name: pve, namespace: infra}}\n{spec}"
    ))
}

fn run(objects: &MemoryObjects, object: &GuestObject) -> Result<Vec<Script>, Blocked> {
    scripts(object, &objects.hypervisor("infra", "pve").unwrap(), objects)
}

/// The scripts of the container `x`.
fn lxc_scripts(objects: &MemoryObjects) -> Result<Vec<Script>, Blocked> {
    run(objects, &testing::lxc(objects, "x"))
}

/// The script of an id; all there are otherwise.
fn find(scripts: Vec<Script>, id: &str) -> Script {
    let ids: Vec<String> = scripts.iter().map(|s| s.id.clone()).collect();
    let found = scripts.into_iter().find(|s| s.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {ids:?}"))
}

fn ids(scripts: &[Script]) -> Vec<&str> {
    scripts.iter().map(|s| s.id.as_str()).collect()
}

fn file<'a>(script: &'a Script, path: &str) -> &'a ScriptFile {
    let paths: Vec<&String> = script.files.iter().map(|f| &f.path).collect();
    let found = script.files.iter().find(|f| f.path == path);
    found.unwrap_or_else(|| panic!("no {path} in {paths:?}"))
}

/// Reason and message of what blocks the container `x` of this spec.
fn blocked(spec: &str) -> (Reason, String) {
    match lxc_scripts(&with_lxc(spec)) {
        Err(Blocked::Stalled(cause)) => (cause.reason, cause.message),
        other => panic!("{spec}: not stalled but {other:?}"),
    }
}

#[test]
fn interpreters_are_those_of_the_first_line() {
    for (script, name, want) in [
        ("#!/bin/bash\ntrue", "x", &["/bin/bash"][..]),
        ("#!/bin/bash -e -u\ntrue", "x", &["/bin/bash", "-e -u"]),
        ("#! /usr/bin/env python3\r\n", "x.sh", &["/usr/bin/env", "python3"]),
        ("print(1)", "a.py", &["/usr/bin/env", "python3"]),
        ("#!/bin/sh", "a.py", &["/bin/sh"]),
        ("#!\ntrue", "x", &["/bin/sh"]),
        ("true", "x", &["/bin/sh"]),
        ("\n#!/bin/bash", "x", &["/bin/sh"]),
    ] {
        assert_eq!(interpreter(script, name), want, "{script:?} {name}");
    }
}

#[test]
fn words_are_quoted_only_where_needed() {
    assert_eq!(
        quote("/run/phoenix/feature-a.b/install"),
        "/run/phoenix/feature-a.b/install"
    );
    assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    assert_eq!(quote(""), "''");
    assert_eq!(
        launcher("#!/bin/bash -e\n", "/x/a b"),
        "#!/bin/sh\nexec /bin/bash -e '/x/a b' \"$@\"\n"
    );
}

fn given() -> Given {
    Given {
        environment: [("A".to_string(), "1".to_string())].into(),
        files: vec![ScriptFile {
            path: "/a".into(),
            content: "x".into(),
            mode: "0700".into(),
        }],
        workdir: Some("/w".into()),
        run_as: None,
        owner: None,
    }
}

#[test]
fn the_hash_is_stable_and_sees_every_part() {
    // Records in guests hold this hash: another value here means that every script of a fleet is run again.
    assert_eq!(given().hash(), "6504c14b2951678a");
    let changes: [fn(&mut Given); 7] = [
        |g| g.environment.insert("A".into(), "2".into()).map_or((), drop),
        |g| g.environment.clear(),
        |g| g.files[0].path = "/b".into(),
        |g| g.files[0].content = "y".into(),
        |g| g.files[0].mode = "0755".into(),
        |g| g.workdir = None,
        |g| g.owner = Some(String::new()),
    ];
    let mut seen = vec![given().hash()];
    for change in changes {
        let mut changed = given();
        change(&mut changed);
        let hash = changed.hash();
        assert!(!seen.contains(&hash), "{hash}");
        seen.push(hash);
    }
    let script = given().script(ScriptRole::Test, "test-a".into(), "a", "body".into(), 5);
    let other = given().script(ScriptRole::Test, "test-a".into(), "a", "another".into(), 6);
    assert_eq!(script.hash, other.hash);
}

use serde_json::json;

use super::*;
use crate::ui::view::fleet;
use crate::ui::view::testing::{conditions, large, object, ready, small};

/// The fragment with a line for each element, so that a change of it can be read.
fn lines(fragment: &str) -> String {
    fragment.replace("><", ">\n<")
}

#[test]
fn a_small_fleet_looks_as_recorded() {
    let text = lines(&fragment(&fleet(&small())));
    insta::assert_snapshot!(text);
}

#[test]
fn an_empty_fleet_says_so() {
    let text = fragment(&fleet(&Default::default()));
    for words in [
        "There are no containers",
        "Nothing needs attention.",
        "Nothing waits",
        "There is no PhoenixHypervisor yet.",
        "There are no templates.",
        "no event since it started",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn whatever_stands_in_objects_stays_text() {
    let evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&";
    let mut told = ready();
    for condition in told.as_array_mut().unwrap() {
        condition["message"] = evil.into();
        condition["reason"] = evil.into();
    }
    let drift = conditions(&[
        ("DriftDetected+", evil, evil),
        ("Stalled+", evil, evil),
        ("Ready-", evil, evil),
    ]);
    let spec = json!({"source": {"templateRef": {"name": evil}}, "vllm": {"model": evil}, "gpus": [{"index": 1}], "node": evil,
        "dependsOn": [{"kind": "PhoenixLXC", "name": evil}], "hypervisorRef": {"name": evil}});
    let more = json!({"vmid": 1, "node": evil, "gpus": evil, "ip": evil, "message": evil, "task": {"upid": "x", "action": evil}});
    let mut seen = small();
    for (kind, told) in [
        ("PhoenixLXC", told),
        ("PhoenixVM", drift.clone()),
        ("PhoenixTemplate", drift),
    ] {
        let mut spec = spec.clone();
        match kind {
            "PhoenixVM" => {
                spec.as_object_mut().unwrap().remove("vllm");
                spec.as_object_mut().unwrap().remove("gpus");
            }
            "PhoenixTemplate" => spec = json!({"hypervisorRef": {"name": evil}, "lxc": {"source": spec["source"]}}),
            _ => {}
        }
        seen.guests.push(object(kind, evil, spec, evil, told, more.clone()));
    }
    let mut action = seen.actions[0].clone();
    (action.kind, action.reason, action.message) = (evil.into(), evil.into(), evil.into());
    (action.name.namespace, action.name.name) = (evil.into(), evil.into());
    seen.actions.push(action);
    let text = fragment(&fleet(&seen));
    assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    // No attribute ends early: every quote that is not the markup's own is written as an entity.
    assert!(text.matches("&quot;").count() > 20 && !text.contains("\"'>"));
}

/// What of a spec may be secret is nowhere on the page.
#[test]
fn of_a_spec_only_what_is_named_is_shown() {
    let spec = json!({
        "source": {"image": {"volid": "local:vztmpl/hidden-volid.tar.zst"}},
        "gpus": [{"index": 3}], "vllm": {"model": "shown/model", "servedName": "hidden-served"},
        "application": {"script": "hidden-script", "environment": [{"name": "TOKEN", "value": "hidden-env"}]},
        "description": "hidden-description", "lxcOptions": ["lxc.environment: KEY=hidden-line"]
    });
    let guest = object(
        "PhoenixLXC",
        "shown-name",
        spec,
        "Ready",
        ready(),
        json!({"lastError": "hidden-error"}),
    );
    let mut seen = small();
    seen.guests.push(guest);
    let text = page(&fragment(&fleet(&seen)), "digest");
    assert!(text.contains("shown-name") && text.contains("shown/model") && text.contains("GPU 3"));
    assert!(!text.contains("hidden-"), "{text}");
    assert!(
        !text.contains("token-of-pve") && !text.contains("192.0.2.1:8006"),
        "{text}"
    );
}

#[test]
fn five_hundred_guests_fit() {
    let seen = large(500);
    assert_eq!(seen.guests.len(), 500);
    let text = fragment(&fleet(&seen));
    assert!(text.len() < 1_500_000, "{} bytes", text.len());
    assert_eq!(text.matches("class=\"guest row\"").count(), 500);
    println!("{} bytes", text.len());
}

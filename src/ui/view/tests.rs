use super::testing::{conditions, large, object, ready, small};
use super::*;
use serde_json::json;

fn names<'l>(links: impl IntoIterator<Item = &'l Link>) -> Vec<String> {
    links.into_iter().map(|link| link.name.clone()).collect()
}

#[test]
fn guests_are_counted_by_state() {
    let fleet = fleet(&small());
    let expected = [
        (State::Stalled, 1),
        (State::Attention, 1),
        (State::Unknown, 1),
        (State::Waiting, 3),
        (State::Working, 1),
        (State::Paused, 1),
        (State::Ready, 3),
    ];
    assert_eq!(fleet.counts, expected);
}

#[test]
fn what_stands_still_comes_before_what_needs_attention() {
    let fleet = fleet(&small());
    let told: Vec<(&str, &str)> = fleet
        .problems
        .iter()
        .map(|p| (p.link.name.as_str(), p.reason.as_str()))
        .collect();
    let expected = [
        ("mistral", "ScriptFailed"),
        ("drifted", "DriftDetected: ChangedOutsidePhoenix"),
        ("desktop", "NodeOffline"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn guests_are_on_their_nodes_and_cards() {
    let fleet = fleet(&small());
    let nodes = &fleet.hypervisors[0].nodes;
    let places: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(places, ["pve1", "pve2", Node::NOWHERE]);
    let holders = |card: &Card| -> Vec<(String, bool)> {
        card.holders.iter().map(|h| (h.link.name.clone(), h.attached)).collect()
    };
    let cards: Vec<_> = nodes[0].cards.iter().map(|c| (c.name.as_str(), holders(c))).collect();
    let expected = [
        ("0", vec![("qwen".to_string(), true)]),
        ("1", vec![("mistral".to_string(), false)]),
    ];
    assert_eq!(cards, expected);
    assert_eq!(nodes[1].cards[0].name, "rtx-4090");
    assert_eq!(names(nodes[2].guests.iter().map(|g| &g.link)), ["chat", "embed"]);
}

#[test]
fn a_hypervisor_that_is_not_there_is_named() {
    let mut seen = small();
    seen.hypervisors.clear();
    let fleet = fleet(&seen);
    assert_eq!(fleet.hypervisors.len(), 1);
    assert_eq!(fleet.hypervisors[0].link.word, "not there");
    assert!(fleet.problems.iter().any(|p| p.link.sort == "hypervisor"));
}

#[test]
fn who_waits_is_told_with_what_for() {
    let fleet = fleet(&small());
    let told: Vec<_> = fleet
        .waits
        .iter()
        .map(|w| (w.who.name.as_str(), w.on, names(&w.links)))
        .collect();
    let expected = [
        ("embed", On::Clones, vec!["vllm".to_string()]),
        ("later", On::Template, vec!["gone".to_string()]),
        ("chat", On::Dependency, vec!["mistral".to_string()]),
    ];
    assert_eq!(told, expected);
    let places: Vec<u64> = super::fleet(&large(100))
        .waits
        .iter()
        .filter(|w| w.on == On::Clones)
        .map(|w| w.place)
        .collect();
    assert!(places.len() > 10 && places.is_sorted(), "{places:?}");
}

#[test]
fn templates_are_a_tree() {
    let fleet = fleet(&small());
    let roots = names(fleet.templates.iter().map(|b| &b.link));
    assert_eq!(roots, ["base", "later"]);
    let base = &fleet.templates[0];
    assert_eq!(names(&base.clones), ["chat", "drifted", "resting"]);
    assert_eq!(names(&base.templates[0].clones), ["embed", "mistral", "phi", "qwen"]);
    assert_eq!(fleet.templates[1].lost.as_deref(), Some("gone"));
}

/// Users write chains of any length, and circles.
#[test]
fn chains_and_circles_of_templates_end_and_show_each_once() {
    let template = |name: &str, from: &str| {
        let spec = json!({"lxc": {"source": {"templateRef": {"name": from}}}});
        object("PhoenixTemplate", name, spec, "Ready", ready(), json!({}))
    };
    let mut guests: Vec<GuestObject> = (1..2000)
        .map(|n| template(&format!("t{n:04}"), &format!("t{:04}", n - 1)))
        .collect();
    guests.push(template("t0000", "t0001"));
    let fleet = fleet(&Seen {
        guests,
        ..Seen::default()
    });
    fn count(branches: &[Branch]) -> usize {
        branches.iter().map(|b| 1 + count(&b.templates)).sum()
    }
    assert_eq!(count(&fleet.templates), 2000);
}

#[test]
fn names_have_their_namespace_where_there_are_several() {
    let mut seen = small();
    seen.guests[0].key.namespace = "infra".into();
    let fleet = fleet(&seen);
    let told = names(fleet.problems.iter().map(|p| &p.link));
    assert!(
        told.contains(&"ai/mistral".into()) && told.contains(&"infra/pve".into()),
        "{told:?}"
    );
}

#[test]
fn what_a_status_says_of_an_older_spec_is_not_ready() {
    let mut guest = object("PhoenixLXC", "a", json!({}), "Ready", ready(), json!({}));
    assert_eq!(state::of_guest(&guest).0, State::Ready);
    guest.generation = 2;
    assert_eq!(state::of_guest(&guest).0, State::Working);
    guest.status = Default::default();
    assert_eq!(state::of_guest(&guest), (State::Waiting, "Pending".into()));
}

#[test]
fn parts_of_what_is_stalled_failed_and_of_others_are_not_there_yet() {
    let parts = |list| marks_of(&conditions(list));
    let stalled = parts(&[("Ready-", "X", ""), ("Stalled+", "X", ""), ("Created+", "Y", "")]);
    assert_eq!(stalled, [State::Stalled, State::Stalled, State::Ready]);
    let working = parts(&[("Ready-", "X", ""), ("Reconciling+", "X", ""), ("Running?", "Y", "")]);
    assert_eq!(working, [State::Waiting, State::Working, State::Unknown]);
    let stopped = parts(&[
        ("Ready+", "Ready", ""),
        ("Running-", "Stopped", ""),
        ("TestsPassed-", "TestFailed", ""),
    ]);
    assert_eq!(stopped, [State::Ready, State::Ready, State::Waiting]);
}

fn marks_of(conditions: &serde_json::Value) -> Vec<State> {
    let guest = object("PhoenixLXC", "a", json!({}), "", conditions.clone(), json!({}));
    let marks = state::marks(&guest.status.conditions);
    marks.into_iter().map(|mark| mark.state).collect()
}

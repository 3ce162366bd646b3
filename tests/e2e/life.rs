//! A recorded life of the legacy fleet: what the API server was told of each object and in which order, from the first
//! `kubectl apply` to the end, and whether all of it was so.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::convert;
use crate::guests::patch;
use crate::harness::process::Process;
use crate::harness::wait_for;
use crate::site::Site;
use crate::truthful::{Seen, faults};

/// Slow enough that what is applied in one go counts as that, on a loaded machine too.
const SCALE: &str = "10";
const KINDS: [&str; 4] = ["phoenixlxc", "phoenixvm", "phoenixtemplate", "events.v1.events.k8s.io"];

/// Watches of everything that is written, from before the first object on.
struct Record {
    watches: Vec<Process>,
}

impl Record {
    fn begin(site: &Site) -> Record {
        let watch = |kind: &&str| {
            let kubectl = &site.namespace.kubectl;
            let mut command = Command::new(&kubectl.program);
            command
                .arg("--kubeconfig")
                .arg(&kubectl.kubeconfig)
                .arg("--cache-dir")
                .arg(&kubectl.cache)
                .args([
                    "--namespace",
                    &site.namespace.name,
                    "get",
                    kind,
                    "--output=json",
                    "--watch",
                ])
                .env_remove("KUBECONFIG");
            Process::start("watch", &command, &site.dir.join(format!("watch-{kind}.json")))
        };
        Record {
            watches: KINDS.iter().map(watch).collect(),
        }
    }

    /// The last version that was seen, once nothing comes any more.
    fn at_rest(&self) -> u64 {
        let last = || self.entries().last().map_or(0, |(version, _)| *version);
        wait_for("the watches to come to rest", || {
            let before = last();
            std::thread::sleep(Duration::from_secs(2));
            (before == last()).then_some(before).ok_or("more came")
        })
    }

    /// Everything in the order in which the API server took it in.
    fn entries(&self) -> Vec<(u64, Value)> {
        let mut all = Vec::new();
        for watch in &self.watches {
            let log = watch.log();
            let documents = serde_json::Deserializer::from_str(&log).into_iter::<Value>();
            // The last one may be half written.
            all.extend(documents.map_while(Result::ok).map(|object| (version(&object), object)));
        }
        all.sort_by_key(|(version, _)| *version);
        all
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// What was seen of each object. Something is wrong on purpose between these versions.
fn lives(entries: &[(u64, Value)], trouble: (u64, u64)) -> BTreeMap<String, Vec<Seen>> {
    let mut lives: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (version, entry) in entries {
        let troubled = (trouble.0..=trouble.1).contains(version);
        let name = |o: &Value| {
            format!(
                "{} {}",
                o["kind"].as_str().unwrap_or_default(),
                o["name"].as_str().unwrap_or_default()
            )
        };
        if entry["kind"] == "Event" {
            let life = lives.entry(name(&entry["regarding"])).or_default();
            let count = entry["series"]["count"].as_u64().unwrap_or(1);
            let before = counts.insert(entry["metadata"]["name"].to_string(), count).unwrap_or(0);
            life.push(Seen::Trouble(troubled));
            for _ in before..count.max(before + 1) {
                life.push(Seen::Event {
                    warning: entry["type"] == "Warning",
                    reason: entry["reason"].as_str().unwrap_or_default().into(),
                    message: entry["note"].as_str().unwrap_or_default().into(),
                });
            }
            continue;
        }
        let of = json!({"kind": entry["kind"], "name": entry["metadata"]["name"]});
        let life = lives.entry(name(&of)).or_default();
        let old = last.insert(name(&of), entry.clone()).unwrap_or_default();
        if old["metadata"]["generation"] != entry["metadata"]["generation"] {
            life.push(Seen::Object(entry.clone()));
        }
        if old["status"] != entry["status"] && !entry["status"].is_null() {
            life.push(Seen::Status(entry["status"].clone()));
        }
    }
    lives
}

/// Events of these reasons that an object had.
fn told(lives: &BTreeMap<String, Vec<Seen>>, object: &str, reason: &str) -> Vec<String> {
    let seen = lives.get(object).into_iter().flatten();
    let of_reason = seen.filter_map(|seen| match seen {
        Seen::Event { reason: r, message, .. } if r == reason => Some(message.clone()),
        _ => None,
    });
    of_reason.collect()
}

fn all_ready(site: &Site) {
    for (kinds, seconds) in [("phoenixtemplate", "300s"), ("phoenixlxc,phoenixvm", "300s")] {
        let timeout = format!("--timeout={seconds}");
        let answer = site
            .namespace
            .kubectl
            .run(&["wait", "--for=condition=Ready", kinds, "--all", &timeout]);
        assert!(answer.ok, "{}\n{}\n{}", answer.stderr, site.table(), site.words());
    }
}

fn event(site: &Site, object: &str, reason: &str) {
    wait_for(&format!("{object} to have {reason}"), || {
        let fields = format!("--field-selector=reason={reason},regarding.name={object}");
        let events = site.namespace.kubectl.get(&["events.v1.events.k8s.io", &fields]);
        let some = events["items"].as_array().is_some_and(|items| !items.is_empty());
        some.then_some(()).ok_or_else(|| site.words())
    });
}

#[test]
fn all_that_is_told_of_the_legacy_fleet_over_its_life_is_so() {
    const GUEST: &str = "qdrant-vscoderag";
    let mut site = Site::new("life");
    let record = Record::begin(&site);
    site.start_operator_at(SCALE, &[]);
    // First apply: the features come last, and all of it is waited for.
    let fleet = convert(&site);
    site.namespace.kubectl.must(&["apply", "-k", &fleet]);
    site.features();
    all_ready(&site);
    let object = format!("phoenixlxc/{GUEST}");

    // Another operator takes over: nothing is written and nothing told.
    site.operator.as_mut().unwrap().signal("TERM");
    site.operator.as_mut().unwrap().wait();
    let before = record.at_rest();
    site.start_operator_at(SCALE, &[]);
    wait_for("the operator to have polled some times", || {
        let requests = site.control("GET", "requests", &Value::Null);
        site.control("DELETE", "requests", &Value::Null);
        let polls = requests
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["path"] == "/cluster/resources")
            .count();
        (polls > 3).then_some(()).ok_or_else(|| format!("{polls} polls"))
    });
    let entries = record.entries();
    let news: Vec<&Value> = entries
        .iter()
        .filter(|(version, _)| *version > before)
        .map(|(_, entry)| entry)
        .collect();
    let news: Vec<String> = news
        .iter()
        .map(|entry| format!("{} {} {}", entry["kind"], entry["metadata"]["name"], entry["note"]))
        .collect();
    assert!(news.is_empty(), "an operator that begins anew wrote {news:#?}");

    // A restart, an edit, and a change by somebody else.
    let restart = json!({"metadata": {"annotations": {"phoenix-hypervisor.io/restartedAt": "one"}}});
    patch(&site, &object, &restart);
    event(&site, GUEST, "Restarted");
    all_ready(&site);
    patch(&site, &object, &json!({"spec": {"cores": 3}}));
    event(&site, GUEST, "Configured");
    all_ready(&site);
    let vmid = site.status(&object)["vmid"].clone();
    let drift = json!({"op": "set-options", "vmid": vmid, "options": {"cores": "7"}});
    site.control("POST", "edits", &drift);
    event(&site, GUEST, "DriftCorrected");
    all_ready(&site);
    // The node goes away and comes back.
    let began = record.at_rest();
    site.control(
        "POST",
        "edits",
        &json!({"op": "node-online", "node": "phoenix", "online": false}),
    );
    wait_for("the node to be missed", || {
        let phase = site.status(&object)["phase"].clone();
        (phase == "Unknown").then_some(()).ok_or_else(|| phase.to_string())
    });
    site.control(
        "POST",
        "edits",
        &json!({"op": "node-online", "node": "phoenix", "online": true}),
    );
    all_ready(&site);
    let ended = record.at_rest();
    site.namespace.kubectl.must(&["delete", &object, "--timeout=120s"]);

    let lives = lives(&record.entries(), (began, ended));
    assert!(lives.len() >= 24, "{:?}", lives.keys());
    let statuses = lives
        .values()
        .flatten()
        .filter(|s| matches!(s, Seen::Status(_)))
        .count();
    let events = lives
        .values()
        .flatten()
        .filter(|s| matches!(s, Seen::Event { .. }))
        .count();
    println!("{} objects, {statuses} statuses, {events} events", lives.len());
    let mut wrong = Vec::new();
    for (object, life) in &lives {
        wrong.extend(faults(life).into_iter().map(|fault| format!("{object}: {fault}")));
        for seen in life {
            if let Seen::Status(status) = seen
                && let Some(stalled) = status["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|c| c["type"] == "Stalled")
            {
                wrong.push(format!("{object}: Stalled in a healthy fleet: {}", stalled["message"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    let guest = format!("PhoenixLXC {GUEST}");
    for (reason, words) in [
        ("Created", ""),
        ("Restarted", "annotation restartedAt"),
        ("Configured", "cores: \"2\" → \"3\""),
        ("DriftCorrected", "\"7\" → \"3\""),
        ("Destroyed", ""),
    ] {
        let told = told(&lives, &guest, reason);
        let of_it = told.iter().filter(|message| message.contains(words)).count();
        assert_eq!(of_it, 1, "{reason}: {told:?}");
    }
}

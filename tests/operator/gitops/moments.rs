//! Every moment of a story: an object as a watch told it, with the verdicts on it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::files::keep;
use crate::evaluator::{Verdicts, judge};
use crate::operated::Site;

/// An object at a moment.
pub struct Moment {
    pub object: Value,
    pub verdicts: Verdicts,
}

/// A story at a site: what happens, and after how many changes of the objects.
pub struct Story {
    pub site: Site,
    chapters: Vec<(usize, String)>,
}

impl Story {
    /// Begins with these words.
    pub fn new(words: &str) -> Story {
        let chapters = vec![(0, words.into())];
        Story {
            site: Site::new(),
            chapters,
        }
    }

    /// What happens now.
    pub fn chapter(&mut self, words: &str) {
        self.chapters.push((self.site.server.changes().len(), words.into()));
    }

    /// Every moment, after those that hold for all of them were checked; and a page that shows them.
    pub fn told(&self) -> String {
        let changes = self.site.server.changes();
        let there = changes.iter().filter(|change| change["type"] != "DELETED");
        let objects: Vec<Value> = there.map(|change| change["object"].clone()).collect();
        let mut verdicts = judge(&objects).into_iter();
        let (mut page, mut moments) = (Page::default(), Vec::new());
        let mut chapters = self.chapters.iter().peekable();
        for (number, mut change) in changes.into_iter().enumerate() {
            while let Some((_, words)) = chapters.next_if(|(at, _)| *at <= number) {
                page.text += &format!("\n# {words}\n");
            }
            if change["type"] == "DELETED" {
                page.gone(&change["object"]);
                continue;
            }
            let moment = Moment {
                object: change["object"].take(),
                verdicts: verdicts.next().unwrap(),
            };
            moment.check();
            page.add(&moment);
            moments.push(moment);
        }
        keep(&moments);
        page.text
    }
}

impl Moment {
    fn condition(&self, type_: &str) -> Option<&Value> {
        let conditions = self.object["status"]["conditions"].as_array();
        conditions.into_iter().flatten().find(|c| c["type"] == type_)
    }

    /// Whether its own annotation pauses it.
    fn pauses(&self) -> bool {
        self.object["metadata"]["annotations"]["phoenix-hypervisor.io/paused"] == "true"
    }

    /// Whether it is paused, by itself or by its hypervisor.
    fn is_paused(&self) -> bool {
        let of_guest = self.object["kind"] != "PhoenixHypervisor";
        self.pauses() || (of_guest && self.condition("Paused").is_some_and(|c| c["status"] == "True"))
    }

    fn is_stopped(&self) -> bool {
        self.object["kind"] != "PhoenixTemplate" && self.object["spec"]["powerState"] == "Stopped"
    }

    pub fn is_deleted(&self) -> bool {
        !self.object["metadata"]["deletionTimestamp"].is_null()
    }

    /// Whether the status speaks of the present generation.
    fn is_seen(&self) -> bool {
        self.object["status"]["observedGeneration"] == self.object["metadata"]["generation"]
    }

    /// Whether the operator says that the object is as its present spec wants it.
    fn is_ready(&self) -> bool {
        let generation = &self.object["metadata"]["generation"];
        let ready = self.condition("Ready");
        let holds = ready.is_some_and(|c| c["status"] == "True" && c["observedGeneration"] == *generation);
        holds && self.is_seen() && !self.is_deleted()
    }

    /// Why it is so, in one word.
    pub fn reason(&self) -> String {
        let reason = self.condition("Ready").and_then(|ready| ready["reason"].as_str());
        match reason {
            _ if self.is_paused() => "Paused".into(),
            _ if self.is_ready() && self.is_stopped() => "Stopped".into(),
            Some(reason) if self.is_seen() => reason.into(),
            _ => "NotSeen".into(),
        }
    }

    /// What holds at every moment of every story.
    fn check(&self) {
        let (argocd, flux) = (self.verdicts.argocd.0.as_str(), self.verdicts.flux.0.as_str());
        let words = || format!("{argocd} {flux}: {:#}", self.object);
        let suspended = !self.is_deleted() && (self.is_paused() || (self.is_ready() && self.is_stopped()));
        assert_eq!(argocd == "Suspended", suspended, "{}", words());
        assert_eq!(argocd == "Healthy", self.is_ready() && !suspended, "{}", words());
        assert_eq!(flux == "Current", self.is_ready(), "{}", words());
        assert_eq!(flux == "Terminating", self.is_deleted(), "{}", words());
        let stalled = self.is_seen() && !self.is_deleted() && self.condition("Stalled").is_some();
        assert_eq!(flux == "Failed", stalled, "{}", words());
        if stalled && !suspended {
            assert_eq!(argocd, "Degraded", "{}", words());
        }
        // A verdict that is not the best one says why.
        let told = argocd == "Healthy" || !self.verdicts.argocd.1.is_empty();
        assert!(told, "{}", words());
        // What is offered fits.
        let offered = |action: &str| self.verdicts.actions.get(action) == Some(&true);
        if self.object["kind"] == "PhoenixLXC" || self.object["kind"] == "PhoenixVM" {
            let stopped = self.object["spec"]["powerState"] == "Stopped";
            assert_eq!((offered("start"), offered("stop")), (stopped, !stopped), "{}", words());
        }
        if self.object["kind"] != "PhoenixFeature" {
            let paused = self.pauses();
            assert_eq!((offered("pause"), offered("resume")), (!paused, paused), "{}", words());
        }
    }

    /// What holds beside Ready and its parts.
    fn findings(&self) -> impl Iterator<Item = String> {
        const PARTS: [&str; 14] = [
            "Ready",
            "Reconciling",
            "Stalled",
            "DependenciesReady",
            "Created",
            "Configured",
            "VolumesReady",
            "GPUReady",
            "Running",
            "FeaturesApplied",
            "ApplicationReady",
            "TestsPassed",
            "Healthy",
            "SnapshotReady",
        ];
        let conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
        let holds = conditions.filter(|c| c["status"] == "True");
        let types = holds.map(|c| c["type"].as_str().unwrap());
        types.filter(|type_| !PARTS.contains(type_)).map(str::to_string)
    }

    /// What the operator says, without what differs from moment to moment.
    fn summary(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.is_deleted().then(|| "deleted".to_string()));
        parts.extend(self.is_paused().then(|| "paused".to_string()));
        match self.condition("Ready") {
            _ if !self.is_seen() => parts.push("not seen".into()),
            None => parts.push("no status".into()),
            Some(ready) => {
                let text = |value: &Value| value.as_str().unwrap_or("-").to_string();
                let stalled = self.condition("Stalled").map_or("", |_| " Stalled");
                let phase = text(&self.object["status"]["phase"]);
                let (status, reason) = (text(&ready["status"]), text(&ready["reason"]));
                parts.push(format!("{phase}, Ready {status} {reason}{stalled}"));
                parts.extend(self.findings());
            }
        }
        parts.join(", ")
    }
}

/// A line for each moment at which something is another than before.
#[derive(Default)]
struct Page {
    text: String,
    last: BTreeMap<String, String>,
}

impl Page {
    fn add(&mut self, moment: &Moment) {
        let name = name(&moment.object);
        let Verdicts { argocd, flux, .. } = &moment.verdicts;
        let line = format!("{:<56} {:<11} {}", moment.summary(), argocd.0, flux.0);
        if self.last.get(&name) != Some(&line) {
            // A message that grew is cut: its beginning says what it is about.
            let message: String = argocd.1.chars().take(100).collect();
            self.text += format!("{name:<24} {line:<80} {message}").trim_end();
            self.text += "\n";
            self.last.insert(name, line);
        }
    }

    fn gone(&mut self, object: &Value) {
        let name = name(object);
        self.text += &format!("{name:<24} gone\n");
        self.last.remove(&name);
    }
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

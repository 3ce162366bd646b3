//! Whether what an object says of itself is so, over the whole of its life: a function over the statuses that were
//! written and the events that were published, as an API server shows them.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use serde_json::Value;

/// What was seen, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The object as somebody applied it; `metadata.generation` tells which statuses speak of it.
    Object(Value),
    /// `status` as it was written.
    Status(Value),
    /// An event; one that an API server counts several times is as many.
    Event {
        /// Whether it is a warning.
        warning: bool,
        /// Its reason.
        reason: String,
        /// Its message.
        message: String,
    },
    /// The guest was started, or is about to be, by whomever.
    Started,
    /// A probe of the guest succeeds from here on.
    Answered,
    /// Something is wrong on purpose from here on, or no more.
    Trouble(bool),
}

/// Reasons of actions that happen to a guest only once.
const ONCE: &[&str] = &["Created", "Adopted", "Released"];
/// Reasons of events that tell of an action.
const ACTIONS: &[&str] = &[
    "Created",
    "Adopted",
    "Configured",
    "DriftCorrected",
    "VolumesChanged",
    "GrownVolume",
    "Started",
    "Restarted",
    "Stopped",
    "SnapshotTaken",
    "Converted",
    "Destroyed",
    "ImageDownloaded",
    "ScriptSucceeded",
    "TestFailed",
    "Released",
];
/// Begins of messages that read like an order.
const ORDERS: &[&str] = &[
    "add ",
    "attach ",
    "clone ",
    "configure ",
    "convert ",
    "create ",
    "destroy ",
    "detach ",
    "download ",
    "grow ",
    "remove ",
    "restart ",
    "run ",
    "start ",
    "stop ",
    "take ",
    "write ",
    "starting ",
    "creating ",
];
/// What only Rust writes so.
const DEBUG: &[&str] = &["Some(", "None", "Ok(", "Err(", "{ ", "Vmid(", "\\\""];

/// Whether words have a path of Rust's, such as `Step::Create`; an IPv6 address is none.
fn names_a_path(words: &str) -> bool {
    let capital = |after: &str| after.starts_with(|c: char| c.is_ascii_uppercase());
    words.split("::").skip(1).any(capital)
}

/// What is not so, in words; empty where everything is as it should be.
pub fn faults(seen: &[Seen]) -> Vec<String> {
    let mut witness = Witness::default();
    for entry in seen {
        witness.sees(entry);
    }
    witness.faults
}

#[derive(Default)]
struct Witness {
    object: Value,
    last: Option<Value>,
    /// The guest was started and no probe has succeeded since.
    unproven: bool,
    trouble: bool,
    /// Actions that were told, and whether a status since then said that something is to do.
    told: Vec<(String, String)>,
    worked_since: bool,
    faults: Vec<String>,
}

fn condition<'v>(status: &'v Value, type_: &str) -> Option<&'v Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

fn holds(status: &Value, type_: &str) -> bool {
    condition(status, type_).is_some_and(|c| c["status"] == "True")
}

impl Witness {
    fn sees(&mut self, entry: &Seen) {
        match entry {
            Seen::Object(object) => self.object = object.clone(),
            Seen::Status(status) => {
                self.status(status);
                self.last = Some(status.clone());
            }
            Seen::Event {
                warning,
                reason,
                message,
            } => self.event(*warning, reason, message),
            Seen::Started => self.unproven = true,
            Seen::Answered => self.unproven = false,
            Seen::Trouble(on) => self.trouble = *on,
        }
    }

    fn fault(&mut self, words: String) {
        self.faults.push(words);
    }

    fn spec(&self, field: &str) -> Option<&Value> {
        self.object["spec"].get(field).filter(|value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            value => !value.is_null(),
        })
    }

    fn stopped(&self) -> bool {
        self.object["spec"]["powerState"] == "Stopped"
    }

    fn status(&mut self, status: &Value) {
        if self.last.as_ref() == Some(status) {
            self.fault("a status was written that says nothing new".into());
        }
        if !holds(status, "Ready") {
            self.worked_since = true;
        }
        self.times(status);
        let generation = &self.object["metadata"]["generation"];
        if !generation.is_null() && status["observedGeneration"] != *generation {
            return;
        }
        self.things_that_are_not_there(status);
        if holds(status, "Ready") {
            self.ready(status);
        }
    }

    /// A transition time changes with the status only.
    fn times(&mut self, status: &Value) {
        let Some(last) = self.last.clone() else { return };
        for old in last["conditions"].as_array().into_iter().flatten() {
            let type_ = old["type"].as_str().unwrap_or_default();
            if let Some(new) = condition(status, type_)
                && new["status"] == old["status"]
                && new["lastTransitionTime"] != old["lastTransitionTime"]
            {
                self.fault(format!(
                    "{type_} stays {} and has another transition time",
                    old["status"]
                ));
            }
        }
    }

    fn things_that_are_not_there(&mut self, status: &Value) {
        let serves = ["vllm", "ollama", "llamacpp"]
            .iter()
            .any(|block| self.spec(block).is_some());
        let code = self.spec("application").is_some() || serves;
        // A feature may bring a probe, and a model server does.
        let probes = self.spec("health").is_some() || self.spec("features").is_some() || serves;
        let guest = self.object["kind"] != "PhoenixTemplate";
        // That a GPU works is claimed only where a CUDA program in the guest said so.
        let proof = status["gpuProof"].as_str().unwrap_or_default();
        if holds(status, "GPUReady") && !proof.contains("outcome=ok") {
            self.fault("GPUReady is claimed and not proven".into());
        }
        for (type_, there) in [
            ("TestsPassed", !guest || self.spec("tests").is_some()),
            ("ApplicationReady", !guest || code),
            (
                "Healthy",
                guest && probes && !(self.stopped() && holds(status, "Ready")),
            ),
            ("SnapshotReady", !guest),
        ] {
            if !there && condition(status, type_).is_some() {
                self.fault(format!("{type_} is a condition of something that is not there"));
            }
        }
    }

    fn ready(&mut self, status: &Value) {
        let probed = self.spec("health").is_some() && self.object["kind"] != "PhoenixTemplate";
        if probed && !self.stopped() {
            if self.unproven {
                self.fault("Ready before a probe of this start succeeded".into());
            }
            if !holds(status, "Healthy") {
                self.fault("Ready without being Healthy".into());
            }
        }
        let running = condition(status, "Running");
        let at_rest = self.stopped() || self.object["kind"] == "PhoenixTemplate";
        match running.map(|c| (c["status"].as_str(), c["reason"].as_str())) {
            Some((Some("True"), _)) if !at_rest => {}
            Some((Some("False"), Some("Stopped"))) if at_rest => {}
            other => self.fault(format!("Ready with Running {other:?}")),
        }
        let phase = if self.stopped() { "Stopped" } else { "Ready" };
        if status["phase"] != phase {
            self.fault(format!("Ready in phase {}", status["phase"]));
        }
        if let Some(pending) = condition(status, "RestartRequired") {
            let message = status["message"].as_str().unwrap_or_default();
            if !message.contains(pending["message"].as_str().unwrap_or("?")) {
                self.fault(format!("a restart is required, and the message says {message:?}"));
            }
        }
    }

    fn event(&mut self, warning: bool, reason: &str, message: &str) {
        let told = format!("{reason}: {message}");
        if warning && !self.trouble {
            self.fault(format!("a warning though nothing is wrong: {told}"));
        }
        if ORDERS.iter().any(|order| message.starts_with(order)) {
            self.fault(format!("reads like an order: {told}"));
        }
        if names_a_path(message) || DEBUG.iter().any(|words| message.contains(words)) {
            self.fault(format!("Rust's own words: {told}"));
        }
        if !ACTIONS.contains(&reason) {
            return;
        }
        let entry = (reason.to_string(), message.to_string());
        let again = self.told.last() == Some(&entry) && !self.worked_since;
        if again || (ONCE.contains(&reason) && self.told.contains(&entry)) {
            self.fault(format!("told twice: {told}"));
        }
        self.told.push(entry);
        self.worked_since = false;
    }
}

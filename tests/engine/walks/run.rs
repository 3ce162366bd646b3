//! Takes a walk: edit by edit with what goes wrong between, and what has to be so after each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phoenix::crd::{GuestStatus, RESTARTED_AT};
use phoenix::desired::Key;
use phoenix::engine::store::EventType;
use phoenix::engine::{Point, Tripwire};
use serde_json::{Value, json};

use super::draw::{Change, Step, Walk};
use super::ends;
use super::mishaps::Mishap;
use crate::engine::{ADMISSION, Told, World, hypervisor, object, status, template, told};
use crate::leaves::templates::furnished;
use crate::leaves::walk::named_by;
use crate::truthful::{Seen, faults};

/// Longest time between two looks: somebody always looks sooner or later.
const LONGEST: Duration = Duration::from_secs(60);
/// Looks until an object counts as one that does not settle.
const LOOKS: usize = 60;
/// Looks that what lasts goes on for.
const LASTS: usize = 4;
/// Looks before anything counts as settled: what is around an object may have changed, and it does not know yet.
const FIRST: usize = 1;
/// Looks after which something that failed, and says so, has an end of its kind: its pauses grow longer and longer.
const PATIENCE: usize = 20;

/// What is waited for as long as it takes: its time is the guest's own.
const WAITS: &[&str] = &[
    "AgentNotReady",
    "AgentSilent",
    "CloudInitRunning",
    "ProbeFailed",
    "ScriptFailed",
];

/// What is wrong with a walk: in few words, which stay the same when it is shortened, and in all.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: &'static str,
    pub words: String,
}

/// What came of a walk.
#[derive(Debug, Default)]
pub struct Report {
    pub faults: Vec<Fault>,
    /// How the steps ended.
    pub ready: usize,
    /// Reasons of those that are not Ready.
    pub told: Vec<String>,
    pub refused: usize,
    /// Differences from a new object that something explains.
    pub explained: Vec<&'static str>,
}

/// Cuts the engine off once, so many points after it was armed.
#[derive(Default)]
struct Cutter {
    left: Mutex<Option<usize>>,
    dead: AtomicBool,
}

impl Tripwire for Cutter {
    fn trip(&self, _: &Key, _: Point, _: &str) -> bool {
        let mut left = self.left.lock().unwrap();
        match *left {
            Some(0) => {
                *left = None;
                self.dead.store(true, Ordering::SeqCst);
            }
            Some(n) => *left = Some(n - 1),
            None => {}
        }
        self.dead.load(Ordering::SeqCst)
    }
}

/// An object on its way.
pub struct Walker<'w> {
    pub walk: &'w Walk,
    pub world: World,
    pub key: Key,
    /// The last document that was admitted.
    pub doc: Value,
    object: Value,
    cutter: Arc<Cutter>,
    seen: Vec<Seen>,
    read: usize,
    /// All changes up to here.
    changed: Vec<Change>,
    /// Whether anything may have been told twice.
    cut: bool,
    pub report: Report,
    vmid: Option<i64>,
}

/// A world for a walk, with what is around its object.
async fn ground(walk: &Walk) -> (World, Arc<Cutter>) {
    let mut world = furnished().await;
    let cutter = Arc::new(Cutter::default());
    if let Some(form) = walk.template {
        world.store.apply(template("base", form));
        world.settle(false).await.unwrap();
    }
    // The pauses are those that there are in life: what is refused is not asked for again at once.
    world.time_scale = 1.0;
    world.replace_tripwire(cutter.clone());
    (world, cutter)
}

/// What is around an object becomes as a document says.
fn surround(world: &World, doc: &Value) {
    hypervisor(world, |object| {
        object.spec.defaults = serde_json::from_value(doc["defaults"].clone()).unwrap();
    });
    world.feature("first", doc["feature"].clone());
}

impl<'w> Walker<'w> {
    /// An object of a document, in a world of its own, looked at until it is settled.
    pub async fn begin(walk: &'w Walk, doc: &Value) -> Walker<'w> {
        let (world, cutter) = ground(walk).await;
        surround(&world, doc);
        let object = ADMISSION.check(&walk.manifest(doc), None);
        let object = object.unwrap_or_else(|refused| panic!("the first document is refused: {refused:?}: {doc}"));
        let key = world.store.apply(object.clone());
        let mut walker = Walker {
            walk,
            world,
            key,
            doc: doc.clone(),
            object,
            cutter,
            seen: vec![Seen::Trouble(true)],
            read: 0,
            changed: Vec::new(),
            cut: false,
            report: Report::default(),
            vmid: None,
        };
        walker.note_object();
        walker.settle(&Mishap::Nothing).await;
        walker
    }

    pub fn status(&self) -> GuestStatus {
        status(&self.world, &self.key)
    }

    pub fn ready(&self) -> bool {
        let object = object(&self.world, &self.key);
        object.is_ready() && object.status.observed_generation == Some(object.generation)
    }

    /// Why it is Ready or not.
    fn reason(&self) -> String {
        let ready = self.status().conditions.into_iter().find(|c| c.type_ == "Ready");
        ready.map(|c| c.reason).unwrap_or_default()
    }

    /// Whether a condition holds.
    fn holds(&self, type_: &str) -> bool {
        let conditions = self.status().conditions;
        conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
    }

    pub fn fault(&mut self, what: &'static str, words: String) {
        if self.report.faults.is_empty() && std::env::var("PHOENIX_WALK_TRACE").is_ok() {
            println!("{what}: {words}\n{}", self.trace());
        }
        self.report.faults.push(Fault { what, words });
    }

    fn note_object(&mut self) {
        let mut manifest = self.object.clone();
        manifest["metadata"]["generation"] = json!(object(&self.world, &self.key).generation);
        self.seen.push(Seen::Object(manifest));
    }

    /// Takes in what was written and published since.
    fn read(&mut self) {
        let journal = self.world.store.journal.lock().unwrap();
        let own = journal.iter().skip(self.read).filter(|(key, _)| *key == self.key);
        self.seen.extend(own.map(|(_, told)| match told {
            Told::Status(status) => Seen::Status(serde_json::to_value(status).unwrap()),
            Told::Event(event) => Seen::Event {
                warning: event.type_ == EventType::Warning,
                reason: event.reason.clone(),
                message: event.message.clone(),
            },
        }));
        self.read = journal.len();
    }

    /// Applies what a step makes of the document, unless the API server would not take it.
    fn apply(&mut self, step: &Step) -> bool {
        let next = step
            .changes
            .iter()
            .fold(self.doc.clone(), |doc, change| change.apply(&doc));
        let mut old = self.object.clone();
        old["status"] = serde_json::to_value(self.status()).unwrap();
        let mut manifest = self.walk.manifest(&next);
        manifest["metadata"] = self.object["metadata"].clone();
        let Ok(mut admitted) = ADMISSION.check(&manifest, Some(&old)) else {
            self.report.refused += 1;
            return false;
        };
        admitted.as_object_mut().unwrap().remove("status");
        self.read();
        surround(&self.world, &next);
        (self.doc, self.object) = (next, admitted);
        self.world.store.apply(self.object.clone());
        self.note_object();
        self.changed.extend(step.changes.iter().cloned());
        true
    }

    /// Takes a step.
    pub async fn step(&mut self, step: &Step) {
        let vmid = self.status().vmid.map(|vmid| vmid as u32);
        step.mishap.begin(&self.world, vmid);
        match step.mishap {
            Mishap::Restart => self.world.replace_tripwire(self.cutter.clone()),
            Mishap::Cut(at) => *self.cutter.left.lock().unwrap() = Some(at),
            _ => {}
        }
        self.apply(step);
        self.settle(&step.mishap).await;
        *self.cutter.left.lock().unwrap() = None;
        self.check().await;
    }

    /// Looks at the object until it is settled.
    async fn settle(&mut self, mishap: &Mishap) {
        for look in 0..LOOKS {
            if self.cutter.dead.swap(false, Ordering::SeqCst) {
                self.cut = true;
                self.world.replace_tripwire(self.cutter.clone());
            }
            let lasts = mishap.lasts() && look < LASTS;
            if mishap.lasts() && look == LASTS {
                let vmid = self.status().vmid.map(|vmid| vmid as u32);
                mishap.end(&self.world, vmid);
            }
            if !(lasts && matches!(mishap, Mishap::Unpolled)) {
                self.world.poll().await;
            }
            let after = self.world.look_at(&self.key).await;
            let dead = self.cutter.dead.load(Ordering::SeqCst);
            if look >= FIRST && !lasts && !dead && (self.ready() || self.stands(look)) {
                return;
            }
            tokio::time::sleep(after.clamp(Duration::from_millis(100), LONGEST)).await;
        }
        if !WAITS.contains(&self.reason().as_str()) {
            let words = format!("{}\n{:?}", told(&self.world, &self.key), self.status().last_error);
            self.fault("does not settle", words);
        }
    }

    /// What was asked and told last, for people.
    fn trace(&self) -> String {
        let requests = self.world.sim().requests();
        let requests = requests.iter().rev().take(60).rev();
        let mut lines: Vec<String> = requests
            .map(|r| format!("{} {} {} {}", r.method, r.path, r.query, r.status))
            .collect();
        let journal = self.world.store.journal.lock().unwrap();
        let told = journal.iter().rev().take(30).rev().map(|(_, told)| match told {
            Told::Status(status) => format!("{:?} {:?} {:?}", status.phase, status.message, status.last_error),
            Told::Event(event) => format!("{}: {}", event.reason, event.message),
        });
        lines.extend(told);
        lines.join("\n")
    }

    /// Whether it goes no further, and says why.
    fn stands(&self, look: usize) -> bool {
        let status = self.status();
        let seen = status.observed_generation == Some(object(&self.world, &self.key).generation);
        seen && look > LASTS
            && (self.holds("Stalled")
                || (look > PATIENCE && (status.last_error.is_some() || status.next_retry.is_some())))
    }

    /// What has to be so of an object that is settled.
    async fn check(&mut self) {
        if self.ready() {
            self.report.ready += 1;
            self.nothing_is_left().await;
        } else {
            let reason = self.reason();
            self.report.told.push(reason);
            self.it_says_why();
        }
        self.nothing_is_repeated().await;
        if let Err(words) = self.world.check_invariants() {
            self.fault("invariants", words);
        }
        let vmid = self.status().vmid;
        if self.vmid.is_some() && vmid != self.vmid && self.walk.kind != "PhoenixTemplate" {
            self.fault("another guest", format!("{:?}, then {vmid:?}", self.vmid));
        }
        self.vmid = vmid;
    }

    async fn nothing_is_left(&mut self) {
        let preview = self.world.preview(&self.key).await;
        if !preview.steps.is_empty() {
            self.fault("Ready with steps left", format!("{:?}", preview.steps));
        }
        if let Some(cause) = preview.blocked {
            self.fault("Ready though blocked", cause.to_string());
        }
    }

    /// What is refused names a field that was changed.
    fn it_says_why(&mut self) {
        let status = self.status();
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        let words = ready.map_or(String::new(), |c| format!("{}: {}", c.reason, c.message));
        if words.len() < 20 || words.contains("InternalError") {
            return self.fault("says nothing", format!("{words}; {:?}", status.last_error));
        }
        let fields: Vec<&str> = self.changed.iter().map(Change::field).collect();
        let named = fields.iter().any(|field| named_by(field, &words));
        if self.holds("Stalled") && !named {
            let words = format!("{words}; changed {fields:?}");
            self.fault("names no field", words);
        }
    }

    /// What is looked at again at once writes nothing.
    async fn nothing_is_repeated(&mut self) {
        // What was refused may be due again, once.
        self.world.poll().await;
        self.world.look_at(&self.key).await;
        let from = self.world.sim().requests().len();
        let written = self.world.store.status_writes.load(Ordering::SeqCst);
        self.world.look_at(&self.key).await;
        let log = self.world.sim().requests();
        let writes = log[from..].iter().filter(|r| r.is_write());
        let writes = writes.filter(|r| r.path != "/access/ticket" && !r.path.contains("/agent/"));
        let writes: Vec<String> = writes.map(|r| format!("{} {}", r.method, r.path)).collect();
        if !writes.is_empty() {
            self.fault("repeats", format!("{writes:?}\n{}", told(&self.world, &self.key)));
        }
        if self.world.store.status_writes.load(Ordering::SeqCst) != written {
            self.fault("writes status again", told(&self.world, &self.key));
        }
    }

    /// All that waits for a restart, or for a pause to end, happens.
    async fn finish(&mut self) {
        self.world.sim().clear_faults();
        self.world.sim().with(|state| {
            state.task_faults.clear();
            state.ssh.faults.clear();
        });
        self.read();
        let mut annotations = json!({"phoenix-hypervisor.io/reconcile": "end"});
        if self.holds("RestartRequired") {
            annotations[RESTARTED_AT] = json!("end");
        }
        self.object["metadata"]["annotations"] = annotations;
        self.world.store.apply(self.object.clone());
        self.note_object();
        self.settle(&Mishap::Nothing).await;
        // What the restart brought may need another look.
        self.settle(&Mishap::Nothing).await;
        self.check().await;
        self.read();
        for words in faults(&self.seen) {
            // One that was killed may have told it, and not have noted that it did.
            if !(self.cut && words.starts_with("told twice")) {
                self.fault("not so", words);
            }
        }
    }
}

/// Takes a walk to its end, and compares it with a new object.
pub async fn run(walk: &Walk) -> Report {
    let mut walker = Walker::begin(walk, &walk.first).await;
    if !walker.ready() {
        let words = told(&walker.world, &walker.key);
        walker.fault("not Ready to begin with", words);
        return walker.report;
    }
    walker.vmid = walker.status().vmid;
    for step in &walk.steps {
        walker.step(step).await;
    }
    walker.finish().await;
    let fresh = Walker::begin(walk, &walker.doc.clone()).await;
    ends::compare(&mut walker, &fresh);
    walker.report
}

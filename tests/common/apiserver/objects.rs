//! What an API server keeps: objects under versions that grow, and the changes that led to them. Pure but for the clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::body::Bytes;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// Resources that are served: plural, `apiVersion`, kind.
const KINDS: &[(&str, &str, &str)] = &[
    ("namespaces", "v1", "Namespace"),
    ("secrets", "v1", "Secret"),
    ("configmaps", "v1", "ConfigMap"),
    (
        "phoenixhypervisors",
        "phoenix-hypervisor.io/v1alpha1",
        "PhoenixHypervisor",
    ),
    ("phoenixfeatures", "phoenix-hypervisor.io/v1alpha1", "PhoenixFeature"),
    ("phoenixtemplates", "phoenix-hypervisor.io/v1alpha1", "PhoenixTemplate"),
    ("phoenixlxcs", "phoenix-hypervisor.io/v1alpha1", "PhoenixLXC"),
    ("phoenixvms", "phoenix-hypervisor.io/v1alpha1", "PhoenixVM"),
    (
        "customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    ),
    ("rolebindings", "rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("leases", "coordination.k8s.io/v1", "Lease"),
    ("services", "v1", "Service"),
    ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("events", "events.k8s.io/v1", "Event"),
];

/// Changes of a resource that are kept for watches.
const KEPT: usize = 20_000;

/// Time between two of the states that are kept for stale listings, in seconds, and how many.
const PAST: (u64, usize) = (20, 32);

/// Plural, `apiVersion` and kind of what `wanted` is a part of.
fn kind_of(
    wanted: impl Fn(&(&str, &str, &str)) -> bool,
) -> Option<&'static (&'static str, &'static str, &'static str)> {
    KINDS.iter().find(|kind| wanted(kind))
}

/// The plural of a resource that is served.
pub fn resource(plural: &str) -> Option<&'static str> {
    kind_of(|kind| kind.0 == plural).map(|kind| kind.0)
}

/// The plural of a kind that is served.
pub fn resource_of(kind: &str) -> Option<&'static str> {
    kind_of(|known| known.2 == kind).map(|kind| kind.0)
}

/// Where an object is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub resource: &'static str,
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn new(resource: &'static str, namespace: &str, name: &str) -> Id {
        let (namespace, name) = (namespace.into(), name.into());
        Id {
            resource,
            namespace,
            name,
        }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Failure { code, reason, message }
    }

    fn conflict(id: &Id) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": modified",
            id.resource, id.name
        );
        Failure::new(409, "Conflict", message)
    }

    /// As a `Status`.
    pub fn status(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code})
    }
}

/// One change, as watches tell it.
#[derive(Clone, Debug)]
pub struct Change {
    pub version: u64,
    pub at: Instant,
    namespace: String,
    pub line: Bytes,
}

type Live = BTreeMap<&'static str, BTreeMap<(String, String), Arc<Value>>>;

/// All objects at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    live: Live,
}

/// The objects of an API server.
#[derive(Debug)]
pub struct Objects {
    now: Snapshot,
    changes: BTreeMap<&'static str, VecDeque<Change>>,
    /// Watches from before this version are told that it is too old.
    forgotten: u64,
    /// How often something of a name was created.
    lives: BTreeMap<String, u32>,
    /// Milliseconds since 1970 at which the clock began.
    begin: u64,
    began: Instant,
    past: VecDeque<(Instant, Snapshot)>,
}

impl Objects {
    pub fn new(begin: u64) -> Self {
        Objects {
            now: Snapshot {
                version: 1000,
                live: Live::default(),
            },
            changes: BTreeMap::new(),
            forgotten: 0,
            lives: BTreeMap::new(),
            begin,
            began: Instant::now(),
            past: VecDeque::new(),
        }
    }

    /// Milliseconds since it began.
    pub fn millis(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub fn version(&self) -> u64 {
        self.now.version
    }

    fn timestamp(&self) -> String {
        let seconds = (self.begin + self.millis()) / 1000;
        Timestamp::from_second(seconds as i64).unwrap().to_string()
    }

    pub fn get(&self, id: &Id) -> Result<Arc<Value>, Failure> {
        let at = (id.namespace.clone(), id.name.clone());
        let found = self.now.live.get(id.resource).and_then(|all| all.get(&at)).cloned();
        found.ok_or_else(|| Failure::new(404, "NotFound", format!("{} \"{}\" not found", id.resource, id.name)))
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.now.live.get(resource).into_iter().flat_map(BTreeMap::values)
    }

    /// A page of a listing: as things are, or as they were `ago`.
    pub fn list(&self, resource: &str, namespace: Option<&str>, page: &Page, ago: std::time::Duration) -> Value {
        let stale = self
            .past
            .iter()
            .rev()
            .find(|(at, _)| !ago.is_zero() && at.elapsed() >= ago);
        let shown = stale.map_or(&self.now, |(_, snapshot)| snapshot);
        let (version, after) = match page.token.split_once(' ') {
            Some((version, after)) => (version.to_string(), Some(after.to_string())),
            None => (shown.version.to_string(), None),
        };
        let place = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
        let all = shown.live.get(resource).into_iter().flatten();
        let within = all.filter(|((at, _), _)| namespace.is_none_or(|namespace| namespace == at));
        let mut rest = within
            .skip_while(|(at, _)| after.as_ref().is_some_and(|after| place(at) != *after))
            .peekable();
        if after.is_some() {
            rest.next();
        }
        let shown: Vec<_> = rest.by_ref().take(page.limit).collect();
        let token = match (rest.peek(), shown.last()) {
            (Some(_), Some((at, _))) => format!("{version} {}", place(at)),
            _ => String::new(),
        };
        let kind = kind_of(|kind| kind.0 == resource).unwrap();
        let items: Vec<&Value> = shown.iter().map(|(_, object)| object.as_ref()).collect();
        json!({"apiVersion": kind.1, "kind": format!("{}List", kind.2),
            "metadata": {"resourceVersion": version, "continue": token}, "items": items})
    }

    pub fn create(&mut self, id: &Id, mut object: Value) -> Result<Arc<Value>, Failure> {
        if self.get(id).is_ok() {
            let message = format!("{} \"{}\" already exists", id.resource, id.name);
            return Err(Failure::new(409, "AlreadyExists", message));
        }
        // The same each time, whatever else is created before.
        let place = format!("{} {}/{}", id.resource, id.namespace, id.name);
        let times = self.lives.entry(place.clone()).or_default();
        *times += 1;
        let uid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("{place} {times}").as_bytes());
        let kind = kind_of(|kind| kind.0 == id.resource).unwrap();
        (object["apiVersion"], object["kind"]) = (json!(kind.1), json!(kind.2));
        let meta = &mut object["metadata"];
        (meta["name"], meta["uid"]) = (json!(id.name), json!(uid.to_string()));
        if !id.namespace.is_empty() {
            meta["namespace"] = json!(id.namespace);
        }
        (meta["creationTimestamp"], meta["generation"]) = (json!(self.timestamp()), json!(1));
        Ok(self.commit(id, object, "ADDED"))
    }

    /// Replaces an object, or its status alone.
    pub fn replace(&mut self, id: &Id, body: &Value, status: bool) -> Result<Arc<Value>, Failure> {
        let old = self.get(id)?;
        self.under_version(id, &old, &body["metadata"]["resourceVersion"])?;
        let mut new = (*old).clone();
        if status {
            new["status"] = body["status"].clone();
            return Ok(self.update(id, &old, new));
        }
        let kept = new["metadata"].take();
        new = body.clone();
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "resourceVersion",
            "deletionTimestamp",
        ] {
            match kept.get(field) {
                Some(value) => new["metadata"][field] = value.clone(),
                None => drop(new["metadata"].as_object_mut().map(|meta| meta.remove(field))),
            }
        }
        Ok(self.update(id, &old, new))
    }

    /// A merge patch.
    pub fn merge(&mut self, id: &Id, patch: &Value) -> Result<Arc<Value>, Failure> {
        let old = self.get(id)?;
        self.under_version(id, &old, &patch["metadata"]["resourceVersion"])?;
        let mut new = (*old).clone();
        merge(&mut new, patch);
        Ok(self.update(id, &old, new))
    }

    fn under_version(&self, id: &Id, object: &Value, version: &Value) -> Result<(), Failure> {
        match version.is_null() || *version == object["metadata"]["resourceVersion"] {
            true => Ok(()),
            false => Err(Failure::conflict(id)),
        }
    }

    /// Puts a changed object in its place; what does not differ is no change, and what was only held by finalizers goes
    /// with the last of them.
    pub fn update(&mut self, id: &Id, old: &Arc<Value>, mut new: Value) -> Arc<Value> {
        if let Some(meta) = new["metadata"].as_object_mut()
            && meta
                .get("finalizers")
                .and_then(Value::as_array)
                .is_some_and(Vec::is_empty)
        {
            meta.remove("finalizers");
        }
        if **old == new {
            return old.clone();
        }
        if old["spec"] != new["spec"] {
            bump_generation(&mut new);
        }
        if !new["metadata"]["deletionTimestamp"].is_null() && new["metadata"]["finalizers"].is_null() {
            let uid = new["metadata"]["uid"].clone();
            let gone = self.commit(id, new, "DELETED");
            self.collect_garbage(&uid);
            return gone;
        }
        self.commit(id, new, "MODIFIED")
    }

    /// Deletes an object, or marks it where finalizers hold it.
    pub fn delete(&mut self, id: &Id) -> Result<(), Failure> {
        let old = self.get(id)?;
        let mut new = (*old).clone();
        if new["metadata"]["finalizers"].is_null() {
            self.commit(id, new, "DELETED");
        } else if new["metadata"]["deletionTimestamp"].is_null() {
            new["metadata"]["deletionTimestamp"] = json!(self.timestamp());
            new["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            bump_generation(&mut new);
            self.commit(id, new, "MODIFIED");
        }
        Ok(())
    }

    /// What belongs to an object that is gone goes, too.
    fn collect_garbage(&mut self, owner: &Value) {
        for resource in ["services", "endpointslices"] {
            let owned = |object: &&Arc<Value>| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                owners.into_iter().flatten().any(|reference| reference["uid"] == *owner)
            };
            let owned: Vec<Arc<Value>> = self.all(resource).filter(owned).cloned().collect();
            for object in owned {
                let text = |key: &str| object["metadata"][key].as_str().unwrap().to_string();
                // It is there.
                let _ = self.delete(&Id::new(resource, &text("namespace"), &text("name")));
            }
        }
    }

    fn commit(&mut self, id: &Id, mut object: Value, change: &str) -> Arc<Value> {
        self.remember();
        self.now.version += 1;
        let version = self.now.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let line = format!("{{\"type\":\"{change}\",\"object\":{object}}}\n");
        let object = Arc::new(object);
        let all = self.now.live.entry(id.resource).or_default();
        let at = (id.namespace.clone(), id.name.clone());
        match change {
            "DELETED" => drop(all.remove(&at)),
            // Nobody reads or watches events: they are kept in the journal.
            _ if id.resource == "events" => return object,
            _ => drop(all.insert(at, object.clone())),
        }
        let changes = self.changes.entry(id.resource).or_default();
        changes.push_back(Change {
            version,
            at: Instant::now(),
            namespace: id.namespace.clone(),
            line: line.into(),
        });
        if changes.len() > KEPT
            && let Some(first) = changes.pop_front()
        {
            self.forgotten = self.forgotten.max(first.version);
        }
        object
    }

    fn remember(&mut self) {
        if self.past.back().is_none_or(|(at, _)| at.elapsed().as_secs() >= PAST.0) {
            self.past.push_back((Instant::now(), self.now.clone()));
        }
        if self.past.len() > PAST.1 {
            self.past.pop_front();
        }
    }

    /// The next change after a version, or the version up to which there is none.
    ///
    /// # Errors
    /// When changes after that version are forgotten.
    pub fn next(&self, resource: &str, namespace: Option<&str>, after: u64) -> Result<Result<Change, u64>, Failure> {
        // From a version that is still to come nothing is told until then, without a word: so does a real one.
        if after < self.forgotten {
            return Err(Failure::new(
                410,
                "Expired",
                format!("too old resource version: {after}"),
            ));
        }
        let Some(changes) = self.changes.get(resource) else {
            return Ok(Err(after));
        };
        let first = changes.partition_point(|change| change.version <= after);
        let mut rest = changes.range(first..);
        let found = rest.find(|change| namespace.is_none_or(|namespace| namespace == change.namespace));
        Ok(found
            .cloned()
            .ok_or_else(|| changes.back().map_or(after, |last| last.version.max(after))))
    }

    /// The changes that are kept of all resources whose names begin so, in order.
    pub fn changes(&self, prefix: &str) -> Vec<Value> {
        let of = self.changes.iter().filter(|(resource, _)| resource.starts_with(prefix));
        let mut changes: Vec<&Change> = of.flat_map(|(_, changes)| changes).collect();
        changes.sort_by_key(|change| change.version);
        let parsed = changes
            .iter()
            .map(|change| serde_json::from_slice(&change.line).unwrap());
        parsed.collect()
    }

    /// All objects as they are.
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// All objects as they were, versions too, as after a restore of the datastore.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.now = snapshot;
        self.changes.clear();
        self.past.clear();
        self.forgotten = self.now.version;
    }

    /// Forgets all changes: whoever watches from before now has to list anew.
    pub fn forget_changes(&mut self) {
        self.changes.clear();
        self.forgotten = self.now.version;
    }
}

/// A part of a listing that is asked for.
pub struct Page {
    pub limit: usize,
    pub token: String,
}

fn bump_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    object["metadata"]["generation"] = json!(generation + 1);
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in fields {
        match value.is_null() {
            true => drop(target.as_object_mut().map(|target| target.remove(key))),
            false => merge(&mut target[key], value),
        }
    }
}

//! An API server in process: what the operator asks for, and no more. It is a service for `kube::Client`, keeps its
//! objects in memory, and all of its time is that of the asynchronous runtime.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

mod objects;
mod watching;
pub mod weather;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use phoenix::admission::Admission;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use objects::{Failure, Id, Objects, Page};
pub use objects::{Snapshot, resource_of};
use watching::{Watch, lines};
use weather::{Call, Calm, Ending, Trouble, Weather};

/// The checks of the kinds of Phoenix; compiling them takes long.
static ADMISSION: LazyLock<Admission> = LazyLock::new(|| Admission::new().unwrap());

/// An API server; clones are the same one.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    objects: Mutex<Objects>,
    /// Wakes the watches, in the order in which they came (a channel would wake them by chance).
    changed: Notify,
    /// How often the server was started.
    starts: AtomicU64,
    weather: Mutex<Arc<dyn Weather>>,
    journal: Mutex<Journal>,
}

/// What was asked for.
#[derive(Default)]
pub struct Journal {
    /// Every write with its moment, caller and outcome, in order.
    pub writes: Vec<String>,
    /// Events, in words.
    pub events: Vec<String>,
    /// Whether writes are kept.
    pub keeps: bool,
    /// Calls by method and resource.
    pub counts: BTreeMap<String, usize>,
}

/// What a path names.
struct Target {
    id: Id,
    /// Whether all namespaces are meant.
    everywhere: bool,
    status: bool,
}

impl ApiServer {
    /// An API server without objects but the namespace `kube-system` with this uid, whose clock begins at so many
    /// milliseconds since 1970.
    pub fn new(cluster_id: &str, begin: u64) -> Self {
        let inner = Inner {
            objects: Mutex::new(Objects::new(begin)),
            changed: Notify::new(),
            starts: AtomicU64::new(0),
            weather: Mutex::new(Arc::new(Calm)),
            journal: Mutex::new(Journal {
                keeps: true,
                ..Journal::default()
            }),
        };
        let server = ApiServer(Arc::new(inner));
        let id = Id::new("namespaces", "", "kube-system");
        let made = server.objects().create(&id, json!({"metadata": {}})).unwrap();
        let mut renamed = (*made).clone();
        renamed["metadata"]["uid"] = json!(cluster_id);
        server.objects().update(&id, &made, renamed);
        server
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.objects.lock().unwrap()
    }

    fn starts(&self) -> u64 {
        self.0.starts.load(Ordering::SeqCst)
    }

    fn weather(&self) -> Arc<dyn Weather> {
        self.0.weather.lock().unwrap().clone()
    }

    /// What was asked for so far.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().unwrap()
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Arc<dyn Weather>) {
        *self.0.weather.lock().unwrap() = weather;
    }

    /// Tells the watches that something changed.
    fn beat(&self) {
        self.0.changed.notify_waiters();
    }

    /// All watches break, as when the server is started anew.
    fn break_watches(&self) {
        self.0.starts.fetch_add(1, Ordering::SeqCst);
        self.beat();
    }

    /// Applies a manifest as `kubectl apply` does; what the kinds' checks refuse is an error.
    pub fn apply(&self, mut manifest: Value) -> Result<Arc<Value>, String> {
        let kind = manifest["kind"].as_str().unwrap_or_default().to_string();
        let resource = resource_of(&kind).ok_or_else(|| format!("no kind {kind}"))?;
        let text = |key: &str| manifest["metadata"][key].as_str().unwrap_or_default().to_string();
        let id = Id::new(resource, &text("namespace"), &text("name"));
        if let Some(texts) = manifest["stringData"].as_object().cloned() {
            let coded =
                |value: &Value| base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            let data = texts.iter().map(|(key, value)| (key.clone(), json!(coded(value))));
            manifest["data"] = Value::Object(data.collect());
            manifest.as_object_mut().map(|manifest| manifest.remove("stringData"));
        }
        let old = self.objects().get(&id).ok();
        if resource.starts_with("phoenix") {
            let checked = ADMISSION.check(&manifest, old.as_deref());
            manifest = checked.map_err(|violations| format!("{id:?}: {violations:?}"))?;
        }
        let mut objects = self.objects();
        let applied = match old {
            // The checks have put the kind's default in the place of a status that was given.
            None => objects.create(&id, manifest),
            Some(old) => {
                let mut new = (*old).clone();
                for field in ["spec", "data"] {
                    if !manifest[field].is_null() {
                        new[field] = manifest[field].clone();
                    }
                }
                for field in ["labels", "annotations"] {
                    if !manifest["metadata"][field].is_null() {
                        new["metadata"][field] = manifest["metadata"][field].clone();
                    }
                }
                Ok(objects.update(&id, &old, new))
            }
        };
        drop(objects);
        self.beat();
        applied.map_err(|failure| failure.message)
    }

    /// Deletes an object as `kubectl delete` does without waiting.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let id = Id::new(resource_of(kind).unwrap(), namespace, name);
        // What is gone already need not be deleted.
        let _ = self.objects().delete(&id);
        self.beat();
    }

    /// Changes an object as somebody does who may write everything.
    pub fn edit(&self, kind: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let id = Id::new(resource_of(kind).unwrap(), namespace, name);
        let mut objects = self.objects();
        let old = objects.get(&id).unwrap();
        let mut new = (*old).clone();
        change(&mut new);
        objects.update(&id, &old, new);
        drop(objects);
        self.beat();
    }

    /// An object as it is kept.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let id = Id::new(resource_of(kind)?, namespace, name);
        self.objects().get(&id).ok()
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<Arc<Value>> {
        let objects = self.objects();
        resource_of(kind)
            .into_iter()
            .flat_map(|resource| objects.all(resource))
            .cloned()
            .collect()
    }

    /// Every change of Phoenix's kinds that is kept, in order, as watches tell it: its type and the object.
    pub fn changes(&self) -> Vec<Value> {
        self.objects().changes("phoenix")
    }

    /// All objects, to be restored later.
    pub fn snapshot(&self) -> Snapshot {
        self.objects().snapshot()
    }

    /// The datastore is restored from a snapshot: versions go back, and all watches break.
    pub fn restore(&self, snapshot: Snapshot) {
        self.objects().restore(snapshot);
        self.break_watches();
    }

    /// All watches break, and none can go on where it was.
    pub fn restart(&self) {
        self.objects().forget_changes();
        self.break_watches();
    }

    /// Answers a request; an error is a connection that broke.
    pub async fn serve(&self, caller: &str, request: Request<kube::client::Body>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let query: BTreeMap<String, String> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let target = match target(parts.uri.path()) {
            Some(target) => target,
            None => {
                return Ok(answer(Err(Failure::new(
                    404,
                    "NotFound",
                    format!("no {}", parts.uri.path()),
                ))));
            }
        };
        let watches = query.get("watch").is_some_and(|watch| watch == "true");
        let name = if watches { "watch" } else { &target.id.name };
        let sky = self.weather().call(&Call {
            caller,
            method: parts.method.as_str(),
            resource: target.id.resource,
            name,
        });
        tokio::time::sleep(sky.before).await;
        let broken = || Err(io::Error::other("connection reset by peer"));
        let mut ago = Duration::ZERO;
        match sky.trouble {
            Some(Trouble::LostBefore) => return broken(),
            Some(Trouble::Refused(code)) => {
                return Ok(answer(Err(Failure::new(
                    code,
                    "ServiceUnavailable",
                    "please try again later",
                ))));
            }
            Some(Trouble::Meddled) => self.meddle(&target.id),
            Some(Trouble::Stale(by)) => ago = by,
            Some(Trouble::LostAfter) | None => {}
        }
        if watches {
            return Ok(self.watch(caller, &target, &query));
        }
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let result = self.perform(&parts.method, &target, &query, &body, ago);
        self.note(caller, &parts.method, &target, &body, &result);
        if parts.method != Method::GET {
            self.beat();
        }
        tokio::time::sleep(sky.after).await;
        match sky.trouble {
            Some(Trouble::LostAfter) => broken(),
            _ => Ok(answer(result)),
        }
    }

    fn perform(
        &self,
        method: &Method,
        target: &Target,
        query: &BTreeMap<String, String>,
        body: &Value,
        ago: Duration,
    ) -> Result<Value, Failure> {
        let mut objects = self.objects();
        let id = &target.id;
        let namespace = (!target.everywhere).then_some(id.namespace.as_str());
        let found = match (method.as_str(), id.name.as_str()) {
            ("GET", "") => {
                let page = Page {
                    limit: query
                        .get("limit")
                        .and_then(|limit| limit.parse().ok())
                        .unwrap_or(usize::MAX),
                    token: query.get("continue").cloned().unwrap_or_default(),
                };
                let named = query
                    .get("fieldSelector")
                    .and_then(|text| text.strip_prefix("metadata.name="));
                let mut list = objects.list(id.resource, namespace, &page, ago);
                if let (Some(named), Some(items)) = (named, list["items"].as_array_mut()) {
                    items.retain(|object| object["metadata"]["name"] == named);
                }
                if let (Some(selector), Some(items)) = (query.get("labelSelector"), list["items"].as_array_mut()) {
                    items.retain(|object| selected(object, selector));
                }
                return Ok(list);
            }
            ("GET", _) if id.resource == "customresourcedefinitions" => {
                return Ok(
                    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                    "metadata": {"name": id.name}}),
                );
            }
            ("GET", _) => objects.get(id),
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                objects.create(&Id::new(id.resource, &id.namespace, name), body.clone())
            }
            // Events are not kept, so that there is nothing to patch.
            ("PATCH", _) if id.resource == "events" => return Ok(body.clone()),
            ("PATCH", _) => objects.merge(id, body),
            ("DELETE", _) => {
                let old = objects.get(id)?;
                let asked = &body["preconditions"];
                for part in ["uid", "resourceVersion"] {
                    if !asked[part].is_null() && asked[part] != old["metadata"][part] {
                        return Err(Failure::new(409, "Conflict", "a precondition does not hold"));
                    }
                }
                objects.delete(id)?;
                Ok(old)
            }
            ("PUT", _) => objects.replace(id, body, target.status),
            _ => Err(Failure::new(405, "MethodNotAllowed", "not served")),
        };
        found.map(|object| (*object).clone())
    }

    /// Somebody else writes an object.
    fn meddle(&self, id: &Id) {
        let mut objects = self.objects();
        let Ok(old) = objects.get(id) else { return };
        let mut new = (*old).clone();
        let times = new["metadata"]["labels"]["meddled"]
            .as_str()
            .and_then(|n| n.parse::<u32>().ok());
        new["metadata"]["labels"]["meddled"] = json!((times.unwrap_or_default() + 1).to_string());
        objects.update(id, &old, new);
    }

    fn watch(&self, caller: &str, target: &Target, query: &BTreeMap<String, String>) -> Response<Body> {
        let number = |key: &str| query.get(key).and_then(|text| text.parse().ok()).unwrap_or_default();
        let (life, ending) = self.weather().life(caller, target.id.resource);
        let timeout = Duration::from_secs(number("timeoutSeconds"));
        let ending = if life < timeout { ending } else { Ending::Clean };
        let watch = Watch {
            server: self.clone(),
            caller: caller.into(),
            resource: target.id.resource,
            namespace: (!target.everywhere).then(|| target.id.namespace.clone()),
            selector: query.get("labelSelector").cloned(),
            after: number("resourceVersion"),
            ends: Instant::now() + life.min(timeout),
            ending,
            told: Instant::now(),
            start: self.starts(),
            over: false,
        };
        self.journal().count(&Method::GET, target.id.resource, "watch");
        Response::new(Body::new(StreamBody::new(lines(watch))))
    }

    fn note(&self, caller: &str, method: &Method, target: &Target, body: &Value, result: &Result<Value, Failure>) {
        let Target { id, status, .. } = target;
        let mut journal = self.journal();
        let part = match (status, id.name.as_str()) {
            (true, _) => "status",
            (_, "") if method == Method::GET => "list",
            _ => "",
        };
        journal.count(method, id.resource, part);
        if method == Method::GET || !journal.keeps {
            return;
        }
        let code = result.as_ref().map_or_else(|failure| failure.code, |_| 200);
        let at = self.objects().millis();
        let what = match id.resource {
            // The recorder's times are those of the machine.
            "events" => {
                let text = |field: &str| body[field].as_str().unwrap_or_default();
                let event = format!(
                    "{} {} {}: {}",
                    text("type"),
                    text("reason"),
                    body["regarding"]["name"],
                    text("note")
                );
                journal.events.push(event.clone());
                event
            }
            _ => format!("{}/{} {part} {body}", id.namespace, id.name),
        };
        journal
            .writes
            .push(format!("{at} {caller} {method} {} {what} {code}", id.resource));
    }
}

impl Journal {
    fn count(&mut self, method: &Method, resource: &str, part: &str) {
        let key = format!("{method} {resource} {part}");
        *self.counts.entry(key.trim_end().into()).or_default() += 1;
    }
}

/// Whether an object has the labels of a selector.
fn selected(object: &Value, selector: &str) -> bool {
    let has = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(key, value)| object["metadata"]["labels"][key] == value)
    };
    selector.split(',').all(has)
}

/// What a path names, if it is served.
fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, status) = match rest {
        [plural] => (plural, "", false),
        [plural, name] => (plural, *name, false),
        [plural, name, "status"] => (plural, *name, true),
        _ => return None,
    };
    Some(Target {
        id: Id::new(objects::resource(plural)?, namespace.unwrap_or_default(), name),
        everywhere: namespace.is_none(),
        status,
    })
}

fn answer(result: Result<Value, Failure>) -> Response<Body> {
    let (code, body) = match result {
        Ok(body) => (200, body),
        Err(failure) => (failure.code, failure.status()),
    };
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

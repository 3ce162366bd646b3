//! Holds each write of each operator back until the search lets it go, and says what becomes of it. Reads pass.

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use phoenix::crd::{GuestKind, GuestStatus, PhoenixFeature, PhoenixHypervisor};
use phoenix::desired::{GuestObject, Index, Key, Objects};
use phoenix::engine::Outside;
use phoenix::engine::outside::{Answer, ApiCarrier, Lost, SshCarrier};
use phoenix::engine::store::{Event, Store, StoreError};
use tokio::sync::oneshot;

use crate::engine::TestStore;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It takes effect, and its answer arrives.
    Done,
    /// It is lost on its way.
    Lost,
    /// It takes effect, and its answer is lost.
    AnswerLost,
    /// It is refused for a reason that passes.
    Refused,
}

impl Fate {
    pub const ALL: [Fate; 4] = [Fate::Done, Fate::Lost, Fate::AnswerLost, Fate::Refused];
}

/// A write that waits.
pub struct Held {
    /// Number of the operator.
    pub who: usize,
    pub what: String,
    go: oneshot::Sender<Fate>,
}

impl Held {
    /// Lets it go.
    pub fn let_go(self, fate: Fate) {
        // Who waited may have been cut off.
        let _ = self.go.send(fate);
    }
}

/// The writes that wait, in the order in which they came.
#[derive(Default)]
pub struct Gate {
    held: Mutex<Vec<Held>>,
}

impl Gate {
    async fn pass(&self, who: usize, what: String) -> Fate {
        let (go, gone) = oneshot::channel();
        self.held.lock().unwrap().push(Held { who, what, go });
        gone.await.unwrap_or(Fate::Lost)
    }

    /// What waits: the operator and the write, in an order that does not depend on chance.
    pub fn waiting(&self) -> Vec<(usize, String)> {
        let held = self.held.lock().unwrap();
        held.iter().map(|held| (held.who, held.what.clone())).collect()
    }

    /// Takes one out.
    pub fn take(&self, n: usize) -> Held {
        self.held.lock().unwrap().remove(n)
    }
}

/// One operator's way to Proxmox.
pub struct GatedOutside {
    pub who: usize,
    pub gate: Arc<Gate>,
    pub inner: Arc<dyn Outside>,
}

struct Carrier {
    who: usize,
    gate: Arc<Gate>,
    inner: Arc<dyn ApiCarrier>,
}

impl Carrier {
    async fn answer(&self, request: reqwest::Request) -> Result<Answer, Lost> {
        let path = request.url().path().trim_start_matches("/api2/json").to_owned();
        if request.method() == "GET" || path == "/access/ticket" {
            return self.inner.carry(request).await;
        }
        let what = format!("{} {path}", request.method());
        match self.gate.pass(self.who, what).await {
            Fate::Done => self.inner.carry(request).await,
            Fate::Lost => Err(Lost::Unknown("connection closed before message completed".into())),
            Fate::AnswerLost => {
                drop(self.inner.carry(request).await);
                Err(Lost::Unknown("connection closed before message completed".into()))
            }
            Fate::Refused => Ok(Answer {
                status: 500,
                reason: "got timeout".into(),
                body: "{\"data\":null}".into(),
            }),
        }
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the way to Proxmox of operator {}", self.who)
    }
}

impl ApiCarrier for Carrier {
    fn carry(&self, request: reqwest::Request) -> BoxFuture<'_, Result<Answer, Lost>> {
        self.answer(request).boxed()
    }
}

impl Outside for GatedOutside {
    fn now(&self) -> i64 {
        self.inner.now()
    }
    fn api(&self) -> Arc<dyn ApiCarrier> {
        Arc::new(Carrier {
            who: self.who,
            gate: self.gate.clone(),
            inner: self.inner.api(),
        })
    }
    fn ssh(&self) -> Arc<dyn SshCarrier> {
        self.inner.ssh()
    }
}

/// One operator's way to the objects.
pub struct GatedStore {
    pub who: usize,
    pub gate: Arc<Gate>,
    pub inner: Arc<TestStore>,
}

impl GatedStore {
    async fn write<T>(
        &self,
        what: String,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let lost = || StoreError::Other("connection closed before message completed".into());
        match self.gate.pass(self.who, what).await {
            Fate::Done => write.await,
            Fate::AnswerLost => {
                drop(write.await);
                Err(lost())
            }
            Fate::Lost | Fate::Refused => Err(lost()),
        }
    }
}

impl Objects for GatedStore {
    fn guest(&self, key: &Key) -> Option<GuestObject> {
        self.inner.guest(key)
    }
    fn guests(&self) -> Vec<GuestObject> {
        self.inner.guests()
    }
    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        self.inner.look_at(key, look);
    }
    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.inner.look_at_all(look);
    }
    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        self.inner.look_at_index(look);
    }
    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>> {
        self.inner.hypervisor(namespace, name)
    }
    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>> {
        self.inner.features(namespace)
    }
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<k8s_openapi::api::core::v1::Secret>> {
        self.inner.secret(namespace, name)
    }
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<k8s_openapi::api::core::v1::ConfigMap>> {
        self.inner.config_map(namespace, name)
    }
    fn namespace_labels(&self, namespace: &str) -> Option<std::collections::BTreeMap<String, String>> {
        self.inner.namespace_labels(namespace)
    }
}

impl Store for GatedStore {
    async fn write_status(&self, object: &GuestObject, status: &GuestStatus) -> Result<GuestObject, StoreError> {
        let write = self.inner.write_status(object, status);
        self.write(format!("status of {}", object.key), write).await
    }
    async fn add_finalizer(&self, object: &GuestObject) -> Result<GuestObject, StoreError> {
        let write = self.inner.add_finalizer(object);
        self.write(format!("finalizer on {}", object.key), write).await
    }
    async fn remove_finalizer(&self, object: &GuestObject) -> Result<(), StoreError> {
        let write = self.inner.remove_finalizer(object);
        self.write(format!("finalizer off {}", object.key), write).await
    }
    async fn kind_goes(&self, kind: GuestKind) -> Result<bool, StoreError> {
        self.inner.kind_goes(kind).await
    }
    async fn event(&self, object: &GuestObject, event: Event) {
        self.inner.event(object, event).await;
    }
}

//! The operator's life: connect, fill the caches, become the leader, work, stop.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::engine::store::StoreError;
use crate::ui;

use super::access::Access;
use super::controller::{Controller, Reconciler};
use super::field_manager;
use super::lease::{Elector, KubeLease, Timing};
use super::metrics::Metrics;
use super::objects::coverage::Coverage;
use super::objects::store::{KubeStore, call};
use super::objects::watch::all;
use super::probes::{Probes, Serving, serve};
use super::process::Process;

/// The API server ends watches after about 290 s; a connection that says nothing for longer is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(320);

/// Time between attempts to reach an API server that does not answer yet.
const RETRY: Duration = Duration::from_secs(2);

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces that are watched; none: all.
    pub namespaces: Vec<String>,
    /// Address of probes and metrics.
    pub metrics_listen: SocketAddr,
    /// How they are served.
    pub serving: Serving,
    /// Address of the page, where there is to be one.
    pub ui_listen: Option<SocketAddr>,
    /// Namespace and name of the Lease, when several processes may run.
    pub lease: Option<(String, String)>,
    /// Name of the RoleBindings that give the operator its permissions.
    pub role_binding: String,
    /// Whether guests are exposed by Services.
    pub expose: bool,
    /// Guests of one hypervisor that are worked on at once.
    pub concurrency: usize,
    /// How long a stop waits for work under way.
    pub grace: Duration,
}

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the API server is configured.
    #[error("no Kubernetes cluster is configured (KUBECONFIG, or a service account in a pod)")]
    Config(#[source] kube::config::InferConfigError),
    /// The configured way cannot be used.
    #[error("the Kubernetes client cannot be set up")]
    Client(#[source] kube::Error),
    /// The address of probes and metrics, or of the page, is taken, say.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The process cannot wait for signals.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// Another process leads, or the Lease could not be renewed.
    #[error("the Lease was lost; this process ends so that two never work at once")]
    LeaseLost,
    /// Probes and metrics ended.
    #[error("the server of probes and metrics failed")]
    Probes(#[source] std::io::Error),
    /// The page ended.
    #[error("the server of the page failed")]
    Ui(#[source] std::io::Error),
}

/// Runs until a signal asks for an end. `engine` is told the management cluster's id and where objects are.
///
/// # Errors
/// What keeps it from running, or the loss of the Lease.
pub async fn run<R: Reconciler>(
    options: Options,
    engine: impl FnOnce(Arc<KubeStore>, String) -> R,
) -> Result<(), RunError> {
    let mut config = Config::infer().await.map_err(RunError::Config)?;
    config.read_timeout = Some(READ_TIMEOUT);
    let client = field_manager::client(config).map_err(RunError::Client)?;
    let listener = listen(options.metrics_listen).await?;
    let page = match options.ui_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let stop = stop_signal()?;
    info!(listen = %options.metrics_listen, namespaces = ?options.namespaces, "operator starts");
    if let Some(address) = page.as_ref().and_then(|page| page.local_addr().ok()) {
        info!("the fleet is shown at http://{address}/");
    }
    let serving = options.serving.clone();
    let access = serving.authorized.then(|| Arc::new(Access::new(client.clone())));
    let operator = Operator::new(options, Process::new(client));
    let probes = Probes {
        coverage: operator.store.coverage.subscribe(),
        store: operator.store.clone(),
        access,
    };
    let page = page.map(|listener| (listener, operator.store.clone()));
    let page = async {
        match page {
            Some((listener, store)) => ui::serve(listener, store).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = serve(listener, &serving, probes) => result.map_err(RunError::Probes),
        result = page => result.map_err(RunError::Ui),
        result = operator.run(engine, stop) => result,
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|e| RunError::Listen(address, e))
}

/// One process's work: watches, the Lease, controllers. It listens on nothing and waits for no signal.
pub struct Operator {
    options: Options,
    store: Arc<KubeStore>,
    metrics: Arc<Metrics>,
}

impl Operator {
    /// An operator in these surroundings, with empty caches.
    pub fn new(options: Options, process: Process) -> Self {
        let metrics = Arc::new(Metrics::default());
        let mut store = KubeStore::new(process, &options.role_binding, metrics.clone());
        store.exposing.switch(options.expose);
        Operator {
            options,
            store: Arc::new(store),
            metrics,
        }
    }

    /// The objects that it knows.
    pub fn store(&self) -> Arc<KubeStore> {
        self.store.clone()
    }

    /// Runs until `stop` is done. `engine` is told the management cluster's id and where objects are.
    ///
    /// # Errors
    /// The loss of the Lease.
    pub async fn run<R: Reconciler>(
        self,
        engine: impl FnOnce(Arc<KubeStore>, String) -> R,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), RunError> {
        let watches = all(&self.store, &self.options.namespaces);
        tokio::select! {
            biased;
            result = self.work(engine, stop.shared()) => result,
            _ = futures::future::join_all(watches) => Ok(()),
        }
    }

    async fn work<R: Reconciler>(
        self,
        engine: impl FnOnce(Arc<KubeStore>, String) -> R,
        stop: impl Future<Output = ()> + Clone,
    ) -> Result<(), RunError> {
        let Operator {
            options,
            store,
            metrics,
        } = self;
        let process = store.process.clone();
        let mut elector = options.lease.map(|(namespace, name)| {
            let lease = KubeLease::new(process.client.clone(), &namespace, &name);
            Elector::new(lease, process.identity, Timing::default(), process.now)
        });
        let prepare = async {
            let id = cluster_id(&process.client).await;
            // Only fails when the store is gone, and then the process ends.
            let _ = store.coverage.subscribe().wait_for(Coverage::may_begin).await;
            if let Some(elector) = &mut elector {
                elector.acquire().await;
            }
            id
        };
        let id = tokio::select! {
            biased;
            () = stop.clone() => return Ok(()),
            id = prepare => id,
        };
        let Some(items) = store.start(&options.namespaces) else {
            return Ok(());
        };
        info!(cluster = id, "work begins");
        metrics.leading(true);
        let reconciler = Arc::new(engine(store.clone(), id));
        let controller = Controller::new(store, reconciler, options.concurrency);
        let lost = async {
            match &mut elector {
                Some(elector) => elector.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = lost => return Err(RunError::LeaseLost),
            () = controller.run(items, stop, options.grace) => {}
        }
        if let Some(elector) = &mut elector {
            elector.release().await;
        }
        info!("operator stopped");
        Ok(())
    }
}

/// uid of the namespace kube-system, which lives as long as the cluster: the id under which Phoenix stamps guests.
async fn cluster_id(client: &Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match call(namespaces.get("kube-system")).await {
            Ok(Namespace { metadata, .. }) if metadata.uid.is_some() => return metadata.uid.unwrap_or_default(),
            Ok(_) => warn!("namespace kube-system has no uid"),
            Err(StoreError::Gone) => warn!("namespace kube-system does not exist"),
            Err(error) => warn!(%error, "namespace kube-system cannot be read"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Ends with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<futures::future::BoxFuture<'static, ()>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("asked to stop");
    }
    .boxed())
}

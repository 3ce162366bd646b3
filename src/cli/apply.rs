//! `phoenix apply`: manifests to Ready, without a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::desired::{GuestObject, Key, ObjectName, Objects};
use crate::engine::store::{Event, Store};
use crate::engine::{Engine, EngineOptions};
use crate::standalone::manifests::{Input, ManifestError, load};
use crate::standalone::run::{End, Standing, run, standing};
use crate::standalone::state::{State, StateError};
use crate::standalone::store::{FileStore, Listener};
use crate::standalone::table;

/// Where manifests and state are; shared by all commands that work without a cluster.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("manifests").args(["filename", "kustomize"]).required(true))]
pub struct Source {
    /// Manifests: files or folders; what is not Phoenix's in them is skipped
    #[arg(short = 'f', long = "filename", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Folder with a kustomization, built with kubectl or kustomize
    #[arg(short = 'k', long, value_name = "DIR")]
    pub kustomize: Option<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// State folder; default: .phoenix beside the manifests
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Management cluster id, when the state folder was lost
    #[arg(long)]
    pub cluster_id: Option<String>,
    /// Divide all waits by this, for a simulator that runs faster than time
    #[arg(long, hide = true, default_value_t = 1.0)]
    pub time_scale: f64,
}

/// Arguments of `phoenix apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only objects of this PhoenixHypervisor
    #[arg(long)]
    hypervisor: Option<String>,
    /// Wait until everything is Ready (the default); --wait=false reconciles each object once
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// Longest wait, such as 30m
    #[arg(long, default_value = "30m")]
    timeout: String,
    /// Show the fleet on a page meanwhile, at this address; without one at a free port of loopback, which is told
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
    ui: Option<SocketAddr>,
}

/// Bad input or a state folder that cannot be used.
pub const BAD_INPUT: u8 = 2;
/// Ended by Ctrl-C, as a shell tells it.
const INTERRUPTED: u8 = 130;

impl Source {
    /// Opens state and manifests for work; nobody else can meanwhile.
    ///
    /// # Errors
    /// Refused objects, unreadable files, a folder in use.
    pub fn open(&self, listener: Option<Listener>) -> Result<Opened, ManifestError> {
        let state = State::open(&self.folder(), self.cluster_id.as_deref());
        self.with_state(state.map_err(internal)?, listener)
    }

    /// Opens state and manifests to look only; the state folder stays as it is.
    ///
    /// # Errors
    /// Refused objects, unreadable files.
    pub fn read(&self) -> Result<Opened, ManifestError> {
        let state = State::read(&self.folder(), self.cluster_id.as_deref());
        self.with_state(state.map_err(internal)?, None)
    }

    fn folder(&self) -> PathBuf {
        let beside = || {
            let first = self.kustomize.as_ref().or(self.filename.first());
            let first = first.cloned().unwrap_or_default();
            if first.is_dir() {
                first
            } else {
                first.parent().map(PathBuf::from).unwrap_or_default()
            }
            .join(".phoenix")
        };
        self.state.clone().unwrap_or_else(beside)
    }

    fn with_state(&self, state: State, listener: Option<Listener>) -> Result<Opened, ManifestError> {
        let records = state.records().map_err(internal)?;
        let old = |(kind, namespace, name): &(String, String, String)| {
            let record = records
                .iter()
                .find(|r| r.kind == *kind && r.namespace == *namespace && r.name == *name)?;
            let mut object = record.object.clone();
            object["status"] = serde_json::to_value(&record.status).ok()?;
            Some(object)
        };
        let input = self
            .kustomize
            .as_deref()
            .map_or(Input::Paths(&self.filename), Input::Kustomization);
        let loaded = load(input, &self.namespace, &old)?;
        let store = Arc::new(FileStore::new(state, &loaded.objects, listener)?);
        let mut options = EngineOptions::new(store.cluster_id());
        options.time_scale = self.time_scale;
        // What the files do not have does not come by itself.
        options.grace = 0;
        let engine = Arc::new(Engine::new(store.clone(), options));
        let applied = loaded
            .objects
            .iter()
            .map(crate::standalone::manifests::Admitted::id)
            .collect();
        Ok(Opened {
            store,
            engine,
            applied,
            notes: loaded.notes,
        })
    }
}

fn internal(error: StateError) -> ManifestError {
    ManifestError::Internal(error.to_string())
}

/// State, manifests and an engine over them.
pub struct Opened {
    /// The store.
    pub store: Arc<FileStore>,
    /// The engine.
    pub engine: Arc<Engine<FileStore>>,
    /// Objects of the manifests, as (kind, namespace, name).
    pub applied: Vec<(String, String, String)>,
    /// What was skipped, and what else is worth knowing of the manifests.
    notes: Vec<String>,
}

impl Opened {
    /// Says what of the manifests was skipped: for whoever applies or plans them all. The other commands name their
    /// objects, and what they print is read by programs.
    pub fn tell_notes(&self) {
        for note in &self.notes {
            errln!("{note}");
        }
    }

    /// Guest objects of the manifests, in the order of their files.
    pub fn keys(&self) -> Vec<Key> {
        let given = |o: &GuestObject| {
            self.applied.contains(&(
                o.key.kind.as_str().to_string(),
                o.key.namespace.clone(),
                o.key.name.clone(),
            ))
        };
        self.store
            .guests()
            .iter()
            .filter(|o| given(o))
            .map(|o| o.key.clone())
            .collect()
    }

    /// Ends the pauses of earlier runs, and gives scripts that gave up new attempts: somebody asks now.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub async fn resume(&self, keys: &[Key]) -> Result<(), String> {
        for object in self.objects(keys) {
            let resumed = crate::plan::retry::resumed(&object.status);
            if resumed != object.status {
                let written = self.store.write_status(&object, &resumed).await;
                written.map_err(|error| format!("{}: {error}", object.key))?;
            }
        }
        Ok(())
    }

    /// The objects now, those of `keys` that are still there.
    pub fn objects(&self, keys: &[Key]) -> Vec<GuestObject> {
        keys.iter().filter_map(|k| self.store.guest(k)).collect()
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let Some(limit) = crate::pve::units::seconds(&self.timeout).map(Duration::from_secs) else {
            errln!("--timeout: {:?} is not a duration such as 30m", self.timeout);
            return ExitCode::from(BAD_INPUT);
        };
        let opened = match self.source.open(Some(progress())) {
            Ok(opened) => opened,
            Err(error) => {
                errln!("{error}");
                return ExitCode::from(BAD_INPUT);
            }
        };
        opened.tell_notes();
        super::with_runtime(self.apply(&opened, if self.wait { limit } else { Duration::ZERO }))
    }

    async fn apply(&self, opened: &Opened, limit: Duration) -> ExitCode {
        let mut keys = opened.keys();
        if let Some(name) = &self.hypervisor {
            keys.retain(|k| opened.store.guest(k).is_some_and(|o| o.hypervisor_ref().name == *name));
        }
        if let Err(error) = opened.resume(&keys).await {
            errln!("{error}");
            return ExitCode::FAILURE;
        }
        let before: Vec<_> = opened.objects(&keys).into_iter().map(|o| o.resource_version).collect();
        let page = match self.ui {
            Some(address) => match show(address, opened.store.clone()).await {
                Ok(page) => Some(page),
                Err(error) => {
                    errln!("--ui: cannot listen on {address}: {error}");
                    return ExitCode::FAILURE;
                }
            },
            None => None,
        };
        let end = tokio::select! {
            end = run(&opened.engine, &opened.store, &keys, limit) => Some(end),
            Ok(()) = tokio::signal::ctrl_c() => None,
        };
        if let Some(page) = page {
            page.abort();
        }
        let objects = opened.objects(&keys);
        let after: Vec<_> = objects.iter().map(|o| o.resource_version.clone()).collect();
        outln!("{}", table::render(&objects));
        let count = |s: Standing| objects.iter().filter(|o| standing(o) == s).count();
        let ready = count(Standing::Ready);
        let others = count(Standing::Stalled) + count(Standing::Working);
        outln!();
        if end == Some(End::Ready) && before == after {
            outln!("nothing changed: {ready} objects are Ready");
        } else {
            outln!("{ready} objects are Ready, {others} not Ready");
        }
        self.strangers(opened);
        let unready = unready_hypervisors(opened);
        for line in &unready {
            outln!("{line}");
        }
        let Some(end) = end else {
            errln!("interrupted; what runs on Proxmox goes on, and phoenix apply takes it up again");
            return ExitCode::from(INTERRUPTED);
        };
        match end {
            End::TimedOut if self.wait => {
                errln!("not everything was Ready within {}", self.timeout);
                ExitCode::FAILURE
            }
            _ if !unready.is_empty() && self.wait => ExitCode::FAILURE,
            End::Ready => ExitCode::SUCCESS,
            _ if others == 0 || !self.wait => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// Objects of the state folder that no manifest names are left alone.
    fn strangers(&self, opened: &Opened) {
        let keys = opened.keys();
        for object in opened.store.guests().iter().filter(|o| !keys.contains(&o.key)) {
            outln!(
                "{} is in the state folder but in no manifest; it is left alone (phoenix delete removes it)",
                object.key
            );
        }
    }
}

/// Serves the page, and says where.
async fn show(address: SocketAddr, store: Arc<FileStore>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    errln!("the fleet is shown at http://{}/", listener.local_addr()?);
    Ok(tokio::spawn(async move {
        if let Err(error) = crate::ui::serve(listener, store).await {
            tracing::warn!(%error, "the page is shown no more");
        }
    }))
}

/// A line for each hypervisor of the manifests that is not Ready.
fn unready_hypervisors(opened: &Opened) -> Vec<String> {
    let line = |ObjectName { namespace, name }: ObjectName| {
        let status = opened.store.hypervisor(&namespace, &name)?.status.clone()?;
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready")?;
        (ready.status != "True").then(|| {
            format!(
                "PhoenixHypervisor {namespace}/{name}: {}: {}",
                ready.reason, ready.message
            )
        })
    };
    opened.store.hypervisors().into_iter().filter_map(line).collect()
}

/// Progress: bars on a terminal, plain lines elsewhere, on transitions only.
pub(super) fn progress() -> Listener {
    use std::collections::HashMap;
    use std::io::IsTerminal;
    use std::sync::{Mutex, PoisonError};
    let last: Mutex<HashMap<Key, String>> = Mutex::default();
    let bars = std::io::stderr().is_terminal().then(indicatif::MultiProgress::new);
    let shown: Mutex<HashMap<Key, indicatif::ProgressBar>> = Mutex::default();
    Box::new(move |object: &GuestObject, event: Option<&Event>| {
        if event.is_some() {
            return;
        }
        let phase = table::status_word(object);
        let message = object.status.message.clone().unwrap_or_default();
        let line = format!(
            "{}/{}: {phase}{}{message}",
            object.key.namespace,
            object.key.name,
            if message.is_empty() { "" } else { ": " }
        );
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.insert(object.key.clone(), line.clone()).as_ref() == Some(&line) {
            return;
        }
        match &bars {
            None => errln!("{line}"),
            Some(bars) => {
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = shown
                    .entry(object.key.clone())
                    .or_insert_with(|| bars.add(indicatif::ProgressBar::new_spinner()));
                bar.set_message(line.clone());
                bar.tick();
                if standing(object) != Standing::Working {
                    bar.finish_with_message(line);
                }
            }
        }
    })
}

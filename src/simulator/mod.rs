//! A Proxmox VE look-alike: HTTPS API and SSH.
//!
//! * [`model`] what a cluster is and does: pure, synchronous, serialisable, told the time
//! * [`profile`] what it starts with
//! * [`schema`] the API description and the check of parameters
//! * [`api`] the order of checks and the methods; [`server`] HTTPS in front of it
//! * [`control`] faults and the request log
//! * [`Simulator`] the handle that the API and the SSH server share: the model behind a lock, a clock, a state file
//!
//! It shares no code with the engine that is tested against it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub mod api;
mod clock;
mod control;
pub(crate) mod files;
mod hook;
pub mod model;
mod profile;
mod schema;
mod server;
pub mod ssh;

pub use clock::Clock;
pub use control::{Control, Fault, FaultKind, LoggedRequest, Stricken, Struck};
pub use model::{Edit, State};
pub use profile::{Profile, Secrets};
pub use server::{Certificates, Running, Server};

/// How to set up a look-alike.
#[derive(Debug, Clone, Default)]
pub struct SimConfig {
    /// Initial inventory, used when there is no state file yet.
    pub profile: Profile,
    /// Initial state instead of a profile.
    pub initial: Option<Box<State>>,
    /// Version to claim; the profile's by default.
    pub version: Option<String>,
    /// Secrets of the accounts of the profile.
    pub secrets: Secrets,
    /// How many times faster than real everything takes its time; 1 when 0.
    pub time_scale: f64,
    /// File that keeps the state over restarts.
    pub state_file: Option<PathBuf>,
    /// Time that starts at this many milliseconds since 1970 and moves only when told.
    pub manual_clock: Option<u64>,
    /// Time that starts at this many milliseconds since 1970 and goes as the asynchronous runtime's.
    pub runtime_clock: Option<u64>,
    /// What the HTTP side of the control asks for; it refuses everything while this is empty.
    pub control_token: String,
    /// Program that is told of what happens to guests (docs/simulator.md).
    pub guest_hook: Option<PathBuf>,
}

/// A running look-alike; clones are the same one.
#[derive(Debug, Clone)]
pub struct Simulator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    clock: Clock,
    control: Control,
    state_file: Option<PathBuf>,
    guest_hook: Option<PathBuf>,
}

impl Simulator {
    /// Sets up a look-alike. A state file that exists wins over the profile; tasks that ran when it was written are
    /// lost, with the locks that they held in configurations left behind (facts B.6).
    pub fn new(config: SimConfig) -> io::Result<Self> {
        let clock = match (config.manual_clock, config.runtime_clock) {
            (Some(ms), _) => Clock::manual(ms),
            (None, Some(ms)) => Clock::Runtime(ms, tokio::time::Instant::now()),
            (None, None) => Clock::Real,
        };
        let now = clock.now();
        let stored = config
            .state_file
            .as_deref()
            .filter(|path| path.exists())
            .map(load)
            .transpose()?;
        let mut state = match stored {
            Some(mut state) => {
                state.advance(now.min(state.now));
                let nodes: Vec<String> = state.nodes.keys().cloned().collect();
                for node in nodes {
                    state.lose_tasks(&node);
                }
                state
            }
            None => match config.initial {
                Some(state) => *state,
                None => config.profile.state(config.version.as_deref(), &config.secrets, now),
            },
        };
        if config.time_scale > 0.0 {
            state.time_scale = config.time_scale;
        }
        state.dirty = true;
        state.hooked = config.guest_hook.is_some();
        let control = Control::new(config.control_token);
        let inner = Inner {
            state: Mutex::new(state),
            clock,
            control,
            state_file: config.state_file,
            guest_hook: config.guest_hook,
        };
        let simulator = Self { inner: Arc::new(inner) };
        simulator.with(|_| ());
        Ok(simulator)
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Faults and the request log.
    fn control(&self) -> &Control {
        &self.inner.control
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the state was held leaves at worst one half-done operation, which a test then sees.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the state up to now, works on it, and saves it if it changed.
    pub fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        state.advance(self.inner.clock.now());
        let result = work(&mut state);
        if state.dirty {
            state.dirty = false;
            if let Some(path) = &self.inner.state_file
                && let Err(error) = save(path, &state)
            {
                tracing::error!(%error, path = %path.display(), "cannot save the state");
            }
        }
        let jobs = std::mem::take(&mut state.hook_jobs);
        drop(state);
        self.run_hooks(jobs);
        result
    }

    /// Moves a manual clock on and lets everything that falls due happen.
    pub fn advance(&self, ms: u64) {
        self.inner.clock.advance(ms);
        self.with(|_| ());
    }
}

fn load(path: &Path) -> io::Result<State> {
    let text = fs::read(path)?;
    serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Writes the state beside the file, then renames: a crash leaves the old or the new state, never half of one.
fn save(path: &Path, state: &State) -> io::Result<()> {
    let text = serde_json::to_vec(state).map_err(io::Error::other)?;
    let beside = path.with_extension("tmp");
    let mut file = fs::File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

//! What is between an operator and its API server, and between it and Proxmox: nothing, or what a seed decides.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// A call to the API server.
#[derive(Clone, Debug)]
pub struct Call<'c> {
    pub caller: &'c str,
    pub method: &'c str,
    pub resource: &'c str,
    pub name: &'c str,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is refused: too many requests, or no server behind the balancer.
    Refused(u16),
    /// It does not arrive.
    LostBefore,
    /// It takes effect, and its answer is lost.
    LostAfter,
    /// Somebody else writes the object just before.
    Meddled,
    /// A listing shows what was so long ago.
    Stale(Duration),
}

/// What a call meets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sky {
    pub before: Duration,
    pub after: Duration,
    pub trouble: Option<Trouble>,
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In peace, as they do after some minutes.
    Clean,
    /// The connection breaks.
    Cut,
    /// Its version is said to be too old.
    Expired,
    /// Nothing comes any more, and nobody says so.
    Silence,
}

/// What all calls and watches meet.
pub trait Weather: Send + Sync {
    fn call(&self, call: &Call<'_>) -> Sky;
    /// By how much a watch is behind, now.
    fn lag(&self, caller: &str, resource: &str) -> Duration;
    /// How long a watch lives, and how it ends.
    fn life(&self, caller: &str, resource: &str) -> (Duration, Ending);
    /// What a request to Proxmox meets.
    fn proxmox(&self, method: &str, path: &str) -> Sky;
}

/// Nothing goes wrong, and calls take a few milliseconds.
pub struct Calm;

impl Weather for Calm {
    fn call(&self, _: &Call<'_>) -> Sky {
        let ms = Duration::from_millis(2);
        Sky {
            before: ms,
            after: ms,
            trouble: None,
        }
    }
    fn lag(&self, _: &str, _: &str) -> Duration {
        Duration::from_millis(5)
    }
    fn life(&self, _: &str, _: &str) -> (Duration, Ending) {
        (Duration::from_secs(290), Ending::Clean)
    }
    fn proxmox(&self, _: &str, _: &str) -> Sky {
        self.call(&Call {
            caller: "",
            method: "",
            resource: "",
            name: "",
        })
    }
}

/// How often what happens, of a thousand calls each; drawn for a whole run, so that runs differ in character.
struct Climate {
    refused: u32,
    lost: u32,
    meddled: u32,
    stale: u32,
    /// The longest usual latency in milliseconds, and how many of a thousand calls take up to half a minute.
    latency: u64,
    slow: u32,
    /// How many of a hundred periods have a watch seconds or minutes behind.
    behind: (u32, u32),
    /// How many of a hundred watches end early.
    short: u32,
}

struct Storm {
    rng: StdRng,
    climate: Climate,
    /// By how much the watches of a resource are behind, and until when.
    lags: BTreeMap<(String, String), (Instant, Duration)>,
}

/// Weather from a seed, and calm from a moment on.
pub struct Seeded {
    storm: Mutex<Storm>,
    until: Instant,
}

impl Seeded {
    pub fn new(seed: u64, lasts: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut often = |choices: &[u32]| choices[rng.random_range(0..choices.len())];
        let climate = Climate {
            refused: often(&[0, 20, 150]),
            lost: often(&[0, 20, 100]),
            meddled: often(&[0, 30, 300]),
            stale: often(&[0, 0, 300]),
            latency: often(&[5, 100, 2000]).into(),
            slow: often(&[0, 5, 30]),
            behind: (often(&[0, 20]), often(&[0, 10, 40])),
            short: often(&[0, 30, 80]),
        };
        let storm = Storm {
            rng,
            climate,
            lags: BTreeMap::new(),
        };
        Seeded {
            storm: Mutex::new(storm),
            until: Instant::now() + lasts,
        }
    }

    fn storm(&self) -> Option<MutexGuard<'_, Storm>> {
        let over = Instant::now() >= self.until;
        (!over).then(|| self.storm.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn millis(rng: &mut StdRng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

impl Storm {
    fn of_thousand(&mut self, often: u32) -> bool {
        self.rng.random_range(0..1000) < often
    }

    fn latency(&mut self) -> Duration {
        let slow = self.of_thousand(self.climate.slow);
        let most = if slow { 30_000 } else { self.climate.latency };
        millis(&mut self.rng, 1..=most)
    }

    fn trouble(&mut self, call: &Call<'_>) -> Option<Trouble> {
        let writes = call.method != "GET";
        if self.of_thousand(self.climate.refused) {
            return Some(Trouble::Refused([429, 500, 503][self.rng.random_range(0..3)]));
        }
        if self.of_thousand(self.climate.lost) {
            return Some([Trouble::LostBefore, Trouble::LostAfter][self.rng.random_range(0..2)]);
        }
        // Nobody but the operators writes a Lease, and nobody writes one object several times a second for long.
        if writes && call.resource != "leases" && self.of_thousand(self.climate.meddled) {
            return Some(Trouble::Meddled);
        }
        if !writes && call.name.is_empty() && self.of_thousand(self.climate.stale) {
            return Some(Trouble::Stale(millis(&mut self.rng, 1000..=300_000)));
        }
        None
    }
}

impl Weather for Seeded {
    fn call(&self, call: &Call<'_>) -> Sky {
        let Some(mut storm) = self.storm() else {
            return Calm.call(call);
        };
        Sky {
            before: storm.latency(),
            after: storm.latency(),
            trouble: storm.trouble(call),
        }
    }

    fn lag(&self, caller: &str, resource: &str) -> Duration {
        let Some(mut storm) = self.storm() else {
            return Calm.lag(caller, resource);
        };
        let (now, key) = (Instant::now(), (caller.to_string(), resource.to_string()));
        if let Some((until, lag)) = storm.lags.get(&key)
            && now < *until
        {
            return *lag;
        }
        let chance = storm.rng.random_range(0..100);
        let (minutes, seconds) = (storm.climate.behind.1, storm.climate.behind.0);
        let most = match chance {
            _ if chance < minutes => 300_000,
            _ if chance < minutes + seconds => 20_000,
            _ => 100,
        };
        let lag = millis(&mut storm.rng, 1..=most);
        let lasts = millis(&mut storm.rng, 10_000..=200_000);
        storm.lags.insert(key, (now + lasts, lag));
        lag
    }

    fn life(&self, caller: &str, resource: &str) -> (Duration, Ending) {
        let Some(mut storm) = self.storm() else {
            return Calm.life(caller, resource);
        };
        if storm.rng.random_range(0..100) >= storm.climate.short {
            return Calm.life(caller, resource);
        }
        let endings = [Ending::Clean, Ending::Cut, Ending::Expired, Ending::Silence];
        let ending = endings[storm.rng.random_range(0..endings.len())];
        (millis(&mut storm.rng, 100..=120_000), ending)
    }

    fn proxmox(&self, method: &str, _: &str) -> Sky {
        let Some(mut storm) = self.storm() else {
            return Calm.proxmox(method, "");
        };
        let latency = storm.climate.latency.min(500);
        let mut sky = Sky {
            before: millis(&mut storm.rng, 1..=latency),
            after: millis(&mut storm.rng, 1..=latency),
            trouble: None,
        };
        let lost = storm.climate.lost / 2;
        if storm.of_thousand(lost) {
            let troubles = [
                Trouble::LostBefore,
                Trouble::LostAfter,
                Trouble::Refused(596),
                Trouble::Refused(500),
            ];
            sky.trouble = Some(troubles[storm.rng.random_range(0..troubles.len())]);
        }
        sky
    }
}

/// Asks what goes wrong with a call.
type Troubles = Box<dyn FnMut(&Call<'_>) -> Option<Trouble> + Send>;

/// Calm weather but for what a test says.
#[derive(Default)]
pub struct Steered {
    /// By how much the watches of resources are behind.
    pub lags: Mutex<BTreeMap<String, Duration>>,
    /// What goes wrong with calls to the API server.
    pub troubles: Mutex<Option<Troubles>>,
}

impl Weather for Steered {
    fn call(&self, call: &Call<'_>) -> Sky {
        let mut troubles = self.troubles.lock().unwrap();
        Sky {
            trouble: troubles.as_mut().and_then(|trouble| trouble(call)),
            ..Calm.call(call)
        }
    }
    fn lag(&self, caller: &str, resource: &str) -> Duration {
        let lag = self.lags.lock().unwrap().get(resource).copied();
        lag.unwrap_or_else(|| Calm.lag(caller, resource))
    }
    fn life(&self, caller: &str, resource: &str) -> (Duration, Ending) {
        Calm.life(caller, resource)
    }
    fn proxmox(&self, method: &str, path: &str) -> Sky {
        Calm.proxmox(method, path)
    }
}

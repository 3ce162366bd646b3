//! Time: the machine's, or one that only moves when told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the look-alike gets its time from.
#[derive(Debug)]
pub enum Clock {
    /// The machine's clock.
    Real,
    /// A clock that tests move; waiting moves it too.
    Manual(AtomicU64),
    /// The clock of the asynchronous runtime, which a test may have stopped: it began at so many milliseconds since
    /// 1970, at this moment of the runtime's.
    Runtime(u64, tokio::time::Instant),
}

impl Clock {
    /// A clock that stands at `ms` since 1970 until moved.
    pub fn manual(ms: u64) -> Self {
        Self::Manual(AtomicU64::new(ms))
    }

    /// Milliseconds since 1970.
    pub fn now(&self) -> u64 {
        match self {
            Self::Real => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_millis() as u64),
            Self::Manual(at) => at.load(Ordering::SeqCst),
            Self::Runtime(start, began) => start + began.elapsed().as_millis() as u64,
        }
    }

    /// Moves a manual clock on; the machine's clock is left alone.
    pub fn advance(&self, ms: u64) {
        if let Self::Manual(at) = self {
            at.fetch_add(ms, Ordering::SeqCst);
        }
    }

    /// Lets `ms` milliseconds pass.
    pub async fn sleep(&self, ms: u64) {
        match self {
            Self::Real | Self::Runtime(..) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Self::Manual(_) => self.advance(ms),
        }
    }
}

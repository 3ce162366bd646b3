//! Processes that stand still.

use std::pin::pin;
use std::sync::Mutex;
use std::task::{Poll, Waker};

/// Stops a process where it is and lets it go on, as SIGSTOP and SIGCONT do.
#[derive(Default)]
pub struct Gate(Mutex<Passage>);

#[derive(Default)]
struct Passage {
    frozen: bool,
    waiting: Vec<Waker>,
    trap: Option<Trap>,
}

/// Which request to Proxmox (verb and path) stops the process just before it leaves.
type Trap = Box<dyn FnMut(&str, &str) -> bool + Send>;

impl Gate {
    pub fn freeze(&self) {
        self.0.lock().unwrap().frozen = true;
    }

    pub fn thaw(&self) {
        let mut passage = self.0.lock().unwrap();
        passage.frozen = false;
        passage.waiting.drain(..).for_each(Waker::wake);
    }

    pub fn is_frozen(&self) -> bool {
        self.0.lock().unwrap().frozen
    }

    /// The process stops once, just before the first request that fits.
    pub fn freeze_before(&self, trap: impl FnMut(&str, &str) -> bool + Send + 'static) {
        self.0.lock().unwrap().trap = Some(Box::new(trap));
    }

    pub fn spring(&self, method: &str, path: &str) {
        let mut passage = self.0.lock().unwrap();
        if passage.trap.as_mut().is_some_and(|fits| fits(method, path)) {
            passage.trap = None;
            passage.frozen = true;
        }
    }

    /// Runs something that stands still while the process is stopped.
    pub async fn through<T>(&self, inner: impl Future<Output = T>) -> T {
        let mut inner = pin!(inner);
        std::future::poll_fn(|context| {
            let mut passage = self.0.lock().unwrap();
            if passage.frozen {
                passage.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
            drop(passage);
            inner.as_mut().poll(context)
        })
        .await
    }
}

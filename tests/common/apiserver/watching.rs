//! One watch as a stream of lines.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use hyper::body::Frame;
use serde_json::json;
use tokio::time::Instant;

use super::ApiServer;
use super::objects::{Change, Failure};
use super::weather::Ending;

/// What is watched, and how far it was told.
pub struct Watch {
    pub server: ApiServer,
    pub caller: String,
    pub resource: &'static str,
    pub namespace: Option<String>,
    /// Labels that what is told has. What loses them is not told of, as a real server would.
    pub selector: Option<String>,
    pub after: u64,
    pub ends: Instant,
    pub ending: Ending,
    /// When the last change was told: they come in order.
    pub told: Instant,
    /// Of which start of the API server it is.
    pub start: u64,
    pub over: bool,
}

type Told = Result<Frame<Bytes>, io::Error>;

/// The lines of a watch.
pub fn lines(watch: Watch) -> impl Stream<Item = Told> + Send {
    futures::stream::unfold(watch, |mut watch| async move {
        let told = watch.next().await?;
        Some((told, watch))
    })
}

/// What a wait came to.
enum Woken {
    Due,
    Ended,
    Cut,
}

impl Watch {
    async fn next(&mut self) -> Option<Told> {
        loop {
            if self.over {
                return None;
            }
            let (next, known) = {
                let objects = self.server.objects();
                let next = objects.next(self.resource, self.namespace.as_deref(), self.after);
                (next, objects.version())
            };
            let change = match next {
                Err(failure) => return Some(self.fails(&failure)),
                Ok(change) => change,
            };
            let due = match &change {
                Ok(change) => (change.at + self.server.weather().lag(&self.caller, self.resource)).max(self.told),
                Err(_) => self.ends + Duration::from_secs(1),
            };
            if let Err(version) = &change {
                self.after = *version;
            }
            match (self.wait(due, change.is_err().then_some(known)).await, change) {
                (Woken::Cut, _) => {
                    self.over = true;
                    return Some(Err(io::Error::other("connection reset by peer")));
                }
                (Woken::Ended, change) => return self.ended(change.is_err()).await,
                (Woken::Due, Ok(Change { version, line, .. })) => {
                    self.after = version;
                    if self.leaves_out(&line) {
                        continue;
                    }
                    self.told = due;
                    return Some(Ok(Frame::data(line)));
                }
                (Woken::Due, Err(_)) => {}
            }
        }
    }

    /// Whether a change is of something that was not asked for.
    fn leaves_out(&self, line: &Bytes) -> bool {
        let Some(selector) = &self.selector else { return false };
        let change: serde_json::Value = serde_json::from_slice(line).unwrap();
        !super::selected(&change["object"], selector)
    }

    /// Waits for a moment, or for a change after the version `known`.
    async fn wait(&self, due: Instant, known: Option<u64>) -> Woken {
        let cut = async {
            loop {
                let changed = self.server.0.changed.notified();
                if self.server.starts() != self.start {
                    return Woken::Cut;
                }
                if known.is_some_and(|known| self.server.objects().version() != known) {
                    return Woken::Due;
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            woken = cut => woken,
            () = tokio::time::sleep_until(due.min(self.ends)) => match due <= self.ends {
                true => Woken::Due,
                false => Woken::Ended,
            },
        }
    }

    async fn ended(&mut self, all_told: bool) -> Option<Told> {
        self.over = true;
        match self.ending {
            Ending::Clean if all_told => {
                let object = json!({"kind": "Bookmark", "apiVersion": "v1",
                    "metadata": {"resourceVersion": self.after.to_string()}});
                let line = format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
                Some(Ok(Frame::data(line.into())))
            }
            Ending::Clean => None,
            Ending::Cut => Some(Err(io::Error::other("connection reset by peer"))),
            Ending::Expired => Some(self.fails(&Failure::new(410, "Expired", "too old resource version"))),
            Ending::Silence => std::future::pending().await,
        }
    }

    fn fails(&mut self, failure: &Failure) -> Told {
        self.over = true;
        let line = format!("{}\n", json!({"type": "ERROR", "object": failure.status()}));
        Ok(Frame::data(line.into()))
    }
}

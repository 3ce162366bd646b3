//! A command on a node while it runs: what it says as it comes, what is typed into it, and its terminal.

use std::time::Duration;

use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client};
use tokio::sync::OwnedSemaphorePermit;

use super::ssh::Error;

/// A process that the command left behind may hold its output open; it is not waited for longer than this.
const AFTER_EXIT: Duration = Duration::from_secs(3);

/// A terminal for a command to run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// What it understands, as in `TERM`.
    pub name: String,
    /// Columns and rows.
    pub size: (u32, u32),
}

/// What comes from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote this to its standard output.
    Stdout(Vec<u8>),
    /// It wrote this to its standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing comes after this.
    Ended {
        /// Exit code; 255 when a signal ended it.
        exit: u32,
        /// The signal that ended it.
        signal: Option<String>,
    },
}

/// A command that runs. It holds one of the places for commands on its node until it is dropped.
pub struct Running {
    host: String,
    reader: ChannelReadHalf,
    ended: Option<(u32, Option<String>)>,
    _permit: OwnedSemaphorePermit,
}

/// The other side of a command's standard input.
///
/// What cannot be sent any more is dropped: why shows in [`Running::next`], after what the command said before.
pub struct Input(ChannelWriteHalf<client::Msg>);

impl Running {
    /// Sends the command.
    pub(super) async fn start(
        host: String,
        channel: Channel<client::Msg>,
        permit: OwnedSemaphorePermit,
        line: String,
        terminal: Option<&Terminal>,
    ) -> Result<(Self, Input), Error> {
        let lost = |error: russh::Error| Error::Lost {
            host: host.clone(),
            message: error.to_string(),
        };
        if let Some(Terminal { name, size }) = terminal {
            let asked = channel.request_pty(true, name, size.0, size.1, 0, 0, &[]).await;
            asked.map_err(lost)?;
        }
        channel.exec(true, line).await.map_err(lost)?;
        let (reader, writer) = channel.split();
        let running = Self {
            host,
            reader,
            ended: None,
            _permit: permit,
        };
        Ok((running, Input(writer)))
    }

    /// What comes next. Nothing is lost when this is dropped before it is there.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the node refused the command, [`Error::Lost`] when no end came.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let message = tokio::select! {
                message = self.reader.wait() => message,
                () = tokio::time::sleep(AFTER_EXIT), if self.ended.is_some() => None,
            };
            match message {
                Some(ChannelMsg::Data { data }) => return Ok(Event::Stdout(data.to_vec())),
                Some(ChannelMsg::ExtendedData { data, .. }) => return Ok(Event::Stderr(data.to_vec())),
                Some(ChannelMsg::ExitStatus { exit_status }) => self.ended = Some((exit_status, None)),
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    self.ended = Some((255, Some(format!("{signal_name:?}"))));
                }
                Some(ChannelMsg::Failure) => {
                    return Err(Error::Unreachable {
                        host: self.host.clone(),
                        message: "the node refuses to run commands".into(),
                    });
                }
                Some(ChannelMsg::Close) | None => {
                    let (exit, signal) = self.ended.take().ok_or_else(|| Error::Lost {
                        host: self.host.clone(),
                        message: "no exit code came".into(),
                    })?;
                    return Ok(Event::Ended { exit, signal });
                }
                Some(_) => {}
            }
        }
    }
}

impl Input {
    /// Sends more; it waits until the command takes it.
    pub async fn send(&self, bytes: &[u8]) {
        let _ = self.0.data(bytes).await;
    }

    /// There is no more.
    pub async fn end(&self) {
        let _ = self.0.eof().await;
    }

    /// The terminal has another size: columns and rows.
    pub async fn resize(&self, size: (u32, u32)) {
        let _ = self.0.window_change(size.0, size.1, 0, 0).await;
    }
}

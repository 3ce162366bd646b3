//! The terminal that somebody sits at, while it is lent to a command in a guest.

use std::io::{IsTerminal, Read};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::remote::Terminal;

/// The terminal of standard input: every key goes to the command, until this is dropped.
pub struct Raw(Termios);

impl Raw {
    /// Takes the terminal; what to tell of it.
    ///
    /// # Errors
    /// Where standard input is none.
    pub fn take() -> Result<(Self, Terminal), String> {
        if !std::io::stdin().is_terminal() {
            return Err("-t needs a terminal as standard input: leave it out".into());
        }
        let failed = |error: rustix::io::Errno| format!("the terminal cannot be used: {error}");
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let terminal = Terminal {
            name: std::env::var("TERM").unwrap_or_else(|_| "xterm".into()),
            size: size(),
        };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok((Self(before), terminal))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows; those of old where the terminal does not know.
pub fn size() -> (u32, u32) {
    match tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_col > 0 => (u32::from(size.ws_col), u32::from(size.ws_row)),
        _ => (80, 24),
    }
}

/// Standard input in pieces, as they come. It is read by a thread of its own, which ends with the process: a read that
/// waits cannot be called off.
pub fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut piece = vec![0; 32 << 10];
        while let Ok(size @ 1..) = std::io::stdin().read(&mut piece) {
            if sender.blocking_send(piece[..size].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

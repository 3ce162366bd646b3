//! What the runner in a guest prints, read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Never started in this guest.
    Absent,
    /// Launched, but it has not claimed its record yet.
    Starting,
    /// Its process lives.
    Running,
    /// It ended with an exit code.
    Finished,
    /// Its process is gone and left no exit code.
    Interrupted,
}

/// What the guest says of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Hash that it was started with.
    pub hash: Option<String>,
    /// Attempt that it was started with.
    pub attempt: u32,
    /// Exit code when finished.
    pub exit: Option<i32>,
    /// Unix time in seconds.
    pub started: Option<i64>,
    /// Unix time in seconds.
    pub ended: Option<i64>,
    /// Whether this very request started it.
    pub started_now: bool,
    /// The request to start was turned down because this run of another version is still under way.
    pub busy: bool,
    /// Whether it was started since the guest's last start; `None` where the guest does not say.
    pub this_start: Option<bool>,
    /// How often this hash was started between two starts of the guest; `None` where the guest does not say.
    pub tries: Option<u32>,
    /// Whether it was asked to end: while it runs, and when it has ended because of that.
    pub cancelled: bool,
    /// Start of the output.
    pub head: Vec<u8>,
    /// End of the output.
    pub tail: Vec<u8>,
    /// Size of the whole output, in bytes.
    pub output_size: u64,
}

/// An answer that does not follow the protocol, or the guest's reason for not doing what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The runner could not do its work, such as on a full disk.
    #[error("the guest cannot do it: {0}")]
    Guest(String),
    /// The answer makes no sense.
    #[error("the guest's answer is not understood: {0}")]
    Protocol(String),
}

/// The lines of an answer. Output goes in one line each, encoded, so every line is `key=value`.
pub(super) struct Lines(BTreeMap<String, String>);

impl Lines {
    pub(super) fn parse(text: &str) -> Result<Self, AnswerError> {
        let lines: BTreeMap<String, String> = text
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        match lines.get("error") {
            Some(error) => Err(AnswerError::Guest(error.clone())),
            None => Ok(Self(lines)),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, AnswerError> {
        let parse = |text: &str| text.parse().map_err(|_| AnswerError::Protocol(format!("{key}={text}")));
        self.get(key).map(parse).transpose()
    }

    pub(super) fn bytes(&self, key: &str) -> Result<Vec<u8>, AnswerError> {
        let text = self.get(key).unwrap_or_default();
        BASE64
            .decode(text)
            .map_err(|_| AnswerError::Protocol(format!("{key} is no base64")))
    }
}

impl Record {
    /// Reads the answer to [`start`](super::runner::start) or [`poll`](super::runner::poll).
    ///
    /// # Errors
    /// The guest's reason, or an answer that is not understood.
    pub fn parse(text: &str) -> Result<Self, AnswerError> {
        let lines = Lines::parse(text)?;
        let state = match lines.get("state") {
            Some("absent") => State::Absent,
            Some("starting") => State::Starting,
            Some("running") => State::Running,
            Some("finished") => State::Finished,
            Some("interrupted") => State::Interrupted,
            other => return Err(AnswerError::Protocol(format!("state={}", other.unwrap_or("(none)")))),
        };
        Ok(Self {
            state,
            hash: lines.get("hash").map(str::to_owned),
            attempt: lines.number("attempt")?.unwrap_or_default(),
            exit: lines.number("exit")?,
            started: lines.number("started")?,
            ended: lines.number("ended")?,
            started_now: lines.get("started-now") == Some("1"),
            busy: lines.get("busy") == Some("1"),
            this_start: lines.get("this-start").map(|word| word == "1"),
            tries: lines.number("tries")?,
            cancelled: lines.get("cancelled") == Some("1"),
            head: lines.bytes("output-head")?,
            tail: lines.bytes("output-tail")?,
            output_size: lines.number("output-size")?.unwrap_or_default(),
        })
    }

    /// Start and end of the output as one text, with a line where something is left out. What no text can hold and
    /// what would steer a terminal is replaced.
    pub fn output(&self) -> String {
        let (head, tail) = (self.head.len() as u64, self.tail.len() as u64);
        if self.output_size <= tail {
            return clean(&self.tail);
        }
        if self.output_size <= head {
            return clean(&self.head);
        }
        let left_out = self.output_size.saturating_sub(head + tail);
        if left_out == 0 {
            // The two overlap: the tail's start is in the head already.
            let overlap = (head + tail - self.output_size) as usize;
            let rest = self.tail.get(overlap..).unwrap_or_default();
            return clean(&[&self.head, rest].concat());
        }
        format!(
            "{}\n[… {left_out} bytes left out …]\n{}",
            clean(&self.head).trim_end(),
            clean(&self.tail)
        )
    }
}

/// Bytes as text for people: carriage returns end lines, escape sequences of terminals go, other control characters and
/// bytes that are no UTF-8 become U+FFFD.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => out.push('\n'),
            '\u{1b}' if characters.peek() == Some(&'[') => {
                // ESC [ parameters, then one final character (ECMA-48, 5.4).
                characters.next();
                while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The answer to [`probe`](super::runner::probe).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Exit code; 124 when the deadline passed.
    pub exit: i32,
    /// End of the output.
    pub output: String,
}

impl ProbeAnswer {
    /// Reads the answer.
    ///
    /// # Errors
    /// An answer that is not understood.
    pub fn parse(text: &str) -> Result<Self, AnswerError> {
        let lines = Lines::parse(text)?;
        let exit = lines
            .number("exit")?
            .ok_or_else(|| AnswerError::Protocol("no exit code".into()))?;
        Ok(Self {
            exit,
            output: clean(&lines.bytes("output-tail")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(head: &[u8], tail: &[u8], size: u64) -> Record {
        let text = format!(
            "state=finished\noutput-size={size}\noutput-head={}\noutput-tail={}\n",
            BASE64.encode(head),
            BASE64.encode(tail)
        );
        Record::parse(&text).unwrap()
    }

    #[test]
    fn output_that_is_no_text_is_neither_lost_nor_doubled() {
        let whole = b"caf\xe9 \x1b[31mred\x1b[0m \0 10%\r20%\r\nend\n";
        let shown = "caf\u{fffd} red \u{fffd} 10%\n20%\nend\n";
        assert_eq!(record(whole, whole, whole.len() as u64).output(), shown);
        // The two parts overlap by three bytes, and by none.
        assert_eq!(record(&whole[..20], &whole[17..], whole.len() as u64).output(), shown);
        assert_eq!(record(&whole[..4], &whole[4..], whole.len() as u64).output(), shown);
        // Each of these bytes becomes three: that does not make the tail the whole.
        let tail = [0xff; 30];
        assert!(
            record(b"first", &tail, 60)
                .output()
                .starts_with("first\n[… 25 bytes left out …]\n")
        );
    }
}

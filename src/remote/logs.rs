//! What scripts and units in a guest said, for people who read on from where they stopped.
//!
//! [`said`] and [`journal`] are programs for the guest as those of [`runner`](super::runner) are. Their answers are
//! [`Log`]s: each has the new text and a [`Place`] from which the next one goes on.

use crate::pve::Vmid;

use super::answer::{AnswerError, Lines};
use super::command::{Command, InvalidCommand, quote};
use super::runner::{LONGEST_ID, Layout, check_token, encode, in_guest, program, settings};

const LOGS: &str = include_str!("logs.sh");

/// So much of the end is sent at most, in bytes: encoded it fits into what is kept of a command's output.
const MOST: usize = 512 << 10;
/// A row of so many NUL bytes is no text but what was taken out of a long output.
const HOLE: usize = 4 << 10;
/// Begins the line in which journalctl says where it stopped.
const CURSOR: &[u8] = b"-- cursor: ";

/// How far somebody has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// Nothing yet.
    #[default]
    Start,
    /// So many bytes of a run of a script.
    Byte {
        /// The run: its hash and attempt.
        run: String,
        /// The bytes.
        at: u64,
    },
    /// Up to this entry of the journal.
    Cursor(String),
}

/// What is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Log {
    /// The script did not run in this guest.
    NeverRan,
    /// It ran, and what it said is not kept any more.
    Gone,
    /// The text, byte for byte, with a line where something is left out; and from where to go on.
    New(Vec<u8>, Place),
}

/// Reads what the last run of a script said after `place`. Answers a [`Log`], read with [`Log::of_script`].
///
/// # Errors
/// An id that cannot be sent.
pub fn said(vmid: Vmid, id: &str, place: &Place, layout: &Layout) -> Result<Command, InvalidCommand> {
    check_token("script id", id, LONGEST_ID)?;
    let (run, at) = match place {
        Place::Byte { run, at } => (run.as_str(), *at),
        _ => ("", 0),
    };
    let settings = format!(
        "{}PHOENIX_FROM_RUN={}\nPHOENIX_FROM={at}\nPHOENIX_MOST={MOST}\n",
        settings(id, "*", layout),
        quote(run)
    );
    let header = format!("said id={id} run={} at={at}", encode(run));
    Ok(in_guest(
        vmid,
        program(&header, &settings, "", &format!("{LOGS}\nphoenix_said")),
    ))
}

/// Reads the last `lines` of a unit's journal, or what came after `place`. Answers a [`Log`], read with
/// [`Log::of_unit`].
pub fn journal(vmid: Vmid, unit: &str, lines: u32, place: &Place) -> Command {
    let cursor = match place {
        Place::Cursor(cursor) => cursor.as_str(),
        _ => "",
    };
    let settings = format!(
        "PHOENIX_UNIT={}\nPHOENIX_LINES={lines}\nPHOENIX_CURSOR={}\nPHOENIX_MOST={MOST}\n",
        quote(unit),
        quote(cursor)
    );
    let header = format!("journal unit={} lines={lines} cursor={}", encode(unit), encode(cursor));
    in_guest(
        vmid,
        program(&header, &settings, "", &format!("{LOGS}\nphoenix_journal")),
    )
}

impl Log {
    /// Reads the answer to [`said`], which asked for what comes after `place`.
    ///
    /// # Errors
    /// The guest's reason, or an answer that is not understood.
    pub fn of_script(answer: &str, place: &Place) -> Result<Self, AnswerError> {
        let lines = Lines::parse(answer)?;
        match lines.get("state") {
            Some("absent") => return Ok(Self::NeverRan),
            Some("gone") => return Ok(Self::Gone),
            Some("present") => {}
            other => return Err(AnswerError::Protocol(format!("state={}", other.unwrap_or("(none)")))),
        }
        let run = lines.get("run").unwrap_or_default().to_owned();
        let size: u64 = lines.number("output-size")?.unwrap_or_default();
        let (head, tail) = (lines.bytes("output-head")?, lines.bytes("output-tail")?);
        let from = match place {
            Place::Byte { run: seen, at } if *seen == run => (*at).min(size),
            _ => 0,
        };
        let tail_from = size.saturating_sub(tail.len() as u64);
        // The start is wanted as far as it was not seen and the end does not have it.
        let start = from.min(head.len() as u64) as usize..tail_from.min(head.len() as u64) as usize;
        let mut text = head.get(start).unwrap_or_default().to_vec();
        let missing = tail_from.saturating_sub(from.max(head.len() as u64));
        push_gap(&mut text, missing);
        push_tail(&mut text, &tail);
        Ok(Self::New(text, Place::Byte { run, at: size }))
    }

    /// Reads the answer to [`journal`], which asked for what comes after `place`.
    ///
    /// # Errors
    /// The guest's reason, or an answer that is not understood.
    pub fn of_unit(answer: &str, place: &Place) -> Result<Self, AnswerError> {
        let mut text = Lines::parse(answer)?.bytes("output-tail")?;
        let place = match text.windows(CURSOR.len()).rposition(|window| window == CURSOR) {
            Some(at) => {
                let cursor = String::from_utf8_lossy(&text[at + CURSOR.len()..]).trim().to_owned();
                text.truncate(at);
                Place::Cursor(cursor)
            }
            // A unit that said nothing yet has no place in the journal.
            None => place.clone(),
        };
        Ok(Self::New(text, place))
    }
}

/// The last `count` lines of a text.
pub fn last_lines(text: &[u8], count: u32) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match (
        count,
        ends.map(|(at, _)| at + 1).nth((count as usize).saturating_sub(1)),
    ) {
        (0, _) => &[],
        (_, from) => &text[from.unwrap_or(0)..],
    }
}

fn push_gap(text: &mut Vec<u8>, bytes: u64) {
    if bytes > 0 {
        text.extend_from_slice(format!("\n[… {bytes} bytes left out …]\n").as_bytes());
    }
}

/// The end of an output; what was taken out of its middle while it grew reads as NUL bytes.
fn push_tail(text: &mut Vec<u8>, tail: &[u8]) {
    let hole = tail.iter().position(|byte| *byte == 0).and_then(|first| {
        let size = tail[first..].iter().take_while(|byte| **byte == 0).count();
        (size >= HOLE).then_some((first, size))
    });
    let Some((first, size)) = hole else {
        return text.extend_from_slice(tail);
    };
    text.extend_from_slice(&tail[..first]);
    push_gap(text, size as u64);
    text.extend_from_slice(&tail[first + size..]);
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;

    use super::*;

    fn answer(run: &str, head: &[u8], tail: &[u8], size: u64) -> String {
        format!(
            "state=present\nrun={run}\noutput-size={size}\noutput-head={}\noutput-tail={}\n",
            BASE64.encode(head),
            BASE64.encode(tail)
        )
    }

    fn at(run: &str, at: u64) -> Place {
        Place::Byte { run: run.into(), at }
    }

    #[test]
    fn a_script_is_read_on_from_where_it_was_read_to() {
        let text = |answer: &str, place: &Place| match Log::of_script(answer, place).unwrap() {
            Log::New(text, _) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        };
        // What was seen of another run does not count.
        let whole = answer("h.1", b"abcd", b"abcdefgh", 8);
        assert_eq!(text(&whole, &Place::Start), "abcdefgh");
        assert_eq!(text(&whole, &at("old.3", 5)), "abcdefgh");
        let rest = answer("h.1", b"abcd", b"gh", 8);
        assert_eq!(text(&rest, &at("h.1", 6)), "gh");
        assert_eq!(text(&answer("h.1", b"abcd", b"", 8), &at("h.1", 8)), "");
        let place = Log::of_script(&rest, &at("h.1", 6)).unwrap();
        assert_eq!(place, Log::New(b"gh".to_vec(), at("h.1", 8)));
        // The middle is gone.
        let cut = answer("h.1", b"abcd", b"yz", 26);
        assert_eq!(text(&cut, &Place::Start), "abcd\n[… 20 bytes left out …]\nyz");
        assert_eq!(text(&cut, &at("h.1", 3)), "d\n[… 20 bytes left out …]\nyz");
        assert_eq!(text(&cut, &at("h.1", 10)), "\n[… 14 bytes left out …]\nyz");
        let hole = [&b"ab"[..], &[0; 9000], &b"yz"[..]].concat();
        let shown = text(&answer("h.1", b"ab", &hole, 9004), &Place::Start);
        assert_eq!(shown, "ab\n[… 9000 bytes left out …]\nyz");
        assert_eq!(Log::of_script("state=absent\n", &Place::Start), Ok(Log::NeverRan));
        assert_eq!(Log::of_script("state=gone\n", &Place::Start), Ok(Log::Gone));
    }

    #[test]
    fn a_journal_is_read_on_from_its_cursor() {
        let answer = |text: &str| format!("state=present\noutput-tail={}\n", BASE64.encode(text));
        let read = |text: &str, place: &Place| Log::of_unit(&answer(text), place).unwrap();
        let cursor = Place::Cursor("s=1;i=2".into());
        assert_eq!(
            read("a\nb\n-- cursor: s=1;i=2\n", &Place::Start),
            Log::New(b"a\nb\n".to_vec(), cursor.clone())
        );
        assert_eq!(read("", &cursor), Log::New(Vec::new(), cursor.clone()));
        assert_eq!(
            Log::of_unit("error=it has no systemd journal\n", &cursor),
            Err(AnswerError::Guest("it has no systemd journal".into()))
        );
    }

    /// Runs a program as a guest's shell would.
    fn run(command: &Command) -> String {
        let input = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(input.path(), &command.stdin).unwrap();
        let output = std::process::Command::new("/bin/sh")
            .arg("-s")
            .stdin(std::fs::File::open(input.path()).unwrap())
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_a_script_said_is_found_in_memory_and_on_disk() {
        let guest = tempfile::tempdir().unwrap();
        let path = |name: &str| guest.path().join(name);
        let put = |name: &str, content: &[u8]| {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), content).unwrap();
        };
        let layout = Layout {
            spool: path("run").to_str().unwrap().into(),
            records: path("lib").to_str().unwrap().into(),
            ..Layout::default()
        };
        let read = |place: &Place| {
            let answer = run(&said(Vmid::nearest(100), "application", place, &layout).unwrap());
            Log::of_script(&answer, place).unwrap()
        };
        let new = |text: &[u8], size| Log::New(text.to_vec(), at("h.1", size));
        assert_eq!(read(&Place::Start), Log::NeverRan);
        put("lib/application/run.h.1", b"pid=1\n");
        assert_eq!(read(&Place::Start), Log::Gone);
        put("run/application/h.1/output", b"a1\na2\n\xffa3\n");
        assert_eq!(read(&Place::Start), new(b"a1\na2\n\xffa3\n", 10));
        assert_eq!(read(&at("h.1", 6)), new(b"\xffa3\n", 10));
        assert_eq!(read(&at("old.4", 6)), new(b"a1\na2\n\xffa3\n", 10));
        assert_eq!(read(&at("h.1", 10)), new(b"", 10));
        // It ended: start and end of what it said lie beside the record, which has the size of the whole.
        std::fs::remove_dir_all(path("run")).unwrap();
        let (start, end) = ([b's'; 4096], [b'e'; 5000]);
        put("lib/application/output.h.1", &[&start[..], &end].concat());
        put("lib/application/run.h.1", b"pid=1\nsize=20000\nexit=0\n");
        let gap = |bytes| format!("\n[… {bytes} bytes left out …]\n").into_bytes();
        assert_eq!(
            read(&Place::Start),
            new(&[&start[..], &gap(10_904), &end].concat(), 20_000)
        );
        assert_eq!(read(&at("h.1", 19_998)), new(b"ee", 20_000));
        assert_eq!(
            read(&at("h.1", 10)),
            new(&[&start[10..], &gap(10_904), &end].concat(), 20_000)
        );
        assert_eq!(read(&at("h.1", 14_000)), new(&[&gap(1000)[..], &end].concat(), 20_000));
    }

    proptest! {
        #[test]
        fn last_lines_are_those_that_tail_prints(text in "[ab\n]{0,20}", count in 0_u32..6) {
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            let wanted = lines[lines.len().saturating_sub(count as usize)..].concat();
            prop_assert_eq!(last_lines(text.as_bytes(), count), wanted.as_bytes());
        }
    }
}

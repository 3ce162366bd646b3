//! Output of a command, kept within bounds: its start and its end.

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Exit code; 255 when a signal ended it.
    pub exit: u32,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
}

impl Output {
    /// Whether it ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.exit == 0 && self.signal.is_none()
    }

    /// Standard error if there is any, else standard output: what to tell of a failure.
    pub fn complaint(&self) -> String {
        let shown = if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        shown.text().trim().to_owned()
    }
}

/// The start and the end of a stream of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    head: Vec<u8>,
    tail: Vec<u8>,
    keep: (usize, usize),
    total: u64,
}

impl Default for Captured {
    fn default() -> Self {
        Self::new(1 << 20, 64 << 10)
    }
}

impl Captured {
    /// Keeps so many bytes of the start and of the end.
    pub fn new(head: usize, tail: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: Vec::new(),
            keep: (head, tail),
            total: 0,
        }
    }

    /// Takes in more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.keep.0.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        self.tail.extend_from_slice(rest);
        // Cut in large pieces, so that a long stream of small ones costs no more than its length.
        if self.tail.len() > self.keep.1 * 2 {
            self.tail.drain(..self.tail.len() - self.keep.1);
        }
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    fn kept_tail(&self) -> &[u8] {
        &self.tail[self.tail.len().saturating_sub(self.keep.1)..]
    }

    /// As text, with a line where something is left out.
    pub fn text(&self) -> String {
        let (head, tail) = (
            String::from_utf8_lossy(&self.head),
            String::from_utf8_lossy(self.kept_tail()),
        );
        let left_out = self.total - (self.head.len() + self.kept_tail().len()) as u64;
        if left_out == 0 {
            format!("{head}{tail}")
        } else {
            format!("{head}\n[… {left_out} bytes left out …]\n{tail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_middle_is_left_out() {
        let mut captured = Captured::new(4, 3);
        for piece in ["ab", "cdef", "ghijkl", "mnopqr", "stuvwxyz"] {
            captured.push(piece.as_bytes());
        }
        assert_eq!(captured.text(), "abcd\n[… 19 bytes left out …]\nxyz");
    }

    proptest! {
        #[test]
        fn bounds_hold_and_short_output_is_whole(pieces in prop::collection::vec("[a-z]{0,9}", 0..20)) {
            let whole = pieces.concat();
            let mut captured = Captured::new(20, 10);
            pieces.iter().for_each(|p| captured.push(p.as_bytes()));
            prop_assert!(captured.head.len() + captured.tail.len() <= 20 + 2 * 10 + 9);
            if whole.len() <= 30 {
                prop_assert_eq!(captured.text(), whole);
            } else {
                prop_assert!(captured.text().starts_with(&whole[..20]));
                prop_assert!(captured.text().ends_with(&whole[whole.len() - 10..]));
            }
        }
    }
}

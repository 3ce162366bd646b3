//! The script that edits raw `lxc.*` lines on a node: recognised by its first lines, done on the model.

use super::Reply;
use crate::simulator::model::State;

/// An edit of raw `lxc.*` lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawLines {
    /// The guest.
    pub vmid: u32,
    digest: String,
    add: Vec<String>,
    remove: Vec<String>,
}

impl RawLines {
    /// The script says at its top what it does: `# phoenix-node: raw-lines vmid= digest=`, then `# add LINE` and
    /// `# remove LINE`.
    pub fn parse(stdin: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(stdin);
        let mut lines = text.lines();
        let header = lines
            .next()
            .and_then(|line| line.strip_prefix("# phoenix-node: raw-lines "));
        let header = header.ok_or("standard input does not begin with a header")?;
        let mut edit = Self::default();
        for (key, value) in header.split(' ').filter_map(|part| part.split_once('=')) {
            match key {
                "vmid" => edit.vmid = value.parse().map_err(|_| format!("{value:?} is no vmid"))?,
                "digest" => edit.digest = value.to_owned(),
                _ => {}
            }
        }
        for line in lines {
            match line
                .split_once(' ')
                .map(|_| (line.strip_prefix("# add "), line.strip_prefix("# remove ")))
            {
                Some((Some(add), _)) => edit.add.push(add.to_owned()),
                Some((_, Some(remove))) => edit.remove.push(remove.to_owned()),
                _ => break,
            }
        }
        Ok(edit)
    }

    /// Does it on `node`, with the exit codes of the script.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let Ok(guest) = state.ct(node, self.vmid) else {
            return Reply::fail(12, String::new());
        };
        let digest = guest.digest();
        if digest != self.digest {
            return Reply {
                exit: 11,
                stdout: format!("digest={digest}\n"),
                ..Reply::default()
            };
        }
        if let Some(lock) = guest.lock() {
            return Reply {
                exit: 10,
                stdout: format!("lock={lock}\n"),
                ..Reply::default()
            };
        }
        let old = guest.text().to_owned();
        let new = self.edited(&old);
        if new != old
            && let Err(error) = state.write_config_file(self.vmid, &new, Some(&digest))
        {
            // The script waits for the lock as long as Proxmox does.
            return Reply {
                exit: 13,
                wait: error.wait_for.is_some(),
                ..Reply::default()
            };
        }
        let digest = state
            .ct(node, self.vmid)
            .map(|guest| guest.digest())
            .unwrap_or_default();
        Reply::ok(format!("changed={}\ndigest={digest}\n", u8::from(new != old)))
    }

    /// The text with the lines added and removed above its first section.
    fn edited(&self, text: &str) -> String {
        let (top, sections) = match text.find("\n[") {
            Some(at) => text.split_at(at + 1),
            None => (text, ""),
        };
        let mut lines: Vec<&str> = top.lines().collect();
        let blanks = lines.iter().rev().take_while(|line| line.trim().is_empty()).count();
        lines.truncate(lines.len() - blanks);
        lines.retain(|line| !self.remove.iter().any(|remove| same_line(line, remove)));
        for add in &self.add {
            if !lines.iter().any(|line| same_line(line, add)) {
                lines.push(add);
            }
        }
        lines.extend(std::iter::repeat_n("", blanks));
        lines.iter().map(|line| format!("{line}\n")).collect::<String>() + sections
    }
}

/// Equal in key and value, whichever separator stands between.
fn same_line(a: &str, b: &str) -> bool {
    let parts = |line: &str| {
        line.split_once([':', '='])
            .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
    };
    parts(a).is_some() && parts(a) == parts(b)
}

//! The script that writes, finds and removes snippets of a storage on a node: recognised by its first line, done on the
//! model. `# phoenix-node: snippet-write volid=STORAGE:snippets/NAME`, the content as base64 in a here-document that ends
//! with `PHOENIX_END`; `snippet-find` and `snippet-remove` alike, without content.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Reply;
use super::node_files::{read, take, write};
use crate::simulator::model::storage::{StorageKind, split_volid};
use crate::simulator::model::{GuestFile, State};

/// First words of the script.
pub const HEADER: &str = "# phoenix-node: snippet-";
/// The exit code of the script for everything that the storage refuses.
const REFUSED: u32 = 14;

/// What is done with a snippet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    action: String,
    volid: String,
    content: Vec<u8>,
}

impl Snippet {
    /// Understands the script, or says what in it is not known.
    pub fn parse(stdin: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(stdin);
        let mut lines = text.lines();
        let header = lines.next().and_then(|line| line.strip_prefix(HEADER));
        let (action, volid) = header
            .and_then(|rest| rest.split_once(" volid="))
            .ok_or("standard input does not begin with a header")?;
        if !["find", "write", "remove"].contains(&action) {
            return Err(format!("snippet-{action} is not known"));
        }
        let packed: String = lines
            .skip_while(|line| !line.ends_with("<<'PHOENIX_END'"))
            .skip(1)
            .take_while(|line| *line != "PHOENIX_END")
            .collect();
        Ok(Self {
            action: action.to_owned(),
            volid: volid.to_owned(),
            content: BASE64.decode(packed.trim()).map_err(|_| "no base64")?,
        })
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        format!("snippet-{} {}", self.action, self.volid)
    }

    /// Does it on `node`.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let path = match self.path(state, node) {
            Ok(path) => path,
            Err(line) => return Reply::fail(REFUSED, line),
        };
        match self.action.as_str() {
            "write" => {
                let file = GuestFile {
                    content: self.content.clone(),
                    mode: 0o644,
                };
                let reply = write(state, node, &path, file);
                if reply.exit == 0 {
                    Reply::ok("present=1\n".to_owned())
                } else {
                    Reply { exit: REFUSED, ..reply }
                }
            }
            "remove" => {
                take(state, node, &path);
                Reply::ok("present=0\n".to_owned())
            }
            _ => {
                let there = read(state, node, &path).is_some_and(|file| !file.content.is_empty());
                Reply::ok(format!("present={}\n", u8::from(there)))
            }
        }
    }

    /// What `pvesm path` says of the volume.
    fn path(&self, state: &State, node: &str) -> Result<String, String> {
        let (id, name) =
            split_volid(&self.volid).ok_or_else(|| format!("unable to parse volume ID '{}'", self.volid))?;
        let storage = state
            .usable_storage(node, id)
            .map_err(|error| error.first_line().to_owned())?;
        if storage.kind == StorageKind::ZfsPool || !storage.active {
            return Err(format!("unable to parse zfs volume name '{name}'"));
        }
        if !name.starts_with("snippets/") || !storage.content.contains("snippets") {
            return Err(format!("unexpected path of {}: {}/{name}", self.volid, storage.path));
        }
        Ok(format!("{}/{name}", storage.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_recognised() {
        let text = "# phoenix-node: snippet-write volid=local:snippets/a.yaml\nPHOENIX_VOLID=x\nphoenix_snippet write \
                    <<'PHOENIX_END'\naGk=\nPHOENIX_END\n";
        let snippet = Snippet::parse(text.as_bytes()).unwrap();
        assert_eq!(snippet.summary(), "snippet-write local:snippets/a.yaml");
        assert_eq!(snippet.content, b"hi");
        assert!(Snippet::parse(b"# phoenix-node: snippet-eat volid=x\n").is_err());
    }
}

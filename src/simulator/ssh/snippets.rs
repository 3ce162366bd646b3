//! The program that keeps snippets of a storage: recognised by its first line, done on the model.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Reply;
use super::node_files::put_snippet;
use crate::simulator::model::{GuestFile, State};

/// What is done with a snippet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    action: String,
    volid: String,
    content: Vec<u8>,
}

impl Snippet {
    /// `# phoenix-node: snippet-ACTION volid=…`, and the content in base64 before the last line.
    pub fn parse(stdin: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(stdin);
        let header = text.lines().next()?.strip_prefix("# phoenix-node: snippet-")?;
        let (action, volid) = header.split_once(" volid=")?;
        let lines: Vec<&str> = text.lines().collect();
        let content = lines.len().checked_sub(2).and_then(|n| lines.get(n)).copied();
        Some(Self {
            action: action.to_owned(),
            volid: volid.to_owned(),
            content: BASE64.decode(content?).ok()?,
        })
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        format!("snippet-{} {}", self.action, self.volid)
    }

    /// Does it on `node`.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let Some((id, name)) = self
            .volid
            .split_once(':')
            .filter(|(_, name)| name.starts_with("snippets/"))
        else {
            return Reply::fail(14, format!("unable to parse volume ID '{}'", self.volid));
        };
        let Some(storage) = state.storages.get_mut(id) else {
            return Reply::fail(14, format!("storage '{id}' does not exist"));
        };
        let here = storage.volume(node, name).is_some();
        match self.action.as_str() {
            "find" => Reply::ok(format!("present={}\n", u8::from(here))),
            "remove" => {
                storage.take(node, name);
                state.dirty = true;
                Reply::ok("present=0\n".to_owned())
            }
            "write" => {
                let file = GuestFile {
                    content: self.content.clone(),
                    mode: 0o644,
                };
                let reply = put_snippet(state, node, id, name, &file);
                if reply.exit == 0 {
                    Reply::ok("present=1\n".to_owned())
                } else {
                    reply
                }
            }
            other => Reply::fail(2, format!("snippet-{other} is not known")),
        }
    }
}

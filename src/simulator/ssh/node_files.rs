//! Files on a node: what a client needs to put a snippet into a storage. A few commands of a shell are understood, in
//! a row with `&&`, `;` or line ends, and with single or double quotes:
//!
//! `set -e`, `umask MODE`, `cat > PATH` (standard input), `cat PATH`, `mv A B`, `rm [-f] PATH…`, `sha256sum PATH…`,
//! `mkdir [-p] PATH…`, `chmod MODE PATH…`, `test -e PATH`, `sync`
//!
//! A file in the folder `snippets` of a storage is a volume of that storage; any other lies on the node.

use sha2::{Digest as _, Sha256};

use super::Reply;
use crate::simulator::model::storage::{StorageKind, Volume};
use crate::simulator::model::{GuestFile, State};

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    words: Vec<String>,
    /// Where its output goes instead.
    into: Option<String>,
    /// A failure does not end the row.
    forgiven: bool,
}

/// A row of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    steps: Vec<Step>,
    stdin: Vec<u8>,
}

const KNOWN: &[&str] = &[
    "set",
    "umask",
    "cat",
    "mv",
    "rm",
    "sha256sum",
    "mkdir",
    "chmod",
    "test",
    "[",
    "sync",
    "true",
];

impl Files {
    /// Understands a row of commands, or says what in it is not known.
    pub fn parse(text: &str, stdin: &[u8]) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut step = Step {
            words: Vec::new(),
            into: None,
            forgiven: false,
        };
        let mut target = false;
        for token in tokens(text)? {
            match token {
                Token::Word(word) if target => {
                    step.into = Some(word);
                    target = false;
                }
                Token::Word(word) => step.words.push(word),
                Token::Into => target = true,
                Token::Next { forgiving } => {
                    let fresh = Step {
                        words: Vec::new(),
                        into: None,
                        forgiven: false,
                    };
                    let mut done = std::mem::replace(&mut step, fresh);
                    done.forgiven = forgiving;
                    steps.push(done);
                }
            }
        }
        steps.push(step);
        steps.retain(|step| !step.words.is_empty());
        let unknown = steps.iter().find(|step| {
            let first = step.words.first().map_or("", String::as_str);
            // Folders are not removed: nobody who is simulated here does that.
            let folders = first == "rm" && step.words.iter().any(|w| w.starts_with('-') && w.contains(['r', 'R']));
            !KNOWN.contains(&first) || (step.into.is_some() && first != "cat") || folders
        });
        if let Some(step) = unknown.filter(|_| !steps.is_empty()) {
            return Err(format!("{} is not known", step.words.join(" ")));
        }
        if steps.is_empty() || target {
            return Err("no command".to_owned());
        }
        Ok(Self {
            steps,
            stdin: stdin.to_vec(),
        })
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        let step = |step: &Step| match &step.into {
            Some(path) => format!("{} > {path}", step.words.join(" ")),
            None => step.words.join(" "),
        };
        self.steps.iter().map(step).collect::<Vec<_>>().join(" && ")
    }

    /// Does it on `node`.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let mut all = Reply::default();
        let mut umask = 0o022;
        let mut strict = false;
        for step in &self.steps {
            let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
            let reply = match words[..] {
                ["set", flags, ..] => {
                    strict |= flags.starts_with('-') && flags.contains('e');
                    Reply::default()
                }
                ["umask", mode] => {
                    umask = u32::from_str_radix(mode, 8).unwrap_or(umask);
                    Reply::default()
                }
                _ => self.one(state, node, step, umask),
            };
            all.stdout.push_str(&reply.stdout);
            all.stderr.push_str(&reply.stderr);
            all.exit = reply.exit;
            if reply.exit != 0 && (strict || !step.forgiven) {
                break;
            }
        }
        all
    }

    fn one(&self, state: &mut State, node: &str, step: &Step, umask: u32) -> Reply {
        let name = step.words.first().map_or("", String::as_str);
        let plain: Vec<&str> = step.words[1..]
            .iter()
            .map(String::as_str)
            .filter(|word| !word.starts_with('-') && *word != "]")
            .collect();
        let forced = step.words[1..]
            .iter()
            .any(|word| word.starts_with('-') && !word.starts_with("--") && word.contains(['f', 'p']));
        match (name, &step.into, &plain[..]) {
            ("cat", Some(path), []) => {
                let file = GuestFile {
                    content: self.stdin.clone(),
                    mode: 0o666 & !umask,
                };
                write(state, node, path, file)
            }
            ("cat", None, [path]) => match read(state, node, path) {
                Some(file) => Reply::ok(String::from_utf8_lossy(&file.content).into_owned()),
                None => missing("cat", path),
            },
            ("mv", _, [from, to]) => match take(state, node, from) {
                Some(file) => write(state, node, to, file),
                None => Reply::fail(1, format!("mv: cannot stat '{from}': No such file or directory")),
            },
            ("rm", _, paths) => {
                let mut gone = None;
                for path in paths {
                    if take(state, node, path).is_none() {
                        gone = Some(path);
                    }
                }
                match gone.filter(|_| !forced) {
                    Some(path) => Reply::fail(1, format!("rm: cannot remove '{path}': No such file or directory")),
                    None => Reply::default(),
                }
            }
            ("sha256sum", _, paths) => sums(state, node, paths),
            ("mkdir", _, paths) => {
                if let Some(found) = state.nodes.get_mut(node) {
                    found.paths.extend(paths.iter().map(|path| (*path).to_owned()));
                }
                Reply::default()
            }
            ("chmod", _, [mode, paths @ ..]) => chmod(state, node, mode, paths),
            ("test" | "[", _, [path]) => {
                let there = read(state, node, path).is_some() || is_folder(state, node, path);
                Reply {
                    exit: u32::from(!there),
                    ..Reply::default()
                }
            }
            ("sync" | "true", ..) => Reply::default(),
            _ => Reply::fail(2, format!("simulated node: {} is not known", step.words.join(" "))),
        }
    }
}

enum Token {
    Word(String),
    Into,
    Next { forgiving: bool },
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let done = matches!(c, ' ' | '\t' | '\n' | ';' | '&' | '>');
        if done {
            found.extend(word.take().map(Token::Word));
        }
        match c {
            ' ' | '\t' => {}
            '\n' | ';' => found.push(Token::Next { forgiving: true }),
            '&' if chars.next_if_eq(&'&').is_some() => found.push(Token::Next { forgiving: false }),
            '>' if chars.peek() != Some(&'>') => found.push(Token::Into),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('$' | '`') if c == '"' => return Err("an expansion".to_owned()),
                        Some(other) => word.push(other),
                        None => return Err("an open quote".to_owned()),
                    }
                }
            }
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().ok_or("a lone backslash")?),
            '$' | '`' | '|' | '&' | '<' | '>' | '(' | ')' | '*' | '?' | '{' | '}' | '!' => {
                return Err(format!("{c:?} outside quotes"));
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word.map(Token::Word));
    Ok(found)
}

fn missing(command: &str, path: &str) -> Reply {
    Reply::fail(1, format!("{command}: {path}: No such file or directory"))
}

/// Storage and volume name of a path in a folder for snippets.
fn snippet(state: &State, node: &str, path: &str) -> Option<(String, String)> {
    state.storages.iter().find_map(|(id, storage)| {
        let folder = storage.kind != StorageKind::ZfsPool && storage.content.contains("snippets");
        let usable = folder && storage.active && storage.is_on(node);
        let name = path.strip_prefix(&storage.path)?.strip_prefix("/snippets/")?;
        (usable && !name.is_empty() && !name.contains('/')).then(|| (id.clone(), format!("snippets/{name}")))
    })
}

fn is_folder(state: &State, node: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let usual = ["/tmp", "/var/tmp", "/run", "/root", ""].contains(&path);
    let of_storage = snippet(state, node, &format!("{path}/x")).is_some();
    let known = state.nodes.get(node).is_some_and(|found| {
        let below = |root: &String| root == path || root.starts_with(&format!("{path}/"));
        found.paths.iter().any(below)
    });
    usual || of_storage || known
}

pub(super) fn read(state: &State, node: &str, path: &str) -> Option<GuestFile> {
    match snippet(state, node, path) {
        Some((id, name)) => {
            let volume = state.storages.get(&id)?.volume(node, &name)?;
            let mode = volume.data.get("mode").and_then(|text| text.parse().ok());
            Some(GuestFile {
                content: volume.data.get("text").cloned().unwrap_or_default().into_bytes(),
                mode: mode.unwrap_or(0o644),
            })
        }
        None => state.nodes.get(node)?.files.get(path).cloned(),
    }
}

pub(super) fn take(state: &mut State, node: &str, path: &str) -> Option<GuestFile> {
    let file = read(state, node, path)?;
    state.dirty = true;
    match snippet(state, node, path) {
        Some((id, name)) => drop(state.storages.get_mut(&id)?.take(node, &name)),
        None => drop(state.nodes.get_mut(node)?.files.remove(path)),
    }
    Some(file)
}

pub(super) fn write(state: &mut State, node: &str, path: &str, file: GuestFile) -> Reply {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    if !path.starts_with('/') || !is_folder(state, node, folder) {
        return Reply::fail(1, format!("sh: 1: cannot create {path}: Directory nonexistent"));
    }
    state.dirty = true;
    if let Some((id, name)) = snippet(state, node, path) {
        let (uid, ctime, size) = (state.next_number(), state.seconds(), file.content.len() as u64);
        let Some(storage) = state.storages.get_mut(&id) else {
            return missing("sh", path);
        };
        if storage.used(node) + size > storage.total {
            return Reply::fail(1, "cat: write error: No space left on device".to_owned());
        }
        let volume = Volume {
            uid,
            size,
            used: size,
            format: "snippet".to_owned(),
            content: "snippets".to_owned(),
            ctime,
            data: [
                ("text".to_owned(), String::from_utf8_lossy(&file.content).into_owned()),
                ("mode".to_owned(), file.mode.to_string()),
            ]
            .into(),
            ..Volume::default()
        };
        storage.insert(node, &name, volume);
    } else if let Some(found) = state.nodes.get_mut(node) {
        found.files.insert(path.to_owned(), file);
    }
    Reply::default()
}

fn sums(state: &State, node: &str, paths: &[&str]) -> Reply {
    let mut reply = Reply::default();
    for path in paths {
        match read(state, node, path) {
            Some(file) => {
                let digest = Sha256::digest(&file.content);
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                reply.stdout.push_str(&format!("{hex}  {path}\n"));
            }
            None => {
                reply.exit = 1;
                reply
                    .stderr
                    .push_str(&format!("sha256sum: {path}: No such file or directory\n"));
            }
        }
    }
    reply
}

fn chmod(state: &mut State, node: &str, mode: &str, paths: &[&str]) -> Reply {
    for path in paths {
        let Some(mut file) = take(state, node, path) else {
            return Reply::fail(1, format!("chmod: cannot access '{path}': No such file or directory"));
        };
        file.mode = u32::from_str_radix(mode, 8).unwrap_or(file.mode);
        write(state, node, path, file);
    }
    Reply::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_understood_and_a_shell_is_not() {
        let files = Files::parse("umask 077 && cat > '/a b' && mv -f '/a b' /c; rm -f /d", b"x").unwrap();
        assert_eq!(files.summary(), "umask 077 && cat > /a b && mv -f /a b /c && rm -f /d");
        for bad in [
            "curl x",
            "cat $(x)",
            "cat > ",
            "a | b",
            "cat \"$x\"",
            "cat >> /x",
            "rm *",
        ] {
            assert!(Files::parse(bad, b"").is_err(), "{bad}");
        }
    }
}

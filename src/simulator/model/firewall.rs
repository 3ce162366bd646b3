//! Firewalls of guests (facts D.12, L.3): kept by guest id, whether the guest exists or not.
//!
//! Proxmox writes a firewall as text and reads it back, and what does not survive that way is lost: every change ends
//! in [`Firewall::settle`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{addresses, config};
use crate::simulator::schema::firewall_formats;
use crate::simulator::schema::validate::regex;

/// A rule by its fields.
pub type Rule = BTreeMap<String, String>;

/// An alias. One without a name is what a stray line in the file becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Name in its own spelling.
    #[serde(default)]
    pub name: String,
    /// Address or network.
    pub cidr: String,
    /// Free text.
    pub comment: Option<String>,
}

/// An entry of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    /// Excluded from the set.
    pub nomatch: bool,
    /// Free text.
    pub comment: Option<String>,
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpSet {
    /// Free text.
    pub comment: Option<String>,
    /// Entries by address.
    pub entries: BTreeMap<String, SetEntry>,
}

/// The firewall of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// Options.
    pub options: BTreeMap<String, String>,
    /// Rules, first one first.
    pub rules: Vec<Rule>,
    /// Aliases by name in lower case.
    pub aliases: BTreeMap<String, Alias>,
    /// Sets by name.
    pub ipsets: BTreeMap<String, IpSet>,
}

/// The fields of a rule with how the file names them, in the order of the file.
const FLAGS: &[(&str, &str)] = &[
    ("source", "source"),
    ("dest", "dest"),
    ("proto", "p"),
    ("dport", "dport"),
    ("sport", "sport"),
    ("log", "log"),
    ("icmp-type", "icmp-type"),
];

/// SHA-1 over the rows of a list, as a client gets it and passes it back.
pub fn list_digest<'a>(rows: impl IntoIterator<Item = &'a Map<String, Value>>) -> String {
    let mut text = String::new();
    for row in rows {
        let mut keys: Vec<&String> = row.keys().collect();
        keys.sort();
        for key in keys {
            let value = match &row[key] {
                Value::String(value) => value.clone(),
                Value::Object(_) | Value::Array(_) | Value::Null => continue,
                other => other.to_string(),
            };
            let _ = writeln!(text, "{key}:{value}");
        }
    }
    config::digest(&text)
}

/// `text` as a comment behind something; one of blanks is none.
fn comment(text: Option<&String>) -> String {
    let text = text.filter(|text| !matches!(text.as_str(), "" | "0") && !text.trim().is_empty());
    text.map(|text| format!(" # {text}")).unwrap_or_default()
}

/// Takes the comment off a line.
fn take_comment(line: &str) -> (&str, Option<String>) {
    match line.split_once('#') {
        Some((rest, text)) => (rest, Some(text.trim_matches(is_space).to_owned())),
        None => (line, None),
    }
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// A line without the blanks around it. Proxmox looks at bytes, among them that of the no-break space, which is also
/// the last one of some letters: such a letter is lost.
fn cut(line: &str) -> String {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | 0xa0);
    let bytes = line.as_bytes();
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    String::from_utf8_lossy(&bytes[start..end]).into_owned()
}

fn rule_line(rule: &Rule) -> String {
    let get = |key: &str| rule.get(key).filter(|value| !value.is_empty());
    let off = get("enable").is_some_and(|text| text == "0");
    let action = rule.get("action").cloned().unwrap_or_default();
    let action = match get("macro") {
        Some(name) => format!("{name}({action})"),
        None => action,
    };
    let kind = rule.get("type").map(|kind| kind.to_uppercase()).unwrap_or_default();
    let mut line = format!("{}{kind} {action}", if off { "|" } else { "" });
    if let Some(iface) = get("iface") {
        let _ = write!(line, " -i {iface}");
    }
    if rule.get("type").is_none_or(|kind| kind != "group") {
        for (key, flag) in FLAGS {
            if let Some(value) = get(key) {
                let _ = write!(line, " -{flag} {value}");
            }
        }
    }
    line + &comment(rule.get("comment"))
}

/// Reads a line; none where Proxmox cannot, and then the rule is gone.
fn parse_rule(line: &str) -> Option<Rule> {
    let (line, comment) = take_comment(line);
    let mut rule = Rule::new();
    if let Some(comment) = comment {
        rule.insert("comment".to_owned(), comment);
    }
    let (line, on) = line.strip_prefix('|').map_or((line, true), |rest| (rest, false));
    rule.insert("enable".to_owned(), u8::from(on).to_string());
    let mut words = line.split_whitespace();
    let (kind, action) = (words.next()?.to_lowercase(), words.next()?);
    let named = action.strip_suffix(')').and_then(|text| text.split_once('('));
    match named.filter(|(_, action)| kind != "group" && matches!(*action, "ACCEPT" | "DROP" | "REJECT")) {
        Some((name, action)) => {
            rule.insert("macro".to_owned(), name.to_owned());
            rule.insert("action".to_owned(), action.to_owned());
        }
        None => {
            rule.insert("action".to_owned(), action.to_owned());
        }
    }
    while let Some(flag) = words.next() {
        let flag = flag.strip_prefix('-')?;
        let key = if flag == "i" {
            "iface"
        } else {
            let known = FLAGS.iter().find(|(key, word)| *word == flag || *key == flag)?;
            known.0
        };
        if kind == "group" && key != "iface" {
            return None;
        }
        rule.insert(key.to_owned(), words.next()?.to_owned());
    }
    rule.insert("type".to_owned(), kind);
    Some(rule)
}

fn parse_alias(line: &str) -> Alias {
    let (line, comment) = take_comment(line);
    let mut words = line.trim_end().split(char::is_whitespace);
    let (Some(name), Some(cidr), None) = (words.next(), words.next(), words.next()) else {
        return Alias::default();
    };
    match addresses::stored(cidr) {
        Ok((cidr, _)) => Alias {
            name: name.to_owned(),
            cidr,
            comment: comment.filter(|text| !text.is_empty()),
        },
        Err(_) => Alias::default(),
    }
}

fn parse_entry(line: &str) -> (String, SetEntry) {
    let (line, comment) = take_comment(line);
    let (line, nomatch) = line.strip_prefix('!').map_or((line, false), |rest| (rest, true));
    let cidr = line.trim();
    let cidr = addresses::stored(cidr).map_or_else(|_| cidr.to_owned(), |(cidr, _)| cidr);
    let comment = comment.filter(|text| !text.is_empty());
    (cidr, SetEntry { nomatch, comment })
}

/// Section of the file.
enum Part {
    Options,
    Aliases,
    Rules,
    Set(String),
}

impl Firewall {
    /// The text of the file.
    fn render(&self) -> String {
        let mut text = "[OPTIONS]\n".to_owned();
        for (key, value) in &self.options {
            let _ = writeln!(text, "{key}: {value}");
        }
        text.push_str("[ALIASES]\n");
        for alias in self.aliases.values() {
            let _ = writeln!(text, "{} {}{}", alias.name, alias.cidr, comment(alias.comment.as_ref()));
        }
        for (name, set) in &self.ipsets {
            let note = set.comment.as_ref().filter(|text| !text.is_empty());
            let _ = writeln!(
                text,
                "[IPSET {name}]{}",
                note.map(|note| format!(" # {note}")).unwrap_or_default()
            );
            for (cidr, entry) in &set.entries {
                let mark = if entry.nomatch { "!" } else { "" };
                let _ = writeln!(text, "{mark}{cidr}{}", comment(entry.comment.as_ref()));
            }
        }
        text.push_str("[RULES]\n");
        for rule in &self.rules {
            let _ = writeln!(text, "{}", rule_line(rule));
        }
        text
    }

    fn parse(text: &str) -> Self {
        let mut firewall = Self::default();
        let mut part = None;
        for line in text.split('\n').map(cut) {
            let line = line.as_str();
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match line.to_ascii_lowercase().as_str() {
                "[options]" => part = Some(Part::Options),
                "[aliases]" => part = Some(Part::Aliases),
                "[rules]" => part = Some(Part::Rules),
                _ => match firewall.begin_set(line) {
                    Some(next) => part = next,
                    None => firewall.read_line(part.as_ref(), line),
                },
            }
        }
        firewall
    }

    /// Begins a set where the line says so; one with a name that no set can have is skipped.
    fn begin_set(&mut self, line: &str) -> Option<Option<Part>> {
        let head = regex(r"\[(?i:ipset)\s+(\S+)\]\s*(?:#\s*(.*?)\s*)?")?;
        let found = head.captures(line)?;
        let name = found.get(1)?.as_str().to_ascii_lowercase();
        if name.len() > 64 || !firewall_formats::is_alias(&name) {
            return Some(None);
        }
        let comment = found.get(2).map(|text| text.as_str().to_owned());
        let set = IpSet {
            comment: comment.filter(|text| !text.is_empty()),
            entries: BTreeMap::new(),
        };
        self.ipsets.insert(name.clone(), set);
        Some(Some(Part::Set(name)))
    }

    fn read_line(&mut self, part: Option<&Part>, line: &str) {
        match part {
            Some(Part::Options) => {
                if let Some((key, value)) = line.split_once(':') {
                    self.options.insert(key.to_owned(), value.trim().to_owned());
                }
            }
            Some(Part::Aliases) => {
                let alias = parse_alias(line);
                self.aliases.insert(alias.name.to_ascii_lowercase(), alias);
            }
            Some(Part::Rules) => self.rules.extend(parse_rule(line)),
            Some(Part::Set(name)) => {
                if let Some(set) = self.ipsets.get_mut(name) {
                    let (cidr, entry) = parse_entry(line);
                    set.entries.entry(cidr).or_insert(entry);
                }
            }
            None => {}
        }
    }

    /// Writes the firewall and reads it back.
    pub fn settle(&mut self) {
        *self = Self::parse(&self.render());
    }

    /// The alias of a name in any case, without the place before it.
    pub fn alias(&self, name: &str) -> Option<&Alias> {
        self.aliases
            .get(&name.to_ascii_lowercase())
            .filter(|alias| !alias.name.is_empty())
    }

    /// Options as answers show them.
    pub fn option_row(&self) -> Map<String, Value> {
        let value = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
        self.options
            .iter()
            .map(|(key, text)| (key.clone(), value(text)))
            .collect()
    }

    /// Aliases as answers show them.
    pub fn alias_rows(&self) -> Vec<Map<String, Value>> {
        self.aliases.values().map(alias_row).collect()
    }

    /// Sets as answers show them.
    pub fn set_rows(&self) -> Vec<Map<String, Value>> {
        let row = |(name, set): (&String, &IpSet)| {
            let mut row = Map::from_iter([("name".to_owned(), json!(name))]);
            if let Some(comment) = &set.comment {
                row.insert("comment".to_owned(), json!(comment));
            }
            row
        };
        self.ipsets.iter().map(row).collect()
    }

    /// Entries of a set as answers show them.
    pub fn entry_rows(&self, set: &IpSet) -> Vec<Map<String, Value>> {
        set.entries
            .iter()
            .map(|(cidr, entry)| self.entry_row(cidr, entry))
            .collect()
    }

    fn entry_row(&self, cidr: &str, entry: &SetEntry) -> Map<String, Value> {
        let mut row = Map::from_iter([("cidr".to_owned(), json!(cidr))]);
        if entry.nomatch {
            row.insert("nomatch".to_owned(), json!(1));
        }
        if let Some(comment) = &entry.comment {
            row.insert("comment".to_owned(), json!(comment));
        }
        if let Some(fault) = self.entry_fault(cidr) {
            row.insert("errors".to_owned(), json!({ "cidr": fault }));
        }
        row
    }

    fn entry_fault(&self, cidr: &str) -> Option<String> {
        if firewall_formats::is_alias(cidr) {
            return self.alias_fault(cidr);
        }
        if cidr
            .rsplit_once('/')
            .is_some_and(|(_, bits)| bits.trim_matches('0').is_empty())
        {
            return Some("a zero prefix is not allowed in ipset entries\n".to_owned());
        }
        addresses::stored(cidr).err()
    }

    /// What is wrong with the name of an alias in a set.
    pub fn alias_fault(&self, text: &str) -> Option<String> {
        let (name, elsewhere) = match text.strip_prefix("dc/") {
            Some(name) => (name, true),
            None => (text.strip_prefix("guest/").unwrap_or(text), false),
        };
        let found = !elsewhere && self.alias(name).is_some();
        (!found).then(|| format!("no such alias '{name}'"))
    }
}

/// An alias as answers show it.
pub fn alias_row(alias: &Alias) -> Map<String, Value> {
    let mut row = Map::new();
    if alias.name.is_empty() {
        return row;
    }
    row.insert("name".to_owned(), json!(alias.name));
    row.insert("cidr".to_owned(), json!(alias.cidr));
    if let Ok((_, version)) = addresses::stored(&alias.cidr) {
        row.insert("ipversion".to_owned(), json!(version));
    }
    if let Some(comment) = &alias.comment {
        row.insert("comment".to_owned(), json!(comment));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pairs: &[(&str, &str)]) -> Rule {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_does_not_survive_the_file_is_gone() {
        let mut firewall = Firewall::default();
        for comment in ["  blanks  ", "two\nlines", "# hash", "  ", "voilà"] {
            firewall.rules.push(rule(&[
                ("type", "in"),
                ("action", "ACCEPT"),
                ("enable", "1"),
                ("comment", comment),
            ]));
        }
        firewall.rules.push(rule(&[
            ("type", "group"),
            ("action", "web"),
            ("enable", "0"),
            ("dport", "80"),
        ]));
        firewall.settle();
        let comments: Vec<_> = firewall
            .rules
            .iter()
            .map(|rule| rule.get("comment").map(String::as_str))
            .collect();
        assert_eq!(
            comments,
            [
                Some("blanks"),
                Some("two"),
                Some("# hash"),
                None,
                Some("voil\u{fffd}"),
                None
            ]
        );
        assert_eq!(
            firewall.rules[5],
            rule(&[("type", "group"), ("action", "web"), ("enable", "0")])
        );
    }

    #[test]
    fn a_second_line_of_a_comment_is_a_line_of_the_file() {
        let mut firewall = Firewall::default();
        let named = |name: &str, cidr: &str, comment: &str| Alias {
            name: name.to_owned(),
            cidr: cidr.to_owned(),
            comment: Some(comment.to_owned()),
        };
        firewall
            .aliases
            .insert("gw".to_owned(), named("GW", "10.0.0.1/32", "the\ngate"));
        firewall.settle();
        assert_eq!(firewall.alias("gw").unwrap().cidr, "10.0.0.1");
        assert_eq!(firewall.alias_rows()[0], Map::new());
        firewall.settle();
        assert_eq!(firewall.aliases.len(), 1);
        let set = IpSet {
            comment: Some("one\n10.0.0.0/0".to_owned()),
            ..IpSet::default()
        };
        firewall.ipsets.insert("Mixed".to_owned(), set);
        firewall.settle();
        let set = &firewall.ipsets["mixed"];
        assert_eq!(set.comment.as_deref(), Some("one"));
        assert!(firewall.entry_rows(set)[0].contains_key("errors"));
    }
}

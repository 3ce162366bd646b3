//! What `vllm serve` takes, for the one version whose options are written down in `vllm_flags.txt`.
//!
//! Words are read as vLLM's own parser does (Python's argparse, and `vllm/utils/argparse_utils.py` before it):
//! underscores for dashes, unique beginnings of a name, `--name=value`, `--name.key value` for parts of a JSON object.
//! Where that parser guesses or where Python's versions differ, nothing is found wrong: the server decides then.

use std::borrow::Cow;
use std::sync::LazyLock;

/// Where names or values are this near (0 to 1), the one is suggested for the other.
const NEAR: f64 = 0.65;

static KNOWN: LazyLock<Known> = LazyLock::new(|| Known::read(include_str!("vllm_flags.txt")));

struct Known {
    version: &'static str,
    flags: Vec<Flag>,
}

/// An option.
struct Flag {
    names: Vec<&'static str>,
    takes: Takes,
    /// Values that fit: words, or kinds of values in angle brackets.
    values: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    OneOrNothing,
    OneOrMore,
}

impl Known {
    /// Lines that do not read as the file's head says are left out; a test looks for them.
    fn read(text: &'static str) -> Known {
        let lines = || text.lines().filter(|l| !l.starts_with('#'));
        let version = lines().find_map(|l| l.strip_prefix("version "));
        Known {
            version: version.unwrap_or_default(),
            flags: lines().filter_map(Flag::read).collect(),
        }
    }
}

impl Flag {
    fn read(line: &'static str) -> Option<Flag> {
        let mut parts = line.split(' ');
        let names = parts.next().filter(|n| n.starts_with('-'))?;
        let takes = match parts.next()? {
            "switch" => Takes::Nothing,
            "one" => Takes::One,
            "optional" => Takes::OneOrNothing,
            "many" => Takes::OneOrMore,
            _ => return None,
        };
        Some(Flag {
            names: names.split(',').collect(),
            takes,
            values: parts.next().map(|v| v.split('|').collect()).unwrap_or_default(),
        })
    }

    fn name(&self) -> &'static str {
        let plain = self
            .names
            .iter()
            .find(|n| n.starts_with("--") && !n.starts_with("--no-"));
        plain.or(self.names.first()).copied().unwrap_or_default()
    }

    /// Whether a value fits; an empty one and None stand for the default of many options.
    fn fits(&self, value: &str) -> bool {
        let whole = |text: &str| {
            let digits = text.trim().trim_start_matches(['+', '-']);
            !digits.is_empty() && digits.chars().all(|c| c.is_numeric() || c == '_')
        };
        let number = |text: &str| text.trim().replace('_', "").parse::<f64>().is_ok();
        ["", "None"].contains(&value)
            || self.values.iter().any(|wanted| match *wanted {
                "<text>" | "<json>" => true,
                "<int>" => whole(value),
                "<float>" => number(value),
                "<size>" => whole(value) || number(value.trim().trim_end_matches(|c| "kKmMgGtT".contains(c))),
                word => {
                    word.eq_ignore_ascii_case(value) || word.parse::<i64>().is_ok_and(|n| value.trim().parse() == Ok(n))
                }
            })
    }

    /// What is wrong with a value.
    fn refusal(&self, value: &str) -> Option<String> {
        if self.fits(value) {
            return None;
        }
        let wanted: Vec<&str> = (self.values.iter())
            .map(|wanted| match *wanted {
                "<int>" => "a whole number",
                "<float>" => "a number",
                "<size>" => "a whole number, or one such as 4k",
                word => word,
            })
            .collect();
        let hint = hint(self.values.iter().copied(), value);
        Some(format!(
            "takes no {value:?} for {}: {hint}it takes {}",
            self.name(),
            wanted.join(", ")
        ))
    }
}

/// The version whose options are known.
pub(crate) fn version() -> &'static str {
    KNOWN.version
}

/// How an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It stands alone. `no` is its opposite, without dashes, where there is one.
    Switch {
        /// Such as `no-enable-prefix-caching`.
        no: Option<&'static str>,
    },
    /// One value, or none where the option says so.
    One {
        /// Whether it is JSON.
        json: bool,
    },
    /// One value or more.
    Many,
}

/// The form of the option whose full name, without dashes, is `name`; None if there is no such option.
pub(crate) fn form(name: &str) -> Option<Form> {
    let bare = |n: &'static str| n.strip_prefix("--");
    let flag = KNOWN.flags.iter().find(|f| bare(f.name()) == Some(name))?;
    Some(match flag.takes {
        Takes::Nothing => Form::Switch {
            no: flag.names.iter().filter_map(|n| bare(n)).find(|n| n.starts_with("no-")),
        },
        Takes::One | Takes::OneOrNothing => Form::One {
            json: flag.values.contains(&"<json>"),
        },
        Takes::OneOrMore => Form::Many,
    })
}

/// A word of a command line.
enum Word<'a> {
    Value,
    /// An option, perhaps with its value behind an equals sign, perhaps for a part of a JSON object.
    Option {
        flag: &'static Flag,
        value: Option<&'a str>,
        part: bool,
    },
    Unknown,
    /// Only vLLM's parser can tell.
    Unsure,
}

impl<'a> Word<'a> {
    fn read(word: &'a str) -> Word<'a> {
        if !word.starts_with('-') || word == "-" {
            return Word::Value;
        }
        let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        let (name, part) = key.split_once('.').map_or((key, false), |(name, _)| (name, true));
        let long = name.starts_with("--");
        if word == "--" || part && !long {
            return Word::Unsure;
        }
        if let Some(level) = word.strip_prefix("-O") {
            let level = level.strip_prefix('=').unwrap_or(level);
            let value = Some(level).filter(|l| !l.is_empty());
            return Word::of(&[("--optimization-level", value)], false);
        }
        let name: Cow<str> = if long {
            name.replace('_', "-").into()
        } else {
            name.into()
        };
        let names = || KNOWN.flags.iter().flat_map(|f| f.names.iter().copied());
        if names().any(|n| n == name) {
            return Word::of(&[(name.as_ref(), value)], part);
        }
        let mut found: Vec<(&str, Option<&str>)> = names()
            .filter(|n| n.starts_with(name.as_ref()))
            .map(|n| (n, value))
            .collect();
        // A short option with its value behind it, as -qawq.
        let (letter, attached) = word.split_at(word.char_indices().nth(2).map_or(word.len(), |(at, _)| at));
        if !long && names().any(|n| n == letter) {
            found.push((letter, Some(attached)));
        }
        let number = name.trim_start_matches('-').chars().all(|c| c.is_ascii_digit());
        match found.is_empty() {
            true if !long && number || word.contains(' ') => Word::Value,
            true => Word::Unknown,
            false => Word::of(&found, part),
        }
    }

    /// The option that goes by the one of these names.
    fn of(found: &[(&str, Option<&'a str>)], part: bool) -> Word<'a> {
        let [(name, value)] = found else { return Word::Unsure };
        match KNOWN.flags.iter().find(|f| f.names.contains(name)) {
            // Help is printed, and what comes behind it not looked at.
            Some(flag) if flag.name() == "--help" => Word::Unsure,
            Some(flag) => Word::Option {
                flag,
                value: *value,
                part,
            },
            None => Word::Unknown,
        }
    }
}

/// The first of the words behind the model that vLLM would refuse: its place among them, and what is wrong, to be read
/// behind the name of the version.
pub(crate) fn fault(words: &[&str]) -> Option<(usize, String)> {
    let mut rest = Vec::new();
    let mut places = 0..words.len();
    // Parts of JSON objects are taken out first, each with its value; what stood around them closes up.
    while let Some(at) = places.next() {
        match Word::read(words[at]) {
            Word::Unsure => return None,
            Word::Unknown => return Some((at, unknown(words[at]))),
            Word::Option { flag, part: true, .. } if flag.takes == Takes::Nothing => return Some((at, no_value(flag))),
            Word::Option {
                flag,
                value,
                part: true,
            } => {
                if value.is_none() && places.next().is_none() {
                    return Some((at, lacks_value(flag)));
                }
            }
            Word::Option { flag, .. } if flag.name() == "--model" => {
                return Some((at, "is given its model by the field model: take this out".into()));
            }
            word => rest.push((at, word)),
        }
    }
    let mut open: Option<(usize, &Flag, bool)> = None;
    for (at, word) in &rest {
        match word {
            Word::Option { flag, value, .. } => {
                if let Some(fault) = unfinished(open) {
                    return Some(fault);
                }
                open = value.is_none().then_some((*at, *flag, false));
                if let Some(value) = value {
                    let refusal = match flag.takes {
                        Takes::Nothing => Some(no_value(flag)),
                        _ => flag.refusal(value),
                    };
                    if let Some(refusal) = refusal {
                        return Some((*at, refusal));
                    }
                }
            }
            _ => match open {
                Some((_, flag, _)) if flag.takes == Takes::Nothing => return Some((*at, no_value(flag))),
                Some((begun, flag, _)) => {
                    if let Some(refusal) = flag.refusal(words[*at]) {
                        return Some((*at, refusal));
                    }
                    open = (flag.takes == Takes::OneOrMore).then_some((begun, flag, true));
                }
                None => return Some((*at, lone(words[*at]))),
            },
        }
    }
    unfinished(open)
}

fn unfinished(open: Option<(usize, &Flag, bool)>) -> Option<(usize, String)> {
    let (at, flag, satisfied) = open?;
    let needs = matches!(flag.takes, Takes::One | Takes::OneOrMore) && !satisfied;
    needs.then(|| (at, lacks_value(flag)))
}

fn lacks_value(flag: &Flag) -> String {
    format!("wants a value for {}: give it as the next item", flag.name())
}

fn no_value(flag: &Flag) -> String {
    format!(
        "takes no value for {}, which is a switch: give the option alone",
        flag.name()
    )
}

fn lone(word: &str) -> String {
    match word.split_once(' ') {
        Some((name, _)) if word.starts_with('-') => {
            format!("reads {word:?} as one word: give {name} and its value as two items")
        }
        _ => format!("takes no {word:?} here, since no option stands before it: take it out, or give its option"),
    }
}

fn unknown(word: &str) -> String {
    let name = word.split(['=', '.']).next().unwrap_or(word).replace('_', "-");
    let names = KNOWN.flags.iter().flat_map(|f| f.names.iter().copied());
    let hint = hint(names.filter(|n| n.starts_with("--")), &name);
    format!("has no option {name}: {hint}correct it or take it out, or install a version that has it")
}

/// "did you mean …? " for what is near.
fn hint<'a>(known: impl Iterator<Item = &'a str>, given: &str) -> String {
    let near = |word: &str| strsim::normalized_damerau_levenshtein(word, given);
    known
        .filter(|word| !word.starts_with('<') && near(word) >= NEAR)
        .max_by(|a, b| near(a).total_cmp(&near(b)))
        .map(|word| format!("did you mean {word}? "))
        .unwrap_or_default()
}

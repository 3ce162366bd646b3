//! Command lines: `vllm_args` as options with their values.

use crate::desired::scripts::vllm_flags::{self, Form};

use super::super::json::{At, Node};
use super::super::writer::{Item, Writer};
use super::engine::text_of;

/// One option of a command line, with the values of the file that it is made of.
#[derive(Debug)]
pub struct Argument<'a> {
    /// Where the option and each of its values stand; one place where all stand in one.
    pub places: Vec<At<'a>>,
    /// Without dashes; empty for a word that belongs to no option.
    pub option: String,
    /// Its values.
    pub values: Vec<String>,
}

/// The arguments that a list, or a text, holds.
pub fn arguments<'a>(w: &mut Writer, at: &At<'a>) -> Vec<Argument<'a>> {
    let one = |text: String| Item {
        at: at.clone(),
        text: Some(text),
    };
    let words: Vec<Item> = match at.node {
        Node::String(text) => match shlex::split(text) {
            Some(words) => words.into_iter().map(one).collect(),
            // The text is not shown: it may hold a key.
            None => {
                let message = format!("{} is no list of arguments: its quotes do not match", at.key());
                w.skip_warn(at, &message, "give a list of arguments, and convert again");
                Vec::new()
            }
        },
        Node::Array(_) => at
            .items()
            .into_iter()
            .map(|at| Item {
                text: text_of(at.node),
                at,
            })
            .collect(),
        _ => w.list(at, &[',']),
    };
    let mut arguments: Vec<Argument> = Vec::new();
    // Whether the last option takes a value still.
    let mut open = false;
    for Item { at, text } in words {
        let Some(text) = text else {
            w.unreadable(&at, "an argument");
            continue;
        };
        let named = !text.trim_start_matches('-').is_empty();
        let is_option = text.starts_with('-') && named && text.parse::<f64>().is_err();
        match arguments.last_mut() {
            Some(last) if open && !is_option => {
                last.values.push(text);
                last.places.push(at);
                open = takes_many(&last.option);
            }
            _ if is_option => {
                let bare = text.trim_start_matches('-');
                let (option, value) = bare
                    .split_once('=')
                    .map_or((bare, None), |(o, v)| (o, Some(v.to_owned())));
                open = value.is_none();
                arguments.push(Argument {
                    places: vec![at],
                    option: option.to_owned(),
                    values: value.into_iter().collect(),
                });
            }
            _ => arguments.push(Argument {
                places: vec![at],
                option: String::new(),
                values: vec![text],
            }),
        }
    }
    arguments
}

fn takes_many(option: &str) -> bool {
    vllm_flags::form(&option.replace('_', "-")) == Some(Form::Many)
}

//! The page as HTML. All text is escaped by the macro; scripts and styles are files of their own, so that the page's
//! Content-Security-Policy allows nothing inline.

mod fleet;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::view::{Action, Branch, Fleet, Link, Problem, State, Wait};

/// Rows up to which a list is shown opened.
const OPEN: usize = 40;

/// The whole page around a fragment with this digest.
pub fn page(fragment: &str, digest: &str) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Phoenix" }
                link rel="icon" href="icon.svg";
                link rel="stylesheet" href="style.css";
                script src="page.js" defer {}
            }
            body {
                header {
                    h1 { "Phoenix" }
                    // Without the script there is nothing that filters.
                    form #find role="search" hidden {
                        label for="filter" { "Filter" }
                        input #filter type="search" placeholder="name, model, node, state …" autocomplete="off"
                            spellcheck="false";
                        output #found for="filter" {}
                    }
                    p #live role="status" {}
                }
                // It was escaped when it was made.
                main #fleet data-digest=(digest) { (PreEscaped(fragment)) }
            }
        }
    };
    page.into_string()
}

/// What changes of the page: sections, each with an id by which the script replaces it.
pub fn fragment(fleet: &Fleet) -> String {
    let parts = html! {
        (counts(fleet))
        (problems(&fleet.problems))
        (waits(&fleet.waits))
        (fleet::hypervisors(fleet))
        (templates(&fleet.templates))
        (actions(&fleet.actions))
    };
    parts.into_string()
}

/// State as a word, before which the style sheet puts its mark.
fn state(state: State, word: &str) -> Markup {
    html! { span class={ "state " (state.as_str()) } { (word) } }
}

/// A name that leads to its row.
fn link(link: &Link) -> Markup {
    html! {
        @match &link.id {
            Some(id) => a href={ "#" (id) } { (link.name) },
            None => span.name { (link.name) },
        }
    }
}

fn counts(fleet: &Fleet) -> Markup {
    let all: usize = fleet.counts.iter().map(|(_, count)| count).sum();
    html! {
        section #counts aria-label="Guests by state" {
            @if all == 0 { p.none { "There are no containers, machines or templates yet." } }
            @for (state, count) in &fleet.counts {
                button type="button" class={ "state " (state.as_str()) } data-filter=(state.as_str()) {
                    b { (count) } " " (state.as_str())
                }
            }
        }
    }
}

/// A section with a heading, whose list is folded where it is long.
fn section(id: &str, heading: &str, count: usize, list: Markup, none: &str) -> Markup {
    html! {
        section id=(id) {
            @if count == 0 {
                h2 { (heading) }
                p.none { (none) }
            } @else {
                details.group id={ (id) "/list" } open[count <= OPEN] {
                    summary { h2 { (heading) } span.count { (count) } }
                    (list)
                }
            }
        }
    }
}

fn problems(problems: &[Problem]) -> Markup {
    let list = html! {
        ul.list {
            @for problem in problems {
                li.row data-state=(problem.link.state.as_str()) {
                    (state(problem.link.state, &problem.link.word))
                    " " b { (link(&problem.link)) } " " span.sort { (problem.link.sort) }
                    " " span.reason { (problem.reason) }
                    @if !problem.since.is_empty() { " " span.since { "since " (problem.since) } }
                    p { (problem.message) }
                }
            }
        }
    };
    section(
        "problems",
        "Needs attention",
        problems.len(),
        list,
        "Nothing needs attention.",
    )
}

fn waits(waits: &[Wait]) -> Markup {
    let list = html! {
        ul.list {
            @for wait in waits {
                li.row data-state="waiting" {
                    b { (link(&wait.who)) }
                    " " span.sort { "waits for " (wait.on.as_str()) }
                    @for other in &wait.links { " " (link(other)) " " (state(other.state, &other.word)) }
                    " " span.reason { (wait.reason) }
                    p { (wait.message) }
                }
            }
        }
    };
    section(
        "waits",
        "What waits for what",
        waits.len(),
        list,
        "Nothing waits for something else.",
    )
}

fn templates(templates: &[Branch]) -> Markup {
    let list = html! { ul.tree { @for branch in templates { (tree(branch)) } } };
    section(
        "templates",
        "Templates and their clones",
        templates.len(),
        list,
        "There are no templates.",
    )
}

/// A template with what hangs on it. The view bounds the depth.
fn tree(branch: &Branch) -> Markup {
    html! {
        li {
            (state(branch.link.state, &branch.link.word)) " " b { (link(&branch.link)) }
            @if let Some(vmid) = branch.vmid { " " span.vmid { (vmid) } }
            @if let Some(lost) = &branch.lost { " " span.sort { "from " (lost) ", which is not there" } }
            @if !branch.clones.is_empty() {
                details.group.clones id={ "clones/" (branch.link.id.as_deref().unwrap_or_default()) }
                    open[branch.clones.len() <= OPEN / 4] {
                    summary { (branch.clones.len()) @if branch.clones.len() == 1 { " clone" } @else { " clones" } }
                    ul.flow {
                        @for clone in &branch.clones {
                            li.row data-state=(clone.state.as_str()) { (state(clone.state, &clone.word)) " " (link(clone)) }
                        }
                    }
                }
            }
            @if !branch.templates.is_empty() { ul.tree { @for inner in &branch.templates { (tree(inner)) } } }
        }
    }
}

fn actions(actions: &[(Link, Action)]) -> Markup {
    let list = html! {
        ol.list {
            @for (of, action) in actions {
                li.row data-state=(if action.warning { "attention" } else { "ready" }) {
                    (time(action.at))
                    " " (state(if action.warning { State::Attention } else { State::Ready }, &action.reason))
                    " " b { (link(of)) } " " span.sort { (of.sort) }
                    p { (action.message) }
                }
            }
        }
    };
    let none = "This process has published no event since it started.";
    section("actions", "Last actions", actions.len(), list, none)
}

fn time(at: Timestamp) -> Markup {
    html! {
        time datetime=(at.strftime("%Y-%m-%dT%H:%M:%SZ")) title=(at.strftime("%Y-%m-%d %H:%M:%S UTC")) {
            (at.strftime("%b %-d %H:%M:%S"))
        }
    }
}

#[cfg(test)]
mod tests;

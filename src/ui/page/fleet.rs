//! Hypervisors, nodes, GPUs and guests as HTML.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::ui::view::{Card, Fleet, Hypervisor, Mark, Node, Row, State};

use super::{OPEN, link, state};

pub(super) fn hypervisors(fleet: &Fleet) -> Markup {
    let guests = fleet.hypervisors.iter().flat_map(|h| &h.nodes).map(|n| n.guests.len());
    let open = guests.sum::<usize>() <= OPEN;
    html! {
        section #hypervisors {
            h2 { "Nodes and guests" }
            @if fleet.hypervisors.is_empty() { p.none { "There is no PhoenixHypervisor yet." } }
            @for hypervisor in &fleet.hypervisors { (one(hypervisor, open)) }
        }
    }
}

fn one(hypervisor: &Hypervisor, open: bool) -> Markup {
    let Hypervisor {
        link, version, quorate, ..
    } = hypervisor;
    html! {
        div.hypervisor id=[link.id.as_ref()] {
            div.line {
                (state(link.state, &link.word))
                h3 { (link.name) }
                @if let Some(version) = version { span.sort { "Proxmox VE " (version) } }
                @if *quorate == Some(false) { span.sort { "not quorate" } }
                (strip(&hypervisor.marks, true))
            }
            @if link.state != State::Ready {
                @if let Some(message) = &hypervisor.message { p.message { (message) } }
            }
            @for node in &hypervisor.nodes {
                (place(node, &format!("node/{}/{}", link.name, node.name), open))
            }
        }
    }
}

fn place(node: &Node, id: &str, open: bool) -> Markup {
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for guest in &node.guests {
        *counts.entry(guest.link.state).or_default() += 1;
    }
    html! {
        details.group.node id=(id) open[open] {
            summary {
                @if node.name == Node::NOWHERE { b { "On no node yet" } } @else { b { (node.name) } }
                @match node.status.as_deref() {
                    Some("online") => { " " (state(State::Ready, "online")) }
                    Some(status) => { " " (state(State::Unknown, status)) }
                    None => {},
                }
                span.count { (node.guests.len()) }
                @for (of, count) in &counts { " " (state(*of, &format!("{count} {}", of.as_str()))) }
            }
            @if !node.cards.is_empty() {
                ul.cards aria-label="GPUs that guests name" { @for card in &node.cards { (slot(card)) } }
            }
            @if node.guests.is_empty() { p.none { "No guests." } }
            @for guest in &node.guests { (row(guest)) }
        }
    }
}

/// A GPU with who has it.
fn slot(card: &Card) -> Markup {
    html! {
        li.card {
            b { "GPU " (card.name) }
            ul {
                @for holder in &card.holders {
                    li.row data-state=(holder.link.state.as_str()) {
                        (state(holder.link.state, &holder.link.word)) " " (link(&holder.link))
                        @if !holder.attached { " " span.sort { "not attached yet" } }
                        @if let Some(model) = &holder.model { div.model { (model) } }
                    }
                }
            }
        }
    }
}

fn row(guest: &Row) -> Markup {
    let at = &guest.link;
    html! {
        details.guest.row id=[at.id.as_ref()] data-state=(at.state.as_str()) {
            summary {
                (state(at.state, &at.word))
                span.name { (at.name) }
                span.facts {
                    @if at.sort != "container" { span.sort { (at.sort) } " " }
                    @if let Some(vmid) = guest.vmid { span.vmid { (vmid) } " " }
                    @if let Some(gpus) = &guest.gpus { span.gpu { "GPU " (gpus) } " " }
                    @if let Some(model) = &guest.model { span.model { (model) } }
                }
                (strip(&guest.marks, false))
                @if let Some(message) = guest.message.as_ref().filter(|_| at.state != State::Ready) {
                    span.message { (message) }
                }
            }
            (details(guest))
        }
    }
}

/// What a guest's row shows when it is opened.
fn details(guest: &Row) -> Markup {
    let facts = [
        ("Address", &guest.ip),
        ("Cloned from", &guest.template),
        ("Task", &guest.task),
        ("Message", &guest.message),
    ];
    html! {
        div.inside {
            @if facts.iter().any(|(_, value)| value.is_some()) {
                dl { @for (name, value) in facts { @if let Some(value) = value { dt { (name) } dd { (value) } } } }
            }
            @if guest.marks.is_empty() { p.none { "It has no conditions yet." } }
            ul.conditions {
                @for mark in &guest.marks {
                    li {
                        (state(mark.state, &mark.condition)) " "
                        @if mark.status != "True" { span.sort { (mark.status) } " " }
                        span.reason { (mark.reason) } " " span.since { (mark.since) }
                        @if !mark.message.is_empty() { p { (mark.message) } }
                    }
                }
            }
        }
    }
}

/// Conditions as a strip of marks. Who hears the page hears what does not hold, and has all of it in the opened row. That row
/// has what the script shows as tooltip of a mark, too: in the marks themselves it would make the page half as large again.
fn strip(marks: &[Mark], told: bool) -> Markup {
    let not: Vec<&str> = marks
        .iter()
        .filter(|mark| mark.state != State::Ready)
        .map(|mark| mark.condition.as_str())
        .collect();
    let label = match not.is_empty() {
        true => format!("all {} conditions are as they should be", marks.len()),
        false => format!("not as it should be: {}", not.join(", ")),
    };
    html! {
        @if !marks.is_empty() {
            span.strip role="img" aria-label=(label) {
                @for mark in marks { i class=(mark.state.as_str()) title=[told.then(|| tooltip(mark))] {} }
            }
        }
    }
}

fn tooltip(mark: &Mark) -> String {
    let Mark {
        condition,
        status,
        reason,
        message,
        ..
    } = mark;
    format!("{condition} {status} · {reason} · {message}")
}

//! What people and programs see of the checks.

use serde_json::{Value, json};

use super::{Check, Outcome};

/// The checks of one hypervisor.
#[derive(Clone, Debug)]
pub struct Examined {
    /// `namespace/name`.
    pub hypervisor: String,
    /// The checks.
    pub checks: Vec<Check>,
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warn",
        Outcome::Unknown => "unknown",
        Outcome::Fail => "FAIL",
    }
}

/// The worst outcome of all; nothing that was looked at is not known to be well.
pub fn worst(all: &[Examined]) -> Outcome {
    let outcomes = all.iter().flat_map(|one| &one.checks).map(|check| check.outcome);
    outcomes.max().unwrap_or(Outcome::Unknown)
}

fn count(checks: &[Check], outcome: Outcome) -> usize {
    checks.iter().filter(|check| check.outcome == outcome).count()
}

/// A list for people, one hypervisor after the other, what is worst at the end of each.
pub fn render(all: &[Examined]) -> String {
    let mut text = String::new();
    for Examined { hypervisor, checks } in all {
        text.push_str(&format!("PhoenixHypervisor {hypervisor}\n"));
        let mut sorted: Vec<&Check> = checks.iter().collect();
        sorted.sort_by_key(|check| check.outcome);
        let width = checks
            .iter()
            .map(|check| check.name.chars().count())
            .max()
            .unwrap_or_default()
            .min(48);
        for check in sorted {
            let line = format!("  {:<7} {:<width$}  {}", word(check.outcome), check.name, check.message);
            text.push_str(line.trim_end());
            text.push('\n');
            if let Some(fix) = check.fix.as_ref().filter(|_| check.outcome != Outcome::Ok) {
                text.push_str(&format!("          $ {fix}\n"));
            }
        }
        let (ok, warn) = (count(checks, Outcome::Ok), count(checks, Outcome::Warn));
        let (unknown, fail) = (count(checks, Outcome::Unknown), count(checks, Outcome::Fail));
        text.push_str(&format!(
            "  {ok} ok, {warn} to look at, {unknown} unknown, {fail} broken\n\n"
        ));
    }
    text.trim_end().to_string()
}

/// The same for programs.
pub fn value(all: &[Examined]) -> Value {
    let list: Vec<Value> = all
        .iter()
        .map(|one| json!({"hypervisor": one.hypervisor, "checks": one.checks}))
        .collect();
    json!({"worst": worst(all), "hypervisors": list})
}

/// The commands that mend what is not ok, each once, with what each is for. They run as root on a node.
pub fn commands(all: &[Examined]) -> String {
    let mut text = String::new();
    for Examined { hypervisor, checks } in all {
        let mut told: Vec<&String> = Vec::new();
        for check in checks.iter().filter(|check| check.outcome != Outcome::Ok) {
            let Some(fix) = &check.fix else { continue };
            if told.is_empty() {
                text.push_str(&format!("# PhoenixHypervisor {hypervisor}: as root on a node\n"));
            }
            if !told.contains(&fix) {
                told.push(fix);
                text.push_str(&format!("# {}\n{fix}\n", check.name));
            }
        }
    }
    match text.is_empty() {
        true => "# no command is known that would mend anything".into(),
        false => text.trim_end().to_string(),
    }
}

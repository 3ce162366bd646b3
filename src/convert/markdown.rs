//! The report as Markdown, to read and to file.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{Count, Outcome, Report, Severity};

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = String::from("# Conversion report\n\n");
    let (all, unknown) = (report.totals.all, report.totals.unknown_keys);
    let _ = writeln!(
        text,
        "{} errors, {} warnings, {} notes. Of {} values {} are mapped, {} are the default anyway, {} are not mapped \
         ({unknown} of unknown keys).\n",
        report.count(Severity::Error),
        report.count(Severity::Warning),
        report.count(Severity::Info),
        all.leaves(),
        all.mapped,
        all.defaulted,
        all.not_mapped,
    );
    to_do(&mut text, report);
    not_mapped(&mut text, report);
    by_key(&mut text, &report.totals.by_key);
    text
}

fn to_do(text: &mut String, report: &Report) {
    text.push_str("## What to do\n");
    let list = report.to_do();
    if list.is_empty() {
        text.push_str("\nNothing.\n");
    }
    for (object, findings) in list {
        let _ = writeln!(text, "\n### {}\n", plain(object.unwrap_or(GENERAL)));
        for finding in findings {
            let _ = writeln!(
                text,
                "- [ ] **{}**: {}",
                finding.severity.word(),
                plain(&finding.message)
            );
            let _ = writeln!(text, "  - {}", plain(&finding.fix));
            let _ = writeln!(text, "  - {} `{}`", plain(&finding.file), code(&finding.pointer));
        }
    }
}

/// What concerns no object alone.
pub const GENERAL: &str = "the whole fleet";

fn not_mapped(text: &mut String, report: &Report) {
    text.push_str("\n## Not mapped\n\n| object | key | why |\n| --- | --- | --- |\n");
    for entry in report.entries.iter().filter(|e| e.outcome == Outcome::NotMapped) {
        let object = entry.object.as_deref().unwrap_or("–");
        let (key, why) = (cell(&code(&entry.pointer)), cell(&plain(&entry.note)));
        let _ = writeln!(text, "| {} | `{key}` | {why} |", cell(&plain(object)));
    }
}

fn by_key(text: &mut String, counts: &BTreeMap<String, Count>) {
    text.push_str("\n## By key\n\n| key | mapped | defaulted | not mapped |\n| --- | ---: | ---: | ---: |\n");
    for (key, count) in counts {
        let key = cell(&code(key));
        let _ = writeln!(
            text,
            "| `{key}` | {} | {} | {} |",
            count.mapped, count.defaulted, count.not_mapped
        );
    }
}

/// Text on one line that Markdown leaves as it is.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '#' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text within backquotes.
fn code(text: &str) -> String {
    text.chars()
        .map(|c| if c == '`' || c.is_control() { ' ' } else { c })
        .collect()
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

//! Alert rules and dashboard: every query names metrics and labels that there are, every alert is tested by promtool and
//! says whom it is about and what to type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use phoenix::operator::Metrics;
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

const RULES: &str = "config/monitoring/phoenix.rules.yaml";
const TESTS: &str = "config/monitoring/phoenix.rules.test.yaml";
const DASHBOARD: &str = "config/monitoring/dashboard.json";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Labels of each metric as docs/metrics.md has them, which a test of its own compares with what there is; of histograms
/// the series that are asked for.
fn labels() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/metrics.md");
    let mut of_page = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `phoenix_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels: BTreeSet<String> = labels.map(|label| label.trim_matches('`').to_string()).collect();
        of_page.insert(cells[1].trim_matches('`').to_string(), labels);
    }
    let mut series = BTreeMap::new();
    for metric in Metrics::described() {
        let labels = of_page.get(&metric.name).cloned().unwrap_or_default();
        if metric.type_ != "histogram" {
            series.insert(metric.name, labels);
            continue;
        }
        for end in ["_sum", "_count"] {
            series.insert(format!("{}{end}", metric.name), labels.clone());
        }
        let buckets = labels.into_iter().chain(["le".to_string()]).collect();
        series.insert(format!("{}_bucket", metric.name), buckets);
    }
    series
}

/// Collects what a query asks for that is not there.
struct Check<'l> {
    labels: &'l BTreeMap<String, BTreeSet<String>>,
    /// Labels of what was asked for so far.
    known: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Check<'_> {
    fn selector(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().unwrap_or_default();
        let Some(labels) = self.labels.get(&name) else {
            self.wrong.push(format!("there is no metric {name:?}"));
            return;
        };
        self.known.extend(labels.iter().cloned());
        for matcher in &selector.matchers.matchers {
            if !labels.contains(&matcher.name) {
                self.wrong.push(format!("{name} has no label {}", matcher.name));
            }
        }
    }

    fn group(&mut self, modifier: Option<&LabelModifier>) {
        for label in modifier.iter().flat_map(|modifier| &modifier.labels().labels) {
            if !self.known.contains(label) {
                self.wrong.push(format!("nothing in it has a label {label}"));
            }
        }
    }
}

impl ExprVisitor for Check<'_> {
    type Error = ();

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            _ => {}
        }
        Ok(true)
    }

    fn post_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::Aggregate(aggregate) => self.group(aggregate.modifier.as_ref()),
            Expr::Binary(binary) => {
                let modifier = binary.modifier.as_ref();
                self.group(modifier.and_then(|modifier| modifier.matching.as_ref()));
            }
            _ => {}
        }
        Ok(true)
    }
}

/// What is wrong with a query.
fn wrong(query: &str, labels: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // What Grafana puts in.
    let query = query.replace("$__rate_interval", "5m").replace("$namespace", ".*");
    let expr = match parser::parse(&query) {
        Ok(expr) => expr,
        Err(error) => return vec![error.to_string()],
    };
    let mut check = Check {
        labels,
        known: BTreeSet::new(),
        wrong: Vec::new(),
    };
    walk_expr(&mut check, &expr).unwrap();
    check.wrong
}

/// All strings under this key, wherever they are.
fn under<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|field| under(field, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, key, found)),
        _ => {}
    }
}

#[test]
fn queries_name_what_there_is() {
    let labels = labels();
    let (rules, dashboard) = (yaml(RULES), serde_json::from_str(&read(DASHBOARD)).unwrap());
    let mut found = Vec::new();
    for (file, value) in [(RULES, &rules), (DASHBOARD, &dashboard)] {
        let mut queries = Vec::new();
        under(value, "expr", &mut queries);
        assert!(queries.len() > 10, "{file}: {queries:?}");
        let of_file = queries.iter().flat_map(|query| {
            let wrong = wrong(query, &labels).into_iter();
            wrong.map(move |words| format!("{file}: {query}: {words}"))
        });
        found.extend(of_file);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    // Grafana's own functions in variables.
    let mut variables = Vec::new();
    under(&dashboard["templating"], "definition", &mut variables);
    for variable in variables {
        let asked = variable.strip_prefix("label_values(").and_then(|v| v.strip_suffix(')'));
        let (metric, label) = asked.and_then(|asked| asked.split_once(", ")).unwrap();
        assert!(labels[metric].contains(label), "{variable}");
    }
}

/// The check finds what it is for.
#[test]
fn a_query_of_what_is_not_there_is_found() {
    let labels = labels();
    for (query, words) in [
        (
            "sum(rate(phoenix_reconciles[5m]))",
            "there is no metric \"phoenix_reconciles\"",
        ),
        ("phoenix_leading{pod=\"a\"}", "phoenix_leading has no label pod"),
        ("sum by (node) (phoenix_objects)", "nothing in it has a label node"),
        (
            "phoenix_reconcile_duration_seconds",
            "there is no metric \"phoenix_reconcile_duration_seconds\"",
        ),
    ] {
        assert_eq!(wrong(query, &labels), [words], "{query}");
    }
    assert!(!wrong("sum(", &labels).is_empty());
}

/// No panel lies over another one, and each has an id of its own.
#[test]
fn panels_of_the_dashboard_have_places_of_their_own() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && cells.insert((x, y)), "{} is over another one", panel["title"]);
            }
        }
    }
}

#[test]
fn alerts_say_whom_they_are_about_and_what_to_type() {
    let (rules, page) = (yaml(RULES), read("docs/metrics.md"));
    for rule in list(&rules["groups"]).flat_map(|group| list(&group["rules"])) {
        let name = text(&rule["alert"]);
        let severity = text(&rule["labels"]["severity"]);
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity:?}"
        );
        assert!(
            page.contains(&format!("| `{name}` | {severity} |")),
            "{name} is not in docs/metrics.md"
        );
        let words = [
            text(&rule["annotations"]["summary"]),
            text(&rule["annotations"]["description"]),
        ];
        assert!(
            !words[0].is_empty() && words[1].contains('`'),
            "{name}: nothing to type"
        );
        // Labels by which it is told apart are told.
        let by = text(&rule["expr"])
            .split("by (")
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        for label in by
            .into_iter()
            .flat_map(|by| by.split(", "))
            .filter(|label| *label != "le")
        {
            let told = format!("{{{{ $labels.{label}");
            assert!(words.concat().contains(&told), "{name} does not say its {label}");
        }
    }
}

/// Each alert is tested where it fires and where it does not.
#[test]
fn every_alert_is_tested_both_ways() {
    let (rules, tests) = (yaml(RULES), yaml(TESTS));
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in list(&tests["tests"]).flat_map(|test| list(&test["alert_rule_test"])) {
        let name = text(&case["alertname"]).to_string();
        match list(&case["exp_alerts"]).next() {
            Some(_) => fires.insert(name),
            None => silent.insert(name),
        };
    }
    let rules = list(&rules["groups"]).flat_map(|group| list(&group["rules"]));
    let alerts: BTreeSet<String> = rules.map(|rule| text(&rule["alert"]).to_string()).collect();
    assert_eq!(alerts, fires);
    assert_eq!(alerts, silent);
}

#[test]
fn promtool_finds_the_rules_right() {
    let made = Command::new(path("e2e/build-promtool.sh"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(made.status.success(), "e2e/build-promtool.sh: {}", made.status);
    let promtool = String::from_utf8(made.stdout).unwrap();
    for arguments in [["check", "rules", RULES], ["test", "rules", TESTS]] {
        let mut command = Command::new(promtool.trim());
        let ran = command.args(arguments).current_dir(path("")).output().unwrap();
        let said = [&ran.stdout, &ran.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
        assert!(
            ran.status.success(),
            "promtool {}: {}",
            arguments.join(" "),
            said.concat()
        );
    }
}

//! Recorded answers of Proxmox's own API code, replayed against the simulator scenario by scenario.
//!
//! `PHOENIX_RECORDED` may name further files (separated as `PATH` is). For each file one line
//! `NAME agree: N of M, skipped K` is printed, and every disagreement.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

use compare::{Said, differences, log_lines, masked};
use phoenix::simulator::api::{HttpReply, HttpRequest, auth};
use phoenix::simulator::{Profile, SimConfig, Simulator};
use serde_json::{Value, json};

/// Agreement that must not be lost again.
const LEAST_AGREEING: usize = 2_059;

/// Records of the excluded scenarios: more of them must not go unseen.
const EXCLUDED: usize = 36;

/// Scenarios of parts that are not simulated.
fn excluded(scenario: &str) -> bool {
    scenario.starts_with("ha-") || scenario == "firewall-cluster"
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// One scenario under way.
struct Replay {
    simulator: Simulator,
    upid: String,
    digest: String,
    /// Volume of the first backup that a reply named.
    backup: String,
    said: Said,
}

impl Replay {
    fn new(records: &[Value]) -> Self {
        let config = SimConfig {
            profile: Profile::Recorded,
            manual_clock: Some(1_795_408_000_000),
            ..SimConfig::default()
        };
        let simulator = Simulator::new(config).unwrap();
        let said = records
            .iter()
            .map(|record| format!("{} {}", record["params"], text(record, "raw_body")))
            .collect();
        Self {
            simulator,
            upid: String::new(),
            digest: String::new(),
            backup: String::new(),
            said: Said(said),
        }
    }

    fn authenticate(&self, request: &mut HttpRequest, who: &str) {
        let token =
            |id: &str, number: u32| Some(format!("PVEAPIToken={id}=00000000-0000-4000-8000-00000000000{number}"));
        request.authorization = match who {
            "token" => token("root@pam!test", 1),
            "token-priv" => token("ops@pve!lim", 2),
            "token-deploy" => token("ops@pve!deploy", 3),
            "token-audit" => token("audit@pve!ro", 4),
            _ => request.authorization.take(),
        };
        if let Some(user) = who.split("-nocsrf").next().filter(|user| user.contains('@')) {
            let (ticket, csrf) = self
                .simulator
                .with(|state| (auth::ticket(state, user), auth::csrf_token(state, user)));
            let ticket: String = form_urlencoded::byte_serialize(ticket.as_bytes()).collect();
            request.cookie = Some(format!("PVEAuthCookie={ticket}"));
            request.csrf = (!who.ends_with("-nocsrf")).then_some(csrf);
        }
    }

    fn fill(&self, text: &str, encode: bool) -> String {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let upid = if encode { encoded(&self.upid) } else { self.upid.clone() };
        text.replace("{{upid}}", &upid)
            .replace("{{digest}}", &self.digest)
            .replace("{{backup}}", &self.backup)
    }

    fn form(&self, params: &Value) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (key, value) in params.as_object().into_iter().flatten() {
            for value in value.as_array().map_or_else(|| vec![value.clone()], Clone::clone) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                form.append_pair(key, &self.fill(&text, false));
            }
        }
        form.finish()
    }

    fn request(&self, record: &Value) -> HttpRequest {
        let base = record.get("base").and_then(Value::as_str).unwrap_or("/api2/json");
        let mut request = HttpRequest {
            method: text(record, "method").to_owned(),
            path: format!("{base}{}", self.fill(text(record, "path"), true)),
            ..HttpRequest::default()
        };
        let form = self.form(&record["params"]);
        if let Some(body) = record.get("raw_body").and_then(Value::as_str) {
            request.body = body.as_bytes().to_vec();
            request.content_type = Some(text(record, "content_type").to_owned());
        } else if matches!(request.method.as_str(), "POST" | "PUT") {
            request.body = form.into_bytes();
            request.content_type = Some("application/x-www-form-urlencoded".to_owned());
        } else {
            request.query = form;
        }
        if let Some(header) = record.pointer("/headers/Authorization").and_then(Value::as_str) {
            request.authorization = Some(header.to_owned());
        }
        self.authenticate(&mut request, text(record, "auth"));
        request
    }

    /// Lets time pass until no task runs, at most ten minutes.
    fn finish_tasks(&self) {
        for _ in 0..6000 {
            if self.simulator.with(|state| state.active.is_empty()) {
                return;
            }
            self.simulator.advance(100);
        }
    }

    fn finish_task(&self, upid: &str) {
        for _ in 0..6000 {
            if !self
                .simulator
                .with(|state| state.task(upid).is_some_and(|task| task.is_running()))
            {
                return;
            }
            self.simulator.advance(100);
        }
    }

    async fn step(&mut self, record: &Value) -> Vec<String> {
        if let Some(before) = record.get("before") {
            self.simulator
                .advance((before["pause_s"].as_f64().unwrap_or(0.0) * 1000.0) as u64);
            if before["until_no_task_runs"].as_bool().unwrap_or(false) {
                self.finish_tasks();
                self.simulator.advance(1100);
            }
        }
        let request = self.request(record);
        let reply = self.simulator.handle(&request).await;
        let mut found = compare_reply("", &self.said, record, &request.path, &reply);
        self.remember(&reply);
        self.simulator.advance(20);
        if let Some(task) = record.get("task").filter(|task| task.is_object()) {
            self.finish_task(&self.upid);
            // The recorder looked at tasks about once a second.
            self.simulator.advance(1100);
            found.extend(self.compare_task(task));
        }
        for after in record.get("after").and_then(Value::as_array).into_iter().flatten() {
            let path = self.fill(text(after, "path"), true);
            let (path, query) = path.split_once('?').unwrap_or((&path, ""));
            let mut request = HttpRequest {
                method: "GET".to_owned(),
                path: format!("/api2/json{path}"),
                query: query.to_owned(),
                ..HttpRequest::default()
            };
            self.authenticate(&mut request, "token");
            let reply = self.simulator.handle(&request).await;
            let place = format!("after {path} ");
            found.extend(compare_reply(&place, &self.said, after, path, &reply));
            self.remember(&reply);
        }
        found
    }

    fn remember(&mut self, reply: &HttpReply) {
        let Ok(body) = serde_json::from_slice::<Value>(&reply.body) else {
            return;
        };
        if let Some(upid) = body["data"].as_str().filter(|text| text.starts_with("UPID:")) {
            self.upid = upid.to_owned();
        }
        if let Some(digest) = body.pointer("/data/digest").and_then(Value::as_str) {
            self.digest = digest.to_owned();
        }
        let rows = body["data"].as_array().into_iter().flatten();
        let backup = rows
            .filter_map(|row| row["volid"].as_str())
            .find(|volid| volid.contains(":backup/"));
        if let (true, Some(volid)) = (self.backup.is_empty(), backup) {
            self.backup = volid.to_owned();
        }
    }

    fn compare_task(&self, task: &Value) -> Vec<String> {
        let actual = self.simulator.with(|state| {
            state.task(&self.upid).map(|task| {
                let log: Vec<Value> = task.log.iter().rev().take(1).map(|line| json!(line)).collect();
                json!({
                    "type": task.kind, "id": task.id.replace("%3A", ":"), "user": task.user,
                    "exitstatus": task.exitstatus, "log": log_lines(&log),
                })
            })
        });
        let mut expected = task.clone();
        let last: Vec<Value> = task["log"]
            .as_array()
            .into_iter()
            .flatten()
            .rev()
            .take(1)
            .cloned()
            .collect();
        // The recorder kept only the last lines, so a long log may end in tool output.
        let own = last
            .first()
            .and_then(Value::as_str)
            .is_some_and(|line| line.starts_with("TASK "));
        let mut actual = actual.unwrap_or_default();
        if own {
            expected["log"] = json!(log_lines(&last));
        } else {
            expected["log"] = json!([]);
            actual["log"] = json!([]);
        }
        differences("task", &self.said, &expected, &actual)
    }
}

fn compare_reply(place: &str, said: &Said, record: &Value, path: &str, reply: &HttpReply) -> Vec<String> {
    let mut found = Vec::new();
    let status = record["http_status"].as_u64().unwrap_or_default();
    if status != u64::from(reply.status) {
        found.push(format!("{place}status: expected {status}, got {}", reply.status));
    }
    if masked(text(record, "reason")) != masked(&reply.reason) {
        found.push(format!(
            "{place}reason: expected {:?}, got {:?}",
            text(record, "reason"),
            reply.reason
        ));
    }
    let actual = match serde_json::from_slice::<Value>(&reply.body) {
        Ok(value) => value,
        Err(_) if reply.body.is_empty() => Value::Null,
        Err(_) => Value::String(String::from_utf8_lossy(&reply.body).into_owned()),
    };
    let expected = record["body"].clone();
    // Rows of a round-robin file: figures and their times, which are counters. Only how many there are is compared.
    if path.ends_with("/rrddata") && status == 200 {
        let rows = |body: &Value| body["data"].as_array().map(Vec::len);
        if rows(&expected) != rows(&actual) {
            found.push(format!(
                "{place}rows: expected {:?}, got {:?}",
                rows(&expected),
                rows(&actual)
            ));
        }
        return found;
    }
    if path.ends_with("/log") && path.contains("/tasks/") && status == 200 {
        let lines = |value: &Value| match value {
            Value::String(text) => log_lines(&text.lines().map(|line| json!(line)).collect::<Vec<_>>()),
            other => log_lines(other["data"].as_array().map(Vec::as_slice).unwrap_or_default()),
        };
        if lines(&expected) != lines(&actual) {
            found.push(format!(
                "{place}log: expected {:?}, got {:?}",
                lines(&expected),
                lines(&actual)
            ));
        }
        return found;
    }
    found.extend(differences(&format!("{place}body"), said, &expected, &actual));
    found
}

/// Result of one file.
struct Outcome {
    agree: usize,
    skipped: usize,
    disagreements: BTreeMap<String, Vec<String>>,
}

async fn replay_file(path: &Path) -> Outcome {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let content = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let records: Vec<Value> = content
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut order: Vec<&str> = Vec::new();
    let mut scenarios: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for record in &records {
        let scenario = text(record, "scenario");
        if !order.contains(&scenario) {
            order.push(scenario);
        }
        scenarios.entry(scenario).or_default().push(record.clone());
    }
    let (mut agree, mut total, mut skipped) = (0, 0, 0);
    let mut disagreements = BTreeMap::new();
    let mut scores = Vec::new();
    for scenario in order {
        let records = &scenarios[scenario];
        if excluded(scenario) {
            skipped += records.len();
            continue;
        }
        let mut replay = Replay::new(records);
        let before = agree;
        for record in records {
            total += 1;
            let found = replay.step(record).await;
            if found.is_empty() {
                agree += 1;
            } else {
                disagreements.insert(text(record, "id").to_owned(), found);
            }
        }
        scores.push((scenario, agree - before, records.len()));
    }
    println!("{name} agree: {agree} of {total}, skipped {skipped}");
    for (scenario, agreeing, asked) in scores.iter().filter(|(_, agreeing, asked)| agreeing < asked) {
        println!("  {scenario}: {agreeing} of {asked}");
        let prefix = format!("{scenario}/");
        for (id, found) in disagreements.iter().filter(|(id, _)| id.starts_with(&prefix)) {
            for line in found {
                println!("    {id}: {line}");
            }
        }
    }
    Outcome {
        agree,
        skipped,
        disagreements,
    }
}

/// Known differences: id and reason, one a line.
fn known(content: &str) -> BTreeMap<&str, &str> {
    content
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect()
}

#[tokio::test]
async fn recorded_answers_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulator/conformance");
    let outcome = replay_file(&folder.join("recorded.jsonl")).await;
    for path in env::var_os("PHOENIX_RECORDED").iter().flat_map(env::split_paths) {
        replay_file(&path).await;
    }
    let content = fs::read_to_string(folder.join("known-differences.txt")).unwrap();
    let known = known(&content);
    assert!(
        known.values().all(|reason| !reason.trim().is_empty()),
        "every known difference needs its reason"
    );
    let disagreeing: BTreeSet<&str> = outcome.disagreements.keys().map(String::as_str).collect();
    let new: Vec<_> = disagreeing.iter().filter(|id| !known.contains_key(**id)).collect();
    assert!(new.is_empty(), "disagreements that are not known: {new:?}");
    let gone: Vec<_> = known.keys().filter(|id| !disagreeing.contains(**id)).collect();
    assert!(gone.is_empty(), "these agree now, take them off the list: {gone:?}");
    assert_eq!(outcome.skipped, EXCLUDED, "records of excluded scenarios");
    assert!(outcome.agree >= LEAST_AGREEING, "only {} agree", outcome.agree);
}

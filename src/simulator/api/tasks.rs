//! Tasks (facts B.2).

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::property::split_list;
use crate::simulator::model::task::{Task, upid_node};
use crate::simulator::model::{ApiError, Caller, Result, State};

/// A user sees his tasks and those of his tokens, a token only its own.
fn owns(caller: &Caller, task: &Task) -> bool {
    if caller.id.contains('!') {
        task.user == caller.id
    } else {
        task.owner() == caller.id
    }
}

fn parse_upid(call: &Call) -> Result<String> {
    let upid = call.params.text("upid");
    match upid_node(&upid) {
        Some(_) => Ok(upid),
        None => Err(ApiError::param("upid", "unable to parse worker upid")),
    }
}

fn user_of(upid: &str) -> String {
    upid.split(':').nth(7).unwrap_or_default().to_owned()
}

fn check_access(state: &State, call: &Call, upid: &str, privilege: &str) -> Result<()> {
    let user = user_of(upid);
    let own =
        call.caller.id == user || (!call.caller.id.contains('!') && user.split('!').next() == Some(&*call.caller.id));
    if own {
        return Ok(());
    }
    state.need(&call.caller, &format!("/nodes/{}", call.params.node()), &[privilege])
}

/// `GET /nodes/{node}/tasks/{upid}/status`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let upid = parse_upid(call)?;
    check_access(state, call, &upid, "Sys.Audit")?;
    let Some(task) = state.task(&upid) else {
        return Err(ApiError::param("upid", "no such task"));
    };
    let mut row = json!({
        "upid": task.upid,
        "node": task.node,
        "pid": task.pid,
        "pstart": task.pstart,
        "starttime": task.started_at / 1000,
        "type": task.kind,
        "id": task.id,
        "user": task.owner(),
        "status": if task.is_running() { "running" } else { "stopped" },
    });
    if let Some(token) = task.token() {
        row["tokenid"] = json!(token);
    }
    if let Some(exit) = &task.exitstatus {
        row["exitstatus"] = json!(exit);
    }
    Ok(row.into())
}

/// `GET /nodes/{node}/tasks/{upid}/log`.
pub fn log(state: &mut State, call: &Call) -> Answer {
    let upid = parse_upid(call)?;
    check_access(state, call, &upid, "Sys.Audit")?;
    let params = &call.params;
    if params.flag("download") && (params.get("start").is_some() || params.get("limit").is_some()) {
        return Err(ApiError::die(
            "'download' cannot be used together with 'start' or 'limit' parameters",
        ));
    }
    let missing = vec!["unable to open file - No such file or directory".to_owned()];
    let lines = state.task(&upid).map_or(missing, |task| task.log.clone());
    if params.flag("download") {
        return Ok(Reply::Raw(lines.iter().map(|line| format!("{line}\n")).collect()));
    }
    if lines.is_empty() {
        return Ok(Reply::Counted(json!([{ "n": 1, "t": "no content" }]), 1));
    }
    let start = params.int("start").unwrap_or(0) as usize;
    let limit = match params.int("limit") {
        Some(0) => usize::MAX,
        other => other.unwrap_or(50) as usize,
    };
    let rows: Vec<Value> = lines
        .iter()
        .enumerate()
        .skip(start)
        .take(limit)
        .map(|(at, line)| json!({ "n": at + 1, "t": line }))
        .collect();
    Ok(Reply::Counted(json!(rows), lines.len()))
}

/// `DELETE /nodes/{node}/tasks/{upid}`.
pub fn stop(state: &mut State, call: &Call) -> Answer {
    let upid = parse_upid(call)?;
    check_access(state, call, &upid, "Sys.Modify")?;
    let Some(seq) = state.task(&upid).map(|task| task.seq) else {
        return Err(ApiError::param("upid", "no such task"));
    };
    state.stop_task(seq);
    Ok(Reply::NULL)
}

fn list_row(task: &Task) -> Value {
    let mut row = json!({
        "upid": task.upid,
        "node": task.node,
        "pid": task.pid,
        "pstart": task.pstart,
        "starttime": task.started_at / 1000,
        "type": task.kind,
        "id": task.id,
    });
    // Running tasks show the whole identity, ended ones user and token apart.
    match (&task.exitstatus, task.token()) {
        (None, _) => {
            row["user"] = json!(task.user);
            row["status"] = json!("RUNNING");
            row["saved"] = json!("0");
        }
        (Some(exit), token) => {
            row["user"] = json!(task.owner());
            row["status"] = json!(exit);
            row["endtime"] = json!(task.ended_at.unwrap_or_default() / 1000);
            if let Some(token) = token {
                row["tokenid"] = json!(token);
            }
        }
    }
    row
}

fn kind_of_result(exit: &str) -> &'static str {
    match exit {
        "OK" => "ok",
        "unexpected status" => "unknown",
        text if text.starts_with("WARNINGS: ") => "warning",
        _ => "error",
    }
}

/// `GET /nodes/{node}/tasks`: by default only ended tasks (facts B.2).
pub fn list(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let auditor = state.may(&call.caller, &format!("/nodes/{node}"), &["Sys.Audit"]);
    let source = params.get("source").unwrap_or_else(|| "archive".to_owned());
    let results = params.get("statusfilter").map(|text| split_list(&text));
    let (vmid, kind, user) = (params.get("vmid"), params.get("typefilter"), params.get("userfilter"));
    let (since, until) = (params.int("since"), params.int("until"));
    let fits = |task: &&Task| {
        let place = match source.as_str() {
            "archive" => !task.is_running(),
            "active" => task.is_running(),
            _ => true,
        };
        let result = task.exitstatus.as_deref().map(kind_of_result);
        let start = task.started_at / 1000;
        task.node == node
            && place
            && (auditor || owns(&call.caller, task))
            && vmid.as_ref().is_none_or(|vmid| *vmid == task.id)
            && kind.as_ref().is_none_or(|kind| *kind == task.kind)
            && user.as_ref().is_none_or(|user| task.user.contains(user.as_str()))
            && (!params.flag("errors") || result.is_some_and(|result| result != "ok"))
            && results
                .as_ref()
                .is_none_or(|wanted| result.is_some_and(|result| wanted.iter().any(|w| w == result)))
            && since.is_none_or(|since| start >= since)
            && until.is_none_or(|until| start <= until)
    };
    let mut found: Vec<&Task> = state.tasks.values().filter(fits).collect();
    // Running ones first, then the latest.
    found.sort_by_key(|task| (!task.is_running(), std::cmp::Reverse(task.seq)));
    let start = params.int("start").unwrap_or(0) as usize;
    let limit = params.int("limit").unwrap_or(50) as usize;
    let rows: Vec<Value> = found
        .iter()
        .skip(start)
        .take(limit)
        .map(|task| list_row(task))
        .collect();
    Ok(Reply::Counted(json!(rows), found.len()))
}

/// `GET /cluster/tasks`: a token without Sys.Audit sees nothing, not even its own (facts B.2).
pub fn cluster_list(state: &mut State, call: &Call) -> Answer {
    let auditor = state.may(&call.caller, "/", &["Sys.Audit"]);
    let found = state
        .tasks
        .values()
        .rev()
        .filter(|task| auditor || task.owner() == call.caller.id)
        .take(25);
    let rows: Vec<Value> = found
        .map(|task| {
            let mut row = list_row(task);
            if let Some(row) = row.as_object_mut() {
                row.remove("pid");
                row.remove("pstart");
                if task.exitstatus.is_some() {
                    row.insert("saved".to_owned(), json!("1"));
                }
            }
            row
        })
        .collect();
    Ok(rows.into())
}

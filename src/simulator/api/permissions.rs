//! The privilege checks that the API description states (facts A.3).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::simulator::model::{ApiError, Caller, Result, State};
use crate::simulator::schema::{Method, formats, validate};

type Params = BTreeMap<String, Value>;

/// Checks a caller against the description of a method. Comes before the check of parameters.
pub fn check(state: &State, method: &Method, caller: Option<&Caller>, params: &Params) -> Result<()> {
    let world = method
        .permissions
        .as_ref()
        .is_some_and(|found| found.user.as_deref() == Some("world"));
    if world {
        return Ok(());
    }
    let Some(caller) = caller else {
        return Err(ApiError::permission_bare());
    };
    let Some(permissions) = &method.permissions else {
        return if caller.is_true_root() {
            Ok(())
        } else {
            Err(ApiError::permission("user != root@pam"))
        };
    };
    if permissions.user.as_deref() == Some("all") {
        return Ok(());
    }
    match &permissions.check {
        Some(expression) => evaluate(state, expression, caller, params),
        None => Ok(()),
    }
}

fn evaluate(state: &State, expression: &Value, caller: &Caller, params: &Params) -> Result<()> {
    let Some(items) = expression.as_array() else {
        return Ok(());
    };
    let word = items.first().and_then(Value::as_str).unwrap_or_default();
    let rest = items.get(1..).unwrap_or_default();
    match word {
        "and" => rest.iter().try_for_each(|part| evaluate(state, part, caller, params)),
        "or" => {
            if rest.iter().any(|part| evaluate(state, part, caller, params).is_ok()) {
                return Ok(());
            }
            Err(ApiError::permission_bare())
        }
        "perm" => check_perm(state, rest, caller, params),
        "perm-modify" => check_modify(state, caller, &substitute(&rest_text(rest, 0), params)),
        "userid-param" => check_user_param(state, &rest_text(rest, 0), caller, params),
        "userid-group" => check_user_group(state, rest, caller, params),
        _ => Err(ApiError::permission_bare()),
    }
}

fn rest_text(rest: &[Value], at: usize) -> String {
    rest.get(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn words(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .map(|items| items.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Fills a path with parameters. What is no plain text makes the path invalid, which shows as an empty one.
fn substitute(template: &str, params: &Params) -> String {
    let mut path = template.to_owned();
    while let Some((start, end)) = path.find('{').zip(path.find('}')) {
        let value = params.get(&path[start + 1..end]);
        let text = match value {
            None => String::new(),
            Some(value) => validate::text(value).unwrap_or_else(|| "?".to_owned()),
        };
        path.replace_range(start..=end, &text);
    }
    normalise(&path)
}

/// A path as rules name it; empty where no rule can name it.
pub(super) fn normalise(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let joined = format!("/{}", parts.join("/"));
    let good = joined.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if good { joined } else { String::new() }
}

fn check_perm(state: &State, rest: &[Value], caller: &Caller, params: &Params) -> Result<()> {
    let path = substitute(&rest_text(rest, 0), params);
    let mut privileges = words(rest.get(1));
    // Before 9 one privilege covered all of the guest agent (facts F.8).
    if state.release.major() < 9 && privileges.iter().any(|name| name.starts_with("VM.GuestAgent.")) {
        privileges = vec!["VM.Monitor"];
    }
    let mut any = false;
    let mut options = rest.get(2..).unwrap_or_default().iter();
    while let (Some(name), value) = (options.next().and_then(Value::as_str), options.next()) {
        match name {
            "any" => any = true,
            "require_param" => {
                let needed = value.and_then(Value::as_str).unwrap_or_default();
                if !params.contains_key(needed) {
                    return Err(ApiError::permission_bare());
                }
            }
            _ => {}
        }
    }
    if path.is_empty() && !caller.is_true_root() {
        let list = if any {
            privileges.join("|")
        } else {
            privileges.first().copied().unwrap_or_default().to_owned()
        };
        return Err(ApiError::permission(format!(", {list}")));
    }
    if any {
        state.need_any(caller, &path, &privileges)
    } else {
        state.need(caller, &path, &privileges)
    }
}

/// Who may change rules on a path: those who manage what it names, or permissions themselves.
fn check_modify(state: &State, caller: &Caller, path: &str) -> Result<()> {
    let privileges: &[&str] = match path.split('/').nth(1).unwrap_or_default() {
        "storage" => &["Permissions.Modify", "Datastore.Allocate"],
        "vms" => &["Permissions.Modify", "VM.Allocate"],
        "pool" => &["Permissions.Modify", "Pool.Allocate"],
        _ => &["Permissions.Modify"],
    };
    state.need_any(caller, path, privileges)
}

fn user_of(params: &Params) -> Result<String> {
    let user = params.get("userid").and_then(validate::text).unwrap_or_default();
    formats::check("pve-userid", &user).map_err(|text| ApiError::die(text.trim_end()))?;
    Ok(user)
}

fn check_user_param(state: &State, test: &str, caller: &Caller, params: &Params) -> Result<()> {
    let user = user_of(params)?;
    if test == "self" {
        return if user == caller.id {
            Ok(())
        } else {
            Err(ApiError::permission_bare())
        };
    }
    let realm = user.rsplit('@').next().unwrap_or_default();
    state.need(caller, &format!("/access/realm/{realm}"), &[test])
}

fn check_user_group(state: &State, rest: &[Value], caller: &Caller, params: &Params) -> Result<()> {
    let user = user_of(params)?;
    let privileges = words(rest.first());
    let creates = rest.iter().any(|value| value.as_str() == Some("create"));
    if !creates && !state.access.users.contains_key(&user) {
        return Err(ApiError::die(format!("no such user ('{user}')")));
    }
    if state.may_any(caller, "/access/groups", &privileges) {
        return Ok(());
    }
    let groups = state
        .access
        .users
        .get(&user)
        .map(|found| found.groups.clone())
        .unwrap_or_default();
    let by_group = groups
        .iter()
        .any(|group| state.may_any(caller, &format!("/access/groups/{group}"), &privileges));
    if by_group {
        Ok(())
    } else {
        state.need_any(caller, "/access/groups", &privileges)
    }
}

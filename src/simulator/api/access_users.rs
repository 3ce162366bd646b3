//! `/access/users` and `/access/groups`.

use serde_json::{Map, Value, json};

use super::access::is_self;
use super::call::{Answer, Call, Reply};
use crate::simulator::model::access::{Token, User};
use crate::simulator::model::{ApiError, Result, State};

const SETTINGS: &[&str] = &["comment", "email", "firstname", "lastname", "keys"];

fn user_json(user: &User) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("enable".to_owned(), json!(u8::from(user.enable)));
    row.insert("expire".to_owned(), json!(user.expire));
    let given = |key: &str| user.settings.get(key).filter(|text| !matches!(text.as_str(), "" | "0"));
    for key in SETTINGS {
        if let Some(value) = given(key) {
            row.insert((*key).to_owned(), json!(value));
        }
    }
    // An address that is not there reads as an empty one where the line of the file goes on behind it.
    if given("comment").or(given("keys")).is_some() {
        row.entry("email").or_insert_with(|| json!(""));
    }
    row
}

fn token_json(token: &Token) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("expire".to_owned(), json!(token.expire));
    row.insert("privsep".to_owned(), json!(u8::from(token.privsep)));
    if let Some(comment) = &token.comment {
        row.insert("comment".to_owned(), json!(comment));
    }
    row
}

/// `GET /access/users`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let everything = state.may_any(&call.caller, "/access/groups", &["User.Modify", "Sys.Audit"]);
    let enabled = call.params.maybe_flag("enabled");
    let rows: Vec<Value> = state
        .access
        .users
        .iter()
        .filter(|(name, _)| everything || is_self(&call.caller, name))
        .filter(|(_, user)| enabled.is_none_or(|wanted| wanted == user.enable))
        .map(|(name, user)| {
            let mut row = user_json(user);
            row.insert("userid".to_owned(), json!(name));
            row.insert(
                "realm-type".to_owned(),
                json!(name.rsplit('@').next().unwrap_or_default()),
            );
            if call.params.flag("full") {
                let tokens: Vec<Value> = user.tokens.iter().map(|(name, token)| token_row(name, token)).collect();
                row.insert("tokens".to_owned(), json!(tokens));
                row.insert("groups".to_owned(), json!(groups_text(user)));
            }
            Value::Object(row)
        })
        .collect();
    Ok(rows.into())
}

fn groups_text(user: &User) -> String {
    user.groups.iter().cloned().collect::<Vec<_>>().join(",")
}

fn token_row(name: &str, token: &Token) -> Value {
    let mut row = token_json(token);
    row.insert("tokenid".to_owned(), json!(name));
    Value::Object(row)
}

fn known<'a>(state: &'a mut State, call: &Call) -> Result<&'a mut User> {
    let name = call.params.text("userid");
    state
        .access
        .users
        .get_mut(&name)
        .ok_or_else(|| ApiError::die(format!("no such user ('{name}')")))
}

/// `GET /access/users/{userid}`.
pub fn read(state: &mut State, call: &Call) -> Answer {
    let user = known(state, call)?;
    let mut row = user_json(user);
    row.insert("groups".to_owned(), json!(user.groups));
    let tokens: Map<String, Value> = user
        .tokens
        .iter()
        .map(|(name, token)| (name.clone(), Value::Object(token_json(token))))
        .collect();
    let tokens = if tokens.is_empty() {
        Value::Null
    } else {
        Value::Object(tokens)
    };
    row.insert("tokens".to_owned(), tokens);
    Ok(Value::Object(row).into())
}

fn check_groups(state: &State, call: &Call, what: &str) -> Result<()> {
    let groups = call.params.list("groups");
    match groups.iter().find(|name| !state.access.groups.contains_key(*name)) {
        Some(name) => Err(ApiError::die(format!("{what} user failed: no such group '{name}'"))),
        None => Ok(()),
    }
}

fn apply(user: &mut User, call: &Call) {
    let params = &call.params;
    user.settings.extend(params.options(|key| SETTINGS.contains(&key)));
    if let Some(enable) = params.maybe_flag("enable") {
        user.enable = enable;
    }
    if let Some(expire) = params.int("expire") {
        user.expire = expire;
    }
    if params.get("groups").is_some() {
        let groups = params.list("groups");
        if params.flag("append") {
            user.groups.extend(groups);
        } else {
            user.groups = groups.into_iter().collect();
        }
    }
}

/// `POST /access/users`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("userid");
    if state.access.users.contains_key(&name) {
        return Err(ApiError::die(format!(
            "create user failed: user '{name}' already exists"
        )));
    }
    let realm = name.rsplit('@').next().unwrap_or_default();
    if call.params.get("password").is_some() && !["pam", "pve"].contains(&realm) {
        let text = format!("create user failed: auth domain '{realm}' does not exist");
        return Err(ApiError::die(text));
    }
    check_groups(state, call, "create")?;
    let mut user = User {
        enable: true,
        password: call.params.get("password"),
        ..User::default()
    };
    apply(&mut user, call);
    state.access.users.insert(name, user);
    Ok(Reply::NULL)
}

/// `PUT /access/users/{userid}`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    known(state, call)?;
    check_groups(state, call, "update")?;
    apply(known(state, call)?, call);
    Ok(Reply::NULL)
}

/// `DELETE /access/users/{userid}`.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    known(state, call)?;
    let name = call.params.text("userid");
    state.access.users.remove(&name);
    let of_user = |who: &str| who == name || who.starts_with(&format!("{name}!"));
    state.access.acl.retain(|entry| !of_user(&entry.who));
    Ok(Reply::NULL)
}

/// `GET …/token`.
pub fn tokens(state: &mut State, call: &Call) -> Answer {
    let user = known(state, call)?;
    Ok(user
        .tokens
        .iter()
        .map(|(name, token)| token_row(name, token))
        .collect::<Vec<_>>()
        .into())
}

fn no_token(call: &Call) -> ApiError {
    let (user, token) = (call.params.text("userid"), call.params.text("tokenid"));
    ApiError::die(format!("no such token '{token}' for user '{user}'"))
}

/// `GET …/token/{tokenid}`.
pub fn token(state: &mut State, call: &Call) -> Answer {
    let found = known(state, call)?
        .tokens
        .get(&call.params.text("tokenid"))
        .map(token_json);
    found.map(|row| Value::Object(row).into()).ok_or_else(|| no_token(call))
}

/// `POST …/token/{tokenid}`: the only time that the secret is shown.
pub fn create_token(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (user, name) = (params.text("userid"), params.text("tokenid"));
    let found = known(state, call)?;
    if found.tokens.contains_key(&name) {
        return Err(ApiError::param("tokenid", "Token already exists."));
    }
    let token = Token {
        secret: uuid::Uuid::new_v4().to_string(),
        privsep: params.maybe_flag("privsep").unwrap_or(true),
        expire: params.int("expire").unwrap_or(0),
        comment: params.get("comment").filter(|text| !matches!(text.as_str(), "" | "0")),
    };
    let mut info = token_json(&token);
    // What was given comes back as text.
    match params.get("expire") {
        Some(expire) => drop(info.insert("expire".to_owned(), json!(expire))),
        None => drop(info.remove("expire")),
    }
    let value = token.secret.clone();
    found.tokens.insert(name.clone(), token);
    Ok(json!({ "full-tokenid": format!("{user}!{name}"), "info": info, "value": value }).into())
}

/// `PUT …/token/{tokenid}`.
pub fn update_token(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let name = params.text("tokenid");
    let Some(token) = known(state, call)?.tokens.get_mut(&name) else {
        return Err(no_token(call));
    };
    if let Some(expire) = params.int("expire") {
        token.expire = expire;
    }
    if let Some(privsep) = params.maybe_flag("privsep") {
        token.privsep = privsep;
    }
    if let Some(comment) = params.get("comment") {
        token.comment = Some(comment).filter(|text| !text.is_empty());
    }
    let mut info = token_json(token);
    if let Some(expire) = params.get("expire") {
        info.insert("expire".to_owned(), json!(expire));
    }
    Ok(Value::Object(info).into())
}

/// `DELETE …/token/{tokenid}`.
pub fn delete_token(state: &mut State, call: &Call) -> Answer {
    let (user, name) = (call.params.text("userid"), call.params.text("tokenid"));
    if known(state, call)?.tokens.remove(&name).is_none() {
        return Err(no_token(call));
    }
    let id = format!("{user}!{name}");
    state.access.acl.retain(|entry| entry.who != id);
    Ok(Reply::NULL)
}

/// `GET /access/groups`.
pub fn groups(state: &mut State, call: &Call) -> Answer {
    let visible = |name: &str| {
        let path = format!("/access/groups/{name}");
        state.may_any(&call.caller, &path, &["User.Modify", "Sys.Audit", "Group.Allocate"])
    };
    let rows: Vec<Value> = state
        .access
        .groups
        .iter()
        .filter(|(name, _)| visible(name))
        .map(|(name, comment)| {
            let mut row = json!({ "groupid": name, "users": members(state, name).join(",") });
            describe(&mut row, comment);
            row
        })
        .collect();
    Ok(rows.into())
}

fn members(state: &State, group: &str) -> Vec<String> {
    state
        .access
        .users
        .iter()
        .filter(|(_, user)| user.groups.contains(group))
        .map(|(name, _)| name.clone())
        .collect()
}

/// `POST /access/groups`.
pub fn create_group(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("groupid");
    if state.access.groups.contains_key(&name) {
        return Err(ApiError::die(format!(
            "create group failed: group '{name}' already exists"
        )));
    }
    state.access.groups.insert(name, call.params.text("comment"));
    Ok(Reply::NULL)
}

/// `GET /access/groups/{groupid}`.
pub fn group(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("groupid");
    match state.access.groups.get(&name) {
        Some(comment) => {
            let mut row = json!({ "members": members(state, &name) });
            describe(&mut row, comment);
            Ok(row.into())
        }
        None => Err(ApiError::die(format!("group '{name}' does not exist"))),
    }
}

/// An empty comment reads as none.
fn describe(row: &mut Value, comment: &str) {
    if !matches!(comment, "" | "0") {
        row["comment"] = json!(comment);
    }
}

/// `PUT /access/groups/{groupid}`.
pub fn update_group(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("groupid");
    let Some(found) = state.access.groups.get_mut(&name) else {
        return Err(ApiError::die(format!(
            "update group failed: group '{name}' does not exist"
        )));
    };
    if let Some(comment) = call.params.get("comment") {
        *found = comment;
    }
    Ok(Reply::NULL)
}

/// `GET /access/users/{userid}/tfa`: nobody has a second factor.
pub fn second_factors(_state: &mut State, call: &Call) -> Answer {
    let multiple = call.params.flag("multiple");
    Ok(if multiple { json!({ "user": [] }) } else { json!({}) }.into())
}

/// `DELETE /access/groups/{groupid}`.
pub fn delete_group(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("groupid");
    if state.access.groups.remove(&name).is_none() {
        return Err(ApiError::die(format!(
            "delete group failed: group '{name}' does not exist"
        )));
    }
    for user in state.access.users.values_mut() {
        user.groups.remove(&name);
    }
    state
        .access
        .acl
        .retain(|entry| entry.kind != "group" || entry.who != name);
    Ok(Reply::NULL)
}

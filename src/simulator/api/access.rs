//! `/access`: tickets, privileges, rules and roles (facts A.6, H).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::auth;
use super::call::{Answer, Call, Reply};
use super::permissions::normalise;
use crate::simulator::model::access::{AclEntry, all_privileges, built_in_roles, levels};
use crate::simulator::model::property::split_list;
use crate::simulator::model::{ApiError, Caller, Result, State};
use crate::simulator::schema::validate::regex;

/// `GET /access/ticket`: a dummy for login pages.
pub fn nothing(_state: &mut State, _call: &Call) -> Answer {
    Ok(Reply::NULL)
}

/// `POST /access/ticket`.
pub fn ticket(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let mut user = params.text("username");
    if let Some(realm) = params.get("realm").filter(|_| !user.contains('@')) {
        user = format!("{user}@{realm}");
    }
    if !auth::check_password(state, &user, &params.text("password")) {
        return Err(ApiError::new(401, "authentication failure"));
    }
    let mut answer = json!({
        "username": user,
        "ticket": auth::ticket(state, &user),
        "CSRFPreventionToken": auth::csrf_token(state, &user),
        "cap": capabilities(state, &user),
    });
    if let Some(cluster) = &state.cluster {
        answer["clustername"] = json!(cluster);
    }
    Ok(answer.into())
}

/// Privileges by area, as log-in pages use them to show or hide things.
fn capabilities(state: &State, user: &str) -> Value {
    const AREAS: &[(&str, &[&str])] = &[
        ("access", &["User.", "Group.", "Permissions.Modify"]),
        ("dc", &["Sys.Audit", "Sys.Modify", "SDN."]),
        ("mapping", &["Mapping.", "Permissions.Modify"]),
        ("nodes", &["Sys.", "Permissions.Modify"]),
        ("sdn", &["SDN.", "Permissions.Modify"]),
        ("storage", &["Datastore.", "Permissions.Modify"]),
        ("vms", &["VM.", "Permissions.Modify"]),
    ];
    let fixed = ["/", "/nodes", "/access/groups", "/vms", "/storage", "/sdn", "/mapping"].map(str::to_owned);
    let ruled = state.access.acl.iter().map(|entry| entry.path.clone());
    let mut found: Map<String, Value> = AREAS.iter().map(|(area, _)| ((*area).to_owned(), json!({}))).collect();
    for path in fixed.into_iter().chain(ruled).collect::<BTreeSet<_>>() {
        let top = path.split('/').nth(1).filter(|top| !top.is_empty()).unwrap_or("dc");
        for (area, starts) in AREAS {
            // Rights on a pool are rights on what is in it.
            let here = *area == top || (top == "pool" && ["vms", "storage"].contains(area));
            for name in state.privileges(user, &path).keys().filter(|_| here) {
                if starts.iter().any(|start| name.starts_with(start)) {
                    found[*area][name] = json!(1);
                }
            }
        }
    }
    Value::Object(found)
}

/// `PUT /access/password`.
pub fn password(state: &mut State, call: &Call) -> Answer {
    let (user, password) = (call.params.text("userid"), call.params.text("password"));
    match state.access.users.get_mut(&user) {
        Some(found) => found.password = Some(password),
        None => return Err(ApiError::die(format!("no such user ('{user}')"))),
    }
    Ok(Reply::NULL)
}

/// `GET /access/domains`.
pub fn domains(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!([
        { "realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication" },
        { "realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server" },
    ])
    .into())
}

/// `GET /access/domains/{realm}`.
pub fn domain(_state: &mut State, call: &Call) -> Answer {
    let comment = match call.params.text("realm").as_str() {
        "pam" => "Linux PAM standard authentication",
        "pve" => "Proxmox VE authentication server",
        other => return Err(ApiError::die(format!("domain '{other}' does not exist"))),
    };
    let digest = crate::simulator::model::config::digest("domains");
    Ok(json!({ "type": call.params.text("realm"), "comment": comment, "digest": digest }).into())
}

fn privileges_json(state: &State, who: &str, path: &str) -> Map<String, Value> {
    state
        .privileges(who, path)
        .into_iter()
        .map(|(name, propagate)| (name, json!(u8::from(propagate))))
        .collect()
}

/// `GET /access/permissions`.
pub fn permissions(state: &mut State, call: &Call) -> Answer {
    let who = call.params.get("userid").unwrap_or_else(|| call.caller.id.clone());
    let own =
        who == call.caller.id || (!call.caller.id.contains('!') && who.split('!').next() == Some(&call.caller.id));
    if !own {
        state.need(&call.caller, "/access", &["Sys.Audit"])?;
    }
    let paths: BTreeSet<String> = match call.params.get("path") {
        Some(path) => BTreeSet::from([path]),
        None => {
            let fixed = [
                "/",
                "/access",
                "/access/groups",
                "/nodes",
                "/pool",
                "/sdn",
                "/storage",
                "/vms",
            ];
            let ruled = state.access.acl.iter().flat_map(|entry| levels(&entry.path));
            let members = state.pools.values().flat_map(|pool| {
                let vms = pool.vms.iter().map(|vmid| format!("/vms/{vmid}"));
                vms.chain(pool.storages.iter().map(|id| format!("/storage/{id}")))
            });
            let fixed = fixed.iter().map(|path| (*path).to_owned());
            fixed.chain(ruled).chain(members).collect()
        }
    };
    let given = call.params.get("path").is_some();
    let mut answer = Map::new();
    for path in paths {
        let found = privileges_json(state, &who, &path);
        if !found.is_empty() || given {
            answer.insert(path, Value::Object(found));
        }
    }
    Ok(Value::Object(answer).into())
}

/// `GET /access/acl`: rules on paths whose rules the caller may change.
pub fn acl(state: &mut State, call: &Call) -> Answer {
    let rows: Vec<Value> = state
        .access
        .acl
        .iter()
        .filter(|entry| {
            state.may(&call.caller, "/access", &["Sys.Audit"])
                || state.may_any(&call.caller, &entry.path, &["Permissions.Modify"])
        })
        .map(|entry| {
            json!({
                "path": entry.path, "type": entry.kind, "ugid": entry.who, "roleid": entry.role,
                "propagate": u8::from(entry.propagate),
            })
        })
        .collect();
    Ok(rows.into())
}

/// Paths that rules may be about.
const PATHS: &[&str] = &[
    "/",
    "/access(?:/groups(?:/NAME)?)?",
    "/access/realm(?:/NAME)?",
    "/nodes(?:/NAME)?",
    "/pool(?:/NAME){0,3}",
    "/sdn",
    r"/sdn/controllers(?:/[A-Za-z0-9_\-]+)?",
    "/sdn/(?:dns|fabrics|ipams|prefix-lists|route-maps)(?:/[A-Za-z0-9]+)?",
    "/sdn/zones(?:/NAME(?:/NAME(?:/[1-9][0-9]{0,3})?)?)?",
    "/storage(?:/NAME)?",
    "/vms(?:/[1-9][0-9]{2,})?",
    "/mapping(?:/NAME){0,2}",
];

fn valid_path(path: &str) -> bool {
    let fits = |pattern: &&str| {
        let pattern = pattern.replace("NAME", r"[A-Za-z0-9.\-_]+");
        regex(&pattern).is_some_and(|regex| regex.is_match(path))
    };
    PATHS.iter().any(fits)
}

/// Who may not change all rights may only hand out, or take, what he has himself.
fn check_handed_out(state: &State, call: &Call, path: &str, role: &str, privileges: &BTreeSet<String>) -> Result<()> {
    let own = state.privileges(&call.caller.id, path);
    if own.contains_key("Permissions.Modify") {
        return Ok(());
    }
    let delete = call.params.flag("delete");
    let propagate = call.params.maybe_flag("propagate").unwrap_or(true);
    let verb = if delete { "remove" } else { "add" };
    let why = if privileges.iter().any(|name| !own.contains_key(name)) {
        " - requires 'Permissions.Modify' or superset of privileges."
    } else if propagate && !delete && privileges.iter().any(|name| own.get(name) == Some(&false)) {
        " with propagation - requires 'Permissions.Modify' or propagated superset of privileges."
    } else if role == "NoAccess" {
        " - requires 'Permissions.Modify'"
    } else {
        return Ok(());
    };
    let text = format!("Cannot {verb} role '{role}'{why}");
    Err(ApiError::die(format!(
        "ACL update failed: 400 Parameter verification failed.\nrole: {text}"
    )))
}

fn subjects(state: &State, call: &Call) -> Result<Vec<(&'static str, String)>> {
    let failed = |text: String| ApiError::die(format!("ACL update failed: {text}"));
    let mut found = Vec::new();
    for user in call.params.list("users") {
        if !state.access.users.contains_key(&user) {
            return Err(failed(format!("user '{user}' does not exist")));
        }
        found.push(("user", user));
    }
    for group in call.params.list("groups") {
        if !state.access.groups.contains_key(&group) {
            return Err(failed(format!("group '{group}' does not exist")));
        }
        found.push(("group", group));
    }
    for id in call.params.list("tokens") {
        let (user, token) = id.split_once('!').unwrap_or((&id, ""));
        let known = state
            .access
            .users
            .get(user)
            .is_some_and(|found| found.tokens.contains_key(token));
        if !known {
            return Err(failed(format!("no such token '{token}' for user '{user}'")));
        }
        found.push(("token", id));
    }
    Ok(found)
}

/// `PUT /access/acl`.
pub fn set_acl(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    if !["users", "groups", "tokens"]
        .iter()
        .any(|key| params.get(key).is_some())
    {
        let text = "either 'users', 'groups' or 'tokens' is required.";
        return Err(ApiError::params(
            ["groups", "tokens", "users"].map(|key| (key.to_owned(), text.to_owned())),
        ));
    }
    let given = params.text("path");
    let path = normalise(&given);
    if given.is_empty() || path.is_empty() || (!params.flag("delete") && !valid_path(&path)) {
        return Err(ApiError::param("path", format!("invalid ACL path '{given}'")));
    }
    state.check_writable()?;
    let roles = params.list("roles");
    for role in &roles {
        let Some(privileges) = state.access.role(state.release.major(), role) else {
            return Err(ApiError::die(format!(
                "ACL update failed: role '{role}' does not exist"
            )));
        };
        check_handed_out(state, call, &path, role, privileges)?;
    }
    let subjects = subjects(state, call)?;
    let propagate = params.maybe_flag("propagate").unwrap_or(true);
    for role in &roles {
        for (kind, who) in &subjects {
            let same = |entry: &AclEntry| {
                entry.path == path && entry.kind == *kind && entry.who == *who && entry.role == *role
            };
            state.access.acl.retain(|entry| !same(entry));
            if !params.flag("delete") {
                state.access.acl.insert(AclEntry {
                    path: path.clone(),
                    kind: (*kind).to_owned(),
                    who: who.clone(),
                    role: role.clone(),
                    propagate,
                });
            }
        }
    }
    Ok(Reply::NULL)
}

fn role_row(name: &str, privileges: &BTreeSet<String>, special: bool) -> Value {
    let list: Vec<&str> = privileges.iter().map(String::as_str).collect();
    json!({ "roleid": name, "privs": list.join(","), "special": u8::from(special) })
}

/// `GET /access/roles`.
pub fn roles(state: &mut State, _call: &Call) -> Answer {
    let built_in = built_in_roles(state.release.major());
    let special = built_in
        .iter()
        .map(|(name, privileges)| role_row(name, privileges, true));
    let own = state
        .access
        .roles
        .iter()
        .map(|(name, privileges)| role_row(name, privileges, false));
    Ok(special.chain(own).collect::<Vec<_>>().into())
}

/// `GET /access/roles/{roleid}`.
pub fn role(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("roleid");
    match state.access.role(state.release.major(), &name) {
        Some(found) => Ok(Value::Object(found.iter().map(|name| (name.clone(), json!(1))).collect()).into()),
        None => Err(ApiError::die(format!("role '{name}' does not exist"))),
    }
}

fn privileges(state: &State, call: &Call) -> Result<BTreeSet<String>> {
    let known = all_privileges(state.release.major());
    let wanted = split_list(&call.params.text("privs"));
    match wanted.iter().find(|name| !known.contains(*name)) {
        Some(name) => Err(ApiError::param(
            "privs",
            format!("invalid format - invalid privilege '{name}'\n"),
        )),
        None => Ok(wanted.into_iter().collect()),
    }
}

/// `POST /access/roles`.
pub fn create_role(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("roleid");
    let privileges = privileges(state, call)?;
    if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("PVE")) {
        let text = "cannot use role ID starting with the (case-insensitive) 'PVE' namespace";
        return Err(ApiError::param("roleid", text));
    }
    if state.access.role(state.release.major(), &name).is_some() {
        return Err(ApiError::die(format!(
            "create role failed: role '{name}' already exists"
        )));
    }
    state.access.roles.insert(name, privileges);
    Ok(Reply::NULL)
}

/// `PUT /access/roles/{roleid}`.
pub fn update_role(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("roleid");
    let wanted = privileges(state, call)?;
    if built_in_roles(state.release.major()).contains_key(&name) {
        return Err(ApiError::die(format!(
            "auto-generated role '{name}' cannot be modified"
        )));
    }
    let append = call.params.flag("append");
    let Some(found) = state.access.roles.get_mut(&name) else {
        return Err(ApiError::die(format!(
            "update role failed: role '{name}' does not exist"
        )));
    };
    if !append {
        found.clear();
    }
    found.extend(wanted);
    Ok(Reply::NULL)
}

/// `DELETE /access/roles/{roleid}`.
pub fn delete_role(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("roleid");
    if built_in_roles(state.release.major()).contains_key(&name) {
        return Err(ApiError::die(format!("auto-generated role '{name}' cannot be deleted")));
    }
    if state.access.roles.remove(&name).is_none() {
        return Err(ApiError::die(format!(
            "delete role failed: role '{name}' does not exist"
        )));
    }
    state.access.acl.retain(|entry| entry.role != name);
    Ok(Reply::NULL)
}

/// Whether the caller is the user himself.
pub fn is_self(caller: &Caller, user: &str) -> bool {
    caller.id == user
}

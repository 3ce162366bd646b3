//! Firewall options, aliases and sets of a guest (facts D.12).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::firewall::{Alias, Firewall, IpSet, SetEntry};
use crate::simulator::model::lxc_config::check_digest;
use crate::simulator::model::{ApiError, Result, State};
use crate::simulator::schema::formats;

/// The firewall of the guest of the path; guests without one have an empty one, missing guests too.
pub fn of<'a>(state: &'a mut State, call: &Call) -> &'a mut Firewall {
    state.firewalls.entry(call.params.vmid()).or_default()
}

/// Refuses a digest that is not that of the list.
pub fn check(state: &mut State, call: &Call) -> Result<()> {
    state.check_writable()?;
    let digest = of(state, call).digest();
    check_digest(&digest, call.params.get("digest").as_deref())
}

fn option_json(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// `GET …/options`.
pub fn options(state: &mut State, call: &Call) -> Answer {
    let firewall = of(state, call);
    let mut object: Map<String, Value> = firewall
        .options
        .iter()
        .map(|(key, text)| (key.clone(), option_json(text)))
        .collect();
    object.insert("digest".to_owned(), json!(firewall.digest()));
    Ok(Value::Object(object).into())
}

const OPTIONS: &[&str] = &[
    "dhcp",
    "enable",
    "ipfilter",
    "log_level_in",
    "log_level_out",
    "macfilter",
    "ndp",
    "policy_in",
    "policy_out",
    "radv",
];

/// `PUT …/options`.
pub fn set_options(state: &mut State, call: &Call) -> Answer {
    let delete = call.params.list("delete");
    if let Some(unknown) = delete.iter().find(|key| !OPTIONS.contains(&key.as_str())) {
        return Err(ApiError::param("delete", format!("no such option '{unknown}'")));
    }
    check(state, call)?;
    let set = call.params.options(|key| OPTIONS.contains(&key));
    let firewall = of(state, call);
    firewall.options.extend(set);
    for key in delete {
        firewall.options.remove(&key);
    }
    Ok(Reply::NULL)
}

/// 4 or 6 for an address or network.
pub fn ip_version(text: &str) -> Option<u8> {
    let address = text.split('/').next().unwrap_or_default();
    if formats::is_ipv4(address) {
        Some(4)
    } else if formats::is_ipv6(address) {
        Some(6)
    } else {
        None
    }
}

fn alias_row(name: &str, alias: &Alias, digest: &str) -> Value {
    let mut row = json!({ "name": name, "cidr": alias.cidr, "digest": digest });
    if let Some(version) = ip_version(&alias.cidr) {
        row["ipversion"] = json!(version);
    }
    if let Some(comment) = &alias.comment {
        row["comment"] = json!(comment);
    }
    row
}

/// Aliases and sets are found whatever their case.
fn key_of<T>(map: &std::collections::BTreeMap<String, T>, name: &str) -> Option<String> {
    map.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned()
}

/// `GET …/aliases`.
pub fn aliases(state: &mut State, call: &Call) -> Answer {
    let firewall = of(state, call);
    let digest = firewall.digest();
    Ok(firewall
        .aliases
        .iter()
        .map(|(name, alias)| alias_row(name, alias, &digest))
        .collect::<Vec<_>>()
        .into())
}

/// `POST …/aliases`.
pub fn create_alias(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let name = call.params.text("name");
    let firewall = of(state, call);
    if key_of(&firewall.aliases, &name).is_some() {
        return Err(ApiError::param("name", format!("alias '{name}' already exists")));
    }
    let alias = Alias {
        cidr: call.params.text("cidr"),
        comment: call.params.get("comment"),
    };
    firewall.aliases.insert(name, alias);
    Ok(Reply::NULL)
}

/// `GET …/aliases/{name}`.
pub fn alias(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("name");
    let firewall = of(state, call);
    let digest = firewall.digest();
    match key_of(&firewall.aliases, &name).and_then(|key| firewall.aliases.get_key_value(&key)) {
        Some((name, alias)) => Ok(alias_row(name, alias, &digest).into()),
        None => Err(ApiError::param("name", "no such alias")),
    }
}

/// `PUT …/aliases/{name}`.
pub fn update_alias(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let name = call.params.text("name");
    let firewall = of(state, call);
    let Some(key) = key_of(&firewall.aliases, &name) else {
        return Err(ApiError::param("name", "no such alias"));
    };
    let alias = Alias {
        cidr: call.params.text("cidr"),
        comment: call.params.get("comment"),
    };
    firewall.aliases.remove(&key);
    firewall.aliases.insert(call.params.get("rename").unwrap_or(key), alias);
    Ok(Reply::NULL)
}

/// `DELETE …/aliases/{name}`: an absent one is no error.
pub fn delete_alias(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let name = call.params.text("name");
    let firewall = of(state, call);
    if let Some(key) = key_of(&firewall.aliases, &name) {
        firewall.aliases.remove(&key);
    }
    Ok(Reply::NULL)
}

/// `GET …/ipset`.
pub fn ipsets(state: &mut State, call: &Call) -> Answer {
    let firewall = of(state, call);
    let digest = firewall.digest();
    let row = |(name, set): (&String, &IpSet)| {
        let mut row = json!({ "name": name, "digest": digest });
        if let Some(comment) = &set.comment {
            row["comment"] = json!(comment);
        }
        row
    };
    Ok(firewall.ipsets.iter().map(row).collect::<Vec<_>>().into())
}

/// `POST …/ipset`.
pub fn create_ipset(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let name = call.params.text("name");
    let comment = call.params.get("comment");
    let firewall = of(state, call);
    if let Some(old) = call.params.get("rename") {
        let Some(mut set) = firewall.ipsets.remove(&old) else {
            return Err(ApiError::param("name", format!("IPSet '{old}' does not exist")));
        };
        set.comment = comment.or(set.comment);
        firewall.ipsets.insert(name, set);
        return Ok(Reply::NULL);
    }
    if firewall.ipsets.contains_key(&name) {
        return Err(ApiError::param("name", format!("IPSet '{name}' already exists")));
    }
    firewall.ipsets.insert(
        name,
        IpSet {
            comment,
            ..IpSet::default()
        },
    );
    Ok(Reply::NULL)
}

fn set_of<'a>(state: &'a mut State, call: &Call) -> Result<&'a mut IpSet> {
    let name = call.params.text("name");
    of(state, call)
        .ipsets
        .get_mut(&name)
        .ok_or_else(|| ApiError::die(format!("no such IPSet '{name}'")))
}

fn entry_row(cidr: &str, entry: &SetEntry) -> Value {
    let mut row = json!({ "cidr": cidr });
    if entry.nomatch {
        row["nomatch"] = json!(1);
    }
    if let Some(comment) = &entry.comment {
        row["comment"] = json!(comment);
    }
    row
}

/// `GET …/ipset/{name}`.
pub fn ipset(state: &mut State, call: &Call) -> Answer {
    let digest = of(state, call).digest();
    let row = |(cidr, entry): (&String, &SetEntry)| {
        let mut row = entry_row(cidr, entry);
        row["digest"] = json!(digest);
        row
    };
    Ok(set_of(state, call)?.entries.iter().map(row).collect::<Vec<_>>().into())
}

/// `DELETE …/ipset/{name}`.
pub fn delete_ipset(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let name = call.params.text("name");
    if !set_of(state, call)?.entries.is_empty() && !call.params.flag("force") {
        return Err(ApiError::die(format!("IPSet '{name}' is not empty")));
    }
    of(state, call).ipsets.remove(&name);
    Ok(Reply::NULL)
}

/// `POST …/ipset/{name}`.
pub fn add_entry(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let params = &call.params;
    let cidr = params.text("cidr");
    set_of(state, call)?;
    let firewall = of(state, call);
    if ip_version(&cidr).is_none() {
        let name = cidr.trim_start_matches("guest/").trim_start_matches("dc/");
        if key_of(&firewall.aliases, name).is_none() {
            return Err(ApiError::die(format!("no such alias '{cidr}'")));
        }
    }
    let entry = SetEntry {
        nomatch: params.flag("nomatch"),
        comment: params.get("comment"),
    };
    let set = set_of(state, call)?;
    if set.entries.contains_key(&cidr) {
        return Err(ApiError::param("cidr", format!("address '{cidr}' already exists")));
    }
    set.entries.insert(cidr, entry);
    Ok(Reply::NULL)
}

fn no_entry(cidr: &str) -> ApiError {
    ApiError::die(format!("no such IP/Network '{cidr}'"))
}

/// `GET …/ipset/{name}/{cidr}`.
pub fn entry(state: &mut State, call: &Call) -> Answer {
    let cidr = call.params.text("cidr");
    let set = set_of(state, call)?;
    set.entries
        .get(&cidr)
        .map(|entry| entry_row(&cidr, entry).into())
        .ok_or_else(|| no_entry(&cidr))
}

/// `PUT …/ipset/{name}/{cidr}`.
pub fn update_entry(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let params = &call.params;
    let cidr = params.text("cidr");
    let Some(entry) = set_of(state, call)?.entries.get_mut(&cidr) else {
        return Err(no_entry(&cidr));
    };
    if let Some(nomatch) = params.maybe_flag("nomatch") {
        entry.nomatch = nomatch;
    }
    if let Some(comment) = params.get("comment") {
        entry.comment = Some(comment);
    }
    Ok(Reply::NULL)
}

/// `DELETE …/ipset/{name}/{cidr}`.
pub fn delete_entry(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let cidr = call.params.text("cidr");
    set_of(state, call)?.entries.remove(&cidr);
    Ok(Reply::NULL)
}

/// `GET …/refs`.
pub fn refs(state: &mut State, call: &Call) -> Answer {
    let wanted = call.params.get("type");
    let firewall = of(state, call);
    let mut rows = Vec::new();
    if wanted.as_deref().is_none_or(|kind| kind == "alias") {
        for (name, alias) in &firewall.aliases {
            rows.push(json!({
                "type": "alias", "name": name, "ref": format!("guest/{name}"), "scope": "guest",
                "comment": alias.comment.clone().unwrap_or_default(),
            }));
        }
    }
    if wanted.as_deref().is_none_or(|kind| kind == "ipset") {
        for (name, set) in &firewall.ipsets {
            rows.push(json!({
                "type": "ipset", "name": name, "ref": format!("+guest/{name}"), "scope": "guest",
                "comment": set.comment.clone().unwrap_or_default(),
            }));
        }
    }
    Ok(rows.into())
}

/// `GET …/log`: no firewall daemon runs.
pub fn log(_state: &mut State, _call: &Call) -> Answer {
    let row = json!({ "n": 1, "t": "unable to open file - No such file or directory" });
    Ok(Reply::Counted(json!([row]), 1))
}

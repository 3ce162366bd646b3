//! Firewall options, aliases and sets of a guest (facts D.12).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::addresses;
use crate::simulator::model::firewall::{Alias, Firewall, IpSet, SetEntry, alias_row, list_digest};
use crate::simulator::model::lxc_config::check_digest;
use crate::simulator::model::{ApiError, Result, State};
use crate::simulator::schema::firewall_formats;

/// The firewall of the guest of the path; guests without one have an empty one, missing guests too.
pub fn of<'a>(state: &'a mut State, call: &Call) -> &'a mut Firewall {
    state.firewalls.entry(call.params.vmid()).or_default()
}

/// Changes a firewall, which is written and read back; refused where nothing can be written.
pub fn change(state: &mut State, call: &Call, edit: impl FnOnce(&mut Firewall) -> Result<()>) -> Answer {
    state.check_writable()?;
    let mut firewall = of(state, call).clone();
    edit(&mut firewall)?;
    firewall.settle();
    *of(state, call) = firewall;
    Ok(Reply::NULL)
}

/// Refuses a digest that is not that of the rows.
pub fn check<'a>(call: &Call, rows: impl IntoIterator<Item = &'a Map<String, Value>>) -> Result<()> {
    check_digest(&list_digest(rows), call.params.get("digest").as_deref())
}

/// A list whose rows carry the digest of all.
pub fn with_digest(mut rows: Vec<Map<String, Value>>) -> Answer {
    let digest = list_digest(&rows);
    for row in &mut rows {
        row.insert("digest".to_owned(), json!(digest));
    }
    Ok(rows.into_iter().map(Value::Object).collect::<Vec<_>>().into())
}

/// `GET …/options`.
pub fn options(state: &mut State, call: &Call) -> Answer {
    let mut row = of(state, call).option_row();
    let digest = list_digest([&row]);
    row.insert("digest".to_owned(), json!(digest));
    Ok(Value::Object(row).into())
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
    change(state, call, |firewall| {
        check(call, [&firewall.option_row()])?;
        for key in call.params.list("delete") {
            if !OPTIONS.contains(&key.as_str()) {
                return Err(ApiError::param("delete", format!("no such option '{key}'")));
            }
            firewall.options.remove(&key);
        }
        firewall
            .options
            .extend(call.params.options(|key| OPTIONS.contains(&key)));
        Ok(())
    })
}

/// `GET …/aliases`.
pub fn aliases(state: &mut State, call: &Call) -> Answer {
    with_digest(of(state, call).alias_rows())
}

fn alias_of(call: &Call) -> Alias {
    Alias {
        name: call.params.text("name"),
        cidr: call.params.text("cidr"),
        comment: call.params.get("comment"),
    }
}

/// `POST …/aliases`.
pub fn create_alias(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        let alias = alias_of(call);
        if firewall.alias(&alias.name).is_some() {
            let text = format!("alias '{}' already exists", alias.name);
            return Err(ApiError::param("name", text));
        }
        firewall.aliases.insert(alias.name.to_ascii_lowercase(), alias);
        Ok(())
    })
}

/// `GET …/aliases/{name}`.
pub fn alias(state: &mut State, call: &Call) -> Answer {
    match of(state, call).alias(&call.params.text("name")) {
        Some(alias) => Ok(Value::Object(alias_row(alias)).into()),
        None => Err(ApiError::param("name", "no such alias")),
    }
}

/// `PUT …/aliases/{name}`: what is not given is gone, and the name takes the spelling of the path.
pub fn update_alias(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        check(call, &firewall.alias_rows())?;
        let mut alias = alias_of(call);
        let key = alias.name.to_ascii_lowercase();
        if firewall.alias(&key).is_none() {
            return Err(ApiError::param("name", "no such alias"));
        }
        if let Some(name) = call
            .params
            .get("rename")
            .filter(|name| !name.eq_ignore_ascii_case(&key))
        {
            if firewall.alias(&name).is_some() {
                return Err(ApiError::param("name", format!("alias '{name}' already exists")));
            }
            alias.name = name;
        }
        firewall.aliases.remove(&key);
        firewall.aliases.insert(alias.name.to_ascii_lowercase(), alias);
        Ok(())
    })
}

/// `DELETE …/aliases/{name}`: an absent one is no error.
pub fn delete_alias(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        check(call, &firewall.alias_rows())?;
        firewall.aliases.remove(&call.params.text("name").to_ascii_lowercase());
        Ok(())
    })
}

/// `GET …/ipset`.
pub fn ipsets(state: &mut State, call: &Call) -> Answer {
    with_digest(of(state, call).set_rows())
}

/// `POST …/ipset`: makes a set, or renames one and gives it another comment.
pub fn create_ipset(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        let name = call.params.text("name");
        let comment = call.params.get("comment");
        let known = firewall.ipsets.contains_key(&name);
        let Some(old) = call.params.get("rename") else {
            if known {
                return Err(ApiError::param("name", format!("IPSet '{name}' already exists")));
            }
            let entries = Default::default();
            firewall.ipsets.insert(name, IpSet { comment, entries });
            return Ok(());
        };
        check(call, &firewall.set_rows())?;
        if !firewall.ipsets.contains_key(&old) {
            return Err(ApiError::param("name", format!("IPSet '{old}' does not exist")));
        }
        if known && name != old {
            return Err(ApiError::param("name", format!("IPSet '{name}' does already exist")));
        }
        let mut set = firewall.ipsets.remove(&old).unwrap_or_default();
        set.comment = comment.or(set.comment);
        firewall.ipsets.insert(name, set);
        Ok(())
    })
}

fn set_of<'a>(firewall: &'a mut Firewall, call: &Call) -> Result<&'a mut IpSet> {
    let name = call.params.text("name");
    let found = firewall.ipsets.get_mut(&name);
    found.ok_or_else(|| ApiError::die(format!("no such IPSet '{name}'")))
}

fn entries_of(firewall: &mut Firewall, call: &Call) -> Result<Vec<Map<String, Value>>> {
    let set = set_of(firewall, call)?.clone();
    Ok(firewall.entry_rows(&set))
}

/// `GET …/ipset/{name}`.
pub fn ipset(state: &mut State, call: &Call) -> Answer {
    with_digest(entries_of(of(state, call), call)?)
}

/// `DELETE …/ipset/{name}`.
pub fn delete_ipset(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        let name = call.params.text("name");
        if !set_of(firewall, call)?.entries.is_empty() && !call.params.flag("force") {
            return Err(ApiError::die(format!("IPSet '{name}' is not empty")));
        }
        firewall.ipsets.remove(&name);
        Ok(())
    })
}

/// `POST …/ipset/{name}`.
pub fn add_entry(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        let params = &call.params;
        let given = params.text("cidr");
        set_of(firewall, call)?;
        let cidr = if firewall_formats::is_alias(&given) {
            match firewall.alias_fault(&given) {
                Some(text) => return Err(ApiError::die(text)),
                None => given,
            }
        } else {
            addresses::stored(&addresses::clean(&given)).map_err(ApiError::die)?.0
        };
        let entry = SetEntry {
            nomatch: params.flag("nomatch"),
            comment: params.get("comment"),
        };
        let set = set_of(firewall, call)?;
        if set.entries.contains_key(&cidr) {
            return Err(ApiError::param("cidr", format!("address '{cidr}' already exists")));
        }
        if cidr
            .rsplit_once('/')
            .is_some_and(|(_, bits)| bits.trim_matches('0').is_empty())
        {
            let text = "a zero prefix is not allowed in ipset entries";
            return Err(ApiError::param("cidr", text));
        }
        set.entries.insert(cidr, entry);
        Ok(())
    })
}

/// `GET …/ipset/{name}/{cidr}`.
pub fn entry(state: &mut State, call: &Call) -> Answer {
    let cidr = call.params.text("cidr");
    let mut rows = entries_of(of(state, call), call)?.into_iter();
    let found = rows.find(|row| row["cidr"] == json!(cidr));
    found
        .map(|row| Value::Object(row).into())
        .ok_or_else(|| ApiError::param("cidr", "no such IP/Network"))
}

/// `PUT …/ipset/{name}/{cidr}`: what is not given is gone.
pub fn update_entry(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        check(call, &entries_of(firewall, call)?)?;
        let Some(entry) = set_of(firewall, call)?.entries.get_mut(&call.params.text("cidr")) else {
            return Err(ApiError::param("cidr", "no such IP/Network"));
        };
        entry.nomatch = call.params.flag("nomatch");
        entry.comment = call.params.get("comment");
        Ok(())
    })
}

/// `DELETE …/ipset/{name}/{cidr}`: an absent one is no error.
pub fn delete_entry(state: &mut State, call: &Call) -> Answer {
    change(state, call, |firewall| {
        check(call, &entries_of(firewall, call)?)?;
        set_of(firewall, call)?.entries.remove(&call.params.text("cidr"));
        Ok(())
    })
}

/// `GET …/refs`.
pub fn refs(state: &mut State, call: &Call) -> Answer {
    let wanted = call.params.get("type");
    let firewall = of(state, call);
    let row = |kind: &str, name: &str, mark: &str, comment: Option<&String>| {
        let mut row = json!({ "type": kind, "name": name, "ref": format!("{mark}{name}"), "scope": "guest" });
        if let Some(comment) = comment.filter(|text| !text.is_empty()) {
            row["comment"] = json!(comment);
        }
        row
    };
    let mut rows = Vec::new();
    if wanted.as_deref().is_none_or(|kind| kind == "ipset") {
        let sets = firewall.ipsets.iter();
        rows.extend(sets.map(|(name, set)| row("ipset", name, "+", set.comment.as_ref())));
    }
    if wanted.as_deref().is_none_or(|kind| kind == "alias") {
        let aliases = firewall.aliases.keys().map(|name| (name, &firewall.aliases[name]));
        rows.extend(aliases.map(|(name, alias)| row("alias", name, "", alias.comment.as_ref())));
    }
    Ok(rows.into())
}

/// `GET …/log`: no firewall daemon runs.
pub fn log(_state: &mut State, _call: &Call) -> Answer {
    let row = json!({ "n": 1, "t": "unable to open file - No such file or directory" });
    Ok(Reply::Counted(json!([row]), 1))
}

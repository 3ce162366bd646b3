//! `/cluster/mapping` (facts F.6, K.2.23).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::lxc_config::check_digest;
use crate::simulator::model::mapping::Mapping;
use crate::simulator::model::{ApiError, State};

/// `pci`, `usb` or `dir`, from the path.
fn kind(call: &Call) -> String {
    call.path.split('/').nth(3).unwrap_or_default().to_owned()
}

fn object(mapping: &Mapping, kind: &str, digest: &str) -> Map<String, Value> {
    let mut object: Map<String, Value> = mapping
        .options
        .iter()
        .map(|(key, text)| {
            let number = (key != "description").then(|| text.parse::<i64>().ok()).flatten();
            (key.clone(), number.map_or_else(|| json!(text), |number| json!(number)))
        })
        .collect();
    object.insert("map".to_owned(), json!(mapping.map));
    object.insert("type".to_owned(), json!(kind));
    object.insert("digest".to_owned(), json!(digest));
    object
}

/// `GET /cluster/mapping/{kind}`: those that the caller has to do with.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let kind = kind(call);
    let digest = state.mapping_digest(&kind);
    let wanted = ["Mapping.Modify", "Mapping.Use", "Mapping.Audit"];
    let mut rows = Vec::new();
    for (id, mapping) in state.mappings_of(&kind) {
        if !state.may_any(&call.caller, &format!("/mapping/{kind}/{id}"), &wanted) {
            continue;
        }
        let mut row = object(&mapping, &kind, &digest);
        row.insert("id".to_owned(), json!(id));
        if let Some(node) = call.params.get("check-node") {
            let problem = state.mapping_problem(&kind, &node, &mapping);
            let checks: Vec<Value> = problem
                .into_iter()
                .map(|message| json!({ "severity": "error", "message": message }))
                .collect();
            row.insert("checks".to_owned(), json!(checks));
        }
        rows.push(Value::Object(row));
    }
    Ok(rows.into())
}

/// `GET /cluster/mapping/{kind}/{id}`.
pub fn read(state: &mut State, call: &Call) -> Answer {
    let (kind, id) = (kind(call), call.params.text("id"));
    let digest = state.mapping_digest(&kind);
    match state.mappings_of(&kind).get(&id) {
        Some(mapping) => Ok(Value::Object(object(mapping, &kind, &digest)).into()),
        None => Err(ApiError::die(format!("mapping '{id}' not found"))),
    }
}

fn options(call: &Call) -> std::collections::BTreeMap<String, String> {
    call.params
        .options(|key| matches!(key, "description" | "mdev" | "live-migration-capable"))
}

/// `POST /cluster/mapping/{kind}`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    state.check_writable()?;
    let (kind, id) = (kind(call), call.params.text("id"));
    let mapping = Mapping {
        map: call.params.items("map"),
        options: options(call),
    };
    let all = state.mappings.entry(kind.clone()).or_default();
    if all.contains_key(&id) {
        let text = format!("create hardware mapping failed: {kind} ID '{id}' already defined");
        return Err(ApiError::die(text));
    }
    all.insert(id, mapping);
    Ok(Reply::NULL)
}

/// `PUT /cluster/mapping/{kind}/{id}`: always needs `map`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    state.check_writable()?;
    let failed = |text: &str| ApiError::die(format!("update hardware mapping failed: {text}"));
    let (kind, id) = (kind(call), call.params.text("id"));
    check_digest(&state.mapping_digest(&kind), call.params.get("digest").as_deref())
        .map_err(|error| failed(error.first_line()))?;
    let Some(mapping) = state.mappings.entry(kind.clone()).or_default().get_mut(&id) else {
        return Err(failed(&format!("{kind} ID '{id}' does not exist")));
    };
    let map = call.params.items("map");
    if map.is_empty() {
        return Err(failed("missing value for required option 'map'"));
    }
    mapping.map = map;
    mapping.options.extend(options(call));
    for key in call.params.list("delete") {
        mapping.options.remove(&key);
    }
    Ok(Reply::NULL)
}

/// `DELETE /cluster/mapping/{kind}/{id}`: an absent one is no error.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    state.check_writable()?;
    let (kind, id) = (kind(call), call.params.text("id"));
    if let Some(all) = state.mappings.get_mut(&kind) {
        all.remove(&id);
    }
    Ok(Reply::NULL)
}

//! Guests that are reached by name.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::weather::{Call, Calm, Ending, Sky, Weather};
use crate::operated::{Running, Site, lxc};

const SLICE: &str = "a-when-ready-ipv4";

fn site() -> Site {
    let mut site = Site::new();
    site.exposes = true;
    site
}

fn exposing(fields: Value) -> Value {
    let mut all = json!({"expose": [{"name": "http", "port": 80, "targetPort": 8000}]});
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    lxc("a", 1, all)
}

/// Writes of slices take long, and everything else as ever: who does not wait for them is faster.
struct SlowSlices;

impl Weather for SlowSlices {
    fn call(&self, call: &Call<'_>) -> Sky {
        let slow = call.method == "PATCH" && call.resource == "endpointslices";
        let before = if slow {
            Duration::from_secs(5)
        } else {
            Calm.call(call).before
        };
        Sky {
            before,
            ..Calm.call(call)
        }
    }
    fn lag(&self, caller: &str, resource: &str) -> Duration {
        Calm.lag(caller, resource)
    }
    fn life(&self, caller: &str, resource: &str) -> (Duration, Ending) {
        Calm.life(caller, resource)
    }
    fn proxmox(&self, method: &str, path: &str) -> Sky {
        Calm.proxmox(method, path)
    }
}

/// Whether the slice sends traffic; `None` where there is none.
fn sends(site: &Site) -> Option<bool> {
    let slice = site.server.get("EndpointSlice", "ai", SLICE)?;
    slice["endpoints"][0]["conditions"]["ready"].as_bool()
}

/// Status and reason of the condition `Exposed`.
fn told(site: &Site) -> Option<(String, String, String)> {
    let object = site.server.get("PhoenixLXC", "ai", "a")?;
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let found = conditions.into_iter().find(|c| c["type"] == "Exposed")?;
    let text = |key: &str| found[key].as_str().unwrap().to_string();
    Some((text("status"), text("reason"), text("message")))
}

async fn exposed() -> (Site, Running) {
    let site = site();
    let operator = site.operator("one");
    site.connect();
    site.apply(exposing(json!({})));
    site.until("it is Ready and sent traffic", |site| {
        site.all_ready() && sends(site) == Some(true)
    })
    .await;
    (site, operator)
}

#[tokio::test(start_paused = true)]
async fn an_exposed_guest_has_a_service_and_a_slice_and_costs_nothing_afterwards() {
    let (site, _operator) = exposed().await;
    let service = site.server.get("Service", "ai", "a").unwrap();
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8000);
    assert!(service["spec"]["selector"].is_null());
    let slice = site.server.get("EndpointSlice", "ai", SLICE).unwrap();
    let object = site.server.get("PhoenixLXC", "ai", "a").unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!([object["status"]["ip"]]));
    assert_eq!(
        slice["metadata"]["ownerReferences"][0]["uid"],
        object["metadata"]["uid"]
    );
    site.until("it is told", |site| told(site).is_some_and(|told| told.1 == "Exposed"))
        .await;
    let before = site.server.journal().writes.len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let journal = site.server.journal();
    let written: Vec<&String> = journal.writes[before..].iter().collect();
    assert!(written.is_empty(), "{written:#?}");
}

#[tokio::test(start_paused = true)]
async fn it_goes_from_the_slice_before_a_restart_that_was_asked_for_is_sent() {
    let (site, operator) = exposed().await;
    site.server.set_weather(Arc::new(SlowSlices));
    operator
        .gate
        .freeze_before(|method, path| method == "POST" && path.contains("/status/"));
    site.server.edit("PhoenixLXC", "ai", "a", |object| {
        object["metadata"]["annotations"]["phoenix-hypervisor.io/restartedAt"] = json!("now");
    });
    site.until("the restart is about to leave", |_| operator.gate.is_frozen())
        .await;
    assert_eq!(sends(&site), Some(false));
    operator.gate.thaw();
    site.until("it is back", |site| site.all_ready() && sends(site) == Some(true))
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deletes_or_edits_comes_back() {
    let (site, _operator) = exposed().await;
    site.server.delete("Service", "ai", "a");
    site.server.delete("EndpointSlice", "ai", SLICE);
    let back = |site: &Site| site.server.get("Service", "ai", "a").is_some() && sends(site) == Some(true);
    site.until("both are back", back).await;
    site.server.edit("EndpointSlice", "ai", SLICE, |slice| {
        slice["endpoints"][0]["addresses"] = json!(["10.0.0.99"])
    });
    let right = |site: &Site| {
        let slice = site.server.get("EndpointSlice", "ai", SLICE).unwrap();
        let object = site.server.get("PhoenixLXC", "ai", "a").unwrap();
        slice["endpoints"][0]["addresses"] == json!([object["status"]["ip"]])
    };
    site.until("the address is right again", right).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_spec_drops_goes_and_a_deleted_object_takes_all_along() {
    let (site, _operator) = exposed().await;
    site.apply(exposing(
        json!({"expose": [{"name": "ssh", "port": 22, "when": "Always"}]}),
    ));
    site.until("the slice of before is gone", |site| sends(site).is_none())
        .await;
    let ports = |site: &Site| {
        site.server
            .get("Service", "ai", "a")
            .map(|service| service["spec"]["ports"].clone())
    };
    site.until("the Service has the other port", |site| {
        ports(site).is_some_and(|ports| ports[0]["port"] == 22)
    })
    .await;
    site.apply(exposing(json!({"expose": []})));
    let none = |site: &Site| site.server.all("Service").is_empty() && site.server.all("EndpointSlice").is_empty();
    site.until("nothing is left", none).await;
    site.until("nothing is told", |site| told(site).is_none()).await;
    site.apply(exposing(json!({})));
    site.until("it is back", |site| sends(site) == Some(true)).await;
    site.server.delete("PhoenixLXC", "ai", "a");
    site.until("all is gone", |site| site.guests().is_empty() && none(site))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_somebody_elses_is_left_alone() {
    let site = site();
    let _operator = site.operator("one");
    site.connect();
    let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ai", "name": "a"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}});
    site.apply(foreign.clone());
    site.apply(exposing(json!({})));
    let refused = |site: &Site| told(site).is_some_and(|told| told.1 == "ServiceNotOurs" && told.0 == "False");
    site.until("it is Ready and tells", |site| site.all_ready() && refused(site))
        .await;
    let (_, _, message) = told(&site).unwrap();
    assert!(message.contains("kubectl delete -n ai service a"), "{message}");
    let found = site.server.get("Service", "ai", "a").unwrap();
    assert_eq!(found["spec"], foreign["spec"]);
    assert!(found["metadata"]["ownerReferences"].is_null());
    assert!(site.server.all("EndpointSlice").is_empty());
    // Taken off the spec, it stays theirs.
    site.apply(exposing(json!({"expose": []})));
    site.until("nothing is told", |site| told(site).is_none()).await;
    assert!(site.server.get("Service", "ai", "a").is_some());
    site.apply(exposing(json!({})));
    site.server.delete("Service", "ai", "a");
    site.until("it has its own", |site| sends(site) == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_flag_nothing_is_made_and_who_asked_is_told() {
    let site = Site::new();
    let _operator = site.operator("one");
    site.connect();
    site.apply(exposing(json!({})));
    let disabled = |site: &Site| told(site).is_some_and(|told| told.1 == "ExposeDisabled");
    site.until("it is Ready and tells", |site| site.all_ready() && disabled(site))
        .await;
    assert!(site.server.all("Service").is_empty());
    let counts = site.server.journal().counts.clone();
    assert!(
        counts
            .keys()
            .all(|call| !call.contains("services") && !call.contains("endpointslices")),
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_begins_anew_writes_nothing() {
    let (site, operator) = exposed().await;
    site.until("it is told", |site| told(site).is_some_and(|told| told.1 == "Exposed"))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    operator.stop().await.unwrap();
    let before = site.server.journal().writes.len();
    let _operator = site.operator("two");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let journal = site.server.journal();
    let written: Vec<&String> = journal.writes[before..].iter().collect();
    assert!(written.is_empty(), "{written:#?}");
}

//! Watches that are behind.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::apiserver::weather::Steered;
use crate::apiserver::weather::Trouble;
use crate::operated::{Site, lxc, template_of};

fn attempts(site: &Site, words: &str) -> usize {
    let journal = site.server.journal();
    journal.writes.iter().filter(|line| line.contains(words)).count()
}

/// What changed elsewhere makes a write a conflict; the watch that would tell of it comes in ten minutes.
#[tokio::test(start_paused = true)]
async fn a_conflict_is_over_before_the_watch_tells_of_it() {
    for (kind, resource, name) in [
        ("PhoenixHypervisor", "phoenixhypervisors", "pve"),
        ("Secret", "secrets", "token"),
        ("PhoenixLXC", "phoenixlxcs", "a"),
    ] {
        let weather = Arc::new(Steered::default());
        let site = Site::under(weather.clone(), 0);
        site.connect();
        let _operator = site.operator("one");
        site.until("the hypervisor is Ready", |site| site.words().contains("Ready"))
            .await;
        site.apply(lxc("a", 0, json!({})));
        tokio::time::sleep(Duration::from_millis(6)).await;
        weather
            .lags
            .lock()
            .unwrap()
            .insert(resource.into(), Duration::from_secs(600));
        site.server.edit(kind, "ai", name, |object| {
            object["metadata"]["labels"] = json!({"team": "blue"})
        });
        let ready = site.reaches(Duration::from_secs(120), Site::all_ready).await;
        ready.unwrap_or_else(|words| panic!("{kind}: {words}"));
        let tried = attempts(&site, &format!("PATCH {resource} ai/{name} "));
        assert!(tried <= 4, "{kind}: {tried} attempts");
    }
}

/// An object that went while its watch is behind costs no storm either.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_not_written_to_again_and_again() {
    let weather = Arc::new(Steered::default());
    let site = Site::under(weather.clone(), 0);
    site.connect();
    let _operator = site.operator("one");
    site.apply(lxc("a", 0, json!({})));
    site.until("it is Ready", Site::all_ready).await;
    weather
        .lags
        .lock()
        .unwrap()
        .insert("phoenixlxcs".into(), Duration::from_secs(600));
    site.apply(lxc("b", 1, json!({})));
    site.server.edit("PhoenixLXC", "ai", "a", |object| {
        object["metadata"].as_object_mut().unwrap().remove("finalizers");
    });
    site.server.delete("PhoenixLXC", "ai", "a");
    let vmid = site.sim.with(|state| *state.guests.keys().next().unwrap());
    site.sim
        .with(|state| state.guests.get_mut(&vmid).unwrap().running = None);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tried = attempts(&site, "phoenixlxcs ai/a status");
    site.server.journal().writes.clear();
    tokio::time::sleep(Duration::from_secs(200)).await;
    let more = attempts(&site, "phoenixlxcs ai/a");
    assert!(more <= 2, "{tried} and {more} attempts");
}

/// The datastore is restored, and versions go back: the watches go on from versions that are to come, and would tell
/// nothing of what happens until then.
#[tokio::test(start_paused = true)]
async fn a_restored_datastore_is_read_anew() {
    let site = Site::new();
    site.connect();
    let _operator = site.operator("one");
    site.apply(lxc("a", 0, json!({})));
    let snapshot = site.server.snapshot();
    site.apply(lxc("b", 1, json!({})));
    site.until("all are Ready", Site::all_ready).await;
    let guests = |site: &Site| site.sim.with(|state| state.guests.keys().copied().collect::<Vec<_>>());
    let before = guests(&site);
    // Versions go back by more than one minute's changes.
    tokio::time::sleep(Duration::from_secs(130)).await;
    site.server.restore(snapshot);
    tokio::time::sleep(Duration::from_secs(5)).await;
    site.apply(lxc("b", 1, json!({})));
    site.until("all are Ready again", Site::all_ready).await;
    assert_eq!(guests(&site), before);
    // What nobody writes to is read anew as well.
    site.server.edit("Secret", "ai", "token", |secret| {
        secret["data"]["secret"] = json!("d3Jvbmc=")
    });
    site.until("the wrong token is noticed", |site| {
        !site.words().contains("\"pve\" null null \"Ready\"")
    })
    .await;
}

/// What a look found counts only when it is told: Ready comes with all that belongs to it, whichever write is refused.
#[tokio::test(start_paused = true)]
async fn a_status_that_could_not_be_written_is_written_in_full() {
    for refused in 0..14 {
        let weather = Arc::new(Steered::default());
        let site = Site::under(weather.clone(), 0);
        site.connect();
        let mut writes = 0..;
        *weather.troubles.lock().unwrap() = Some(Box::new(move |call| {
            let status = call.method == "PUT" && call.resource == "phoenixtemplates";
            (status && writes.next() == Some(refused)).then_some(Trouble::Refused(503))
        }));
        let _operator = site.operator("one");
        site.apply(template_of("base", "Snapshot"));
        site.until("the template is Ready", Site::all_ready).await;
        let template = site.server.get("PhoenixTemplate", "ai", "base").unwrap();
        assert!(
            template["status"]["revision"].is_string(),
            "write {refused}: {template:#}"
        );
        let conditions = template["status"]["conditions"].as_array().unwrap();
        let sealed = conditions
            .iter()
            .any(|c| c["type"] == "SnapshotReady" && c["status"] == "True");
        assert!(sealed, "write {refused}: {template:#}");
    }
}

//! A fleet in calm weather.

use std::time::Duration;

use serde_json::json;

use crate::fleet::{self, Fleet};
use crate::operated::{Site, lxc, template_of};

fn from_template() -> serde_json::Value {
    json!({"templateRef": {"name": "base"}})
}

#[tokio::test(start_paused = true)]
async fn a_template_and_three_guests_come_change_and_go() {
    let site = Site::new();
    let operator = site.operator("one");
    site.connect();
    site.apply(template_of("base", "Snapshot"));
    for (number, name) in ["a", "b", "c"].iter().enumerate() {
        site.apply(lxc(name, number as u32, json!({"source": from_template()})));
    }
    site.until("all are Ready", Site::all_ready).await;
    assert_eq!(site.sim.with(|state| state.guests.len()), 4);
    for object in site.guests() {
        assert_eq!(
            object["metadata"]["finalizers"],
            json!(["phoenix-hypervisor.io/finalizer"]),
            "{object:#}"
        );
    }

    site.apply(lxc("a", 0, json!({"source": from_template(), "memory": "1Gi"})));
    site.until("the edit is in force", Site::all_ready).await;
    let vmid = site.server.get("PhoenixLXC", "ai", "a").unwrap()["status"]["vmid"]
        .as_u64()
        .unwrap();
    let memory = site
        .sim
        .with(|state| state.guests[&(vmid as u32)].config().current.options["memory"].clone());
    assert_eq!(memory, "1024");

    // Nothing is left to do: time passes with polls, and nothing is written or read in full.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let fleet = Fleet { site, operator };
    let idle = fleet.idle(Duration::from_secs(300)).await;
    assert_eq!(
        idle.kubernetes
            .keys()
            .find(|call| !call.ends_with(" watch") && *call != "GET phoenixhypervisors list"),
        None,
        "{idle:#?}"
    );
    let few = |(call, times): (&String, &usize)| call == "GET /cluster/resources" || *times == 1;
    assert!(idle.proxmox.iter().all(few), "{idle:#?}");
    assert!(
        idle.proxmox
            .keys()
            .all(|call| call.starts_with("GET ") && !call.contains("{vmid}")),
        "{idle:#?}"
    );
    let Fleet { site, operator } = fleet;

    for kind in ["PhoenixTemplate", "PhoenixLXC"] {
        for object in site.server.all(kind) {
            site.server
                .delete(kind, "ai", object["metadata"]["name"].as_str().unwrap());
        }
    }
    site.until("all are gone", |site| site.guests().is_empty()).await;
    assert_eq!(site.sim.with(|state| state.guests.len()), 0);
    site.until("the connection is let go", |site| {
        let mut held = site.server.all("Secret");
        held.extend(site.server.all("PhoenixHypervisor"));
        held.iter().all(|object| object["metadata"]["finalizers"].is_null())
    })
    .await;
    operator.stop().await.unwrap();
}

/// Guests are told of a new revision of their template at once, though nothing else about them changed.
#[tokio::test(start_paused = true)]
async fn a_template_that_is_built_anew_shows_on_what_was_cloned_from_it() {
    let site = Site::new();
    let _operator = site.operator("one");
    site.connect();
    site.apply(template_of("base", "Template"));
    site.apply(lxc("a", 1, json!({"source": from_template()})));
    site.until("all are Ready", Site::all_ready).await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    let mut anew = template_of("base", "Template");
    anew["metadata"]["annotations"] = json!({"phoenix-hypervisor.io/rebuild": "now"});
    site.apply(anew);
    let rebuilt = |site: &Site| {
        let base = site.server.get("PhoenixTemplate", "ai", "base").unwrap();
        !base["status"]["revisions"].is_null() && site.all_ready()
    };
    site.until("it is built anew", rebuilt).await;
    let told = |site: &Site| {
        let guest = site.server.get("PhoenixLXC", "ai", "a").unwrap();
        let conditions = guest["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "TemplateOutdated")
    };
    if let Err(words) = site.reaches(Duration::from_secs(10), told).await {
        panic!("the clone does not tell of it:\n{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_counted() {
    let fleet = Fleet::new();
    for number in 0..8 {
        fleet.site.apply(lxc(&format!("g{number}"), number, json!({})));
    }
    let report = fleet.ready().await;
    assert_eq!(report.proxmox["POST /nodes/{node}/lxc"], 8, "{report:#?}");
    assert_eq!(report.objects, 8);
    assert!(report.status_writes() <= 8 * 10, "{report:#?}");
    // How long a task takes is learnt from those that ended.
    let tasks = report.proxmox["GET /nodes/{node}/tasks/{task}/status"];
    assert!(report.requests() - tasks <= 8 * 20, "{report:#?}");
    let twice = fleet::bring_up(8, |number| lxc(&format!("g{number}"), number, json!({}))).await;
    assert_eq!(twice.proxmox, report.proxmox);
}

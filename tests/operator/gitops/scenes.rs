//! Stories of a fleet. Each is told twice: to those who watch it (`moments`), and to readers, by a page in `snapshots`.

use std::collections::BTreeMap;
use std::time::Duration;

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::{SshAction, SshFault, SshServer};
use phoenix::simulator::{Edit, Fault, FaultKind};
use serde_json::{Value, json};

use super::files::without_times;
use super::moments::Story;
use crate::evaluator;
use crate::operated::{Site, is_ready, lxc};

const SCRIPT: &str = "#!/bin/sh\ntrue\n";

/// A story at a site whose nodes are reached by SSH too.
fn story(first: &str) -> Story {
    let story = Story::new(first);
    let site = &story.site;
    let (private, public) = SshServer::new_client_key().unwrap();
    site.connect();
    site.apply(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "ai", "name": "ssh"},
        "stringData": {"key": private, "known_hosts": format!("phoenix.test {public}\ntwo.test {public}\n")}}),
    );
    hypervisor(site, |spec| {
        spec["ssh"] = json!({"hosts": {"phoenix": "phoenix.test"},
            "keySecretRef": {"name": "ssh", "key": "key"}, "knownHostsSecretRef": {"name": "ssh", "key": "known_hosts"}});
    });
    story
}

fn hypervisor(site: &Site, change: impl FnOnce(&mut Value)) {
    let mut object = (*site.server.get("PhoenixHypervisor", "ai", "pve").unwrap()).clone();
    change(&mut object["spec"]);
    site.apply(object);
}

fn feature(install: &str) -> Value {
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"name": "docker", "namespace": "ai"}, "spec": {"install": install}})
}

fn template(memory: &str, feature: bool) -> Value {
    let mut object = crate::operated::template_of("base", "Template");
    object["spec"]["lxc"]["memory"] = json!(memory);
    if feature {
        object["spec"]["lxc"]["features"] = json!([{"name": "docker"}]);
    }
    object
}

/// A container that has all that is waited for before it is Ready.
fn web(fields: Value) -> Value {
    let mut all = json!({
        "source": {"templateRef": {"name": "base"}}, "features": [{"name": "docker"}],
        "application": {"script": SCRIPT}, "health": {"readiness": {"exec": {"command": ["serves"]}}},
        "tests": [{"name": "smoke", "script": SCRIPT}],
    });
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    lxc("web", 1, all)
}

fn machine(fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "source": {"cloudImage": {"volid": "local:import/noble-server-cloudimg-amd64.qcow2"}},
        "cpu": {"cores": 2}, "memory": "2Gi", "disks": [{"name": "root", "size": "20Gi"}], "cloudInit": {"user": "ops"},
        "network": [{"name": "net0", "ip": "10.64.7.1/16", "gateway": "10.64.0.1"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixVM",
        "metadata": {"name": "machine", "namespace": "ai"}, "spec": spec})
}

/// What the Ready condition of an object says.
fn reason(site: &Site, kind: &str, name: &str) -> String {
    let object = site.server.get(kind, "ai", name);
    let conditions = object.map(|object| object["status"]["conditions"].clone());
    let conditions = conditions.as_ref().and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    ready.map_or(String::new(), |c| c["reason"].as_str().unwrap().into())
}

fn vmid(site: &Site, kind: &str, name: &str) -> u32 {
    let object = site.server.get(kind, "ai", name).unwrap();
    object["status"]["vmid"].as_u64().unwrap() as u32
}

fn status(site: &Site, kind: &str, name: &str) -> Value {
    site.server.get(kind, "ai", name).unwrap()["status"].clone()
}

impl Story {
    /// Runs until all guests are Ready, and lets what follows from that happen.
    async fn settles(&self) {
        // An edit has to be noticed before anything counts as settled.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.site.until("all are Ready", Site::all_ready).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.site.until("all are still Ready", Site::all_ready).await;
    }

    async fn until_reason(&self, kind: &str, name: &str, wanted: &str) {
        let what = format!("{kind} {name} says {wanted}");
        self.site.until(&what, |site| reason(site, kind, name) == wanted).await;
    }

    async fn until_stalled(&self, name: &str) {
        let stalled = |site: &Site| status(site, "PhoenixLXC", name)["phase"] == "Stalled";
        self.site.until("it is stalled", stalled).await;
    }

    /// Carries an action of Argo CD out.
    fn act(&self, kind: &str, name: &str, action: &str) {
        let object = self.site.server.get(kind, "ai", name).unwrap();
        let mut object = evaluator::act(&object, action).unwrap();
        // A revision depends on the moment at which it is asked for, and this page is to be the same each time.
        without_times(&mut object);
        self.site.apply(object);
    }

    fn edit(&self, edit: Edit) {
        self.site.sim.edit(edit).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_applied_edited_and_taken_back() {
    let mut story = story("A folder is applied in any order: hypervisor, feature, template, guests.");
    let _operator = {
        let site = &story.site;
        site.apply(machine(json!({})));
        site.apply(web(json!({})));
        site.apply(lxc(
            "behind",
            2,
            json!({"source": {"templateRef": {"name": "base"}},
            "dependsOn": [{"kind": "PhoenixLXC", "name": "web"}]}),
        ));
        site.apply(template("512Mi", true));
        site.apply(feature(SCRIPT));
        site.operator("one")
    };
    story.settles().await;
    let kinds = ["PhoenixHypervisor", "PhoenixFeature"];
    let others = kinds.iter().flat_map(|kind| story.site.server.all(kind));
    assert!(others.into_iter().all(|object| is_ready(&object)));

    story.chapter("Cores and memory are edited.");
    story.site.apply(web(json!({"cores": 2, "memory": "1Gi"})));
    story.site.apply(machine(json!({"cpu": {"cores": 4}})));
    story.settles().await;

    story.chapter("The machine may restart by itself, and does.");
    story.site.apply(machine(
        json!({"cpu": {"cores": 4}, "updatePolicy": {"restart": "Automatic"}}),
    ));
    story.settles().await;

    story.chapter("A restart and a run of the tests are asked for.");
    story.act("PhoenixLXC", "web", "restart");
    story.settles().await;
    story.act("PhoenixLXC", "web", "run-tests");
    story.settles().await;

    story.chapter("The container is stopped, and the machine.");
    story.act("PhoenixLXC", "web", "stop");
    story.act("PhoenixVM", "machine", "stop");
    let stopped = |site: &Site| {
        let of = |kind, name| status(site, kind, name)["phase"] == "Stopped";
        of("PhoenixLXC", "web") && of("PhoenixVM", "machine")
    };
    story.site.until("both are stopped", stopped).await;

    story.chapter("They are started again.");
    story.act("PhoenixLXC", "web", "start");
    story.act("PhoenixVM", "machine", "start");
    story.settles().await;

    story.chapter("The feature's script changes.");
    story.site.apply(feature("#!/bin/sh\necho anew\n"));
    story.settles().await;

    story.chapter("The template is built anew by wish.");
    story.act("PhoenixTemplate", "base", "rebuild");
    let rebuilt = |site: &Site| !status(site, "PhoenixTemplate", "base")["revisions"].is_null() && site.all_ready();
    story.site.until("it is built anew", rebuilt).await;
    story.settles().await;

    story.chapter("Everything is taken out of Git at once.");
    for kind in [
        "PhoenixHypervisor",
        "PhoenixFeature",
        "PhoenixTemplate",
        "PhoenixLXC",
        "PhoenixVM",
    ] {
        for object in story.site.server.all(kind) {
            story
                .site
                .server
                .delete(kind, "ai", object["metadata"]["name"].as_str().unwrap());
        }
    }
    let gone = |site: &Site| site.guests().is_empty() && site.server.all("PhoenixHypervisor").is_empty();
    story.site.until("all are gone", gone).await;
    insta::assert_snapshot!(story.told());
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_and_is_mended() {
    let mut story = story("A fleet comes up on two nodes.");
    story
        .site
        .sim
        .with(|state| state.add_twin("phoenix", "two", "10.0.0.14", "lab"));
    hypervisor(&story.site, |spec| spec["ssh"]["hosts"]["two"] = json!("two.test"));
    let _operator = story.site.operator("one");
    story.site.apply(feature(SCRIPT));
    story.site.apply(template("512Mi", true));
    story.site.apply(lxc("far", 4, json!({"node": "two"})));
    story.site.apply(web(json!({})));
    story.site.apply(machine(json!({})));
    story.settles().await;
    let web_id = vmid(&story.site, "PhoenixLXC", "web");

    story.chapter("Somebody changes an option of the container elsewhere, which is set back.");
    let options = BTreeMap::from([("cores".to_string(), Some("7".to_string()))]);
    story.edit(Edit::SetOptions {
        vmid: web_id,
        options: options.clone(),
    });
    story.settles().await;

    story.chapter("The same where drift is only reported.");
    hypervisor(&story.site, |spec| spec["driftPolicy"] = json!("Report"));
    story.settles().await;
    story.edit(Edit::SetOptions { vmid: web_id, options });
    story.settles().await;
    hypervisor(&story.site, |spec| spec["driftPolicy"] = json!("Correct"));
    story.settles().await;

    story.chapter("Somebody stops the container and the machine elsewhere: they are started.");
    story.edit(Edit::Power {
        vmid: web_id,
        running: false,
    });
    let machine_id = vmid(&story.site, "PhoenixVM", "machine");
    story.edit(Edit::Power {
        vmid: machine_id,
        running: false,
    });
    story.settles().await;

    story.chapter("The application stops to answer, and answers again.");
    let fault = SshFault {
        vmid: None,
        command: "serves".into(),
        action: SshAction::Exit {
            exit: 1,
            output: "no answer".into(),
        },
        count: None,
    };
    story.edit(Edit::SshFault(fault));
    story.until_reason("PhoenixLXC", "web", "ProbeFailed").await;
    story.site.sim.with(|state| state.ssh.faults.clear());
    story.settles().await;

    story.chapter("The hypervisor is not reached, and reached again.");
    story.site.sim.add_fault(Fault {
        method: None,
        path: None,
        skip: 0,
        count: u32::MAX,
        kind: FaultKind::LostRequest,
    });
    story
        .until_reason("PhoenixHypervisor", "pve", "HypervisorUnreachable")
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    story.site.sim.clear_faults();
    story.settles().await;

    story.chapter("A node goes away, and comes back.");
    story.edit(Edit::NodeOnline {
        node: "two".into(),
        online: false,
    });
    story.until_reason("PhoenixLXC", "far", "NodeOffline").await;
    story.edit(Edit::NodeOnline {
        node: "two".into(),
        online: true,
    });
    story.settles().await;

    story.chapter("The cluster has no quorum for a while, and the container is edited.");
    story.edit(Edit::Quorum { quorate: false });
    story.site.apply(web(json!({"cores": 3})));
    tokio::time::sleep(Duration::from_secs(200)).await;
    story.edit(Edit::Quorum { quorate: true });
    story.settles().await;

    story.chapter("The token is taken away, and given back.");
    let token = story.site.server.get("Secret", "ai", "token").unwrap();
    story.site.server.edit("Secret", "ai", "token", |secret| {
        secret["data"]["secret"] = json!("bm90aGluZw==")
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    story
        .site
        .server
        .edit("Secret", "ai", "token", |secret| secret["data"] = token["data"].clone());
    story.settles().await;

    story.chapter("Storage runs full before a new container, and is freed.");
    let fault = TaskFault {
        kind: "vzcreate".into(),
        id: None,
        message: "zfs error: cannot create 'quickOS/x': out of space".into(),
        count: 1000,
    };
    story.edit(Edit::FailTasks(fault));
    story.site.apply(lxc("late", 5, json!({})));
    tokio::time::sleep(Duration::from_secs(600)).await;
    story.site.sim.with(|state| state.task_faults.clear());
    story.settles().await;

    story.chapter("A template that is not there is waited for, then missed, then there.");
    story
        .site
        .apply(lxc("orphan", 6, json!({"source": {"templateRef": {"name": "other"}}})));
    story.until_stalled("orphan").await;
    let mut other = template("512Mi", false);
    other["metadata"]["name"] = json!("other");
    other["spec"]["lxc"]["network"] = json!([{"name": "eth0", "ip": "10.64.0.3/16", "gateway": "10.64.0.1"}]);
    story.site.apply(other);
    story.settles().await;

    story.chapter("A value that nobody can make true is put in, and taken back.");
    story.site.apply(web(json!({"rootfs": {"size": "4Gi"}})));
    story.until_reason("PhoenixLXC", "web", "ShrinkRefused").await;
    story.site.apply(web(json!({"cores": 3})));
    story.settles().await;

    story.chapter("The application's script fails until it is corrected.");
    let fault = SshFault {
        vmid: None,
        command: "start application".into(),
        action: SshAction::Exit {
            exit: 3,
            output: "no such package".into(),
        },
        count: None,
    };
    story.edit(Edit::SshFault(fault));
    story.site.apply(web(
        json!({"cores": 3, "application": {"script": "#!/bin/sh\necho new\n"}}),
    ));
    story.until_stalled("web").await;
    story.site.sim.with(|state| state.ssh.faults.clear());
    story.site.apply(web(
        json!({"cores": 3, "application": {"script": "#!/bin/sh\necho right\n"}}),
    ));
    story.settles().await;

    story.chapter("A script is cancelled, and allowed again.");
    story.site.apply(web(
        json!({"cores": 3, "application": {"script": "#!/bin/sh\necho long\n"}}),
    ));
    let runs = |site: &Site| status(site, "PhoenixLXC", "web")["application"]["state"] == "Running";
    story.site.until("it runs", runs).await;
    story.act("PhoenixLXC", "web", "cancel-script");
    story.until_reason("PhoenixLXC", "web", "ScriptCancelled").await;
    story.act("PhoenixLXC", "web", "allow-script");
    story.settles().await;

    story.chapter("A guest that is protected is deleted, then unprotected.");
    story.site.apply(lxc("late", 5, json!({"protection": true})));
    story.settles().await;
    story.site.server.delete("PhoenixLXC", "ai", "late");
    story.until_reason("PhoenixLXC", "late", "Protected").await;
    story.site.apply(lxc("late", 5, json!({"protection": false})));
    story
        .site
        .until("it is gone", |site| {
            site.server.get("PhoenixLXC", "ai", "late").is_none()
        })
        .await;
    insta::assert_snapshot!(story.told());
}

#[tokio::test(start_paused = true)]
async fn guests_are_paused_and_go_on() {
    let mut story = story("A fleet comes up.");
    let _operator = story.site.operator("one");
    story.site.apply(template("512Mi", false));
    story
        .site
        .apply(lxc("web", 1, json!({"source": {"templateRef": {"name": "base"}}})));
    story.site.apply(machine(json!({})));
    story.settles().await;
    story.chapter("Its guests are paused by Argo CD's action.");
    let guests = [
        ("PhoenixLXC", "web"),
        ("PhoenixVM", "machine"),
        ("PhoenixTemplate", "base"),
    ];
    guests.iter().for_each(|(kind, name)| story.act(kind, name, "pause"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    story.chapter("They go on.");
    guests.iter().for_each(|(kind, name)| story.act(kind, name, "resume"));
    story.settles().await;
    story.chapter("All of them are paused by their hypervisor.");
    story.act("PhoenixHypervisor", "pve", "pause");
    tokio::time::sleep(Duration::from_secs(60)).await;
    story.chapter("They go on.");
    story.act("PhoenixHypervisor", "pve", "resume");
    story.settles().await;
    insta::assert_snapshot!(story.told());
}

//! `phoenix plan` shows the steps that are carried out then, each in its place.

use std::sync::{Arc, Mutex};

use crate::engine::{IMAGE, World, lxc, template, vm, vm_template};
use phoenix::crd::ADOPT;
use phoenix::desired::{Key, Objects};
use phoenix::engine::{Point, Tripwire};
use phoenix::simulator::Edit;
use serde_json::{Value, json};

/// Notes what is done.
#[derive(Default)]
struct Recorder(Mutex<Vec<(Key, String)>>);

impl Tripwire for Recorder {
    fn trip(&self, key: &Key, point: Point, what: &str) -> bool {
        if point == Point::BeforeEffect {
            self.0.lock().unwrap().push((key.clone(), what.to_string()));
        }
        false
    }
}

struct Site {
    world: World,
    recorder: Arc<Recorder>,
}

impl Site {
    async fn new() -> Site {
        let mut world = World::with_ssh(&[]).await;
        let recorder = Arc::new(Recorder::default());
        world.replace_tripwire(recorder.clone());
        world.feature("docker", json!({"targets": ["lxc", "vm"]}));
        world.poll().await;
        Site { world, recorder }
    }

    /// Lines of the preview, which changes nothing.
    async fn preview(&self, key: &Key) -> Vec<String> {
        let before = self.world.sim().requests().iter().filter(|r| writes(r)).count();
        self.world.poll().await;
        let preview = self.world.preview(key).await;
        assert_eq!(preview.blocked, None, "{preview:#?}");
        let after = self.world.sim().requests().iter().filter(|r| writes(r)).count();
        assert_eq!(before, after, "a preview changes nothing");
        preview.steps.into_iter().map(|(action, _)| action).collect()
    }

    /// What is previewed is what is done.
    async fn agrees(&mut self, key: &Key) -> Vec<String> {
        let shown = self.preview(key).await;
        self.recorder.0.lock().unwrap().clear();
        if let Err(standing) = self.world.settle(false).await {
            panic!("{standing}\nafter {shown:#?}");
        }
        let done = self.recorder.0.lock().unwrap().clone();
        let done = done.into_iter().filter(|(of, _)| of == key).map(|(_, action)| action);
        assert_eq!(told(shown.clone()), told(done.collect()), "shown and done");
        assert_eq!(self.preview(key).await, Vec::<String>::new(), "nothing is left to do");
        shown
    }

    async fn applied(&mut self, manifest: Value) -> Vec<String> {
        let key = self.world.store.apply(manifest);
        self.agrees(&key).await
    }
}

fn writes(request: &phoenix::simulator::LoggedRequest) -> bool {
    // A ticket is fetched by POST, and so is what a machine's guest agent says.
    request.is_write() && request.path != "/access/ticket" && !request.path.contains("/agent/")
}

/// Steps without those that only record something, and without the ids of guests and volumes that are only known then.
fn told(actions: Vec<String>) -> Vec<String> {
    let records = ["record ", "note that", "note the restart", "keep ", "forget "];
    let mut told: Vec<String> = Vec::new();
    for action in actions.iter().filter(|a| !records.iter().any(|r| a.starts_with(r))) {
        let creates = action.starts_with("clone ") || (action.starts_with("create ") && !action.contains(" owner "));
        let mut words = if creates { "create".to_string() } else { action.clone() };
        for noun in ["container", "VM", "template"] {
            for vmid in 1000..1010 {
                words = words.replace(&format!("{noun} {vmid}"), "it");
            }
        }
        // A volume has its number from Proxmox, an interface its address.
        let parts = words.split([' ', ',', '"']);
        let known = parts.map(
            |part| match ["-disk-", "hwaddr=", "virtio="].iter().find(|p| part.contains(**p)) {
                Some(what) => format!("({what})"),
                None => part.to_string(),
            },
        );
        let words = known.collect::<Vec<_>>().join(" ");
        if told.last() != Some(&words) {
            told.push(words);
        }
    }
    told
}

fn starts(steps: &[String]) -> bool {
    steps.iter().any(|s| s.starts_with("start "))
}

fn rich(name: &str, more: Value) -> Value {
    let mut fields = json!({
        "source": {"image": {"volid": IMAGE}}, "gpus": [{"index": 0}], "features": [{"name": "docker"}], "tags": ["web"],
        "volumes": [
            {"name": "data", "size": "2Gi", "mountPath": "/data"},
            {"name": "cache", "size": "512Mi", "mountPath": "/cache", "reclaimPolicy": "Delete"},
        ],
        "lxcOptions": ["lxc.cgroup2.devices.allow = c 195:* rwm"],
        "firewall": {"enabled": true, "rules": [
            {"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "22"},
            {"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "80"},
        ]},
        "application": {"script": "#!/bin/sh\necho hello\n"},
        "tests": [{"name": "works", "script": "#!/bin/sh\ntrue\n"}],
    });
    for (key, value) in more.as_object().unwrap() {
        fields[key] = value.clone();
    }
    lxc(name, fields)
}

#[tokio::test(start_paused = true)]
async fn a_container_with_all_its_parts() {
    let mut site = Site::new().await;
    let steps = site.applied(rich("a", json!({}))).await;
    assert!(starts(&steps), "{steps:#?}");
    assert_eq!(
        steps
            .iter()
            .filter(|s| s.starts_with("create guest (next free id)"))
            .count(),
        1,
        "{steps:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_to_be_stopped_is_not_started() {
    let mut site = Site::new().await;
    let steps = site.applied(rich("a", json!({"powerState": "Stopped"}))).await;
    assert!(
        !starts(&steps) && steps.iter().all(|s| !s.starts_with("run ")),
        "{steps:#?}"
    );
    let steps = site.applied(rich("a", json!({}))).await;
    assert!(starts(&steps), "{steps:#?}");
    let steps = site.applied(rich("a", json!({"powerState": "Stopped"}))).await;
    assert_eq!(steps, ["shut container 1000 down"]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_container_that_runs() {
    let mut site = Site::new().await;
    site.applied(rich("a", json!({}))).await;
    let steps = site
        .applied(rich("a", json!({"cores": 3, "rootfs": {"size": "9Gi"}})))
        .await;
    assert_eq!(steps.len(), 2, "{steps:#?}");
    let nesting = json!({"cores": 3, "rootfs": {"size": "9Gi"}, "capabilities": {"nesting": true}, "volumes": [],
        "updatePolicy": {"restart": "Automatic"}});
    let steps = site.applied(rich("a", nesting)).await;
    assert!(steps.iter().any(|s| s.starts_with("restart ")), "{steps:#?}");
}

#[tokio::test(start_paused = true)]
async fn templates_and_their_clones() {
    for (i, form) in ["Snapshot", "Template"].into_iter().enumerate() {
        let mut site = Site::new().await;
        let mut base = template("base", form);
        base["spec"]["lxc"]["features"] = json!([{"name": "docker"}]);
        let steps = site.applied(base.clone()).await;
        let last = ["take snapshot", "convert it to a template"][i];
        assert!(steps.last().unwrap().starts_with(last), "{steps:#?}");
        let child = json!({"source": {"templateRef": {"name": "base"}}, "features": [{"name": "docker"}]});
        let steps = site.applied(lxc("child", child)).await;
        assert!(
            !steps.iter().any(|s| s.contains("docker")),
            "its template has it: {steps:#?}"
        );
        base["spec"]["lxc"]["tags"] = json!(["other"]);
        base["spec"]["lxc"]["application"] = json!({"script": "#!/bin/sh\ntrue\n"});
        let steps = site.applied(base).await;
        assert!(steps[0].starts_with("create guest (next free id)"), "{steps:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn earlier_revisions_that_go() {
    let mut site = Site::new().await;
    let mut base = template("base", "Template");
    base["spec"]["revisionHistoryLimit"] = json!(0);
    base["spec"]["lxc"]["protection"] = json!(false);
    site.applied(base.clone()).await;
    base["spec"]["lxc"]["application"] = json!({"script": "#!/bin/sh\ntrue\n"});
    let steps = site.applied(base).await;
    assert!(steps.last().unwrap().starts_with("remove container 1000"), "{steps:#?}");
}

#[tokio::test(start_paused = true)]
async fn guests_and_images_that_are_there() {
    let mut site = Site::new().await;
    let options = [("description", "mine"), ("unprivileged", "1"), ("cores", "1")];
    let edit = Edit::CreateGuest {
        vmid: 500,
        node: None,
        vm: false,
        options: options.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        storage: Some("quickOS-lxc-disks".into()),
    };
    site.world.sim().edit(edit).unwrap();
    let mut adopted = lxc("a", json!({}));
    adopted["spec"].as_object_mut().unwrap().remove("rootfs");
    adopted["metadata"]["annotations"] = json!({ADOPT: "500"});
    let steps = site.applied(adopted).await;
    assert_eq!(steps[0], "take over container 500");
    let (_, file) = IMAGE.split_once("vztmpl/").unwrap();
    let mut hypervisor = (*site.world.store.hypervisor("ai", "pve").unwrap()).clone();
    hypervisor.spec.defaults.as_mut().unwrap().image_storage = Some("fastData-shared-iso".into());
    site.world.store.objects.insert_hypervisor(hypervisor);
    let steps = site
        .applied(lxc("b", json!({"source": {"image": {"appliance": file}}})))
        .await;
    assert!(steps[0].starts_with("compare image "), "{steps:#?}");
}

#[tokio::test(start_paused = true)]
async fn machines() {
    let mut site = Site::new().await;
    let fields = json!({
        "features": [{"name": "docker"}], "tests": [{"name": "works", "script": "#!/bin/sh\ntrue\n"}],
        "disks": [{"name": "root", "size": "20Gi"}, {"name": "data", "size": "1536Mi"}], "efiDisk": {}, "bios": "ovmf",
        "health": {"readiness": {"exec": {"command": ["true"]}, "successThreshold": 3}},
    });
    site.applied(vm("a", fields.clone())).await;
    let mut more = fields;
    more["cpu"] = json!({"cores": 4});
    more["updatePolicy"] = json!({"restart": "Automatic"});
    more["disks"][1]["size"] = json!("2560Mi");
    let steps = site.applied(vm("a", more.clone())).await;
    assert!(
        starts(&steps) && steps.iter().any(|s| s.starts_with("restart ")),
        "{steps:#?}"
    );
    more["powerState"] = json!("Stopped");
    site.applied(vm("a", more)).await;
    site.applied(vm_template("base")).await;
    let child = json!({"source": {"templateRef": {"name": "base"}}, "disks": [{"name": "root", "size": "30Gi"}]});
    site.applied(vm("child", child)).await;
}

#[tokio::test(start_paused = true)]
async fn deletions() {
    let mut site = Site::new().await;
    let mut unprotected = template("c", "Template");
    unprotected["spec"]["lxc"]["protection"] = json!(false);
    for manifest in [
        rich("a", json!({})),
        vm("b", json!({})),
        unprotected,
        lxc(
            "d",
            json!({"source": {"image": {"volid": IMAGE}}, "deletionPolicy": "Retain"}),
        ),
    ] {
        let key = site.world.store.apply(manifest);
        site.agrees(&key).await;
        site.world.store.delete(&key);
        let shown = site.preview(&key).await;
        site.recorder.0.lock().unwrap().clear();
        site.world.settle(false).await.unwrap();
        assert!(site.world.store.guest(&key).is_none());
        let done = site
            .recorder
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, what)| what.clone())
            .collect();
        // Letting go has no effect on Proxmox.
        let let_go = shown.last().unwrap().clone();
        assert!(let_go.starts_with("let the object go"), "{shown:#?}");
        assert_eq!(told(shown[..shown.len() - 1].to_vec()), told(done), "{key}");
    }
}

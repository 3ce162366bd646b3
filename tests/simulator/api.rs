//! The simulator from outside: HTTPS, faults, locks, state file, ownership of volumes.

use std::sync::Once;
use std::time::Duration;

use phoenix::simulator::api::HttpRequest;
use phoenix::simulator::{Edit, Fault, FaultKind, Running, SimConfig, Simulator};
use serde_json::{Value, json};

fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

struct Api {
    running: Running,
    client: reqwest::Client,
    auth: String,
}

impl Api {
    async fn start() -> Self {
        install_tls();
        let config = SimConfig {
            time_scale: 1000.0,
            control_token: "control".to_owned(),
            ..SimConfig::default()
        };
        let secret = config.secrets.token.clone();
        let running = Simulator::start(config).await.unwrap();
        let ca = reqwest::Certificate::from_pem(running.certificates.ca_pem.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
        Self {
            running,
            client,
            auth: format!("PVEAPIToken=phoenix@pve!operator={secret}"),
        }
    }

    async fn send(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> Result<(u16, Value), reqwest::Error> {
        let url = format!("{}/api2/json{path}", self.running.server.base_url);
        let request = self
            .client
            .request(verb.parse().unwrap(), url)
            .header("Authorization", &self.auth);
        let request = match verb {
            "GET" | "DELETE" => request.query(form),
            _ => request.form(form),
        };
        let reply = request.send().await?;
        let status = reply.status().as_u16();
        let body = reply.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    async fn ok(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> Value {
        let (status, body) = self.send(verb, path, form).await.unwrap();
        assert_eq!(status, 200, "{verb} {path}: {body}");
        body["data"].clone()
    }

    async fn refused(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let (status, body) = self.send(verb, path, form).await.unwrap();
        assert_ne!(status, 200, "{verb} {path}");
        (
            status,
            body["message"].as_str().unwrap_or_default().trim_end().to_owned(),
        )
    }

    /// Sends, waits for the task and gives its exit status.
    async fn task(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> String {
        let upid = self.ok(verb, path, form).await.as_str().unwrap().to_owned();
        for _ in 0..500 {
            let state = self
                .ok("GET", &format!("/nodes/phoenix/tasks/{upid}/status"), &[])
                .await;
            if let Some(exit) = state["exitstatus"].as_str() {
                return exit.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{upid} does not end");
    }

    async fn create(&self, vmid: &str, more: &[(&str, &str)]) -> String {
        let image = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
        let mut form = vec![
            ("vmid", vmid),
            ("ostemplate", image),
            ("rootfs", "quickOS-lxc-disks:8"),
            ("unprivileged", "1"),
            ("features", "nesting=1"),
        ];
        form.extend(more);
        self.task("POST", "/nodes/phoenix/lxc", &form).await
    }
}

#[tokio::test]
async fn zfs_templates_and_linked_clones() {
    let api = Api::start().await;
    let lxc = "/nodes/phoenix/lxc";
    assert_eq!(api.create("900", &[("description", "stamp 900")]).await, "OK");
    assert_eq!(api.ok("POST", &format!("{lxc}/900/template"), &[]).await, Value::Null);
    for _ in 0..200 {
        if api.ok("GET", &format!("{lxc}/900/config"), &[]).await["template"] == json!(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let config = api.ok("GET", &format!("{lxc}/900/config"), &[]).await;
    assert_eq!(config["rootfs"], "quickOS-lxc-disks:basevol-900-disk-0,size=8G");
    assert_eq!(
        api.task("POST", &format!("{lxc}/900/clone"), &[("newid", "901")]).await,
        "OK"
    );
    let clone = api.ok("GET", &format!("{lxc}/901/config"), &[]).await;
    assert_eq!(
        clone["rootfs"],
        "quickOS-lxc-disks:basevol-900-disk-0/subvol-901-disk-0,size=8G"
    );
    assert_eq!(clone["description"], "stamp 900\n");
    let exit = api.task("DELETE", &format!("{lxc}/900"), &[]).await;
    assert_eq!(
        exit,
        "base volume 'basevol-900-disk-0' is still in use by linked clones"
    );
    assert_eq!(api.task("DELETE", &format!("{lxc}/901"), &[]).await, "OK");
    assert_eq!(api.task("DELETE", &format!("{lxc}/900"), &[]).await, "OK");
}

#[tokio::test]
async fn volumes_of_an_owner_outlive_their_consumers() {
    let api = Api::start().await;
    let lxc = "/nodes/phoenix/lxc";
    api.create("9999", &[]).await;
    let allocate = [("mp0", "fastData-shared-bulk-data:50,mp=/lxc/default/qwen/models")];
    api.ok("PUT", &format!("{lxc}/9999/config"), &allocate).await;
    api.ok("PUT", &format!("{lxc}/9999/config"), &[("protection", "1")])
        .await;
    let (status, text) = api.refused("DELETE", &format!("{lxc}/9999"), &[]).await;
    assert_eq!(
        (status, text.as_str()),
        (500, "can't remove CT 9999 - protection mode enabled")
    );
    let volid = "fastData-shared-bulk-data:subvol-9999-disk-0";
    let uid = |api: &Api| {
        api.running
            .simulator
            .with(|state| state.volume("phoenix", volid).map(|volume| volume.uid))
    };
    let before = uid(&api);
    assert!(before.is_some());
    let mount = format!("{volid},mp=/models");
    assert_eq!(api.create("950", &[("mp0", &mount)]).await, "OK");
    let config = api.ok("GET", &format!("{lxc}/950/config"), &[]).await;
    assert_eq!(config["mp0"], format!("{volid},mp=/models,size=50G"));
    let (_, text) = api
        .refused("PUT", &format!("{lxc}/950/resize"), &[("disk", "mp0"), ("size", "+1G")])
        .await;
    assert_eq!(text, "can't resize mount point owned by another container (9999)");
    let everything = [("purge", "1"), ("force", "1"), ("destroy-unreferenced-disks", "1")];
    assert_eq!(api.task("DELETE", &format!("{lxc}/950"), &everything).await, "OK");
    assert_eq!(uid(&api), before, "the volume of the owner is still the same one");
}

#[tokio::test]
async fn lost_responses_have_had_their_effect() {
    let api = Api::start().await;
    let fault = |kind| Fault {
        method: Some("POST".into()),
        path: Some("/pools".into()),
        skip: 0,
        count: 1,
        kind,
    };
    api.running.simulator.add_fault(fault(FaultKind::LostRequest));
    assert!(api.send("POST", "/pools", &[("poolid", "phoenix/one")]).await.is_err());
    assert!(
        !api.running
            .simulator
            .with(|state| state.pools.contains_key("phoenix/one"))
    );
    api.running.simulator.add_fault(fault(FaultKind::LostResponse));
    assert!(api.send("POST", "/pools", &[("poolid", "phoenix/one")]).await.is_err());
    assert!(
        api.running
            .simulator
            .with(|state| state.pools.contains_key("phoenix/one"))
    );
    api.running.simulator.add_fault(fault(FaultKind::Status {
        status: 596,
        message: "Broken pipe".into(),
    }));
    assert_eq!(
        api.send("POST", "/pools", &[("poolid", "phoenix/two")])
            .await
            .unwrap()
            .0,
        596
    );
    assert_eq!(
        api.send("POST", "/pools", &[("poolid", "phoenix/two")])
            .await
            .unwrap()
            .0,
        200
    );
    let log = api.running.simulator.requests();
    let writes: Vec<u16> = log
        .iter()
        .filter(|request| request.is_write())
        .map(|request| request.status)
        .collect();
    assert_eq!(writes, [0, 200, 596, 200]);
}

#[tokio::test]
async fn faults_and_edits_can_be_ordered_by_http() {
    let api = Api::start().await;
    let url = |name: &str| format!("{}/_sim/{name}", api.running.server.base_url);
    let refused = api.client.get(url("requests")).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let edit = json!({ "op": "create-guest", "vmid": 321, "options": { "hostname": "stranger" } });
    let reply = api
        .client
        .post(url("edits"))
        .bearer_auth("control")
        .json(&edit)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 200);
    let config = api.ok("GET", "/nodes/phoenix/lxc/321/config", &[]).await;
    assert_eq!(config["hostname"], "stranger");
    let fault = json!({ "kind": "status", "status": 503, "path": "/version" });
    api.client
        .post(url("faults"))
        .bearer_auth("control")
        .json(&fault)
        .send()
        .await
        .unwrap();
    assert_eq!(api.send("GET", "/version", &[]).await.unwrap().0, 503);
    assert_eq!(api.send("GET", "/version", &[]).await.unwrap().0, 200);
    let log: Value = api
        .client
        .get(url("requests"))
        .bearer_auth("control")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(
        log.as_array()
            .unwrap()
            .iter()
            .any(|row| row["path"] == "/version" && row["status"] == 503)
    );
}

#[tokio::test]
async fn a_lost_node_leaves_its_locks() {
    let api = Api::start().await;
    let simulator = &api.running.simulator;
    simulator.with(|state| state.time_scale = 0.001);
    let image = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
    let form = [
        ("vmid", "200"),
        ("ostemplate", image),
        ("rootfs", "quickOS-lxc-disks:8"),
    ];
    let upid = api.ok("POST", "/nodes/phoenix/lxc", &form).await;
    let upid = upid.as_str().unwrap();
    simulator
        .edit(Edit::NodeCrash {
            node: "phoenix".to_owned(),
        })
        .unwrap();
    let state = api.ok("GET", &format!("/nodes/phoenix/tasks/{upid}/status"), &[]).await;
    assert_eq!(state["exitstatus"], "unexpected status");
    let config = api.ok("GET", "/nodes/phoenix/lxc/200/config", &[]).await;
    assert_eq!(config["lock"], "create");
    let (_, text) = api.refused("DELETE", "/nodes/phoenix/lxc/200", &[]).await;
    assert_eq!(text, "CT is locked (create)");
    simulator
        .edit(Edit::NodeOnline {
            node: "phoenix".to_owned(),
            online: false,
        })
        .unwrap();
    assert_eq!(
        api.send("GET", "/nodes/phoenix/lxc/200/config", &[]).await.unwrap().0,
        595
    );
}

#[tokio::test]
async fn running_containers_take_some_changes_at_once_and_others_later() {
    let api = Api::start().await;
    let path = "/nodes/phoenix/lxc/300";
    api.create("300", &[("net0", "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01")])
        .await;
    assert_eq!(api.task("POST", &format!("{path}/status/start"), &[]).await, "OK");
    let both = [("cores", "4"), ("nameserver", "10.0.0.1")];
    api.ok("PUT", &format!("{path}/config"), &both).await;
    let current = api.ok("GET", &format!("{path}/config"), &[("current", "1")]).await;
    assert_eq!((&current["cores"], &current["nameserver"]), (&json!(4), &Value::Null));
    let pending = api.ok("GET", &format!("{path}/pending"), &[]).await;
    let row = pending
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["key"] == "nameserver")
        .unwrap()
        .clone();
    assert_eq!(row, json!({ "key": "nameserver", "pending": "10.0.0.1" }));
    let (status, body) = api
        .send(
            "PUT",
            &format!("{path}/config"),
            &[("memory", "1024"), ("net1", "name=eth1,bridge=none")],
        )
        .await
        .unwrap();
    assert_eq!(status, 400);
    assert_eq!(
        body["errors"]["net1"],
        "unable to hotplug net1: bridge 'none' does not exist\n"
    );
    let current = api.ok("GET", &format!("{path}/config"), &[]).await;
    assert_eq!(current["memory"], 512, "nothing of a refused change is kept");
    assert_eq!(api.task("POST", &format!("{path}/status/reboot"), &[]).await, "OK");
    let current = api.ok("GET", &format!("{path}/config"), &[("current", "1")]).await;
    assert_eq!(current["nameserver"], "10.0.0.1");
}

#[tokio::test]
async fn state_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = || SimConfig {
        state_file: Some(folder.path().join("state.json")),
        ..SimConfig::default()
    };
    let first = Simulator::new(config()).unwrap();
    first
        .edit(Edit::CreateGuest {
            vmid: 700,
            node: None,
            vm: false,
            options: [].into(),
            storage: None,
        })
        .unwrap();
    let digest = first.with(|state| state.guests[&700].digest());
    drop(first);
    let second = Simulator::new(config()).unwrap();
    assert_eq!(second.with(|state| state.guests[&700].digest()), digest);
}

/// A look-alike whose time stands still.
fn frozen() -> (Simulator, String) {
    let config = SimConfig {
        manual_clock: Some(1_800_000_000_000),
        ..SimConfig::default()
    };
    let auth = format!("PVEAPIToken=phoenix@pve!operator={}", config.secrets.token);
    (Simulator::new(config).unwrap(), auth)
}

async fn call(simulator: &Simulator, auth: &str, verb: &str, path: &str, form: &str) -> (u16, Value) {
    let (query, body) = if verb == "GET" { (form, "") } else { ("", form) };
    let request = HttpRequest {
        method: verb.to_owned(),
        path: format!("/api2/json{path}"),
        query: query.to_owned(),
        authorization: Some(auth.to_owned()),
        body: body.as_bytes().to_vec(),
        ..HttpRequest::default()
    };
    let reply = simulator.handle(&request).await;
    (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_create_shows_only_its_lock_and_holds_the_file() {
    let (simulator, auth) = frozen();
    let form = "vmid=100&hostname=box&description=stamp&tags=a&rootfs=quickOS-lxc-disks:8\
        &ostemplate=fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
    let (status, body) = call(&simulator, &auth, "POST", "/nodes/phoenix/lxc", form).await;
    assert_eq!(status, 200, "{body}");
    let row = |body: &Value| body["data"][0].clone();
    let (_, body) = call(&simulator, &auth, "GET", "/cluster/resources", "type=vm").await;
    assert_eq!(
        (&row(&body)["status"], &row(&body)["lock"]),
        (&json!("unknown"), &json!("create"))
    );
    assert_eq!((&row(&body)["name"], &row(&body)["tags"]), (&Value::Null, &Value::Null));
    let (_, body) = call(&simulator, &auth, "GET", "/nodes/phoenix/lxc/100/config", "").await;
    let keys: Vec<&String> = body["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["lock", "digest"]);
    let before = simulator.clock().now();
    let (status, body) = call(&simulator, &auth, "PUT", "/nodes/phoenix/lxc/100/config", "memory=64").await;
    assert_eq!(status, 500);
    assert_eq!(
        body["message"],
        "can't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout\n"
    );
    assert!(
        simulator.clock().now() >= before + 10_000,
        "the call waits for the lock"
    );
    let (status, _) = call(&simulator, &auth, "GET", "/cluster/nextid", "vmid=100").await;
    assert_eq!(status, 400);
    simulator.advance(60_000);
    let (_, body) = call(&simulator, &auth, "GET", "/cluster/resources", "type=vm").await;
    assert_eq!(
        (&row(&body)["status"], &row(&body)["name"]),
        (&json!("stopped"), &json!("box"))
    );
    call(
        &simulator,
        &auth,
        "PUT",
        "/nodes/phoenix/lxc/100/config",
        "hostname=other&tags=b",
    )
    .await;
    let (_, body) = call(&simulator, &auth, "GET", "/cluster/resources", "type=vm").await;
    assert_eq!(
        (&row(&body)["name"], &row(&body)["tags"]),
        (&json!("box"), &json!("b")),
        "names lag, tags do not"
    );
}

#[tokio::test]
async fn a_stopped_create_leaves_nothing() {
    let (simulator, auth) = frozen();
    let form = "vmid=100&rootfs=quickOS-lxc-disks:8\
        &ostemplate=fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
    let (_, body) = call(&simulator, &auth, "POST", "/nodes/phoenix/lxc", form).await;
    let path = format!("/nodes/phoenix/tasks/{}", body["data"].as_str().unwrap());
    let volumes = || simulator.with(|state| state.storages["quickOS-lxc-disks"].on("phoenix").count());
    assert_eq!(volumes(), 1);
    let (status, _) = call(&simulator, &auth, "DELETE", &path, "").await;
    assert_eq!(status, 200);
    assert_eq!(volumes(), 0);
    let (status, body) = call(&simulator, &auth, "GET", "/nodes/phoenix/lxc/100/config", "").await;
    assert_eq!(
        (status, &body["message"]),
        (
            500,
            &json!("Configuration file 'nodes/phoenix/lxc/100.conf' does not exist\n")
        )
    );
}

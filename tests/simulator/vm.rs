//! Virtual machines of the simulator, as far as the recorded answers do not cover them: cloud images and the guest
//! agent, linked clones on ZFS, migration, devices, faults from outside, files on nodes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use phoenix::simulator::api::HttpRequest;
use phoenix::simulator::model::access::AclEntry;
use phoenix::simulator::model::download::RemoteFile;
use phoenix::simulator::model::{AgentAction, AgentFault};
use phoenix::simulator::ssh::commands::serve;
use phoenix::simulator::ssh::{Reply, Request};
use phoenix::simulator::{Edit, Profile, SimConfig, Simulator};
use serde_json::{Value, json};

const DISKS: &str = "quickOS-vm-disks";
const IMAGE: &str = "local:import/debian-12-cloud.qcow2";

/// A simulator whose time stands still, and a caller who may do everything but is not the true root.
struct Sim {
    simulator: Simulator,
    auth: String,
}

impl Sim {
    fn new() -> Self {
        Self::of_version(None)
    }

    fn of_version(version: Option<&str>) -> Self {
        let config = SimConfig {
            manual_clock: Some(1_800_000_000_000),
            version: version.map(str::to_owned),
            control_token: "control".to_owned(),
            ..SimConfig::default()
        };
        let auth = format!("PVEAPIToken=phoenix@pve!operator={}", config.secrets.token);
        let simulator = Simulator::new(config).unwrap();
        let sim = Self { simulator, auth };
        sim.grant("Administrator");
        sim
    }

    /// Replaces all rules by one for the caller.
    fn grant(&self, role: &str) {
        let rule = AclEntry {
            path: "/".to_owned(),
            kind: "user".to_owned(),
            who: "phoenix@pve".to_owned(),
            role: role.to_owned(),
            propagate: true,
        };
        self.simulator.with(|state| state.access.acl = [rule].into());
    }

    async fn request(&self, verb: &str, path: &str, form: &[(&str, &str)], auth: &str) -> (u16, Value) {
        let text = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let writes = matches!(verb, "POST" | "PUT");
        let request = HttpRequest {
            method: verb.to_owned(),
            path: path.to_owned(),
            query: if writes { String::new() } else { text.clone() },
            authorization: Some(auth.to_owned()),
            body: if writes { text.into_bytes() } else { Vec::new() },
            ..HttpRequest::default()
        };
        let reply = self.simulator.handle(&request).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    async fn send(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let path = format!("/api2/json/nodes/phoenix{path}");
        self.request(verb, &path, form, &self.auth).await
    }

    async fn ok(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> Value {
        let (status, body) = self.send(verb, path, form).await;
        assert_eq!(status, 200, "{verb} {path} {form:?}: {body}");
        body["data"].clone()
    }

    async fn refused(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let (status, body) = self.send(verb, path, form).await;
        assert_ne!(status, 200, "{verb} {path} {form:?}: {body}");
        let text = body["message"].as_str().unwrap_or_default();
        (status, text.trim_end().to_owned())
    }

    /// Lets time pass until a task has ended; its exit status.
    fn wait(&self, upid: &str) -> String {
        for _ in 0..10_000 {
            let exit = self
                .simulator
                .with(|state| state.task(upid).and_then(|task| task.exitstatus.clone()));
            if let Some(exit) = exit {
                return exit;
            }
            self.simulator.advance(100);
        }
        panic!("{upid} does not end");
    }

    async fn task(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> String {
        let upid = self.ok(verb, path, form).await;
        self.wait(upid.as_str().unwrap())
    }

    /// A machine with one new disk on ZFS and the agent switched on.
    async fn machine(&self, vmid: &str, more: &[(&str, &str)]) {
        let disk = format!("{DISKS}:4");
        let mut form = vec![
            ("vmid", vmid),
            ("name", "box"),
            ("memory", "1024"),
            ("scsi0", disk.as_str()),
            ("net0", "virtio,bridge=vmbr0"),
            ("agent", "1"),
        ];
        form.retain(|(key, _)| !more.iter().any(|(other, _)| key == other));
        form.extend(more);
        assert_eq!(self.task("POST", "/qemu", &form).await, "OK");
    }

    async fn config(&self, vmid: u32) -> Value {
        self.ok("GET", &format!("/qemu/{vmid}/config"), &[]).await
    }

    /// Runs a command through the agent and waits for its end.
    async fn exec(&self, vmid: u32, command: &[&str], input: &str) -> Value {
        let mut form: Vec<(&str, &str)> = command.iter().map(|word| ("command", *word)).collect();
        if !input.is_empty() {
            form.push(("input-data", input));
        }
        let pid = self.ok("POST", &format!("/qemu/{vmid}/agent/exec"), &form).await["pid"].to_string();
        for _ in 0..10_000 {
            let status = self
                .ok("GET", &format!("/qemu/{vmid}/agent/exec-status"), &[("pid", &pid)])
                .await;
            if status["exited"] == 1 {
                return status;
            }
            self.simulator.advance(100);
        }
        panic!("{pid} does not end");
    }

    fn agent_fault(&self, command: &str, action: AgentAction, count: Option<u32>) {
        let fault = AgentFault {
            vmid: None,
            command: command.to_owned(),
            action,
            count,
        };
        self.simulator.edit(Edit::AgentFault(fault)).unwrap();
    }

    /// A command on the node, as root.
    fn node(&self, line: &str, stdin: &str) -> Reply {
        let request = Request {
            user: "root".to_owned(),
            node: Some("phoenix".to_owned()),
            line: line.to_owned(),
            stdin: stdin.as_bytes().to_vec(),
        };
        self.simulator.with(|state| serve(state, &request).0)
    }

    /// Downloads a cloud image: 500 MiB with a disk of 3 GiB, without a guest agent.
    async fn download(&self) {
        let url = "https://images.example.test/debian-12-cloud.qcow2";
        let file = RemoteFile {
            size: 500 << 20,
            virtual_size: Some(3 << 30),
            sums: [("sha256".to_owned(), "aa".to_owned())].into(),
            os: None,
            oci: None,
        };
        let edit = Edit::RemoteFile {
            url: url.to_owned(),
            file,
        };
        self.simulator.edit(edit).unwrap();
        let form = [
            ("url", url),
            ("filename", "debian-12-cloud.qcow2"),
            ("content", "import"),
            ("checksum", "aa"),
            ("checksum-algorithm", "sha256"),
        ];
        assert_eq!(self.task("POST", "/storage/local/download-url", &form).await, "OK");
        assert_eq!(self.task("POST", "/storage/local/download-url", &form).await, "OK");
    }
}

/// A program that starts a script, as a client pipes it into a shell.
fn start_program(id: &str, script: &str) -> String {
    let path = format!("/run/phoenix/{id}/script");
    format!(
        "# phoenix-runner: start id={id} hash=h1 attempt=1 script={}\nphoenix_put '{path}' 0700 \
         <<'PHOENIX_END'\n{}\nPHOENIX_END\n",
        BASE64.encode(&path),
        BASE64.encode(script)
    )
}

#[tokio::test]
async fn a_cloud_image_boots_and_gets_its_agent_from_cloud_init() {
    let sim = Sim::new();
    sim.download().await;
    let vendor = json!({
        "packages": ["qemu-guest-agent"],
        "write_files": [
            {"path": "/var/lib/x/run", "content": "#!/bin/sh\nfor p in \"${0%/*}\"/*.sh; do sh \"$p\"; done\n"},
            {"path": "/var/lib/x/01.sh", "content": start_program("first", "# simulate: seconds=7\ntrue\n")},
            {"path": "/var/lib/x/02.sh", "content": start_program("second", "exit 3\n")},
        ],
        "runcmd": [["sh", "/var/lib/x/run"]],
    });
    let text = format!("#cloud-config\n{vendor}\n");
    let put =
        "umask 077 && cat > /var/lib/vz/snippets/.new && mv -f /var/lib/vz/snippets/.new /var/lib/vz/snippets/v.yaml";
    let reply = sim.node(put, &text);
    assert_eq!((reply.exit, reply.stderr.as_str()), (0, ""));
    let import = format!("{DISKS}:0,import-from={IMAGE},discard=on");
    let drive = format!("{DISKS}:cloudinit");
    let more = [
        ("scsi0", import.as_str()),
        ("ide2", drive.as_str()),
        ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1"),
        ("cicustom", "vendor=local:snippets/v.yaml"),
        ("ciuser", "me"),
        ("cipassword", "$5$x$y"),
    ];
    sim.machine("100", &more).await;
    let config = sim.config(100).await;
    assert_eq!(config["scsi0"], format!("{DISKS}:vm-100-disk-0,discard=on,size=3G"));
    assert_eq!(config["ide2"], format!("{DISKS}:vm-100-cloudinit,media=cdrom"));
    assert_eq!(config["boot"], "order=scsi0;ide2;net0");
    assert_eq!(config["cipassword"], "**********");
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"));
    let resize = [("disk", "scsi0"), ("size", "10G")];
    assert_eq!(sim.task("PUT", "/qemu/100/resize", &resize).await, "OK");
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    let silent = (500, "QEMU guest agent is not running".to_owned());
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    sim.simulator.advance(20_000);
    // The system is up, but the agent's package is not there yet.
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    sim.simulator.advance(25_000);
    assert_eq!(sim.ok("POST", "/qemu/100/agent/ping", &[]).await, json!({"result": {}}));
    // Its scripts run for a while yet.
    let result = BASE64.encode("[ -e /run/cloud-init/result.json ]");
    let probe = format!("# phoenix-runner: probe seconds=10 command={result}\n");
    let early = sim.exec(100, &["/bin/sh", "-s"], &probe).await;
    assert!(early["out-data"].as_str().unwrap().starts_with("exit=1\n"), "{early}");
    let waited = sim.exec(100, &["cloud-init", "status", "--wait"], "").await;
    let late = sim.exec(100, &["/bin/sh", "-s"], &probe).await;
    assert!(late["out-data"].as_str().unwrap().starts_with("exit=0\n"), "{late}");
    assert_eq!(
        (&waited["exitcode"], &waited["out-data"]),
        (&json!(1), &json!("status: error\n"))
    );
    let poll = |id: &str| format!("# phoenix-runner: poll id={id} hash=*\n");
    let first = sim.exec(100, &["/bin/sh", "-s"], &poll("first")).await;
    assert!(first["out-data"].as_str().unwrap().contains("exit=0"), "{first}");
    let second = sim.exec(100, &["/bin/sh", "-s"], &poll("second")).await;
    assert!(second["out-data"].as_str().unwrap().contains("exit=3"), "{second}");
    let told = sim.ok("GET", "/qemu/100/agent/network-get-interfaces", &[]).await;
    assert_eq!(told["result"][1]["ip-addresses"][0]["ip-address"], "10.0.0.5");
    assert_eq!(told["result"][1]["ip-addresses"][0]["ip-address-type"], "ipv4");
}

#[tokio::test]
async fn cloud_init_runs_once_for_each_instance() {
    let sim = Sim::new();
    let drive = format!("{DISKS}:cloudinit");
    sim.machine("100", &[("ide2", drive.as_str()), ("ciuser", "me"), ("name", "one")])
        .await;
    let meta = sim.ok("GET", "/qemu/100/cloudinit/dump", &[("type", "meta")]).await;
    let user = sim.ok("GET", "/qemu/100/cloudinit/dump", &[("type", "user")]).await;
    assert!(user.as_str().unwrap().contains("hostname: one\n"), "{user}");
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    // A running machine takes the option at once, but its drive keeps what it had.
    sim.ok(
        "PUT",
        "/qemu/100/config",
        &[("ciuser", "you"), ("cipassword", "secret")],
    )
    .await;
    let rows = sim.ok("GET", "/qemu/100/cloudinit", &[]).await;
    let row = |key: &str| rows.as_array().unwrap().iter().find(|row| row["key"] == key).cloned();
    assert_eq!(
        row("ciuser"),
        Some(json!({"key": "ciuser", "value": "me", "pending": "you"}))
    );
    // Proxmox does not tell that a password changed.
    assert_eq!(
        row("cipassword"),
        Some(json!({"key": "cipassword", "value": "**********"}))
    );
    assert_ne!(
        sim.ok("GET", "/qemu/100/cloudinit/dump", &[("type", "meta")]).await,
        meta
    );
    sim.ok("PUT", "/qemu/100/cloudinit", &[]).await;
    let rows = sim.ok("GET", "/qemu/100/cloudinit", &[]).await;
    assert!(
        rows.as_array().unwrap().iter().all(|row| row.get("pending").is_none()),
        "{rows}"
    );
    let stored = sim
        .simulator
        .with(|state| state.guests[&100].config().current.get("cipassword").map(str::to_owned));
    assert!(stored.unwrap().starts_with("$5$"));
}

#[tokio::test]
async fn linked_clones_on_zfs_hang_on_their_template() {
    let sim = Sim::new();
    let drive = format!("{DISKS}:cloudinit");
    sim.machine(
        "9000",
        &[("ide2", drive.as_str()), ("description", "stamp"), ("tags", "Gold")],
    )
    .await;
    let not_yet = sim
        .refused("POST", "/qemu/9000/clone", &[("newid", "101"), ("full", "0")])
        .await;
    assert_eq!(
        not_yet.1,
        format!("Linked clone feature is not supported for '{DISKS}:vm-9000-disk-0' (scsi0)")
    );
    assert_eq!(sim.task("POST", "/qemu/9000/template", &[]).await, "OK");
    let template = sim.config(9000).await;
    assert_eq!(template["scsi0"], format!("{DISKS}:base-9000-disk-0,size=4G"));
    // Two at once: the source is not locked.
    let first = sim
        .ok("POST", "/qemu/9000/clone", &[("newid", "101"), ("name", "one")])
        .await;
    let second = sim.ok("POST", "/qemu/9000/clone", &[("newid", "102")]).await;
    assert_eq!(sim.config(101).await["lock"], "clone");
    assert_eq!(sim.wait(first.as_str().unwrap()), "OK");
    assert_eq!(sim.wait(second.as_str().unwrap()), "OK");
    let clone = sim.config(101).await;
    assert_eq!(
        clone["scsi0"],
        format!("{DISKS}:base-9000-disk-0/vm-101-disk-0,size=4G")
    );
    assert_eq!(clone["ide2"], format!("{DISKS}:vm-101-cloudinit,media=cdrom,size=4M"));
    assert_eq!((&clone["name"], &clone["tags"]), (&json!("one"), &json!("gold")));
    assert_eq!(clone["description"], "stamp");
    assert_eq!(sim.config(102).await["name"], "Copy-of-VM-box");
    for key in ["net0", "smbios1", "vmgenid"] {
        assert_ne!(clone[key], template[key], "{key}");
    }
    assert!(clone.get("template").is_none());
    let taken = sim.refused("POST", "/qemu/9000/clone", &[("newid", "101")]).await.1;
    assert_eq!(taken, "unable to create VM 101: config file already exists");
    let used = format!("base volume '{DISKS}:base-9000-disk-0' is still in use by linked cloned");
    assert_eq!(sim.task("DELETE", "/qemu/9000", &[]).await, used);
    for vmid in ["101", "102", "9000"] {
        assert_eq!(sim.task("DELETE", &format!("/qemu/{vmid}"), &[]).await, "OK");
    }
    let left = sim.ok("GET", &format!("/storage/{DISKS}/content"), &[]).await;
    assert_eq!(left, json!([]));
}

#[tokio::test]
async fn snapshots_on_zfs_go_back_to_the_newest_only_and_are_not_copied_from() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    sim.simulator.advance(20_000);
    let with_memory = [("snapname", "s1"), ("vmstate", "1")];
    assert_eq!(sim.task("POST", "/qemu/100/snapshot", &with_memory).await, "OK");
    assert_eq!(
        sim.task("POST", "/qemu/100/snapshot", &[("snapname", "s2")]).await,
        "OK"
    );
    let old = sim.task("POST", "/qemu/100/snapshot/s1/rollback", &[]).await;
    assert_eq!(
        old,
        format!("can't rollback, 's1' is not most recent snapshot on '{DISKS}:vm-100-disk-0'")
    );
    let copy = sim
        .refused("POST", "/qemu/100/clone", &[("newid", "101"), ("snapname", "s1")])
        .await;
    assert_eq!(
        copy.1,
        format!("Full clone feature is not supported for a snapshot of '{DISKS}:vm-100-disk-0' (scsi0)")
    );
    assert_eq!(sim.task("DELETE", "/qemu/100/snapshot/s2", &[]).await, "OK");
    assert_eq!(sim.task("POST", "/qemu/100/status/stop", &[]).await, "OK");
    assert_eq!(sim.task("POST", "/qemu/100/snapshot/s1/rollback", &[]).await, "OK");
    // The memory came back too: it runs, and its agent answers.
    sim.ok("POST", "/qemu/100/agent/ping", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/stop", &[]).await, "OK");
    assert_eq!(sim.task("DELETE", "/qemu/100/snapshot/s1", &[]).await, "OK");
    let left = sim.ok("GET", &format!("/storage/{DISKS}/content"), &[]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
}

#[tokio::test]
async fn a_machine_moves_to_another_node() {
    let sim = Sim::new();
    sim.simulator.with(|state| {
        let other = state.nodes["phoenix"].clone();
        state.nodes.insert("second".to_owned(), other);
    });
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    let path = "/qemu/100/migrate";
    let (_, text) = sim.refused("POST", path, &[("target", "second")]).await;
    assert_eq!(text, "can't migrate running VM without --online");
    let online = [("target", "second"), ("online", "1")];
    let exit = sim.task("POST", path, &online).await;
    assert_eq!(
        exit,
        "migration aborted - can't live migrate attached local disks without with-local-disks option"
    );
    let all = [("target", "second"), ("online", "1"), ("with-local-disks", "1")];
    let upid = sim.ok("POST", path, &all).await;
    assert_eq!(sim.config(100).await["lock"], "migrate");
    assert_eq!(sim.wait(upid.as_str().unwrap()), "OK");
    let (_, gone) = sim.refused("GET", "/qemu/100/config", &[]).await;
    assert_eq!(
        gone,
        "Configuration file 'nodes/phoenix/qemu-server/100.conf' does not exist"
    );
    let there = "/api2/json/nodes/second/qemu/100/status/current";
    let (status, body) = sim.request("GET", there, &[], &sim.auth).await;
    assert_eq!((status, &body["data"]["status"]), (200, &json!("running")), "{body}");
    let content = format!("/api2/json/nodes/second/storage/{DISKS}/content");
    let (_, body) = sim.request("GET", &content, &[], &sim.auth).await;
    assert_eq!(body["data"][0]["volid"], format!("{DISKS}:vm-100-disk-0"));
}

#[tokio::test]
async fn agents_fail_as_ordered() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    sim.agent_fault("", AgentAction::Silent, Some(1));
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    sim.simulator.advance(20_000);
    let silent = (500, "QEMU guest agent is not running".to_owned());
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    sim.ok("POST", "/qemu/100/agent/ping", &[]).await;

    let exit = AgentAction::Exit {
        exit: 4,
        output: "no".to_owned(),
    };
    sim.agent_fault("exec true", exit, Some(1));
    let failed = sim.exec(100, &["true"], "").await;
    assert_eq!((&failed["exitcode"], &failed["out-data"]), (&json!(4), &json!("no")));
    sim.agent_fault("exec", AgentAction::Signal { signal: 9 }, Some(1));
    let killed = sim.exec(100, &["true"], "").await;
    assert_eq!((&killed["signal"], killed.get("exitcode")), (&json!(9), None));
    sim.agent_fault("exec hostname", AgentAction::Truncate { bytes: 2 }, Some(1));
    let cut = sim.exec(100, &["hostname"], "").await;
    assert_eq!((&cut["out-data"], &cut["out-truncated"]), (&json!("bo"), &json!(1)));
    sim.agent_fault("exec hostname", AgentAction::Timeout, Some(1));
    let (_, text) = sim
        .refused("POST", "/qemu/100/agent/exec", &[("command", "hostname")])
        .await;
    assert_eq!(text, "VM 100 qmp command 'guest-exec' failed - got timeout");
    let (_, text) = sim
        .refused("POST", "/qemu/100/agent/exec", &[("command", "/nope")])
        .await;
    assert!(text.starts_with("Agent error: Guest agent command failed"), "{text}");

    let boom = AgentAction::Exit {
        exit: 7,
        output: "boom".to_owned(),
    };
    sim.agent_fault("exec start feature-x", boom, Some(1));
    sim.exec(100, &["/bin/sh", "-s"], &start_program("feature-x", "true\n"))
        .await;
    sim.simulator.advance(30_000);
    let poll = "# phoenix-runner: poll id=feature-x hash=h1\n";
    let ended = sim.exec(100, &["/bin/sh", "-s"], poll).await;
    assert!(ended["out-data"].as_str().unwrap().contains("exit=7"), "{ended}");

    sim.agent_fault("file-write", AgentAction::Dies, Some(1));
    let write = [("file", "/etc/x"), ("content", "y")];
    assert_eq!(sim.refused("POST", "/qemu/100/agent/file-write", &write).await, silent);
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    assert_eq!(sim.task("POST", "/qemu/100/status/reboot", &[]).await, "OK");
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    sim.simulator.advance(20_000);
    sim.ok("POST", "/qemu/100/agent/file-write", &write).await;
    let read = sim.ok("GET", "/qemu/100/agent/file-read", &[("file", "/etc/x")]).await;
    assert_eq!(read["content"], "y");

    sim.simulator
        .edit(Edit::Agent {
            vmid: 100,
            alive: false,
        })
        .unwrap();
    assert_eq!(sim.refused("POST", "/qemu/100/agent/ping", &[]).await, silent);
    sim.simulator.edit(Edit::Agent { vmid: 100, alive: true }).unwrap();
    sim.ok("POST", "/qemu/100/agent/fsfreeze-freeze", &[]).await;
    let (_, text) = sim.refused("GET", "/qemu/100/agent/get-osinfo", &[]).await;
    assert!(text.contains("frozen"), "{text}");
    sim.ok("POST", "/qemu/100/agent/fsfreeze-thaw", &[]).await;
    sim.ok("GET", "/qemu/100/agent/get-osinfo", &[]).await;
}

#[tokio::test]
async fn agent_faults_can_be_ordered_by_http_and_dropped() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    sim.simulator.advance(20_000);
    let order = json!({"op": "agent-fault", "vmid": 100, "command": "ping", "action": {"refuse": {"message": "busy"}}});
    let control = |verb: &str, path: &str, body: String| HttpRequest {
        method: verb.to_owned(),
        path: path.to_owned(),
        authorization: Some("Bearer control".to_owned()),
        body: body.into_bytes(),
        ..HttpRequest::default()
    };
    let reply = sim
        .simulator
        .handle_control(&control("POST", "/_sim/edits", order.to_string()));
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    for _ in 0..3 {
        let (_, text) = sim.refused("POST", "/qemu/100/agent/ping", &[]).await;
        assert_eq!(text, "Agent error: busy");
    }
    sim.simulator
        .handle_control(&control("DELETE", "/_sim/faults", String::new()));
    sim.ok("POST", "/qemu/100/agent/ping", &[]).await;
}

#[tokio::test]
async fn what_a_running_machine_does_not_take_waits() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    let disk = format!("{DISKS}:1");
    let form = [
        ("cores", "4"),
        ("onboot", "1"),
        ("scsi1", disk.as_str()),
        ("memory", "2048"),
    ];
    let upid = sim.ok("POST", "/qemu/100/config", &form).await;
    assert_eq!(sim.wait(upid.as_str().unwrap()), "OK");
    let rows = sim.ok("GET", "/qemu/100/pending", &[]).await;
    let waiting: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row.get("pending").is_some())
        .map(|row| row["key"].as_str().unwrap())
        .collect();
    assert_eq!(waiting, ["memory", "cores"]);
    assert_eq!(
        sim.ok("GET", "/qemu/100/config", &[("current", "1")]).await["scsi1"],
        format!("{DISKS}:vm-100-disk-1,size=1G")
    );
    // A problem with one option is told, the value waits, all else is written.
    let bad = [("net1", "virtio,bridge=nobr"), ("description", "d")];
    let (status, body) = sim.send("PUT", "/qemu/100/config", &bad).await;
    assert_eq!(status, 400);
    assert_eq!(
        body["errors"]["net1"],
        "hotplug problem - bridge 'nobr' does not exist\n"
    );
    assert_eq!(sim.config(100).await["description"], "d");
    sim.ok("PUT", "/qemu/100/config", &[("revert", "net1")]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/reboot", &[]).await, "OK");
    let current = sim.ok("GET", "/qemu/100/config", &[("current", "1")]).await;
    assert_eq!((&current["cores"], &current["memory"]), (&json!(4), &json!("2048")));
    let (_, text) = sim.refused("DELETE", "/qemu/100", &[]).await;
    assert_eq!(text, "VM 100 is running - destroy failed");
    // The outcome is the answer when the task ends in time.
    let soon = [("cores", "2"), ("background_delay", "5")];
    assert_eq!(sim.ok("POST", "/qemu/100/config", &soon).await, Value::Null);
}

#[tokio::test]
async fn shutting_down_pausing_and_saving() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/stop", &[]).await, "OK");
    let (_, text) = sim.refused("POST", "/qemu/100/status/reset", &[]).await;
    assert_eq!(text, "VM 100 not running");
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    assert_eq!(
        sim.task("POST", "/qemu/100/status/start", &[]).await,
        "VM 100 already running"
    );
    assert_eq!(sim.task("POST", "/qemu/100/status/suspend", &[]).await, "OK");
    let now = sim.ok("GET", "/qemu/100/status/current", &[]).await;
    assert_eq!(
        (&now["status"], &now["qmpstatus"]),
        (&json!("running"), &json!("paused"))
    );
    let (_, text) = sim.refused("POST", "/qemu/100/status/shutdown", &[]).await;
    assert_eq!(text, "VM is paused - cannot shutdown");
    assert_eq!(sim.task("POST", "/qemu/100/status/resume", &[]).await, "OK");
    let deaf = Edit::Fact {
        vmid: 100,
        key: "ignore-shutdown".to_owned(),
        value: "1".to_owned(),
    };
    sim.simulator.edit(deaf).unwrap();
    let exit = sim.task("POST", "/qemu/100/status/shutdown", &[("timeout", "5")]).await;
    assert_eq!(exit, "VM quit/powerdown failed - got timeout");
    // Meanwhile the file of the configuration is held.
    sim.ok("POST", "/qemu/100/status/shutdown", &[("timeout", "30")]).await;
    let (_, text) = sim.refused("PUT", "/qemu/100/config", &[("name", "x")]).await;
    assert_eq!(
        text,
        "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"
    );
    sim.simulator.advance(60_000);
    assert_eq!(
        sim.task("POST", "/qemu/100/status/suspend", &[("todisk", "1")]).await,
        "OK"
    );
    assert_eq!(sim.config(100).await["lock"], "suspended");
    assert_eq!(
        sim.ok("GET", "/qemu/100/status/current", &[]).await["status"],
        "stopped"
    );
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    assert!(sim.config(100).await.get("lock").is_none());
    let left = sim.ok("GET", &format!("/storage/{DISKS}/content"), &[]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
}

#[tokio::test]
async fn cards_go_to_one_machine_at_a_time() {
    let sim = Sim::new();
    let map = "node=phoenix,path=0000:41:00.0,id=10de:2204";
    let path = "/api2/json/cluster/mapping/pci";
    let (status, body) = sim
        .request("POST", path, &[("id", "gpu"), ("map", map)], &sim.auth)
        .await;
    assert_eq!(status, 200, "{body}");
    for vmid in ["100", "101"] {
        sim.machine(vmid, &[("hostpci0", "mapping=gpu,pcie=1"), ("machine", "q35")])
            .await;
    }
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    assert_eq!(
        sim.task("POST", "/qemu/101/status/start", &[]).await,
        "PCI device '0000:41:00.0' already in use by VMID '100'"
    );
    sim.machine("102", &[("hostpci0", "mapping=gpu,pcie=1")]).await;
    assert_eq!(
        sim.task("POST", "/qemu/102/status/start", &[]).await,
        "q35 machine model is not enabled at /usr/share/perl5/PVE/QemuServer/PCI.pm line 510."
    );
    let (_, text) = sim
        .refused("PUT", "/qemu/102/config", &[("hostpci0", "host=0000:41:00.0")])
        .await;
    assert_eq!(text, "only root can set 'hostpci0' config for non-mapped devices");
}

#[tokio::test]
async fn rights_of_the_agent_differ_between_versions() {
    for (version, role) in [("9.1.4", "VM.GuestAgent.Audit"), ("8.4.1", "VM.Monitor")] {
        let sim = Sim::of_version(Some(version));
        sim.machine("100", &[]).await;
        assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
        sim.simulator.advance(20_000);
        sim.simulator.with(|state| {
            let privileges = [role.to_owned()].into();
            state.access.roles.insert("Watcher".to_owned(), privileges);
        });
        sim.grant("Watcher");
        sim.ok("POST", "/qemu/100/agent/ping", &[]).await;
        let exec = sim.send("POST", "/qemu/100/agent/exec", &[("command", "true")]).await;
        assert_eq!(exec.0, if version.starts_with('9') { 403 } else { 200 }, "{}", exec.1);
    }
}

#[tokio::test]
async fn a_failed_create_and_a_stopped_clone_leave_nothing() {
    let sim = Sim::new();
    let disk = format!("{DISKS}:4");
    let missing = format!("{DISKS}:vm-100-disk-9");
    let form = [("vmid", "100"), ("scsi0", disk.as_str()), ("scsi1", missing.as_str())];
    let exit = sim.task("POST", "/qemu", &form).await;
    assert_eq!(
        exit,
        format!("unable to create VM 100 - volume '{missing}' does not exist")
    );
    sim.machine("100", &[]).await;
    let upid = sim.ok("POST", "/qemu/100/clone", &[("newid", "101")]).await;
    let upid = upid.as_str().unwrap();
    sim.ok("DELETE", &format!("/tasks/{upid}"), &[]).await;
    assert_eq!(sim.wait(upid), "clone failed: interrupted by signal");
    assert!(sim.simulator.with(|state| !state.guests.contains_key(&101)));
    let left = sim.ok("GET", &format!("/storage/{DISKS}/content"), &[]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
}

#[tokio::test]
async fn a_backup_comes_back_under_another_id() {
    let sim = Sim::new();
    sim.machine("100", &[("description", "stamp")]).await;
    let form = [("vmid", "100"), ("storage", "local"), ("compress", "zstd")];
    assert_eq!(sim.task("POST", "/vzdump", &form).await, "OK");
    let files = sim.ok("GET", "/storage/local/content", &[("content", "backup")]).await;
    let volid = files[0]["volid"].as_str().unwrap().to_owned();
    assert!(
        volid.starts_with("local:backup/vzdump-qemu-100-") && volid.ends_with(".vma.zst"),
        "{volid}"
    );
    let form = [("vmid", "101"), ("archive", volid.as_str()), ("unique", "1")];
    assert_eq!(sim.task("POST", "/qemu", &form).await, "OK");
    let (old, new) = (sim.config(100).await, sim.config(101).await);
    assert_eq!(new["scsi0"], format!("{DISKS}:vm-101-disk-0,size=4G"));
    assert_eq!(new["description"], old["description"]);
    assert_ne!(new["net0"], old["net0"]);
}

#[tokio::test]
async fn nodes_know_qm_and_snippets() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    let set = sim.node("qm set 100 --args '-foo bar' --tags 'b;a'", "");
    assert_eq!((set.exit, set.stderr.as_str()), (0, ""));
    let config = sim.node("qm config 100", "").stdout;
    assert!(
        config.contains("args: -foo bar\n") && config.contains("tags: a;b\n"),
        "{config}"
    );
    assert!(
        sim.node("cat /etc/pve/qemu-server/100.conf", "")
            .stdout
            .contains("args: -foo bar")
    );
    assert_eq!(sim.node("qm status 100", "").stdout, "status: stopped\n");
    let lock = Edit::Lock {
        vmid: 100,
        lock: Some("snapshot".to_owned()),
    };
    sim.simulator.edit(lock).unwrap();
    assert_eq!(sim.node("qm set 100 --name x", "").stderr, "VM is locked (snapshot)\n");
    assert_eq!(sim.node("qm unlock 100", "").exit, 0);
    assert_eq!(sim.node("qm set 100 --name x", "").exit, 0);
    assert_eq!(sim.node("qm status 999", "").exit, 2);

    let file = "/var/lib/vz/snippets/phoenix-100.yaml";
    let put = format!("/bin/sh -c 'set -eu; umask 077; cat > {file}.tmp && mv {file}.tmp {file}'");
    assert_eq!(sim.node(&put, "#cloud-config\n").exit, 0);
    let sum = sim.node(&format!("sha256sum {file}"), "").stdout;
    assert!(
        sum.ends_with(&format!("  {file}\n")) && sum.len() == 64 + 2 + file.len() + 1,
        "{sum}"
    );
    let listed = sim
        .ok("GET", "/storage/local/content", &[("content", "snippets")])
        .await;
    assert_eq!(listed[0]["volid"], "local:snippets/phoenix-100.yaml");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(sim.node(&format!("cat {file}"), "").stdout, "#cloud-config\n");
    assert_eq!(sim.node(&format!("rm -f -- {file}"), "").exit, 0);
    assert_eq!(sim.node(&format!("rm {file}"), "").exit, 1);
    assert_eq!(sim.node("cat > /nowhere/x", "x").exit, 1);
    assert_eq!(sim.node("curl https://example.test", "").exit, 127);
    // A machine that needs a snippet does not start without it.
    let drive = format!("{DISKS}:cloudinit");
    sim.ok("PUT", "/qemu/100/config", &[("ide2", drive.as_str())]).await;
    let form = [("cicustom", "vendor=local:snippets/phoenix-100.yaml")];
    sim.ok("PUT", "/qemu/100/config", &form).await;
    let exit = sim.task("POST", "/qemu/100/status/start", &[]).await;
    assert_eq!(exit, "volume 'local:snippets/phoenix-100.yaml' does not exist");
}

#[tokio::test]
async fn a_silent_agent_costs_time() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    let ping = HttpRequest {
        method: "POST".to_owned(),
        path: "/api2/json/nodes/phoenix/qemu/100/agent/ping".to_owned(),
        authorization: Some(sim.auth.clone()),
        ..HttpRequest::default()
    };
    assert_eq!(sim.simulator.handle(&ping).await.delay_ms, 3000);
    sim.simulator.advance(20_000);
    assert_eq!(sim.simulator.handle(&ping).await.delay_ms, 0);
    let broken = [
        ("command", "/bin/sh"),
        ("command", "-s"),
        (
            "input-data",
            "# phoenix-runner: start id=x\nphoenix_put 'a' <<'PHOENIX_END'\n",
        ),
    ];
    let (_, text) = sim.refused("POST", "/qemu/100/agent/exec", &broken).await;
    assert!(text.contains("path and mode are expected"), "{text}");
}

#[tokio::test]
async fn disks_move_and_change_hands() {
    let sim = Sim::new();
    let efi = format!("{DISKS}:1,efitype=4m,pre-enrolled-keys=1");
    let tpm = format!("{DISKS}:1,version=v2.0");
    sim.machine(
        "100",
        &[
            ("efidisk0", efi.as_str()),
            ("tpmstate0", tpm.as_str()),
            ("bios", "ovmf"),
        ],
    )
    .await;
    let config = sim.config(100).await;
    assert_eq!(
        config["efidisk0"],
        format!("{DISKS}:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=1M")
    );
    assert_eq!(
        config["tpmstate0"],
        format!("{DISKS}:vm-100-disk-2,size=4M,version=v2.0")
    );
    sim.machine("101", &[]).await;
    let other = "quickOS-shared-prod-data";
    let form = [("disk", "scsi0"), ("storage", other), ("delete", "1")];
    assert_eq!(sim.task("POST", "/qemu/100/move_disk", &form).await, "OK");
    assert_eq!(sim.config(100).await["scsi0"], format!("{other}:vm-100-disk-0,size=4G"));
    let form = [("disk", "scsi0"), ("target-vmid", "101"), ("target-disk", "scsi3")];
    assert_eq!(sim.task("POST", "/qemu/100/move_disk", &form).await, "OK");
    assert_eq!(sim.config(101).await["scsi3"], format!("{other}:vm-101-disk-0,size=4G"));
    assert_eq!(sim.config(100).await["boot"], "order=net0");
    // Somebody else's disk is left alone when the machine goes.
    let borrowed = format!("{DISKS}:vm-101-disk-0");
    sim.ok("PUT", "/qemu/100/config", &[("scsi1", borrowed.as_str())]).await;
    assert_eq!(sim.task("DELETE", "/qemu/100", &[("purge", "1")]).await, "OK");
    let left = sim.ok("GET", &format!("/storage/{DISKS}/content"), &[]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["volid"], borrowed);
}

#[tokio::test]
async fn large_input_comes_in_pieces() {
    let sim = Sim::new();
    sim.machine("100", &[]).await;
    assert_eq!(sim.task("POST", "/qemu/100/status/start", &[]).await, "OK");
    sim.simulator.advance(20_000);
    let program = start_program("big", &format!("{}exit 6\n", "# a long line\n".repeat(6000)));
    assert!(program.len() > 64 << 10);
    for (at, piece) in program.as_bytes().chunks(45 << 10).enumerate() {
        let (file, content) = (format!("/run/in/1/{at:06}"), BASE64.encode(piece));
        let form = [("file", file.as_str()), ("encode", "0"), ("content", content.as_str())];
        sim.ok("POST", "/qemu/100/agent/file-write", &form).await;
    }
    let join = "umask 077; cat /run/in/1/* >/run/in/1.all && rm -rf /run/in/1 && exec 3</run/in/1.all && rm -f \
                /run/in/1.all && exec /bin/sh -s <&3";
    let started = sim.exec(100, &["/bin/sh", "-c", join], "").await;
    assert!(
        started["out-data"].as_str().unwrap().contains("started-now=1"),
        "{started}"
    );
    sim.simulator.advance(30_000);
    let ended = sim
        .exec(100, &["/bin/sh", "-s"], "# phoenix-runner: poll id=big hash=h1\n")
        .await;
    assert!(ended["out-data"].as_str().unwrap().contains("exit=6"), "{ended}");
    let left = sim.simulator.with(|state| {
        let files = &state.guests[&100].inside.files;
        files.keys().filter(|path| path.starts_with("/run/in/")).count()
    });
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_script_for_snippets_is_known() {
    let sim = Sim::new();
    let script = |action: &str, volid: &str| {
        let text = BASE64.encode("#cloud-config\n");
        let content = if action == "write" { text } else { String::new() };
        format!(
            "# phoenix-node: snippet-{action} volid={volid}\nPHOENIX_VOLID={volid}\nphoenix_snippet {action} \
             <<'PHOENIX_END'\n{content}\nPHOENIX_END\n"
        )
    };
    let run = |action: &str, volid: &str| sim.node("/bin/sh -s", &script(action, volid));
    let volid = "local:snippets/a.yaml";
    for (action, out) in [
        ("find", "present=0\n"),
        ("write", "present=1\n"),
        ("find", "present=1\n"),
        ("remove", "present=0\n"),
        ("remove", "present=0\n"),
        ("find", "present=0\n"),
    ] {
        let reply = run(action, volid);
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (0, out),
            "{action}: {}",
            reply.stderr
        );
    }
    for wrong in [
        "nope:snippets/a.yaml",
        "local:iso/a.iso",
        "quickOS-vm-disks:snippets/a.yaml",
    ] {
        assert_eq!(run("write", wrong).exit, 14, "{wrong}");
    }
}

/// Two starts of one container that meet: the second finds it running once it has the lock, and ends well. Who asks for a
/// start while the container runs is refused at once.
#[tokio::test]
async fn a_container_that_was_started_meanwhile_is_no_failure() {
    let sim = Sim::new();
    let image = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
    let form = [
        ("vmid", "200"),
        ("ostemplate", image),
        ("rootfs", "quickOS-lxc-disks:8"),
        ("unprivileged", "1"),
        ("features", "nesting=1"),
    ];
    assert_eq!(sim.task("POST", "/lxc", &form).await, "OK");
    let first = sim.ok("POST", "/lxc/200/status/start", &[]).await;
    let second = sim.ok("POST", "/lxc/200/status/start", &[]).await;
    assert_eq!(sim.wait(first.as_str().unwrap()), "OK");
    let pid = sim.ok("GET", "/lxc/200/status/current", &[]).await["pid"].clone();
    assert_eq!(sim.wait(second.as_str().unwrap()), "OK");
    assert_eq!(sim.ok("GET", "/lxc/200/status/current", &[]).await["pid"], pid);
    let (_, text) = sim.refused("POST", "/lxc/200/status/start", &[]).await;
    assert_eq!(text, "CT 200 already running");
}

#[tokio::test]
async fn a_lab_of_three_nodes_is_one_cluster() {
    let config = SimConfig {
        manual_clock: Some(1_800_000_000_000),
        profile: Profile::Lab3,
        ..SimConfig::default()
    };
    let auth = format!("PVEAPIToken=phoenix@pve!operator={}", config.secrets.token);
    let simulator = Simulator::new(config).unwrap();
    let nodes: Vec<String> = simulator.with(|state| state.nodes.keys().cloned().collect());
    assert_eq!(nodes, ["phoenix", "phoenix2", "phoenix3"]);
    let sim = Sim { simulator, auth };
    // With the rights of docs/access.md.
    let (_, body) = sim.request("GET", "/api2/json/cluster/status", &[], &sim.auth).await;
    let rows = body["data"].as_array().unwrap();
    let quorate = rows.iter().find(|row| row["type"] == "cluster").unwrap();
    assert_eq!(
        (&quorate["name"], &quorate["quorate"], &quorate["nodes"]),
        (&json!("lab"), &json!(1), &json!(3))
    );
}

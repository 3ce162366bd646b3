//! OCI images: pulled from registries, and containers made of them (facts D.3, G.4).

use phoenix::simulator::api::HttpRequest;
use phoenix::simulator::model::access::AclEntry;
use phoenix::simulator::{Edit, SimConfig, Simulator};
use serde_json::{Value, json};

struct Api {
    sim: Simulator,
    token: String,
}

const PULL: &str = "/nodes/phoenix/storage/fastData-shared-iso/oci-registry-pull";
const TAGS: &str = "/nodes/phoenix/query-oci-repo-tags";

impl Api {
    fn new(version: &str) -> Self {
        let config = SimConfig {
            manual_clock: Some(1_780_000_000_000),
            version: Some(version.to_owned()),
            ..SimConfig::default()
        };
        let token = config.secrets.token.clone();
        let sim = Simulator::new(config).unwrap();
        let image = json!({
            "size": 50 << 20, "os": {"ostype": "debian", "arch": "amd64", "systemd": null},
            "oci": {"entrypoint": ["/entry.sh", "nginx", "-g", "daemon off;"], "env": ["PATH=/bin", "V=1"],
                "user": "101:102", "working_dir": "/srv", "stop_signal": "SIGQUIT"}
        });
        let edit = |tag: &str| {
            let url = format!("docker://docker.io/library/nginx:{tag}");
            let file = serde_json::from_value(image.clone()).unwrap();
            sim.edit(Edit::RemoteFile { url, file }).unwrap();
        };
        edit("1.29");
        edit("latest");
        Api { sim, token }
    }

    async fn send(&self, method: &str, path: &str, query: &str, body: &str) -> (u16, Value) {
        let request = HttpRequest {
            method: method.into(),
            path: format!("/api2/json{path}"),
            query: query.into(),
            authorization: Some(format!("PVEAPIToken=phoenix@pve!operator={}", self.token)),
            cookie: None,
            csrf: None,
            content_type: (!body.is_empty()).then(|| "application/x-www-form-urlencoded".into()),
            body: body.as_bytes().to_vec(),
        };
        let reply = self.sim.handle(&request).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    /// How the task ends that a call begins.
    async fn task(&self, path: &str, body: &str) -> String {
        let (status, answer) = self.send("POST", path, "", body).await;
        assert_eq!(status, 200, "{answer}");
        let upid = answer["data"].as_str().unwrap();
        self.sim.advance(600_000);
        let (_, state) = self
            .send("GET", &format!("/nodes/phoenix/tasks/{upid}/status"), "", "")
            .await;
        format!(
            "{} {} {}",
            state["data"]["type"], state["data"]["id"], state["data"]["exitstatus"]
        )
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_and_its_tags_are_told() {
    let api = Api::new("9.1.4");
    let end = api.task(PULL, "reference=docker.io/library/nginx:1.29").await;
    assert_eq!(end, r#""ociregistrypull" "nginx_1.29.tar" "OK""#);
    let content = api
        .send(
            "GET",
            "/nodes/phoenix/storage/fastData-shared-iso/content",
            "content=vztmpl",
            "",
        )
        .await;
    let rows = content.1["data"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|r| r["volid"] == "fastData-shared-iso:vztmpl/nginx_1.29.tar")
        .unwrap();
    assert_eq!((&row["format"], &row["content"]), (&json!("tar"), &json!("vztmpl")));
    let (status, answer) = api.send("POST", PULL, "", "reference=nginx:1.29").await;
    assert_eq!(
        (status, &answer["message"]),
        (500, &json!("refusing to override existing file 'nginx_1.29.tar'\n"))
    );
    let end = api.task(PULL, "reference=nginx:1.29&filename=library/nginx:1").await;
    assert_eq!(end, r#""ociregistrypull" "nginx_1.tar" "OK""#);
    let (_, tags) = api.send("GET", TAGS, "reference=docker.io/library/nginx", "").await;
    assert_eq!(tags["data"], json!(["1.29", "latest"]));
}

#[tokio::test]
async fn what_cannot_be_pulled_is_refused_in_proxmoxs_order() {
    let api = Api::new("9.1.4");
    let (status, answer) = api.send("POST", PULL, "", "reference=nginx").await;
    assert_eq!(status, 400, "a tag is needed: {answer}");
    assert!(answer["errors"]["reference"].is_string(), "{answer}");
    api.sim.with(|state| {
        let images = "/storage/fastData-shared-iso";
        let granted: Vec<_> = state.access.acl.iter().filter(|e| e.path == images).cloned().collect();
        for storage in ["quickOS-lxc-disks", "fastData-shared-backups"] {
            let path = format!("/storage/{storage}");
            let more = granted.iter().map(|e| AclEntry {
                path: path.clone(),
                ..e.clone()
            });
            state.access.acl.retain(|e| e.path != path);
            state.access.acl.extend(more);
        }
    });
    let disks = PULL.replace("fastData-shared-iso", "quickOS-lxc-disks");
    let (_, answer) = api.send("POST", &disks, "", "reference=nginx:1.29").await;
    let told = answer["message"].as_str().unwrap();
    assert!(told.contains("can't upload to storage type 'zfspool'"), "{told}");
    let backups = PULL.replace("fastData-shared-iso", "fastData-shared-backups");
    let (_, answer) = api.send("POST", &backups, "", "reference=nginx:1.29").await;
    let told = answer["message"].as_str().unwrap();
    assert!(told.contains("is not configured for content-type 'vztmpl'"), "{told}");
    let end = api.task(PULL, "reference=ghcr.io/nobody/nothing:1").await;
    assert!(end.contains("skopeo copy docker://ghcr.io/nobody/nothing:1"), "{end}");
    let (status, _) = api.send("GET", TAGS, "reference=ghcr.io/nobody/nothing", "").await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn before_9_1_there_are_none() {
    for version in ["8.4.14", "9.0.3"] {
        let api = Api::new(version);
        for (method, path, query, body) in [
            ("POST", PULL, "", "reference=nginx:1.29"),
            ("GET", TAGS, "reference=nginx", ""),
        ] {
            let (status, answer) = api.send(method, path, query, body).await;
            assert_eq!(status, 501, "{version} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_container_takes_the_images_configuration() {
    let api = Api::new("9.1.4");
    api.task(PULL, "reference=nginx:1.29").await;
    let body = "vmid=950&ostemplate=fastData-shared-iso:vztmpl/nginx_1.29.tar&rootfs=quickOS-lxc-disks:8&unprivileged=1\
                &net0=name%3Deth0,bridge%3Dvmbr0,ip%3Ddhcp&cmode=tty&entrypoint=/bin/mine&env=A%3D1";
    assert_eq!(api.task("/nodes/phoenix/lxc", body).await, r#""vzcreate" "950" "OK""#);
    let (_, answer) = api.send("GET", "/nodes/phoenix/lxc/950/config", "", "").await;
    let config = &answer["data"];
    assert_eq!(config["entrypoint"], "/entry.sh nginx -g 'daemon off;'");
    assert_eq!(config["cmode"], "console");
    assert_eq!(config["env"], "PATH=/bin\u{0}V=1");
    assert!(config["net0"].as_str().unwrap().contains("host-managed=1"), "{config}");
    let raw = [
        ["lxc.init.uid", "101"],
        ["lxc.init.gid", "102"],
        ["lxc.init.cwd", "/srv"],
        ["lxc.signal.halt", "SIGQUIT"],
    ];
    for line in raw {
        assert!(
            config["lxc"].as_array().unwrap().contains(&json!(line)),
            "{line:?}: {config}"
        );
    }
}

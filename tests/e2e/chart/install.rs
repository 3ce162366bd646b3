//! The life of a release on a real node: installed with two replicas, the legacy fleet comes to Ready through it while the
//! leader dies, upgraded from an earlier chart, uninstalled, and installed again.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::convert_for;
use crate::harness::cluster::cluster;
use crate::harness::helm::{chart, helm, program};
use crate::harness::pods::{ADDRESS, Node, operator};
use crate::harness::process::{Process, simulator};
use crate::harness::wait_for;

const SCALE: &str = "50";
const NAMESPACE: &str = "phoenix";
const SET: &str =
    "image.registry=localhost,image.tag=e2e,image.pullPolicy=Never,replicaCount=2,extraArgs={--time-scale=50}";

struct Release {
    node: Node,
    dir: PathBuf,
    _simulator: Process,
}

impl Release {
    fn new() -> Option<Release> {
        let dir = cluster().dir.join("chart");
        let node = Node::start(&dir, |dir| vec![operator(dir)])?;
        let command = node.command(env!("CARGO_BIN_EXE_phoenix"));
        let addresses = [format!("{ADDRESS}:8006"), format!("{ADDRESS}:2222")];
        let simulator = simulator(command, &dir, SCALE, addresses.each_ref().map(String::as_str));
        Some(Release {
            node,
            dir,
            _simulator: simulator,
        })
    }

    fn description(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.dir.join("sim/simulator.json")).unwrap()).unwrap()
    }

    fn helm(&self, args: &[&str]) -> String {
        self.node.must(program(), &[&["--namespace", NAMESPACE], args].concat())
    }

    /// Requests that the simulator had since it was last asked to forget them.
    fn control(&self, method: &str, path: &str) -> Value {
        let description = self.description();
        let text = |key: &str| description[key].as_str().unwrap();
        let url = format!("{}{path}", text("controlUrl"));
        let token = format!("authorization: Bearer {}", text("controlToken"));
        let said = self.node.must(
            "curl",
            &[
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--cacert",
                text("caFile"),
                "-X",
                method,
                "-H",
                &token,
                &url,
            ],
        );
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }

    fn requests(&self) -> Vec<Value> {
        self.control("GET", "requests").as_array().cloned().unwrap_or_default()
    }

    /// The guests as they are, but for what probes left behind in the agents of machines.
    fn guests(&self) -> Value {
        let mut guests = self.control("GET", "state")["guests"].clone();
        for guest in guests.as_object_mut().into_iter().flatten().map(|(_, guest)| guest) {
            guest["machine"]["processes"] = Value::Null;
        }
        guests
    }

    fn leader(&self) -> Option<String> {
        let kubectl = self.node.admin.within(NAMESPACE);
        let answer = kubectl.run(&[
            "get",
            "lease",
            "phoenix-operator",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ]);
        let pods = kubectl.must(&["get", "pods", "-o", "name"]);
        let holder = answer.stdout.trim();
        let pod = |name: &&str| !holder.is_empty() && holder.contains(name.trim_start_matches("pod/"));
        pods.lines().find(pod).map(str::to_string)
    }

    fn words(&self) -> String {
        let kubectl = self.node.admin.within(NAMESPACE);
        let logs = kubectl.run(&["logs", "-l", "app.kubernetes.io/component=operator", "--tail=20"]);
        let table = kubectl.run(&["get", "phoenix,pods", "-o", "wide"]);
        format!("{}\n{}", table.stdout, logs.stdout)
    }

    fn wait_ready(&self, what: &str) {
        let kubectl = self.node.admin.within(NAMESPACE);
        let answer = kubectl.run(&["wait", "--for=condition=Ready", what, "--all", "--timeout=300s"]);
        assert!(answer.ok, "{}\n{}", answer.stderr, self.words());
    }

    /// The leader has looked at Proxmox several times since it was last told to forget; it wrote nothing.
    fn looks_and_writes_nothing(&self) {
        wait_for("polls", || {
            let requests = self.requests();
            let polls = requests.iter().filter(|r| r["path"] == "/cluster/resources").count();
            (polls > 5)
                .then_some(())
                .ok_or_else(|| format!("{polls} polls\n{}", self.words()))
        });
        let probe = |r: &&Value| !r["path"].as_str().unwrap().contains("/agent/");
        let requests = self.requests();
        let writes: Vec<&Value> = requests.iter().filter(|r| r["method"] != "GET").filter(probe).collect();
        assert!(writes.is_empty(), "{writes:?}");
    }
}

/// The chart as of an earlier version, as an archive.
fn earlier(dir: &std::path::Path) -> String {
    let packed = helm(&[
        "package",
        &chart(),
        "--version=0.0.1",
        "--destination",
        dir.to_str().unwrap(),
    ]);
    assert!(packed.ok, "{}", packed.stderr);
    dir.join("phoenix-0.0.1.tgz").display().to_string()
}

#[test]
fn a_release_is_installed_loses_its_leader_is_upgraded_removed_and_comes_back() {
    let Some(release) = Release::new() else { return };
    let kubectl = release.node.admin.within(NAMESPACE);
    let old = earlier(&release.dir);
    let started = std::time::Instant::now();
    release.helm(&[
        "install",
        "phoenix",
        &old,
        "--create-namespace",
        "--set",
        SET,
        "--wait",
        "--timeout=120s",
    ]);
    println!("helm install: {:.1} s", started.elapsed().as_secs_f32());
    let features = kubectl.must(&["get", "phoenixfeature", "-o", "name"]);
    let shipped = std::fs::read_dir(crate::harness::repository("config/features"))
        .unwrap()
        .count();
    assert_eq!(features.lines().count(), shipped, "{features}");

    kubectl.apply(&std::fs::read_to_string(release.dir.join("sim/secrets.yaml")).unwrap());
    let fleet = convert_for(&release.description(), NAMESPACE, &release.dir.join("fleet"));
    kubectl.must(&["apply", "-k", &fleet]);
    let leader = wait_for("a leader", || release.leader().ok_or_else(|| release.words()));
    wait_for("the first guest to be made", || {
        let guests = release.guests().as_object().map_or(0, serde_json::Map::len);
        (guests > 0).then_some(()).ok_or_else(|| release.words())
    });
    println!("first guest: {:.1} s", started.elapsed().as_secs_f32());
    kubectl.must(&["delete", &leader, "--force", "--grace-period=0"]);
    let next = wait_for("another leader", || match release.leader() {
        Some(other) if other != leader => Ok(other),
        other => Err(format!("{other:?}\n{}", release.words())),
    });
    assert_ne!(next, leader);
    release.wait_ready("phoenixtemplate");
    release.wait_ready("phoenixlxc,phoenixvm");
    println!("fleet: {:.1} s", started.elapsed().as_secs_f32());
    let guests = release.guests();

    // An upgrade changes the operator's pods and no guest.
    comes_to_rest(&release);
    release.control("DELETE", "requests");
    let now = chart();
    release.helm(&[
        "upgrade",
        "phoenix",
        &now,
        "--set",
        SET,
        "--set=operator.logLevel=debug",
        "--wait",
        "--timeout=120s",
    ]);
    release.looks_and_writes_nothing();
    let label = "jsonpath={.metadata.labels.helm\\.sh/chart}";
    for what in [
        "crd/phoenixlxcs.phoenix-hypervisor.io",
        "phoenixfeature/docker",
        "deployment/phoenix-operator",
    ] {
        let version = kubectl.must(&["get", what, "-o", label]);
        assert_eq!(version, format!("phoenix-{}", env!("CARGO_PKG_VERSION")), "{what}");
    }

    // Removed: nothing is left of the operator, and nothing of the fleet is gone.
    release.helm(&["uninstall", "phoenix", "--wait"]);
    let pods = kubectl.must(&[
        "get",
        "deployment/phoenix-operator",
        "serviceaccount/phoenix-operator",
        "--ignore-not-found",
        "-o",
        "name",
    ]);
    assert_eq!(pods, "");
    assert_eq!(release.guests(), guests);
    let objects = kubectl.must(&["get", "phoenixlxc,phoenixvm,phoenixtemplate", "-o", "name"]);
    assert_eq!(objects.lines().count(), 24, "{objects}");

    // Back again: everything is found as it was.
    release.control("DELETE", "requests");
    release.helm(&["install", "phoenix", &now, "--set", SET, "--wait", "--timeout=120s"]);
    release.looks_and_writes_nothing();
    release.wait_ready("phoenixlxc,phoenixvm");
    assert_eq!(release.guests(), guests);
    println!("all: {:.1} s", started.elapsed().as_secs_f32());
}

/// Waits until the operator only polls.
fn comes_to_rest(release: &Release) {
    wait_for("the requests to come to rest", || {
        release.control("DELETE", "requests");
        std::thread::sleep(Duration::from_secs(1));
        let requests = release.requests();
        let others = requests.iter().filter(|r| r["method"] != "GET");
        let others = others
            .filter(|r| !r["path"].as_str().unwrap().contains("/agent/"))
            .count();
        (others == 0).then_some(()).ok_or_else(|| format!("{requests:?}"))
    });
}

/// The image of the operator is laid out the same twice.
#[test]
fn the_image_of_the_same_files_is_the_same() {
    let dir = cluster().dir.join("image");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("binary"), "binary").unwrap();
    let build = |name: &str| {
        let archive = dir.join(name);
        let mut command = Command::new(crate::harness::repository("image/oci.py"));
        command.arg("--output").arg(&archive);
        command
            .args(["--name=phoenix:1", "--label=a=b"])
            .env("SOURCE_DATE_EPOCH", "1700000000");
        for arch in ["amd64", "arm64"] {
            command.args(["--platform", arch]);
            command.arg(format!("{}=/phoenix", dir.join("binary").display()));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(archive).unwrap()
    };
    let first = build("one.tar");
    assert_eq!(first, build("two.tar"));
    let text = String::from_utf8_lossy(&first);
    for part in [
        r#""architecture":"arm64""#,
        r#""User":"65532:65532""#,
        "2023-11-14T22:13:20Z",
        r#""Entrypoint":["/phoenix"]"#,
    ] {
        assert!(text.contains(part), "{part}");
    }
}

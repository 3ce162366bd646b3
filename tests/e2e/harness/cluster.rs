//! The API server of a test run: kine (or etcd), kube-apiserver and kube-controller-manager on free ports of the
//! loopback interface; or the cluster that `KUBECONFIG` names.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::process::Process;
use super::{repository, wait_for};

/// The cluster that all tests share.
pub struct Cluster {
    /// Where kubeconfigs and logs of this run are; the next run wipes it.
    pub dir: PathBuf,
    /// `kubectl` as cluster administrator.
    pub admin: Kubectl,
    /// Part of every namespace's name where the cluster outlives the run.
    pub run: Option<String>,
    /// Killed when this process ends, whichever way: statics are not dropped, but their pipes close.
    processes: Vec<Process>,
    /// Keeps a second run in the same target folder away from `dir`.
    _lock: Option<File>,
}

/// The shared cluster, started by whoever asks first.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &CLUSTER
}

/// Finds programs where the environment or the cache of `e2e/build-kube.sh` has them.
struct Tools {
    folders: Vec<PathBuf>,
}

impl Tools {
    /// Builds what is missing: minutes at the first run ever, nothing later.
    fn ready() -> Self {
        let output = Command::new(repository("e2e/build-kube.sh"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "e2e/build-kube.sh: {}", output.status);
        let cache = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            folders: assets
                .into_iter()
                .chain([cache])
                .chain(env::split_paths(&path))
                .collect(),
        }
    }

    fn find(&self, names: &[&str]) -> PathBuf {
        let candidates = self
            .folders
            .iter()
            .flat_map(|dir| names.iter().map(|name| dir.join(name)));
        let mut found = candidates.filter(|path| path.is_file());
        found
            .next()
            .unwrap_or_else(|| panic!("none of {names:?} in {:?}", self.folders))
    }
}

impl Cluster {
    fn start() -> Self {
        let (dir, lock) = work_dir();
        let given = env::var_os("KUBECONFIG");
        let cluster = Self::start_in(dir, Some(lock), given);
        cluster.install_crds();
        cluster
    }

    /// `kubectl`, for what needs no cluster.
    pub fn program() -> PathBuf {
        Tools::ready().find(&["kubectl"])
    }

    /// A cluster of a test's own, for what would disturb the others; it ends with the test run.
    pub fn of_its_own(name: &str) -> &'static Self {
        let cluster = Self::empty(name);
        cluster.install_crds();
        cluster
    }

    /// As [`Cluster::of_its_own`], without the kinds of Phoenix.
    pub fn empty(name: &str) -> &'static Self {
        let dir = cluster().dir.join(name);
        fs::create_dir(&dir).unwrap();
        Box::leak(Box::new(Self::start_in(dir, None, None)))
    }

    fn start_in(dir: PathBuf, lock: Option<File>, given: Option<OsString>) -> Self {
        let tools = Tools::ready();
        let mut cluster = Self {
            admin: Kubectl {
                program: tools.find(&["kubectl"]),
                kubeconfig: dir.join("admin.kubeconfig"),
                cache: dir.join("discovery"),
                namespace: None,
            },
            run: None,
            processes: Vec::new(),
            dir,
            _lock: lock,
        };
        match given {
            Some(given) => {
                // A kubeconfig with exactly the cluster and user that are current, whatever list of files was given.
                let text = Command::new(&cluster.admin.program)
                    .args(["config", "view", "--raw", "--minify", "--flatten"])
                    .env("KUBECONFIG", given)
                    .output()
                    .unwrap();
                assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
                fs::write(&cluster.admin.kubeconfig, text.stdout).unwrap();
                cluster.run = Some(std::process::id().to_string());
            }
            None => cluster.start_servers(&tools),
        }
        cluster.wait_ready();
        cluster
    }

    fn start_servers(&mut self, tools: &Tools) {
        let pki = Pki::create(&self.dir);
        let store = format!("127.0.0.1:{}", free_port());
        self.spawn(&datastore(tools, &self.dir, &store));

        let port = free_port();
        let mut server = Command::new(tools.find(&["kube-apiserver"]));
        server
            .arg(format!("--etcd-servers=http://{store}"))
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", self.dir.display()))
            .arg(format!("--token-auth-file={}", pki.tokens.display()))
            .arg(format!("--service-account-key-file={}", pki.public_key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                pki.private_key.display()
            ))
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--endpoint-reconciler-type=none",
            ]);
        self.spawn(&server);
        let certificate = self.dir.join("apiserver.crt");
        wait_for("kube-apiserver's certificate", || {
            self.all_running()
                .and_then(|()| fs::metadata(&certificate).map(drop).map_err(|e| e.to_string()))
        });
        let config = kubeconfig(&format!("https://127.0.0.1:{port}"), &certificate, &pki.token);
        fs::write(&self.admin.kubeconfig, config.to_string()).unwrap();
        self.wait_ready();

        let mut manager = Command::new(tools.find(&["kube-controller-manager"]));
        let admin = self.admin.kubeconfig.display();
        manager
            .arg(format!("--kubeconfig={admin}"))
            .arg(format!("--authentication-kubeconfig={admin}"))
            .arg(format!("--authorization-kubeconfig={admin}"))
            .arg(format!(
                "--service-account-private-key-file={}",
                pki.private_key.display()
            ))
            .arg(format!("--secure-port={}", free_port()))
            .args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
        self.spawn(&manager);
    }

    fn spawn(&mut self, command: &Command) {
        let name = Path::new(command.get_program()).file_name().unwrap().to_string_lossy();
        let log = self.dir.join(format!("{name}.log"));
        self.processes.push(Process::start(&name, command, &log));
    }

    /// An error with the log of the first program that is gone.
    fn all_running(&mut self) -> Result<(), String> {
        match self
            .processes
            .iter_mut()
            .find_map(|p| p.ended().map(|status| (status, p.log_tail())))
        {
            // Waiting would not bring it back.
            Some((status, log)) => panic!("ended with {status}: {log}"),
            None => Ok(()),
        }
    }

    fn wait_ready(&mut self) {
        wait_for("the API server to be ready", || {
            self.all_running()?;
            let answer = self.admin.run(&["get", "--raw", "/readyz"]);
            if answer.ok { Ok(()) } else { Err(answer.stderr) }
        });
    }

    fn install_crds(&self) {
        let folder = repository("crds");
        // Client-side apply on purpose: it is what most people type, and what sets the size limit.
        self.admin.must(&["apply", "-f", folder.to_str().unwrap()]);
        self.admin.must(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            folder.to_str().unwrap(),
        ]);
    }

    /// Writes a kubeconfig for this cluster with a bearer token in place of the administrator's credentials.
    pub fn kubeconfig_with_token(&self, path: &Path, token: &str) {
        let text = self.admin.must(&["config", "view", "--raw", "-o", "json"]);
        let mut config: Value = serde_json::from_str(&text).unwrap();
        for user in config["users"].as_array_mut().unwrap() {
            user["user"] = json!({ "token": token });
        }
        fs::write(path, config.to_string()).unwrap();
    }
}

/// An empty folder for this run and the lock that keeps it ours. It lies in the target folder, so that logs can be
/// read after a failure and nothing is left in the system's temporary folder.
fn work_dir() -> (PathBuf, File) {
    let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&base).unwrap();
    let lock = File::create(base.join("e2e.lock")).unwrap();
    lock.lock().unwrap();
    let dir = base.join("e2e");
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir(&dir).unwrap();
    (dir, lock)
}

/// A port that nothing listens on at the moment. Somebody else may take it before its user does; the programs then
/// end with an error that says so.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// kine on SQLite, or etcd where that is what the environment supplies.
fn datastore(tools: &Tools, dir: &Path, address: &str) -> Command {
    let program = tools.find(&["kine", "etcd"]);
    let mut command = Command::new(&program);
    if program.ends_with("etcd") {
        let url = format!("http://{address}");
        command
            .args(["--listen-peer-urls=http://127.0.0.1:0", "--unsafe-no-fsync"])
            .arg(format!("--data-dir={}", dir.join("etcd").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"));
    } else {
        let database = dir.join("state.db");
        command
            .arg(format!("--listen-address=tcp://{address}"))
            .args(["--metrics-bind-address", "0", "--endpoint"])
            .arg(format!(
                "sqlite://{}?_journal=WAL&_synchronous=OFF&cache=shared&_busy_timeout=30000&_txlock=immediate",
                database.display()
            ));
    }
    command
}

/// Keys and the administrator's token.
struct Pki {
    token: String,
    tokens: PathBuf,
    private_key: PathBuf,
    public_key: PathBuf,
}

impl Pki {
    fn create(dir: &Path) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let pki = Self {
            token: uuid::Uuid::new_v4().to_string(),
            tokens: dir.join("tokens.csv"),
            private_key: dir.join("service-accounts.key"),
            public_key: dir.join("service-accounts.pub"),
        };
        fs::write(&pki.tokens, format!("{},admin,admin,system:masters\n", pki.token)).unwrap();
        fs::write(&pki.private_key, key.serialize_pem()).unwrap();
        fs::write(&pki.public_key, key.public_key_pem()).unwrap();
        pki
    }
}

fn kubeconfig(server: &str, ca: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "e2e", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        "current-context": "e2e",
    })
}

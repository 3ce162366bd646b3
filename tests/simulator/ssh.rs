//! The guest client against the simulator's SSH servers: what a lost connection, a wrong host key or a failing script
//! come to.

use phoenix::pve::Vmid;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phoenix::remote::node::{self, RawLine, RawLinesAnswer};
use phoenix::remote::runner::{self, GuestFile, Layout, ProbeAnswer, Record, Script, State as Run};
use phoenix::remote::{Command, Error, Meter, Node, Output, Ssh, SshOptions};
use phoenix::simulator::model::config::GuestConfig;
use phoenix::simulator::model::{Guest, GuestKind};
use phoenix::simulator::ssh::{SshAction, SshConfig, SshFault, SshServer};
use phoenix::simulator::{SimConfig, Simulator};

const VMID: u32 = 100;

fn id() -> Vmid {
    Vmid::nearest(VMID.into())
}

const START: u64 = 1_800_000_000_000;

struct Bench {
    simulator: Simulator,
    server: SshServer,
    options: SshOptions,
    node: Node,
}

impl Bench {
    /// One running container on a simulated node, and a client that is let in. Time moves only when told.
    async fn new() -> Self {
        let simulator = Simulator::new(SimConfig {
            manual_clock: Some(START),
            ..SimConfig::default()
        })
        .unwrap();
        let name = simulator.with(|state| {
            let name = state.nodes.keys().next().unwrap().clone();
            let config = GuestConfig::parse(
                "arch: amd64\nhostname: x\nmemory: 512\nostype: debian\nrootfs: local:1\nunprivileged: 1\n",
            );
            let mut guest = Guest::new(VMID, &name, GuestKind::Lxc, config);
            guest.running = Some(phoenix::simulator::model::guest::Running { pid: 1, since: START });
            state.guests.insert(VMID, guest);
            name
        });
        let (private, public) = SshServer::new_client_key().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = SshServer::start(
            &simulator,
            SshConfig {
                listen,
                authorized_keys: vec![public],
            },
        )
        .await
        .unwrap();
        let address = server.addresses()[&name];
        let node = Node {
            name,
            host: address.ip().to_string(),
            port: address.port(),
        };
        let options = SshOptions::new("root", private.as_str(), server.known_hosts());
        Self {
            simulator,
            server,
            options,
            node,
        }
    }

    fn ssh(&self) -> Ssh {
        Ssh::new(self.options.clone()).unwrap()
    }

    fn fault(&self, command: &str, action: SshAction) {
        let fault = SshFault {
            vmid: Some(VMID),
            command: command.into(),
            action,
            count: Some(1),
        };
        self.simulator.with(|state| state.ssh.faults.push(fault));
    }

    fn inside<R>(&self, look: impl FnOnce(&mut Guest) -> R) -> R {
        self.simulator.with(|state| look(state.guests.get_mut(&VMID).unwrap()))
    }

    /// How many commands of that kind arrived.
    fn arrived(&self, what: &str) -> usize {
        self.server
            .log()
            .iter()
            .filter(|entry| entry.summary.contains(what))
            .count()
    }
}

fn script(body: &str) -> Script {
    Script {
        id: "feature-docker".into(),
        hash: "abc".into(),
        attempt: 1,
        body: body.into(),
        path: None,
        args: vec![],
        environment: [("PHOENIX_TOKEN".to_owned(), "s3cret".into())].into(),
        files: vec![GuestFile {
            path: "/opt/x.conf".into(),
            mode: "0640".into(),
            content: b"x=1\n".to_vec(),
        }],
        workdir: None,
        deadline_seconds: Some(600),
        keep_output: true,
        run_as: None,
    }
}

fn start(script: &Script) -> Command {
    runner::start(id(), script, &Layout::default()).unwrap()
}

fn poll() -> Command {
    runner::poll(id(), "feature-docker", Some("abc"), &Layout::default()).unwrap()
}

fn record(output: &Output) -> Record {
    assert!(output.is_success(), "{output:?}");
    Record::parse(&output.stdout.text()).unwrap()
}

#[tokio::test]
async fn a_script_is_started_and_polled() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    assert_eq!(record(&ssh.run(&bench.node, &poll()).await.unwrap()).state, Run::Absent);
    let body = "#!/bin/sh\n# simulate: output='all done'\napt-get install -y docker.io\n";
    let started = record(&ssh.run(&bench.node, &start(&script(body))).await.unwrap());
    assert_eq!((started.started_now, started.state), (true, Run::Running));
    assert_eq!(
        record(&ssh.run(&bench.node, &poll()).await.unwrap()).state,
        Run::Running
    );
    bench.simulator.advance(60_000);
    let ended = record(&ssh.run(&bench.node, &poll()).await.unwrap());
    assert_eq!(
        (ended.state, ended.exit, ended.output().as_str()),
        (Run::Finished, Some(0), "all done\n")
    );
    assert!(bench.inside(|guest| guest.inside.files["/opt/x.conf"].content == b"x=1\n"));
    assert_eq!(bench.arrived("s3cret"), 0);
}

#[tokio::test]
async fn a_connection_lost_after_the_start_starts_nothing_twice() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    bench.fault("start", SshAction::LoseAfter);
    let error = ssh.run(&bench.node, &start(&script("true\n"))).await.unwrap_err();
    assert!(
        matches!(error, Error::Lost { .. }) && error.may_have_happened(),
        "{error}"
    );
    assert_eq!(
        record(&ssh.run(&bench.node, &poll()).await.unwrap()).state,
        Run::Running
    );
    let began = bench.inside(|guest| guest.inside.scripts["feature-docker"].started_at);
    bench.simulator.advance(1000);
    let again = record(&ssh.run(&bench.node, &start(&script("true\n"))).await.unwrap());
    assert_eq!((again.started_now, again.state), (false, Run::Running));
    assert_eq!(
        bench.inside(|guest| guest.inside.scripts["feature-docker"].started_at),
        began
    );
}

/// What a meter was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Meter for Told {
    fn connected(&self, error: Option<&Error>) {
        let word = error.map_or("ok", Error::word);
        self.0.lock().unwrap().push(format!("connection: {word}"));
    }

    fn ran(&self, result: Result<&Output, &Error>, _: Duration) {
        let word = result.map_or_else(|error| error.word().to_string(), |output| output.exit.to_string());
        self.0.lock().unwrap().push(format!("command: {word}"));
    }
}

#[tokio::test]
async fn connections_and_commands_are_told_once_each() {
    let mut bench = Bench::new().await;
    let told = Arc::new(Told::default());
    bench.options.meter = Some(told.clone());
    let ssh = bench.ssh();
    ssh.run(&bench.node, &poll()).await.unwrap();
    ssh.run(&bench.node, &poll()).await.unwrap();
    bench.fault("start", SshAction::LoseAfter);
    ssh.run(&bench.node, &start(&script("true\n"))).await.unwrap_err();
    ssh.run(&bench.node, &poll()).await.unwrap();
    bench.options.known_hosts = String::new();
    bench.ssh().run(&bench.node, &poll()).await.unwrap_err();
    let expected = [
        "connection: ok",
        "command: 0",
        "command: 0",
        "command: lost",
        "connection: ok",
        "command: 0",
        "connection: host_key",
        "command: host_key",
    ];
    assert_eq!(*told.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_connection_lost_before_the_start_is_told_the_same_and_polls_absent() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    bench.fault("start", SshAction::LoseBefore);
    let error = ssh.run(&bench.node, &start(&script("true\n"))).await.unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    assert_eq!(record(&ssh.run(&bench.node, &poll()).await.unwrap()).state, Run::Absent);
}

#[tokio::test]
async fn failing_and_interrupted_scripts_are_told_apart() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    bench.fault(
        "start feature-docker",
        SshAction::Exit {
            exit: 100,
            output: "E: no space left\n".into(),
        },
    );
    ssh.run(&bench.node, &start(&script("true\n"))).await.unwrap();
    bench.simulator.advance(60_000);
    let failed = record(&ssh.run(&bench.node, &poll()).await.unwrap());
    assert_eq!(
        (failed.exit, failed.output().as_str()),
        (Some(100), "E: no space left\n")
    );
    // The next attempt is cut off when the guest goes down.
    let second = Script {
        attempt: 2,
        ..script("true\n")
    };
    assert!(record(&ssh.run(&bench.node, &start(&second)).await.unwrap()).started_now);
    bench.simulator.with(|state| state.power_off(VMID)).unwrap();
    let stopped = ssh.run(&bench.node, &poll()).await.unwrap();
    assert_eq!(
        (stopped.exit, stopped.complaint().as_str()),
        (255, "container '100' not running!")
    );
    bench.inside(|guest| guest.running = Some(phoenix::simulator::model::guest::Running { pid: 2, since: START }));
    let cut = record(&ssh.run(&bench.node, &poll()).await.unwrap());
    assert_eq!((cut.state, cut.attempt, cut.exit), (Run::Interrupted, 2, None));
}

#[tokio::test]
async fn a_wrong_or_unknown_host_key_is_refused_and_both_are_named() {
    let bench = Bench::new().await;
    bench.simulator.with(|state| state.ssh.other_host_key = true);
    let error = bench.ssh().run(&bench.node, &poll()).await.unwrap_err();
    let Error::HostKeyMismatch { expected, actual, .. } = &error else {
        panic!("{error}")
    };
    assert!(expected.len() == 1 && expected[0].starts_with("SHA256:") && actual.starts_with("SHA256:"));
    assert!(error.to_string().contains(&expected[0]) && error.to_string().contains(actual.as_str()));
    let mut options = bench.options.clone();
    options.known_hosts = String::new();
    let error = Ssh::new(options).unwrap().run(&bench.node, &poll()).await.unwrap_err();
    assert!(error.to_string().contains("is not in known_hosts"), "{error}");
    assert!(bench.server.log().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so() {
    let bench = Bench::new().await;
    let mut options = bench.options.clone();
    options.key = SshServer::new_client_key().unwrap().0.into();
    let error = Ssh::new(options.clone())
        .unwrap()
        .run(&bench.node, &poll())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::AuthFailed { .. }), "{error}");
    options.key = "no key".into();
    assert!(matches!(Ssh::new(options).unwrap_err(), Error::BadKey(_)));
    let mut options = bench.options.clone();
    options.user = "phoenix".into();
    let output = Ssh::new(options.clone())
        .unwrap()
        .run(&bench.node, &poll())
        .await
        .unwrap();
    assert!(output.complaint().contains("only root"), "{output:?}");
    options.sudo = true;
    assert!(
        Ssh::new(options)
            .unwrap()
            .run(&bench.node, &poll())
            .await
            .unwrap()
            .is_success()
    );
}

#[tokio::test]
async fn an_unreachable_node_certainly_ran_nothing() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = ssh
        .run(
            &Node {
                port,
                ..bench.node.clone()
            },
            &poll(),
        )
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. }) && !error.may_have_happened(),
        "{error}"
    );
    let name = bench.node.name.clone();
    bench
        .simulator
        .with(|state| state.nodes.values_mut().for_each(|node| node.online = false));
    let error = ssh.run(&bench.node, &poll()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
}

#[tokio::test]
async fn a_command_past_its_deadline_is_unknown() {
    let bench = Bench::new().await;
    // Real time, so that the answer really comes late.
    let simulator = Simulator::new(SimConfig::default()).unwrap();
    let fault = SshFault {
        vmid: None,
        command: "hostname".into(),
        action: SshAction::Delay { ms: 60_000 },
        count: None,
    };
    simulator.with(|state| state.ssh.faults.push(fault));
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = SshServer::start(
        &simulator,
        SshConfig {
            listen,
            authorized_keys: vec![],
        },
    )
    .await
    .unwrap();
    let (name, address) = server.addresses().iter().next().unwrap();
    let node = Node {
        name: name.clone(),
        host: address.ip().to_string(),
        port: address.port(),
    };
    let mut options = bench.options.clone();
    options.known_hosts = server.known_hosts();
    let ssh = Ssh::new(options).unwrap();
    let late = ssh
        .run_within(&node, &Command::new(["hostname"]), Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(
        matches!(late, Error::Timeout { .. }) && late.may_have_happened(),
        "{late}"
    );
    assert!(
        ssh.run(&node, &Command::new(["true"])).await.unwrap().is_success(),
        "the connection still serves"
    );
}

#[tokio::test]
async fn many_commands_share_one_connection_within_bounds() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    let commands = (0..40).map(|_| {
        let (ssh, node) = (ssh.clone(), bench.node.clone());
        tokio::spawn(async move { ssh.run(&node, &poll()).await })
    });
    for command in commands.collect::<Vec<_>>() {
        assert_eq!(record(&command.await.unwrap().unwrap()).state, Run::Absent);
    }
    assert_eq!(bench.arrived("poll"), 40);
}

#[tokio::test]
async fn big_input_arrives_whole() {
    let bench = Bench::new().await;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let file = GuestFile {
        path: "/opt/big".into(),
        mode: "0644".into(),
        content: content.clone(),
    };
    let script = Script {
        files: vec![file],
        ..script("true\n")
    };
    let output = bench.ssh().run(&bench.node, &start(&script)).await.unwrap();
    assert!(record(&output).started_now);
    assert!(bench.inside(|guest| guest.inside.files["/opt/big"].content == content));
}

#[tokio::test]
async fn the_node_changes_configs_as_root_may() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    let digest = bench.inside(|guest| guest.digest());
    let set = [("dev0".to_owned(), "/dev/fuse,mode=0666".to_owned())];
    let output = ssh
        .run(&bench.node, &node::set("pct", id(), &set, &[], Some(&digest)))
        .await
        .unwrap();
    assert!(output.is_success(), "{output:?}");
    let stale = ssh
        .run(&bench.node, &node::set("pct", id(), &set, &[], Some(&digest)))
        .await
        .unwrap();
    assert!(
        stale.complaint().contains("detected modified configuration"),
        "{stale:?}"
    );
    let lines = [RawLine::parse("lxc.apparmor.profile: unconfined").unwrap()];
    let edit = |digest: &str, add: &[RawLine], remove: &[RawLine]| {
        let command = node::raw_lines(id(), add, remove, digest, &Default::default());
        let (ssh, node) = (ssh.clone(), bench.node.clone());
        async move {
            let output = ssh.run(&node, &command).await.unwrap();
            RawLinesAnswer::parse(output.exit, &output.stdout.text(), &output.stderr.text())
        }
    };
    assert_eq!(edit(&digest, &lines, &[]).await, RawLinesAnswer::Modified);
    let digest = bench.inside(|guest| guest.digest());
    let answer = edit(&digest, &lines, &[]).await;
    let now = bench.inside(|guest| guest.digest());
    assert_eq!(
        answer,
        RawLinesAnswer::Done {
            digest: now.clone(),
            changed: true
        }
    );
    assert_eq!(bench.inside(|g| g.config().current.lxc.clone()).len(), 1);
    let answer = edit(&now, &[], &lines).await;
    assert!(
        matches!(answer, RawLinesAnswer::Done { changed: true, .. }),
        "{answer:?}"
    );
    assert!(bench.inside(|g| g.config().current.lxc.is_empty()));
    bench.inside(|guest| guest.edit(|config| config.current.set("lock", "backup")));
    let digest = bench.inside(|guest| guest.digest());
    assert_eq!(
        edit(&digest, &lines, &[]).await,
        RawLinesAnswer::Locked("backup".into())
    );
    assert!(
        ssh.run(&bench.node, &Command::new(["pct", "unlock", &VMID.to_string()]))
            .await
            .unwrap()
            .is_success()
    );
    assert!(bench.inside(|guest| guest.config().current.get("lock").is_none()));
}

#[tokio::test]
async fn gpus_and_probes_are_answered() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    let query = Command::new(["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader,nounits"]);
    let gpus = ssh.run(&bench.node, &query).await.unwrap().stdout.text();
    let simulated = bench.simulator.with(|state| state.nodes[&bench.node.name].gpus.clone());
    let rows = simulated.iter().enumerate();
    let rows: Vec<String> = rows.map(|(index, gpu)| format!("{index}, {}", gpu.model)).collect();
    assert!(!rows.is_empty() && gpus.lines().eq(&rows), "{gpus}");
    let probe = runner::probe(
        id(),
        &["curl".into(), "-f".into(), "http://127.0.0.1:8000/health".into()],
        5,
        &Layout::default(),
    );
    bench.fault(
        "8000/health",
        SshAction::Exit {
            exit: 22,
            output: "503".into(),
        },
    );
    for exit in [22, 0] {
        let output = ssh.run(&bench.node, &probe).await.unwrap();
        assert_eq!(ProbeAnswer::parse(&output.stdout.text()).unwrap().exit, exit);
    }
}

#[tokio::test]
async fn what_the_simulator_does_not_know_it_says() {
    let bench = Bench::new().await;
    let ssh = bench.ssh();
    for command in [
        Command::new(["rm", "-rf", "/"]),
        Command::new(["/bin/sh", "-s"]).with_stdin("reboot\n"),
    ] {
        let output = ssh.run(&bench.node, &command).await.unwrap();
        assert_eq!(output.exit, 127);
        assert!(output.complaint().starts_with("simulated node: "), "{output:?}");
    }
}

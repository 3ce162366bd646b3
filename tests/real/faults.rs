//! What goes wrong between the operator and a script: each ends in a documented reason, is over once its cause is gone,
//! and nothing runs twice that must not. Scripts count how often they ran.

use phoenix::desired::Key;
use phoenix::simulator::model::Caller;
use serde_json::{Value, json};

use crate::world::{DEBIAN_12, Real, container};

/// Counts itself, waits for /root/go, and ends well.
const COUNTED: &str = "#!/bin/sh\necho run >>/root/count\necho begun\n\
                       while [ ! -e /root/go ]; do sleep 0.2; done\necho done\n";

fn guest(name: &str, application: Value) -> Value {
    container(name, DEBIAN_12, json!({"application": application}))
}

fn count(real: &Real, key: &Key) -> usize {
    real.sh(key, "cat /root/count 2>/dev/null || true").lines().count()
}

fn go(real: &Real, key: &Key) {
    real.sh(key, "touch /root/go");
}

/// Whether the application's script is under way and has done its countable part.
fn runs(real: &Real, key: &Key) -> bool {
    let status = real.object(key).status;
    status
        .application
        .is_some_and(|a| a.state.as_deref() == Some("Running"))
        && count(real, key) == 1
}

/// A container in which the counted script is running.
async fn running(real: &mut Real, name: &str, policy: &str) -> Key {
    let key = real
        .world
        .store
        .apply(guest(name, json!({"script": COUNTED, "rerunPolicy": policy})));
    let at = key.clone();
    real.until("the script runs", move |real| {
        real.object(&at).status.vmid.is_some() && runs(real, &at)
    })
    .await;
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_servers_that_go_do_not_disturb_a_script() {
    let Some(mut real) = Real::start().await else { return };
    let key = running(&mut real, "a", "OnChange").await;
    // Every connection is killed while the script runs.
    real.node.sshd("cut");
    real.world.round().await;
    real.until("the script is seen to run", |real| runs(real, &key)).await;
    // The server is gone, and comes back.
    real.node.sshd("stop");
    let message = real.reason(&key, "SSHUnreachable").await;
    assert!(message.contains("spec.ssh of the PhoenixHypervisor"), "{message}");
    real.node.sshd("start");
    real.until("the script is seen to run", |real| runs(real, &key)).await;
    // The server shows another host key than the one that is known.
    real.node.sshd("stop");
    let keep = |from: &str, to: &str| std::fs::rename(real.node.path(from), real.node.path(to)).unwrap();
    keep("host_key", "right_key");
    let path = real.node.path("host_key");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    real.node.sshd("start");
    let message = real.reason(&key, "HostKeyMismatch").await;
    assert!(
        message.contains("knownHostsSecretRef") && message.contains("SHA256:"),
        "{message}"
    );
    real.node.sshd("stop");
    std::fs::rename(real.node.path("right_key"), real.node.path("host_key")).unwrap();
    real.node.sshd("start");
    go(&real, &key);
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(count(&real, &key), 1);
    // A key that is not let in.
    real.node.sshd("cut");
    let authorized = real.node.path("authorized_keys");
    let lines = std::fs::read(&authorized).unwrap();
    std::fs::write(&authorized, "").unwrap();
    real.world
        .store
        .apply(guest("a", json!({"script": format!("{COUNTED}# changed\n")})));
    let message = real.reason(&key, "SSHAuthFailed").await;
    assert!(message.contains("authorized_keys"), "{message}");
    std::fs::write(&authorized, lines).unwrap();
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(count(&real, &key), 2, "the changed script ran, once");
}

/// The connection breaks after the script was started, before the answer: the record in the guest tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_reason_to_start_again() {
    let Some(mut real) = Real::start().await else { return };
    let flag = real.node.path("lose-answer");
    *real.world.wire.meddle.lock().unwrap() =
        Some(("run application", Box::new(move || std::fs::write(flag, "").unwrap())));
    let key = real.world.store.apply(guest("a", json!({"script": COUNTED})));
    let at = key.clone();
    real.until("the script runs", move |real| {
        real.object(&at).status.vmid.is_some() && runs(real, &at)
    })
    .await;
    assert!(real.node.text("lost-answer").contains("started-now=1"));
    go(&real, &key);
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(count(&real, &key), 1);
    assert!(
        real.world
            .store
            .events
            .lock()
            .unwrap()
            .iter()
            .any(|(_, e)| e.reason == "SSHConnectionLost")
    );
}

/// The operator dies at each point of running a feature, an application and a test: each of their versions runs once.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_operator_dies_each_script_runs_once() {
    let Some(mut real) = Real::start().await else { return };
    let counted = |what: &str, n: usize| format!("#!/bin/sh\necho {what} {n} >>/root/count\n");
    let apply = |real: &Real, n: usize| {
        real.world.feature("counted", json!({"install": counted("feature", n)}));
        let fields = json!({
            "features": [{"name": "counted"}],
            "application": {"script": counted("application", n)},
            "tests": [{"name": "checked", "script": counted("test", n)}],
        });
        real.world.store.apply(container("a", DEBIAN_12, fields))
    };
    let keys = [apply(&real, 0)];
    real.ready(&keys).await;
    let mut points = vec![];
    for n in 1.. {
        let wire = crate::engine::Wire {
            at: vec![n - 1],
            ..Default::default()
        };
        real.world.wire = std::sync::Arc::new(wire);
        real.world.restart();
        apply(&real, n);
        let key = &keys[0];
        let wanted = format!("application {n}\nfeature {n}\ntest {n}\n");
        let ran = |real: &Real| real.sh(key, &format!("grep -x '.* {n}' /root/count | sort || true"));
        real.until("all have run", |real| {
            real.object(key).is_ready() && ran(real).lines().count() >= 3
        })
        .await;
        let tripped = real.world.wire.last.lock().unwrap().clone();
        assert_eq!(ran(&real), wanted, "cut off at {tripped}");
        if tripped.is_empty() {
            break;
        }
        points.push(tripped);
    }
    println!("cut off at {} points: {points:#?}", points.len());
    let among = |point: &str| assert!(points.iter().any(|p| p.starts_with(point)), "{point}: {points:#?}");
    for script in ["counted", "application", "checked"] {
        among(&format!("BeforeEffect of \"run {script} "));
        among(&format!("AfterEffect of \"run {script} "));
    }
    among("BeforeStatus");
}

/// A script that was cut off may have had its effect: it is tried again unless its policy says never.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_restarts_cuts_its_script_off() {
    let Some(mut real) = Real::start().await else { return };
    let again = running(&mut real, "again", "OnChange").await;
    let never = running(&mut real, "never", "Never").await;
    for key in [&again, &never] {
        let vmid = u32::try_from(real.vmid(key)).unwrap();
        real.world
            .sim()
            .with(|state| state.reboot_ct(&Caller::root(), "phoenix", vmid))
            .unwrap();
    }
    let message = real.reason(&never, "ScriptInterrupted").await;
    assert!(
        message.contains("Never") && message.contains("was cut off"),
        "{message}"
    );
    let at = again.clone();
    real.until("it is tried again", move |real| {
        let status = real.object(&at).status.application;
        status.is_some_and(|a| a.attempts == Some(2)) && count(real, &at) == 2
    })
    .await;
    go(&real, &again);
    go(&real, &never);
    real.ready(std::slice::from_ref(&again)).await;
    assert_eq!(count(&real, &never), 1, "at most once");
    // Whoever looked changes the script: that is a new one.
    let script = format!("{COUNTED}# looked after\n");
    real.world
        .store
        .apply(guest("never", json!({"script": script, "rerunPolicy": "Never"})));
    real.ready(std::slice::from_ref(&never)).await;
    assert_eq!(count(&real, &never), 2);
}

/// Of two guests that are restarted by somebody else, the one whose policy is Always runs its script again, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_every_start_runs_once_for_each() {
    let Some(mut real) = Real::start().await else { return };
    let script = "#!/bin/sh\necho run >>/root/count\n";
    let keys = ["Always", "OnChange"].map(|policy| {
        let fields = json!({"script": script, "rerunPolicy": policy});
        real.world.store.apply(guest(&policy.to_lowercase(), fields))
    });
    real.ready(&keys).await;
    for starts in [2, 3] {
        for key in &keys {
            let vmid = u32::try_from(real.vmid(key)).unwrap();
            let reboot = |state: &mut phoenix::simulator::State| state.reboot_ct(&Caller::root(), "phoenix", vmid);
            real.world.sim().with(reboot).unwrap();
        }
        let at = keys[0].clone();
        // A new engine knows of nothing that it saw before.
        real.world.restart();
        real.until("it has run again", move |real| {
            let up = real.node.exec(real.vmid(&at), &["true"]).status.success();
            up && count(real, &at) == starts && real.object(&at).is_ready()
        })
        .await;
        real.world.restart();
        real.ready(&keys).await;
        assert_eq!((count(&real, &keys[0]), count(&real, &keys[1])), (starts, 1));
    }
}

/// The annotation stops a script that runs; without it the script runs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_stopped_when_its_hash_is_named() {
    let Some(mut real) = Real::start().await else { return };
    let key = running(&mut real, "a", "OnChange").await;
    let hash = real.object(&key).status.application.unwrap().hash.unwrap();
    let mut manifest = guest("a", json!({"script": COUNTED, "rerunPolicy": "OnChange"}));
    manifest["metadata"]["annotations"] = json!({phoenix::crd::CANCEL: hash});
    real.world.store.apply(manifest.clone());
    let message = real.reason(&key, "ScriptCancelled").await;
    assert!(
        message.contains(&hash) && message.contains("remove the annotation"),
        "{message}"
    );
    let status = real.object(&key).status.application.unwrap();
    assert_eq!(status.state.as_deref(), Some("Cancelled"));
    let left = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c 'application/[s]cript' || true";
    assert_eq!(real.sh(&key, left), "0\n");
    assert_eq!(count(&real, &key), 1);
    manifest["metadata"].as_object_mut().unwrap().remove("annotations");
    real.world.store.apply(manifest);
    go(&real, &key);
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(count(&real, &key), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_recovers() {
    let Some(mut real) = Real::start().await else { return };
    let key = real.world.store.apply(container("a", DEBIAN_12, json!({})));
    real.ready(std::slice::from_ref(&key)).await;
    // The disk on which records lie is full.
    real.sh(
        &key,
        "mkdir -p /var/lib/phoenix && mount -t tmpfs -o size=64k,nr_inodes=4 none /var/lib/phoenix && \
         head -c 64k /dev/zero >/var/lib/phoenix/fill || true",
    );
    real.world.store.apply(guest("a", json!({"script": COUNTED})));
    let message = real.reason(&key, "GuestDiskFull").await;
    assert!(message.contains("/var/lib/phoenix"), "{message}");
    assert_eq!(count(&real, &key), 0);
    real.sh(&key, "umount /var/lib/phoenix");
    go(&real, &key);
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(count(&real, &key), 1);
    // The script itself meets a full disk: its own words are shown.
    let script = "#!/bin/sh\nmkdir -p /mnt/small\nmountpoint -q /mnt/small || [ -e /root/more ] || \
                  mount -t tmpfs -o size=16k none /mnt/small\nset -e\nhead -c 1M /dev/zero >/mnt/small/file\n";
    real.world.store.apply(guest("a", json!({"script": script})));
    let message = real.reason(&key, "ScriptFailed").await;
    assert!(message.contains("No space left on device"), "{message}");
    real.sh(&key, "umount /mnt/small; touch /root/more");
    real.ready(std::slice::from_ref(&key)).await;
    // A script that leaves no room for the record of its end has run all the same: it is not taken for cut off.
    real.sh(&key, "mount -t tmpfs -o size=256k none /var/lib/phoenix");
    let script = "#!/bin/sh\necho run >>/root/filled\nhead -c 1M /dev/zero >/var/lib/phoenix/fill\ntrue\n";
    real.world.store.apply(guest("a", json!({"script": script})));
    let at = key.clone();
    real.until("the end cannot be recorded", move |real| {
        let tried = "ls /var/lib/phoenix/application/.new.* && ! cat /proc/*/cmdline | grep -qa 'application/[s]cript'";
        real.node
            .exec(real.vmid(&at), &["/bin/sh", "-c", tried])
            .status
            .success()
    })
    .await;
    real.world.round().await;
    let state = real.object(&key).status.application.and_then(|a| a.state);
    assert_eq!(state.as_deref(), Some("Running"));
    real.sh(&key, "rm /var/lib/phoenix/fill");
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(real.sh(&key, "cat /root/filled"), "run\n");
    // Where there is room for the record but none for the output, the script has ended, and its output stays in memory.
    let logs = "cat /run/phoenix/application/*/output /var/lib/phoenix/application/output.* 2>/dev/null | tail -n 1";
    real.sh(
        &key,
        "umount /var/lib/phoenix && mount -t tmpfs -o size=48k none /var/lib/phoenix",
    );
    let script =
        "#!/bin/sh\necho run >>/root/talked\nhead -c 200k /dev/zero | tr '\\0' x | fold\necho\necho the last word\n";
    real.world.store.apply(guest("a", json!({"script": script})));
    real.ready(std::slice::from_ref(&key)).await;
    assert_eq!(real.sh(&key, logs), "the last word\n");
    assert_eq!(
        real.sh(
            &key,
            "cat /root/talked; ls /var/lib/phoenix/application/output.* 2>&1 | tail -n 1 | grep -c 'No such file'"
        ),
        "run\n1\n"
    );
    real.sh(&key, "umount /var/lib/phoenix");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_daemons_and_questions_do_no_harm() {
    let Some(mut real) = Real::start().await else { return };
    // Ten megabytes; bytes that are no text; a daemon that holds the output; a question to nobody.
    let scripts = [
        (
            "loud",
            "head -c 10M /dev/zero | tr '\\0' 'x' | fold -w 99\necho the last word",
        ),
        (
            "binary",
            "printf 'caf\\351 \\377\\376\\000\\033[31m\\n'; head -c 100k /dev/urandom; echo; echo the last word",
        ),
        ("daemon", "(while :; do sleep 600; done) &\necho the last word"),
        (
            "asking",
            "read answer || answer=nobody\necho \"$answer\"; [ ! -t 0 ] && ! (: </dev/tty) 2>/dev/null\necho the last word",
        ),
    ];
    let key = |name: &str| crate::world::lxc_key(name);
    for (name, script) in scripts {
        // It fails, so that the output is shown.
        let text = format!("#!/bin/sh\necho run >>/root/count\n{script}\n[ -e /root/go ] || exit 9\n");
        real.world.store.apply(guest(name, json!({"script": text})));
    }
    for (name, _) in scripts {
        let message = real.reason(&key(name), "ScriptFailed").await;
        assert!(
            message.contains("exit code 9") && message.contains("the last word"),
            "{name}: {message}"
        );
        let status = serde_json::to_string(&real.object(&key(name)).status).unwrap();
        assert!(status.len() < 20_000 && !status.contains("\\u00"), "{name}: {status}");
        let spooled = real.sh(&key(name), "du -sk /run/phoenix | cut -f1");
        assert!(
            spooled.trim().parse::<u64>().unwrap() < 4096,
            "{name}: {spooled} KiB in memory"
        );
        go(&real, &key(name));
    }
    let keys: Vec<Key> = scripts.iter().map(|(name, _)| key(name)).collect();
    real.ready(&keys).await;
}

//! The scripts around a vLLM server, run here with stand-ins for systemctl, journalctl, curl and sleep.

#![allow(clippy::unwrap_used)] // a test that cannot prepare its files has failed

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use phoenix::crd::{PhoenixFeature, PhoenixHypervisor, PhoenixLXC};
use phoenix::desired::scripts::scripts;
use phoenix::desired::{GuestObject, MemoryObjects};

fn server() -> (GuestObject, MemoryObjects) {
    let objects = MemoryObjects::new();
    let feature = serde_json::json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"name": "vllm", "namespace": "ai"}, "spec": {"install": "true"},
    });
    objects.insert_feature(serde_json::from_value::<PhoenixFeature>(feature).unwrap());
    let lxc = serde_json::json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": "x", "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": "vllm"}], "vllm": {"model": "m"}},
    });
    let lxc: PhoenixLXC = serde_json::from_value(lxc).unwrap();
    (GuestObject::from(&lxc), objects)
}

/// A folder in place of the guest's root, with stand-ins in its `bin`.
struct Guest(tempfile::TempDir);

impl Guest {
    fn new(stand_ins: &[(&str, &str)]) -> Guest {
        let guest = Guest(tempfile::tempdir().unwrap());
        fs::create_dir_all(guest.root().join("bin")).unwrap();
        for (name, text) in stand_ins {
            let path = guest.root().join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}\n", guest.root().display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        guest
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root().join(name), text).unwrap();
    }

    /// What a script prints; the paths it uses are below the folder.
    fn run(&self, words: &[String]) -> String {
        let here = |word: &String| {
            ["/run/phoenix", "/proc/uptime", "/etc/systemd"]
                .iter()
                .fold(word.clone(), |text, path| {
                    text.replace(path, &format!("{}{path}", self.root().display()))
                })
        };
        let path = format!("{}/bin:{}", self.root().display(), std::env::var("PATH").unwrap());
        let words: Vec<String> = words.iter().map(here).collect();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn pauses_grow_and_begin_anew() {
    let (object, objects) = server();
    let all = scripts(&object, &PhoenixHypervisor::default(), &objects).unwrap();
    let script = all.iter().find(|s| s.id == "vllm").unwrap();
    let pause = script.files.iter().find(|f| f.path.ends_with("/vllm-pause")).unwrap();
    let guest = Guest::new(&[
        ("systemctl", "echo NRestarts=$(cat restarts)"),
        (
            "sleep",
            "IFS=. read -r up rest < proc/uptime; echo $((up + $1)).0 > proc/uptime; echo $1 > slept",
        ),
    ]);
    fs::create_dir(guest.root().join("proc")).unwrap();
    guest.write("proc/uptime", "5000.12 9999.99\n");
    // Seconds that the last start lasted, automatic restarts as systemd counts them, and what is slept.
    for (at, (lasted, restarts, wanted)) in [
        (0, 0, 0),
        (30, 1, 0),
        (30, 2, 10),
        (30, 3, 30),
        (30, 4, 70),
        (30, 5, 150),
        (30, 6, 290),
        (30, 7, 290),
        (599, 8, 290),
        // It ran: the first pause is RestartSec= alone again.
        (600, 9, 0),
        (30, 10, 10),
        (30, 11, 30),
        // Started by hand: systemd counts from 0, or stays where it was when nothing ran.
        (30, 0, 0),
        (30, 1, 0),
        (30, 2, 10),
        (30, 2, 0),
        (30, 3, 0),
        (30, 4, 10),
    ]
    .into_iter()
    .enumerate()
    {
        let uptime = fs::read_to_string(guest.root().join("proc/uptime")).unwrap();
        let up: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        guest.write("proc/uptime", &format!("{}.99 9999.99\n", up + lasted));
        guest.write("restarts", &restarts.to_string());
        guest.write("slept", "0");
        let said = guest.run(&["/bin/sh".into(), "-c".into(), pause.content.clone()]);
        let slept = fs::read_to_string(guest.root().join("slept")).unwrap();
        assert_eq!(slept.trim(), wanted.to_string(), "{at}: {said}");
        assert_eq!(
            said.contains(&format!("started in {wanted} seconds")),
            wanted > 0,
            "{at}: {said}"
        );
    }
}

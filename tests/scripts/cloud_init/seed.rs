//! A NoCloud seed: Proxmox's user-data and our vendor-data, applied by the real cloud-init in a real container.

use phoenix::crd::GuestKind;
use phoenix::desired::Key;
use phoenix::simulator::model::config::Section;
use phoenix::simulator::model::vm_cloudinit;

use super::container::{Container, PROXY};
use super::wishes;

const NAME: &str = "seeded";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl phoenix@desk";
/// Of the word `phoenix`.
const HASH: &str =
    "$6$ph0en1xsalt$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ./0123456789abcdefghijkl";

const OBJECTS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: pve, namespace: phoenix}
stringData: {tokenId: "a@pve!b", secret: c, key: d, known_hosts: e}
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixHypervisor
metadata: {name: pve, namespace: phoenix}
spec:
  endpoints: ["https://pve.example.org:8006"]
  credentials: {tokenSecretRef: {name: pve}}
  ssh: {keySecretRef: {name: pve, key: key}, knownHostsSecretRef: {name: pve, key: known_hosts}}
  defaults: {diskStorage: local-zfs, snippetStorage: local}
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixFeature
metadata: {name: first, namespace: phoenix}
spec:
  parameters: [{name: greeting, required: true}]
  check: test -e /etc/first
  install: |
    #!/bin/sh
    set -eu
    # Packages of the first boot are there before features are.
    command -v tree > /etc/first
    printf '%s\n' "$PHOENIX_GREETING" >> /etc/first
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixFeature
metadata: {name: second, namespace: phoenix}
spec:
  requires: [first]
  install: |
    #!/bin/sh
    cp /etc/first /etc/second
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixVM
metadata: {name: seeded, namespace: phoenix}
spec:
  hypervisorRef: {name: pve}
  source: {cloudImage: {volid: "local:import/debian-12.qcow2"}}
  # A container has no device for the agent, and its service would wait for it.
  agent: {install: false}
  features: [{name: second}, {name: first, parameters: {greeting: "it's \"$HOME\" – grüße"}}]
  cloudInit:
    packages: [tree]
    userData: |
      #cloud-config
      write_files:
        - {path: /etc/from-user-data, content: "yes: 0644\n"}
      runcmd:
        - [sh, -c, "echo ran > /etc/user-command"]
"#;

/// What Proxmox renders from the options of such a machine (facts F.2).
pub fn proxmox_user_data() -> String {
    let sshkeys = KEY.replace(' ', "%20").replace('+', "%2B").replace('/', "%2F");
    let options = [
        ("name", NAME),
        ("ciuser", "admin"),
        ("cipassword", HASH),
        ("sshkeys", sshkeys.as_str()),
        ("searchdomain", "example.test"),
        ("ciupgrade", "1"),
    ];
    let section = Section {
        options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Section::default()
    };
    vm_cloudinit::user_data(&section, 100)
}

/// Debian's cloud-init, told where to look and what to leave alone: the container's network is the node's proxy.
fn install(container: &Container) {
    container.put(
        "/etc/apt/apt.conf.d/90proxy",
        &format!("Acquire::http::Proxy \"{PROXY}\";\n"),
    );
    container.sh("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cloud-init openssh-client >/dev/null 2>&1");
    let only =
        "datasource_list: [NoCloud]\nnetwork: {config: disabled}\napt: {preserve_sources_list: true}\nlocale: false\n";
    container.put("/etc/cloud/cloud.cfg.d/99-test.cfg", only);
}

#[test]
fn a_seed_is_applied_in_a_container() {
    let (objects, machines) = wishes::objects([OBJECTS]);
    let key = Key::new(GuestKind::PhoenixVM, "phoenix", NAME);
    assert!(machines.contains(&key));
    let vendor_data = wishes::of(&key, &objects).render().unwrap();
    let Some(container) = Container::start(NAME) else {
        return;
    };
    install(&container);
    let seed = "/var/lib/cloud/seed/nocloud";
    container.put(&format!("{seed}/user-data"), &proxmox_user_data());
    container.put(&format!("{seed}/meta-data"), "instance-id: 0123456789abcdef\n");
    container.put(&format!("{seed}/vendor-data"), &vendor_data);
    container.power_off();
    container.power_on(NAME);

    // Its exit code is that of the worst part.
    let status = container.sh("timeout 300 cloud-init status --wait --long || true");
    assert!(
        status.contains("status: done"),
        "{status}{}",
        container.sh("tail -n 60 /var/log/cloud-init.log /var/log/cloud-init-output.log")
    );
    let home = container.sh("getent passwd admin | cut -d: -f6");
    assert_eq!(home.trim(), "/home/admin");
    assert!(container.sh("cat /home/admin/.ssh/authorized_keys").contains(KEY));
    assert_eq!(container.sh("getent shadow admin | cut -d: -f2").trim(), HASH);
    assert_eq!(container.sh("hostname").trim(), NAME);
    assert_eq!(container.sh("hostname -f").trim(), format!("{NAME}.example.test"));
    container.sh("dpkg -s tree");
    // The user's own part, then Phoenix's: features in the order in which they need each other.
    assert_eq!(
        container.sh("cat /etc/from-user-data /etc/user-command"),
        "yes: 0644\nran\n"
    );
    assert_eq!(
        container.sh("cat /etc/second"),
        "/usr/bin/tree\nit's \"$HOME\" – grüße\n"
    );
    let records = container.sh("find /var/lib/phoenix -type f | sort");
    for id in ["feature-first", "feature-second"] {
        assert!(records.contains(id), "{records}");
    }

    // The next boot runs none of it again.
    container.sh("rm /etc/user-command /etc/first /etc/second");
    container.power_off();
    container.power_on(NAME);
    container.sh("timeout 300 cloud-init status --wait || true");
    container.sh("test ! -e /etc/user-command -a ! -e /etc/first -a ! -e /etc/second");
}

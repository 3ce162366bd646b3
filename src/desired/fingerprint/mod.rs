//! Fingerprints of what is wanted: a template's revision, what was applied to a guest, and the name of a snippet. They
//! are compared with what status and Proxmox have from earlier releases, so nothing here hangs on names of Rust's or on
//! how it prints a value. Names are literals of this file, what is absent is not written, and a secret goes in as a
//! digest of its own.
//!
//! A golden value of the tests below may change only together with the version in the fingerprint's name.

mod applied;
mod revision_1;

use std::fmt::Display;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::pve::DiskSize;
use crate::secret::Secret;

use super::vm::{Managed, WantedVendor};
use super::{Desired, Form, ScriptRole};

pub(super) use applied::applied;

/// Bytes of a digest that are kept.
const BYTES: usize = 6;

/// Writes named values into a hash. Each part carries its length, so that no two inputs give one stream of bytes.
struct Fingerprint(Sha256);

impl Fingerprint {
    /// One whose name and version are part of it.
    fn new(name: &str) -> Self {
        Fingerprint(Sha256::new()).text(name)
    }

    /// A part without a name.
    fn text(mut self, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
        self
    }

    fn field(self, name: &str, value: impl Display) -> Self {
        self.text(name).text(value.to_string())
    }

    /// Nothing where the value is absent: a new optional part changes no fingerprint until it is set.
    fn opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// Written where it is true.
    fn flag(self, name: &str, value: bool) -> Self {
        self.opt(name, value.then_some("true"))
    }

    fn list<T: Display>(self, name: &str, list: impl IntoIterator<Item = T>) -> Self {
        let texts: Vec<String> = list.into_iter().map(|item| item.to_string()).collect();
        let head = self.field(name, texts.len());
        texts.into_iter().fold(head, Fingerprint::text)
    }

    /// An empty map is an absent one.
    fn map(self, name: &str, map: &Managed) -> Self {
        if map.is_empty() {
            return self;
        }
        self.list(name, map.iter().flat_map(|(key, value)| [key, value]))
    }

    /// An empty list is written, an absent one is not.
    fn opt_list<T: Display>(self, name: &str, list: Option<impl IntoIterator<Item = T>>) -> Self {
        match list {
            Some(list) => self.list(name, list),
            None => self,
        }
    }

    /// A value of the API, in the API's words; those leave out what is absent.
    fn api(self, name: &str, value: &impl Serialize) -> Self {
        // Types of the API have text keys and no other reason to fail.
        let text = serde_json::to_string(value).unwrap_or_default();
        self.opt(name, (text != "{}" && text != "null").then_some(text))
    }

    /// With the version before it, so that a later release knows what it cannot compare.
    fn versioned(self, version: u32) -> String {
        format!("{version}-{}", self.short())
    }

    fn short(self) -> String {
        let bytes = self.0.finalize();
        bytes.iter().take(BYTES).map(|b| format!("{b:02x}")).collect()
    }
}

/// Digest of parts without names.
pub(crate) fn digest<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let empty = Fingerprint(Sha256::new());
    parts.into_iter().fold(empty, Fingerprint::text).short()
}

/// What stands for a secret where it must not stand itself.
pub(crate) fn digest_of(secret: &Secret) -> String {
    digest([secret.expose()])
}

/// Content of what a template is built from: its source, its root filesystem or first disk, its scripts, and the wish to
/// be built anew. Options such as cores do not change what children copy. Empty for other guests.
pub(super) fn revision(desired: &Desired) -> String {
    if desired.life.form == Form::Guest {
        return String::new();
    }
    let lxc = desired.lxc();
    let mut parts = vec![
        revision_1::source(desired.source.as_ref()),
        format!(
            "{} {}",
            revision_1::some(lxc.and_then(|lxc| lxc.rootfs_size).map(DiskSize::in_gib)),
            revision_1::some(lxc.and_then(|lxc| lxc.unprivileged))
        ),
    ];
    parts.extend(desired.life.rebuild.iter().map(|value| format!("rebuild {value}")));
    if let Some(vm) = desired.vm() {
        let first = vm.disks.iter().flatten().next().and_then(|d| d.size);
        parts.push(format!(
            "vm {} {} {}",
            revision_1::some(first.map(DiskSize::in_gib)),
            revision_1::cloud_init(vm.cloud_init.as_ref()),
            revision_1::firmware(&vm.firmware)
        ));
    }
    // A part that comes later is added here, by name, where it is set.
    let keys = lxc.and_then(|lxc| lxc.ssh_keys.as_ref());
    parts.extend(keys.map(|keys| format!("sshKeys {}", digest_of(keys))));
    let scripts = desired.scripts.iter().filter(|s| s.role < ScriptRole::Test);
    parts.extend(scripts.map(|s| s.hash.clone()));
    digest(parts)
}

/// Digest of all that is in a snippet; part of the file's name.
pub(super) fn snippet(vendor: &WantedVendor) -> String {
    let packages = revision_1::list(vendor.packages.iter().map(|p| revision_1::quoted(p)));
    let mut parts = vec![packages, vendor.agent.to_string()];
    parts.push(vendor.user_data.clone().unwrap_or_default());
    parts.extend(vendor.scripts.iter().flat_map(|s| [s.id.clone(), s.hash.clone()]));
    digest(parts)
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::{Fingerprint, Managed};

    const WORLD: &str = r#"
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: [https://127.0.0.1:8006]
  credentials: {tokenSecretRef: {name: token}}
  ssh: {keySecretRef: {name: ssh, key: key}, knownHostsSecretRef: {name: ssh, key: known_hosts}}
  volumeOwners: {idRange: {start: 900, end: 909}}
  defaults: {rootfsStorage: tank, volumeStorage: tank, diskStorage: tank, bridge: vmbr0, imageStorage: local}
---
kind: Secret
metadata: {name: ssh}
stringData: {key: k, known_hosts: h}
---
kind: Secret
metadata: {name: user}
stringData: {hash: '$6$salt$abcdefghijklmnop', keys: 'ssh-ed25519 AAAAC3Nza me@desk'}
---
kind: PhoenixFeature
metadata: {name: one}
spec: {install: 'echo one'}
---
kind: PhoenixTemplate
metadata: {name: base}
spec: {hypervisorRef: {name: pve}, form: Template, lxc: {source: {image: {volid: 'local:vztmpl/a.tar.zst'}}, rootfs: {size: 8Gi}}}
"#;

    pub(super) fn resolved(kind: &str, spec: &str) -> Desired {
        let objects = testing::objects(WORLD);
        testing::apply(
            &objects,
            &format!(
                "kind: {kind}\nmetadata: {{name: a, uid: u, annotations: {{}}}}\nspec: {{hypervisorRef: {{name: pve}}, {spec}}}"
            ),
        );
        let object = objects.guests().into_iter().find(|o| o.key.name == "a").unwrap();
        objects.update_guest(
            &Key::new(crate::crd::GuestKind::PhoenixTemplate, "ai", "base"),
            |base| {
                base.status.vmid = Some(100);
                base.status.node = Some("pve1".into());
                base.status.revision = Some("0123456789ab".into());
                base.status.create_sent = Some(true);
                crate::status::set_condition(&mut base.status.conditions, "Ready", "True", Reason::Ready, "", 0, 0);
            },
        );
        resolve(&object, &objects, "cluster").unwrap_or_else(|e| panic!("{e:?}: {spec}"))
    }
    fn template(spec: &str) -> String {
        resolved("PhoenixTemplate", spec).prints.revision
    }

    /// Values that releases wrote into status: another one would build every template anew.
    #[test]
    fn revisions_of_templates_stay() {
        let image = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
        let sum = "a".repeat(64);
        let vm = "source: {cloudImage: {volid: 'local:import/a.qcow2'}}, disks: [{name: root, size: 20Gi}]";
        let data = r##""#cloud-config\nruncmd:\n- echo \"it's \u00e9\tdone\" \\\\n\n""##;
        let golden = [
            (
                format!("form: Template, lxc: {{source: {{image: {{volid: '{image}'}}}}, rootfs: {{size: 8Gi}}}}"),
                "86be04f357f0",
            ),
            (
                "form: Template, lxc: {source: {templateRef: {name: base}}, unprivileged: false}".into(),
                "a3f8f460aec9",
            ),
            (
                format!("form: Snapshot, lxc: {{source: {{image: {{url: 'https://x.example/a\"b''c.tar.zst', sha256: '{sum}'}}}}, rootfs: {{size: 4Gi}}, unprivileged: true, features: [{{name: one}}]}}"),
                "c4e18ab7acfe",
            ),
            (
                "form: Template, lxc: {source: {image: {appliance: debian-12-standard_12.7-1_amd64.tar.zst}}, rootfs: {size: 4Gi}}".into(),
                "819770e028c8",
            ),
            (format!("form: Template, vm: {{{vm}}}"), "bd04f9aa6b8b"),
            (
                format!("form: Template, vm: {{{vm}, bios: ovmf, efiDisk: {{storage: tank, preEnrolledKeys: true}}, tpm: {{version: v1.2}}, features: [{{name: one}}], cloudInit: {{user: ops, storage: tank, snippetStorage: local, packages: [htop, jq], passwordHashSecretRef: {{name: user, key: hash}}, userData: {data}}}}}"),
                "58bf2b305470",
            ),
            (
                format!("form: Template, vm: {{{vm}, bios: ovmf, tpm: {{}}, cloudInit: {{}}}}"),
                "5606949b80de",
            ),
        ];
        for (spec, revision) in golden {
            assert_eq!(template(&spec), revision, "{spec}");
        }
    }

    fn applied(kind: &str, spec: &str) -> String {
        resolved(kind, spec).prints.applied
    }

    const CONTAINER: &str = "source: {image: {volid: 'local:vztmpl/a.tar.zst'}}, cores: 2, memory: 1Gi, rootfs: {size: 8Gi}, \
        tags: [x], network: [{name: eth0, ip: 10.0.0.5/24}], features: [{name: one}], \
        volumes: [{name: data, size: 5Gi, mountPath: /data}], gpus: [{index: 0}]";
    const MACHINE: &str = "source: {cloudImage: {volid: 'local:import/a.qcow2'}}, cpu: {cores: 2}, memory: 2Gi, bios: ovmf, \
        tpm: {}, disks: [{name: root, size: 20Gi}], \
        cloudInit: {user: ops, packages: [jq], passwordHashSecretRef: {name: user, key: hash}}";

    /// Values that releases wrote into status: another one would take drift for a changed spec.
    #[test]
    fn what_was_applied_stays() {
        assert_eq!(applied("PhoenixLXC", CONTAINER), "1-2ca77808dd60");
        assert_eq!(applied("PhoenixVM", MACHINE), "1-f18382887444");
    }

    #[test]
    fn every_change_of_the_spec_changes_what_is_applied() {
        let changes = [
            (CONTAINER, "PhoenixLXC", "cores: 2", "cores: 3"),
            (CONTAINER, "PhoenixLXC", "8Gi", "9Gi"),
            (CONTAINER, "PhoenixLXC", "8Gi", "8193Mi"),
            (CONTAINER, "PhoenixLXC", "5Gi", "512Mi"),
            (CONTAINER, "PhoenixLXC", "tags: [x]", "tags: []"),
            (CONTAINER, "PhoenixLXC", "tags: [x], ", ""),
            (CONTAINER, "PhoenixLXC", "10.0.0.5", "10.0.0.6"),
            (CONTAINER, "PhoenixLXC", "features: [{name: one}], ", ""),
            (CONTAINER, "PhoenixLXC", "/data", "/other"),
            (CONTAINER, "PhoenixLXC", "index: 0", "index: 1"),
            (CONTAINER, "PhoenixLXC", "cores: 2", "cores: 2, powerState: Stopped"),
            (MACHINE, "PhoenixVM", "ovmf", "seabios"),
            (MACHINE, "PhoenixVM", "tpm: {}", "tpm: {version: v1.2}"),
            (MACHINE, "PhoenixVM", "20Gi", "21Gi"),
            (MACHINE, "PhoenixVM", "20Gi", "20481Mi"),
            (MACHINE, "PhoenixVM", "jq", "htop"),
            (
                MACHINE,
                "PhoenixVM",
                ", passwordHashSecretRef: {name: user, key: hash}",
                "",
            ),
        ];
        for (spec, kind, old, new) in changes {
            let changed = spec.replacen(old, new, 1);
            assert_ne!(applied(kind, spec), applied(kind, &changed), "{old} → {new}");
        }
    }

    #[test]
    fn a_size_counts_however_it_is_spelt() {
        for (spec, kind, gib, other) in [
            (CONTAINER, "PhoenixLXC", "8Gi", "8192Mi"),
            (CONTAINER, "PhoenixLXC", "5Gi", "5368709120"),
            (MACHINE, "PhoenixVM", "20Gi", "20480Mi"),
        ] {
            assert_eq!(applied(kind, spec), applied(kind, &spec.replacen(gib, other, 1)));
        }
        let sized = |size: &str| {
            let image = "source: {image: {volid: 'local:vztmpl/a.tar.zst'}}";
            template(&format!("form: Template, lxc: {{{image}, rootfs: {{size: {size}}}}}"))
        };
        assert_eq!(sized("1Gi"), sized("1024Mi"));
        assert_ne!(sized("1Gi"), sized("1025Mi"));
        assert_ne!(sized("512Mi"), sized("513Mi"));
    }

    /// A new optional part changes no fingerprint until it is set.
    #[test]
    fn what_is_absent_is_not_written() {
        let print = || Fingerprint::new("x").field("a", 1);
        let none: Option<&str> = None;
        let empty = Managed::new();
        let without = print().short();
        assert_eq!(print().opt("new", none).short(), without);
        assert_eq!(print().flag("new", false).short(), without);
        assert_eq!(print().map("new", &empty).short(), without);
        assert_eq!(print().opt_list("new", None::<Vec<&str>>).short(), without);
        assert_eq!(print().api("new", &crate::crd::Health::default()).short(), without);
        for with in [
            print().opt("new", Some("")),
            print().flag("new", true),
            print().opt_list("new", Some(Vec::<&str>::new())),
            print().list("new", ["a"]),
            Fingerprint::new("y").field("a", 1),
            Fingerprint::new("x").field("a1", ""),
        ] {
            assert_ne!(with.short(), without);
        }
    }
}

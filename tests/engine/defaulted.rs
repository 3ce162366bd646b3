//! A value that is the hypervisor's default is blamed under the hypervisor's field, and one of the guest's under its own.

use crate::engine::{World, guest, hypervisor, rounds, status, template, vm};
use phoenix::crd::{Defaults, PhoenixHypervisor};
use serde_json::{Value, json};

struct Case {
    what: &'static str,
    default: fn(&mut Defaults),
    object: fn() -> Value,
    told: &'static str,
}

const CASES: &[Case] = &[
    Case {
        what: "storage of a root filesystem",
        default: |d| d.rootfs_storage = Some("gone".into()),
        object: || guest("a", json!({})),
        told: "PhoenixHypervisor ai/pve spec.defaults.rootfsStorage: node phoenix has no storage \"gone\"",
    },
    Case {
        what: "storage of a root filesystem of the guest's own",
        default: |_| {},
        object: || guest("a", json!({"rootfs": {"size": "8Gi", "storage": "gone"}})),
        told: "spec.rootfs.storage: node phoenix has no storage \"gone\"",
    },
    Case {
        what: "storage of a template",
        default: |d| d.rootfs_storage = Some("gone".into()),
        object: || template("a", "Template"),
        told: "PhoenixHypervisor ai/pve spec.defaults.rootfsStorage: ",
    },
    Case {
        what: "storage of a volume",
        default: |d| d.volume_storage = Some("gone".into()),
        object: || {
            guest(
                "a",
                json!({"volumes": [{"name": "v", "size": "1Gi", "mountPath": "/v", "reclaimPolicy": "Delete"}]}),
            )
        },
        told: "PhoenixHypervisor ai/pve spec.defaults.volumeStorage: ",
    },
    Case {
        what: "storage of a disk",
        default: |d| d.disk_storage = Some("gone".into()),
        object: || vm("a", json!({})),
        told: "PhoenixHypervisor ai/pve spec.defaults.diskStorage: ",
    },
    Case {
        what: "storage of an image",
        default: |d| d.image_storage = Some("gone".into()),
        object: || {
            let url = json!({"image": {"url": "http://x/a.tar.xz", "sha256": "a".repeat(64)}});
            guest("a", json!({}))
                .as_object()
                .map(|o| {
                    let mut o = o.clone();
                    o["spec"]["source"] = url;
                    Value::Object(o)
                })
                .unwrap()
        },
        told: "PhoenixHypervisor ai/pve spec.defaults.imageStorage: ",
    },
    Case {
        what: "node",
        default: |d| d.node = Some("pve9".into()),
        object: || guest("a", json!({})),
        told: "PhoenixHypervisor ai/pve spec.defaults.node: \"pve9\" is not a node of the cluster (phoenix)",
    },
    Case {
        what: "bridge",
        default: |d| d.bridge = Some("vmbr77".into()),
        object: || guest("a", json!({"network": [{"name": "eth0", "ip": "dhcp"}]})),
        told: "PhoenixHypervisor ai/pve spec.defaults.bridge: ",
    },
    Case {
        what: "memory",
        default: |d| d.memory = Some("100M".into()),
        object: || {
            let mut object = guest("a", json!({}));
            object["spec"].as_object_mut().unwrap().remove("memory");
            object
        },
        told: "PhoenixHypervisor ai/pve spec.defaults.memory: \"100M\" is not a whole number of MiB",
    },
];

#[tokio::test(start_paused = true)]
async fn a_default_is_blamed_under_the_hypervisors_field() {
    for case in CASES {
        let world = World::with_ssh(&[]).await;
        hypervisor(&world, |h: &mut PhoenixHypervisor| {
            (case.default)(h.spec.defaults.get_or_insert_default());
        });
        let key = world.store.apply((case.object)());
        let mut told = String::new();
        for _ in 0..60 {
            rounds(&world, 1).await;
            let status = status(&world, &key);
            told = [status.message, status.last_error]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n");
            if told.contains(case.told) {
                break;
            }
        }
        assert!(told.contains(case.told), "{}: {told}", case.what);
        let own = case.told.starts_with("spec.") && told.starts_with("spec.");
        assert!(
            own || told.contains("PhoenixHypervisor ai/pve spec."),
            "{}: {told}",
            case.what
        );
    }
}

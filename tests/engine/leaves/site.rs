//! A cluster that has two of everything that a spec can name.

use phoenix::simulator::model::access::AclEntry;
use phoenix::simulator::model::download::RemoteFile;
use phoenix::simulator::model::guest::OsImage;
use phoenix::simulator::model::node::Bridge;
use phoenix::simulator::model::storage::Volume;
use serde_json::{Value, json};

use super::SUM;
use crate::engine::{World, hypervisor, second_node};

/// The cluster.
pub async fn site() -> World {
    let world = World::with_ssh(&[]).await;
    second_node(&world);
    hypervisor(&world, |object| {
        let spec = json!({"vmidRange": {"start": 1000, "end": 4999}, "limits": {"parallelTasksPerNode": 64}, "defaults": {"node": "phoenix"}});
        let mut all = serde_json::to_value(&object.spec).unwrap();
        super::table::merge(&mut all, &spec);
        object.spec = serde_json::from_value(all).unwrap();
    });
    for parameterised in ["first", "second"] {
        world.feature(
            parameterised,
            json!({"targets": ["lxc", "vm"], "parameters": [{"name": "key"}]}),
        );
    }
    for server in ["vllm", "ollama", "llamacpp"] {
        world.feature(server, json!({"targets": ["lxc"]}));
    }
    let store = &world.store.objects;
    let data =
        |name: &str, of: &str| json!({"one": format!("{of} one of {name}\n"), "two": format!("{of} two of {name}\n")});
    for name in ["words", "others"] {
        let value = json!({"metadata": {"name": name, "namespace": "ai"}, "data": data(name, "#!/bin/sh\n# ")});
        store.insert_config_map(serde_json::from_value(value).unwrap());
    }
    let secret = |name: &str, data: Value| {
        let value = json!({"metadata": {"name": name, "namespace": "ai"}, "stringData": data});
        store.insert_secret(serde_json::from_value(value).unwrap());
    };
    secret("secrets", data("secrets", "value"));
    secret("others", data("others", "value"));
    for name in ["keys", "more-keys"] {
        let key = |word: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPhoenix{name}{word} somebody\n");
        secret(name, json!({"one": key("1"), "two": key("2")}));
    }
    for name in ["tokens", "more-tokens"] {
        secret(
            name,
            json!({"one": format!("hf_{name}1"), "two": format!("hf_{name}2")}),
        );
    }
    for name in ["hashes", "more-hashes"] {
        let hash = |word: &str| {
            format!(
                "$6${name}{word}$abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789012345678901234567890123"
            )
        };
        secret(name, json!({"one": hash("1"), "two": hash("2")}));
    }
    world.sim().with(|state| {
        for node in state.nodes.values_mut() {
            node.bridges.insert("vmbr1".into(), Bridge { mtu: 1500 });
        }
        let rights = ["Pool.Audit", "Pool.Allocate", "VM.Allocate"].map(str::to_string);
        state.access.roles.insert("Pools".into(), rights.into());
        for pool in ["ai", "ml"] {
            state.pools.insert(pool.into(), Default::default());
            state.access.acl.insert(AclEntry {
                path: format!("/pool/{pool}"),
                kind: "user".into(),
                who: "phoenix@pve".into(),
                role: "Pools".into(),
                propagate: true,
            });
        }
        // The order of starts and file systems of containers are the node's.
        state
            .access
            .roles
            .insert("Modify".into(), ["Sys.Modify".to_string()].into());
        state.access.acl.insert(AclEntry {
            path: "/".into(),
            kind: "user".into(),
            who: "phoenix@pve".into(),
            role: "Modify".into(),
            propagate: false,
        });
        let local = state.storages.get_mut("local").unwrap();
        for name in ["one.pl", "two.pl"] {
            let volume = Volume {
                content: "snippets".into(),
                size: 100,
                format: "snippet".into(),
                ..Volume::default()
            };
            local.insert("phoenix", &format!("snippets/{name}"), volume);
        }
        let bulk = state.storages.get_mut("fastData-shared-bulk-data").unwrap();
        for name in ["subvol-777-disk-0", "subvol-777-disk-1"] {
            let volume = Volume {
                owner: Some(777),
                size: 1 << 30,
                format: "subvol".into(),
                formatted: true,
                ..Volume::default()
            };
            bulk.insert("phoenix", name, volume);
        }
        let local = state.storages.get_mut("local").unwrap();
        for name in ["one.iso", "two.iso"] {
            let volume = Volume {
                content: "iso".into(),
                size: 100,
                format: "iso".into(),
                ..Volume::default()
            };
            local.insert("phoenix", &format!("iso/{name}"), volume);
        }
        let os = OsImage {
            ostype: "ubuntu".into(),
            arch: "amd64".into(),
            systemd: Some(255),
            agent: false,
        };
        for url in ["https://images.example/one.tar.zst", "https://images.example/one.qcow2"] {
            let file = RemoteFile {
                size: 1000,
                virtual_size: url.ends_with("qcow2").then_some(1 << 30),
                sums: [("sha256".to_string(), SUM.to_string())].into(),
                os: Some(os.clone()),
                oci: None,
            };
            state.remote_files.insert(url.into(), file);
        }
    });
    world
}

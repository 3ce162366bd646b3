//! What a spec is refused for, with the field, and who may name whom.

use std::collections::BTreeMap;

use super::testing::{apply, lxc, objects};
use super::*;
use crate::crd::GuestKind;

fn world(hypervisor: &str) -> MemoryObjects {
    objects(&format!(
        "kind: PhoenixHypervisor\nmetadata: {{name: pve}}\nspec:\n  endpoints: ['https://pve:8006']\n  credentials: {{tokenSecretRef: {{name: t}}}}\n  {hypervisor}"
    ))
}

/// What an object of a kind in a namespace comes to.
fn resolved(world: &MemoryObjects, kind: &str, namespace: &str, spec: &str) -> Result<(), Blocked> {
    apply(
        world,
        &format!(
            "kind: {kind}\nmetadata: {{name: a, namespace: {namespace}}}\nspec: {{hypervisorRef: {{name: pve, namespace: ai}}, {spec}}}"
        ),
    );
    let kind = match kind {
        "PhoenixLXC" => GuestKind::PhoenixLXC,
        _ => GuestKind::PhoenixVM,
    };
    let object = world.guest(&Key::new(kind, namespace, "a")).unwrap();
    resolve(&object, world, "cluster").map(drop)
}

const SSH: &str = "ssh: {keySecretRef: {name: k, key: k}, knownHostsSecretRef: {name: k, key: h}}";
const IMAGE: &str = "source: {cloudImage: {volid: 'local:import/a.qcow2'}}";

#[test]
fn what_proxmox_would_refuse_is_told_with_its_field() {
    let storage = "defaults: {diskStorage: tank}";
    let with_ssh = format!("{storage}\n  {SSH}");
    let agent = "agent: {install: true}";
    for (hypervisor, kind, spec, expected) in [
        (storage, "PhoenixLXC", "memory: 8Mi", "spec.memory: 8Mi is too little"),
        (
            "vmidRange: {start: 100, end: 199}",
            "PhoenixVM",
            IMAGE,
            "spec.disks[root].storage is missing",
        ),
        (
            storage,
            "PhoenixVM",
            &format!("{IMAGE}, disks: []"),
            "spec.disks is empty",
        ),
        (
            storage,
            "PhoenixVM",
            agent,
            "spec.agent.install is put into a snippet on the node, which needs SSH",
        ),
        (
            &with_ssh,
            "PhoenixVM",
            agent,
            "spec.agent.install: true needs cloud-init",
        ),
        (
            storage,
            "PhoenixVM",
            "disks: [{name: root, size: 8Gi}], bootOrder: [data]",
            "spec.bootOrder: \"data\" is neither a disk",
        ),
        (
            storage,
            "PhoenixLXC",
            "hostMounts: [{name: a, hostPath: '/srv/a ', mountPath: /a}]",
            "spec.hostMounts[a].hostPath",
        ),
        (
            storage,
            "PhoenixVM",
            "agent: {enabled: false}, features: [{name: f}]",
            "spec.features runs through the guest agent",
        ),
    ] {
        let world = world(hypervisor);
        apply(
            &world,
            "kind: PhoenixFeature\nmetadata: {name: f}\nspec: {install: 'true'}",
        );
        let message = resolved(&world, kind, "ai", spec).unwrap_err().cause().message.clone();
        assert!(message.starts_with(expected), "{spec}: {message}");
    }
    for (kind, spec) in [("PhoenixLXC", "memory: 16Mi"), ("PhoenixVM", IMAGE)] {
        assert_eq!(resolved(&world(storage), kind, "ai", spec), Ok(()), "{spec}");
    }
}

#[test]
fn vllm_takes_no_more_than_its_share_and_no_more_cards_than_there_are() {
    let world = objects(&format!(
        "kind: PhoenixHypervisor\nmetadata: {{name: pve}}\nspec:\n  endpoints: ['https://pve:8006']\n  credentials: {{tokenSecretRef: {{name: t}}}}\n  {SSH}\n---\nkind: PhoenixFeature\nmetadata: {{name: vllm}}\nspec: {{install: a}}"
    ));
    let told = |gpus: &str, vllm: &str| {
        let spec = format!("gpus: {gpus}, features: [{{name: vllm}}], vllm: {{model: m, {vllm}}}");
        resolved(&world, "PhoenixLXC", "ai", &spec).map_err(|blocked| blocked.cause().message.clone())
    };
    let refused = told("[{index: 0, vramShare: 0.2}]", "gpuMemoryUtilization: 0.25").unwrap_err();
    let words = "spec.vllm.gpuMemoryUtilization: 0.25 is above spec.gpus[0].vramShare, 0.2";
    assert!(refused.contains(words), "{refused}");
    let refused = told("[{count: 2}]", "tensorParallelSize: 3").unwrap_err();
    let words = "spec.vllm.tensorParallelSize: 3 is above the number of gpus, 2";
    assert!(refused.contains(words), "{refused}");
    told(
        "[{count: 2, vramShare: 0.5}]",
        "tensorParallelSize: 2, gpuMemoryUtilization: 0.5",
    )
    .unwrap();
}

#[test]
fn a_selector_of_namespaces_means_what_it_does_in_kubernetes() {
    let lets_in = |expression: &str, team: Option<&str>| {
        let hypervisor = format!(
            "allowedNamespaces: {{from: Selector, selector: {{matchExpressions: [{{key: team, {expression}}}]}}}}"
        );
        let world = world(&hypervisor);
        let labels = team.map(|team| ("team".to_string(), team.to_string()));
        world.insert_namespace("tenant", BTreeMap::from_iter(labels));
        resolved(&world, "PhoenixLXC", "tenant", "memory: 1Gi").is_ok()
    };
    let (one, other) = (Some("vision"), Some("audio"));
    for (expression, expected) in [
        ("operator: In, values: [vision]", [true, false, false]),
        ("operator: NotIn, values: [vision]", [false, true, true]),
        ("operator: Exists", [true, true, false]),
        ("operator: DoesNotExist", [false, false, true]),
        ("operator: Like, values: [vision]", [false, false, false]),
    ] {
        let found = [one, other, None].map(|team| lets_in(expression, team));
        assert_eq!(found, expected, "{expression}");
    }
}

#[test]
fn an_object_names_what_it_needs_and_whose_volumes_it_has() {
    let world = world("defaults: {rootfsStorage: tank}");
    let spec = "source: {templateRef: {name: base}}, dependsOn: [{kind: PhoenixVM, name: db}], volumes: [{name: d, volid: 'tank:subvol-7-disk-1', mountPath: /d}]";
    apply(
        &world,
        "kind: PhoenixTemplate\nmetadata: {name: base}\nspec: {hypervisorRef: {name: pve}, form: Template, lxc: {}}",
    );
    let _ = resolved(&world, "PhoenixLXC", "ai", spec);
    let object = lxc(&world, "a");
    let needed: Vec<String> = refs::needs(&object, &world).iter().map(Key::to_string).collect();
    assert_eq!(needed, ["PhoenixVM ai/db", "PhoenixTemplate ai/base"]);
    assert_eq!(object.existing_volumes(), ["tank:subvol-7-disk-1".to_string()].into());
}

/// What the guest waits for comes before what it only tells of.
#[test]
fn of_several_conflicts_those_for_which_it_waits_come_first() {
    let world = world("defaults: {bridge: vmbr0}");
    let with = |name: &str, created: i64, ips: &[&str]| {
        let nets: Vec<String> = ips
            .iter()
            .map(|ip| format!("{{name: 'e{ip}', ip: 10.0.0.{ip}/24}}"))
            .collect();
        of(&world, name, created, &format!("network: [{}]", nets.join(", ")));
    };
    with("a", 30, &["5"]);
    with("m", 20, &["5", "6"]);
    with("z", 10, &["6"]);
    let waits: Vec<bool> = conflicts::conflicts(&lxc(&world, "m"), &world)
        .iter()
        .map(|c| c.waits)
        .collect();
    assert_eq!(waits, [true, false]);
}

fn of(world: &MemoryObjects, name: &str, created: i64, spec: &str) -> Key {
    apply(
        world,
        &format!("kind: PhoenixLXC\nmetadata: {{name: {name}}}\nspec: {{hypervisorRef: {{name: pve}}, {spec}}}"),
    );
    let key = Key::new(GuestKind::PhoenixLXC, "ai", name);
    world.update_guest(&key, |g| g.created = Some(created));
    key
}

/// Whose guest was made comes before whose object is older.
#[test]
fn of_two_with_one_address_the_one_whose_guest_was_made_keeps_it() {
    let world = world("defaults: {bridge: vmbr0}");
    let net = "network: [{name: eth0, ip: 10.0.0.5/24}]";
    let (young, old) = (of(&world, "young", 20, net), of(&world, "old", 10, net));
    world.update_guest(&young, |g| {
        (g.status.vmid, g.status.create_sent) = (Some(100), Some(true))
    });
    let waits = |key: &Key| conflicts::conflicts(&world.guest(key).unwrap(), &world)[0].waits;
    assert!(!waits(&young) && waits(&old));
}

#[test]
fn an_image_is_of_the_object_that_has_it_and_counts_on_its_own_hypervisor_only() {
    let world = world("defaults: {rootfsStorage: tank}");
    apply(
        &world,
        "kind: PhoenixHypervisor\nmetadata: {name: far}\nspec: {endpoints: ['https://far:8006'], credentials: {tokenSecretRef: {name: t}}}",
    );
    let volid = "tank:vm-7-disk-1";
    let spec = format!("volumes: [{{name: d, volid: '{volid}', mountPath: /d}}]");
    let (young, old) = (of(&world, "young", 20, &spec), of(&world, "old", 10, &spec));
    let refused = |key: &Key| conflicts::image_is_of_one(&world.guest(key).unwrap(), &world).is_err();
    assert!(refused(&young) && !refused(&old), "the older one gets it");
    let has = |g: &mut GuestObject| {
        let volumes = g.status.volumes.get_or_insert_default();
        volumes.push(crate::crd::VolumeStatus {
            name: "d".into(),
            volid: Some(volid.into()),
            ..Default::default()
        });
    };
    world.update_guest(&young, has);
    assert!(!refused(&young) && refused(&old), "who has it keeps it");
    apply(
        &world,
        &format!("kind: PhoenixLXC\nmetadata: {{name: young}}\nspec: {{hypervisorRef: {{name: far}}, {spec}}}"),
    );
    world.update_guest(&young, has);
    assert!(!refused(&old), "there it is another volume");
}

/// What is not in the hash is taken for drift when it is edited, or is never seen.
#[test]
fn an_edit_of_anything_is_an_edit_of_the_spec() {
    let print = |spec: &str| {
        let world = world(&format!(
            "defaults: {{rootfsStorage: tank, volumeStorage: tank, bridge: vmbr0}}\n  {SSH}"
        ));
        let key = of(
            &world,
            "a",
            1,
            &format!("source: {{image: {{volid: 'local:vztmpl/a.tar.zst'}}}}, {spec}"),
        );
        let desired =
            resolve(&world.guest(&key).unwrap(), &world, "cluster").unwrap_or_else(|e| panic!("{spec}: {e:?}"));
        desired.prints.applied
    };
    for (one, other) in [
        (
            "hostMounts: [{name: a, hostPath: /srv/a, mountPath: /a}]",
            "hostMounts: [{name: a, hostPath: /srv/b, mountPath: /a}]",
        ),
        (
            "hostMounts: [{name: a, hostPath: /srv/a, mountPath: /a}]",
            "hostMounts: [{name: a, hostPath: /srv/a, mountPath: /a, readOnly: true}]",
        ),
        (
            "volumes: [{name: d, size: 5Gi, mountPath: /d, reclaimPolicy: Delete}]",
            "volumes: [{name: d, size: 6Gi, mountPath: /d, reclaimPolicy: Delete}]",
        ),
        ("devices: [{path: /dev/ttyUSB0}]", "devices: [{path: /dev/ttyUSB1}]"),
        ("gpus: []", "cores: 1"),
        (
            "network: [{name: eth0, ip: dhcp}]",
            "network: [{name: eth0, ip: dhcp, mtu: 9000}]",
        ),
        ("rootfs: {size: 8Gi}", "rootfs: {size: 9Gi}"),
        ("tags: [a]", "tags: [b]"),
        ("firewall: {enabled: true}", "firewall: {enabled: false}"),
        ("powerState: Running", "powerState: Stopped"),
        ("cores: 1", "cores: 2"),
    ] {
        assert_ne!(print(one), print(other), "{one} | {other}");
        assert_eq!(print(one), print(one));
    }
}

#[test]
fn an_object_of_another_namespace_is_named_to_the_hypervisors_own_alone() {
    let world = world("defaults: {bridge: vmbr0}");
    let spec = "hypervisorRef: {name: pve, namespace: ai}, network: [{name: eth0, ip: 10.0.0.5/24}]";
    for namespace in ["ai", "tenant"] {
        apply(
            &world,
            &format!("kind: PhoenixLXC\nmetadata: {{name: a, namespace: {namespace}}}\nspec: {{{spec}}}"),
        );
    }
    let told = |namespace: &str| {
        let key = Key::new(GuestKind::PhoenixLXC, namespace, "a");
        conflicts::conflicts(&world.guest(&key).unwrap(), &world)[0]
            .message
            .clone()
    };
    assert!(told("ai").contains("PhoenixLXC tenant/a"), "{}", told("ai"));
    assert!(
        told("tenant").contains("an object of another namespace"),
        "{}",
        told("tenant")
    );
}

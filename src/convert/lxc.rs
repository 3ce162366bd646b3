//! Containers: `PhoenixLXC`, and `PhoenixTemplate` of lxc form.

use crate::crd::{
    Boot, Dependency, ExecAction, Expose, GuestFields, GuestKind, Health, LocalRef, LxcGuest, LxcSource, ObjectRef,
    PhoenixLXC, PhoenixLXCSpec, PhoenixTemplate, PhoenixTemplateSpec, Probe, RootFs,
};

use super::checks::Seen;
use super::facts::Facts;
use super::guests::{CLONE_KEYS, Guest, Guests};
use super::json::{At, Node};
use super::network::{self, Naming};
use super::scripts::Scripts;
use super::writer::Writer;
use super::{expose, features, firewall, form, id_maps, model_servers, names, options, storage, values, vllm};

/// Why a template has no volumes and mounts.
const NO_MOUNTS: &str = "a template has no volumes and mounts: clones would copy them";

/// What mapping a guest needs besides the guest.
pub struct Fleet<'f, 'a> {
    /// All guests.
    pub guests: &'f Guests<'a>,
    /// What the hypervisor file says.
    pub facts: &'f Facts<'a>,
    /// The tops of the files.
    pub roots: &'f [At<'a>],
    /// The hypervisor of all guests.
    pub hypervisor: &'f str,
    /// Whether templates become Proxmox templates where clones of them can be linked.
    pub linked_clones: bool,
}

/// A manifest of a guest.
#[derive(Debug)]
pub enum GuestManifest {
    /// A container.
    Lxc(Box<PhoenixLXC>),
    /// A template.
    Template(Box<PhoenixTemplate>),
    /// A virtual machine.
    Vm(Box<crate::crd::PhoenixVM>),
}

impl GuestManifest {
    /// The first port that the guest is to be reached at.
    pub fn first_port(&self) -> Option<Expose> {
        let ports = match self {
            GuestManifest::Lxc(lxc) => &lxc.spec.expose,
            GuestManifest::Vm(vm) => &vm.spec.expose,
            GuestManifest::Template(_) => return None,
        };
        ports.iter().flatten().next().cloned()
    }
}

/// Maps a container.
pub fn container<'a>(
    w: &mut Writer,
    index: usize,
    fleet: &Fleet<'_, 'a>,
    scripts: &mut Scripts,
    seen: &mut Seen<'a>,
) -> Option<GuestManifest> {
    let guest = fleet.guests.list.get(index)?;
    let at = &guest.at;
    let template = guest.kind == GuestKind::PhoenixTemplate;
    let mut lxc = base(w, guest, fleet, seen);
    let root = fleet.roots.get(at.file)?;
    let (features, extra) = features::features(w, guest, root, fleet.facts);
    lxc.shared.features = features;
    let options = options::options(w, at, &extra);
    lxc.capabilities = options.capabilities;
    lxc.shared.protection = options.protection;
    lxc.cpu_limit = options.cpu_limit;
    lxc.cpu_units = options.cpu_units;
    lxc.apparmor_profile = options.apparmor_profile;
    lxc.lxc_options = options.lxc_options;
    id_maps::id_maps(w, at, lxc.unprivileged, &mut lxc.lxc_options);
    lxc.gpus = seen.gpus(w, at);
    match vllm::vllm(w, at) {
        Some(server) => {
            // A template does not run, so its server takes nothing of a GPU.
            let gpus = lxc.gpus.as_deref().filter(|_| !template);
            seen.vllm(w, at, &server, gpus);
            vllm::require_feature(w, index, fleet.guests, &mut lxc.shared.features);
            if template {
                vllm::of_template(w, at);
            }
            let mut block = server.block;
            // A warning says so: the object would be refused otherwise, and its server lost.
            let most = lxc.gpus.as_ref().map(|gpus| (gpus.len() as i64).max(1));
            block.tensor_parallel_size = block.tensor_parallel_size.map(|n| most.map_or(n, |most| n.min(most)));
            lxc.vllm = Some(block);
        }
        None => {
            let has_feature = features::named(guest).iter().any(|f| f == "vllm");
            vllm::missing(w, at, template, has_feature, scripts.starts_vllm(at));
        }
    }
    if lxc.vllm.is_none() && !template {
        lxc.ollama = model_servers::ollama(w, guest, scripts.text(at));
    }
    lxc.shared.application = scripts.application(w, at, lxc.vllm.is_some());
    lxc.shared.boot = boot(w, at, template);
    let tests = scripts.tests(w, at);
    let depends_on = depends_on(w, index, fleet.guests, seen);
    rest(w, at);
    let expose = expose::expose(w, guest, template);
    let hypervisor_ref = ObjectRef {
        name: fleet.hypervisor.to_owned(),
        namespace: None,
    };
    if template {
        storage::refuse_mounts(w, at, guest.id, fleet.facts, NO_MOUNTS);
        no_health(w, at);
        let storage = form::rootfs_storage(guest, fleet);
        let (form, snapshot_name) = form::form(w, guest, fleet, storage.as_deref()).unwrap_or_default();
        let spec = PhoenixTemplateSpec {
            hypervisor_ref,
            lxc: Some(lxc),
            form: Some(form),
            snapshot_name,
            tests,
            depends_on,
            ..PhoenixTemplateSpec::default()
        };
        return Some(GuestManifest::Template(Box::new(PhoenixTemplate::new(
            &guest.name,
            spec,
        ))));
    }
    snapshot_key(w, at, &None);
    template_key(w, at);
    let mounts = storage::mounts(w, at, guest.id, fleet.facts);
    let uncached = lxc.vllm.as_ref().is_some_and(|server| server.cache_path.is_none());
    if !mounts.volumes.is_empty() && uncached {
        vllm::cache_hint(w, at, &mounts.volumes[0].mount_path);
    }
    let spec = PhoenixLXCSpec {
        hypervisor_ref,
        guest: lxc,
        volumes: (!mounts.volumes.is_empty()).then_some(mounts.volumes),
        host_mounts: (!mounts.host_mounts.is_empty()).then_some(mounts.host_mounts),
        health: health(w, at),
        expose,
        tests,
        depends_on,
        ..PhoenixLXCSpec::default()
    };
    Some(GuestManifest::Lxc(Box::new(PhoenixLXC::new(&guest.name, spec))))
}

/// Identity, source, size and network.
fn base<'a>(w: &mut Writer, guest: &Guest<'a>, fleet: &Fleet<'_, 'a>, seen: &mut Seen<'a>) -> LxcGuest {
    let at = &guest.at;
    let megabytes = |low: i64| {
        move |node: &Node| {
            values::mebibytes(node, 1)
                .filter(|m| (low..=1 << 30).contains(m))
                .map(values::quantity)
        }
    };
    let gigabytes = |node: &Node| values::mebibytes(node, 1024).filter(|m| (1..=1 << 40).contains(m));
    if let Some(id_at) = &guest.id_at {
        w.mapped(id_at, "vmid", "");
    }
    let size = w.read(
        at,
        &["storage_size_gb", "disk_size_gb", "rootfs_size_gb"],
        "rootfs.size",
        gigabytes,
        "a size in GB",
    );
    seen.rootfs(w, guest, size, fleet.guests, None);
    let rootfs = RootFs {
        storage: storage::storage(w, at, &["storage_pool", "storage"], "rootfs.storage", fleet.facts),
        size: size.map(values::quantity),
    };
    let mut networking = network::networking(w, at, Naming::Containers, fleet.facts.subnet, &mut seen.addresses);
    let firewall = firewall::firewall(w, at, &mut networking.network);
    let expected = "an amount of memory in MB";
    LxcGuest {
        shared: GuestFields {
            vmid: Some(guest.id),
            hostname: hostname(w, guest),
            network: networking.network,
            dns: networking.dns,
            firewall,
            ..GuestFields::default()
        },
        source: source(w, guest, fleet),
        cores: w.integer(at, &["cores", "cpu_cores"], "cores", 1, 8192),
        memory: w.read(at, &["memory_mb", "memory"], "memory", megabytes(16), expected),
        swap: w.read(at, &["swap_mb", "swap"], "swap", megabytes(0), expected),
        rootfs: (rootfs != RootFs::default()).then_some(rootfs),
        unprivileged: w.boolean(at, &["unprivileged"], "unprivileged"),
        ..LxcGuest::default()
    }
}

/// The host name keeps what was written; what equals Phoenix's own choice is not repeated.
pub fn hostname(w: &mut Writer, guest: &Guest) -> Option<String> {
    let name_at = guest.at.get("name").filter(|a| values::text(a.node).is_some());
    if let Some(at) = &name_at {
        let note = if guest.legacy_name.as_deref() == Some(&guest.name) {
            ""
        } else {
            "made a name that Kubernetes takes"
        };
        w.mapped_at(at, "metadata.name", note);
    } else if let Some(at) = guest.at.get("name").filter(|a| !values::is_unset(a.node)) {
        w.unreadable(&at, "a name");
    }
    let host_at = w.key(&guest.at, &["hostname"]);
    let text = host_at
        .as_ref()
        .or(name_at.as_ref())
        .and_then(|at| values::text(at.node));
    // Without a name the object is called by its id, and so may the guest be.
    let host = text.as_deref().and_then(values::hostname);
    if let (Some(at), None) = (&host_at, &host) {
        w.unreadable(at, "a DNS name");
    }
    let host = host?;
    if host == names::default_hostname(&guest.name) {
        if let Some(at) = &host_at {
            w.defaulted(at, "hostname", "the name of the object");
        }
        return None;
    }
    if let Some(at) = host_at.as_ref().or(name_at.as_ref()) {
        w.mapped(at, "hostname", "");
    }
    Some(host)
}

fn source(w: &mut Writer, guest: &Guest, fleet: &Fleet) -> Option<LxcSource> {
    let parent = guest.parent.and_then(|p| fleet.guests.list.get(p));
    clone_keys(w, guest);
    let image_at = w.key(&guest.at, &["template"]);
    if let (Some(parent), Some(at)) = (parent, &guest.parent_at) {
        w.mapped(at, "source.templateRef.name", "");
        if let Some(at) = &image_at {
            w.skip(at, "the guest is cloned, so its image is not used");
        }
        return Some(LxcSource {
            template_ref: Some(LocalRef {
                name: parent.name.clone(),
            }),
            ..LxcSource::default()
        });
    }
    if let Some(at) = image_at {
        return storage::image(w, &at, fleet.facts).map(|image| LxcSource {
            image: Some(image),
            ..LxcSource::default()
        });
    }
    let message = "neither clone_from_ctid nor template says what it is made from";
    w.warn(
        &guest.at,
        message,
        "set spec.source, or adopt the existing guest with the annotation phoenix-hypervisor.io/adopt",
    );
    None
}

/// Claims clone keys that say nothing.
pub fn clone_keys(w: &mut Writer, guest: &Guest) {
    for key in CLONE_KEYS {
        let Some(at) = w.key(&guest.at, &[key]) else { continue };
        if guest.parent_at.as_ref().is_none_or(|p| p.pointer != at.pointer) {
            w.skip(&at, "another key says what it is cloned from, or nothing is");
        }
    }
}

/// A template is not probed.
pub fn no_health(w: &mut Writer, at: &At) {
    if let Some(check) = w.key(at, &["health_check"]) {
        w.skip_warn(
            &check,
            "health_check: a template does not run",
            "give it to the guests that are cloned from it",
        );
    }
}

/// The snapshot of a template; `snapshot` is what was written of it.
pub fn snapshot_key(w: &mut Writer, at: &At, snapshot: &Option<String>) {
    if let Some(snapshot_at) = w.key(at, &["template_snapshot_name"]) {
        match snapshot {
            Some(_) => w.mapped_at(&snapshot_at, "spec.snapshotName", ""),
            None if values::text(snapshot_at.node)
                .and_then(|t| values::snapshot_name(&t))
                .is_some() =>
            {
                w.skip(
                    &snapshot_at,
                    "nothing is cloned from this guest, and only templates have a snapshot of their own",
                );
            }
            None => w.unreadable(&snapshot_at, "a snapshot name: 2 to 40 letters, digits, '_' or '-'"),
        }
    }
}

/// Whether the guest is a template.
pub fn template_key(w: &mut Writer, at: &At) {
    if let Some(flag) = w.key(at, &["is_template"]) {
        match values::boolean(flag.node) {
            Some(true) => w.mapped_at(&flag, "spec.form", ""),
            Some(false) => w.defaulted(&flag, "", "an ordinary guest"),
            None => w.unreadable(&flag, "true or false"),
        }
    }
}

/// `start_at_boot`, `boot_order` and `boot_delay`. A template never runs, so what only repeats that is left out.
pub fn boot(w: &mut Writer, at: &At, template: bool) -> Option<Boot> {
    let autostart = w.boolean(at, &["start_at_boot", "onboot"], "boot.autostart");
    let mut boot = Boot {
        autostart,
        order: w.integer(at, &["boot_order"], "boot.order", 0, 100_000),
        up_delay: w.integer(at, &["boot_delay"], "boot.upDelay", 0, 86_400),
        down_delay: None,
    };
    let idle = autostart != Some(true);
    let mut drop = |keys: &[&str], path: &str, note: &str| {
        if let Some(at) = keys.iter().find_map(|k| at.get(k)) {
            w.ledger.unmap(&at);
            w.defaulted(&at, path, note);
        }
    };
    if template && idle && autostart.is_some() {
        drop(
            &["start_at_boot", "onboot"],
            "boot.autostart",
            "a template is not started",
        );
        boot.autostart = None;
    }
    if idle && boot.order == Some(0) {
        drop(&["boot_order"], "boot.order", "no place in the boot order");
        boot.order = None;
    }
    if boot.up_delay == Some(0) {
        drop(&["boot_delay"], "boot.upDelay", "no delay");
        boot.up_delay = None;
    }
    (boot != Boot::default()).then_some(boot)
}

/// `dependencies`: the guests that must be ready first.
pub fn depends_on(w: &mut Writer, index: usize, guests: &Guests, seen: &mut Seen) -> Option<Vec<Dependency>> {
    let guest = guests.list.get(index)?;
    let at = w.key(&guest.at, &["dependencies", "depends_on"])?;
    let mut list: Vec<Dependency> = Vec::new();
    for item in w.list(&at, &[',', ' ']) {
        let text = item.text.clone().unwrap_or_default();
        let Some(id) = values::guest_id(&text) else {
            w.unreadable(&item.at, "the id of a guest");
            continue;
        };
        let Some(other) = guests.find(id) else {
            let message = format!("it depends on {id}, which is not in the files");
            w.skip_warn(&item.at, &message, "add the file that holds it, or drop the dependency");
            continue;
        };
        if other.id == guest.id {
            w.skip_warn(&item.at, "it depends on itself", "drop the dependency");
            continue;
        }
        if w.ledger.is_refused(&other.object()) {
            w.warn(
                &item.at,
                &format!("it depends on {id}, which is not written"),
                "mend that guest first",
            );
        }
        let dependency = Dependency {
            kind: other.kind,
            name: other.name.clone(),
        };
        let place = list.iter().position(|d| *d == dependency).unwrap_or(list.len());
        if place == 32 {
            w.skip_warn(&item.at, "more than 32 dependencies", "depend on fewer guests");
            continue;
        }
        w.mapped_at(&item.at, &format!("spec.dependsOn[{place}].name"), "");
        if place == list.len() {
            list.push(dependency);
            seen.depends(index, id);
        }
    }
    (!list.is_empty()).then_some(list)
}

/// `health_check`: a command with retries and interval.
pub fn health(w: &mut Writer, guest: &At) -> Option<Health> {
    let at = w.key(guest, &["health_check"])?;
    let command_at = if at.node.is_leaf() {
        Some(at.clone())
    } else {
        w.key(&at, &["command"])
    };
    let command = command_at
        .as_ref()
        .and_then(|c| values::text(c.node))
        .filter(|c| c.len() <= 1000);
    let (Some(command), Some(command_at)) = (command, command_at) else {
        w.unreadable(&at, "an object with a command");
        return None;
    };
    w.mapped(
        &command_at,
        "health.readiness.exec.command[2]",
        "run by a shell, as the legacy manager did",
    );
    let field = |name: &str| format!("health.readiness.{name}");
    let readiness = Probe {
        exec: Some(ExecAction {
            command: vec!["/bin/sh".into(), "-c".into(), command],
        }),
        failure_threshold: w.integer(&at, &["retries"], &field("failureThreshold"), 1, 100),
        period_seconds: w.integer(&at, &["interval"], &field("periodSeconds"), 1, 86_400),
        timeout_seconds: w.integer(&at, &["timeout"], &field("timeoutSeconds"), 1, 3600),
        ..Probe::default()
    };
    Some(Health {
        readiness: Some(readiness),
        ..Health::default()
    })
}

/// Keys that have no field, with the reason; and a few that have one.
const REASONS: &[(&str, &str)] = &[
    ("ostype", "it comes from the image"),
    ("arch", "it comes from the image"),
    ("root_password", "a secret: guests are reached through their node"),
    ("password", "a secret: guests are reached through their node"),
    ("ssh_public_key", "guests are reached through their node"),
    ("vllm_model_path", "spec.vllm.model holds the model"),
    (
        "enable_lifecycle_snapshots",
        "no field: Phoenix takes no snapshots of guests that run; backup jobs of Proxmox do",
    ),
    ("template_file", "the guest's source says what it is made from"),
    (
        "bootstrap_ca_url",
        "no feature brings a certificate authority's client yet",
    ),
    (
        "swarm_role",
        "no feature makes a swarm yet: docker swarm init or join in the guest",
    ),
    (
        "node_labels",
        "labels of a swarm's node: docker node update --label-add on its manager",
    ),
    (
        "portainer_environment_name",
        "Portainer is told the name where the environment is added",
    ),
    (
        "portainer_agent_hostname",
        "Portainer is told the address where the environment is added",
    ),
    (
        "docker_firewall_rules",
        "rules of Docker's own chain in the guest, which Phoenix does not write",
    ),
    (
        "dns_records",
        "the node's name server has the records: dns_server of the hypervisor file",
    ),
];

/// Claims the keys that have no field.
pub fn rest(w: &mut Writer, at: &At) {
    for (key, value) in at.entries() {
        if key == "ports" {
            ports(w, &value);
        } else if key == "trigger_sync_on_completion" && values::boolean(value.node).is_some() {
            w.defaulted(&value, "", "who depends on a guest is looked at as soon as it is Ready");
        } else if let Some((_, why)) = REASONS.iter().find(|(k, _)| *k == key) {
            w.skip(&value, why);
        } else if key.starts_with("_comment") || key.starts_with("//") || key == "comment" || key == "notes" {
            w.skip(&value, "a comment");
        }
    }
}

/// `ports`: what the legacy manager published. A guest has an address of its own, on which its servers' ports are open.
fn ports(w: &mut Writer, at: &At) {
    for item in w.list(at, &[',', ' ']) {
        let text = item.text.clone().unwrap_or_default();
        let same = text
            .rsplit_once(':')
            .is_none_or(|(outer, inner)| outer.rsplit(':').next() == Some(inner));
        match same && !text.is_empty() {
            true => w.defaulted(&item.at, "", "a guest has an address of its own, with this port"),
            false => w.skip(
                &item.at,
                "a guest has an address of its own, with the server's own port: no port is published",
            ),
        }
    }
}

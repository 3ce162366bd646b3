//! `phoenix exec` and `phoenix logs`: into a guest by the object's name, from where they run: into a container over SSH
//! to its node, into a machine through its guest agent.

mod exec;
mod logs;
mod terminal;

use crate::crd::PhoenixHypervisor;
use crate::desired::stamp::Stamp;
use crate::desired::{GuestObject, GuestSpec, ObjectName, Objects, hypervisor};
use crate::engine::connection::Connection;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};

use super::verbs::{Place, cluster, find};

pub use exec::ExecArgs;
pub use logs::LogsArgs;

/// A guest that can be reached.
struct Guest {
    connection: Connection,
    at: GuestRef,
}

impl Guest {
    /// Finds the object, reads what reaching its guest takes, and looks whether it runs.
    async fn reach(place: &Place, word: &str) -> Result<(Guest, GuestObject), String> {
        // Read once: building a kustomization may take its time.
        let manifests = place.source().map(|source| source.read()).transpose();
        let manifests = manifests.map_err(|e| e.to_string())?;
        let objects = match &manifests {
            Some(opened) => opened.store.guests(),
            None => place.objects().await?,
        };
        let object = find(&objects, word, place.namespace())?.clone();
        let Some(vmid) = object.status.vmid() else {
            return Err(no_guest(&object, manifests.is_some()));
        };
        let connection = match &manifests {
            Some(opened) => connection(&object, opened.store.as_ref())?,
            None => connection(&object, &cluster::hypervisor(&object).await?)?,
        };
        if object.guest_type() == GuestType::Lxc && connection.access.ssh.is_none() {
            let ObjectName { namespace, name } = object.hypervisor_ref();
            return Err(format!(
                "{}: commands in containers go by SSH to the node: set spec.ssh of PhoenixHypervisor {namespace}/{name}",
                object.key
            ));
        }
        let at = running_at(&connection, &object, vmid).await?;
        Ok((Guest { connection, at }, object))
    }

    fn named(&self) -> String {
        self.at.named()
    }
}

/// Why there is nothing to reach into.
fn no_guest(object: &GuestObject, standalone: bool) -> String {
    let told = object.status.message.as_deref().filter(|message| !message.is_empty());
    match told {
        Some(message) => format!("{} has no guest yet: {message}", object.key),
        None if standalone => format!("{} has no guest yet: apply it first", object.key),
        None => format!("{} has no guest yet: wait for the operator", object.key),
    }
}

/// Where the guest runs, if it is the object's.
async fn running_at(connection: &Connection, object: &GuestObject, vmid: Vmid) -> Result<GuestRef, String> {
    let key = &object.key;
    let looked = connection.look(true).await;
    connection.store(looked);
    let recorded = object.status.node.clone();
    let sort = object.guest_type();
    let node = match (connection.snapshot(), recorded) {
        // It may have been moved since its status was written.
        (Ok(seen), recorded) => seen.cluster.guests.get(&vmid).map(|row| row.node.clone()).or(recorded),
        // Whoever wants to look at a container while the API is away can do so.
        (Err(_), Some(node)) if sort == GuestType::Lxc => return Ok(GuestRef::new(sort, vmid, node)),
        (Err(failure), _) => return Err(format!("{key}: {failure}")),
    };
    let named = sort.named(vmid);
    let node = node.ok_or_else(|| format!("{key}: Proxmox shows no {named}"))?;
    let at = GuestRef::new(sort, vmid, node);
    let of = |e| match Cause::from(&e) {
        // Its number is written down before it is made.
        Cause {
            reason: Reason::NotFound,
            message,
        } => match &object.status.message {
            Some(told) if !told.is_empty() => format!("{key} has no guest yet: {told}"),
            _ => format!("{key} has no guest (any more): {message}"),
        },
        failure => format!("{key}: {failure}"),
    };
    let config = connection.client.guest_config(&at, false).await.map_err(of)?;
    let stamp = config.description().and_then(Stamp::find);
    let ours = stamp.is_some_and(|s| {
        s.kind == key.kind.as_str() && s.namespace == key.namespace && s.name == key.name && s.vmid == vmid
    });
    if !ours {
        return Err(format!(
            "{named} is not of {key}: its description does not say so (any more); it is left alone"
        ));
    }
    let state = connection.client.guest_state(&at).await.map_err(of)?;
    match (&object.spec, state.status.as_str()) {
        (_, "running") => Ok(at),
        (GuestSpec::Template(_), _) => Err(format!(
            "{key} is a template: its {named} is stopped, and runs only while it is built"
        )),
        _ => Err(format!("{key} is stopped ({named}): phoenix start {}", key.name)),
    }
}

/// The hypervisor without what reaching a guest of this sort does not take: who runs commands needs no right to read the
/// Secrets of the rest.
pub(super) fn needed(hypervisor: &PhoenixHypervisor, sort: GuestType) -> PhoenixHypervisor {
    let mut needed = hypervisor.clone();
    if sort == GuestType::Qemu {
        needed.spec.ssh = None;
    }
    if needed.spec.credentials.token_secret_ref.is_some() {
        needed.spec.credentials.root_password_secret_ref = None;
    }
    needed
}

fn connection(object: &GuestObject, objects: &dyn Objects) -> Result<Connection, String> {
    let ObjectName { namespace, name } = object.hypervisor_ref();
    let missing = || format!("there is no PhoenixHypervisor {namespace}/{name}");
    let found = objects.hypervisor(&namespace, &name).ok_or_else(missing)?;
    let access = hypervisor::access(&needed(&found, object.guest_type()), objects)
        .map_err(|blocked| format!("PhoenixHypervisor {namespace}/{name}: {}", blocked.cause().message))?;
    Connection::new(access, None, 1.0, None).map_err(|failure| failure.message)
}

//! Tables of what the plan must never do: one line a rule that keeps a guest, a volume or somebody else's property safe.
//! Each has been seen to fail with its protection taken out (`tests/protections`).

mod configuration;
mod deletion;
mod found;
mod identity;
mod machines;
mod revisions;
mod spoken;
mod volumes;

use std::collections::BTreeMap;

use crate::crd::GuestStatus;
use crate::desired::{Blocked, Desired, GuestObject, Objects, Stamp, WantedLxc, resolve, testing};
use crate::observed::*;
use crate::pve::{GuestRef, Vmid};
use crate::reason::Reason;

use super::planner::Planner;
use super::*;

const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";
const NODE: &str = "pve1";
const VMID: Vmid = Vmid::MIN;

const HYPERVISOR: &str = "
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: [https://127.0.0.1:8006]
  credentials: {tokenSecretRef: {name: token}, rootPasswordSecretRef: {name: root, key: password}}
  ssh:
    keySecretRef: {name: ssh, key: key}
    knownHostsSecretRef: {name: ssh, key: known_hosts}
  vmidRange: {start: 100, end: 103}
  volumeOwners: {idRange: {start: 900, end: 909}, image: 'local:vztmpl/small.tar.zst'}
  defaults: {rootfsStorage: tank, volumeStorage: tank, diskStorage: tank, bridge: vmbr0}
";

/// An object, what is recorded of it and what was looked at. The guest is there, stopped, with the object's stamp.
struct Scene {
    object: GuestObject,
    desired: Desired,
    observed: Observed,
    guest: Guest,
}

impl Scene {
    /// An object `a` of a kind with these fields of its spec, in YAML's flow style.
    fn new(kind: &str, spec: &str) -> Scene {
        let objects = testing::objects(HYPERVISOR);
        testing::apply(
            &objects,
            &format!("kind: {kind}\nmetadata: {{name: a, uid: u}}\nspec: {{hypervisorRef: {{name: pve}}, {spec}}}"),
        );
        let mut object = objects.guests().remove(0);
        object.finalizer = true;
        object.status = GuestStatus {
            vmid: Some(VMID.into()),
            node: Some(NODE.into()),
            create_sent: Some(true),
            ..GuestStatus::default()
        };
        let seen = &mut object.status.conditions;
        crate::status::set_condition(seen, "Created", "True", Reason::AsWanted, "", 1, 0);
        let desired = resolve(&object, &objects, CLUSTER).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
        let guest = Guest {
            digest: "of-the-read".into(),
            options: BTreeMap::from([
                ("description".to_string(), desired.stamp(VMID).describe("")),
                ("unprivileged".to_string(), "1".to_string()),
            ]),
            ..Guest::new(GuestRef::new(desired.sort(), VMID, NODE))
        };
        let observed = Observed {
            cluster: cluster(&guest),
            // No other object has a volume of the guest's.
            borrowed: Some(BTreeMap::new()),
            ..Observed::default()
        };
        Scene {
            object,
            desired,
            observed,
            guest,
        }
    }

    fn container(spec: &str) -> Scene {
        Scene::new(
            "PhoenixLXC",
            &format!("source: {{image: {{volid: 'local:vztmpl/a.tar.zst'}}}}, {spec}"),
        )
    }

    fn machine(spec: &str) -> Scene {
        Scene::new(
            "PhoenixVM",
            &format!("source: {{cloudImage: {{volid: 'local:import/a.qcow2'}}}}, {spec}"),
        )
    }

    /// Options of the guest beside its stamp.
    fn with(mut self, options: &[(&str, &str)]) -> Scene {
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        self.guest.options.extend(options);
        self
    }

    fn stamped(mut self, change: impl FnOnce(&mut Stamp)) -> Scene {
        let mut stamp = self.desired.stamp(VMID);
        change(&mut stamp);
        self.guest.options.insert("description".into(), stamp.describe(""));
        self
    }

    fn lxc(&self) -> &WantedLxc {
        self.desired.lxc().unwrap()
    }

    /// What is recorded.
    fn status(&mut self) -> &mut GuestStatus {
        &mut self.object.status
    }

    fn input<'a>(&'a self, observed: &'a Observed, dependencies: &'a dyn Fn() -> Result<(), Blocked>) -> Input<'a> {
        Input {
            desired: &self.desired,
            dependencies,
            conflicts: &[],
            observed,
            status: &self.object.status,
            now: 1_000_000,
            clock: 0,
        }
    }

    /// What one stage of the plan comes to, and what it found.
    fn stage<T>(&self, stage: impl FnOnce(&mut Planner<'_>) -> Result<T, Next>) -> (String, Planned) {
        let mut planner = Planner::new(self.input(&self.observed, &|| Ok(())));
        let told = match stage(&mut planner) {
            Ok(_) => "as wanted".into(),
            Err(next) => told(&next),
        };
        (told, (planner.findings, planner.facts))
    }

    /// The next step for the object, with its guest read.
    fn next(&self) -> String {
        told(&plan(self.input(&self.read(), &|| Ok(()))).next)
    }

    /// The next step of its deletion, with its guest read.
    fn deletion(&self) -> String {
        let around = Surroundings {
            cluster_id: CLUSTER,
            previous: &[],
            owner_ids: Some((Vmid::nearest(900), Vmid::nearest(909))),
        };
        told(&plan_deletion(&self.object, &self.read(), around, 1_000_000).next)
    }

    fn read(&self) -> Observed {
        let mut observed = self.observed.clone();
        observed
            .guest
            .get_or_insert_with(|| GuestRead::Present(Box::new(self.guest.clone())));
        // No other guest carries the object's stamp.
        observed.stamped.get_or_insert_default();
        observed
            .sections
            .entry(VMID)
            .or_insert_with(|| Ok(sections(&self.guest)));
        observed
    }
}

type Planned = (Vec<Finding>, Facts);

/// A guest's configuration without anything pending.
fn sections(guest: &Guest) -> Sections {
    let vmid = guest.at.vmid;
    let section = |of| Section {
        of,
        options: guest.options.clone(),
    };
    Sections {
        vmid,
        sections: vec![section(SectionOf::Now), section(SectionOf::AfterRestart)],
    }
}

fn cluster(guest: &Guest) -> Cluster {
    let storage = StorageRow {
        available: true,
        content: ["rootdir", "images", "vztmpl", "import"].map(str::to_string).into(),
        type_: "zfspool".into(),
        shared: false,
    };
    let storages = ["tank", "local"].map(|name| ((NODE.to_string(), name.to_string()), storage.clone()));
    let row = ResourceRow {
        type_: guest.at.sort.as_str().into(),
        node: NODE.into(),
        ..ResourceRow::default()
    };
    let mut cluster = Cluster {
        read_now: true,
        quorate: Some(true),
        online: [NODE.to_string()].into(),
        guests: BTreeMap::from([(VMID, row)]).into(),
        storages: BTreeMap::from(storages).into(),
        ..Cluster::default()
    };
    cluster.identity.nodes = vec![NODE.to_string()];
    cluster
}

/// What comes next in a few words: `look Guest { vmid: 100, … }`, `wait NoQuorum`, `stuck Protected`, a call with its parameters, or what
/// is recorded.
fn told(next: &Next) -> String {
    match next {
        Next::Done => "done".into(),
        Next::Look(query) => format!("look {query:?}"),
        Next::Wait { cause, .. } => format!("wait {}", cause.reason),
        Next::Stuck(cause) => format!("stuck {}", cause.reason),
        Next::Run(step) => match &step.effect {
            Effect::Call { call, .. } | Effect::Task { call, .. } => {
                let params = call.params.iter().map(|(k, v)| format!(" {k}={}", v.trim()));
                let call = format!("{} {}{}", call.method.as_str(), call.path, params.collect::<String>());
                match step.announce.as_slice() {
                    [] => call,
                    announce => format!("{call} announcing {announce:?}"),
                }
            }
            Effect::Record => format!("record {:?}", step.announce),
            Effect::OnNode { work, .. } => first_word(work),
            Effect::InGuest { work, .. } => first_word(work),
            Effect::RemoveFinalizer { .. } => "RemoveFinalizer".into(),
        },
    }
}

/// Name of a kind of work.
fn first_word(work: &impl std::fmt::Debug) -> String {
    format!("{work:?}").split(' ').next().unwrap_or_default().to_string()
}

fn failing(reason: Reason) -> Cause {
    Cause {
        reason,
        message: "it failed".into(),
    }
}

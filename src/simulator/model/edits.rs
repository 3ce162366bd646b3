//! What strangers and mishaps do to a cluster: direct changes that no API call of the tested program makes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::GuestConfig;
use super::download::RemoteFile;
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind, Running};
use super::lxc_options::volume_mounts;
use super::state::{State, TaskFault};
use super::task::TaskState;

/// A change from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Edit {
    /// Somebody creates a guest with the given options.
    CreateGuest {
        /// Id.
        vmid: u32,
        /// Node; the first one when absent.
        #[serde(default)]
        node: Option<String>,
        /// A machine instead of a container.
        #[serde(default)]
        vm: bool,
        /// Options.
        #[serde(default)]
        options: BTreeMap<String, String>,
        /// Storage for a root disk of 8 GiB; none when absent.
        #[serde(default)]
        storage: Option<String>,
    },
    /// Somebody clones a guest in the GUI: description and tags come along (facts K.3.3).
    CloneGuest {
        /// Source.
        from: u32,
        /// Id of the clone.
        to: u32,
    },
    /// Somebody edits options; what is `null` is deleted.
    SetOptions {
        /// Guest.
        vmid: u32,
        /// Options.
        options: BTreeMap<String, Option<String>>,
    },
    /// A guest gets a lock, or loses it when `null`.
    Lock {
        /// Guest.
        vmid: u32,
        /// The lock.
        lock: Option<String>,
    },
    /// A guest and its volumes vanish.
    RemoveGuest {
        /// Guest.
        vmid: u32,
    },
    /// A guest starts or stops at once.
    Power {
        /// Guest.
        vmid: u32,
        /// Whether it runs.
        running: bool,
    },
    /// Somebody takes a snapshot of a container, which is done at once.
    Snapshot {
        /// Guest.
        vmid: u32,
        /// Its name.
        name: String,
    },
    /// Somebody rolls a container back, which is done at once and leaves it stopped.
    Rollback {
        /// Guest.
        vmid: u32,
        /// Name of the snapshot.
        name: String,
    },
    /// Somebody deletes a snapshot of a container, which is done at once.
    DeleteSnapshot {
        /// Guest.
        vmid: u32,
        /// Name of the snapshot.
        name: String,
    },
    /// A note inside a guest, for example `ignore-shutdown`.
    Fact {
        /// Guest.
        vmid: u32,
        /// Name.
        key: String,
        /// Value.
        value: String,
    },
    /// A node is cut off or comes back.
    NodeOnline {
        /// Node.
        node: String,
        /// Whether it is there.
        online: bool,
    },
    /// A node loses power and boots again.
    NodeCrash {
        /// Node.
        node: String,
    },
    /// The packages of a node's NVIDIA driver are upgraded; a boot loads its modules.
    NvidiaDriver {
        /// Node.
        node: String,
        /// Version.
        version: String,
    },
    /// The mount or pool of a storage is there or not.
    StorageActive {
        /// Storage.
        storage: String,
        /// Whether it is there.
        active: bool,
    },
    /// How much a storage can hold; less than it holds makes it full.
    StorageTotal {
        /// Storage.
        storage: String,
        /// Bytes.
        total: u64,
    },
    /// The cluster has or has not a quorum.
    Quorum {
        /// Whether it has.
        quorate: bool,
    },
    /// A token or its user loses a rule, or all of them.
    RemoveRules {
        /// Part of the identity.
        who: String,
        /// Path; all of them when absent.
        #[serde(default)]
        path: Option<String>,
    },
    /// A file appears behind a URL.
    RemoteFile {
        /// URL.
        url: String,
        /// The file.
        file: RemoteFile,
    },
    /// A command over SSH goes wrong.
    SshFault(crate::simulator::ssh::SshFault),
    /// The SSH servers show another host key, or the usual one again.
    SshHostKey {
        /// Whether it is another one.
        other: bool,
    },
    /// A command of a guest agent goes wrong.
    AgentFault(super::vm_agent_faults::AgentFault),
    /// The guest agent of a machine dies, or is back at once.
    Agent {
        /// Machine.
        vmid: u32,
        /// Whether it answers.
        alive: bool,
    },
    /// Tasks will fail.
    FailTasks(TaskFault),
    /// Tasks that run, and those that begin from now on, do not end; or somebody stops all that hang, as
    /// `DELETE …/tasks/{upid}` does, and new ones end again.
    HangTasks {
        /// Whether they hang.
        hang: bool,
    },
}

impl State {
    /// Makes a change from outside, at once.
    pub fn edit(&mut self, edit: Edit) -> Result<()> {
        self.dirty = true;
        match edit {
            Edit::CreateGuest {
                vmid,
                node,
                vm,
                options,
                storage,
            } => self.strange_guest(vmid, node, vm, options, storage.as_deref()),
            Edit::CloneGuest { from, to } => self.gui_clone(from, to),
            Edit::SetOptions { vmid, options } => {
                self.guest_mut(vmid)?.edit(|config| {
                    for (key, value) in options {
                        match value {
                            Some(value) => config.current.set(&key, value),
                            None => drop(config.current.remove(&key)),
                        }
                    }
                });
                Ok(())
            }
            Edit::Lock { vmid, lock } => {
                self.unlock(vmid);
                if let Some(lock) = lock {
                    self.guest_mut(vmid)?.edit(|config| config.current.set("lock", lock));
                }
                Ok(())
            }
            Edit::RemoveGuest { vmid } => {
                let node = self.guest_mut(vmid)?.node.clone();
                self.free_all_of(&node, vmid);
                self.hook_outside("stop", vmid, &[]);
                self.hook_outside("destroy", vmid, &[]);
                self.forget_guest(vmid);
                Ok(())
            }
            Edit::Power { vmid, running } => self.switch(vmid, running),
            Edit::Snapshot { vmid, name } => self.user_snapshot(vmid, &name),
            Edit::Rollback { vmid, name } => self.user_rollback(vmid, &name),
            Edit::DeleteSnapshot { vmid, name } => self.user_delete_snapshot(vmid, &name),
            Edit::Fact { vmid, key, value } => {
                self.guest_mut(vmid)?.inside.facts.insert(key, value);
                Ok(())
            }
            Edit::Agent { vmid, alive } => self.revive_agent(vmid, alive),
            Edit::HangTasks { hang } => {
                self.hang_tasks(hang);
                Ok(())
            }
            Edit::FailTasks(fault) => {
                self.task_faults.push(fault);
                Ok(())
            }
            Edit::RemoteFile { url, file } => {
                self.remote_files.insert(url, file);
                Ok(())
            }
            Edit::RemoveRules { who, path } => {
                let fits = |rule: &super::access::AclEntry| {
                    rule.who.contains(&who) && path.as_ref().is_none_or(|path| rule.path == *path)
                };
                self.access.acl.retain(|rule| !fits(rule));
                Ok(())
            }
            infrastructure => self.edit_infrastructure(infrastructure),
        }
    }

    fn edit_infrastructure(&mut self, edit: Edit) -> Result<()> {
        match edit {
            Edit::NodeOnline { node, online } => {
                let found = self.nodes.get_mut(&node).ok_or_else(|| no_node(&node))?;
                found.online = online;
            }
            Edit::NodeCrash { node } => self.node_crash(&node),
            Edit::NvidiaDriver { node, version } => {
                let found = self.nodes.get_mut(&node).ok_or_else(|| no_node(&node))?;
                found.nvidia_driver = Some(version);
            }
            Edit::StorageActive { storage, active } => self.storage_mut(&storage)?.active = active,
            Edit::StorageTotal { storage, total } => self.storage_mut(&storage)?.total = total,
            Edit::Quorum { quorate } => self.quorate = quorate,
            Edit::AgentFault(fault) => self.agent.faults.push(fault),
            Edit::SshFault(fault) => self.ssh.faults.push(fault),
            Edit::SshHostKey { other } => self.ssh.other_host_key = other,
            _ => {}
        }
        Ok(())
    }

    fn revive_agent(&mut self, vmid: u32, alive: bool) -> Result<()> {
        let now = self.now;
        let machine = &mut self.guest_mut(vmid)?.machine;
        machine.agent_dead = !alive;
        if alive {
            machine.agent_from = Some(machine.agent_from.map_or(now, |from| from.min(now)));
        }
        Ok(())
    }

    fn switch(&mut self, vmid: u32, running: bool) -> Result<()> {
        self.hook_outside(if running { "start" } else { "stop" }, vmid, &[]);
        let container = self.guest_mut(vmid)?.kind == GuestKind::Lxc;
        match running {
            false if container => return self.finish_ct_stop(vmid),
            false => return self.power_off(vmid),
            true => {}
        }
        let (pid, since) = ((self.next_number() % 4_000_000) as u32, self.now);
        let guest = self.guest_mut(vmid)?;
        guest.running = Some(Running { pid, since });
        if guest.kind == GuestKind::Qemu {
            guest.machine = super::guest::Machine {
                cloud_init: std::mem::take(&mut guest.machine.cloud_init),
                ..Default::default()
            };
            return self.boot_vm(vmid);
        }
        Ok(())
    }

    fn user_snapshot(&mut self, vmid: u32, name: &str) -> Result<()> {
        let node = self.guest_mut(vmid)?.node.clone();
        let by = super::state::Caller::root();
        let upid = self.snapshot_ct(&by, &node, vmid, name, "")?;
        self.done_at_once(&upid)
    }

    fn user_rollback(&mut self, vmid: u32, name: &str) -> Result<()> {
        let node = self.guest_mut(vmid)?.node.clone();
        let by = super::state::Caller::root();
        let upid = self.rollback_ct(&by, &node, vmid, name, false)?;
        self.done_at_once(&upid)
    }

    fn user_delete_snapshot(&mut self, vmid: u32, name: &str) -> Result<()> {
        let node = self.guest_mut(vmid)?.node.clone();
        let by = super::state::Caller::root();
        let upid = self.delete_ct_snapshot(&by, &node, vmid, name, false)?;
        self.done_at_once(&upid)
    }

    /// Ends a task that was started here at once; its failure is the edit's.
    fn done_at_once(&mut self, upid: &str) -> Result<()> {
        // Nobody waits for a lock here.
        if let Some(task) = self
            .task(upid)
            .filter(|task| matches!(task.state, TaskState::Waiting { .. }))
        {
            self.close_task(task.seq, Some("got timeout".to_owned()));
        }
        match self.end_now(upid) {
            Some(status) if status != "OK" => Err(ApiError::die(status)),
            _ => Ok(()),
        }
    }

    fn strange_guest(
        &mut self,
        vmid: u32,
        node: Option<String>,
        vm: bool,
        options: BTreeMap<String, String>,
        storage: Option<&str>,
    ) -> Result<()> {
        self.check_unused(vmid)?;
        let node = node.or_else(|| self.nodes.keys().next().cloned()).unwrap_or_default();
        let kind = if vm { GuestKind::Qemu } else { GuestKind::Lxc };
        let mut config = GuestConfig::default();
        if !vm {
            for (key, value) in [
                ("arch", "amd64"),
                ("ostype", "debian"),
                ("memory", "512"),
                ("swap", "512"),
            ] {
                config.current.set(key, value);
            }
            config.current.set("hostname", format!("CT{vmid}"));
        }
        if let Some(storage) = storage {
            if vm {
                let (volid, _) = self.alloc_vm_disk(&node, storage, vmid, None, 8 << 30)?;
                config.current.set("scsi0", format!("{volid},size=8G"));
                config.current.set("boot", "order=scsi0");
            } else {
                let volid = self.alloc_ct_volume(&node, storage, vmid, 8 << 30)?;
                config.current.set("rootfs", format!("{volid},size=8G"));
            }
        }
        for (key, value) in options {
            config.current.set(&key, value);
        }
        self.guests.insert(vmid, Guest::new(vmid, &node, kind, config));
        Ok(())
    }

    fn gui_clone(&mut self, from: u32, to: u32) -> Result<()> {
        self.check_unused(to)?;
        let source = self
            .guests
            .get(&from)
            .cloned()
            .ok_or_else(|| ApiError::die(format!("no guest {from}")))?;
        let mut config = GuestConfig {
            current: source.config().current.clone(),
            ..GuestConfig::default()
        };
        for key in ["lock", "parent", "template"] {
            config.current.remove(key);
        }
        if source.kind == GuestKind::Qemu {
            for (key, mut drive) in super::vm_options::disks(&source.config().current, true) {
                let copy = self.copy_vm_disk(&source.node, drive.file(), None, None, None, to)?;
                drive.set("file", copy);
                config.current.set(&key, drive.print());
            }
        }
        for (key, mut mount) in volume_mounts(&source.config().current) {
            let copy = self.copy_volume(&source.node, mount.volume(), None, None, to)?;
            mount.set("volume", copy);
            config.current.set(&key, mount.print());
        }
        let mut guest = Guest::new(to, &source.node, source.kind, config);
        guest.inside = source.inside;
        guest.inside.power_off(self.now);
        self.guests.insert(to, guest);
        Ok(())
    }
}

fn no_node(node: &str) -> ApiError {
    ApiError::die(format!("no such node '{node}'"))
}

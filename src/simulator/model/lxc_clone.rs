//! Cloning a container and turning one into a template (facts D.4, D.10, K.2.18, K.3).

use serde::{Deserialize, Serialize};

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind};
use super::lxc_options::{all_mounts, index_of, is_mount, volume_mounts};
use super::property;
use super::state::{Caller, State};
use super::task::Work;

/// What a clone task works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CtClone {
    /// Node.
    pub node: String,
    /// Source.
    pub vmid: u32,
    /// Id of the clone.
    pub newid: u32,
    /// Copy in full instead of linking.
    pub full: bool,
    /// Target storage of a full clone.
    pub storage: Option<String>,
    /// Snapshot to clone from.
    pub snapshot: Option<String>,
    /// Pool that the clone joins at the end.
    pub pool: Option<String>,
    /// New values of mount points, filled in by the work.
    pub mounts: Vec<(String, String)>,
}

/// Parameters of a clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloneRequest {
    /// Id of the clone.
    pub newid: u32,
    /// Host name.
    pub hostname: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Snapshot.
    pub snapname: Option<String>,
    /// Storage.
    pub storage: Option<String>,
    /// Full or linked; by default full unless the source is a template.
    pub full: Option<bool>,
    /// Other node.
    pub target: Option<String>,
}

impl State {
    /// `POST /nodes/{node}/lxc/{vmid}/clone`.
    pub fn clone_ct(&mut self, caller: &Caller, node: &str, vmid: u32, request: CloneRequest) -> Result<String> {
        self.check_pool_exists(request.pool.as_deref())?;
        self.check_clone_target(node, &request)?;
        if let Some(storage) = &request.storage {
            self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            self.usable_storage(node, storage)?;
        }
        let source = self.ct(node, vmid)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        self.check_writable()?;
        let full = request.full.unwrap_or(!source.is_template());
        let section = match &request.snapname {
            Some(name) => source.config().snapshots.get(name),
            None => Some(&source.config().current),
        };
        let Some(section) = section.cloned() else {
            let name = request.snapname.unwrap_or_default();
            return Err(ApiError::die(format!("snapshot '{name}' does not exist")));
        };
        if request.storage.is_some() && !full {
            return Err(ApiError::die("parameter 'storage' not allowed for linked clones"));
        }
        if full && source.running.is_some() && request.snapname.is_none() {
            return Err(ApiError::die(self.running_clone_text()));
        }
        self.check_clone_mounts(caller, node, &section, full, request.snapname.is_some())?;
        self.check_unused(request.newid)?;
        let config = self.clone_config(&section, &request);
        self.guests
            .insert(request.newid, Guest::new(request.newid, node, GuestKind::Lxc, config));
        if let Some(firewall) = self.firewalls.get(&vmid).cloned() {
            self.firewalls.insert(request.newid, firewall);
        }
        self.guest_mut(vmid)?.edit(|config| config.current.set("lock", "disk"));
        let work = CtClone {
            node: node.to_owned(),
            vmid,
            newid: request.newid,
            full,
            storage: request.storage,
            snapshot: request.snapname,
            pool: request.pool,
            mounts: Vec::new(),
        };
        // The id of the task is the source's (facts B.4).
        Ok(self.start_task(
            node,
            "vzclone",
            &vmid.to_string(),
            &caller.id,
            Work::CtClone(Box::new(work)),
        ))
    }

    fn running_clone_text(&self) -> &'static str {
        if self.release.major() >= 9 {
            "Full clone of a running container is only possible from a snapshot"
        } else {
            "Cannot do full clones on a running container without snapshots"
        }
    }

    fn check_clone_target(&self, node: &str, request: &CloneRequest) -> Result<()> {
        let Some(target) = request.target.as_deref().filter(|target| *target != node) else {
            return Ok(());
        };
        if !self.nodes.contains_key(target) {
            return Err(ApiError::die(format!("no such cluster node '{target}'")));
        }
        Err(ApiError::die(format!(
            "can't clone CT to node '{target}' (CT uses local storage)"
        )))
    }

    fn check_clone_mounts(
        &self,
        caller: &Caller,
        node: &str,
        section: &Section,
        full: bool,
        snapshot: bool,
    ) -> Result<()> {
        for (key, mount) in all_mounts(section) {
            if mount.kind() != "volume" {
                return Err(ApiError::die(format!(
                    "unable to clone mountpoint '{key}' (type {})",
                    mount.kind()
                )));
            }
            if !full && !self.volume_has_feature(node, mount.volume(), "clone", snapshot) {
                return Err(ApiError::die(format!(
                    "Linked clone feature for '{}' is not available",
                    mount.volume()
                )));
            }
            if let Ok((storage, _)) = self.split(mount.volume()) {
                self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            }
        }
        for (key, value) in &section.options {
            if index_of(key, "net").is_some() && !caller.is_true_root() {
                let parts = property::parse(value, "name");
                if let Some(bridge) = parts.get("bridge") {
                    self.need(caller, &format!("/sdn/zones/localnetwork/{bridge}"), &["SDN.Use"])?;
                }
            }
        }
        Ok(())
    }

    /// The configuration that the clone shows from the start: all but disks (facts K.3.2).
    fn clone_config(&mut self, section: &Section, request: &CloneRequest) -> GuestConfig {
        let mut config = GuestConfig::default();
        config.current.lxc = section.lxc.clone();
        const DROPPED: &[&str] = &["lock", "parent", "template", "snaptime", "snapstate", "digest"];
        for (key, value) in &section.options {
            if DROPPED.contains(&key.as_str()) || index_of(key, "unused").is_some() || is_mount(key) {
                continue;
            }
            let mut value = value.clone();
            if index_of(key, "net").is_some() {
                let mut parts = property::parse(&value, "name");
                parts.insert("hwaddr".to_owned(), self.new_mac());
                value = property::print(&parts, "", &["name"]);
            }
            config.current.set(key, value);
        }
        config.current.set("lock", "create");
        if let Some(hostname) = &request.hostname {
            config.current.set("hostname", hostname.clone());
        }
        if let Some(description) = &request.description {
            config.current.set("description", description.clone());
        }
        config
    }

    pub(super) fn begin_ct_clone(&mut self, seq: u64, clone: &CtClone) -> Result<u64> {
        match self.copy_disks(seq, clone) {
            Ok(ms) => Ok(ms),
            Err(error) => {
                self.undo_ct_clone(clone);
                Err(ApiError::die(format!("clone failed: {}", error.first_line())))
            }
        }
    }

    fn copy_disks(&mut self, seq: u64, clone: &CtClone) -> Result<u64> {
        let source = self.ct(&clone.node, clone.vmid)?;
        let section = match &clone.snapshot {
            Some(name) => source.config().snapshots.get(name).cloned().unwrap_or_default(),
            None => source.config().current.clone(),
        };
        let snapshot = clone.snapshot.as_deref();
        self.log(
            seq,
            format!("creating a clone of container {} with ID {}", clone.vmid, clone.newid),
        );
        let mut duration = 0;
        let mut mounts = Vec::new();
        for (key, mut mount) in volume_mounts(&section) {
            let source = mount.volume().to_owned();
            let volid = if clone.full {
                self.log(seq, format!("create full clone of mountpoint {key} ({source})"));
                duration += self.latency.clone_full;
                self.copy_volume(&clone.node, &source, snapshot, clone.storage.as_deref(), clone.newid)?
            } else {
                self.log(seq, format!("create linked clone of mount point {key} ({source})"));
                duration += self.latency.clone_linked;
                self.link_volume(&clone.node, &source, snapshot, clone.newid)?
            };
            mount.set("volume", volid);
            mounts.push((key, mount.print()));
        }
        if let Some(Work::CtClone(work)) = self.tasks.get_mut(&seq).map(|task| &mut task.work) {
            work.mounts = mounts;
        }
        Ok(duration)
    }

    pub(super) fn undo_ct_clone(&mut self, clone: &CtClone) {
        self.free_all_of(&clone.node, clone.newid);
        self.forget_guest(clone.newid);
        self.unlock(clone.vmid);
    }

    pub(super) fn finish_ct_clone(&mut self, seq: u64, clone: &CtClone) -> Result<()> {
        let source = self.ct(&clone.node, clone.vmid)?;
        let inside = match &clone.snapshot {
            Some(name) => source.inside_snapshots.get(name).cloned().unwrap_or_default(),
            None => source.inside.clone(),
        };
        let now = self.now;
        let guest = self.guest_mut(clone.newid)?;
        guest.inside = inside;
        guest.inside.power_off(now);
        guest.edit(|config| {
            config.current.remove("lock");
            for (key, value) in &clone.mounts {
                config.current.set(key, value.clone());
            }
        });
        self.unlock(clone.vmid);
        self.warn_about_nesting(seq, clone.newid);
        if let Some(pool) = clone.pool.as_ref().and_then(|name| self.pools.get_mut(name)) {
            pool.vms.insert(clone.newid);
        }
        Ok(())
    }

    /// `POST /nodes/{node}/lxc/{vmid}/template`: checks, then a task that the reply does not name.
    pub fn template_ct(&mut self, caller: &Caller, node: &str, vmid: u32) -> Result<()> {
        let guest = self.ct(node, vmid)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        self.check_writable()?;
        if !guest.config().snapshots.is_empty() {
            return Err(ApiError::die(
                "unable to create template, because CT contains snapshots",
            ));
        }
        if guest.is_template() {
            return Err(ApiError::die("you can't convert a template to a template"));
        }
        if guest.running.is_some() {
            return Err(ApiError::die("you can't convert a CT to template if the CT is running"));
        }
        for (key, mount) in all_mounts(&guest.config().current) {
            if mount.kind() != "volume" {
                return Err(ApiError::die(format!(
                    "unable to convert mountpoint '{key}' (type {})",
                    mount.kind()
                )));
            }
        }
        self.start_task(
            node,
            "vztemplate",
            &vmid.to_string(),
            &caller.id,
            Work::CtTemplate { vmid },
        );
        Ok(())
    }

    pub(super) fn finish_ct_template(&mut self, _seq: u64, vmid: u32) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        let mounts = volume_mounts(&guest.config().current);
        let mut renamed = Vec::new();
        for (key, mut mount) in mounts {
            if !self.volume_has_feature(&node, mount.volume(), "template", false) {
                return Err(ApiError::die(format!(
                    "unable to create template, because volume '{}'",
                    mount.volume()
                )));
            }
            let base = self.make_base(&node, mount.volume())?;
            mount.set("volume", base);
            renamed.push((key, mount.print()));
        }
        self.guest_mut(vmid)?.edit(|config| {
            config.current.set("template", "1");
            for (key, value) in renamed {
                config.current.set(&key, value);
            }
        });
        Ok(())
    }
}

//! Virtual machines, as far as containers meet them: they share ids, pools, storages and lists.

use super::config::GuestConfig;
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind};
use super::lxc_options::Mount;
use super::property::print_size;
use super::state::{Caller, State};
use super::task::Work;

/// Options that only the true root may set on a machine (facts F.5).
const ROOT_ONLY: &[&str] = &[
    "affinity",
    "amd-sev",
    "arch",
    "args",
    "hookscript",
    "hugepages",
    "intel-tdx",
    "ivshmem",
    "keephugepages",
    "lock",
    "meta",
    "spice_enhancements",
    "vmgenid",
];

fn is_drive(key: &str) -> bool {
    ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"]
        .iter()
        .any(|word| super::lxc_options::index_of(key, word).is_some())
}

impl State {
    fn check_vm_option(&self, caller: &Caller, key: &str, value: &str) -> Result<()> {
        if caller.is_true_root() {
            return Ok(());
        }
        if ROOT_ONLY.contains(&key) {
            return Err(ApiError::die(format!("only root can set '{key}' config")));
        }
        if super::lxc_options::index_of(key, "serial").is_some() && value != "socket" {
            return Err(ApiError::die(format!(
                "only root can modify '{key}' config for real devices"
            )));
        }
        Ok(())
    }

    /// `POST /nodes/{node}/qemu`.
    pub fn create_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        options: Vec<(String, String)>,
        pool: Option<String>,
    ) -> Result<String> {
        self.check_pool_exists(pool.as_deref())?;
        let by_pool = pool
            .as_ref()
            .is_some_and(|pool| self.may(caller, &format!("/pool/{pool}"), &["VM.Allocate"]));
        if !by_pool && !self.may(caller, &format!("/vms/{vmid}"), &["VM.Allocate"]) {
            return Err(ApiError::permission_bare());
        }
        for (key, value) in &options {
            self.check_vm_option(caller, key, value)?;
        }
        self.check_unused(vmid)
            .map_err(|error| ApiError::die(format!("unable to create VM {vmid} - {}", error.first_line())))?;
        let mut config = GuestConfig::default();
        config.current.set("lock", "create");
        self.guests
            .insert(vmid, Guest::new(vmid, node, GuestKind::Qemu, config));
        Ok(self.start_task(
            node,
            "qmcreate",
            &vmid.to_string(),
            &caller.id,
            Work::VmCreate { vmid, options, pool },
        ))
    }

    pub(super) fn finish_vm_create(
        &mut self,
        seq: u64,
        vmid: u32,
        options: &[(String, String)],
        pool: Option<&str>,
    ) -> Result<()> {
        let node = self
            .guests
            .get(&vmid)
            .map(|guest| guest.node.clone())
            .unwrap_or_default();
        let mut config = GuestConfig::default();
        let mut boot = Vec::new();
        for (key, value) in options {
            let mut value = value.clone();
            let mut mount = Mount::parse(&value);
            if let Some((storage, size)) = mount.allocation().filter(|_| is_drive(key)) {
                let storage = storage.to_owned();
                let volid = self.alloc_vm_disk(&node, &storage, vmid, size)?;
                mount.set("volume", volid);
                mount.set("size", print_size(size));
                value = mount.print();
                self.log(seq, format!("{key}: successfully created disk '{value}'"));
            }
            if is_drive(key) || super::lxc_options::index_of(key, "net").is_some() {
                boot.push(key.clone());
            }
            config.current.set(key, value);
        }
        boot.sort_by_key(|key| key.starts_with("net"));
        if config.current.get("boot").is_none() {
            config.current.set("boot", format!("order={}", boot.join(";")));
        }
        let seconds = self.seconds();
        let id = |salt: u64| format!("{:08x}-0000-4000-8000-{:012x}", vmid, salt);
        let (first, second) = (self.next_number(), self.next_number());
        config.current.set("smbios1", format!("uuid={}", id(first)));
        config.current.set("vmgenid", id(second));
        config
            .current
            .set("meta", format!("creation-qemu=10.1.2,ctime={seconds}"));
        if let Some(tags) = config.current.get("tags").map(str::to_owned) {
            let tags = self.normal_form(&node, "tags", &tags);
            config.current.set("tags", tags);
        }
        self.guest_mut(vmid)?.edit(|old| *old = config);
        if let Some(pool) = pool.and_then(|name| self.pools.get_mut(name)) {
            pool.vms.insert(vmid);
        }
        Ok(())
    }

    fn alloc_vm_disk(&mut self, node: &str, storage_id: &str, vmid: u32, size: u64) -> Result<String> {
        let storage = self.active_storage(node, storage_id)?;
        let name = storage.free_name(node, vmid, "raw");
        self.alloc_volume(node, storage_id, &name, "raw", size, false)
    }

    /// `PUT /nodes/{node}/qemu/{vmid}/config`.
    pub fn update_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        set: Vec<(String, String)>,
        delete: &[String],
        digest: Option<&str>,
    ) -> Result<()> {
        for (key, value) in &set {
            self.check_vm_option(caller, key, value)?;
        }
        let guest = self.guest_on(node, vmid, GuestKind::Qemu)?;
        if digest.is_some_and(|wanted| !wanted.is_empty() && wanted != guest.digest()) {
            return Err(ApiError::die("checksum mismatch (file change by other user?)"));
        }
        self.check_lock(vmid)?;
        self.check_writable()?;
        for (key, value) in set {
            let value = if key == "tags" {
                self.normal_form(node, "tags", &value)
            } else {
                value
            };
            self.guest_mut(vmid)?.edit(|config| config.current.set(&key, value));
        }
        for key in delete {
            self.guest_mut(vmid)?.edit(|config| config.current.remove(key));
        }
        Ok(())
    }

    /// `DELETE /nodes/{node}/qemu/{vmid}`.
    pub fn destroy_vm(&mut self, caller: &Caller, node: &str, vmid: u32, purge: bool) -> Result<String> {
        let guest = self.guest_on(node, vmid, GuestKind::Qemu)?;
        if guest.config().current.flag("protection") {
            return Err(ApiError::die(format!(
                "can't remove VM {vmid} - protection mode enabled"
            )));
        }
        if guest.running.is_some() {
            return Err(ApiError::die(format!("VM {vmid} is running - destroy failed")));
        }
        Ok(self.start_task(
            node,
            "qmdestroy",
            &vmid.to_string(),
            &caller.id,
            Work::VmDestroy { vmid, purge },
        ))
    }

    pub(super) fn finish_vm_destroy(&mut self, seq: u64, vmid: u32, purge: bool) -> Result<()> {
        self.check_lock(vmid)?;
        let node = self
            .guests
            .get(&vmid)
            .map(|guest| guest.node.clone())
            .unwrap_or_default();
        self.free_all_of(&node, vmid);
        if purge {
            self.log(seq, format!("purging VM {vmid} from related configurations.."));
        }
        self.forget_guest(vmid);
        Ok(())
    }
}

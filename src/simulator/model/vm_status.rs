//! Starting, stopping, shutting down, rebooting, pausing and saving virtual machines (facts F.7).

use super::config::Section;
use super::error::{ApiError, Result};
use super::guest::{Machine, Running};
use super::property;
use super::state::{Caller, State};
use super::task::Work;
use super::vm_options::{disks, drives, index_of, memory};
use super::vm_work::VmWork;

impl State {
    /// Starts a task for a machine.
    pub(super) fn vm_task(&mut self, caller: &Caller, node: &str, kind: &str, vmid: u32, work: VmWork) -> String {
        self.start_task(node, kind, &vmid.to_string(), &caller.id, Work::Vm(Box::new(work)))
    }

    /// Whether the machine runs; a missing one is told in the words of the process look-up.
    pub(super) fn vm_runs(&self, node: &str, vmid: u32) -> Result<bool> {
        match self.vm(node, vmid) {
            Ok(guest) => Ok(guest.running.is_some()),
            Err(_) => Err(ApiError::die(format!(
                "unable to find configuration file for VM {vmid} on node '{node}'"
            ))),
        }
    }

    fn need_running(&self, node: &str, vmid: u32) -> Result<()> {
        if self.vm_runs(node, vmid)? {
            return Ok(());
        }
        Err(ApiError::die(format!("VM {vmid} not running")))
    }

    /// `POST …/status/start`: whatever is wrong shows in the task.
    pub fn start_vm(&mut self, caller: &Caller, node: &str, vmid: u32, skiplock: bool) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        Ok(self.vm_task(caller, node, "qmstart", vmid, VmWork::Start { vmid, skiplock }))
    }

    /// `POST …/status/stop`.
    pub fn stop_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        skiplock: bool,
        overrule: bool,
    ) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        if overrule {
            self.abort_shutdowns(caller, "qmshutdown", vmid);
        }
        Ok(self.vm_task(caller, node, "qmstop", vmid, VmWork::Stop { vmid, skiplock }))
    }

    /// `POST …/status/shutdown`.
    pub fn shutdown_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        timeout_s: u64,
        force_stop: bool,
        skiplock: bool,
    ) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        if !force_stop {
            self.check_not_paused(vmid)?;
        }
        let work = VmWork::Shutdown {
            vmid,
            timeout_ms: timeout_s * 1000,
            force_stop,
            skiplock,
        };
        Ok(self.vm_task(caller, node, "qmshutdown", vmid, work))
    }

    /// `POST …/status/reboot`.
    pub fn reboot_vm(&mut self, caller: &Caller, node: &str, vmid: u32, timeout_s: u64) -> Result<String> {
        self.check_not_paused(vmid)?;
        self.need_running(node, vmid)?;
        let timeout_ms = timeout_s * 1000;
        Ok(self.vm_task(caller, node, "qmreboot", vmid, VmWork::Reboot { vmid, timeout_ms }))
    }

    /// `POST …/status/reset`.
    pub fn reset_vm(&mut self, caller: &Caller, node: &str, vmid: u32, skiplock: bool) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        self.need_running(node, vmid)?;
        Ok(self.vm_task(caller, node, "qmreset", vmid, VmWork::Reset { vmid, skiplock }))
    }

    /// `POST …/status/suspend`.
    pub fn suspend_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        skiplock: bool,
        todisk: bool,
        storage: Option<String>,
    ) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        self.need_running(node, vmid)?;
        if todisk {
            self.need(caller, &format!("/vms/{vmid}"), &["VM.Config.Disk"])?;
        }
        let kind = if todisk { "qmsuspend" } else { "qmpause" };
        let work = VmWork::Suspend {
            vmid,
            skiplock,
            todisk,
            storage,
        };
        Ok(self.vm_task(caller, node, kind, vmid, work))
    }

    /// `POST …/status/resume`.
    pub fn resume_vm(&mut self, caller: &Caller, node: &str, vmid: u32, skiplock: bool) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        let saved = self.vm(node, vmid).is_ok_and(|guest| guest.lock() == Some("suspended"));
        if !saved {
            self.need_running(node, vmid)?;
        }
        Ok(self.vm_task(caller, node, "qmresume", vmid, VmWork::Resume { vmid, skiplock }))
    }

    fn is_paused(&self, vmid: u32) -> bool {
        self.guests
            .get(&vmid)
            .is_some_and(|guest| guest.running.is_some() && guest.machine.paused)
    }

    /// A paused machine would get the request only once it goes on.
    fn check_not_paused(&self, vmid: u32) -> Result<()> {
        if self.is_paused(vmid) {
            return Err(ApiError::die("VM is paused - cannot shutdown"));
        }
        Ok(())
    }

    fn check_vm_lock(&self, vmid: u32, skiplock: bool) -> Result<()> {
        if skiplock { Ok(()) } else { self.check_lock(vmid) }
    }

    pub(super) fn begin_vm_start(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        let guest = self.vm(&node, vmid)?;
        let saved = guest.lock() == Some("suspended");
        if !saved {
            self.check_vm_lock(vmid, skiplock)?;
        }
        let guest = self.vm(&node, vmid)?;
        if guest.running.is_some() {
            return Err(ApiError::die(format!("VM {vmid} already running")));
        }
        if guest.is_template() {
            return Err(ApiError::die("you can't start a vm if it's a template"));
        }
        if saved {
            self.take_saved(&node, vmid)?;
        } else {
            self.apply_vm_pending(&node, vmid)?;
        }
        self.check_vm_start(&node, vmid)?;
        Ok(self.latency.start)
    }

    /// Drops the saved memory of a machine that starts from it.
    fn take_saved(&mut self, node: &str, vmid: u32) -> Result<()> {
        let volid = self.guest_mut(vmid)?.edit(|config| {
            config.current.remove("lock");
            config.current.remove("vmstate")
        });
        if let Some(volid) = volid {
            let _ = self.free_volume(node, &volid);
        }
        Ok(())
    }

    /// What keeps a machine from starting.
    fn check_vm_start(&mut self, node: &str, vmid: u32) -> Result<()> {
        let current = self.vm(node, vmid)?.config().current.clone();
        for (_, drive) in drives(&current) {
            let Some(volid) = drive.volid() else { continue };
            let (storage, _) = self.split(volid)?;
            self.active_storage(node, storage)?;
            if self.volume(node, volid).is_none() {
                return Err(ApiError::die(format!("volume '{volid}' does not exist")));
            }
        }
        for (key, value) in &current.options {
            if index_of(key, "net").is_some() {
                self.check_vm_bridge_exists(node, value)?;
            }
        }
        self.check_snippets(node, &current)?;
        let pci = self.claim_pci(node, vmid, &current)?;
        self.guest_mut(vmid)?.machine = Machine {
            pci,
            cloud_init: self.vm(node, vmid)?.machine.cloud_init.clone(),
            ..Machine::default()
        };
        Ok(())
    }

    /// Addresses of the cards that a machine gets (facts F.6).
    fn claim_pci(&self, node: &str, vmid: u32, section: &Section) -> Result<Vec<String>> {
        let mut claimed = Vec::new();
        let q35 = section.get("machine").is_some_and(|text| text.contains("q35"));
        for (_, value) in section
            .options
            .iter()
            .filter(|(key, _)| index_of(key, "hostpci").is_some())
        {
            let parts = property::parse(value, "host");
            if parts.get("pcie").is_some_and(|text| property::is_true(text)) && !q35 {
                let place = "at /usr/share/perl5/PVE/QemuServer/PCI.pm line 510.";
                return Err(ApiError::die(format!("q35 machine model is not enabled {place}")));
            }
            let choices: Vec<String> = match parts.get("mapping") {
                Some(id) => self.mapped_pci(node, id)?,
                None => vec![parts.get("host").cloned().unwrap_or_default()],
            };
            let user = |path: &str| {
                self.guests.values().find(|other| {
                    let runs = other.node == node && other.vmid != vmid && other.running.is_some();
                    runs && other.machine.pci.iter().any(|held| held == path)
                })
            };
            let free = choices
                .iter()
                .find(|path| user(path).is_none() && !claimed.contains(*path));
            let Some(path) = free else {
                let path = choices.first().map_or("", String::as_str);
                let holder = user(path).map_or(vmid, |other| other.vmid);
                let text = format!("PCI device '{path}' already in use by VMID '{holder}'");
                return Err(ApiError::die(text));
            };
            let there = self
                .nodes
                .get(node)
                .is_some_and(|found| found.gpus.iter().any(|gpu| gpu.pci == *path));
            if !there {
                return Err(ApiError::die(format!("no PCI device found for '{path}'")));
            }
            claimed.push(path.clone());
        }
        Ok(claimed)
    }

    /// Proxmox binds the devices of a machine to vfio when it starts, with their whole IOMMU groups, and leaves them so
    /// (`QemuServer::PCI::prepare_pci_device`).
    fn bind_to_vfio(&mut self, vmid: u32) -> Result<()> {
        let (node, held) = {
            let guest = self.guest_mut(vmid)?;
            (guest.node.clone(), guest.machine.pci.clone())
        };
        let Some(found) = self.nodes.get_mut(&node) else {
            return Ok(());
        };
        let groups: Vec<i64> = found
            .gpus
            .iter()
            .filter(|g| held.contains(&g.pci))
            .filter_map(|g| g.iommu_group)
            .collect();
        let taken = |gpu: &&mut super::node::Gpu| {
            held.contains(&gpu.pci) || gpu.iommu_group.is_some_and(|group| groups.contains(&group))
        };
        found
            .gpus
            .iter_mut()
            .filter(taken)
            .for_each(|gpu| gpu.driver = Some("vfio-pci".into()));
        Ok(())
    }

    pub(super) fn finish_vm_start(&mut self, vmid: u32) -> Result<()> {
        self.bind_to_vfio(vmid)?;
        let pid = (self.next_number() % 4_000_000) as u32;
        let since = self.now;
        self.guest_mut(vmid)?.running = Some(Running { pid, since });
        self.boot_vm(vmid)
    }

    pub(super) fn begin_vm_stop(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm_runs(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        if !self.vm_runs(&node, vmid)? {
            return Ok(self.latency.refusal);
        }
        self.check_vm_lock(vmid, skiplock)?;
        Ok(self.latency.stop)
    }

    pub(super) fn begin_vm_shutdown(
        &mut self,
        seq: u64,
        vmid: u32,
        timeout_ms: u64,
        force_stop: bool,
        skiplock: bool,
    ) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm_runs(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        if !self.vm_runs(&node, vmid)? {
            return Ok(self.latency.refusal);
        }
        self.check_vm_lock(vmid, skiplock)?;
        if self.is_paused(vmid) && force_stop {
            self.warn(seq, "VM is paused - stop instead of shutdown");
            return Ok(self.latency.stop);
        }
        if self.ignores_shutdown(vmid) {
            return Ok(timeout_ms);
        }
        Ok(self.latency.shutdown)
    }

    pub(super) fn finish_vm_shutdown(&mut self, vmid: u32, force_stop: bool) -> Result<()> {
        let running = self.guest_mut(vmid)?.running.is_some();
        if running && self.ignores_shutdown(vmid) && !force_stop {
            return Err(ApiError::die("VM quit/powerdown failed - got timeout"));
        }
        self.power_off_vm(vmid)
    }

    /// The process ends, and what waited for that comes into force.
    pub(super) fn power_off_vm(&mut self, vmid: u32) -> Result<()> {
        self.power_off(vmid)?;
        let node = self.guest_mut(vmid)?.node.clone();
        // Proxmox only warns here; what cannot be done stays pending.
        let _ = self.apply_vm_pending(&node, vmid);
        Ok(())
    }

    pub(super) fn begin_vm_reboot(&mut self, seq: u64, vmid: u32, timeout_ms: u64) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        self.check_lock(vmid)?;
        if self.ignores_shutdown(vmid) {
            return Ok(timeout_ms);
        }
        Ok(self.latency.shutdown + self.latency.start)
    }

    pub(super) fn finish_vm_reboot(&mut self, seq: u64, vmid: u32) -> Result<()> {
        self.finish_vm_shutdown(vmid, false)?;
        let node = self.vm_task_node(seq);
        self.apply_vm_pending(&node, vmid)?;
        self.check_vm_start(&node, vmid)?;
        self.finish_vm_start(vmid)
    }

    pub(super) fn begin_vm_reset(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        self.check_vm_lock(vmid, skiplock)?;
        Ok(self.latency.refusal)
    }

    /// The guest boots anew in the same process: pending changes stay pending.
    pub(super) fn finish_vm_reset(&mut self, vmid: u32) -> Result<()> {
        let now = self.now;
        let guest = self.guest_mut(vmid)?;
        guest.inside.power_off(now);
        guest.machine = Machine {
            pci: std::mem::take(&mut guest.machine.pci),
            cloud_init: std::mem::take(&mut guest.machine.cloud_init),
            ..Machine::default()
        };
        self.boot_vm(vmid)
    }

    pub(super) fn begin_vm_suspend(
        &mut self,
        seq: u64,
        vmid: u32,
        skiplock: bool,
        todisk: bool,
        storage: Option<&str>,
    ) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.take_flock(vmid, seq)?;
        self.check_vm_lock(vmid, skiplock)?;
        if !todisk {
            return Ok(self.latency.refusal);
        }
        let current = self.vm(&node, vmid)?.config().current.clone();
        if current.options.keys().any(|key| index_of(key, "hostpci").is_some()) {
            return Err(ApiError::die(
                "cannot suspend VM to disk due to passed-through PCI device(s)",
            ));
        }
        let volid = self.save_memory(&node, vmid, "suspend", storage)?;
        self.guest_mut(vmid)?.edit(|config| {
            config.current.set("vmstate", volid);
            config.current.set("lock", "suspending");
        });
        Ok(self.latency.snapshot + memory(&current))
    }

    /// Allocates the volume for the memory of a machine: on the named storage, the configured one, or that of a disk.
    pub(super) fn save_memory(&mut self, node: &str, vmid: u32, name: &str, storage: Option<&str>) -> Result<String> {
        let current = self.vm(node, vmid)?.config().current.clone();
        let of_disk = disks(&current, false)
            .first()
            .and_then(|(_, drive)| drive.file().split_once(':').map(|(id, _)| id.to_owned()));
        let storage = storage
            .or(current.get("vmstatestorage"))
            .map(str::to_owned)
            .or(of_disk)
            .unwrap_or_else(|| "local".to_owned());
        // Twice the memory and half a GiB for drivers, as Proxmox reckons.
        let size = (memory(&current) * 2 + 500) << 20;
        self.alloc_state(node, &storage, vmid, name, size)
    }

    pub(super) fn finish_vm_suspend(&mut self, vmid: u32, todisk: bool) -> Result<()> {
        if !todisk {
            self.guest_mut(vmid)?.machine.paused = true;
            return Ok(());
        }
        self.guest_mut(vmid)?
            .edit(|config| config.current.set("lock", "suspended"));
        self.guest_mut(vmid)?.running = None;
        Ok(())
    }

    pub(super) fn begin_vm_resume(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        let node = self.vm_task_node(seq);
        if self.vm(&node, vmid)?.lock() == Some("suspended") {
            return self.begin_vm_start(seq, vmid, skiplock);
        }
        self.take_flock(vmid, seq)?;
        self.check_vm_lock(vmid, skiplock)?;
        Ok(self.latency.refusal)
    }

    pub(super) fn finish_vm_resume(&mut self, vmid: u32) -> Result<()> {
        if self.guest_mut(vmid)?.running.is_none() {
            return self.finish_vm_start(vmid);
        }
        self.guest_mut(vmid)?.machine.paused = false;
        Ok(())
    }
}

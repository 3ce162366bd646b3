//! Starting, stopping, shutting down and rebooting containers (facts D.8).

use super::error::{ApiError, Result};
use super::guest::{GuestKind, Running};
use super::lxc_options::all_mounts;
use super::state::{Caller, State};
use super::task::Work;
use super::vm_work::VmWork;

impl State {
    fn check_skiplock(&self, caller: &Caller, skiplock: bool) -> Result<()> {
        if skiplock && !caller.is_true_root() {
            return Err(ApiError::param("skiplock", "Only root may use this option."));
        }
        Ok(())
    }

    fn is_running(&self, node: &str, vmid: u32) -> bool {
        self.guests
            .get(&vmid)
            .is_some_and(|guest| guest.node == node && guest.running.is_some())
    }

    fn ct_task(&mut self, caller: &Caller, node: &str, kind: &str, vmid: u32, work: Work) -> Result<String> {
        Ok(self.start_task(node, kind, &vmid.to_string(), &caller.id, work))
    }

    /// `POST …/status/start`.
    pub fn start_ct(&mut self, caller: &Caller, node: &str, vmid: u32, skiplock: bool) -> Result<String> {
        self.check_skiplock(caller, skiplock)?;
        if self.is_running(node, vmid) {
            return Err(ApiError::die(format!("CT {vmid} already running")));
        }
        self.ct_task(caller, node, "vzstart", vmid, Work::CtStart { vmid, skiplock })
    }

    /// `POST …/status/stop`.
    pub fn stop_ct(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        skiplock: bool,
        overrule: bool,
    ) -> Result<String> {
        self.check_skiplock(caller, skiplock)?;
        if !self.is_running(node, vmid) {
            return Err(ApiError::die(format!("CT {vmid} not running")));
        }
        if overrule {
            self.abort_shutdowns(caller, "vzshutdown", vmid);
        }
        self.ct_task(caller, node, "vzstop", vmid, Work::CtStop { vmid, skiplock })
    }

    pub(super) fn abort_shutdowns(&mut self, caller: &Caller, kind: &str, vmid: u32) {
        let id = vmid.to_string();
        let own = |seq: &u64| {
            let task = self.tasks.get(seq);
            task.is_some_and(|task| task.kind == kind && task.id == id && task.owner() == caller.user())
        };
        let found: Vec<u64> = self.active.iter().copied().filter(own).collect();
        for seq in found {
            self.stop_task(seq);
        }
    }

    /// `POST …/status/shutdown`.
    pub fn shutdown_ct(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        timeout_s: u64,
        force_stop: bool,
    ) -> Result<String> {
        if !self.is_running(node, vmid) {
            return Err(ApiError::die(format!("CT {vmid} not running")));
        }
        let work = Work::CtShutdown {
            vmid,
            timeout_ms: timeout_s * 1000,
            force_stop,
        };
        self.ct_task(caller, node, "vzshutdown", vmid, work)
    }

    /// `POST …/status/reboot`. The text about a stopped container says `VM`, as in Proxmox.
    pub fn reboot_ct(&mut self, caller: &Caller, node: &str, vmid: u32) -> Result<String> {
        if !self.is_running(node, vmid) {
            return Err(ApiError::die(format!("VM {vmid} not running")));
        }
        self.ct_task(caller, node, "vzreboot", vmid, Work::CtReboot { vmid })
    }

    /// `POST …/status/suspend`; checkpointing does not work (facts D.8).
    pub fn suspend_ct(&mut self, caller: &Caller, node: &str, vmid: u32) -> Result<String> {
        if !self.is_running(node, vmid) {
            return Err(ApiError::die(format!("CT {vmid} not running")));
        }
        let command = format!("lxc-checkpoint -n {vmid} -s -D /var/lib/vz/dump");
        let error = Some(format!("command '{command}' failed: exit code 1"));
        self.ct_task(
            caller,
            node,
            "vzsuspend",
            vmid,
            Work::Nothing {
                duration_ms: 200,
                error,
            },
        )
    }

    /// `POST …/status/resume`; there is never anything to resume.
    pub fn resume_ct(&mut self, caller: &Caller, node: &str, vmid: u32) -> Result<String> {
        let command = format!("lxc-checkpoint -n {vmid} -r --foreground -D /var/lib/vz/dump");
        let error = Some(format!("command '{command}' failed: exit code 1"));
        self.ct_task(
            caller,
            node,
            "vzresume",
            vmid,
            Work::Nothing {
                duration_ms: 200,
                error,
            },
        )
    }

    fn node_of_task(&self, seq: u64) -> String {
        self.tasks.get(&seq).map(|task| task.node.clone()).unwrap_or_default()
    }

    pub(super) fn begin_ct_start(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        let node = self.node_of_task(seq);
        self.ct(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        if !skiplock {
            self.check_lock(vmid)?;
        }
        let guest = self.ct(&node, vmid)?;
        if guest.is_template() {
            return Err(ApiError::die("you can't start a CT if it's a template"));
        }
        if guest.running.is_some() {
            // It was started since the task was asked for: systemd has nothing to do, and the task ends well.
            return Ok(self.latency.refusal);
        }
        self.apply_pending(&node, vmid)?;
        let current = self.ct(&node, vmid)?.config().current.clone();
        self.check_bridges(&node, &current)?;
        for (key, value) in &current.options {
            if super::lxc_options::index_of(key, "dev").is_some() {
                self.check_device(&node, key, value)?;
            }
        }
        self.check_raw_lines(seq, vmid, &current)?;
        self.check_mount_sources(seq, &node, vmid)?;
        Ok(self.latency.start)
    }

    /// Raw lines that LXC cannot load: the container does not come up (facts L.1.6).
    fn check_raw_lines(&mut self, seq: u64, vmid: u32, section: &super::config::Section) -> Result<()> {
        let fault = section
            .lxc
            .iter()
            .find_map(|(key, value)| super::lxc_raw::unloadable(key, value));
        let Some(fault) = fault else { return Ok(()) };
        self.log(seq, format!("lxc_setup: {fault}"));
        self.log(
            seq,
            format!("__lxc_start: 2027 Failed to initialize container \"{vmid}\""),
        );
        Err(ApiError::die(format!("startup for container '{vmid}' failed")))
    }

    /// What makes the container's own start-up fail: sources of mounts that are not there.
    fn check_mount_sources(&mut self, seq: u64, node: &str, vmid: u32) -> Result<()> {
        let current = self.ct(node, vmid)?.config().current.clone();
        for (_, mount) in all_mounts(&current) {
            let source = mount.volume();
            let there = match mount.kind() {
                "volume" => {
                    let Ok((storage, _)) = self.split(source) else { continue };
                    self.active_storage(node, storage)?;
                    // A bare image has nothing to mount; a bare subvolume has.
                    self.volume(node, source)
                        .is_some_and(|volume| volume.formatted || volume.format == "subvol")
                }
                "device" => self.nodes.get(node).is_some_and(|found| found.devices.contains(source)),
                _ => self.has_path(node, source),
            };
            if !there {
                self.log(seq, "run_buffer: 571 Script exited with status 2");
                self.log(
                    seq,
                    format!("__lxc_start: 2027 Failed to initialize container \"{vmid}\""),
                );
                return Err(ApiError::die(format!("startup for container '{vmid}' failed")));
            }
        }
        Ok(())
    }

    pub(super) fn has_path(&self, node: &str, path: &str) -> bool {
        let Some(found) = self.nodes.get(node) else {
            return false;
        };
        let path = path.trim_end_matches('/');
        let below = |root: &String| root == path || root.starts_with(&format!("{path}/"));
        path.is_empty() || found.paths.iter().any(below)
    }

    pub(super) fn finish_ct_start(&mut self, seq: u64, vmid: u32) -> Result<()> {
        self.warn_about_nesting(seq, vmid);
        let pid = (self.next_number() % 4_000_000) as u32;
        let since = self.now;
        self.guest_mut(vmid)?.running.get_or_insert(Running { pid, since });
        Ok(())
    }

    pub(super) fn begin_ct_stop(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        if !skiplock {
            self.check_lock(vmid)?;
        }
        Ok(self.latency.stop)
    }

    /// Takes a guest down: its processes are gone.
    pub fn power_off(&mut self, vmid: u32) -> Result<()> {
        let now = self.now;
        let guest = self.guest_mut(vmid)?;
        guest.running = None;
        guest.inside.power_off(now);
        Ok(())
    }

    /// The container is down: pending changes come into force at once.
    pub(super) fn finish_ct_stop(&mut self, vmid: u32) -> Result<()> {
        self.power_off(vmid)?;
        let node = self.guest_mut(vmid)?.node.clone();
        self.apply_pending(&node, vmid)
    }

    pub(super) fn begin_ct_shutdown(&mut self, seq: u64, vmid: u32, timeout_ms: u64) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        self.check_lock(vmid)?;
        if self.ignores_shutdown(vmid) {
            return Ok(timeout_ms);
        }
        Ok(self.latency.shutdown)
    }

    /// A guest can be made deaf to shutdown by the in-guest fact `ignore-shutdown`.
    pub(super) fn ignores_shutdown(&self, vmid: u32) -> bool {
        self.guests
            .get(&vmid)
            .is_some_and(|guest| guest.inside.facts.contains_key("ignore-shutdown"))
    }

    pub(super) fn finish_ct_shutdown(&mut self, vmid: u32, force_stop: bool) -> Result<()> {
        if self.ignores_shutdown(vmid) && !force_stop {
            return Err(ApiError::die("container did not stop"));
        }
        self.finish_ct_stop(vmid)
    }

    pub(super) fn begin_ct_reboot(&mut self, seq: u64, vmid: u32) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        self.check_lock(vmid)?;
        Ok(self.latency.shutdown + self.latency.start)
    }

    pub(super) fn finish_ct_reboot(&mut self, seq: u64, vmid: u32) -> Result<()> {
        self.power_off(vmid)?;
        let node = self.node_of_task(seq);
        self.apply_pending(&node, vmid)?;
        let current = self.ct(&node, vmid)?.config().current.clone();
        self.check_bridges(&node, &current)?;
        self.check_raw_lines(seq, vmid, &current)?;
        self.check_mount_sources(seq, &node, vmid)?;
        self.finish_ct_start(seq, vmid)
    }

    /// Guests of a node in boot order, filtered by a list of ids.
    fn node_guests(&self, node: &str, vms: Option<&[u32]>) -> Vec<u32> {
        let order = |vmid: &u32| {
            let startup = self
                .guests
                .get(vmid)
                .and_then(|guest| guest.config().current.get("startup"));
            let order = startup.and_then(|text| super::property::parse(text, "order").remove("order"));
            order.and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX)
        };
        let mut found: Vec<u32> = self
            .guests
            .values()
            .filter(|guest| guest.node == node)
            .map(|guest| guest.vmid)
            .filter(|vmid| vms.is_none_or(|vms| vms.contains(vmid)))
            .collect();
        found.sort_by_key(|vmid| (order(vmid), *vmid));
        found
    }

    pub(super) fn begin_start_all(&mut self, seq: u64, node: &str, vms: Option<&[u32]>) -> Result<u64> {
        let user = self.tasks.get(&seq).map(|task| task.user.clone()).unwrap_or_default();
        for vmid in self.node_guests(node, vms) {
            let Some(guest) = self.guests.get(&vmid) else { continue };
            let wanted = guest.config().current.flag("onboot") && !guest.is_template() && guest.running.is_none();
            if wanted {
                let kind = guest.kind;
                self.log(seq, format!("Starting {} {vmid}", kind.short()));
                let (name, work) = match kind {
                    GuestKind::Lxc => ("vzstart", Work::CtStart { vmid, skiplock: false }),
                    GuestKind::Qemu => ("qmstart", Work::Vm(Box::new(VmWork::Start { vmid, skiplock: false }))),
                };
                self.start_task(node, name, &vmid.to_string(), &user, work);
            }
        }
        Ok(self.latency.start)
    }

    pub(super) fn begin_stop_all(&mut self, seq: u64, node: &str, vms: Option<&[u32]>) -> Result<u64> {
        let user = self.tasks.get(&seq).map(|task| task.user.clone()).unwrap_or_default();
        for vmid in self.node_guests(node, vms) {
            if self.is_running(node, vmid) {
                let kind = self.guests.get(&vmid).map_or(GuestKind::Lxc, |guest| guest.kind);
                self.log(seq, format!("Stopping {} {vmid} (timeout = 180 seconds)", kind.short()));
                let (timeout_ms, force_stop) = (180_000, true);
                let (name, work) = match kind {
                    GuestKind::Lxc => (
                        "vzshutdown",
                        Work::CtShutdown {
                            vmid,
                            timeout_ms,
                            force_stop,
                        },
                    ),
                    GuestKind::Qemu => {
                        let work = VmWork::Shutdown {
                            vmid,
                            timeout_ms,
                            force_stop,
                            skiplock: false,
                        };
                        ("qmshutdown", Work::Vm(Box::new(work)))
                    }
                };
                self.start_task(node, name, &vmid.to_string(), &user, work);
            }
        }
        Ok(self.latency.shutdown + 200)
    }
}

//! The call that makes a container from an image.

use crate::desired::{Source, WantedLxc};
use crate::plan::planner::Planner;
use crate::plan::{Effect, Impact, Next, Stage};
use crate::pve::property::Properties;
use crate::pve::{ApiCall, DiskSize, Vmid, options};
use crate::reason::Reason;

impl Planner<'_> {
    pub(crate) fn create_container(
        &mut self,
        lxc: &WantedLxc,
        vmid: Vmid,
        node: &str,
        source: &Source,
    ) -> Result<Effect, Next> {
        let stage = Stage::Created;
        let volid = self.image_present(stage, node, source)?;
        let Some(storage) = lxc.rootfs_storage.clone() else {
            let message = format!(
                "{}.rootfs.storage is missing: name one, here or in defaults.rootfsStorage of the PhoenixHypervisor",
                self.prefix()
            );
            return Err(self.stuck(stage, Reason::InvalidSpec, message));
        };
        let field = format!("{}.rootfs.storage", self.prefix());
        self.storage_usable(node, &storage, &field, "rootdir")?;
        let unprivileged = lxc.unprivileged.unwrap_or(true);
        let size = lxc.rootfs_size.unwrap_or(DiskSize::ROOTFS);
        let mut call = ApiCall::post(format!("/nodes/{node}/lxc"))
            .param("vmid", vmid)
            .param("ostemplate", &volid)
            .param("hostname", self.hostname())
            .param("description", self.fresh_description(vmid))
            .param("unprivileged", u8::from(unprivileged))
            .param("rootfs", format!("{storage}:{}", size.in_gib()))
            .param_opt("pool", self.desired.shared.pool.as_ref());
        if let Some(keys) = &lxc.ssh_keys {
            call = call.param("ssh-public-keys", keys.expose());
        }
        // A protected container gets no volumes.
        let volumes = !self.desired.volumes().is_empty() || lxc.binds.as_ref().is_some_and(|binds| !binds.is_empty());
        let at_creation =
            |option: &&options::OptionSpec| option.at_creation && !(volumes && option.key == "protection");
        for option in options::LXC.iter().filter(at_creation) {
            call = call.param_opt(option.key, self.desired.option(option.key));
        }
        for (i, net) in self.desired.shared.network.iter().flatten().enumerate() {
            let mut properties = Properties::new(None).with("name", &net.name);
            for (key, value) in net.properties.iter().filter(|(_, value)| !value.is_empty()) {
                properties.set(key, value);
            }
            call = call.param(format!("net{i}"), properties);
        }
        let nesting = lxc.flags.get("nesting").is_some_and(|v| v == "1");
        if unprivileged && nesting {
            call = call.param("features", "nesting=1");
        }
        // An API token may not create privileged containers' features, but anybody may create the container itself.
        Ok(Effect::task(node, call).with(Impact::Create))
    }
}

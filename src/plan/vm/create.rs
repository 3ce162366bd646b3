//! The call that makes a machine from a cloud image.

use std::collections::BTreeMap;

use crate::desired::{Source, WantedDisk, WantedVm};
use crate::plan::planner::Planner;
use crate::plan::{Effect, Impact, Next, Stage};
use crate::pve::property::Properties;
use crate::pve::{ApiCall, Vmid, options};
use crate::reason::Reason;

impl Planner<'_> {
    /// Creates the machine with its boot disk imported from the image; everything else is configured afterwards, before
    /// the first start.
    pub(crate) fn create_machine(
        &mut self,
        vm: &WantedVm,
        vmid: Vmid,
        node: &str,
        source: &Source,
    ) -> Result<Effect, Next> {
        let volid = self.image_present(Stage::Created, node, source)?;
        self.isos_present(Stage::Created, node, vm)?;
        let root = vm.disks.iter().flatten().next().cloned().unwrap_or_else(|| WantedDisk {
            name: "root".into(),
            ..WantedDisk::default()
        });
        let field = format!("{}.disks[{}].storage", self.prefix(), root.name);
        let Some(storage) = root.storage.clone().or(vm.disk_storage.clone()) else {
            let message =
                format!("{field} is missing: name a storage, here or in defaults.diskStorage of the PhoenixHypervisor");
            return Err(self.stuck(Stage::Created, Reason::InvalidSpec, message));
        };
        self.storage_usable(node, &storage, &field, "images")?;
        self.drives_usable(vm, node)?;
        let free = || super::disks::free_place(root.bus, vm, &BTreeMap::new());
        let Some(place) = root.slot.clone().or_else(free) else {
            let message = format!(
                "{}.disks[{}].bus: the names of other disks spell all places of {}: choose another bus",
                self.prefix(),
                root.name,
                root.bus.as_str()
            );
            return Err(self.stuck(Stage::Created, Reason::TooManyVolumes, message));
        };
        let disk = super::disks::new_properties(&root)
            .with("file", format!("{storage}:0"))
            .with("import-from", volid);
        let mut call = ApiCall::post(format!("/nodes/{node}/qemu"))
            .param("vmid", vmid)
            .param("name", self.hostname())
            .param("description", self.fresh_description(vmid))
            .param_opt("pool", self.desired.shared.pool.as_ref())
            .param(&place, disk)
            .param("boot", format!("order={place}"));
        for (key, value) in created_options(self.desired, vm) {
            call = call.param(key, value);
        }
        for net in self.desired.shared.network.iter().flatten() {
            call = call.param(&net.name, super::network::new_net(&net.properties));
        }
        if let Some((efi, keys)) = &vm.firmware.efi {
            let on = efi.as_ref().unwrap_or(&storage);
            call = call.param(
                "efidisk0",
                format!(
                    "{on}:1,efitype=4m,pre-enrolled-keys={}",
                    u8::from(keys.unwrap_or(false))
                ),
            );
        }
        if let Some((tpm, version)) = &vm.firmware.tpm {
            call = call.param(
                "tpmstate0",
                format!("{}:1,version={version}", tpm.as_ref().unwrap_or(&storage)),
            );
        }
        if let Some(init) = &vm.cloud_init {
            call = call.param(
                "ide2",
                format!("{}:cloudinit", init.storage.as_ref().unwrap_or(&storage)),
            );
        }
        Ok(Effect::task(node, call).with(Impact::Create))
    }

    /// The storages of the drives that the creating call makes beside the boot disk, where the spec names them.
    fn drives_usable(&mut self, vm: &WantedVm, node: &str) -> Result<(), Next> {
        let efi = vm.firmware.efi.as_ref().and_then(|(storage, _)| storage.as_ref());
        let tpm = vm.firmware.tpm.as_ref().and_then(|(storage, _)| storage.as_ref());
        let init = vm.cloud_init.as_ref().and_then(|init| init.storage.as_ref());
        let drives = [("efiDisk", efi), ("tpm", tpm), ("cloudInit", init)];
        for (drive, storage) in drives {
            if let Some(storage) = storage {
                let field = format!("{}.{drive}.storage", self.prefix());
                self.storage_usable(node, storage, &field, "images")?;
            }
        }
        Ok(())
    }
}

/// Options that the creating call carries: those that it may set and that make the machine what it is from the start.
/// Root's options, keys and start with the node come with the first configuration.
fn created_options(desired: &crate::desired::Desired, vm: &WantedVm) -> Vec<(String, String)> {
    let mut created = vm.creation.clone();
    for option in options::QEMU.iter().filter(|option| option.at_creation) {
        let wanted = desired.option(option.key);
        created.extend(wanted.map(|value| (option.key.to_string(), value.clone())));
    }
    for (option, managed) in vm.properties.iter().filter(|(o, _)| !o.starts_with("ipconfig")) {
        let mut properties = Properties::new(None);
        for (key, value) in managed {
            properties.set(key, value);
        }
        created.insert(option.clone(), properties.to_string());
    }
    created.into_iter().collect()
}

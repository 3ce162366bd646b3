//! Values for the leaves of a machine, and what is around them.

use serde_json::{Value, json};

use super::lxc;
use super::table::{Group, one};
use crate::engine::CLOUD_IMAGE;

/// What every machine of the walk has.
pub fn base() -> Value {
    json!({
        "source": {"cloudImage": {"volid": CLOUD_IMAGE}}, "cpu": {"cores": 2}, "memory": "2Gi",
        "disks": [{"name": "root", "size": "20Gi"}], "cloudInit": {"user": "ops"}, "powerState": "Stopped",
    })
}

/// The leaves of a machine.
pub fn groups() -> Vec<Group> {
    let url = "https://images.example/one.qcow2";
    let disks = |more: Value| {
        let mut entry = json!({"name": "data", "size": "1Gi"});
        super::table::merge(&mut entry, &more);
        json!({"disks": [entry, {"name": "root", "size": "20Gi"}]})
    };
    let mut groups = vec![
        one("memory").to("2Gi", "3Gi").one("balloon", "1Gi", "2Gi").one("machine", "q35", "pc").auto_of("bios").auto_of("osType")
            .one("scsiController", "virtio-scsi-pci", "lsi").auto_of("serial").one("args", "-no-fd-bootchk", "-no-hpet")
            .one("hugepages", "any", "2Mi").one("hookscript", "local:snippets/one.pl", "local:snippets/two.pl"),
        one("viommu").to("virtio", "intel").with(json!({"machine": "q35"})),
        one("hotplug[]").to("disk", "network"),
        one("bootOrder[]").to("root", "data").with(disks(json!({}))),
        one("cpu.affinity").to("0-1", "0-3").one("cpu.cores", 2, 4).one("cpu.sockets", 1, 2).one("cpu.limit", 1, 2).one("cpu.units", 100, 200)
            .one("cpu.type", "host", "x86-64-v3").auto_of("cpu.numa"),
        one("cpu.flags[]").to("+aes", "-aes").auto_of("cpu.hidden").with(json!({"cpu": {"type": "host"}})),
        one("agent.enabled").auto().auto_of("agent.install").auto_of("agent.freezeFilesystems").auto_of("agent.trimClonedDisks"),
        one("cloudInit.user").to("one", "two").one("cloudInit.packages[]", "one", "two").auto_of("cloudInit.upgrade")
            .one("cloudInit.userData", "#cloud-config\nlocale: de\n", "#cloud-config\nlocale: en\n")
            .one("cloudInit.storage", "quickOS-vm-disks", "fastData-shared-bulk-data"),
        one("cloudInit.snippetStorage").to("local", "snippets").with(json!({"cloudInit": {"packages": ["one"]}})),
        one("cloudInit.passwordHashSecretRef.key").to("one", "two").one("cloudInit.passwordHashSecretRef.name", "hashes", "more-hashes")
            .with(json!({"cloudInit": {"passwordHashSecretRef": {"name": "hashes", "key": "one"}}})),
        one("cloudInit.sshKeysSecretRef.key").to("one", "two").one("cloudInit.sshKeysSecretRef.name", "keys", "more-keys")
            .with(json!({"cloudInit": {"sshKeysSecretRef": {"name": "keys", "key": "one"}}})),
        one("disks[].backup").auto().one("disks[].bus", "scsi", "sata").one("disks[].cache", "none", "writeback").auto_of("disks[].discard")
            .auto_of("disks[].iothread").one("disks[].name", "data", "more").auto_of("disks[].readOnly").one("disks[].size", "700Mi", "1Gi")
            .auto_of("disks[].ssd").one("disks[].storage", "quickOS-vm-disks", "fastData-shared-bulk-data").with(disks(json!({}))),
        one("cdroms[].slot").to("ide0", "ide1").one("cdroms[].volid", "local:iso/one.iso", "local:iso/two.iso")
            .with(json!({"cdroms": [{"slot": "ide0", "volid": "local:iso/one.iso"}]})),
        one("efiDisk.preEnrolledKeys").auto().one("efiDisk.storage", "quickOS-vm-disks", "fastData-shared-bulk-data")
            .with(json!({"bios": "ovmf"})),
        one("tpm.version").to("v2.0", "v1.2").one("tpm.storage", "quickOS-vm-disks", "fastData-shared-bulk-data"),
        one("vga.type").to("std", "virtio").one("vga.memory", 16, 32).with(json!({"vga": {"type": "std"}})),
        one("pci[].mapping").to("gpu0", "gpu1").with(json!({"pci": [{"mapping": "gpu0"}], "machine": "q35"})),
        one("pci[].address").to("0000:41:00.0", "0000:61:00.0").auto_of("pci[].pcie").auto_of("pci[].primaryGpu").one("pci[].mdev", "nvidia-63", "nvidia-64")
            .auto_of("pci[].romBar").one("pci[].romFile", "one.bin", "two.bin")
            .with(json!({"pci": [{"address": "0000:41:00.0"}], "machine": "q35"})),
        one("usb[].mapping").to("stick0", "stick1").with(json!({"usb": [{"mapping": "stick0"}]})),
        one("usb[].host").to("046d:c52b", "1-2").auto_of("usb[].usb3").with(json!({"usb": [{"host": "046d:c52b"}]})),
        one("source.cloudImage.volid").to(CLOUD_IMAGE, "local:import/other.qcow2"),
        one("source.cloudImage.url").to(url, "https://images.example/two.qcow2").one("source.cloudImage.sha256", super::SUM, "0".repeat(64))
            .one("source.cloudImage.storage", "local", "fastData-shared-iso")
            .with(json!({"source": {"cloudImage": {"volid": null, "url": url, "sha256": super::SUM, "storage": "local"}}})),
    ];
    groups.push(
        one("network[].model")
            .to("virtio", "e1000")
            .one("network[].queues", 2, 4)
            .with(json!({"network": [{"name": "net0"}]})),
    );
    groups.extend(lxc::shared("net0"));
    groups.extend(lxc::running());
    groups
}

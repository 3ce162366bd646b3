//! The look at a node's graphics cards, as one program for the node.

use super::command::Command;

const GPUS: &str = include_str!("gpus.sh");

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: gpus";

/// Where the program looks; tests have folders of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuLayout {
    /// `/sys`.
    pub sys: String,
    /// `/proc`.
    pub proc: String,
    /// `/dev`.
    pub dev: String,
    /// `/etc/pve`.
    pub pve: String,
}

impl Default for GpuLayout {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            pve: "/etc/pve".into(),
        }
    }
}

/// Looks at the cards of a node; [`crate::pve::gpu_report`] reads what it prints. It changes nothing.
pub fn look(layout: &GpuLayout) -> Command {
    let quote = super::command::quote;
    let text = format!(
        "{HEADER}\n{GPUS}\nPHOENIX_SYS={}\nPHOENIX_PROC={}\nPHOENIX_DEV={}\nPHOENIX_PVE={}\nphoenix_gpus\n",
        quote(&layout.sys),
        quote(&layout.proc),
        quote(&layout.dev),
        quote(&layout.pve)
    );
    Command::new(["/bin/sh", "-s"]).with_stdin(text)
}

const WORK: &str = include_str!("gpu_work.sh");

/// First words of a program that does something to a node's cards.
pub const WORK_HEADER: &str = "# phoenix-node: gpu-";

/// Loads NVIDIA's modules and makes the device nodes of its cards: those with these numbers and the ones that all share.
pub fn make_nodes(minors: &[i64]) -> Command {
    let minors: Vec<String> = minors.iter().map(i64::to_string).collect();
    let minors = minors.join(" ");
    work(
        &format!("nodes minors={minors}"),
        &format!("phoenix_gpu_nodes {minors}"),
    )
}

/// Binds a card to a driver of the node's.
pub fn bind(address: &str, driver: &str) -> Command {
    let quote = super::command::quote;
    work(
        &format!("bind address={address} driver={driver}"),
        &format!("phoenix_gpu_bind {} {}", quote(address), quote(driver)),
    )
}

fn work(what: &str, call: &str) -> Command {
    Command::new(["/bin/sh", "-s"]).with_stdin(format!("{WORK_HEADER}{what}\n{WORK}\n{call}\n"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::process::{Command as Process, Stdio};

    use crate::pve::gpu_report;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(path: &Path, text: &str) {
        write(path, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A device as the kernel shows it.
    fn device(root: &Path, address: &str, ids: [&str; 3], driver: &str, group: &str, drm: &[&str]) {
        let dir = root.join("sys/bus/pci/devices").join(address);
        for (name, id) in ["class", "vendor", "device"].iter().zip(ids) {
            write(&dir.join(name), &format!("{id}\n"));
        }
        let link = |to: String, name: &str| {
            fs::create_dir_all(&to).unwrap();
            symlink(to, dir.join(name)).unwrap();
        };
        let path = |rest: String| root.join(rest).to_str().unwrap().to_string();
        if !driver.is_empty() {
            link(path(format!("sys/bus/pci/drivers/{driver}")), "driver");
        }
        let groups = format!("sys/kernel/iommu_groups/{group}");
        write(&root.join(&groups).join("devices").join(address), "");
        link(path(groups), "iommu_group");
        for name in drm {
            fs::create_dir_all(dir.join("drm").join(name)).unwrap();
        }
    }

    fn run(root: &Path) -> String {
        let path = |name: &str| root.join(name).to_str().unwrap().to_string();
        let layout = GpuLayout {
            sys: path("sys"),
            proc: path("proc"),
            dev: path("dev"),
            pve: path("pve"),
        };
        let command = look(&layout);
        let mut shell = Process::new("/bin/sh")
            .arg("-s")
            .env("PATH", format!("{}:/usr/bin:/bin", path("bin")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(&command.stdin).unwrap();
        let output = shell.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_node_is_looked_at_by_a_real_shell() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        device(
            root,
            "0000:01:00.0",
            ["0x030000", "0x10de", "0x2d04"],
            "nvidia",
            "15",
            &["card1", "card1-DP-1", "renderD129"],
        );
        device(
            root,
            "0000:01:00.1",
            ["0x040300", "0x10de", "0x22eb"],
            "snd_hda_intel",
            "15",
            &[],
        );
        device(
            root,
            "0000:02:00.0",
            ["0x030200", "0x1002", "0x73bf"],
            "vfio-pci",
            "16",
            &[],
        );
        device(
            root,
            "0000:03:00.0",
            ["0x030000", "0x1a03", "0x2000"],
            "ast",
            "17",
            &["card0"],
        );
        let info = "Model: \t\t NVIDIA GeForce RTX 5060 Ti\nIRQ:   \t\t 93\nGPU UUID: \t GPU-1\nDevice Minor: \t 3\n";
        write(&root.join("proc/driver/nvidia/gpus/0000:01:00.0/information"), info);
        write(
            &root.join("proc/driver/nvidia/version"),
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Thu Jul 10\nGCC version:  gcc 14\n",
        );
        fs::create_dir_all(root.join("dev/dri")).unwrap();
        for name in ["nvidia3", "nvidiactl", "dri/renderD129"] {
            symlink("/dev/null", root.join("dev").join(name)).unwrap();
        }
        write(&root.join("dev/nvidia-uvm"), "no device");
        program(
            &root.join("bin/nvidia-smi"),
            "case $1 in --query-gpu=index,*) echo '0, 00000000:01:00.0, GPU-1, NVIDIA GeForce RTX 5060 Ti, 16311, 580.76.05, Enabled, [N/A], 100, 3, 44, 20.1' ;; *) exit 2 ;; esac",
        );
        program(
            &root.join("bin/journalctl"),
            "echo '1732000000.5 pve kernel: NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.'\necho '1.0 pve kernel: else'",
        );
        write(
            &root.join("pve/lxc/105.conf"),
            "arch: amd64\ndev0: /dev/nvidia3,mode=0666\nlxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind\n[before]\ndev1: /dev/nvidia9\n",
        );
        write(
            &root.join("pve/qemu-server/200.conf"),
            "hostpci0: 0000:02:00,pcie=1\nname: x\n",
        );
        write(
            &root.join("pve/mapping/pci.cfg"),
            "gpu\n\tmap id=1002:73bf,iommugroup=16,node=pve1,path=0000:02:00.0\n",
        );
        let text = run(root);
        let node = gpu_report::parse(&text, "pve1").unwrap();
        let addresses: Vec<&str> = node.cards.keys().map(String::as_str).collect();
        assert_eq!(addresses, ["0000:01:00.0", "0000:02:00.0"], "{text}");
        let first = &node.cards["0000:01:00.0"];
        assert_eq!((first.index, first.minor), (Some(0), Some(3)));
        assert_eq!(first.iommu_members, ["0000:01:00.1"]);
        assert_eq!(first.dri, ["/dev/dri/card1", "/dev/dri/renderD129"]);
        assert_eq!(first.fault().map(|xid| xid.number), Some(79));
        assert_eq!(node.cards["0000:02:00.0"].mode(), "vfio");
        assert_eq!(node.missing(first), ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]);
        let holders: Vec<i64> = node.holders.iter().map(|holder| i64::from(holder.vmid)).collect();
        assert_eq!(holders, [105, 200]);
        assert!(
            !node.holders[0].nodes.contains("/dev/nvidia9"),
            "a snapshot is not in force"
        );
        assert_eq!(node.mappings["gpu"], ["0000:02:00.0"]);
    }

    #[test]
    fn a_node_without_cards_and_without_anything_is_looked_at_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let node = gpu_report::parse(&run(folder.path()), "pve1").unwrap();
        assert!(node.cards.is_empty() && node.nodes.is_empty() && node.holders.is_empty());
    }

    #[test]
    fn a_program_that_arrives_cut_short_prints_nothing() {
        let whole = String::from_utf8(look(&GpuLayout::default()).stdin).unwrap();
        for end in (0..whole.len() - 1).step_by(97) {
            let Some(cut) = whole.get(..end) else { continue };
            let mut shell = Process::new("/bin/sh")
                .arg("-s")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let _ = shell.stdin.take().unwrap().write_all(cut.as_bytes());
            assert_eq!(shell.wait_with_output().unwrap().stdout, b"");
        }
    }
}

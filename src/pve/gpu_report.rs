//! Reads what the program for cards (`remote/gpus.sh`) prints: a line for each thing, fields separated by `|`.

use std::collections::{BTreeMap, BTreeSet};

use super::gpu::{Card, Holder, MigInstance, NodeCards, Reading, Vendor, Xid};
use super::property::Properties;
use super::{GuestType, Vmid};

/// Reads the report of a node.
///
/// # Errors
/// It does not begin or end as a whole report does, in words.
pub fn parse(text: &str, node: &str) -> Result<NodeCards, String> {
    let mut lines = text.lines().map(str::trim_end);
    if lines.next() != Some("begin") || lines.next_back() != Some("end") {
        return Err(format!(
            "the report of graphics cards is not whole: {:?}",
            text.chars().take(200).collect::<String>()
        ));
    }
    let mut report = Report {
        name: node.to_string(),
        ..Report::default()
    };
    for line in lines {
        if let Some((what, rest)) = line.split_once('|') {
            report.line(what, rest);
        }
    }
    Ok(report.whole())
}

#[derive(Default)]
struct Report {
    /// Name of the node.
    name: String,
    node: NodeCards,
    smi: Vec<String>,
    smi_code: Option<i64>,
    /// What `nvidia-smi -q -x` says of MIG: card, MIG device index, GPU instance, compute instance.
    mig: Vec<(String, u32, u32, u32)>,
    mig_at: (String, Option<u32>, Option<u32>),
    /// What `nvidia-smi -L` says: card's UUID, profile, MIG device index, UUID.
    listed: Vec<(String, String, u32, String)>,
    list_at: String,
    /// Number of the capability node by `gpu0/gi1/access`.
    caps: BTreeMap<String, u32>,
    xids: Vec<(String, Xid)>,
    holders: BTreeMap<Vmid, Holder>,
    mapping_at: String,
}

impl Report {
    fn line(&mut self, what: &str, rest: &str) {
        match what {
            "card" => self.card(rest),
            "proc" => self.proc(rest),
            "module" => self.node.module = version(rest),
            "smi" => self.smi.push(rest.to_string()),
            "smi-code" => self.smi_code = rest.parse().ok(),
            "mig" => self.mig_line(rest),
            "list" => self.list_line(rest),
            "cap" => {
                if let Some((name, number)) = rest.rsplit_once(' ') {
                    self.caps
                        .extend(number.parse().ok().map(|n| (name.trim().to_string(), n)));
                }
            }
            "node" => drop(self.node.nodes.insert(rest.to_string())),
            "xid" => self.xids.extend(xid(rest)),
            "guest" => self.guest(rest),
            "mapping" => self.mapping(rest),
            _ => {}
        }
    }

    fn card(&mut self, rest: &str) {
        let mut fields = rest.split('|');
        let mut next = || fields.next().unwrap_or_default().trim();
        let (address, vendor, _device) = (next().to_string(), next(), next());
        let Some(vendor) = Vendor::of_id(vendor) else { return };
        let (driver, group, members, drm) = (next(), next(), next(), next());
        let members = members
            .split(' ')
            .filter(|m| !m.is_empty() && *m != address && *m != "*");
        let dri = drm
            .split(' ')
            .filter(|n| n.starts_with("card") && !n.contains('-') || n.starts_with("renderD"));
        let card = Card {
            vendor,
            driver: Some(driver.to_string()).filter(|d| !d.is_empty()),
            iommu_group: group.parse().ok(),
            iommu_members: members.map(String::from).collect(),
            dri: dri.map(|n| format!("/dev/dri/{n}")).collect(),
            address: address.clone(),
            ..Card::default()
        };
        self.node.cards.insert(address, card);
    }

    /// A line of `/proc/driver/nvidia/gpus/ADDRESS/information`.
    fn proc(&mut self, rest: &str) {
        let mut fields = rest.splitn(3, '|');
        let (Some(address), Some(key), Some(value)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let Some(card) = self.node.cards.get_mut(address) else {
            return;
        };
        let value = value.trim();
        match key.trim() {
            "Device Minor" => card.minor = value.parse().ok(),
            "Model" if value != "Unknown" => card.model = Some(value.to_string()),
            "GPU UUID" if !value.contains('?') => card.uuid = Some(value.to_string()),
            _ => {}
        }
    }

    fn mig_line(&mut self, rest: &str) {
        let value = |tag: &str| {
            let inner = rest.trim().strip_prefix(&format!("<{tag}>"))?;
            inner.split('<').next()?.trim().parse::<u32>().ok()
        };
        if let Some(id) = rest.trim().strip_prefix("<gpu id=\"") {
            self.mig_at = (address(id.trim_end_matches(['"', '>'])), None, None);
        } else if let Some(index) = value("index") {
            self.mig_at.1 = Some(index);
        } else if let Some(gi) = value("gpu_instance_id") {
            self.mig_at.2 = Some(gi);
        } else if let Some(ci) = value("compute_instance_id")
            && let (card, Some(index), Some(gi)) = &self.mig_at
        {
            self.mig.push((card.clone(), *index, *gi, ci));
            (self.mig_at.1, self.mig_at.2) = (None, None);
        }
    }

    /// `GPU 0: NVIDIA A100 (UUID: GPU-…)`, then `  MIG 3g.20gb     Device  0: (UUID: MIG-…)` for each instance.
    fn list_line(&mut self, rest: &str) {
        let uuid = rest
            .split("(UUID: ")
            .nth(1)
            .map(|u| u.trim_end_matches(')').to_string());
        let Some(uuid) = uuid else { return };
        match rest.trim().strip_prefix("MIG ") {
            Some(instance) => {
                let mut words = instance.split_whitespace();
                let profile = words.next().unwrap_or_default().to_string();
                let index = words.find_map(|w| w.trim_end_matches(':').parse().ok());
                let found = index.map(|index| (self.list_at.clone(), profile, index, uuid));
                self.listed.extend(found);
            }
            None => self.list_at = uuid,
        }
    }

    fn guest(&mut self, rest: &str) {
        let mut fields = rest.splitn(3, '|');
        let (Some(sort), Some(vmid), Some(line)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let Some(vmid) = vmid.parse::<i64>().ok().and_then(|id| Vmid::try_from(id).ok()) else {
            return;
        };
        let sort = match sort {
            "lxc" => GuestType::Lxc,
            _ => GuestType::Qemu,
        };
        let holder = self.holders.entry(vmid).or_insert_with(|| Holder {
            vmid,
            sort,
            nodes: BTreeSet::new(),
            devices: BTreeSet::new(),
        });
        let Some((key, value)) = line.split_once([':', '=']) else {
            return;
        };
        let (key, value) = (key.trim(), value.trim());
        if key == "lxc.mount.entry" {
            holder.nodes.extend(value.split_whitespace().next().map(String::from));
            return;
        }
        let Ok(entry) = Properties::of_option(key, value) else {
            return;
        };
        if key.starts_with("dev") {
            holder.nodes.extend(entry.get("path").map(String::from));
            return;
        }
        let hosts = entry.get("host").into_iter().flat_map(|hosts| hosts.split(';'));
        holder
            .devices
            .extend(hosts.chain(entry.get("mapping")).map(String::from));
    }

    /// Lines of `/etc/pve/mapping/pci.cfg`: a name, then indented `map` lines, one for each node and alternative.
    fn mapping(&mut self, rest: &str) {
        if !rest.starts_with([' ', '\t']) {
            self.mapping_at = rest.trim().trim_end_matches(':').to_string();
            return;
        }
        let Some(map) = rest.trim().strip_prefix("map ") else {
            return;
        };
        let entry: BTreeMap<&str, &str> = map.trim().split(',').filter_map(|p| p.split_once('=')).collect();
        let Some(path) = entry.get("path") else { return };
        if entry.get("node").is_some_and(|node| *node == self.name) {
            let addresses = self.node.mappings.entry(self.mapping_at.clone()).or_default();
            addresses.extend(path.split(';').map(String::from));
        }
    }

    /// What the lines come to together.
    fn whole(mut self) -> NodeCards {
        self.node.over_ssh = true;
        match self.smi_code {
            Some(0) => {
                for row in std::mem::take(&mut self.smi) {
                    self.smi_row(&row);
                }
            }
            Some(_) => {
                let said: Vec<String> = self.smi.iter().map(|line| line.trim().to_string()).collect();
                self.node.smi_error = Some(said.join(" ").chars().take(300).collect());
            }
            None => {}
        }
        let module = self.node.module.clone();
        for card in self.node.cards.values_mut() {
            if card.driver_version.is_none() && card.mode() == "nvidia" {
                card.driver_version.clone_from(&module);
            }
            let own = card.address.rsplit_once('.').map_or("", |(device, _)| device);
            let xids = self.xids.iter().filter(|(at, _)| at == own);
            card.xids = xids.map(|(_, xid)| xid.clone()).collect();
            if let Some(list) = &mut card.mig {
                instances(
                    list,
                    card.minor,
                    &card.uuid,
                    &card.address,
                    &self.mig,
                    &self.listed,
                    &self.caps,
                );
            }
        }
        self.node.holders = self.holders.into_values().collect();
        self.node
    }

    /// A row of `nvidia-smi --query-gpu=index,pci.bus_id,uuid,name,memory.total,driver_version,persistence_mode,
    /// mig.mode.current,memory.used,utilization.gpu,temperature.gpu,power.draw --format=csv,noheader,nounits`.
    fn smi_row(&mut self, row: &str) {
        let fields: Vec<&str> = row.split(',').map(str::trim).collect();
        let text = |n: usize| fields.get(n).copied().filter(|f| !f.is_empty() && !f.starts_with('['));
        let number = |n: usize| text(n).and_then(|f| f.parse::<f64>().ok());
        let Some(at) = text(1).map(address) else { return };
        let Some(card) = self.node.cards.get_mut(&at) else {
            return;
        };
        card.index = text(0).and_then(|f| f.parse().ok());
        card.uuid = text(2).map(String::from).or(card.uuid.take());
        card.model = text(3).map(String::from).or(card.model.take());
        card.memory_mib = text(4).and_then(|f| f.parse().ok());
        card.driver_version = text(5).map(String::from);
        card.persistence = text(6).map(|f| f == "Enabled");
        card.mig = text(7).filter(|f| *f == "Enabled").map(|_| Vec::new());
        card.reading = Reading {
            memory_used_mib: number(8),
            utilization: number(9),
            temperature: number(10),
            watts: number(11),
        };
    }
}

/// The MIG instances of a card, with the capability nodes that they need.
fn instances(
    list: &mut Vec<MigInstance>,
    minor: Option<u32>,
    uuid: &Option<String>,
    at: &str,
    ids: &[(String, u32, u32, u32)],
    listed: &[(String, String, u32, String)],
    caps: &BTreeMap<String, u32>,
) {
    for (_, profile, index, instance) in listed.iter().filter(|(of, ..)| Some(of) == uuid.as_ref()) {
        let found = ids.iter().find(|(card, n, ..)| card == at && n == index);
        let ids = found.map(|(_, _, gi, ci)| (*gi, *ci));
        let cap = |name: String| caps.get(&name).map(|n| format!("/dev/nvidia-caps/nvidia-cap{n}"));
        let needed = ids.zip(minor).map(|((gi, ci), minor)| {
            let gpu = cap(format!("gpu{minor}/gi{gi}/access"));
            gpu.into_iter()
                .chain(cap(format!("gpu{minor}/gi{gi}/ci{ci}/access")))
                .collect()
        });
        list.push(MigInstance {
            uuid: instance.clone(),
            profile: profile.clone(),
            ids,
            caps: needed.unwrap_or_default(),
        });
    }
}

/// An address as nvidia-smi writes it, `00000000:41:00.0`, as the kernel does.
fn address(bus_id: &str) -> String {
    let id = bus_id.trim().to_ascii_lowercase();
    match id.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => format!("{}:{rest}", &domain[domain.len() - 4..]),
        _ => id,
    }
}

/// The version in the first line of `/proc/driver/nvidia/version`.
pub fn version(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        word.contains('.')
            && word
                .split('.')
                .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    text.split_whitespace().find(is_version).map(String::from)
}

/// `1732000000.123456 host kernel: NVRM: Xid (PCI:0000:41:00): 79, pid='<unknown>', …, GPU has fallen off the bus.`
fn xid(line: &str) -> Option<(String, Xid)> {
    let (before, words) = line.split_once("NVRM: Xid (PCI:")?;
    let (device, words) = words.split_once("): ")?;
    let number = words.split([',', ' ']).next()?.parse().ok()?;
    let at = before.split_whitespace().next()?.split('.').next()?.parse::<i64>().ok();
    let xid = Xid {
        number,
        at: at.filter(|at| *at > 1_000_000_000),
        words: words.trim().chars().take(200).collect(),
    };
    Some((device.to_ascii_lowercase(), xid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a node with two NVIDIA cards prints it whose indices and minor numbers differ, a third one bound to vfio, and the
    /// graphics of its processor. Formats: nvidia-smi's manual, NVIDIA's list of Xid errors, Documentation/ABI of the kernel.
    const REPORT: &str = "begin
card|0000:00:02.0|0x8086|0x4680|i915|0|0000:00:02.0 |card0 card0-DP-1 renderD128 
card|0000:41:00.0|0x10de|0x2d04|nvidia|15|0000:41:00.0 0000:41:00.1 |card2 renderD130 
proc|0000:41:00.0|Model| NVIDIA GeForce RTX 5060 Ti
proc|0000:41:00.0|GPU UUID| GPU-11111111-1111-1111-1111-111111111111
proc|0000:41:00.0|Device Minor| 1
card|0000:61:00.0|0x10de|0x20b0|nvidia|16|0000:61:00.0 |card1 renderD129 
proc|0000:61:00.0|Device Minor| 0
card|0000:81:00.0|0x10de|0x2204|vfio-pci|17|0000:81:00.0 0000:81:00.1 |
module|NVIDIA UNIX Open Kernel Module for x86_64  580.76.05  Release Build  (root@pve)
smi|0, 00000000:41:00.0, GPU-11111111-1111-1111-1111-111111111111, NVIDIA GeForce RTX 5060 Ti, 16311, 580.76.05, Enabled, [N/A], 12000, 37, 61, 142.50
smi|1, 00000000:61:00.0, GPU-22222222-2222-2222-2222-222222222222, NVIDIA A100-SXM4-40GB, 40960, 580.76.05, Disabled, Enabled, 0, [N/A], 40, 55.12
smi-code|0
mig|<gpu id=\"00000000:61:00.0\">
mig|<index>0</index>
mig|<gpu_instance_id>1</gpu_instance_id>
mig|<compute_instance_id>0</compute_instance_id>
list|GPU 0: NVIDIA GeForce RTX 5060 Ti (UUID: GPU-11111111-1111-1111-1111-111111111111)
list|GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-22222222-2222-2222-2222-222222222222)
list|  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
cap|config 1
cap|gpu0/gi1/access 12
cap|gpu0/gi1/ci0/access 13
node|/dev/nvidia0
node|/dev/nvidia1
node|/dev/nvidiactl
xid|1732000000.123456 pve kernel: NVRM: Xid (PCI:0000:41:00): 13, pid=77, name=python, Graphics Exception
xid|1732000100.000001 pve kernel: NVRM: Xid (PCI:0000:41:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
guest|lxc|105|dev0: /dev/nvidia1,mode=0666
guest|lxc|105|lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,optional,create=file
guest|qemu|200|hostpci0: mapping=big,pcie=1
guest|qemu|201|hostpci0: 41:00,pcie=1
mapping|big
mapping|\tdescription x
mapping|\tmap id=10de:2204,iommugroup=17,node=pve1,path=0000:81:00.0
mapping|\tmap id=10de:2204,iommugroup=3,node=pve2,path=0000:01:00.0
end
";

    #[test]
    fn a_report_is_read_as_a_whole() {
        let node = parse(REPORT, "pve1").unwrap();
        let card = |at: &str| node.cards[at].clone();
        let (first, second) = (card("0000:41:00.0"), card("0000:61:00.0"));
        assert_eq!((first.index, first.minor), (Some(0), Some(1)));
        assert_eq!((second.index, second.minor), (Some(1), Some(0)));
        assert_eq!(first.nodes()[0], "/dev/nvidia1");
        assert_eq!(first.memory_mib, Some(16_311));
        assert_eq!(first.iommu_members, ["0000:41:00.1"]);
        assert_eq!(
            first.fault().map(|xid| (xid.number, xid.at)),
            Some((79, Some(1_732_000_100)))
        );
        assert_eq!(first.xids.len(), 2);
        assert_eq!(first.reading.watts, Some(142.5));
        assert_eq!(second.reading.utilization, None);
        assert_eq!(second.persistence, Some(false));
        let instance = MigInstance {
            uuid: "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f".into(),
            profile: "3g.20gb".into(),
            ids: Some((1, 0)),
            caps: vec![
                "/dev/nvidia-caps/nvidia-cap12".into(),
                "/dev/nvidia-caps/nvidia-cap13".into(),
            ],
        };
        assert_eq!(second.mig, Some(vec![instance]));
        assert_eq!(card("0000:81:00.0").mode(), "vfio");
        let graphics = card("0000:00:02.0");
        assert_eq!(graphics.dri, ["/dev/dri/card0", "/dev/dri/renderD128"]);
        assert_eq!(graphics.nodes(), ["/dev/dri/renderD128"]);
        assert_eq!(node.module.as_deref(), Some("580.76.05"));
        assert_eq!(node.missing(&first), ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]);
    }

    #[test]
    fn it_tells_which_guests_have_a_card_in_their_configuration() {
        let node = parse(REPORT, "pve1").unwrap();
        let holders = |at: &str| -> Vec<i64> {
            let card = &node.cards[at];
            let held = node.holders.iter().filter(|h| node.holds(h, card));
            held.map(|h| i64::from(h.vmid)).collect()
        };
        assert_eq!(holders("0000:41:00.0"), [105, 201]);
        assert_eq!(holders("0000:81:00.0"), [200]);
        assert_eq!(holders("0000:61:00.0"), Vec::<i64>::new());
    }

    #[test]
    fn what_nvidia_smi_cannot_tell_is_told() {
        let text = "begin\ncard|0000:41:00.0|0x10de|0x2d04|nvidia|15||\nsmi|Failed to initialize NVML: Driver/library version mismatch\nsmi-code|18\nend\n";
        let node = parse(text, "pve1").unwrap();
        assert!(
            node.smi_error
                .as_deref()
                .is_some_and(|words| words.contains("mismatch"))
        );
        assert!(node.cards["0000:41:00.0"].does_not_answer());
        for cut in ["", "begin\n", "begin\ncard|0000:41:00.0|0x10de"] {
            assert!(parse(cut, "pve1").is_err(), "{cut:?}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        for line in REPORT.lines() {
            for end in 0..line.len() {
                if let Some(cut) = line.get(..end) {
                    parse(&format!("begin\n{cut}\nend\n"), "pve1").unwrap();
                }
            }
        }
    }
}

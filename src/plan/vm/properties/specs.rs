//! Specs of machines, as admission lets them through.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

type Field = (&'static str, BoxedStrategy<Value>);

/// An object that has some of the fields.
fn some_of(fields: Vec<Field>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let values: Vec<_> = values.into_iter().map(proptest::option::of).collect();
    let object = move |values: Vec<Option<Value>>| {
        let given = names.iter().zip(values);
        Value::Object(given.filter_map(|(k, v)| Some((k.to_string(), v?))).collect())
    };
    values.prop_map(object).boxed()
}

/// The objects with these names, all of them different.
fn named(key: &'static str, names: Names, fields: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    names
        .prop_flat_map(move |names| {
            let count = names.len();
            (Just(names), vec(fields.clone(), count))
        })
        .prop_map(move |(names, mut objects)| {
            for (object, name) in objects.iter_mut().zip(names) {
                object[key] = json!(name);
            }
            Value::Array(objects)
        })
        .boxed()
}

type Names = BoxedStrategy<Vec<String>>;

fn names(all: &'static [&'static str], least: usize) -> Names {
    subsequence(all, least..=all.len())
        .prop_shuffle()
        .prop_map(|names| names.into_iter().map(str::to_string).collect())
        .boxed()
}

fn word(all: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(all).prop_map(|word| json!(word)).boxed()
}

fn words(all: &'static [&'static str]) -> BoxedStrategy<Value> {
    names(all, 0).prop_map(|words| json!(words)).boxed()
}

fn number(range: std::ops::RangeInclusive<i64>) -> BoxedStrategy<Value> {
    range.prop_map(|n| json!(n)).boxed()
}

fn flag() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(|b| json!(b)).boxed()
}

fn disks() -> BoxedStrategy<Value> {
    let fields = some_of(vec![
        ("bus", word(&["scsi", "virtio", "sata"])),
        ("storage", word(&["local-zfs", "fast"])),
        ("cache", word(&["none", "writethrough", "writeback", "unsafe"])),
        ("discard", flag()),
        ("iothread", flag()),
        ("ssd", flag()),
        ("backup", flag()),
        ("readOnly", flag()),
    ]);
    let sized = (fields, 8i64..=1000).prop_map(|(mut disk, size)| {
        disk["size"] = match size % 2 {
            0 => json!(format!("{}Gi", size / 2)),
            _ => json!(format!("{}Mi", size * 512)),
        };
        let bus = disk["bus"].as_str().unwrap_or("scsi").to_string();
        let given = disk.as_object_mut().unwrap();
        given.retain(|key, _| match key.as_str() {
            "ssd" => bus != "virtio",
            "iothread" | "readOnly" => bus != "sata",
            _ => true,
        });
        disk
    });
    // One name spells a place of Proxmox's.
    let all = named(
        "name",
        names(&["root", "data", "db-1", "scsi0", "scsi2"], 1),
        sized.boxed(),
    );
    (all, any::<bool>())
        .prop_map(|(mut all, sized)| {
            let list = all.as_array_mut().unwrap();
            for disk in list
                .iter_mut()
                .filter(|d| d["name"].as_str().unwrap().starts_with("scsi"))
            {
                disk["bus"] = json!("scsi");
            }
            // The first one may have the size of its image.
            list[0].as_object_mut().unwrap().retain(|key, _| sized || key != "size");
            all
        })
        .boxed()
}

/// Models of network cards.
pub(super) const CARDS: &[&str] = &["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"];

/// Drives at places that no disk of [`disks`] takes.
fn cdroms() -> BoxedStrategy<Value> {
    let media = word(&["local:iso/one.iso", "fast:iso/Two_2.IMG", "none"]);
    named(
        "slot",
        names(&["ide0", "ide1", "ide3", "sata5", "scsi29"], 0),
        some_of(vec![("volid", media)]),
    )
}

fn network() -> BoxedStrategy<Value> {
    let fields = some_of(vec![
        ("bridge", word(&["vmbr0", "vmbr1"])),
        ("vlan", number(1..=4094)),
        (
            "mac",
            word(&["bc:24:11:aa:00:01", "BC:24:11:AA:00:02", "02:00:00:00:00:0f"]),
        ),
        ("mtu", number(64..=9000)),
        ("rate", number(1..=100_000)),
        ("firewall", flag()),
        ("model", word(CARDS)),
        ("queues", number(1..=64)),
    ]);
    let ip = prop_oneof![
        Just(json!({})),
        Just(json!({"ip": "dhcp"})),
        Just(json!({"ip": "manual"})),
        Just(json!({"ip": "10.0.0.60/24"})),
        Just(json!({"ip": "10.0.0.60/24", "gateway": "10.0.0.1"})),
    ];
    let ip6 = prop_oneof![
        Just(json!({})),
        Just(json!({"ip6": "auto"})),
        Just(json!({"ip6": "dhcp"})),
        Just(json!({"ip6": "fd00::60/64", "gateway6": "fd00::1"})),
    ];
    let whole = (fields, ip, ip6).prop_map(|(mut net, ip, ip6)| {
        for (key, value) in ip.as_object().unwrap().iter().chain(ip6.as_object().unwrap()) {
            net[key] = value.clone();
        }
        let virtio = net["model"].as_str().is_none_or(|model| model == "virtio");
        let fields = net.as_object_mut().unwrap();
        fields.retain(|key, value| !value.is_null() && (virtio || !["queues", "mtu"].contains(&key.as_str())));
        net
    });
    named("name", names(&["net0", "eth1", "net2", "net31"], 0), whole.boxed())
}

/// Devices by mapping, and by address.
fn pci() -> BoxedStrategy<Value> {
    let fields = some_of(vec![
        ("pcie", flag()),
        ("mdev", word(&["nvidia-63", "i915-GVTg_V5_4"])),
        ("romBar", flag()),
    ]);
    let mapped = named("mapping", names(&["gpu0", "gpu1", "NIC_a"], 0), fields.clone());
    let direct = named("address", names(&["01:00.0", "0000:02:00", "0000:0A:00.1"], 0), fields);
    (mapped, direct, any::<bool>())
        .prop_map(|(mapped, direct, primary)| {
            let mut all = [mapped.as_array().unwrap().clone(), direct.as_array().unwrap().clone()].concat();
            if let Some(first) = all.first_mut() {
                first["primaryGpu"] = json!(primary);
            }
            json!(all)
        })
        .boxed()
}

fn usb() -> BoxedStrategy<Value> {
    let fields = some_of(vec![("usb3", flag())]);
    let mapped = named("mapping", names(&["key", "dongle"], 0), fields.clone());
    let direct = named("host", names(&["046D:c52b", "1-1.2"], 0), fields);
    (mapped, direct)
        .prop_map(|(mapped, direct)| {
            json!([mapped.as_array().unwrap().clone(), direct.as_array().unwrap().clone()].concat())
        })
        .boxed()
}

fn cpu() -> BoxedStrategy<Value> {
    let flags = || words(&["+aes", "-pcid", "+hv-tlbflush"]);
    let cpu = some_of(vec![
        ("type", word(&["host", "kvm64", "x86-64-v2-AES", "EPYC-v4"])),
        ("flags", flags()),
        ("sockets", number(1..=8)),
        ("cores", number(1..=64)),
        ("numa", flag()),
        ("affinity", word(&["0-3,8", "5"])),
        ("limit", number(0..=128)),
        ("units", number(1..=10_000)),
    ]);
    let whole = |mut cpu: Value| {
        let typed = cpu.get("type").is_some();
        cpu.as_object_mut().unwrap().retain(|key, _| key != "flags" || typed);
        cpu
    };
    cpu.prop_map(whole).boxed()
}

fn cloud_init() -> BoxedStrategy<Value> {
    some_of(vec![
        ("user", word(&["ops", "ubuntu"])),
        (
            "sshKeysSecretRef",
            Just(json!({"name": "login", "key": "keys"})).boxed(),
        ),
        (
            "passwordHashSecretRef",
            Just(json!({"name": "login", "key": "hash"})).boxed(),
        ),
        ("upgrade", flag()),
        ("packages", words(&["jq", "curl"])),
        ("userData", word(&["#cloud-config\nruncmd: [true]\n"])),
        ("storage", word(&["local-zfs", "fast"])),
    ])
}

/// Any text that people write, line breaks of either sort among it.
fn description() -> BoxedStrategy<Value> {
    let line = "[ -~äß€]{0,12}";
    (vec(line, 1..4), select(&["\n", "\r\n", "\n\n"][..]))
        .prop_map(|(lines, end)| json!(lines.join(end)))
        .boxed()
}

fn fields() -> Vec<Field> {
    let agent = some_of(vec![
        ("enabled", flag()),
        ("freezeFilesystems", flag()),
        ("trimClonedDisks", flag()),
    ]);
    let vga = (
        word(&["std", "serial0", "virtio", "qxl", "none"]),
        some_of(vec![("memory", number(4..=512))]),
    );
    let vga = vga.prop_map(|(type_, mut vga)| {
        vga["type"] = type_;
        vga
    });
    let boot = some_of(vec![
        ("autostart", flag()),
        ("order", number(0..=99)),
        ("upDelay", number(0..=60)),
    ]);
    vec![
        ("hostname", word(&["web-1"])),
        ("cpu", cpu()),
        ("memory", word(&["512Mi", "2Gi", "32Gi"])),
        ("balloon", word(&["0", "256Mi", "512Mi"])),
        ("machine", word(&["q35", "pc", "pc-q35-9.2+pve1"])),
        ("bios", word(&["ovmf", "seabios"])),
        (
            "efiDisk",
            some_of(vec![("storage", word(&["fast"])), ("preEnrolledKeys", flag())]),
        ),
        ("tpm", some_of(vec![("version", word(&["v1.2", "v2.0"]))])),
        ("osType", word(&["l26", "win11", "other"])),
        (
            "scsiController",
            word(&["virtio-scsi-single", "virtio-scsi-pci", "lsi"]),
        ),
        ("disks", disks()),
        ("network", network()),
        ("cdroms", cdroms()),
        ("cloudInit", cloud_init()),
        ("agent", agent),
        ("serial", flag()),
        ("vga", vga.boxed()),
        ("pci", pci()),
        ("usb", usb()),
        ("bootOrder", flag()),
        (
            "hotplug",
            words(&["network", "disk", "usb", "memory", "cpu", "cloudinit"]),
        ),
        ("hookscript", word(&["local:snippets/hook.sh"])),
        ("boot", boot),
        ("protection", flag()),
        (
            "tags",
            btree_set("[a-z][a-z0-9]{0,4}", 0..3)
                .prop_map(|tags| json!(tags))
                .boxed(),
        ),
        ("pool", word(&["phoenix"])),
        ("description", description()),
        (
            "dns",
            some_of(vec![
                ("nameservers", words(&["10.0.0.1", "fd00::1"])),
                ("searchDomain", word(&["lan"])),
            ]),
        ),
    ]
}

/// What the rules of the CRD refuse is taken out.
fn admissible(mut spec: Value) -> Value {
    let is = |spec: &Value, pointer: &str, value: Value| spec.pointer(pointer) == Some(&value);
    let (ovmf, numa) = (is(&spec, "/bios", json!("ovmf")), is(&spec, "/cpu/numa", json!(true)));
    let q35 = spec["machine"].as_str().is_some_and(|m| m.contains("q35"));
    let console = is(&spec, "/vga/type", json!("serial0")) && is(&spec, "/serial", json!(false));
    let cloud_init = spec.get("cloudInit").is_some();
    let list = |spec: &Value, key: &str| -> Vec<Value> {
        let all = spec[key].as_array().into_iter().flatten();
        all.map(|o| o.get("name").unwrap_or(&o["slot"]).clone()).collect()
    };
    let bootable = ["disks", "network", "cdroms"].map(|key| list(&spec, key)).concat();
    let object = spec.as_object_mut().unwrap();
    object.retain(|key, value| match key.as_str() {
        "efiDisk" => ovmf,
        "serial" => !console,
        "bootOrder" => *value == json!(true) && !bootable.is_empty(),
        _ => true,
    });
    if object.contains_key("bootOrder") {
        object.insert("bootOrder".into(), Value::Array(bootable.into_iter().rev().collect()));
    }
    let each = |spec: &mut Value, key: &str, keep: &dyn Fn(&str) -> bool| {
        for entry in spec[key].as_array_mut().into_iter().flatten() {
            entry.as_object_mut().unwrap().retain(|k, _| keep(k));
        }
    };
    if spec.get("pci").is_some() {
        each(&mut spec, "pci", &|key| q35 || key != "pcie");
    }
    if spec.get("network").is_some() {
        let address = ["ip", "ip6", "gateway", "gateway6"];
        each(&mut spec, "network", &|key| cloud_init || !address.contains(&key));
    }
    if let Some(words) = spec.get_mut("hotplug").and_then(Value::as_array_mut) {
        words.retain(|word| numa || word != "memory");
    }
    spec["hypervisorRef"] = json!({"name": "pve"});
    spec["source"] = json!({"cloudImage": {"volid": "local:import/noble.qcow2"}});
    spec
}

/// Any spec of a machine from a cloud image.
pub(crate) fn spec() -> impl Strategy<Value = Value> {
    some_of(fields()).prop_map(admissible)
}

//! Properties: whatever a machine is to be, what the plan writes says the same when it is read back, in whichever order
//! and spelling, and then nothing is left to do.

mod proxmox;
mod specs;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proxmox::{Coin, made, next, respelt};
use serde_json::{Value, json};

use crate::crd::{GuestKind, GuestStatus};
use crate::desired::{Blocked, Desired, Key, Objects, resolve, testing};
use crate::plan::{Forecast, Next};
use crate::pve::property::Properties;

const HYPERVISOR: &str = "
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: [https://127.0.0.1:8006]
  credentials: {tokenSecretRef: {name: token}, rootPasswordSecretRef: {name: root, key: password}}
  ssh:
    keySecretRef: {name: ssh, key: key}
    knownHostsSecretRef: {name: ssh, key: known_hosts}
  vmidRange: {start: 100, end: 199}
  defaults: {diskStorage: local-zfs, bridge: vmbr0}
---
kind: Secret
metadata: {name: login}
stringData:
  hash: $6$salt$Zm9vYmFyYmF6
  keys: |
    ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@desk
    # an old one
    ssh-rsa AAAAB3NzaC1yc2E+/= me too
";

fn resolved(spec: &Value, status: &GuestStatus) -> Result<Desired, Blocked> {
    let objects = testing::objects(HYPERVISOR);
    testing::apply(
        &objects,
        &json!({"kind": "PhoenixVM", "metadata": {"name": "a", "uid": "u"}, "spec": spec}).to_string(),
    );
    let key = Key::new(GuestKind::PhoenixVM, "ai", "a");
    objects.update_guest(&key, |guest| guest.status = status.clone());
    let object = objects.guest(&key);
    resolve(&object.unwrap(), &objects, "11111111-2222-4333-8444-555555555555")
}

fn desired(spec: &Value, status: &GuestStatus) -> Result<Desired, TestCaseError> {
    resolved(spec, status).map_err(|e| TestCaseError::fail(format!("{e:?}: {spec}")))
}

/// Options of the machine.
fn options(forecast: &Forecast) -> BTreeMap<String, String> {
    forecast.guest().map(|guest| guest.options.clone()).unwrap_or_default()
}

/// What a plan would do, or what it finds amiss.
fn left_to_do(forecast: &mut Forecast, desired: &Desired) -> Result<(), String> {
    let plan = next(forecast, desired);
    let amiss = ["DriftDetected", "RestartRequired", "RecreateRequired"];
    let findings: Vec<_> = plan.findings.iter().filter(|f| amiss.contains(&f.condition)).collect();
    match &plan.next {
        Next::Done if findings.is_empty() => Ok(()),
        Next::Run(step) => Err(step.action.clone()),
        other => Err(format!("{other:?} {findings:#?}")),
    }
}

fn flag(properties: &Properties, key: &str, default: bool) -> Value {
    json!(properties.get_bool(key).unwrap_or(default))
}

fn text(properties: &Properties, key: &str) -> Value {
    json!(properties.get(key))
}

/// Disks in the words of a spec, by name.
fn disks(options: &BTreeMap<String, String>) -> BTreeMap<String, Value> {
    let places = options.iter().filter(|(key, value)| {
        let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
        ["scsi", "virtio", "sata"].contains(&stem) && !value.contains("media=cdrom")
    });
    let disk = |(place, value): (&String, &String)| {
        let disk = Properties::of_option(place, value).unwrap();
        let name = disk.get("serial").unwrap_or(place);
        let (storage, _) = disk.get("file").unwrap().split_once(':').unwrap();
        let value = json!({
            "name": name, "bus": place.trim_end_matches(|c: char| c.is_ascii_digit()), "storage": storage,
            "size": disk.get("size").unwrap().replace('G', "Gi").replace('M', "Mi"), "cache": disk.get("cache").unwrap_or("none"),
            "discard": disk.get("discard") == Some("on"), "iothread": flag(&disk, "iothread", false),
            "ssd": flag(&disk, "ssd", false), "backup": flag(&disk, "backup", true), "readOnly": flag(&disk, "ro", false),
        });
        (name.to_string(), value)
    };
    places.map(disk).collect()
}

/// Interfaces with their addresses, by number.
fn network(options: &BTreeMap<String, String>) -> BTreeMap<String, Value> {
    let net = |(key, value): (&String, &String)| {
        let number = key.strip_prefix("net")?;
        let net = Properties::parse(value, Some("model")).unwrap();
        let init = options.get(&format!("ipconfig{number}")).cloned().unwrap_or_default();
        let init = Properties::parse(&init, None).unwrap();
        let count = |key: &str| json!(net.get(key).map(|v| v.parse::<i64>().unwrap()));
        // `model=virtio`, or `virtio=` and the address.
        let named = specs::CARDS.iter().copied().find(|card| net.get(card).is_some());
        let mac = named.and_then(|card| net.get(card));
        let value = json!({
            "bridge": net.get("bridge"), "vlan": count("tag"), "mac": mac, "mtu": count("mtu"),
            "model": net.get("model").or(named), "queues": count("queues"),
            "rate": count("rate"), "firewall": flag(&net, "firewall", false), "ip": text(&init, "ip"),
            "gateway": text(&init, "gw"), "ip6": text(&init, "ip6"), "gateway6": text(&init, "gw6"),
        });
        Some((number.to_string(), value))
    };
    options.iter().filter_map(net).collect()
}

/// CD-ROM drives by place, without the cloud-init drive.
fn cdroms(options: &BTreeMap<String, String>) -> BTreeMap<String, Value> {
    let drive = |(slot, value): (&String, &String)| {
        let drive = Properties::of_option(slot, value).ok()?;
        let medium = drive.get("file").filter(|file| !file.contains("cloudinit"))?;
        (drive.get("media") == Some("cdrom")).then(|| (slot.clone(), json!({"slot": slot, "volid": medium})))
    };
    options.iter().filter_map(drive).collect()
}

/// Devices passed through, by mapping or address.
fn devices(options: &BTreeMap<String, String>, option: &str) -> BTreeMap<String, Value> {
    let device = |(key, value): (&String, &String)| {
        key.strip_prefix(option)?;
        let device = Properties::parse(value, Some("host")).unwrap();
        let name = device.get("mapping").or(device.get("host")).unwrap().to_string();
        let value = json!({
            "mapping": device.get("mapping"), "pcie": flag(&device, "pcie", false), "mdev": device.get("mdev"),
            "primaryGpu": flag(&device, "x-vga", false), "romBar": flag(&device, "rombar", true),
            "usb3": flag(&device, "usb3", false),
        });
        Some((name.to_lowercase(), value))
    };
    options.iter().filter_map(device).collect()
}

/// Everything that is asked for of an entry stands in what was read.
fn stands(asked: &Value, read: Option<&Value>, except: &[&str]) -> Result<(), TestCaseError> {
    let Some(read) = read else {
        return Err(TestCaseError::fail(format!("nothing for {asked}")));
    };
    for (key, value) in asked.as_object().unwrap() {
        let (value, read) = match key.as_str() {
            _ if except.contains(&key.as_str()) => continue,
            // Phoenix leaves the addresses to the machine.
            "ip" | "ip6" if value == "manual" => (&Value::Null, &read[key]),
            _ => (value, &read[key]),
        };
        let same = value == read
            || value.as_str().map(str::to_uppercase) == read.as_str().map(str::to_uppercase) && value.is_string();
        prop_assert!(same, "{}: {} of {} is {}", key, value, asked, read);
    }
    Ok(())
}

/// The list of a spec and what was read of it: nothing more, nothing less.
fn lists_agree(
    spec: &Value,
    field: &str,
    read: &BTreeMap<String, Value>,
    name: impl Fn(&Value) -> String,
    except: &[&str],
) -> Result<(), TestCaseError> {
    let Some(asked) = spec[field].as_array() else {
        return Ok(());
    };
    prop_assert_eq!(asked.len(), read.len(), "{}: {:?}", field, read);
    asked
        .iter()
        .try_for_each(|entry| stands(entry, read.get(&name(entry)), except))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn says_what_was_asked(spec: &Value, options: &BTreeMap<String, String>) -> Result<(), TestCaseError> {
    lists_agree(spec, "disks", &disks(options), |d| string(&d["name"]), &[])?;
    lists_agree(
        spec,
        "network",
        &network(options),
        |n| string(&n["name"])[3..].to_string(),
        &["name"],
    )?;
    lists_agree(spec, "cdroms", &cdroms(options), |c| string(&c["slot"]), &[])?;
    let address = |d: &Value| match d["address"].as_str() {
        Some(short) if short.matches(':').count() == 1 => format!("0000:{short}"),
        Some(whole) => whole.to_lowercase(),
        None => string(&d["mapping"]).to_lowercase(),
    };
    lists_agree(spec, "pci", &devices(options, "hostpci"), address, &["address"])?;
    let host = |d: &Value| string(d.get("host").unwrap_or(&d["mapping"])).to_lowercase();
    lists_agree(spec, "usb", &devices(options, "usb"), host, &["host"])?;
    let option = |name: &str| {
        let text = options.get(name).cloned().unwrap_or_default();
        Properties::of_option(name, &text).unwrap()
    };
    if let Some(asked) = spec.get("cpu") {
        let (cpu, count) = (option("cpu"), |key: &str| {
            json!(options.get(key).map(|v| v.parse::<i64>().unwrap()))
        });
        let flags: Vec<&str> = cpu
            .get("flags")
            .unwrap_or_default()
            .split(';')
            .filter(|f| !f.is_empty())
            .collect();
        let read = json!({"type": text(&cpu, "cputype"), "flags": flags, "cores": count("cores"), "sockets": count("sockets"),
            "numa": options.get("numa").is_some_and(|n| n == "1"), "affinity": options.get("affinity"),
            "limit": options.get("cpulimit").map_or(json!(0), |_| count("cpulimit")), "units": count("cpuunits")});
        stands(asked, Some(&read), &[])?;
    }
    if let Some(asked) = spec.get("agent") {
        let agent = option("agent");
        let read = json!({"enabled": flag(&agent, "enabled", false), "freezeFilesystems": flag(&agent, "freeze-fs-on-backup", true),
            "trimClonedDisks": flag(&agent, "fstrim_cloned_disks", false)});
        stands(asked, Some(&read), &[])?;
    }
    if let Some(asked) = spec.get("vga") {
        let vga = option("vga");
        let memory = vga.get("memory").map(|m| m.parse::<i64>().unwrap());
        stands(asked, Some(&json!({"type": text(&vga, "type"), "memory": memory})), &[])?;
    }
    Ok(())
}

#[test]
fn only_a_machine_to_be_made_needs_its_image_disk_first() {
    let [root, data] = [json!({"name": "root"}), json!({"name": "data", "size": "4Gi"})];
    for (created, list, taken) in [
        (None, json!([root, data]), true),
        (None, json!([data, root]), false),
        (Some(true), json!([root, data]), true),
        (Some(true), json!([data, root]), true),
    ] {
        let status = GuestStatus {
            create_sent: created,
            ..GuestStatus::default()
        };
        let spec = json!({"hypervisorRef": {"name": "pve"}, "disks": list,
            "source": {"cloudImage": {"volid": "local:import/noble.qcow2"}}});
        match resolved(&spec, &status) {
            Ok(_) => assert!(taken, "{created:?} {spec}"),
            Err(Blocked::Stalled(cause)) => {
                assert!(
                    !taken && cause.message.contains("disks[root].size is missing"),
                    "{cause}"
                );
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_is_written_says_what_was_asked(spec in specs::spec()) {
        let made = made(&desired(&spec, &GuestStatus::default())?).map_err(TestCaseError::fail)?;
        says_what_was_asked(&spec, &options(&made))?;
    }

    #[test]
    fn a_machine_read_back_in_other_words_is_as_wanted(spec in specs::spec(), seed in any::<u64>()) {
        let wanted = desired(&spec, &GuestStatus::default())?;
        let mut made = made(&wanted).map_err(TestCaseError::fail)?;
        let respelt = respelt(&options(&made), &mut Coin(seed));
        made.guest_mut().unwrap().options.clone_from(&respelt);
        prop_assert_eq!(left_to_do(&mut made, &wanted), Ok(()), "{:#?}", respelt);
    }

    #[test]
    fn the_order_of_lists_means_nothing(spec in specs::spec(), seed in any::<u64>()) {
        let mut made = made(&desired(&spec, &GuestStatus::default())?).map_err(TestCaseError::fail)?;
        let (mut other, mut coin) = (spec, Coin(seed));
        for field in ["disks", "network", "cdroms", "pci", "usb", "hotplug", "tags"] {
            if let Some(list) = other.get_mut(field).and_then(Value::as_array_mut) {
                coin.shuffle(list);
            }
        }
        let wanted = desired(&other, &made.status)?;
        prop_assert_eq!(left_to_do(&mut made, &wanted), Ok(()), "{}", other);
    }
}

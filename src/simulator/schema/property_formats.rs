//! Property strings that Proxmox's own description names without their keys.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Property;
use super::validate::regex;

type Keys = BTreeMap<String, Property>;

static KEYS: LazyLock<BTreeMap<String, Keys>> = LazyLock::new(|| {
    // Whether it can be read is tested below.
    serde_json::from_str(
        r#"{
"pve-qm-ipconfig": {
  "ip": {"type": "string", "format": "pve-ipv4-config", "optional": 1},
  "gw": {"type": "string", "format": "ipv4", "optional": 1, "requires": "ip"},
  "ip6": {"type": "string", "format": "pve-ipv6-config", "optional": 1},
  "gw6": {"type": "string", "format": "ipv6", "optional": 1, "requires": "ip6"}},
"pve-qm-cicustom": {
  "meta": {"type": "string", "format": "pve-volume-id", "optional": 1},
  "network": {"type": "string", "format": "pve-volume-id", "optional": 1},
  "user": {"type": "string", "format": "pve-volume-id", "optional": 1},
  "vendor": {"type": "string", "format": "pve-volume-id", "optional": 1}},
"pve-qm-boot": {
  "legacy": {"type": "string", "pattern": "[acdn]{1,4}", "default_key": 1, "optional": 1},
  "order": {"type": "string", "format": "pve-qm-bootdev-list", "optional": 1}},
"pve-qm-smbios1": {
  "uuid": {"type": "string", "pattern": "[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}", "optional": 1},
  "base64": {"type": "boolean", "optional": 1},
  "family": {"type": "string", "optional": 1}, "manufacturer": {"type": "string", "optional": 1},
  "product": {"type": "string", "optional": 1}, "serial": {"type": "string", "optional": 1},
  "sku": {"type": "string", "optional": 1}, "version": {"type": "string", "optional": 1}},
"pve-qm-hostpci": {
  "host": {"type": "string", "default_key": 1, "optional": 1,
    "pattern": "(?:[a-fA-F0-9]{4,}:)?[a-fA-F0-9]{2}:[a-fA-F0-9]{2}(?:\\.[a-fA-F0-9])?(?:;(?:[a-fA-F0-9]{4,}:)?[a-fA-F0-9]{2}:[a-fA-F0-9]{2}(?:\\.[a-fA-F0-9])?)*"},
  "mapping": {"type": "string", "format": "pve-configid", "optional": 1},
  "device-id": {"type": "string", "pattern": "0x[0-9a-fA-F]{4}", "optional": 1},
  "driver": {"type": "string", "enum": ["vfio", "keep"], "optional": 1},
  "legacy-igd": {"type": "boolean", "optional": 1}, "mdev": {"type": "string", "optional": 1},
  "pcie": {"type": "boolean", "optional": 1}, "rombar": {"type": "boolean", "optional": 1},
  "romfile": {"type": "string", "pattern": "[^,;]+", "optional": 1},
  "sub-device-id": {"type": "string", "pattern": "0x[0-9a-fA-F]{4}", "optional": 1},
  "sub-vendor-id": {"type": "string", "pattern": "0x[0-9a-fA-F]{4}", "optional": 1},
  "vendor-id": {"type": "string", "pattern": "0x[0-9a-fA-F]{4}", "optional": 1},
  "x-vga": {"type": "boolean", "optional": 1}},
"pve-qm-rng": {
  "source": {"type": "string", "enum": ["/dev/urandom", "/dev/random", "/dev/hwrng"], "default_key": 1},
  "max_bytes": {"type": "integer", "optional": 1}, "period": {"type": "integer", "optional": 1}},
"pve-qm-watchdog": {
  "model": {"type": "string", "enum": ["i6300esb", "ib700"], "default_key": 1, "optional": 1},
  "action": {"type": "string", "enum": ["reset", "shutdown", "poweroff", "pause", "debug", "none"], "optional": 1}},
"prune-backups": {
  "keep-all": {"type": "boolean", "optional": 1}, "keep-last": {"type": "integer", "optional": 1},
  "keep-hourly": {"type": "integer", "optional": 1}, "keep-daily": {"type": "integer", "optional": 1},
  "keep-weekly": {"type": "integer", "optional": 1}, "keep-monthly": {"type": "integer", "optional": 1},
  "keep-yearly": {"type": "integer", "optional": 1}},
"pve-vm-cpu-conf": {
  "cputype": {"type": "string", "pattern": "[a-zA-Z0-9\\-_]+", "default_key": 1, "optional": 1},
  "flags": {"type": "string", "optional": 1}, "hidden": {"type": "boolean", "optional": 1},
  "guest-phys-bits": {"type": "integer", "minimum": 32, "maximum": 64, "optional": 1},
  "hv-vendor-id": {"type": "string", "pattern": "[a-zA-Z0-9]{1,12}", "optional": 1},
  "phys-bits": {"type": "string", "optional": 1}, "reported-model": {"type": "string", "optional": 1}}
}"#,
    )
    .unwrap_or_default()
});

/// Models of processors that QEMU knows; most have versions (`-v2`) or flavours (`-IBRS`, `-noTSX`) too.
const PROCESSORS: &[&str] = &[
    "486",
    "athlon",
    "Broadwell",
    "Cascadelake-Server",
    "Conroe",
    "Cooperlake",
    "core2duo",
    "coreduo",
    "EPYC",
    "EPYC-Genoa",
    "EPYC-Milan",
    "EPYC-Rome",
    "EPYC-Turin",
    "GraniteRapids",
    "Haswell",
    "host",
    "Icelake-Client",
    "Icelake-Server",
    "IvyBridge",
    "KnightsMill",
    "kvm32",
    "kvm64",
    "max",
    "Nehalem",
    "Opteron_G1",
    "Opteron_G2",
    "Opteron_G3",
    "Opteron_G4",
    "Opteron_G5",
    "Penryn",
    "pentium",
    "pentium2",
    "pentium3",
    "phenom",
    "qemu32",
    "qemu64",
    "SandyBridge",
    "SapphireRapids",
    "SierraForest",
    "Skylake-Client",
    "Skylake-Server",
    "Westmere",
    "x86-64-v2",
    "x86-64-v2-AES",
    "x86-64-v3",
    "x86-64-v4",
];

/// Keys of a named property string, if the name is one.
pub fn keys(name: &str) -> Option<&'static Keys> {
    KEYS.get(name)
}

/// What is wrong with the model of a processor.
pub fn processor_fault(text: &str) -> Option<String> {
    let first = text
        .split(',')
        .find_map(|part| part.strip_prefix("cputype=").or((!part.contains('=')).then_some(part)))?;
    let flavour = r"(?:-noTSX)?(?:-IBRS|-IBPB)?(?:-v\d+)?";
    let known = |model: &&str| regex(&format!("{model}{flavour}")).is_some_and(|regex| regex.is_match(first));
    let good = first.starts_with("custom-") || PROCESSORS.iter().any(known);
    (!good).then(|| format!("Built-in cputype '{first}' is not defined (missing 'custom-' prefix?)\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_can_be_read() {
        assert_eq!(KEYS.len(), 9);
        assert!(keys("pve-qm-boot").is_some() && keys("pve-node").is_none());
        for property in KEYS.values().flat_map(|keys| keys.values()) {
            if let Some(pattern) = &property.pattern {
                assert!(regex(pattern).is_some(), "{pattern}");
            }
        }
    }

    #[test]
    fn processors_are_known() {
        for good in [
            "host",
            "x86-64-v2-AES,flags=+aes",
            "EPYC-v4",
            "cputype=max",
            "custom-mine",
            "Haswell-noTSX-IBRS",
        ] {
            assert_eq!(processor_fault(good), None, "{good}");
        }
        assert!(processor_fault("nosuchcpu").is_some());
    }
}

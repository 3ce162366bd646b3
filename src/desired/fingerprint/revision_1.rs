//! The texts that the first version of a template's revision is made of. Releases before the fingerprints printed Rust
//! values; here the same texts are spelled out, so that no template is built anew.

use std::fmt::Display;

use crate::desired::vm::{WantedCloudInit, WantedFirmware, WantedVendor};
use crate::desired::{Script, Source};

use super::digest_of;

pub fn some(value: Option<impl Display>) -> String {
    value.map_or("None".to_string(), |value| format!("Some({value})"))
}

pub fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '\'' => c.to_string(),
            c => c.escape_debug().to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

pub fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn text(value: Option<&String>) -> String {
    some(value.map(|text| quoted(text)))
}

pub fn source(source: Option<&Source>) -> String {
    // A new revision of the parent is no change of this template: nobody is rebuilt unasked.
    if let Some(Source::Clone { template, .. }) = source {
        return format!("clone {template}");
    }
    some(source.map(|source| match source {
        Source::Clone { .. } => String::new(),
        Source::Image { volid } => format!("Image {{ volid: {} }}", quoted(volid)),
        Source::Download {
            storage,
            content,
            filename,
            url,
            sha256,
        } => format!(
            "Download {{ storage: {}, content: {}, filename: {}, url: {}, sha256: {} }}",
            quoted(storage),
            quoted(content),
            quoted(filename),
            quoted(url),
            quoted(sha256)
        ),
        Source::Appliance { storage, template } => {
            format!(
                "Appliance {{ storage: {}, template: {} }}",
                quoted(storage),
                quoted(template)
            )
        }
    }))
}

pub fn cloud_init(init: Option<&WantedCloudInit>) -> String {
    some(init.map(|init| {
        format!(
            "WantedCloudInit {{ storage: {}, password: {}, password_digest: {}, vendor: {} }}",
            text(init.storage.as_ref()),
            some(init.password.as_ref()),
            text(init.password.as_ref().map(digest_of).as_ref()),
            some(init.vendor.as_ref().map(vendor)),
        )
    }))
}

fn vendor(vendor: &WantedVendor) -> String {
    let script = |s: &Script| format!("Script {{ id: {}, hash: {}, .. }}", quoted(&s.id), quoted(&s.hash));
    format!(
        "WantedVendor {{ storage: {}, packages: {}, user_data: {}, agent: {}, scripts: {}, required: {}, digest: {} }}",
        text(vendor.storage.as_ref()),
        list(vendor.packages.iter().map(|p| quoted(p))),
        text(vendor.user_data.as_ref()),
        vendor.agent,
        list(vendor.scripts.iter().map(script)),
        vendor.required,
        quoted(&vendor.digest),
    )
}

pub fn firmware(firmware: &WantedFirmware) -> String {
    let efi = firmware.efi.as_ref();
    let efi = efi.map(|(storage, keys)| format!("({}, {})", text(storage.as_ref()), keys.unwrap_or(false)));
    let tpm = firmware.tpm.as_ref();
    let tpm = tpm.map(|(storage, version)| format!("({}, {})", text(storage.as_ref()), quoted(version)));
    format!("WantedFirmware {{ efi: {}, tpm: {} }}", some(efi), some(tpm))
}

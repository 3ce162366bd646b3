//! What cloud-init of a machine is told: options of the machine, and what goes into a snippet besides
//! ([`super::vendor_data`] renders it).

use crate::crd::{CloudInit, KeyRef, VmGuest};
use crate::desired::shared::{Context, flag};
use crate::desired::{
    Blocked, GuestObject, Objects, Script, ScriptRole, Source, WantedCloudInit, WantedOptions, WantedVendor,
    fingerprint, refs,
};
use crate::reason::Reason;
use crate::secret::Secret;

use super::{given, invalid, vendor_data};

/// cloud-init's settings that are options of the machine.
pub(super) fn options(object: &GuestObject, init: &CloudInit, objects: &dyn Objects) -> Result<WantedOptions, Blocked> {
    let mut ssh_keys = None;
    if let Some(reference) = &init.ssh_keys_secret_ref {
        let field = format!("{}.cloudInit.sshKeysSecretRef", object.field_prefix());
        ssh_keys = Some(refs::ssh_keys(objects, &object.key.namespace, reference, &field)?);
    }
    Ok(given([
        ("cloudInit.user", "ciuser", init.user.clone()),
        ("cloudInit.upgrade", "ciupgrade", init.upgrade.map(flag)),
        ("cloudInit.sshKeysSecretRef", "sshkeys", ssh_keys),
    ]))
}

pub(super) fn wanted(
    context: &Context<'_>,
    source: Option<&Source>,
    guest: &VmGuest,
) -> Result<Option<WantedCloudInit>, Blocked> {
    let Some(init) = &guest.cloud_init else {
        return no_cloud_init(context, guest);
    };
    Ok(Some(WantedCloudInit {
        storage: init.storage.clone(),
        password: password(context.object, init, context.objects)?,
        vendor: vendor(context, source, guest, init)?,
    }))
}

/// Without cloud-init nothing can install the agent.
fn no_cloud_init(context: &Context<'_>, guest: &VmGuest) -> Result<Option<WantedCloudInit>, Blocked> {
    let prefix = context.object.field_prefix();
    if guest.agent.as_ref().and_then(|a| a.install) != Some(true) {
        return Ok(None);
    }
    if !context.channels.ssh {
        return Err(needs_snippet(prefix, "agent.install"));
    }
    Err(invalid(format!(
        "{prefix}.agent.install: true needs cloud-init, which installs the agent at the first boot: add {prefix}.cloudInit (it may be empty), or leave install out"
    )))
}

fn needs_snippet(prefix: &str, field: &str) -> Blocked {
    Blocked::stalled(
        Reason::MissingPrivilege,
        format!(
            "{prefix}.{field} is put into a snippet on the node, which needs SSH: set spec.ssh of the PhoenixHypervisor, or leave it out"
        ),
    )
}

/// The password hash; a password in clear text is refused.
fn password(object: &GuestObject, init: &CloudInit, objects: &dyn Objects) -> Result<Option<Secret>, Blocked> {
    let Some(KeyRef { name, key }) = &init.password_hash_secret_ref else {
        return Ok(None);
    };
    let field = format!("{}.cloudInit.passwordHashSecretRef", object.field_prefix());
    let text = refs::secret_text(objects, &object.key.namespace, name, key, &field)?;
    let hash = text.trim();
    let parts: Vec<&str> = hash.split('$').collect();
    let known = ["1", "2b", "2y", "5", "6", "7", "y", "gy"];
    if parts.len() < 4 || !parts[0].is_empty() || !known.contains(&parts[1]) || hash.contains(char::is_whitespace) {
        return Err(invalid(format!(
            "{field}: {} holds no password hash such as $6$…: make one with `mkpasswd -m sha-512`; passwords in clear text are not taken",
            refs::key_of_secret(&object.key.namespace, name, key)
        )));
    }
    Ok(Some(Secret::new(hash)))
}

/// What goes into the snippet, if anything does.
fn vendor(
    context: &Context<'_>,
    source: Option<&Source>,
    guest: &VmGuest,
    init: &CloudInit,
) -> Result<Option<WantedVendor>, Blocked> {
    let prefix = context.object.field_prefix();
    let agent = guest.agent.clone().unwrap_or_default();
    let from_image = matches!(source, Some(Source::Image { .. } | Source::Download { .. }));
    let ssh = context.channels.ssh;
    let asked = [
        (
            init.packages.as_ref().is_some_and(|p| !p.is_empty()),
            "cloudInit.packages",
        ),
        (init.user_data.is_some(), "cloudInit.userData"),
        (agent.install == Some(true), "agent.install"),
    ];
    let required = asked.iter().find(|(given, _)| *given).map(|(_, field)| *field);
    if let Some(field) = required.filter(|_| !ssh) {
        return Err(needs_snippet(prefix, field));
    }
    if !ssh {
        return Ok(None);
    }
    if let Some(text) = &init.user_data {
        vendor_data::check_user_data(text).map_err(|e| invalid(format!("{prefix}.{e}")))?;
    }
    let enabled = agent.enabled.unwrap_or(true);
    let scripts: Vec<Script> = context
        .scripts
        .iter()
        .filter(|s| s.role == ScriptRole::Feature)
        .cloned()
        .collect();
    let vendor = WantedVendor {
        storage: init
            .snippet_storage
            .clone()
            .or(context.defaults.snippet_storage.clone()),
        packages: init.packages.clone().unwrap_or_default(),
        user_data: init.user_data.clone(),
        agent: enabled && agent.install.unwrap_or(from_image),
        scripts,
        required: required.is_some(),
        digest: String::new(),
    };
    let nothing =
        vendor.packages.is_empty() && vendor.user_data.is_none() && !vendor.agent && vendor.scripts.is_empty();
    let digest = fingerprint::snippet(&vendor);
    Ok((!nothing).then_some(WantedVendor { digest, ..vendor }))
}

//! An object resolved to what is wanted of its guest: the order of it. What only containers
//! have is in [`super::lxc`], what only machines have in [`super::vm`], and what both use in [`super::shared`].

use crate::crd::{
    ADOPT, CANCEL, GuestFields, GuestKind, IdRange, PhoenixHypervisor, REBUILD, RECREATE, RESTAMP, RESTARTED_AT,
};
use crate::pve::GuestType;
use crate::reason::Reason;

use super::defaulted::Defaulted;
use super::shared::{Context, Wing, firewall, form, startup};
use super::{
    Blocked, Channels, Desired, GuestObject, GuestSpec, Lifecycle, OWNER_HOSTNAME, Objects, Prints, Shared, Stamp,
    WantedIdentity, allow, fingerprint, refs, scripts,
};

/// Resolves an object to what is wanted of its guest.
///
/// # Errors
/// What is wrong with the spec or with what it refers to, with field, value and fix.
pub fn resolve(object: &GuestObject, objects: &dyn Objects, cluster_id: &str) -> Result<Desired, Blocked> {
    refuse_unsupported(object)?;
    let hypervisor = refs::hypervisor(object, objects)?;
    let defaulted = Defaulted::of(object, &hypervisor);
    let desired = resolve_on(object, &hypervisor, objects, cluster_id).map_err(|blocked| defaulted.blames(blocked))?;
    Ok(Desired { defaulted, ..desired })
}

fn resolve_on(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
    cluster_id: &str,
) -> Result<Desired, Blocked> {
    let grants = allow::check(object, hypervisor, objects)?;
    let scripts = scripts::scripts(object, hypervisor, objects)?;
    let context = Context {
        object,
        hypervisor,
        objects,
        defaults: hypervisor.spec.defaults.clone().unwrap_or_default(),
        channels: channels(hypervisor),
        scripts: &scripts,
    };
    let wing = match (object.vm(), object.lxc()) {
        (Some(vm), _) => super::vm::wanted(&context, vm)?,
        (None, Some(lxc)) => super::lxc::wanted(&context, lxc)?,
        (None, None) => return Err(formless()),
    };
    let mut desired = shared(&context, wing, cluster_id)?;
    desired.grants = grants;
    super::conflicts::image_is_of_one(object, objects)?;
    not_named_as_owners(object, &desired)?;
    desired.scripts = scripts;
    desired.prints.revision = fingerprint::revision(&desired);
    desired.prints.applied = fingerprint::applied(&desired);
    Ok(desired)
}

fn formless() -> Blocked {
    Blocked::stalled(Reason::InvalidSpec, "spec: neither lxc nor vm is given: give one")
}

fn channels(hypervisor: &PhoenixHypervisor) -> Channels {
    Channels {
        token: hypervisor.spec.credentials.token_secret_ref.is_some(),
        ticket: hypervisor.spec.credentials.root_password_secret_ref.is_some(),
        ssh: hypervisor.spec.ssh.is_some(),
    }
}

/// Names of owner containers tell where to look for retained volumes; nobody else's guest is to be taken for one.
fn not_named_as_owners(object: &GuestObject, desired: &Desired) -> Result<(), Blocked> {
    let given = desired.option("hostname");
    // A guest that is there has its name already.
    let chosen = Some(&desired.shared.default_hostname).filter(|_| object.status.vmid().is_none());
    let name = given.or(chosen).filter(|name| name.starts_with(OWNER_HOSTNAME));
    let Some(name) = name.filter(|_| object.guest_type() == GuestType::Lxc) else {
        return Ok(());
    };
    let field = format!("{}.hostname", object.field_prefix());
    Err(Blocked::stalled(
        Reason::InvalidSpec,
        format!(
            "{field}: {name:?} begins with {OWNER_HOSTNAME}, as the names of owner containers of retained volumes do: give another"
        ),
    ))
}

/// Refuses fields whose behaviour is not built, for either sort of guest.
fn refuse_unsupported(object: &GuestObject) -> Result<(), Blocked> {
    if object.key.kind == GuestKind::PhoenixTemplate && object.annotations.contains_key(RECREATE) {
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "metadata.annotations[{RECREATE}]: a template is never made anew in place: take the annotation away; {REBUILD} builds a new revision"
            ),
        ));
    }
    match &object.spec {
        GuestSpec::Template(spec) if spec.lxc.is_none() && spec.vm.is_none() => Err(formless()),
        _ if object
            .shared()
            .and_then(|s| s.description.as_deref())
            .is_some_and(Stamp::is_forged_in) =>
        {
            Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "{}.description: a line begins as the stamp by which Phoenix knows its guests: take that line out",
                    object.field_prefix()
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn shared(context: &Context<'_>, wing: Wing, cluster_id: &str) -> Result<Desired, Blocked> {
    let object = context.object;
    let spec = object.shared().ok_or_else(formless)?;
    Ok(Desired {
        key: object.key.clone(),
        identity: identity(context, spec, cluster_id),
        life: life(context),
        source: wing.source,
        shared: Shared {
            default_hostname: object.key.name.replace('.', "-").chars().take(63).collect(),
            options: wing.options,
            startup: startup(spec.boot.as_ref()),
            network: wing.network,
            tags: spec
                .tags
                .as_ref()
                .map(|tags| tags.iter().map(|t| t.0.clone()).collect()),
            description: spec.description.as_deref().map(Stamp::strip),
            pool: spec.pool.clone(),
            firewall: spec.firewall.as_ref().map(firewall),
        },
        guest: wing.guest,
        scripts: Vec::new(),
        health: scripts::health(object, context.hypervisor, context.objects),
        channels: context.channels,
        grants: None,
        cards: super::gpus::CardPolicy::of(context.hypervisor)?,
        source_by_volid: by_volid(object),
        defaulted: Defaulted::default(),
        prints: Prints::default(),
    })
}

fn by_volid(object: &GuestObject) -> bool {
    let source = object.lxc().and_then(|lxc| lxc.source.as_ref());
    source
        .and_then(|s| s.image.as_ref())
        .is_some_and(|image| image.volid.is_some())
}

fn identity(context: &Context<'_>, spec: &GuestFields, cluster_id: &str) -> WantedIdentity {
    let Context { object, hypervisor, .. } = context;
    WantedIdentity {
        cluster_id: cluster_id.to_string(),
        previous_clusters: hypervisor.spec.previous_cluster_ids.clone().unwrap_or_default(),
        uid: object.uid.clone(),
        vmid: object.spec_vmid(),
        vmid_range: hypervisor.spec.vmid_range.as_ref().map(IdRange::ids),
        owner_ids: hypervisor.spec.volume_owners.as_ref().map(|o| o.id_range.ids()),
        node: spec.node.clone(),
        default_node: context.defaults.node.clone(),
        adopt: object.annotations.get(ADOPT).cloned(),
        restamp: object.annotations.get(RESTAMP).cloned(),
    }
}

fn life(context: &Context<'_>) -> Lifecycle {
    let Context { object, hypervisor, .. } = context;
    let (update, deletion, history_limit) = match &object.spec {
        GuestSpec::Lxc(spec) => (spec.update_policy.as_ref(), spec.deletion_policy, None),
        GuestSpec::Vm(spec) => (spec.update_policy.as_ref(), spec.deletion_policy, None),
        GuestSpec::Template(spec) => (None, spec.deletion_policy, spec.revision_history_limit),
    };
    Lifecycle {
        form: form(object),
        history_limit: history_limit.and_then(|n| usize::try_from(n).ok()),
        rebuild: object.annotations.get(REBUILD).cloned(),
        power: object.power_state().unwrap_or_default(),
        restarted_at: object.annotations.get(RESTARTED_AT).cloned(),
        restart: update.and_then(|u| u.restart).unwrap_or_default(),
        cancel: object.annotations.get(CANCEL).cloned(),
        drift: hypervisor.spec.drift_policy.unwrap_or_default(),
        deletion,
    }
}

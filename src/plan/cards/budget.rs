//! The memory of a card: what is asked of it never adds up to more than it has.

use crate::desired::WantedGpu;
use crate::observed::Claim;
use crate::pve::gpu::Card;
use crate::reason::{Cause, Reason};

use super::{Wish, before, part};

/// What shares may be above 1 in sum, for the sake of fractions that binary numbers do not have.
const SLACK: f64 = 1e-6;

/// The share of a card's memory that an entry asks for; `None`: it does not say.
pub(super) fn share(wish: Wish<'_>, wanted: &WantedGpu, card: &Card) -> Result<Option<f64>, Cause> {
    let Some(amount) = wanted.amount else { return Ok(None) };
    let field = format!("{}.{}", wish.prefix, wanted.amount_from);
    let Some(share) = part(amount, card) else {
        let message = format!(
            "{field}: nobody knows how much memory GPU {} has: give vramShare instead",
            card.named()
        );
        return Err(Cause::new(Reason::InvalidSpec, message));
    };
    if share > 1.0 + SLACK {
        let message = format!(
            "{field}: GPU {} has {} in all: lower it, or choose another",
            card.named(),
            gib(1.0, card)
        );
        return Err(Cause::new(Reason::GPUOvercommitted, message));
    }
    Ok(Some(share))
}

/// What is left of a card: nothing of one that somebody has for himself.
pub(super) fn left(card: &Card, claims: &[Claim]) -> f64 {
    let here = || claims.iter().filter(|claim| claim.address == card.address);
    if here().any(|claim| claim.exclusive || claim.machine) {
        return 0.0;
    }
    (1.0 - here().filter_map(|claim| claim.share).sum::<f64>()).max(0.0)
}

/// Whether an object may have its share of a card beside the others. What it has already, it keeps.
pub(super) fn fits(
    wish: Wish<'_>,
    wanted: &WantedGpu,
    card: &Card,
    share: Option<f64>,
    claims: &[Claim],
) -> Result<(), Cause> {
    let has = before(wanted, wish.node, wish.recorded);
    let has = has.filter(|given| given.released != Some(true));
    let has = has.filter(|given| given.pci_address == card.address || given.uuid == card.uuid);
    let keeps = has.is_some_and(|given| {
        let grows = share.unwrap_or(0.0) > given.share.unwrap_or(0.0) + SLACK;
        let newly = wanted.exclusive && given.exclusive != Some(true);
        !grows && !newly
    });
    let others: Vec<&Claim> = claims.iter().filter(|claim| claim.address == card.address).collect();
    if keeps || others.is_empty() {
        return Ok(());
    }
    let field = format!("{}.gpus[{}]", wish.prefix, wanted.entry);
    let who = |claim: &&Claim| match (claim.exclusive, claim.share) {
        (true, _) => format!("{} has it for itself", claim.who),
        (false, Some(share)) => format!("{} has {share:.2} of it", claim.who),
        (false, None) => format!("{} has it, and does not say how much it uses", claim.who),
    };
    let names = others.iter().map(who).collect::<Vec<_>>().join(", ");
    let refused = |what: String, fix: &str| {
        let message = format!("{what}: {names}: {fix}");
        Err(Cause::new(Reason::GPUOvercommitted, message))
    };
    if wanted.exclusive {
        let what = format!("{field}.exclusive: GPU {} is not free", card.named());
        return refused(what, "choose another GPU, or stop them (powerState: Stopped)");
    }
    if others.iter().any(|claim| claim.exclusive) {
        let what = format!("{field}: GPU {} cannot be shared", card.named());
        return refused(what, "choose another GPU");
    }
    let left = left(card, claims);
    match share {
        Some(share) if share > left + SLACK => {
            let what = format!(
                "{}.{}: {share:.2} of GPU {} is asked for, and {left:.2} ({}) is left",
                wish.prefix,
                wanted.amount_from,
                card.named(),
                gib(left, card)
            );
            refused(
                what,
                "lower it, choose another GPU, or stop one of them (powerState: Stopped)",
            )
        }
        _ => Ok(()),
    }
}

/// A share of a card in GiB, where its memory is known.
fn gib(share: f64, card: &Card) -> String {
    match card.memory_mib {
        Some(mib) => format!("{:.1} GiB", share * mib as f64 / 1024.0),
        None => "an unknown amount".into(),
    }
}

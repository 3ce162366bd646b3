//! The nodes' graphics cards: looked at once, after a boot of the node, with each full poll where there are any, and with
//! each poll while an object waits for something at its cards.

use std::time::Duration;

use futures::future::join_all;

use crate::observed::Inventory;
use crate::pve::gpu::{Card, NodeCards, Vendor};
use crate::pve::gpu_report;
use crate::reason::{Cause, Reason};
use crate::remote::gpus::{self, GpuLayout};

use super::connection::{Connection, Snapshot};

/// For how long the poll waits for the look at a node's cards.
const PATIENCE: Duration = Duration::from_secs(30);

/// The last look at the cards of a node.
#[derive(Clone, Debug, Default)]
pub struct CardLook {
    /// What was seen; what a failed look leaves is what was seen before, if anything was.
    pub cards: Option<NodeCards>,
    /// Why the last look failed.
    pub failed: Option<Cause>,
    /// Seconds since the node's boot at that time.
    pub uptime: u64,
}

/// Whether a node's cards are to be looked at. `waits`: an object waits for something at its cards.
fn is_due(last: Option<&CardLook>, uptime: u64, full: bool, waits: bool) -> bool {
    let Some(last) = last else { return true };
    let booted = uptime < last.uptime;
    let has_cards = last.cards.as_ref().is_some_and(|node| !node.cards.is_empty());
    booted || waits || full && (has_cards || last.failed.is_some())
}

impl Connection {
    /// Looks at the cards of the nodes whose turn it is, and returns those of all.
    pub(super) async fn cards(&self, snapshot: &Snapshot, full: bool, waits: bool) -> Inventory {
        let uptime = |node: &String| snapshot.uptimes.get(node).copied().unwrap_or_default();
        let online = snapshot.cluster.online.iter().map(|node| (node, uptime(node)));
        let due = online.filter(|(node, uptime)| is_due(self.card_look(node).as_ref(), *uptime, full, waits));
        let looks = due.map(|(node, uptime)| self.look_now(node, uptime));
        let looks: Vec<_> = join_all(looks).await;
        self.keep_card_looks(looks);
        let looks = self.card_looks().into_iter();
        looks.filter_map(|(node, look)| Some((node, look.cards?))).collect()
    }

    async fn look_now(&self, node: &str, uptime: u64) -> (String, CardLook) {
        let before = self.card_look(node);
        let look = match tokio::time::timeout(PATIENCE, self.look_at_cards(node, before.as_ref(), None)).await {
            Ok(Ok(cards)) => CardLook {
                cards: Some(cards),
                failed: None,
                uptime,
            },
            Ok(Err(cause)) => failed(before, cause, uptime),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let words = format!("node {node} did not answer within {seconds} s when asked for its GPUs");
                failed(before, Cause::new(Reason::SSHUnreachable, words), uptime)
            }
        };
        (node.to_string(), look)
    }

    /// Looks at a node's cards after something was done to them; the last snapshot has them then.
    pub(super) async fn look_again_at_cards(&self, node: &str) {
        let uptime = self.card_look(node).map(|look| look.uptime).unwrap_or_default();
        let look = self.look_now(node, uptime).await;
        let cards = look.1.cards.clone();
        self.keep_card_looks(vec![look]);
        if let Some(cards) = cards {
            self.show_cards(node, cards);
        }
    }

    /// Looks at a node's cards once, at this address of the node; nothing is kept.
    pub(super) async fn cards_at(&self, node: &str, address: Option<&str>) -> Result<NodeCards, Cause> {
        self.look_at_cards(node, None, address).await
    }

    /// Looks at a node's cards: the API names them, the node itself tells the rest.
    async fn look_at_cards(
        &self,
        node: &str,
        before: Option<&CardLook>,
        address: Option<&str>,
    ) -> Result<NodeCards, Cause> {
        let ssh = self.access.ssh.is_some();
        // What a card is called does not change.
        let named = before.and_then(|look| look.cards.as_ref()).filter(|_| ssh);
        let listed = match named {
            Some(_) => Vec::new(),
            None => match self.client.pci_devices(node).await {
                Ok(rows) => rows,
                Err(crate::proxmox::Error::Forbidden { .. }) => Vec::new(),
                Err(error) => return Err(Cause::from(&error)),
            },
        };
        let mut cards = NodeCards::default();
        for row in listed {
            let Some(vendor) = Vendor::of_id(&row.vendor).filter(|_| row.is_display()) else {
                continue;
            };
            let card = Card {
                address: row.id.clone(),
                vendor,
                model: row.device_name,
                iommu_group: row.iommugroup.filter(|group| *group >= 0),
                ..Card::default()
            };
            cards.cards.insert(row.id, card);
        }
        if !ssh {
            return Ok(cards);
        }
        let target = match address {
            Some(_) => self.target_at(node, address),
            None => self.target(node),
        };
        let target = target.map_err(|(cause, _)| cause)?;
        let ran = self.ssh_at(&target, &gpus::look(&GpuLayout::default())).await;
        let output = ran.map_err(|(cause, _)| cause)?;
        let unreadable = |words: String| Cause::new(Reason::NotDecodable, words);
        let mut seen = gpu_report::parse(&output.stdout.text(), node).map_err(unreadable)?;
        let earlier = &named.unwrap_or(&cards).cards;
        for card in seen.cards.values_mut().filter(|card| card.model.is_none()) {
            card.model = earlier.get(&card.address).and_then(|other| other.model.clone());
        }
        Ok(seen)
    }
}

fn failed(before: Option<CardLook>, cause: Cause, uptime: u64) -> CardLook {
    CardLook {
        failed: Some(cause),
        uptime,
        ..before.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_looked_at_once_and_when_something_may_have_changed() {
        let card = Card::default();
        let look = |cards: bool, failed: bool| CardLook {
            cards: Some(NodeCards {
                cards: cards.then(|| (String::new(), card.clone())).into_iter().collect(),
                ..NodeCards::default()
            }),
            failed: failed.then(|| Cause::new(Reason::SSHUnreachable, "")),
            uptime: 100,
        };
        assert!(is_due(None, 0, false, false), "never looked at");
        assert!(!is_due(Some(&look(true, false)), 110, false, false), "an ordinary poll");
        assert!(
            is_due(Some(&look(true, false)), 110, true, false),
            "a full poll, with cards"
        );
        assert!(
            !is_due(Some(&look(false, false)), 110, true, false),
            "a full poll, without cards"
        );
        assert!(
            is_due(Some(&look(false, true)), 110, true, false),
            "a full poll after a failed look"
        );
        assert!(
            is_due(Some(&look(false, false)), 5, false, false),
            "the node was booted"
        );
        assert!(is_due(Some(&look(true, false)), 110, false, true), "somebody waits");
    }
}

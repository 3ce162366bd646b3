//! Choices by tables and properties.

use proptest::prelude::*;

use super::*;
use crate::pve::GuestType;
use crate::pve::Vmid;
use crate::pve::gpu::{Holder, Xid};

fn card(address: &str, index: u32, minor: u32) -> Card {
    Card {
        address: address.into(),
        model: Some("NVIDIA GeForce RTX 5060 Ti".into()),
        driver: Some("nvidia".into()),
        index: Some(index),
        minor: Some(minor),
        uuid: Some(format!("GPU-{minor}")),
        memory_mib: Some(16_384),
        ..Card::default()
    }
}

/// Two cards whose indices and minor numbers differ.
fn node() -> NodeCards {
    let cards = [card("0000:41:00.0", 0, 1), card("0000:61:00.0", 1, 0)];
    NodeCards {
        nodes: (0..2)
            .map(|n| format!("/dev/nvidia{n}"))
            .chain(crate::pve::gpu::NVIDIA_SHARED.map(String::from))
            .collect(),
        cards: cards.into_iter().map(|card| (card.address.clone(), card)).collect(),
        over_ssh: true,
        ..NodeCards::default()
    }
}

fn gpu(selector: Selector, amount: Option<f64>) -> WantedGpu {
    WantedGpu {
        entry: 0,
        selector,
        amount: amount.map(Amount::Share),
        amount_from: "gpus[0].vramShare".into(),
        exclusive: false,
        dri: false,
        mode: "0666".into(),
        gid: None,
    }
}

fn counted(nth: usize) -> Selector {
    Selector::Counted {
        nth,
        model: None,
        memory_mib: None,
    }
}

fn claim(address: &str, share: f64) -> Claim {
    Claim {
        who: "PhoenixLXC a/other".into(),
        object: true,
        address: address.into(),
        share: Some(share),
        ..Claim::default()
    }
}

fn wish<'a>(wanted: &'a [WantedGpu], recorded: &'a [GivenGpu]) -> Wish<'a> {
    Wish {
        wanted,
        prefix: "spec",
        node: "pve1",
        recorded,
        allowed: None,
        counts: true,
        policy: Box::leak(Box::default()),
    }
}

fn refusal(wanted: &[WantedGpu], node: &NodeCards, claims: &[Claim]) -> (Reason, String) {
    let cause = choose(wish(wanted, &[]), node, claims).unwrap_err();
    (cause.reason, cause.message)
}

#[test]
fn an_index_is_the_card_that_nvidia_smi_counts_so_and_its_node_has_its_minor_number() {
    let node = node();
    for (selector, address, path) in [
        (Selector::Index(1), "0000:61:00.0", "/dev/nvidia0"),
        (Selector::Address("0000:41:00.0".into()), "0000:41:00.0", "/dev/nvidia1"),
        (Selector::Uuid("GPU-0".into()), "0000:61:00.0", "/dev/nvidia0"),
        (counted(0), "0000:41:00.0", "/dev/nvidia1"),
    ] {
        let wanted = [gpu(selector.clone(), None)];
        let given = choose(wish(&wanted, &[]), &node, &[]).unwrap();
        assert_eq!(given[0].card.pci_address, address, "{selector}");
        assert_eq!(given[0].nodes[0], path, "{selector}");
        assert!(given[0].missing.is_empty());
    }
}

#[test]
fn counted_cards_are_those_with_most_left_and_two_are_never_one() {
    let node = node();
    let both = [gpu(counted(0), Some(0.3)), gpu(counted(1), Some(0.3))];
    let given = choose(wish(&both, &[]), &node, &[claim("0000:41:00.0", 0.5)]).unwrap();
    let cards: Vec<&str> = given.iter().map(|g| g.card.pci_address.as_str()).collect();
    assert_eq!(cards, ["0000:61:00.0", "0000:41:00.0"]);
    let three = [both.as_slice(), &[gpu(counted(2), None)]].concat();
    assert_eq!(refusal(&three, &node, &[]).0, Reason::GPUNotFound);
    let model = Selector::Counted {
        nth: 0,
        model: Some("rtx 5060".into()),
        memory_mib: Some(20_000),
    };
    assert_eq!(refusal(&[gpu(model, None)], &node, &[]).0, Reason::GPUNotFound);
}

#[test]
fn a_card_that_was_chosen_is_kept_however_the_node_counts() {
    let mut node = node();
    let wanted = [gpu(Selector::Index(0), None)];
    let first = choose(wish(&wanted, &[]), &node, &[]).unwrap();
    let recorded = [first[0].card.clone()];
    // The bus is counted the other way round after a boot.
    for (index, card) in node.cards.values_mut().rev().enumerate() {
        card.index = u32::try_from(index).ok();
    }
    let again = choose(wish(&wanted, &recorded), &node, &[]).unwrap();
    assert_eq!(again[0].card.uuid, recorded[0].uuid);
    let words = again[0].reordered.clone().unwrap();
    assert!(
        words.starts_with("spec.gpus[0].index: 0 was GPU 0000:41:00.0"),
        "{words}"
    );
    // Another card in a slot before it moves it to another address.
    let mut moved = node.cards.remove("0000:41:00.0").unwrap();
    moved.address = "0000:42:00.0".into();
    node.cards.insert(moved.address.clone(), moved);
    let again = choose(wish(&wanted, &recorded), &node, &[]).unwrap();
    assert_eq!(again[0].card.pci_address, "0000:42:00.0");
    assert!(
        again[0]
            .reordered
            .clone()
            .unwrap()
            .contains("was GPU 0000:41:00.0 when it was chosen and is 0000:42:00.0")
    );
    // Gone for good: the index may be any card's by now, and none is taken for it unasked.
    node.cards.remove("0000:42:00.0");
    node.cards.get_mut("0000:61:00.0").unwrap().index = Some(1);
    let gone = choose(wish(&wanted, &recorded), &node, &[]).unwrap_err();
    assert_eq!(gone.reason, Reason::GPUNotFound);
    assert!(
        gone.message.contains("which was GPU-1 when it was chosen"),
        "{}",
        gone.message
    );
}

#[test]
fn shares_never_add_up_to_more_than_a_card_has() {
    let node = node();
    let wanted = |share| [gpu(Selector::Index(0), Some(share))];
    let others = [claim("0000:41:00.0", 0.5), claim("0000:41:00.0", 0.3)];
    assert!(choose(wish(&wanted(0.2), &[]), &node, &others).is_ok());
    let (reason, words) = refusal(&wanted(0.3), &node, &others);
    assert_eq!(reason, Reason::GPUOvercommitted);
    assert!(
        words.starts_with("spec.gpus[0].vramShare: 0.30 of GPU 0000:41:00.0 (NVIDIA GeForce RTX 5060 Ti) is asked for, and 0.20 (3.2 GiB) is left: PhoenixLXC a/other has 0.50 of it"),
        "{words}"
    );
    let gib = WantedGpu {
        amount: Some(Amount::Gib(4.0)),
        amount_from: "gpus[0].vramGiB".into(),
        ..gpu(Selector::Index(0), None)
    };
    assert_eq!(
        refusal(std::slice::from_ref(&gib), &node, &others).0,
        Reason::GPUOvercommitted
    );
    assert!(choose(wish(&[gib], &[]), &node, &others[..1]).is_ok());
    // Who does not say how much it uses takes nothing of the account.
    assert!(choose(wish(&[gpu(Selector::Index(0), None)], &[]), &node, &others).is_ok());
    let alone = WantedGpu {
        exclusive: true,
        ..gpu(Selector::Index(0), None)
    };
    assert_eq!(
        refusal(std::slice::from_ref(&alone), &node, &others).0,
        Reason::GPUOvercommitted
    );
    assert!(choose(wish(&[alone], &[]), &node, &[]).is_ok());
    let exclusive = Claim {
        exclusive: true,
        ..claim("0000:41:00.0", 0.0)
    };
    assert_eq!(refusal(&wanted(0.1), &node, &[exclusive]).0, Reason::GPUOvercommitted);
}

#[test]
fn what_an_object_has_it_keeps_and_more_it_gets_only_where_there_is_room() {
    let node = node();
    let wanted = |share| [gpu(Selector::Index(0), Some(share))];
    let recorded = [choose(wish(&wanted(0.6), &[]), &node, &[]).unwrap()[0].card.clone()];
    // Somebody else has the same card by a mistake of an earlier release: the one that runs keeps its share.
    let others = [claim("0000:41:00.0", 0.9)];
    assert!(choose(wish(&wanted(0.6), &recorded), &node, &others).is_ok());
    assert!(choose(wish(&wanted(0.5), &recorded), &node, &others).is_ok());
    let cause = choose(wish(&wanted(0.7), &recorded), &node, &others).unwrap_err();
    assert_eq!(cause.reason, Reason::GPUOvercommitted);
}

#[test]
fn who_gave_a_card_back_has_to_find_room_again() {
    let node = node();
    let wanted = [gpu(Selector::Index(0), Some(0.6))];
    let stopped = Wish {
        counts: false,
        ..wish(&wanted, &[])
    };
    let recorded = [choose(stopped, &node, &[]).unwrap()[0].card.clone()];
    assert_eq!(recorded[0].released, Some(true));
    let others = [claim("0000:41:00.0", 0.5)];
    assert!(
        choose(
            Wish {
                recorded: &recorded,
                ..stopped
            },
            &node,
            &others
        )
        .is_ok(),
        "stopped, it takes nothing"
    );
    let cause = choose(wish(&wanted, &recorded), &node, &others).unwrap_err();
    assert_eq!(cause.reason, Reason::GPUOvercommitted);
    let again = choose(wish(&wanted, &recorded), &node, &[]).unwrap();
    assert_eq!(again[0].card.released, None);
}

#[test]
fn a_card_is_either_the_machines_or_the_containers() {
    let mut node = node();
    let wanted = [gpu(Selector::Address("0000:41:00.0".into()), None)];
    node.holders.push(Holder {
        vmid: Vmid::MIN,
        sort: GuestType::Qemu,
        nodes: Default::default(),
        devices: ["0000:41:00".to_string()].into(),
    });
    let (reason, words) = refusal(&wanted, &node, &[]);
    assert_eq!(reason, Reason::GPUConflict);
    assert!(
        words.contains("which machine 100 takes away from containers when it starts"),
        "{words}"
    );
    let machine = Claim {
        who: "PhoenixVM a/desk".into(),
        machine: true,
        ..claim("0000:41:00.0", 0.0)
    };
    node.cards.get_mut("0000:41:00.0").unwrap().driver = Some("vfio-pci".into());
    let (reason, words) = refusal(&wanted, &node, &[machine]);
    assert_eq!(reason, Reason::GPUConflict);
    assert!(
        words.contains("bound to vfio, for machines: PhoenixVM a/desk has it"),
        "{words}"
    );
}

#[test]
fn an_object_of_another_namespace_has_what_it_is_allowed() {
    let node = node();
    let tenant = |wanted: &[WantedGpu], allowed: &[i64]| {
        let wish = Wish {
            allowed: Some(allowed),
            ..wish(wanted, &[])
        };
        choose(wish, &node, &[]).map(|given| given[0].card.pci_address.clone())
    };
    let by_address = [gpu(Selector::Address("0000:61:00.0".into()), None)];
    assert_eq!(tenant(&by_address, &[1]).unwrap(), "0000:61:00.0");
    assert_eq!(tenant(&by_address, &[0]).unwrap_err().reason, Reason::NotAllowed);
    let any = [gpu(counted(0), None)];
    assert_eq!(tenant(&any, &[1]).unwrap(), "0000:61:00.0");
    assert_eq!(tenant(&any, &[]).unwrap_err().reason, Reason::GPUNotFound);
}

#[test]
fn faults_and_missing_nodes_are_told() {
    let mut node = node();
    node.nodes.remove("/dev/nvidia-uvm");
    let wanted = [gpu(Selector::Index(0), None)];
    let given = choose(wish(&wanted, &[]), &node, &[]).unwrap();
    assert_eq!(given[0].missing, ["/dev/nvidia-uvm"]);
    let recorded = [given[0].card.clone()];
    let lost = node.cards.get_mut("0000:41:00.0").unwrap();
    lost.index = None;
    lost.xids.push(Xid {
        number: 79,
        at: Some(1_700_000_000),
        words: "79, GPU has fallen off the bus.".into(),
    });
    let fault = choose(wish(&wanted, &recorded), &node, &[]).unwrap()[0]
        .fault
        .clone()
        .unwrap();
    assert_eq!(fault.at, None);
    assert!(
        fault.words.contains("does not answer: NVIDIA's driver reported Xid 79"),
        "{}",
        fault.words
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Whatever is asked for, given back, edited and forgotten in any order: no card is over its budget.
    #[test]
    fn no_sequence_ends_with_a_card_over_its_budget(
        moves in proptest::collection::vec((0..5_usize, 0..3_i64, 1..=20_u32, 0..7_u8), 1..40),
    ) {
        let mut node = node();
        let mut held: Vec<Vec<GivenGpu>> = vec![Vec::new(); 5];
        for (who, index, twentieths, what) in moves {
            let share = f64::from(twentieths) / 20.0;
            let wanted = [WantedGpu { exclusive: what == 3, ..gpu(
                if index == 2 { counted(0) } else { Selector::Index(index) },
                (what != 3).then_some(share),
            )}];
            match what {
                4 => held[who].clear(),
                5 => {
                    for card in node.cards.values_mut() {
                        card.index = card.index.map(|index| 1 - index);
                    }
                }
                _ => {
                    let others = held.iter().enumerate().filter(|(n, _)| *n != who).flat_map(|(_, cards)| cards);
                    let claims: Vec<Claim> = others
                        .filter(|given| given.released != Some(true))
                        .map(|given| Claim {
                            exclusive: given.exclusive == Some(true),
                            share: given.share,
                            ..claim(&given.pci_address, 0.0)
                        })
                        .collect();
                    let recorded = held[who].clone();
                    // 6: it is stopped.
                    let wish = Wish { counts: what != 6, ..wish(&wanted, &recorded) };
                    if let Ok(given) = choose(wish, &node, &claims) {
                        held[who] = given.into_iter().map(|given| given.card).collect();
                    }
                }
            }
            for address in node.cards.keys() {
                let counts = |g: &&GivenGpu| g.pci_address == *address && g.released != Some(true);
                let here: Vec<&GivenGpu> = held.iter().flatten().filter(counts).collect();
                let sum: f64 = here.iter().filter_map(|given| given.share).sum();
                prop_assert!(sum <= 1.0 + 1e-6, "{address}: {sum}");
                let alone = here.iter().any(|given| given.exclusive == Some(true));
                prop_assert!(!alone || here.len() == 1, "{address} is shared although one has it for itself");
            }
        }
    }
}

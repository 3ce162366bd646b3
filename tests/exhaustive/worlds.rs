//! The small worlds: what is there, what is asked for, and how it must be in the end.

use phoenix::desired::Objects;
use serde_json::{Value, json};

use crate::engine::{World, adopting, guest, lxc, made_by_hand, template};

pub struct Small {
    pub name: &'static str,
    /// What is there before, in order.
    pub before: fn(&World),
    /// What is asked for then.
    pub change: fn(&World),
    /// What must hold in the end, besides.
    pub end: fn(&World) -> Result<(), String>,
}

impl Small {
    /// Whether the world has come to rest as it should.
    pub fn at_rest(&self, world: &World) -> Result<(), String> {
        world.check_invariants()?;
        for guest in world.store.guests() {
            if !guest.is_ready() || guest.deleting {
                let status = &guest.status;
                return Err(format!("{}: {:?} {:?}", guest.key, status.phase, status.message));
            }
            let vmid = guest
                .status
                .vmid()
                .ok_or_else(|| format!("{} has no vmid", guest.key))?;
            if !world.guests().contains_key(&vmid.get()) {
                return Err(format!("{} is Ready, and there is no guest {vmid}", guest.key));
            }
        }
        (self.end)(world)
    }
}

fn nothing(_: &World) {}

/// So many guests are there.
fn there_are(world: &World, number: usize) -> Result<(), String> {
    let guests = world.guests();
    match guests.len() == number {
        true => Ok(()),
        false => Err(format!(
            "{} guests instead of {number}: {:?}",
            guests.len(),
            guests.keys()
        )),
    }
}

fn two(world: &World, manifest: fn(&str) -> Value) {
    for name in ["a", "b"] {
        world.store.apply(manifest(name));
    }
}

fn from_image(name: &str) -> Value {
    guest(name, json!({}))
}

fn clone(name: &str) -> Value {
    lxc(name, json!({"source": {"templateRef": {"name": "base"}}}))
}

fn delete_all(world: &World) {
    for guest in world.store.guests() {
        world.store.delete(&guest.key);
    }
}

pub const CREATE: Small = Small {
    name: "create",
    before: nothing,
    change: |world| two(world, from_image),
    end: |world| there_are(world, 2),
};

pub const CLONE: Small = Small {
    name: "clone",
    before: |world| drop(world.store.apply(template("base", "Snapshot"))),
    change: |world| two(world, clone),
    end: |world| there_are(world, 3),
};

pub const DELETE: Small = Small {
    name: "delete",
    before: |world| two(world, from_image),
    change: delete_all,
    end: |world| there_are(world, 0),
};

/// A guest of somebody's, which one object adopts while another is made.
pub const ADOPT: Small = Small {
    name: "adopt",
    before: made_by_hand,
    change: |world| {
        world.store.apply(adopting(json!({})));
        world.store.apply(from_image("b"));
    },
    end: |world| {
        there_are(world, 2)?;
        let words = &world.guests()[&500]["description"];
        match words.starts_with("made by hand") {
            true => Ok(()),
            false => Err(format!("the words of the adopted guest are gone: {words:?}")),
        }
    },
};

/// An object with a volume that stays goes while another is made.
pub const RETAIN: Small = Small {
    name: "retain",
    before: |world| {
        let volumes = json!([{"name": "models", "size": "5Gi", "mountPath": "/models"}]);
        world.store.apply(guest("a", json!({"volumes": volumes})));
    },
    change: |world| {
        delete_all(world);
        world.store.apply(from_image("b"));
    },
    end: |world| {
        // The owner container and the other guest.
        there_are(world, 2)?;
        let guests = world.guests();
        let kept = guests.values().flat_map(|options| options.values());
        match kept.filter(|value| value.contains("mp=/lxc/ai/a/models")).count() {
            1 => Ok(()),
            n => Err(format!("the retained volume is registered {n} times")),
        }
    },
};

//! Whose turn it is where several objects want what only one can have at a time.

use phoenix::desired::{Key, Objects as _};
use serde_json::{Value, json};

use crate::engine::{World, lxc, settled, template};

/// The guests that were cloned, in the order in which that was asked for.
fn cloned(world: &World) -> Vec<Key> {
    let vmid = |key: &Key| world.store.guest(key).unwrap().status.vmid.unwrap();
    let guests = world
        .store
        .guests()
        .into_iter()
        .map(|guest| (vmid(&guest.key), guest.key));
    let guests: Vec<(i64, Key)> = guests.collect();
    let tasks = world.sim().with(|state| {
        let clones = state.tasks.values().filter_map(|task| match &task.work {
            phoenix::simulator::model::task::Work::CtClone(clone) => Some(i64::from(clone.newid)),
            _ => None,
        });
        clones.collect::<Vec<_>>()
    });
    let of = |vmid: i64| guests.iter().find(|(other, _)| *other == vmid).unwrap().1.clone();
    tasks.into_iter().map(of).collect()
}

/// A is looked at first, and asks first; but c waits for b.
#[tokio::test(start_paused = true)]
async fn the_clone_for_which_others_wait_is_made_first() {
    let mut world = World::new(&[]).await;
    world.store.apply(template("base", "Snapshot"));
    settled(&mut world).await;
    let clone = |name: &str, more: Value| {
        let mut fields = json!({"source": {"templateRef": {"name": "base"}}, "network": []});
        fields
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        world.store.apply(lxc(name, fields))
    };
    let a = clone("a", json!({}));
    let b = clone("b", json!({}));
    let c = clone("c", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "b"}]}));
    settled(&mut world).await;
    let order = cloned(&world);
    assert_eq!(order[0], b, "{order:?}");
    assert!(
        order.len() == 3 && order.contains(&a) && order.contains(&c),
        "{order:?}"
    );
}

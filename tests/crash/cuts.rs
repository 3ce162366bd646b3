//! The engine is cut off at every point, and a new one takes over.

use crate::lifecycles::Lifecycle;
use crate::mishaps::Mishap;
use crate::{Disturbance, all_end_alike, undisturbed};

async fn sweep(lifecycle: &'static Lifecycle) {
    let usual = undisturbed(lifecycle).await;
    assert!(usual.points > 5, "{}: only {} points", lifecycle.name, usual.points);
    let cut = |n| Disturbance {
        name: format!("cut at point {n}"),
        mishaps: vec![Mishap::Cut(n)],
    };
    all_end_alike(lifecycle, &usual, (0..usual.points).map(cut).collect()).await;
}

crate::for_each_lifecycle!(sweep);

/// As above, and the new engine finds each object as it was one status write before.
mod rewound {
    use super::*;

    async fn sweep(lifecycle: &'static Lifecycle) {
        let usual = undisturbed(lifecycle).await;
        let cut = |n| Disturbance {
            name: format!("cut at point {n}, with the last status write lost"),
            mishaps: vec![Mishap::Cut(n), Mishap::Rewound],
        };
        all_end_alike(lifecycle, &usual, (0..usual.points).map(cut).collect()).await;
    }

    crate::for_each_lifecycle!(sweep);
}

/// As above, and the new engine finds no status at all. An object that is being deleted is left out: without its status
/// nothing says that a guest was ever made for it.
mod forgotten {
    use super::*;

    async fn sweep(lifecycle: &'static Lifecycle) {
        let usual = undisturbed(lifecycle).await;
        let cut = |n| Disturbance {
            name: format!("cut at point {n}, with all status lost"),
            mishaps: vec![Mishap::Cut(n), Mishap::Forgotten],
        };
        all_end_alike(lifecycle, &usual, (0..usual.points).map(cut).collect()).await;
    }

    macro_rules! lifecycles {
        ($($name:ident: $index:expr,)*) => {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                sweep(&crate::lifecycles::LIFECYCLES[$index]).await;
            })*
        };
    }

    lifecycles! {
        create_from_image: 0, clone_from_snapshot: 1, linked_clone: 2, change_and_grow: 3, features: 8,
        machine_from_image: 9, machine_template: 10, machine_change: 11, scripts: 14,
        script_cancelled: 15,
    }
}

//! The engine is cut off at every point, and a new one takes over.

use crate::lifecycles::Lifecycle;
use crate::{Disturbance, all_end_alike, undisturbed};

async fn sweep(lifecycle: &'static Lifecycle) {
    let usual = undisturbed(lifecycle).await;
    assert!(usual.points > 5, "{}: only {} points", lifecycle.name, usual.points);
    let cut = |n| Disturbance {
        name: format!("cut at point {n}"),
        cuts: vec![n],
        ..Disturbance::none()
    };
    all_end_alike(lifecycle, &usual, (0..usual.points).map(cut).collect()).await;
}

crate::for_each_lifecycle!(sweep);

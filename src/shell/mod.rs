//! The only effects: observe, execute, publish, controllers.

pub mod store;

//! The only effects: observe, execute, publish, controllers.

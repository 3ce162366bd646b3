//! The engine in process, against the simulator. Each module says what it shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/allow_table.rs"]
mod allow_table;
#[path = "../common/engine.rs"]
mod engine;
#[path = "../common/inprocess.rs"]
mod inprocess;
#[path = "../common/truthful.rs"]
mod truthful;

mod adopted_parts;
mod adoption;
mod awaited;
mod cards;
mod causes;
mod cdroms;
mod conflicts;
mod containers;
mod defaulted;
mod deletion;
mod deletion_accounting;
mod dropped;
mod existing;
mod firewall;
mod full;
mod gpus;
mod health;
mod images;
mod leaves;
mod life;
mod missing;
mod ownership;
mod paused;
mod plans;
mod preview;
mod proof;
mod protected;
mod raw_lines;
mod recreate;
mod repeats;
mod restarts;
mod retained;
mod revisions;
mod robustness;
mod secrets;
mod starts;
mod statuses;
mod tenants;
mod turns;
mod usable;
mod vm;
mod volumes;
mod waiting;
mod walks;

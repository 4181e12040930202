//! Every integration test but the layer test, in one binary: Cargo links each file of `tests/` anew.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

mod chunks;
mod death;
mod fidelity;
mod help;
mod readme;
mod restore_standalone;
mod restore_tables;
mod stores;
mod world;
mod zoo;

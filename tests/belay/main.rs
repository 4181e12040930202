//! Every integration test but the layer test, in one binary: Cargo links each file of `tests/` anew.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

mod audit;
mod bad_input;
mod bucket;
mod chunks;
mod consistency;
mod daemon;
mod death;
mod escape_hatch;
mod fences;
mod fidelity;
mod gate;
mod help;
mod http;
mod point_in_time;
mod readme;
mod recipients;
mod remote;
mod restore_revisions;
mod restore_standalone;
mod restore_tables;
mod settings_in_use;
mod soak;
mod status;
mod stores;
mod versions;
mod wal_evidence;
mod world;
mod zoo;

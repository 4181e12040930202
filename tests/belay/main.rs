//! Every integration test but the layer test, in one binary: Cargo links each file of `tests/` anew.

mod fidelity;
mod stores;
mod world;
mod zoo;

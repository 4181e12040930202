//! The daemon over HTTP: who may do what, and that nobody else, and no odd client, does anything.

mod abuse;
pub mod client;
mod document;
pub mod metrics;
mod orders;
mod site;
mod socket;
mod tls;
mod tokens;

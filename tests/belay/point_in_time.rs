//! Any moment of the log can be had again: as a database beside the live one, or as a whole cluster.

mod check;
mod choosing;
mod daemon;
mod deaths;
mod fetching;
mod incremental;
mod metrics;
mod moments;
mod numbers;
mod outages;
mod poison;
mod pushing;
mod refusals;
pub mod site;
mod standalone;
mod tablespaces;
mod timelines;
mod verification;
mod versions;

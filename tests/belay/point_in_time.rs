//! Any moment of the log can be had again: as a database beside the live one, or as a whole cluster.

mod daemon;
mod deaths;
mod incremental;
mod moments;
mod refusals;
mod site;
mod tablespaces;

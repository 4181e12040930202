//! The world that tests act in: throwaway PostgreSQL clusters, and the built `belay` beside them.
//!
//! Nothing of it outlives a test: not when the test panics, and not when its process is killed.

// Each test names what it needs; not all of it is needed at any one time.
#![allow(dead_code, unused_imports)]

mod alembic;
mod belay;
pub mod bucket;
mod client;
mod cluster;
mod dice;
mod document;
mod dump;
mod kubectl;
mod line;
mod owner;
pub mod pooler;
pub mod proxy;
mod server;
mod template;

pub use alembic::{AlembicProject, Environment, Revision, migration_program};
pub use belay::{Belay, Output, finish};
pub use bucket::Bucket;
pub use client::Client;
pub use cluster::{Cluster, Listen, Plan, a_cluster, a_cluster_of};
pub use dice::{dice, seed};
pub use document::{change_manifest, document, signed};
pub use dump::{with_partitions_gathered, with_rows_sorted, without_run};
pub use kubectl::FakeKubectl;
pub use line::Line;
pub use pooler::Pooler;
pub use proxy::{Fault, Proxy};
pub use server::Server;
pub use template::Locale;

mod facts;

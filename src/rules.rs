//! Decisions and the stored format: values in, values out; `now` is always a parameter.

pub mod access;
pub mod alembic;
pub mod api;
pub mod audit;
pub mod causes;
pub mod ci;
pub mod classify;
pub mod digest;
pub mod expectation;
pub mod freshness;
pub mod gate;
pub mod globals;
pub mod layout;
pub mod lease;
pub mod manifest;
pub mod mask;
pub mod proof;
pub mod retention;
pub mod schedule;
pub mod signature;
pub mod sql;
pub mod table_name;
pub mod template;
pub mod token;
pub mod wal;

//! Decisions and the stored format: values in, values out; `now` is always a parameter.

pub mod digest;
pub mod freshness;
pub mod globals;
pub mod layout;
pub mod manifest;
pub mod retention;
pub mod signature;
pub mod sql;
pub mod table_name;

//! A runner on another machine runs the command, the daemon holds the gate: it ends as a local one
//! does, whatever becomes of the runner, of the daemon, and of the network between them.

mod access;
mod calls;
mod death;
mod lost;
mod outcomes;
mod site;

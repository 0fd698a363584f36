//! The client role: the suite publishes the records, plays the daemons and the squatters, and sees from outside what the
//! client sends, starts, signals and writes, and by when it answers.

pub(super) mod connect;
pub(super) mod convergence;
pub(super) mod credential;
pub(super) mod gate;
pub(super) mod handshake;
mod outcomes;
pub(super) mod registration;
mod scene;
pub(super) mod spawn;
pub(super) mod state_directory;

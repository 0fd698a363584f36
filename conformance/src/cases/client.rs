//! The client role: the suite publishes the records, plays the daemons and the squatters, and sees from outside what the
//! client sends, starts, signals and writes, and by when it answers.

mod connect;
mod convergence;
mod credential;
mod gate;
mod handshake;
mod outcomes;
mod registration;
mod state_directory;

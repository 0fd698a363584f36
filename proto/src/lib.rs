//! The Local Daemon Protocol without I/O: what a daemon publishes, how both sides prove themselves, and how each
//! decides what to do next.
//!
//! [`registration`], [`credential`], [`handshake`] and [`gate`] are values and their texts; [`json`] checks that every reader
//! reads a JSON text alike. [`claim`] (the daemon's side, publish and convergence) and [`connect`] (the client's side) are
//! machines: each names one effect that it wants and takes one outcome. The crate `local-daemon` drives them with real files
//! and sockets; the formal model and the fuzzers drive the same types with simulated ones.
//!
//! The crate is `no_std`, so it can reach no file, socket, clock, thread or environment. Time and randomness are
//! arguments.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]
#![warn(clippy::exhaustive_enums)]
#![warn(clippy::missing_errors_doc)]

extern crate alloc;

pub mod claim;
pub mod connect;
pub mod credential;
pub mod events;
pub mod gate;
pub mod handshake;
pub mod json;
pub mod registration;

pub use credential::Credential;
pub use gate::Protocol;
pub use registration::{ClaimId, LoopbackUrl, Registration};

//! The Local Daemon Protocol: how a long-lived per-user process publishes itself on disk so that every local
//! client finds the same one, proves who it is, is judged compatible, and is started when it is missing.
//!
//! A product's daemon is one call, and so is its client:
//!
//! ```no_run
//! # #[cfg(feature = "daemon")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//! use local_daemon::Daemon;
//!
//! let router = Router::new().route("/v1/hello", get(async || "hello"));
//! let reason = Daemon::builder("acme", "acme/1").version("1.4.0").stop_on_signals(true).serve(router).await?;
//! std::process::exit(reason.exit_status());
//! # }
//! # #[cfg(not(feature = "daemon"))]
//! # fn main() {}
//! ```
//!
//! ```no_run
//! use local_daemon::{Client, Launch};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut daemon = Client::new("acme", "acme/1")?.connect_or_spawn(&Launch::new("acmed").args(["run", "--yield"]))?;
//! let hello = daemon.get("/v1/hello")?;
//! # Ok(()) }
//! ```
//!
//! A daemon that starts other programs calls [`forget_launch`] at the beginning of its `main`, and starts them with
//! [`with_caller_limits`]. A program that embeds a client may call [`disable_core_dumps`].
//!
//! A server that exists already is published by a [`Publication`](daemon::Publication).
//!
//! # Features
//!
//! - `daemon` (default): the serving side. Without it the crate is the blocking client alone, and needs no runtime.
//! - `axum`: what a daemon needs around axum's handlers, in the module `axum`: JSON, event streams, status, shutdown, idleness.
//! - `async`: the client for asynchronous programs, `client::tokio`. It finds and proves the daemon as [`Client`] does.
//! - `testing`: daemons, fakes and squatters for a product's own tests, in the module `testing`.
//!
//! # Modules
//!
//! The modules are named after the specification's chapters: [`state_directory`], [`registration`], [`credential`],
//! [`handshake`], [`gate`], [`connect`], [`perimeter`], [`streams`], [`browser`]; [`claim`] is publish and convergence in one.
//! `registration`, `credential`, `handshake`, `gate`, `claim`, `connect` and [`json`] are those of [`local_daemon_proto`], which
//! does no I/O and reads no clock; [`Daemon`] and [`Client`] drive them.

#![warn(missing_debug_implementations)]
#![warn(clippy::exhaustive_enums)]
#![warn(clippy::missing_errors_doc)]

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "daemon")]
pub mod browser;
pub mod client;
#[cfg(feature = "daemon")]
pub mod daemon;
mod exchange;
mod loopback;
#[cfg(feature = "daemon")]
pub mod perimeter;
mod platform;
pub mod state_directory;
#[cfg(feature = "daemon")]
pub mod streams;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;

pub use client::{Client, Launch};
#[cfg(feature = "daemon")]
pub use daemon::Daemon;
pub use local_daemon_proto::{
    ClaimId, Credential, LoopbackUrl, Protocol, Registration, claim, connect, credential, events, gate,
    handshake, json, registration,
};
pub use platform::{LAUNCH_VARIABLE, disable_core_dumps, forget_launch, with_caller_limits};
pub use state_directory::{Component, StateDir};

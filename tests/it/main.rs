//! The crate as its users call it, and what holds of the whole tree.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

#[cfg(feature = "axum")]
mod app;
#[cfg(feature = "daemon")]
mod end_to_end;
#[cfg(feature = "daemon")]
mod events;
#[cfg(feature = "daemon")]
mod examples;
#[cfg(feature = "daemon")]
mod journal;
#[cfg(feature = "daemon")]
mod listeners;
#[cfg(feature = "daemon")]
mod loom;
#[cfg(feature = "daemon")]
mod perimeter;
#[cfg(feature = "daemon")]
mod requests;
#[cfg(feature = "daemon")]
mod streams;
#[cfg(feature = "daemon")]
mod tickets;
mod vectors;
mod workspace;

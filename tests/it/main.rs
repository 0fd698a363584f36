//! The crate as its users call it, and what holds of the whole tree.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

mod app;
mod async_client;
mod end_to_end;
mod events;
mod examples;
mod journal;
mod launched;
mod lifecycle;
mod listeners;
mod loom;
mod perimeter;
mod raw;
mod requests;
mod streams;
mod testing;
mod tickets;
mod vectors;
mod workspace;

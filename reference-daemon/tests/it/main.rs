//! `locald` as its users meet it: real processes, each test in a state directory of its own.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

mod browser;
mod convergence;
mod directories;
mod doctor;
mod events;
mod help;
mod http;
mod launching;
mod lifecycle;
mod log;
mod open;
mod origins;
mod outcomes;
mod products;
mod secrets;
mod strangers;
mod support;
mod table;
mod worlds;

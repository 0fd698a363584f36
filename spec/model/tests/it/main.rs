//! The model against the machines and real processes, and `local-daemon-model` as its users meet it.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

mod admit;
mod cli;
#[cfg(target_os = "linux")]
mod live;
mod model;

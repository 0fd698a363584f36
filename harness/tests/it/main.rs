//! The harness on real processes, files and sockets of this host, and against the test vectors.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

mod browsers;
mod files;
mod processes;
mod strace;
mod vectors;
mod wire;

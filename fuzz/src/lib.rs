//! Fuzz targets, one a surface. Each module has `run`, which takes any bytes and panics where the surface does not do what
//! its oracle says, and `seeds`, the inputs to begin with: the specification's vectors wherever there are some.
//!
//! The oracle is never the code that is asked: it is the independent subject of the harness, the JSON Schema, another
//! library, a naive list, or the properties of the formal model. `fuzz_targets/` gives these functions to libFuzzer, and
//! `tests/replay.rs` gives them every input that is checked in, without libFuzzer.
// The modules of others that stand here bring tests of their own, which run where they belong.
#![cfg(not(test))]

pub mod answer;
pub mod claim;
pub mod config;
pub mod connect;
pub mod credential;
pub mod events;
pub mod guard;
pub mod handshake;
pub mod manifest;
pub mod origin;
pub mod proof;
pub mod reader;
pub mod record;
pub mod sse;
pub mod url;
pub mod world;

// Compiled here as it stands there: `locald` is a program alone, and the rest of the suite is not needed for its manifest.
#[allow(dead_code)]
#[path = "../../reference-daemon/src/allowlist.rs"]
mod allowlist;
#[allow(dead_code)]
#[path = "../../reference-daemon/src/error.rs"]
mod error;

#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../conformance/src"]
mod conformance {
    pub(crate) mod manifest;
    pub(crate) mod nearest;
}

mod script;
mod vectors;

use conformance::nearest;

/// An input to begin with, by the name of its file.
pub type Seed = (String, Vec<u8>);

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its program, dictionary, corpus and cases.
    pub name: &'static str,
    /// Panics where the surface does not do what the oracle says.
    pub run: fn(&[u8]),
    /// The inputs to begin with.
    pub seeds: fn() -> Vec<Seed>,
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),*];
    };
}

targets![
    record, url, credential, proof, guard, origin, config, events, reader, sse, manifest, handshake, answer,
    claim, connect, world,
];

//! What the protocol's values and machines do, without a file or a socket.
#![allow(clippy::unwrap_used)]

mod json;
mod machines;
mod parsers;
mod vectors;

//! The specification's files against each other, and `local-daemon-spec` as its users meet it.

mod cli;
mod files;
mod vectors;

//! The server perimeter: chapter 10.

mod allowlist;
mod answers;
mod authentication;
mod bounds;
mod checks;
mod host;
mod origin;
mod preflight;
mod query_token;

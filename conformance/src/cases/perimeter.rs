//! The server perimeter: chapter 10.

pub(super) mod allowlist;
pub(super) mod answers;
pub(super) mod ask;
pub(super) mod authentication;
pub(super) mod bounds;
pub(super) mod checks;
pub(super) mod host;
pub(super) mod origin;
pub(super) mod preflight;
pub(super) mod query_token;

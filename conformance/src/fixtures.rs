//! What the cases of several chapters arrange and look at.

pub(crate) mod client;
pub(crate) mod component;
pub(crate) mod daemon;
pub(crate) mod dumps;
pub(crate) mod http;
pub(crate) mod malformed;
pub(crate) mod refused_start;
pub(crate) mod stream;
pub(crate) mod trace;
pub(crate) mod words;
pub(crate) mod worlds;

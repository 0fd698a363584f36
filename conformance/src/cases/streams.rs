//! Event streams: chapter 11.

mod bounds;
mod ending;
mod opening;
mod order;
mod resuming;

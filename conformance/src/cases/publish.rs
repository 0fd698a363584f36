//! Publishing: chapter 05.

mod failing;
mod listener;
mod replacing;
mod whole;

//! What other chapters require, seen from pages of real engines. Each case is asked in each engine, because none stands for
//! another.

mod addresses;
mod admitted;
mod cookies;
mod cors;
mod origins;
mod scene;
mod squatters;
mod streams;

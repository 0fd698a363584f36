//! Handshake and proof: chapter 07.

mod answer;
mod exchange;
mod hostile;
mod proofs;
mod refused;
mod state;
mod wrong;

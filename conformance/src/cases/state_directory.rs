//! The state directory: chapter 02.

mod made;
mod place;
mod refused;

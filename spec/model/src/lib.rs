//! wip
pub mod automaton;
pub mod explore;
pub mod machine;
pub mod property;
pub mod render;
pub mod scenario;
pub mod world;

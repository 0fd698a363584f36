//! The formal model of the Local Daemon Protocol: a small model checker that explores the protocol's own machines,
//! [`Claim`](local_daemon_proto::claim::Claim) and [`Connect`](local_daemon_proto::connect::Connect), in a modelled world.
//!
//! * [`machine`] translates between a world's small values and the crate's effects and outcomes;
//! * [`automaton`] computes everything that the machines can do, once, into a table;
//! * [`world`] is the state directory, loopback, the processes and the faults;
//! * [`scenario`] says who is there and what may go wrong;
//! * [`property`] says what must hold, and which requirements that guards;
//! * [`explore`] finds every world and the shortest way to a violation;
//! * [`ablation`] leaves out one rule at a time, in the world and never in the machines;
//! * [`admit`] judges whether the machines can have done what a suite has [`observed`] of a run;
//! * [`render`] writes the traces and the table that the specification shows.
//!
//! # What the model leaves out
//!
//! Names stand for values: an id, a port and a credential are small numbers, and a proof is whether two credentials
//! are the same number. The contents of requests, the perimeter and the streams are not modelled. Disks do not fail
//! and the directory does not vanish; those outcomes are for the crate's own tests. How long anything takes is not
//! modelled, only what waits for what; see [`world`].
//!
//! # Why it has its own search
//!
//! stateright was tried first. It could not state what matters here: its `eventually` is unsound where paths join or
//! go round, so liveness is judged at quiescence, and on the strongly connected components of the graph, which it does
//! not expose; its breadth-first search with several threads does not always report a shortest trace; and it reduces
//! by symmetry only depth first, which reports long ones. The search here keeps worlds of some 100 bytes and a parent
//! each, so that a graph of ten million worlds needs 1.5 GiB, and is otherwise the textbook's.

#![forbid(unsafe_code)]

pub mod ablation;
pub mod admit;
pub mod automaton;
pub mod explore;
pub mod machine;
pub mod observed;
pub mod property;
pub mod render;
pub mod scenario;
pub mod world;

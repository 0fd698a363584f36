//! Puts a local daemon, in any language, under stress and watches it from outside.
//!
//! The harness knows a subject only by what an operating system shows of it: its processes, its files, its sockets
//! and the bytes it sends. It shares no code with the protocol crate: the judge and the judged have only the
//! specification in common.
//!
//! - [`arena`]: one case's own world, and what leaks out of it
//! - [`process`]: a launched subject, its exit, its tree, its sockets
//! - [`files`]: a directory watched event by event, a file read by hostile readers, snapshots
//! - [`http`]: raw requests, distinct faults, both handshakes
//! - [`sse`]: an event stream read frame by frame
//! - [`actors`]: squatters, relays, fake daemons, and what they were sent
//! - [`browser`]: real engines, driven over `WebDriver`
//! - [`record`], [`proof`]: the suite's own reading of the files and of the proof
//! - [`strace`]: a subject held, failed or ended at an exact system call
//! - [`observe`]: what happened on a state directory, as a trace for the model
//! - [`guardian`]: what outlives a suite that is killed, and clears up after it
//! - [`host`], [`platform`]: what this host lets the suite observe, and what only its system can do
//! - [`transcript`]: what happened, in order of time, without secrets
//!
//! Everything is synchronous and every wait has a deadline, an [`Instant`](std::time::Instant); see [`wait::ms`].

#[cfg(not(target_os = "linux"))]
compile_error!("the harness observes subjects through /proc, inotify and pidfd: it runs on Linux only");

pub mod actors;
pub mod arena;
pub mod browser;
pub mod files;
pub mod guardian;
pub mod host;
pub mod http;
pub mod observe;
pub mod platform;
pub mod process;
pub mod proof;
pub mod record;
pub mod sse;
pub mod strace;
pub mod transcript;
pub mod wait;
pub mod world;

//! What a case acts on: its arena, its subject, and the notes that its verdict is made of.

mod client;
mod context;
mod daemon;
mod notes;
mod ready_daemon;

pub(crate) use client::names_path;
pub use client::{Answer, CONNECT, Call, Caller, Command, LATE, OUTCOMES};
pub use context::Context;
pub use daemon::{Daemon, OPENED, Opening, Start};
pub(crate) use notes::Notes;
pub(crate) use ready_daemon::Missing;
pub use ready_daemon::{READINESS, ReadyDaemon};

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use local_daemon_harness::arena::Arena;
use local_daemon_harness::browser::Kind;

use crate::engines::{Engines, Lent};
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop};
use crate::rng::Rng;

/// The bound that the specification gives a client for one handshake.
pub const PROBE: Duration = Duration::from_secs(2);

/// A case's view of its world.
///
/// The order of a case: arrange, [`precondition`](Context::precondition) once it is *seen* to hold
/// ([`ready`](Stage::ready) notes one itself), [`expect`](Context::expect), do, then `ensure!`. The runner turns a pass
/// or a violation without any precondition into `harness-error` or `inconclusive`.
#[derive(Debug)]
pub struct Stage {
    context: Context,
    engine: Option<Kind>,
    engines: Engines,
    rng: Rng,
    /// Ids of the records that were ready so far.
    known_ids: BTreeSet<String>,
    slowest_start: Duration,
}

impl Deref for Stage {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Stage {
    pub(crate) fn new(
        case: &'static str,
        engine: Option<Kind>,
        manifest: Arc<Manifest>,
        arena: Arc<Arena>,
        notes: Arc<Notes>,
        engines: Engines,
        seed: u64,
    ) -> Self {
        notes.knows(arena.state_dir());
        Self {
            context: Context { case, manifest, arena, notes },
            engine,
            engines,
            rng: Rng::new(seed, case),
            known_ids: BTreeSet::new(),
            slowest_start: Duration::ZERO,
        }
    }

    /// A stage of what is no case and drives no engine.
    pub(crate) fn without_engine(
        name: &'static str,
        manifest: &Arc<Manifest>,
        arena: &Arc<Arena>,
        notes: &Arc<Notes>,
        seed: u64,
    ) -> Self {
        let (manifest, arena, notes) = (Arc::clone(manifest), Arc::clone(arena), Arc::clone(notes));
        Self::new(name, None, manifest, arena, notes, Engines::default(), seed)
    }

    /// Random choices that return with the same `--seed` and case name.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The longest that a daemon of this case took from its launch until it was seen ready.
    pub fn slowest_start(&self) -> Duration {
        self.slowest_start
    }

    /// The browser of the case's engine, with one empty tab; what this host lacks makes the case `untestable`.
    pub fn browser(&mut self) -> Outcome<Lent> {
        match self.engine {
            Some(kind) => self.engines.lend(kind),
            None => Err(Stop::Fault("the case names no engine".to_owned())),
        }
    }
}

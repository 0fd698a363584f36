//! What a case acts on: its arena, its subject, and the notes that its verdict is made of.

mod client;
mod daemon;
mod live;
mod notes;

pub use client::{Answer, CONNECT, Call, Caller, Command, LATE, OUTCOMES};
pub use daemon::{Daemon, Opening, Start};
pub use live::{Live, READINESS};
pub(crate) use notes::Notes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_harness::browser::Kind;
use local_daemon_harness::http::Wire;
use local_daemon_harness::platform::{self, User};
use local_daemon_harness::transcript::Transcript;

use crate::engines::{Engines, Lent};
use crate::manifest::{Manifest, fill};
use crate::outcome::{Outcome, Stop, untestable};
use crate::rng::Rng;

/// The bound that the specification gives a client for one handshake.
pub const PROBE: Duration = Duration::from_secs(2);

/// A case's view of its world.
///
/// The order of a case: arrange, [`precondition`](Stage::precondition) once it is *seen* to hold ([`ready`](Stage::ready)
/// notes one itself), [`expect`](Stage::expect), do, then [`ensure`](Stage::ensure). The runner turns a pass or a
/// violation without any precondition into `harness-error` or `inconclusive`.
#[derive(Debug)]
pub struct Stage {
    case: &'static str,
    engine: Option<Kind>,
    manifest: Arc<Manifest>,
    arena: Arc<Arena>,
    notes: Arc<Notes>,
    engines: Engines,
    rng: Rng,
    /// Ids of the records that were ready so far.
    known_ids: BTreeSet<String>,
    slowest_start: Duration,
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
            case,
            engine,
            manifest,
            arena,
            notes,
            engines,
            rng: Rng::new(seed, case),
            known_ids: BTreeSet::new(),
            slowest_start: Duration::ZERO,
        }
    }

    /// The subject's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The case's own world.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What happened so far; secrets are replaced as it is written.
    pub fn transcript(&self) -> &Transcript {
        self.arena.transcript()
    }

    /// Random choices that return with the same `--seed` and case name.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The arena's state directory, which is there or will be.
    pub fn state_dir(&self) -> &Path {
        self.arena.state_dir()
    }

    /// The registration record in the arena's state directory.
    pub fn record_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.registration)
    }

    /// The credential in the arena's state directory.
    pub fn credential_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.credential)
    }

    /// The advisory lock in the arena's state directory.
    pub fn lock_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.lock)
    }

    /// The longest that a daemon of this case took from its launch until it was seen ready.
    pub fn slowest_start(&self) -> Duration {
        self.slowest_start
    }

    /// The deadline for readiness, counted from now.
    pub fn ready_deadline(&self) -> Instant {
        Instant::now() + self.manifest.daemon.ready_timeout()
    }

    /// The deadline for the exit of a displaced daemon, counted from now.
    pub fn stand_down_deadline(&self) -> Instant {
        Instant::now() + self.manifest.daemon.stand_down_timeout()
    }

    /// Exchanges that the transcript notes, each bounded by [`PROBE`].
    pub fn wire(&self) -> Wire {
        Wire::new(self.transcript(), PROBE)
    }

    /// Puts in the place of a manifest's placeholders what they stand for, `more` of them beside those that stand
    /// everywhere.
    fn filler(&self, state_dir: &Path, more: &[(&'static str, &str)]) -> impl Fn(&str) -> String + use<> {
        let mut values = vec![
            ("state_dir", state_dir.to_string_lossy().into_owned()),
            ("home", self.arena.home().to_string_lossy().into_owned()),
            // The system chooses: a port that is picked and given back may be another's by the time it is bound.
            ("port", "0".to_owned()),
            ("case", self.case.to_owned()),
        ];
        values.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        move |text| fill(text, &values)
    }

    // What the verdict is made of.

    /// Notes something that was arranged *and seen to hold*.
    pub fn precondition(&mut self, seen: impl Into<String>) {
        let seen = seen.into();
        self.transcript().note("suite", "precondition", &seen);
        self.notes.lock().preconditions.push(seen);
    }

    /// Notes a positive control: the subject, alive, did the good form of what it has to refuse.
    pub fn control(&mut self, seen: impl Into<String>) {
        self.precondition(format!("control: {}", seen.into()));
    }

    /// Says what must be seen. Without it the report shows the case's `about`.
    pub fn expect(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "expect", &what);
        self.notes.lock().expected.push(what);
    }

    /// Notes something that was seen, for the report.
    pub fn observed(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "observed", &what);
        self.notes.lock().observed.push(what);
    }

    /// Another user than the suite's, where it may act as one.
    pub fn another_user(&mut self) -> Outcome<User> {
        match platform::nobody().filter(|_| platform::is_root()) {
            Some(user) => Ok(user),
            None => untestable("the suite is not root, or there is no user nobody"),
        }
    }

    /// The browser of the case's engine, with one empty tab; what this host lacks makes the case `untestable`.
    pub fn browser(&mut self) -> Outcome<Lent> {
        match self.engine {
            Some(kind) => self.engines.lend(kind),
            None => Err(Stop::Fault("the case names no engine".to_owned())),
        }
    }
}

/// Reads a regular file. A FIFO in its place, which the subject may have made or left, would hang whoever opens it.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read(path)
    } else {
        Err(std::io::Error::other("not a regular file"))
    }
}

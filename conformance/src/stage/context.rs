//! The context that the parts of a case share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use local_daemon_harness::arena::Arena;
use local_daemon_harness::http::Wire;
use local_daemon_harness::platform::{self, User};
use local_daemon_harness::transcript::Transcript;

use super::{Notes, PROBE};
use crate::manifest::{Manifest, fill};
use crate::outcome::{Outcome, untestable};

/// The manifest, the world of the case and the notes that its verdict is made of. Clones share them.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) case: &'static str,
    pub(super) manifest: Arc<Manifest>,
    pub(super) arena: Arc<Arena>,
    pub(super) notes: Arc<Notes>,
}

impl Context {
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

    /// The log, in the arena's state directory, of a daemon that a client starts.
    pub fn log_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.log)
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

    /// Returns a function that fills in placeholders: those of every text, and those in `more`.
    pub(super) fn filler(
        &self,
        state_dir: &Path,
        more: &[(&'static str, &str)],
    ) -> impl Fn(&str) -> String + use<> {
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

    /// Notes something that was arranged *and seen to hold*.
    pub fn precondition(&self, seen: impl Into<String>) {
        let seen = seen.into();
        self.transcript().note("suite", "precondition", &seen);
        self.notes.lock().preconditions.push(seen);
    }

    /// Notes a positive control: the living subject accepted the good form of what it must refuse.
    pub fn control(&self, seen: impl Into<String>) {
        self.precondition(format!("control: {}", seen.into()));
    }

    /// Says what must be seen. Without it the report shows the case's `about`.
    pub fn expect(&self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "expect", &what);
        self.notes.lock().expected.push(what);
    }

    /// Notes something that was seen, for the report.
    pub fn observed(&self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "observed", &what);
        self.notes.lock().observed.push(what);
    }

    /// Another user than the suite's, where it may act as one.
    pub fn another_user(&self) -> Outcome<User> {
        match platform::nobody().filter(|_| platform::is_root()) {
            Some(user) => Ok(user),
            None => untestable("the suite is not root, or there is no user nobody"),
        }
    }
}

/// Reads a regular file. A FIFO of that name, which the subject may have made or left, would hang its reader.
pub(super) fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read(path)
    } else {
        Err(std::io::Error::other("not a regular file"))
    }
}

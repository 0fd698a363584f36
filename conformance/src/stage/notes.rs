//! What a case's verdict is made of, and every process that has to end with the case.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use local_daemon_harness::observe::Recorder;
use local_daemon_harness::process::{Launch, Subject};
use local_daemon_harness::transcript::Transcript;

use super::context::read_regular;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop};

/// No credential is longer, damaged ones of the cases included, as far as it is one.
const LONGEST_SECRET: usize = 1024;

/// What the verdict is made of. Shared with the runner, which has it even if the case never returns.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    inner: Mutex<NotesInner>,
    /// Set when the case has to end: no further subject starts.
    over: AtomicBool,
    /// Sees what a model may be asked about, where one is.
    recorder: Mutex<Option<Recorder>>,
}

#[derive(Debug, Default)]
pub(crate) struct NotesInner {
    pub(crate) preconditions: Vec<String>,
    pub(crate) expected: Vec<String>,
    pub(crate) observed: Vec<String>,
    state_dirs: BTreeSet<PathBuf>,
    subjects: Vec<Arc<Subject>>,
    launched: usize,
}

impl Notes {
    /// From now on what happens on the state directory is recorded.
    pub(crate) fn record(&self, state_dir: &Path, registration: &str) -> std::io::Result<()> {
        let recorder = Recorder::start(state_dir, registration)?;
        *self.recorder.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
        Ok(())
    }

    /// Ends the recording, where there is one.
    pub(crate) fn recorded(&self, case: &str, transcript: &Transcript) -> Option<serde_json::Value> {
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner).take();
        let events = transcript.events();
        let helper = events.iter().find(|event| event.what == "start" && !event.actor.starts_with("daemon-"));
        let since = helper.map(|event| transcript.began() + Duration::from_millis(event.at_ms));
        recorder.map(|recorder| recorder.finish(case, since))
    }

    pub(super) fn tell_recorder(&self, tell: impl FnOnce(&Recorder)) {
        if let Some(recorder) = &*self.recorder.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(recorder);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, NotesInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of one more subject of the case.
    pub(super) fn number(&self) -> usize {
        let mut notes = self.lock();
        notes.launched += 1;
        notes.launched
    }

    /// From now on the credential in this directory is one of those that the transcript forgets.
    pub(super) fn knows(&self, state_dir: &Path) {
        self.lock().state_dirs.insert(state_dir.to_owned());
    }

    /// Starts a process of the case. Under the lock, so that a case that has to end does not start one more beside its
    /// end.
    pub(super) fn start(&self, launch: Launch) -> Outcome<Arc<Subject>> {
        let mut notes = self.lock();
        if self.over.load(Ordering::SeqCst) {
            return Err(Stop::Fault("the case was ended".to_owned()));
        }
        let subject = Arc::new(launch.start()?);
        notes.subjects.push(Arc::clone(&subject));
        Ok(subject)
    }

    /// Ends every subject and lets no other start; a wait for one of them sees its exit.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        let subjects = std::mem::take(&mut self.lock().subjects);
        for subject in &subjects {
            subject.kill_group();
        }
    }

    /// Living processes that an exited subject left in its own group.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let subjects = self.lock().subjects.clone();
        let exited = subjects.iter().filter(|subject| subject.exit().is_some());
        let left = exited.flat_map(|subject| subject.tree()).filter(|process| !process.is_zombie());
        left.map(|process| format!("pid {} ({})", process.pid, process.comm)).collect()
    }

    /// Makes the transcript forget every credential of this case, also of one that never became ready.
    pub(crate) fn hide_credentials(&self, manifest: &Manifest, transcript: &Transcript) {
        for state_dir in self.lock().state_dirs.clone() {
            if let Ok(bytes) = read_regular(&state_dir.join(&manifest.binding.credential)) {
                // What is beyond the first line is no secret, and may be long: searching for it takes minutes.
                let line = bytes.trim_ascii().split(|&byte| byte == b'\n').next().unwrap_or_default();
                transcript.hide(&line[..line.len().min(LONGEST_SECRET)]);
            }
        }
    }
}

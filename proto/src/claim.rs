//! The daemon's side of publishing and convergence, as a machine. No I/O, no clock.
//!
//! [`Claim::effect`] names the one effect that is wanted now, each a single system call or exchange as far as others
//! can tell, and [`Claim::handle`] takes what came of it. Time comes in as the outcome of an awaited effect. The
//! runtime, the formal model and the fuzzers all drive this type. No rule here looks at a pid (CONV-28), and the daemon
//! takes no lock (PUB-8); that one of many remains (CONV-13) follows from all of them together.

use core::time::Duration;

use crate::gate::Protocol;
use crate::handshake::{Probe, State};
use crate::registration::{ClaimId, RecordRead, Registration};

/// How often a running daemon reads the record again at least (CONV-1).
pub const REREAD_INTERVAL: Duration = Duration::from_secs(2);
/// How often an unparsable record is read again before it counts as another's.
pub const MAX_PARSE_RETRIES: u8 = 5;
/// The pause before such a retry.
pub const PARSE_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "what drives the machine handles each")]
pub enum ClaimEffect {
    /// Bind loopback exclusively and serve; the handshake answers `draining` until the record is owned.
    Listen,
    /// Read the credential: [`ClaimEvent::Done`], [`ClaimEvent::Missing`] or [`ClaimEvent::Failed`].
    ReadCredential,
    /// Write a temporary file and link it to the credential's name without replacing: [`ClaimEvent::Done`] also where
    /// another was first.
    CreateCredential,
    /// Write the own record to a temporary file of a unique name and flush it to disk.
    WriteTemporary,
    /// Unlink that temporary file.
    DropTemporary,
    /// Read the registration.
    ReadRecord,
    /// Probe this record's daemon.
    Probe(Registration),
    /// Rename the temporary file over the registration.
    Publish,
    /// Wait for a change notification, a request to stop, or this long.
    Await(Duration),
    /// Wait this long, or for a request to stop.
    Pause(Duration),
    /// Does any `registration.json.taken-*` hold the own id?
    ListTaken,
    /// Unlink exactly those that do.
    UnlinkTaken,
    /// Rename the registration to the own taken name.
    Take,
    /// Read the file just taken.
    ReadTaken,
    /// Unlink the file just taken.
    UnlinkOwn,
    /// Let open work end, within the drain bound.
    Drain,
    /// Close the listener.
    Close,
}

/// What came of an effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "what drives the machine handles each")]
pub enum ClaimEvent {
    /// It was done, or the wait is over.
    Done,
    /// There was no such file.
    Missing,
    /// It failed; the runtime keeps the error.
    Failed,
    /// A read of the record or of a taken file.
    Record(RecordRead),
    /// A probe.
    Probed(Probe),
    /// Whether taken files hold the own id.
    Taken(bool),
}

/// Why a daemon stood down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// It was asked to: a signal, a shutdown request, idleness.
    Stopped,
    /// Another daemon owns the record.
    Displaced,
    /// Its record was removed: the administrative stand-down.
    RecordRemoved,
    /// The state directory was removed.
    DirectoryGone,
    /// Right before publishing, a ready and compatible daemon was there already.
    Yielded,
    /// Right before publishing, the record could not be read, or its daemon could not be asked (CONV-35).
    Unreachable,
    /// It could not start.
    Failed,
}

impl Reason {
    /// Returns the process's exit status: 20 tells a supervisor not to restart a displaced daemon (CONV-12, CONV-32), 17 says
    /// that another daemon could not be asked, 1 is a failure, and everything else is 0.
    pub const fn exit_status(self) -> i32 {
        match self {
            Self::Displaced => 20,
            Self::Unreachable => 17,
            Self::Failed => 1,
            Self::Stopped | Self::RecordRemoved | Self::DirectoryGone | Self::Yielded => 0,
        }
    }

    /// Returns the word for logs and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Displaced => "displaced",
            Self::RecordRemoved => "record-removed",
            Self::DirectoryGone => "directory-gone",
            Self::Yielded => "yielded",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Listen,
    ReadCredential,
    CreateCredential,
    AdoptCredential,
    WriteTemporary,
    /// The daemon that has been probed already.
    YieldRead(Option<Asked>),
    YieldProbe {
        other: Registration,
        again: bool,
    },
    Publish,
    Serve,
    Read,
    Retry,
    ListTaken,
    RewriteTemporary,
    UnlinkTaken,
    DropTemporary,
    VerifyOwner,
    Take,
    ReadTaken,
    UnlinkOwn,
    Drain,
    Close,
    Exited,
}

/// A daemon that was probed before the publish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asked {
    id: ClaimId,
    /// Whether its record must not be replaced, because it could not be asked (CONV-35).
    bars: bool,
}

/// One daemon's claim on the registration, from launch to exit.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    id: ClaimId,
    protocol: Protocol,
    yields: bool,
    replaces: bool,
    phase: Phase,
    published: bool,
    temporary: bool,
    retries: u8,
    stop: bool,
    reason: Option<Reason>,
}

impl Claim {
    /// Returns the claim of a daemon that has just been launched with a fresh `id`. With `yields`, a proven, compatible and
    /// ready daemon of another id is left in place (what connect-or-spawn starts); without, it publishes
    /// unconditionally and the last writer wins (PUB-7).
    pub fn new(id: ClaimId, protocol: Protocol, yields: bool) -> Self {
        Self {
            id,
            protocol,
            yields,
            replaces: false,
            phase: Phase::Listen,
            published: false,
            temporary: false,
            retries: 0,
            stop: false,
            reason: None,
        }
    }

    /// Sets whether a daemon that yields publishes also over a record whose daemon cannot be asked (CONN-49).
    #[must_use]
    pub fn replaces(self, replaces: bool) -> Self {
        Self { replaces, ..self }
    }

    /// Returns the id of this launch.
    pub fn id(&self) -> ClaimId {
        self.id
    }

    /// Returns why it stands down, as soon as it does.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Returns whether the record was published and the daemon has not begun to stand down.
    pub fn is_serving(&self) -> bool {
        self.published && self.reason.is_none()
    }

    /// Returns what a handshake says, given what a read of the record shows right now: `ready` only for the owner (HS-13, HS-16).
    pub fn state(&self, sight: &RecordRead) -> State {
        if self.is_serving() && !self.stop && sight.id() == Some(self.id) {
            State::Ready
        } else {
            State::Draining
        }
    }

    /// Asks for a graceful stop: from now on the handshake drains, and the outcome of the effect that is under way
    /// is the last before the removal.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// Returns the effect that is wanted now; `None` when it has exited.
    pub fn effect(&self) -> Option<ClaimEffect> {
        Some(match &self.phase {
            Phase::Listen => ClaimEffect::Listen,
            Phase::ReadCredential | Phase::AdoptCredential => ClaimEffect::ReadCredential,
            Phase::CreateCredential => ClaimEffect::CreateCredential,
            Phase::WriteTemporary | Phase::RewriteTemporary => ClaimEffect::WriteTemporary,
            Phase::YieldRead(_) | Phase::Read | Phase::VerifyOwner => ClaimEffect::ReadRecord,
            Phase::YieldProbe { other, .. } => ClaimEffect::Probe(other.clone()),
            Phase::Publish => ClaimEffect::Publish,
            Phase::Serve => ClaimEffect::Await(REREAD_INTERVAL),
            Phase::Retry => ClaimEffect::Pause(PARSE_RETRY_INTERVAL),
            Phase::ListTaken => ClaimEffect::ListTaken,
            Phase::UnlinkTaken => ClaimEffect::UnlinkTaken,
            Phase::DropTemporary => ClaimEffect::DropTemporary,
            Phase::Take => ClaimEffect::Take,
            Phase::ReadTaken => ClaimEffect::ReadTaken,
            Phase::UnlinkOwn => ClaimEffect::UnlinkOwn,
            Phase::Drain => ClaimEffect::Drain,
            Phase::Close => ClaimEffect::Close,
            Phase::Exited => return None,
        })
    }

    /// Takes the outcome of the effect that [`effect`](Self::effect) named. An outcome that does not fit it counts as
    /// its failure.
    pub fn handle(&mut self, outcome: ClaimEvent) {
        if self.stop && self.reason.is_none() {
            self.phase = self.stop_now(&outcome);
            return;
        }
        self.phase = match (core::mem::replace(&mut self.phase, Phase::Exited), outcome) {
            // CRED-4: one credential, whoever is first.
            (Phase::Listen, ClaimEvent::Done) => Phase::ReadCredential,
            (Phase::ReadCredential, ClaimEvent::Missing) => Phase::CreateCredential,
            (Phase::CreateCredential, ClaimEvent::Done) => Phase::AdoptCredential,
            (Phase::ReadCredential | Phase::AdoptCredential, ClaimEvent::Done) => Phase::WriteTemporary,

            // PUB-4: listen first, publish second.
            (Phase::WriteTemporary, ClaimEvent::Done) => {
                self.temporary = true;
                if self.yields { Phase::YieldRead(None) } else { Phase::Publish }
            }
            (Phase::YieldRead(asked), ClaimEvent::Record(RecordRead::Record(other)))
                if other.id != self.id && asked.is_none_or(|asked| asked.id != other.id) =>
            {
                Phase::YieldProbe { other, again: asked.is_some() }
            }
            // CONV-35
            (
                Phase::YieldRead(Some(Asked { bars: true, .. })),
                ClaimEvent::Record(RecordRead::Record(other)),
            ) if other.id != self.id => self.abandon(Reason::Unreachable),
            (Phase::YieldRead(_), ClaimEvent::Record(_)) => Phase::Publish,
            // CONV-37
            (Phase::YieldRead(_), _) if !self.replaces => self.abandon(Reason::Unreachable),
            (Phase::YieldRead(_), _) => Phase::Publish,
            // CONV-26, and CONV-27 for everything else.
            (Phase::YieldProbe { other, .. }, ClaimEvent::Probed(Probe::Proven(theirs)))
                if theirs.id == other.id
                    && theirs.state == State::Ready
                    && self.protocol.accepts(&theirs.protocol) =>
            {
                self.abandon(Reason::Yielded)
            }
            // CONV-34: a probe takes its time, in which others publish. Twice, so that there is an end (CONV-27).
            (Phase::YieldProbe { other, again: false }, outcome) => {
                Phase::YieldRead(Some(Asked { id: other.id, bars: self.is_barred(&outcome) }))
            }
            (Phase::YieldProbe { .. }, outcome) if self.is_barred(&outcome) => {
                self.abandon(Reason::Unreachable)
            }
            (Phase::YieldProbe { .. }, _) => Phase::Publish,
            (Phase::Publish, ClaimEvent::Done) => {
                self.temporary = false;
                self.published = true;
                self.retries = 0;
                Phase::Serve
            }

            // CONV-1, CONV-7, CONV-25: whose record is it? While it is its own, nothing is written (PUB-12).
            (Phase::Serve | Phase::Retry, _) => Phase::Read,
            (Phase::Read, ClaimEvent::Record(sight)) => self.judge(&sight),
            (Phase::Read, _) => Phase::Serve,
            // CONV-21, CONV-22: somebody took it by mistake.
            (Phase::ListTaken, ClaimEvent::Taken(true)) => Phase::RewriteTemporary,
            // CONV-23: the administrative stand-down.
            (Phase::ListTaken, ClaimEvent::Taken(false)) => self.stand_down(Reason::RecordRemoved),
            (Phase::ListTaken, _) => Phase::Serve,
            (Phase::RewriteTemporary, ClaimEvent::Done) => {
                self.temporary = true;
                Phase::UnlinkTaken
            }
            (Phase::UnlinkTaken, _) => Phase::Publish,
            // A disk that does not allow it now may at the next read. Before the unlinking the taken file is still
            // there to reclaim from; a rename that fails after it is a loss, and leads to a stand-down.
            (Phase::RewriteTemporary | Phase::Publish, _) if self.published => {
                // PUB-13
                if self.temporary { Phase::DropTemporary } else { Phase::Serve }
            }

            // Removal: take, verify, leave (CONV-14, CONV-15, CONV-16, CONV-17, CONV-19). Any error ends it (CONV-18);
            // a leftover record is only stale.
            (Phase::VerifyOwner, ClaimEvent::Record(sight)) if sight.id() == Some(self.id) => Phase::Take,
            (Phase::Take, ClaimEvent::Done) => Phase::ReadTaken,
            (Phase::ReadTaken, ClaimEvent::Record(sight)) if sight.id() == Some(self.id) => Phase::UnlinkOwn,
            (Phase::VerifyOwner | Phase::Take | Phase::ReadTaken | Phase::UnlinkOwn, _) => Phase::Drain,
            (Phase::Drain, _) => Phase::Close,
            (Phase::DropTemporary, _) => {
                self.temporary = false;
                match self.reason {
                    None => Phase::Serve,
                    Some(_) if self.published => Phase::VerifyOwner,
                    Some(_) => Phase::Close,
                }
            }
            (Phase::Close | Phase::Exited, _) => Phase::Exited,

            (
                Phase::Listen
                | Phase::ReadCredential
                | Phase::CreateCredential
                | Phase::AdoptCredential
                | Phase::WriteTemporary
                | Phase::RewriteTemporary
                | Phase::Publish,
                _,
            ) => self.abandon(Reason::Failed),
        };
    }

    fn is_barred(&self, outcome: &ClaimEvent) -> bool {
        !self.replaces && *outcome == ClaimEvent::Probed(Probe::Unreachable)
    }

    fn judge(&mut self, sight: &RecordRead) -> Phase {
        // CONV-3: the id alone tells whose record it is.
        match (sight.id(), sight) {
            (Some(id), _) if id == self.id => {
                self.retries = 0;
                Phase::Serve
            }
            // CONV-9, GATE-3: whoever it is, whatever it speaks.
            (Some(_), _) => self.stand_down(Reason::Displaced),
            (None, RecordRead::Missing) => Phase::ListTaken,
            // CONV-24
            (None, RecordRead::DirectoryGone) => self.stand_down(Reason::DirectoryGone),
            // CONV-4: an editor may be writing in place.
            (None, RecordRead::Malformed(_)) if self.retries < MAX_PARSE_RETRIES => {
                self.retries += 1;
                Phase::Retry
            }
            // CONV-5
            (None, RecordRead::Malformed(_)) => self.stand_down(Reason::Displaced),
            // CONV-6: that says nothing about who owns the record.
            (None, RecordRead::Unreadable | RecordRead::Record(_)) => Phase::Serve,
        }
    }

    /// From here on it never publishes again (CONV-11), and leaves a record that is not its own alone.
    fn stand_down(&mut self, reason: Reason) -> Phase {
        self.reason = Some(reason);
        Phase::Drain
    }

    /// Ends a launch that never published.
    fn abandon(&mut self, reason: Reason) -> Phase {
        self.reason = Some(reason);
        // PUB-13
        if self.temporary { Phase::DropTemporary } else { Phase::Close }
    }

    fn stop_now(&mut self, outcome: &ClaimEvent) -> Phase {
        match (&self.phase, outcome) {
            (Phase::Publish, ClaimEvent::Done) => {
                self.temporary = false;
                self.published = true;
            }
            (Phase::WriteTemporary | Phase::RewriteTemporary, ClaimEvent::Done) => self.temporary = true,
            (Phase::DropTemporary, _) => self.temporary = false,
            _ => {}
        }
        if !self.published {
            return self.abandon(Reason::Stopped);
        }
        self.reason = Some(Reason::Stopped);
        if self.temporary { Phase::DropTemporary } else { Phase::VerifyOwner }
    }
}

//! What connections, routes and the driver share, and the handle on it that routes have.

use std::fmt;
use std::iter;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use local_daemon_proto::claim::{Claim, ClaimEvent, Reason};
use local_daemon_proto::handshake::{Handshake, State};
use local_daemon_proto::registration::{ClaimId, LoopbackUrl, RecordRead, Registration, World};
use local_daemon_proto::{Credential, Protocol};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::admission::Admission;
use super::bind::OtherFamily;
use super::conditions::Conditions;
use super::streams::{LIFECYCLE, Streams, take_over};
use crate::browser::{PageHost, PageTokens, Tickets};
use crate::client;
use crate::perimeter::{Identity, Origins};
use crate::state_directory::{Diagnostic, FileError, StateDir};
use crate::streams::{Hub, Limits};

/// How often the list of origins is looked at while a page reads, beside every request that names an origin and every
/// notification.
const READER_BOUND: Duration = Duration::from_secs(1);
/// How long answers that are written already may take to leave after the drain.
pub(super) const FLUSH_BOUND: Duration = Duration::from_millis(500);

/// What connections, routes and the driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: ClaimId,
    pub(super) protocol: Protocol,
    pub(super) version: String,
    pub(super) capabilities: Vec<String>,
    pub(super) pid: NonZeroU32,
    pub(super) started_at: SystemTime,
    /// The world in which it runs.
    pub(super) world: World,
    pub(super) url: LoopbackUrl,
    pub(super) authority: String,
    /// Valid while the other family is held.
    pub(super) page_host: Option<PageHost>,
    pub(super) other_family: OtherFamily,
    pub(super) state_dir: StateDir,
    /// The credential, of which each answer holds a receiver.
    pub(super) credential: watch::Sender<Credential>,
    /// How often the credential was replaced.
    pub(super) rotations: watch::Sender<u64>,
    pub(super) claim: Mutex<Claim>,
    /// The list, of which each answer to a page of a listed origin holds a receiver.
    pub(super) origins: watch::Sender<Origins>,
    /// The same for those who only want to know.
    pub(super) announced: watch::Sender<Origins>,
    pub(super) origin_source: Option<OriginSource>,
    pub(super) page_tokens: Option<Arc<PageTokens>>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) changed: Notify,
    /// How often a stop was asked for: the second ends the drain.
    pub(super) stops: watch::Sender<usize>,
    /// Whether the record was published.
    pub(super) published: watch::Sender<bool>,
    pub(super) reason: watch::Sender<Option<Reason>>,
    /// The requests that were let in and whose answer has not been sent whole.
    pub(super) admission: Admission,
    /// Told when the last of them has ended after the admission was closed.
    pub(super) emptied: Notify,
    pub(super) conditions: Conditions,
    pub(super) streams: Streams,
    /// How many logs are to be kept in a file that is not open yet.
    pub(super) unopened: watch::Sender<usize>,
    /// Why the daemon cannot go on, until [`Publication::run`](super::Publication::run) returns it.
    pub(super) failure: Mutex<Option<FileError>>,
    /// What asked the daemon to stop.
    pub(super) cause: OnceLock<&'static str>,
}

/// Where the list of origins is looked up.
#[derive(Clone)]
pub(super) struct OriginSource(pub(super) Arc<dyn Fn() -> Origins + Send + Sync>);

impl fmt::Debug for OriginSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginSource")
    }
}

/// A lock is poisoned by a panic of a holder; what these locks hold is replaced whole and so is never half-changed.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn claim(&self) -> MutexGuard<'_, Claim> {
        held(&self.claim)
    }

    pub(super) fn registration(&self) -> Registration {
        Registration {
            id: self.id,
            version: self.version.clone(),
            url: self.url,
            pid: self.pid,
            // REG-7, REG-8
            protocol: Some(self.protocol.to_string()),
            socket: None,
            started_at: Some(humantime::format_rfc3339_seconds(self.started_at).to_string()),
            world: self.world.clone(),
        }
    }

    /// Reads the record, and the credential, which may have been replaced (CRED-11, CRED-12). Rotates the log if it is full.
    ///
    /// # Errors
    /// Fails if the record could not be read for a reason that is not its own, such as a lack of descriptors.
    pub(super) fn look(&self) -> Result<RecordRead, FileError> {
        let text = |fault: FileError| fault.to_string();
        self.conditions
            .note("the log cannot be rotated", self.state_dir.rotate_log().err().map(text));
        let (sight, diagnostic) = self.state_dir.read_record();
        let unusable = match diagnostic {
            Some(Diagnostic::File(fault)) if fault.is_passing() => return Err(fault),
            diagnostic => diagnostic.map(|diagnostic| diagnostic.to_string()),
        };
        self.conditions.note("the registration cannot be used", unusable);
        let refused = match self.state_dir.read_credential() {
            Ok(credential) => {
                // CRED-13: without one, it goes on with what it knows.
                if let Some(credential) = credential {
                    self.set_credential(credential);
                }
                None
            }
            Err(fault) => Some(text(fault)),
        };
        self.conditions.note("the credential on disk is refused", refused);
        Ok(sight)
    }

    fn set_credential(&self, now: Credential) {
        let is_replaced = self.credential.send_if_modified(|credential| {
            if credential.matches(now.expose().as_bytes()) {
                return false;
            }
            *credential = now;
            // CRED-17: under the lock of the credential, so that `refuse_after_rotation` withholds whatever a route issues after
            // this for an earlier request.
            self.tickets.revoke();
            if let Some(tokens) = &self.page_tokens {
                tokens.revoke_where(|_| true);
            }
            true
        });
        if is_replaced {
            self.rotations.send_modify(|rotations| *rotations += 1);
            self.streams.credential_rotated();
        }
    }

    /// Takes on the list of origins as it is now.
    pub(super) fn look_at_origins(&self) {
        if let Some(OriginSource(source)) = &self.origin_source {
            self.set_origins(source());
        }
    }

    fn set_origins(&self, now: Origins) {
        self.origins.send_if_modified(|list| {
            let before = std::mem::replace(list, now);
            // BROW-14: in one step with the list, so that a look at it after a token was issued leaves none behind.
            if let Some(tokens) = &self.page_tokens {
                let is_removed = |origin: &str| before.contains(origin) && !list.contains(origin);
                tokens.revoke_where(|token| is_removed(&token.origin));
            }
            let is_other = before != *list;
            if is_other {
                self.announced.send_replace(list.clone());
            }
            is_other
        });
    }

    /// How long to wait at most before the list of origins is looked at again: while a page reads, an origin that was taken
    /// off must be seen soon, whoever tells of it (PER-42).
    pub(super) fn patience(&self) -> Duration {
        if self.origins.receiver_count() > 0 { READER_BOUND } else { Duration::MAX }
    }

    /// Stops the daemon for an error.
    fn fail(&self, error: FileError) {
        held(&self.failure).get_or_insert(error);
        // A reader of another stream sees a stop that the product asked for.
        self.stop("requested");
    }

    /// Takes the error for which the daemon was stopped, if there was one.
    pub(super) fn failure(&self) -> Option<FileError> {
        held(&self.failure).take()
    }

    pub(super) fn stop(&self, cause: &'static str) {
        // The first cause is the one that counts.
        let _ = self.cause.set(cause);
        // The handshake drains and no work is let in from here on, whatever the driver is at.
        self.admission.close();
        self.claim().stop();
        self.stops.send_modify(|stops| *stops += 1);
    }

    /// Waits this long, or for a stop; a file that is being written in place announces every step of that (CONV-4).
    pub(super) async fn pause(&self, bound: Duration) {
        let mut stops = self.stops.subscribe();
        tokio::select! {
            () = sleep(bound) => {}
            _ = stops.wait_for(|stops| *stops > 0) => {}
        }
    }

    /// Waits for a change, a stop, or `bound` (CONV-1, CONV-2).
    pub(super) async fn wait(&self, bound: Duration) {
        let mut stops = self.stops.subscribe();
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep(bound) => {}
            _ = stops.wait_for(|stops| *stops > 0) => {}
        }
    }

    /// Waits until no request is open, a second stop, or `bound` (CONV-8, CONV-20, STR-30).
    pub(super) async fn drain(&self, bound: Duration) {
        self.admission.close();
        let mut stops = self.stops.subscribe();
        let emptied = async {
            while self.admission.open() > 0 {
                self.emptied.notified().await;
            }
        };
        tokio::select! {
            () = emptied => {}
            _ = stops.wait_for(|stops| *stops > 1) => {}
            // What is written then still has to leave within the bound.
            () = sleep(bound.saturating_sub(FLUSH_BOUND)) => {
                tracing::warn!(open = self.admission.open(), "the drain bound is over");
            }
        }
    }

    /// Probes another daemon before this one yields, and returns why that could not be asked. A stop ends the wait.
    pub(super) async fn probe(&self, record: Registration) -> (ClaimEvent, Option<String>) {
        let credential = self.credential.borrow().clone();
        let state_dir = self.state_dir.clone();
        let look = move || {
            let seen = client::look_at_world(&state_dir, &record);
            let seen = seen.unwrap_or_else(|| {
                client::ask_daemon(&state_dir, &record, &credential, client::SPAWN_PROBE_TIMEOUT)
            });
            (ClaimEvent::Probed(seen.probe), seen.detail)
        };
        let mut stops = self.stops.subscribe();
        tokio::select! {
            looked = tokio::task::spawn_blocking(look) => looked.unwrap_or((ClaimEvent::Failed, None)),
            _ = stops.wait_for(|stops| *stops > 0) => (ClaimEvent::Failed, None),
        }
    }
}

impl Identity for Shared {
    fn credential(&self) -> watch::Receiver<Credential> {
        self.credential.subscribe()
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn port(&self) -> u16 {
        self.url.port()
    }

    /// BROW-36. Each request asks this, so that nothing is bound here.
    fn page_host(&self) -> Option<&PageHost> {
        self.page_host.as_ref().filter(|_| self.other_family.is_held())
    }

    /// HS-15: the record is read again before the answer is `ready`.
    fn handshake(&self) -> Handshake {
        let sight = self.state_dir.read_record().0;
        let state = self.claim().state(&sight);
        if state == State::Draining {
            self.changed.notify_one();
        }
        // HS-3, GATE-2
        Handshake {
            protocol: self.protocol.clone(),
            id: self.id,
            pid: self.pid,
            version: self.version.clone(),
            state,
            capabilities: self.capabilities.clone(),
        }
    }

    /// PER-19, PER-41: a request is judged by what the source says now, and not by what was last announced.
    fn origins(&self) -> watch::Receiver<Origins> {
        self.look_at_origins();
        self.origins.subscribe()
    }

    fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

/// What routes and background work need to know of their daemon.
///
/// ```no_run
/// # fn watch(daemon: &local_daemon::Daemon) {
/// let handle = daemon.handle();
/// tokio::spawn(async move {
///     handle.published().await;
///     println!("{} serves at {}", handle.id(), handle.url());
///     println!("{}", handle.draining().await.as_str());
/// });
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// Returns the id of this launch.
    pub fn id(&self) -> ClaimId {
        self.0.id
    }

    /// Returns the wire protocol.
    pub fn protocol(&self) -> &Protocol {
        &self.0.protocol
    }

    /// Returns the implementation's version.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Returns what the handshake says the daemon can do.
    pub fn capabilities(&self) -> &[String] {
        &self.0.capabilities
    }

    /// Returns the id of this process.
    pub fn pid(&self) -> u32 {
        self.0.pid.get()
    }

    /// Returns where it listens.
    pub fn url(&self) -> LoopbackUrl {
        self.0.url
    }

    /// Returns the host of the daemon's own page; `None` if browsers are not let in, or if the daemon's port is taken on the
    /// other address family. It belongs in the address that opens the page, and nowhere else (BROW-41).
    pub fn page_host(&self) -> Option<&PageHost> {
        self.0.page_host.as_ref().filter(|_| self.0.other_family.try_hold())
    }

    /// Returns when it started, by the wall clock.
    pub fn started_at(&self) -> SystemTime {
        self.0.started_at
    }

    /// Returns the state directory.
    pub fn state_dir(&self) -> &Path {
        self.0.state_dir.path()
    }

    /// Requests that the guard let in and whose answer has not been sent whole, open streams included.
    pub fn active_requests(&self) -> usize {
        self.0.admission.open()
    }

    /// Replaces the origin allowlist of a daemon that looks it up nowhere: at once for requests, and for what is open.
    pub fn set_origins(&self, origins: Origins) {
        self.0.set_origins(origins);
    }

    /// Returns the origins that are admitted now, and every later list.
    pub fn origins(&self) -> watch::Receiver<Origins> {
        self.0.look_at_origins();
        self.0.announced.subscribe()
    }

    /// Returns how often this launch has replaced its credential by another one, and every later number.
    pub fn rotations(&self) -> watch::Receiver<u64> {
        self.0.rotations.subscribe()
    }

    /// Returns the tickets of this launch, which a rotation of the credential revokes (CRED-17).
    pub fn tickets(&self) -> Arc<Tickets> {
        self.0.tickets.clone()
    }

    /// Makes an event stream in memory, of these topics and `lifecycle`. To the latter, the daemon appends when it is ready, when
    /// its credential was replaced, and when and why it stands down; then it ends the stream (STR-28, STR-29).
    ///
    /// # Panics
    /// As [`Hub::new`].
    pub fn events(&self, topics: impl IntoIterator<Item = &'static str>) -> Arc<Hub> {
        let topics: Vec<_> = iter::once(LIFECYCLE).chain(topics).collect();
        let hub = Arc::new(Hub::new(self.id().epoch(), &topics, Limits::default()));
        self.attach(&hub);
        hub
    }

    /// Makes an event stream as [`events`](Self::events) does, which is kept in a file and goes on after a restart: see
    /// [`Hub::open`].
    ///
    /// The file is opened once the daemon has published, as soon as the daemon that it displaces has given it up. Until then,
    /// requests to an `axum::App` wait; other services wait for [`events_opened`](Self::events_opened) before they subscribe or
    /// append, and appending fails. If the file cannot be opened, or another process does not give it up
    /// within 10 s, the daemon stops and fails with [`Error::State`](super::Error::State).
    ///
    /// The profile `streams` is about a stream of [`events`](Self::events), which begins with each launch (STR-10, STR-11): a
    /// product that claims the profile has one of these as well.
    ///
    /// ```no_run
    /// use local_daemon::daemon::Daemon;
    /// use local_daemon::streams::Limits;
    ///
    /// # async fn start() -> Result<(), local_daemon::daemon::Error> {
    /// const EPOCH: u32 = 0x5f0c_2a9b;
    ///
    /// let daemon = Daemon::builder("acme", "acme/1").start().await?;
    /// let handle = daemon.handle();
    /// let jobs = handle.open_events(handle.state_dir().join("jobs.log"), EPOCH, ["jobs"], Limits::default());
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// Panics if there are more than 64 topics, or outside of a tokio runtime.
    pub fn open_events(
        &self,
        path: impl Into<PathBuf>,
        epoch: u32,
        topics: impl IntoIterator<Item = &'static str>,
        limits: Limits,
    ) -> Arc<Hub> {
        let topics: Vec<_> = iter::once(LIFECYCLE).chain(topics).collect();
        let hub = Arc::new(Hub::unopened(epoch, &topics, limits));
        self.0.unopened.send_modify(|count| *count += 1);
        let (handle, opening, path) = (self.clone(), hub.clone(), path.into());
        tokio::spawn(async move {
            let take_over = async {
                handle.published().await;
                take_over(&opening, &path, limits).await
            };
            let opened = tokio::select! {
                opened = take_over => opened,
                _ = handle.draining() => Ok(()),
            };
            if let Err(error) = opened {
                handle.0.fail(error);
            }
            // If it stands down already, this ends the stream.
            handle.attach(&opening);
            handle.0.unopened.send_modify(|count| *count -= 1);
        });
        hub
    }

    /// Ends as soon as no file of [`open_events`](Self::open_events) is still to be opened.
    pub async fn events_opened(&self) {
        // The sender is in `self`, so the wait ends on nothing else.
        let _ = self.0.unopened.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Has the daemon end a stream that the product made itself. If it has the topic `lifecycle`, the daemon appends to it as to
    /// those of [`events`](Self::events).
    pub fn attach(&self, hub: &Arc<Hub>) {
        self.0.streams.add(hub);
    }

    /// Asks for a graceful stop; a second time, for an end without the rest of the drain.
    pub fn stop(&self) {
        self.0.stop("requested");
    }

    /// Asks for a graceful stop if no more than `allowed` requests are open (a route that asks is one of them); returns `false`
    /// if there are more, or if it stops already. No request slips in between the look and the stop.
    pub fn stop_if_idle(&self, allowed: usize) -> bool {
        self.stop_if_idle_for("requested", allowed)
    }

    pub(crate) fn stop_if_idle_for(&self, cause: &'static str, allowed: usize) -> bool {
        let idle = self.0.admission.close_if_idle(allowed);
        if idle {
            self.0.stop(cause);
        }
        idle
    }

    /// Ends as soon as the record is published; never, if the daemon ends before that.
    pub async fn published(&self) {
        // The sender is in `self`, so the wait ends on nothing else.
        let _ = self.0.published.subscribe().wait_for(|published| *published).await;
    }

    /// Ends as soon as the daemon has begun to stand down, with the reason.
    pub async fn draining(&self) -> Reason {
        let mut reason = self.0.reason.subscribe();
        match reason.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // The sender is in `self`, so the channel is never closed; `wait_for` only ends on a reason.
            _ => Reason::Stopped,
        }
    }
}

//! The daemon's runtime: listens, publishes, re-reads by notification and interval, stands down, drains, removes its
//! record by take-verify-leave. It performs what [`Claim`] asks for; the decisions are all there.

use std::{
    convert::Infallible,
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full, Limited};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    ClaimId, Credential, LoopbackUrl, Protocol, Registration, StateDir,
    claim::{Claim, Effect, Outcome, Probe, Reason, Sight},
    client,
    gate::NotAProtocol,
    perimeter::{self, Guard, Identity, Origins},
    platform,
    proof::{Handshake, State},
    record::LoopbackHost,
    state_dir::{self, Fault, NoHome},
};

/// How long open work may go on after the daemon began to stand down, unless told otherwise (CONV-8).
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a client may take over the head of its request (HS-10); others are served meanwhile (HS-11).
const HEAD_BOUND: Duration = Duration::from_secs(10);
/// How long answers that are written already may take to leave after the drain.
const FLUSH_BOUND: Duration = Duration::from_millis(500);

/// A daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The protocol identifier is not one.
    #[error(transparent)]
    Protocol(#[from] NotAProtocol),
    /// There is no home directory.
    #[error(transparent)]
    Home(#[from] NoHome),
    /// The state directory or a file in it must not be trusted, or cannot be written.
    #[error(transparent)]
    State(#[from] Fault),
    /// No loopback port could be had.
    #[error("no loopback port could be bound: {0}")]
    Listen(#[source] io::Error),
    /// The signals of the process could not be received.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
}

impl Error {
    /// The process's exit status: 2 bad use, 15 the state directory, 1 anything else.
    pub const fn exit_status(&self) -> i32 {
        match self {
            Self::Protocol(_) => 2,
            Self::Home(_) | Self::State(_) => 15,
            Self::Listen(_) | Self::Signals(_) => 1,
        }
    }
}

/// How a daemon is to run.
#[derive(Debug)]
pub struct Builder {
    component: String,
    protocol: String,
    version: String,
    state_dir: Option<PathBuf>,
    yields: bool,
    drain: Duration,
    capabilities: Vec<String>,
    origins: Origins,
    stream_routes: Vec<&'static str>,
    signals: bool,
}

impl Builder {
    /// The implementation's version, informational.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Another state directory than the component's own.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Leave the place to a ready and compatible daemon that is there right before publishing: what a daemon does
    /// that a client started (CONV-26).
    #[must_use]
    pub fn yields(mut self, yields: bool) -> Self {
        self.yields = yields;
        self
    }

    /// The drain bound.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// What the handshake says the daemon can do.
    #[must_use]
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.capabilities = capabilities.into_iter().map(Into::into).collect();
        self
    }

    /// The web origins that may call; none unless told.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// The event-stream routes, where a GET may carry `?token=`.
    #[must_use]
    pub fn stream_routes(mut self, routes: impl IntoIterator<Item = &'static str>) -> Self {
        self.stream_routes = routes.into_iter().collect();
        self
    }

    /// Whether SIGTERM and SIGINT stop it gracefully and SIGHUP is survived; on unless told otherwise.
    #[must_use]
    pub fn stop_on_signals(mut self, signals: bool) -> Self {
        self.signals = signals;
        self
    }

    /// Listens, finds or makes the credential, serves, publishes, and runs until it stands down.
    pub async fn serve<S, B>(self, service: S) -> Result<Reason, Error>
    where
        S: Service<Request<Limited<Incoming>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.start().await?.serve(service).await
    }

    /// Listens, and finds or makes the credential; publishes nothing yet.
    pub async fn start(self) -> Result<Daemon, Error> {
        let mut readiness = Readiness(platform::ready_pipe());
        let started = self.listen().await;
        match started {
            Ok(mut daemon) => {
                daemon.readiness = readiness;
                Ok(daemon)
            }
            Err(error) => {
                readiness.say(&format!("failed {error}"));
                Err(error)
            }
        }
    }

    async fn listen(self) -> Result<Daemon, Error> {
        let protocol: Protocol = self.protocol.parse()?;
        let state_dir = StateDir::locate(self.state_dir.as_deref(), &self.component)?;
        state_dir.create()?;
        let id = state_dir::fresh_id();
        let mut claim = Claim::new(id, protocol.clone(), self.yields);
        let (mut listener, mut credential) = (None, None);
        let (listener, host, port, credential) = loop {
            // PUB-4: the machine listens before it asks for anything to be written.
            let outcome = match claim.next() {
                Some(Effect::Listen) => {
                    listener = Some(bind().await.map_err(Error::Listen)?);
                    Outcome::Done
                }
                Some(Effect::ReadCredential) => {
                    credential = state_dir.read_credential()?;
                    if credential.is_some() {
                        Outcome::Done
                    } else {
                        Outcome::Missing
                    }
                }
                Some(Effect::CreateCredential) => state_dir.create_credential().map(|()| Outcome::Done)?,
                _ => {
                    let Some((listener, host, port)) = listener.take() else {
                        continue;
                    };
                    let Some(credential) = credential.take() else {
                        // It was removed between its creation and its reading.
                        let path = state_dir.file(state_dir::CREDENTIAL);
                        return Err(Fault {
                            path,
                            why: state_dir::Refused::Missing,
                        }
                        .into());
                    };
                    break (listener, host, port, credential);
                }
            };
            claim.on(outcome);
        };
        let url = LoopbackUrl::new(host, port);
        let shared = Shared {
            id,
            protocol,
            version: self.version,
            capabilities: self.capabilities,
            // REG-6: it never forks.
            pid: NonZeroU32::new(std::process::id()).expect("a process id is never zero"),
            started_at: SystemTime::now(),
            url,
            authority: url.authority(),
            state_dir,
            credential: Mutex::new(credential),
            claim: Mutex::new(claim),
            origins: Mutex::new(self.origins),
            changed: Notify::new(),
            stops: watch::channel(0).0,
            reason: watch::channel(None).0,
            active: watch::channel(0).0,
            accepted: AtomicUsize::new(0),
        };
        Ok(Daemon {
            shared: Arc::new(shared),
            listener,
            drain: self.drain,
            stream_routes: self.stream_routes,
            signals: self.signals,
            readiness: Readiness(None),
        })
    }
}

/// PUB-1: loopback, v4 where there is one (REG-5). PUB-2: without `SO_REUSEPORT` no other socket can share the port.
async fn bind() -> io::Result<(TcpListener, LoopbackHost, NonZeroU16)> {
    let (listener, host) = match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await {
        Ok(listener) => (listener, LoopbackHost::V4),
        // A host without v4 loopback.
        Err(v4) => match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).await {
            Ok(listener) => (listener, LoopbackHost::V6),
            Err(_) => return Err(v4),
        },
    };
    let port = NonZeroU16::new(listener.local_addr()?.port()).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((listener, host, port))
}

/// The pipe on which the launcher waits, if there is one. It is closed after the first word.
#[derive(Debug)]
struct Readiness(Option<std::fs::File>);

impl Readiness {
    fn say(&mut self, word: &str) {
        if let Some(mut pipe) = self.0.take() {
            let line: String = word
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(1000)
                .collect();
            // A launcher that is gone needs no answer.
            let _ = writeln!(pipe, "{line}");
        }
    }
}

/// A daemon that listens and has not published yet.
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    listener: TcpListener,
    drain: Duration,
    stream_routes: Vec<&'static str>,
    signals: bool,
    readiness: Readiness,
}

impl Daemon {
    /// A daemon of `component` (the state directory's name) that speaks `protocol` (`name/N`).
    pub fn builder(component: impl Into<String>, protocol: impl Into<String>) -> Builder {
        Builder {
            component: component.into(),
            protocol: protocol.into(),
            version: String::new(),
            state_dir: None,
            yields: false,
            drain: DRAIN,
            capabilities: Vec::new(),
            origins: Origins::default(),
            stream_routes: Vec::new(),
            signals: true,
        }
    }

    /// What routes and background work need to know of the daemon.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Serves, publishes, and runs until it stands down. Every request passes the [`Guard`] first.
    pub async fn serve<S, B>(mut self, service: S) -> Result<Reason, Error>
    where
        S: Service<Request<Limited<Incoming>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let signals = if self.signals {
            Some(Signals::new().map_err(Error::Signals)?)
        } else {
            None
        };
        let guard = Guard::new(self.shared.clone()).stream_routes(self.stream_routes.iter().copied());
        let service = guard.layer(Admit {
            shared: self.shared.clone(),
            service,
        });
        let close = watch::channel(false).0;
        let accepting = tokio::spawn(accept(self.listener, service, close.clone()));
        let stopping = signals.map(|signals| tokio::spawn(signals.forward(self.shared.clone())));

        let ended = drive(&self.shared, self.drain, &mut self.readiness).await;

        close.send_replace(true);
        // The task ends by itself once it is told to close, and is not aborted before.
        let _ = accepting.await;
        if let Some(stopping) = stopping {
            stopping.abort();
        }
        ended
    }
}

/// Performs the effects of the claim until it has exited. A daemon that cannot publish ends with the error (PUB-10) and
/// has changed no file of another's (PUB-11).
async fn drive(shared: &Arc<Shared>, drain: Duration, readiness: &mut Readiness) -> Result<Reason, Error> {
    let mut files = Files::default();
    let watching = Arc::downgrade(shared);
    let _watcher = crate::watch::watch(shared.state_dir.path(), move || {
        if let Some(shared) = watching.upgrade() {
            shared.changed.notify_one();
        }
    });
    let mut failure = None;
    loop {
        let effect = {
            let mut claim = shared.claim();
            if *shared.stops.borrow() > 0 {
                claim.stop();
            }
            match claim.next() {
                Some(effect) => effect,
                None => break,
            }
        };
        let outcome = match effect {
            Effect::Await(bound) | Effect::Pause(bound) => {
                shared.wait(bound).await;
                Outcome::Done
            }
            Effect::Drain => {
                shared.drain(drain).await;
                Outcome::Done
            }
            Effect::Probe(record) => shared.probe(record).await,
            Effect::Close => Outcome::Done,
            effect => files.perform(shared, &effect).unwrap_or_else(|fault| {
                tracing::warn!(error = %fault, ?effect, "the state directory did not allow it");
                failure = Some(fault);
                Outcome::Failed
            }),
        };
        let (serving, reason) = {
            let mut claim = shared.claim();
            claim.on(outcome);
            (claim.is_serving(), claim.reason())
        };
        if serving && readiness.0.is_some() {
            readiness.say(&format!("ready {}", shared.id));
        }
        if reason.is_some()
            && shared
                .reason
                .send_if_modified(|now| std::mem::replace(now, reason).is_none())
        {
            tracing::info!(id = %shared.id, reason = reason.map(Reason::as_str), "standing down");
        }
    }
    match (shared.claim().reason(), failure) {
        (Some(Reason::Failed), Some(fault)) => {
            readiness.say(&format!("failed {fault}"));
            Err(fault.into())
        }
        (reason, _) => {
            readiness.say("yielded");
            Ok(reason.unwrap_or(Reason::Failed))
        }
    }
}

/// The temporary and the taken file of this daemon.
#[derive(Default)]
struct Files {
    temporary: Option<PathBuf>,
    taken: Option<PathBuf>,
}

impl Files {
    fn perform(&mut self, shared: &Shared, effect: &Effect) -> Result<Outcome, Fault> {
        let state_dir = &shared.state_dir;
        Ok(match effect {
            Effect::WriteTemporary => {
                self.drop_temporary(state_dir)?;
                self.temporary = Some(state_dir.write_temporary(&shared.registration())?);
                Outcome::Done
            }
            Effect::DropTemporary => {
                self.drop_temporary(state_dir)?;
                Outcome::Done
            }
            Effect::ReadRecord => Outcome::Record(shared.look()),
            Effect::Publish => match self.temporary.take() {
                Some(temporary) => {
                    state_dir
                        .publish(&temporary)
                        .inspect_err(|_| self.temporary = Some(temporary))?;
                    tracing::info!(id = %shared.id, url = %shared.url, path = ?state_dir, "published");
                    Outcome::Done
                }
                None => Outcome::Failed,
            },
            Effect::ListTaken => Outcome::Taken(!state_dir.taken_of(shared.id)?.is_empty()),
            Effect::UnlinkTaken => {
                for taken in state_dir.taken_of(shared.id)? {
                    state_dir.unlink_taken(&taken)?;
                }
                Outcome::Done
            }
            Effect::Take => {
                self.taken = state_dir.take(shared.id)?;
                if self.taken.is_some() {
                    Outcome::Done
                } else {
                    Outcome::Missing
                }
            }
            Effect::ReadTaken => match &self.taken {
                Some(taken) => Outcome::Record(state_dir.read_taken(taken)),
                None => Outcome::Missing,
            },
            Effect::UnlinkOwn => {
                if let Some(taken) = self.taken.take() {
                    state_dir.unlink_taken(&taken)?;
                }
                Outcome::Done
            }
            // What the driver or the launch performs.
            Effect::Listen
            | Effect::ReadCredential
            | Effect::CreateCredential
            | Effect::Probe(_)
            | Effect::Await(_)
            | Effect::Pause(_)
            | Effect::Drain
            | Effect::Close => Outcome::Failed,
        })
    }

    fn drop_temporary(&mut self, state_dir: &StateDir) -> Result<(), Fault> {
        self.temporary
            .take()
            .map_or(Ok(()), |temporary| state_dir.drop_temporary(&temporary))
    }
}

/// What connections, routes and the driver share.
#[derive(Debug)]
struct Shared {
    id: ClaimId,
    protocol: Protocol,
    version: String,
    capabilities: Vec<String>,
    pid: NonZeroU32,
    started_at: SystemTime,
    url: LoopbackUrl,
    authority: String,
    state_dir: StateDir,
    credential: Mutex<Credential>,
    claim: Mutex<Claim>,
    origins: Mutex<Origins>,
    changed: Notify,
    /// How often a stop was asked for: the second ends the drain.
    stops: watch::Sender<usize>,
    reason: watch::Sender<Option<Reason>>,
    /// Requests whose answer has not been sent whole.
    active: watch::Sender<usize>,
    accepted: AtomicUsize,
}

/// A lock is poisoned by a panic of a holder; what these locks hold is replaced whole and so is never half-changed.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn claim(&self) -> MutexGuard<'_, Claim> {
        held(&self.claim)
    }

    fn registration(&self) -> Registration {
        Registration {
            id: self.id,
            version: self.version.clone(),
            url: self.url,
            pid: self.pid,
            // REG-7, REG-8
            protocol: Some(self.protocol.to_string()),
            socket: None,
            started_at: Some(humantime::format_rfc3339_seconds(self.started_at).to_string()),
        }
    }

    /// Reads the record; and the credential with it, which a rotation may have replaced (CRED-11, CRED-12).
    fn look(&self) -> Sight {
        let (sight, diagnostic) = self.state_dir.read_record();
        if let Some(diagnostic) = diagnostic {
            tracing::warn!(%diagnostic, "the registration cannot be used");
        }
        match self.state_dir.read_credential() {
            Ok(Some(credential)) => *held(&self.credential) = credential,
            // CRED-13: it goes on with what it knows.
            Ok(None) => {}
            Err(fault) => tracing::warn!(%fault, "the credential on disk is not taken on"),
        }
        sight
    }

    fn stop(&self) {
        self.stops.send_modify(|stops| *stops += 1);
    }

    /// Waits for a change, a stop, or `bound` (CONV-1, CONV-2).
    async fn wait(&self, bound: Duration) {
        let mut stops = self.stops.subscribe();
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep(bound) => {}
            _ = stops.wait_for(|stops| *stops > 0) => {}
        }
    }

    /// Waits until no request is open, a second stop, or `bound` (CONV-8, CONV-20).
    async fn drain(&self, bound: Duration) {
        let mut active = self.active.subscribe();
        let mut stops = self.stops.subscribe();
        let before = *stops.borrow();
        tokio::select! {
            _ = active.wait_for(|active| *active == 0) => {}
            _ = stops.wait_for(|stops| *stops > before.max(1)) => {}
            // What is written then still has to leave within the bound.
            () = sleep(bound.saturating_sub(FLUSH_BOUND)) => {
                tracing::warn!(open = *self.active.borrow(), "the drain bound is over");
            }
        }
    }

    /// The probe before yielding; a stop ends the wait for it.
    async fn probe(&self, record: Registration) -> Outcome {
        let credential = held(&self.credential).clone();
        let probe = move || client::probe(&record, &credential, client::SPAWN_PROBE_BOUND).0;
        let mut stops = self.stops.subscribe();
        tokio::select! {
            probed = tokio::task::spawn_blocking(probe) => Outcome::Probed(probed.unwrap_or(Probe::TimedOut)),
            _ = stops.wait_for(|stops| *stops > 0) => Outcome::Failed,
        }
    }
}

impl Identity for Shared {
    fn credential(&self) -> Credential {
        held(&self.credential).clone()
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn port(&self) -> u16 {
        self.url.port()
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

    fn origins(&self) -> Origins {
        held(&self.origins).clone()
    }

    fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

/// What routes and background work need to know of their daemon.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// The claim id of this launch.
    pub fn id(&self) -> ClaimId {
        self.0.id
    }

    /// The wire protocol.
    pub fn protocol(&self) -> &Protocol {
        &self.0.protocol
    }

    /// The implementation's version.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// What the handshake says the daemon can do.
    pub fn capabilities(&self) -> &[String] {
        &self.0.capabilities
    }

    /// The own process id.
    pub fn pid(&self) -> u32 {
        self.0.pid.get()
    }

    /// Where it listens.
    pub fn url(&self) -> LoopbackUrl {
        self.0.url
    }

    /// When it started, by the wall clock.
    pub fn started_at(&self) -> SystemTime {
        self.0.started_at
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        self.0.state_dir.path()
    }

    /// Requests that the guard let in and whose answer has not been sent whole, open streams included.
    pub fn active_requests(&self) -> usize {
        *self.0.active.borrow()
    }

    /// Requests that the guard let in since the start.
    pub fn accepted_requests(&self) -> usize {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Replaces the origin allowlist; it counts from the next request on.
    pub fn set_origins(&self, origins: Origins) {
        *held(&self.0.origins) = origins;
    }

    /// Asks for a graceful stop; a second time, for an end without the rest of the drain.
    pub fn stop(&self) {
        self.0.stop();
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

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn forward(mut self, shared: Arc<Shared>) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => shared.stop(),
                _ = self.terminate.recv() => shared.stop(),
                // A lost terminal is nothing; somebody who sends it wants the files read again.
                _ = self.hangup.recv() => shared.changed.notify_one(),
            }
        }
    }
}

/// Accepts until told to close; then lets written answers leave.
async fn accept<S, B>(listener: TcpListener, service: S, close: watch::Sender<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connections = JoinSet::new();
    let mut closing = close.subscribe();
    loop {
        let accepted = tokio::select! {
            () = told(&mut closing) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Best effort: a small answer leaves at once.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(
                    TokioIo::new(stream),
                    service.clone(),
                    close.subscribe(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: accepting again at once would only spin.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let flushed = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FLUSH_BOUND, flushed).await;
    connections.shutdown().await;
}

async fn told(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the daemon with it.
    let _ = closing.wait_for(|close| *close).await;
}

async fn connection<S, B>(io: TokioIo<tokio::net::TcpStream>, service: S, mut closing: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = hyper::service::service_fn(move |request| {
        let mut service = service.clone();
        async move {
            std::future::poll_fn(|context| service.poll_ready(context)).await?;
            service.call(request).await
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_BOUND)
        .max_buf_size(crate::record::MAX_BYTES)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = told(&mut closing) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Lets no new work in once the daemon stands down, and counts what is open.
#[derive(Clone)]
struct Admit<S> {
    shared: Arc<Shared>,
    service: S,
}

impl<S, R, B> Service<Request<R>> for Admit<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
    B: Body<Data = Bytes>,
{
    type Response = Response<Either<Full<Bytes>, Counted<B>>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let open = Open::new(self.shared.clone());
        // CONV-10: no new work from the moment it knows.
        if self.shared.reason.borrow().is_some() {
            let problem = perimeter::problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "this daemon stands down; read the registration again",
            );
            return Box::pin(async move { Ok(problem.map(Either::Left)) });
        }
        let answer = self.service.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| {
                Either::Right(Counted {
                    body: Box::pin(body),
                    _open: open,
                })
            }))
        })
    }
}

/// One open request.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        shared.active.send_modify(|active| *active += 1);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.active.send_modify(|active| *active -= 1);
    }
}

/// A body that counts as open until it is dropped.
struct Counted<B> {
    body: Pin<Box<B>>,
    _open: Open,
}

impl<B: Body<Data = Bytes>> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.get_mut().body.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! The daemon's runtime: listens, publishes, re-reads by notification and interval, stands down, drains, removes its
//! record by take-verify-leave. It performs what [`Claim`] asks for; the decisions are all there.

mod admission;
mod patience;
mod serve;
mod shared;
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Limited;
use local_daemon_proto::claim::{Claim, Effect, Outcome, Reason};
use local_daemon_proto::gate::{NotAProtocol, Protocol};
use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tower_layer::Layer;
use tower_service::Service;

use self::admission::Admission;
pub use self::patience::{RequestBody, Silent};
use self::serve::{Admit, accept};
pub use self::shared::Handle;
use self::shared::{OriginSource, Shared};
use crate::browser::PageTokens;
use crate::perimeter::{Guard, Origins, RouteMethods};
use crate::platform::{self, Watch};
use crate::state_directory::{self, Fault, NoHome, StateDir};

/// How long open work may go on after the daemon began to stand down, unless told otherwise (CONV-8).
pub const DRAIN: Duration = Duration::from_secs(10);

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
pub struct Builder {
    component: String,
    protocol: String,
    version: String,
    state_dir: Option<PathBuf>,
    yields: bool,
    drain: Duration,
    capabilities: Vec<String>,
    origins: Origins,
    origin_source: Option<OriginSource>,
    stream_routes: Vec<&'static str>,
    methods: Option<Arc<RouteMethods>>,
    page_tokens: Option<Arc<PageTokens>>,
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

    /// Where the web origins that may call are looked up: for each request that names one, on every change in the state
    /// directory, and every second. What it says counts at once, and ends the streams of an origin that is off the list.
    #[must_use]
    pub fn origins_from(mut self, source: impl Fn() -> Origins + Send + Sync + 'static) -> Self {
        self.origins = source();
        self.origin_source = Some(OriginSource(Arc::new(source)));
        self
    }

    /// The methods of a path, for preflights; `None` is an unknown path. See [`Guard::methods`].
    #[must_use]
    pub fn methods(mut self, of_path: impl Fn(&str) -> Option<Vec<Method>> + Send + Sync + 'static) -> Self {
        self.methods = Some(Arc::new(of_path));
        self
    }

    /// The event-stream routes, where a GET may carry `?token=`.
    #[must_use]
    pub fn stream_routes(mut self, routes: impl IntoIterator<Item = &'static str>) -> Self {
        self.stream_routes = routes.into_iter().collect();
        self
    }

    /// Lets browsers in: see [`Guard::page_tokens`]. The tokens of an origin are revoked when it is taken off the list
    /// (BROW-14).
    #[must_use]
    pub fn page_tokens(mut self, tokens: Arc<PageTokens>) -> Self {
        self.page_tokens = Some(tokens);
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
        S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
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
        // CRED-15, before there is a secret. Best effort: a host that forbids to lower a limit is unheard of.
        let _ = platform::write_no_core_dump();
        // Before the listener: what was opened last is closed first when a process is killed, giving a watch back can take Linux
        // 10 ms, and whoever comes meanwhile would wait for a listener that nobody accepts from.
        let watch = platform::followed(state_dir.path()).ok();
        let id = state_directory::fresh_id();
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
                    if credential.is_some() { Outcome::Done } else { Outcome::Missing }
                }
                Some(Effect::CreateCredential) => state_dir.create_credential().map(|()| Outcome::Done)?,
                _ => {
                    let Some((listener, host, port)) = listener.take() else {
                        continue;
                    };
                    let Some(credential) = credential.take() else {
                        // It was removed between its creation and its reading.
                        let path = state_dir.file(state_directory::CREDENTIAL);
                        return Err(Fault { path, why: state_directory::Refused::Missing }.into());
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
            announced: watch::channel(self.origins.clone()).0,
            origins: watch::channel(self.origins).0,
            origin_source: self.origin_source,
            page_tokens: self.page_tokens,
            changed: Notify::new(),
            stops: watch::channel(0).0,
            published: watch::channel(false).0,
            reason: watch::channel(None).0,
            admission: Admission::new(),
            emptied: Notify::new(),
        };
        Ok(Daemon {
            shared: Arc::new(shared),
            listener,
            watch,
            drain: self.drain,
            stream_routes: self.stream_routes,
            methods: self.methods,
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
            let line: String =
                word.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
            // A launcher that is gone needs no answer.
            let _ = writeln!(pipe, "{line}");
        }
    }
}

/// A daemon that listens and has not published yet.
pub struct Daemon {
    shared: Arc<Shared>,
    listener: TcpListener,
    watch: Option<AsyncFd<Watch>>,
    drain: Duration,
    stream_routes: Vec<&'static str>,
    methods: Option<Arc<RouteMethods>>,
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
            origin_source: None,
            stream_routes: Vec::new(),
            methods: None,
            page_tokens: None,
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
        S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let signals = if self.signals { Some(Signals::new().map_err(Error::Signals)?) } else { None };
        let mut guard = Guard::new(self.shared.clone()).stream_routes(self.stream_routes.iter().copied());
        if let Some(methods) = self.methods {
            guard = guard.methods(methods);
        }
        if let Some(tokens) = &self.shared.page_tokens {
            guard = guard.page_tokens(tokens.clone());
        }
        let service = guard.layer(Admit { shared: self.shared.clone(), service });
        let close = watch::channel(false).0;
        let accepting = tokio::spawn(accept(self.listener, service, close.clone()));
        let stopping = signals.map(|signals| tokio::spawn(signals.forward(self.shared.clone())));

        let ended = drive(&self.shared, self.watch, self.drain, &mut self.readiness).await;

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
async fn drive(
    shared: &Arc<Shared>,
    watch: Option<AsyncFd<Watch>>,
    drain: Duration,
    readiness: &mut Readiness,
) -> Result<Reason, Error> {
    let mut files = Files::default();
    let watching = watch.map(|watch| tokio::spawn(follow(watch, shared.clone())));
    let mut failure = None;
    loop {
        let Some(effect) = shared.claim().next() else {
            break;
        };
        let outcome = match effect {
            Effect::Await(bound) => {
                shared.wait(bound.min(shared.patience())).await;
                shared.look_at_origins();
                Outcome::Done
            }
            Effect::Pause(bound) => {
                shared.pause(bound).await;
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
        if serving && !shared.published.send_replace(true) {
            readiness.say(&format!("ready {}", shared.id));
        }
        if reason.is_some() && shared.reason.send_if_modified(|now| std::mem::replace(now, reason).is_none())
        {
            tracing::info!(id = %shared.id, reason = reason.map(Reason::as_str), "standing down");
        }
    }
    if let Some(watching) = watching {
        watching.abort();
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

/// Looks as soon as there may be something new. It only makes things faster: whoever waits also wakes by itself.
async fn follow(watch: AsyncFd<Watch>, shared: Arc<Shared>) {
    while let Ok(mut ready) = watch.readable().await {
        ready.get_inner().take();
        ready.clear_ready();
        shared.changed.notify_one();
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
                    state_dir.publish(&temporary).inspect_err(|_| self.temporary = Some(temporary))?;
                    tracing::info!(id = %shared.id, url = %shared.url, path = %state_dir.path().display(), "published");
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
                if self.taken.is_some() { Outcome::Done } else { Outcome::Missing }
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
        self.temporary.take().map_or(Ok(()), |temporary| state_dir.drop_temporary(&temporary))
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

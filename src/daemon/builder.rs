//! How a daemon is to run, and its launch up to where it publishes.

use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Limited;
use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent, Reason};
use local_daemon_proto::gate::Protocol;
use tokio::sync::{Notify, watch};
use tower_service::Service;

use super::admission::Admission;
use super::bind;
use super::conditions::Conditions;
use super::patience::RequestBody;
use super::publication::{Publication, Readiness};
use super::shared::{OriginSource, Shared};
use super::streams::Streams;
use super::{DEFAULT_DRAIN_TIMEOUT, Daemon, Error};
use crate::browser::{PageHost, PageTokens, Tickets};
use crate::perimeter::{Guard, Origins};
use crate::platform;
use crate::state_directory::{self, FileError, StateDir};

/// How a daemon is to run.
pub struct Builder {
    component: String,
    protocol: String,
    version: String,
    state_dir: Option<PathBuf>,
    yields: bool,
    replaces: bool,
    drain: Duration,
    capabilities: Vec<String>,
    origins: Origins,
    origin_source: Option<OriginSource>,
    guard: Vec<GuardOptions>,
    listeners: Vec<TcpListener>,
    port: u16,
    page_tokens: Option<Arc<PageTokens>>,
    signals: bool,
}

/// What a product sets of the guard.
type GuardOptions = Box<dyn FnOnce(Guard) -> Guard + Send>;

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("component", &self.component)
            .field("protocol", &self.protocol)
            .field("version", &self.version)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new(component: String, protocol: String) -> Self {
        Self {
            component,
            protocol,
            version: String::new(),
            state_dir: None,
            yields: false,
            replaces: false,
            drain: DEFAULT_DRAIN_TIMEOUT,
            capabilities: Vec::new(),
            origins: Origins::default(),
            origin_source: None,
            guard: Vec::new(),
            listeners: Vec::new(),
            port: 0,
            page_tokens: None,
            signals: false,
        }
    }

    /// Sets the implementation's version, which is informational.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets another state directory than the component's own.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Leaves the place to a ready and compatible daemon that is there right before publishing: what a daemon does
    /// that a client started (CONV-26).
    #[must_use]
    pub fn yields(mut self, yields: bool) -> Self {
        self.yields = yields;
        self
    }

    /// Publishes also over the record of a daemon that cannot be asked, although this one yields (CONN-49).
    #[must_use]
    pub fn replaces(mut self, replaces: bool) -> Self {
        self.replaces = replaces;
        self
    }

    /// Sets how long open work may go on after the daemon began to stand down: [`DEFAULT_DRAIN_TIMEOUT`] by default.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets what the handshake says the daemon can do.
    #[must_use]
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.capabilities = capabilities.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the web origins that may call: none by default.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Sets where the web origins that may call are looked up: for each request that names one, on every change in the state
    /// directory, and every second. What it says counts at once, and ends the streams of an origin that is off the list.
    #[must_use]
    pub fn origins_from(mut self, source: impl Fn() -> Origins + Send + Sync + 'static) -> Self {
        self.origins = source();
        self.origin_source = Some(OriginSource(Arc::new(source)));
        self
    }

    /// Sets options of the [`Guard`], such as the largest body that is taken. It may be called more than once.
    ///
    /// ```
    /// use local_daemon::Daemon;
    ///
    /// let builder = Daemon::builder("acme", "acme/1").guard(|guard| guard.body_limit(16 * 1024 * 1024));
    /// ```
    #[must_use]
    pub fn guard(mut self, options: impl FnOnce(Guard) -> Guard + Send + 'static) -> Self {
        self.guard.push(Box::new(options));
        self
    }

    /// Adds a listener that exists already, such as one of [`listen_fds`](super::listen_fds), instead of a port that the system
    /// chooses. There may be two: on 127.0.0.1 and, at the same port, on `[::1]`. [`start`](Self::start) fails with
    /// [`Error::Listener`] if they cannot be a daemon's. [`port`](Self::port) has no effect then.
    ///
    /// ```
    /// use std::net::TcpListener;
    ///
    /// use local_daemon::Daemon;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let builder = Daemon::builder("acme", "acme/1").listener(listener);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Sets the port to prefer, for people and for bookmarks. If it is taken, for instance by the daemon that this one displaces,
    /// the system chooses another one. Clients go by the record, which has the port that was bound.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Lets browsers in: see [`Guard::page_tokens`](crate::perimeter::Guard::page_tokens). The tokens of an origin are
    /// revoked when it is removed from the list (BROW-14), and all of them when the credential is replaced (CRED-17). The daemon
    /// then listens on both address families, and has a [page host](super::Handle::page_host) if it gets its port on both
    /// (BROW-36).
    #[must_use]
    pub fn page_tokens(mut self, tokens: Arc<PageTokens>) -> Self {
        self.page_tokens = Some(tokens);
        self
    }

    /// Sets whether SIGTERM, SIGINT, SIGQUIT and SIGXCPU stop the daemon gracefully, and it survives SIGHUP and signals that
    /// are sent by mistake: SIGUSR1, SIGUSR2, SIGALRM, real-time signals and others (LIFE-35, LIFE-36, LIFE-39). Off by
    /// default: signal handlers concern the whole process, and a program of more than a daemon may have its own.
    #[must_use]
    pub fn stop_on_signals(mut self, signals: bool) -> Self {
        self.signals = signals;
        self
    }

    /// Listens, finds or makes the credential, serves, publishes, and runs until it stands down.
    ///
    /// # Errors
    /// [`Error`].
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
    ///
    /// # Errors
    /// [`Error`], but for `Unreachable` and `Signals`.
    pub async fn start(self) -> Result<Daemon, Error> {
        let (publication, listeners) = self.launch(None).await?;
        Ok(Daemon { publication, listeners })
    }

    /// Finds or makes the credential for a server that listens by itself at these addresses: 127.0.0.1, and `[::1]` at the same
    /// port if it listens there too. Publishes nothing yet.
    ///
    /// # Errors
    /// [`Error`], but for `Unreachable` and `Signals`.
    pub async fn publication(
        self,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Publication, Error> {
        let addresses = addresses.into_iter().collect();
        Ok(self.launch(Some(addresses)).await?.0)
    }

    /// `existing` are the addresses of a server that listens by itself.
    async fn launch(
        self,
        existing: Option<Vec<SocketAddr>>,
    ) -> Result<(Publication, Vec<tokio::net::TcpListener>), Error> {
        let mut readiness = Readiness(platform::ready_pipe(&self.component));
        let prepared = self.prepare(existing).await;
        match prepared {
            Ok((publication, listeners)) => Ok((Publication { readiness, ..publication }, listeners)),
            Err(error) => {
                // What this host lacks now is no fault of the daemon's, and does not count against it (CONN-42).
                let word = match error {
                    Error::Listen(_) | Error::NoLoopback(_) => "unreachable",
                    _ => "failed",
                };
                readiness.say(&format!("{word} {error}"));
                Err(error)
            }
        }
    }

    async fn prepare(
        mut self,
        existing: Option<Vec<SocketAddr>>,
    ) -> Result<(Publication, Vec<tokio::net::TcpListener>), Error> {
        let protocol: Protocol = self.protocol.parse()?;
        let state_dir = StateDir::locate(self.state_dir.as_deref(), &self.component.parse()?)?;
        state_dir.create()?;
        // CRED-15, before there is a secret. Best effort: no known host forbids lowering a limit.
        let _ = platform::disable_core_dumps();
        platform::raise_descriptor_limit();
        // Before the listener: when a process is killed, Linux closes first what was opened last, and closing a watch can take
        // 10 ms. A client that connected meanwhile would wait for an answer that never comes.
        let watch = platform::followed(state_dir.path()).ok();
        let id = state_directory::fresh_id();
        let mut claim = Claim::new(id, protocol.clone(), self.yields).replaces(self.replaces);
        let (mut bound, mut credential) = (None, None);
        let (bound, credential) = loop {
            // PUB-4: the machine listens before it asks for anything to be written.
            let outcome = match claim.effect() {
                Some(ClaimEffect::Listen) => {
                    let both = self.page_tokens.is_some();
                    let given = std::mem::take(&mut self.listeners);
                    bound = Some(match &existing {
                        Some(addresses) => bind::existing(both, addresses)?,
                        None if given.is_empty() => bind::bind(both, self.port).await?,
                        None => bind::adopt(both, given).await?,
                    });
                    ClaimEvent::Done
                }
                Some(ClaimEffect::ReadCredential) => {
                    credential = state_dir.read_credential()?;
                    if credential.is_some() { ClaimEvent::Done } else { ClaimEvent::Missing }
                }
                Some(ClaimEffect::CreateCredential) => {
                    state_dir.create_credential().map(|()| ClaimEvent::Done)?
                }
                _ => {
                    let Some(bound) = bound.take() else {
                        continue;
                    };
                    let Some(credential) = credential.take() else {
                        // It was removed between its creation and its reading.
                        let path = state_dir.file(state_directory::CREDENTIAL);
                        return Err(FileError { path, kind: state_directory::FileErrorKind::Missing }.into());
                    };
                    break (bound, credential);
                }
            };
            claim.handle(outcome);
        };
        let shared = Shared {
            id,
            protocol,
            version: self.version,
            capabilities: self.capabilities,
            // REG-6: it never forks.
            pid: NonZeroU32::new(std::process::id()).expect("a process id is never zero"),
            started_at: SystemTime::now(),
            world: platform::world(),
            url: bound.url,
            authority: bound.url.authority(),
            page_host: self.page_tokens.is_some().then(PageHost::fresh),
            other_family: bound.other_family,
            state_dir,
            credential: watch::channel(credential).0,
            rotations: watch::channel(0).0,
            claim: Mutex::new(claim),
            announced: watch::channel(self.origins.clone()).0,
            origins: watch::channel(self.origins).0,
            origin_source: self.origin_source,
            page_tokens: self.page_tokens,
            tickets: Arc::new(Tickets::new()),
            changed: Notify::new(),
            stops: watch::channel(0).0,
            published: watch::channel(false).0,
            reason: watch::channel(None).0,
            admission: Admission::new(),
            emptied: Notify::new(),
            conditions: Conditions::default(),
            streams: Streams::default(),
            unopened: watch::channel(0).0,
            failure: Mutex::new(None),
            cause: OnceLock::new(),
        };
        let shared = Arc::new(shared);
        let mut guard = Guard::new(shared.clone());
        if let Some(tokens) = &shared.page_tokens {
            guard = guard.page_tokens(tokens.clone());
        }
        let publication = Publication {
            shared,
            guard: self.guard.into_iter().fold(guard, |guard, options| options(guard)),
            watch,
            drain: self.drain,
            signals: self.signals,
            readiness: Readiness(None),
        };
        Ok((publication, bound.listeners))
    }
}

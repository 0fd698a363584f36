//! The daemon's runtime: listens, publishes, re-reads by notification and interval, stands down, drains, removes its
//! record by take-verify-leave. It performs what [`Claim`](local_daemon_proto::claim::Claim) asks for; the decisions are
//! all there.

mod admission;
mod bind;
mod builder;
mod conditions;
mod driver;
mod patience;
mod serve;
mod shared;
mod strangers;
mod timer;
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Limited;
use local_daemon_proto::claim::Reason;
use local_daemon_proto::gate::ParseProtocolError;
use local_daemon_proto::registration::LoopbackUrl;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use self::builder::Builder;
use self::driver::drive;
pub use self::patience::{RequestBody, Silent};
use self::serve::{Admit, accept};
pub use self::shared::Handle;
use self::shared::Shared;
use crate::perimeter::{Guard, RouteMethods};
use crate::platform::{self, Watch};
use crate::state_directory::{FileError, NoHomeError, ParseComponentError};

/// How long open work may go on after the daemon began to stand down, unless told otherwise (CONV-8).
pub const DRAIN: Duration = Duration::from_secs(10);

/// A daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the component is not one.
    #[error(transparent)]
    Component(#[from] ParseComponentError),
    /// The protocol identifier is not one.
    #[error(transparent)]
    Protocol(#[from] ParseProtocolError),
    /// There is no home directory.
    #[error(transparent)]
    Home(#[from] NoHomeError),
    /// The state directory or a file in it must not be trusted, or cannot be written.
    #[error(transparent)]
    State(#[from] FileError),
    /// No loopback port could be bound.
    #[error("no loopback port could be bound: {0}")]
    Listen(#[source] io::Error),
    /// The loopback address cannot be reached, so that no client could reach the daemon.
    #[error("the loopback address cannot be reached: {0}")]
    NoLoopback(#[source] io::Error),
    /// Another daemon's record is there, and that daemon cannot be asked: nothing was published (CONV-35).
    #[error("{url}: the registered daemon cannot be asked: {detail}")]
    Unreachable {
        /// The recorded address.
        url: LoopbackUrl,
        /// What kept this process from asking.
        detail: String,
    },
    /// The signals of the process could not be received.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
}

impl Error {
    /// The process's exit status: 2 wrong usage, 15 the state directory, 17 no way to reach a daemon, 1 anything else.
    pub const fn exit_status(&self) -> i32 {
        match self {
            Self::Component(_) | Self::Protocol(_) => 2,
            Self::Home(_) | Self::State(_) => 15,
            Self::Unreachable { .. } | Self::NoLoopback(_) => 17,
            Self::Listen(_) | Self::Signals(_) => 1,
        }
    }
}

/// A daemon that listens and has not published yet.
pub struct Daemon {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
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
        Builder::new(component.into(), protocol.into())
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
        let accepting = tokio::spawn(accept(self.listeners, service, close.clone()));
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

/// The pipe on which the launcher waits, if there is one. It is closed after the first word.
#[derive(Debug)]
struct Readiness(Option<File>);

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

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    processor_time: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            processor_time: signal(SignalKind::from_raw(libc::SIGXCPU))?,
            hangup: signal(SignalKind::hangup())?,
        };
        platform::survive_signals()?;
        // A service manager, or a thread that starts programs, may have left them blocked.
        platform::unblock_handled_signals();
        Ok(signals)
    }

    async fn forward(mut self, shared: Arc<Shared>) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => shared.stop(),
                _ = self.terminate.recv() => shared.stop(),
                _ = self.quit.recv() => shared.stop(),
                _ = self.processor_time.recv() => shared.stop(),
                // LIFE-36: a lost terminal changes nothing; a user who sends it wants the files read again.
                _ = self.hangup.recv() => shared.changed.notify_one(),
            }
        }
    }
}

//! The life of a record: published, followed, and removed when its daemon stands down.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use local_daemon_proto::claim::Reason;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tower_layer::Layer;

use super::Error;
use super::driver::drive;
use super::serve::Admit;
use super::shared::{Handle, Shared};
use crate::perimeter::{Guard, Guarded};
use crate::platform::{self, Watch};

/// What publishes a server: it writes the record, follows it, and removes it when the daemon stands down.
///
/// A [`Daemon`](super::Daemon) is one of these with listeners of its own. This is for a server that listens by itself; the
/// bounds on slow clients and on connections (PER-31, PER-33, PER-43) are that server's.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::Router;
/// use axum::routing::get;
/// use local_daemon::Daemon;
/// use tower_layer::Layer;
///
/// let routes = Router::new().route("/v1/hello", get(async || "hello"));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let publication = Daemon::builder("acme", "acme/1").publication([listener.local_addr()?]).await?;
/// let guarded = Router::new().fallback_service(publication.layer().layer(routes));
/// let server = tokio::spawn(async move { axum::serve(listener, guarded).await });
/// let reason = publication.run().await?;
/// server.abort();
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Publication {
    pub(super) shared: Arc<Shared>,
    pub(super) guard: Guard,
    pub(super) watch: Option<AsyncFd<Watch>>,
    pub(super) drain: Duration,
    pub(super) signals: bool,
    pub(super) readiness: Readiness,
}

impl Publication {
    /// Returns what routes and background work need to know of the daemon.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Sets further options of the [`Guard`], as [`Builder::guard`](super::Builder::guard) does.
    #[must_use]
    pub fn guard(mut self, options: impl FnOnce(Guard) -> Guard) -> Self {
        self.guard = options(self.guard);
        self
    }

    /// Returns the guard as a layer. What is behind it counts as the daemon's open work, and gets no new work once the daemon
    /// stands down (CONV-10).
    pub fn layer(&self) -> PublicationLayer {
        PublicationLayer { shared: self.shared.clone(), guard: self.guard.clone() }
    }

    /// Publishes, and follows the record until the daemon has stood down: open work has ended, or the drain bound is over. The
    /// server must answer when this is called, and go on until it has returned.
    ///
    /// # Cancel safety
    /// A call that is dropped follows the record no more, which stays. The server must end then.
    ///
    /// # Errors
    /// Fails if the record or a stream's file cannot be written ([`Error::State`]), if the daemon yields to one that cannot be
    /// asked ([`Error::Unreachable`]), or if signals cannot be received ([`Error::Signals`]).
    pub async fn run(mut self) -> Result<Reason, Error> {
        let signals = if self.signals { Some(Signals::new().map_err(Error::Signals)?) } else { None };
        // It ends with this call, also if that is dropped.
        let mut stopping = JoinSet::new();
        if let Some(signals) = signals {
            stopping.spawn(signals.forward(self.shared.clone()));
        }
        let ended = drive(&self.shared, self.watch, self.drain, &mut self.readiness).await;
        self.shared.failure().map_or(ended, |error| Err(error.into()))
    }
}

/// The [`Guard`] of a [`Publication`], which counts what it lets through.
#[derive(Clone, Debug)]
pub struct PublicationLayer {
    shared: Arc<Shared>,
    guard: Guard,
}

impl<S> Layer<S> for PublicationLayer {
    type Service = Guarded<Admit<S>>;

    fn layer(&self, service: S) -> Self::Service {
        self.guard.layer(Admit { shared: self.shared.clone(), service })
    }
}

/// The pipe on which the launcher waits, if there is one. It is closed after the first word.
#[derive(Debug)]
pub(super) struct Readiness(pub(super) Option<File>);

impl Readiness {
    pub(super) fn say(&mut self, word: &str) {
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
                _ = self.interrupt.recv() => shared.stop("signal"),
                _ = self.terminate.recv() => shared.stop("signal"),
                _ = self.quit.recv() => shared.stop("signal"),
                _ = self.processor_time.recv() => shared.stop("signal"),
                // LIFE-36: a lost terminal changes nothing; a user who sends it wants the files read again.
                _ = self.hangup.recv() => shared.changed.notify_one(),
            }
        }
    }
}

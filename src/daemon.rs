//! The daemon's runtime: listens, publishes, re-reads by notification and interval, stands down, drains, removes its
//! record by take-verify-leave. It performs what [`Claim`](local_daemon_proto::claim::Claim) asks for; the decisions are
//! all there.

mod admission;
mod bind;
mod builder;
mod conditions;
mod driver;
mod patience;
mod publication;
mod serve;
mod shared;
mod strangers;
mod streams;
mod timer;
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Limited;
use local_daemon_proto::claim::Reason;
use local_daemon_proto::gate::ParseProtocolError;
use local_daemon_proto::registration::LoopbackUrl;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tower_layer::Layer;
use tower_service::Service;

pub use self::builder::Builder;
pub use self::patience::{RequestBody, Silent};
pub use self::publication::{Publication, PublicationLayer};
pub use self::serve::Admit;
use self::serve::accept;
pub use self::shared::Handle;
use crate::perimeter::Guard;
pub use crate::platform::listen_fds;
use crate::state_directory::{FileError, NoHomeError, ParseComponentError};
use crate::streams::Hub;

/// How long open work may go on after the daemon began to stand down, unless told otherwise (CONV-8).
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// A listener or an address of the product's own cannot be the daemon's.
    #[error("a daemon cannot listen at {address}: {kind}")]
    Listener {
        /// Its address.
        address: SocketAddr,
        /// What is wrong with it.
        kind: ListenerErrorKind,
    },
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

/// What is wrong with a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerErrorKind {
    /// It is a socket of another type, or one that connects.
    #[error("it is not a listening socket of TCP")]
    NotListening,
    /// Others than this host could reach it (PUB-1), or it is an address of loopback that no record can have (REG-5).
    #[error("it is neither 127.0.0.1 nor [::1]")]
    NotLoopback,
    /// Other sockets may be bound to the same port (PUB-2).
    #[error("it shares its port (SO_REUSEPORT)")]
    Shared,
    /// A daemon has one port.
    #[error("another listener has another port")]
    OtherPort,
    /// Another listener has this address.
    #[error("it was given more than once")]
    Repeated,
    /// None is on 127.0.0.1, which this host has (REG-5).
    #[error("there is none on 127.0.0.1")]
    NoIpv4,
}

impl Error {
    /// Returns the process's exit status: 2 wrong usage, 15 the state directory, 17 no way to reach a daemon, 1 anything else.
    pub const fn exit_status(&self) -> i32 {
        match self {
            Self::Component(_) | Self::Protocol(_) | Self::Listener { .. } => 2,
            Self::Home(_) | Self::State(_) => 15,
            Self::Unreachable { .. } | Self::NoLoopback(_) => 17,
            Self::Listen(_) | Self::Signals(_) => 1,
        }
    }
}

/// Returns the exit status of a process that is a daemon, and writes the error to standard error if it failed (CONV-12).
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use local_daemon::Daemon;
/// use local_daemon::daemon::exit_code;
///
/// # async fn run() -> ExitCode {
/// let router = axum::Router::new();
/// exit_code(Daemon::builder("acme", "acme/1").stop_on_signals(true).serve(router).await)
/// # }
/// ```
pub fn exit_code(ended: Result<Reason, Error>) -> ExitCode {
    let status = match ended {
        Ok(reason) => reason.exit_status(),
        Err(error) => {
            // Best effort: there may be no one who reads it.
            let _ = writeln!(io::stderr(), "{error}");
            error.exit_status()
        }
    };
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A daemon that listens and has not published yet.
///
/// ```no_run
/// use axum::Router;
/// use axum::routing::get;
/// use local_daemon::Daemon;
///
/// # async fn run() -> Result<(), local_daemon::daemon::Error> {
/// let daemon = Daemon::builder("acme", "acme/1").version("1.4.0").stop_on_signals(true).start().await?;
/// let url = daemon.handle().url();
/// let router = Router::new().route("/v1/hello", get(async move || format!("hello from {url}")));
/// let reason = daemon.serve(router).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Daemon {
    publication: Publication,
    listeners: Vec<TcpListener>,
}

impl Daemon {
    /// Returns a builder for a daemon of `component` (the state directory's name) that speaks `protocol` (`name/N`).
    pub fn builder(component: impl Into<String>, protocol: impl Into<String>) -> Builder {
        Builder::new(component.into(), protocol.into())
    }

    /// Returns what routes and background work need to know of the daemon.
    pub fn handle(&self) -> Handle {
        self.publication.handle()
    }

    /// Makes an event stream: see [`Handle::events`].
    ///
    /// # Panics
    /// As [`Hub::new`].
    pub fn events(&self, topics: impl IntoIterator<Item = &'static str>) -> Arc<Hub> {
        self.handle().events(topics)
    }

    /// Sets further options of the [`Guard`], as [`Builder::guard`] does.
    #[must_use]
    pub fn guard(mut self, options: impl FnOnce(Guard) -> Guard) -> Self {
        self.publication = self.publication.guard(options);
        self
    }

    /// Serves, publishes, and runs until it stands down. Every request passes the [`Guard`] first.
    ///
    /// # Cancel safety
    /// A call that is dropped ends the daemon as a kill ends its process: its record stays, and nothing answers there.
    ///
    /// # Errors
    /// Fails if the record or a stream's file cannot be written ([`Error::State`]), if the daemon yields to one that cannot be
    /// asked ([`Error::Unreachable`]), or if signals cannot be received ([`Error::Signals`]).
    pub async fn serve<S, B>(self, service: S) -> Result<Reason, Error>
    where
        S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let service = self.publication.layer().layer(service);
        let close = watch::channel(false).0;
        // A set aborts its tasks when it is dropped, and that is when this call is.
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(self.listeners, service, close.clone()));
        let ended = self.publication.run().await;
        // Requests that have arrived while the record was removed are read, and refused, before their connections end (LIFE-9).
        yield_now().await;
        close.send_replace(true);
        // The task ends by itself once it is told to close.
        accepting.join_next().await;
        ended
    }
}

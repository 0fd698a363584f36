//! Connections: accepted, served behind the guard, counted, and closed within the drain bound.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use local_daemon_proto::registration::MAX_BYTES;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_service::Service;

use super::patience::{Patient, RequestBody};
use super::shared::{FLUSH_BOUND, Shared};
use crate::{perimeter, platform};

/// How long a client may take over the head of its request (HS-10, PER-33); others are served meanwhile (HS-11).
const HEAD_BOUND: Duration = Duration::from_secs(10);
/// The most headers of a request: as many as fit into the 8 KiB that are served (PER-29).
const MOST_HEADERS: usize = 2048;
/// So many connections at a time leave memory behind that is worth giving back.
const CROWD: usize = 256;

/// Accepts until told to close; then lets written answers leave.
pub(super) async fn accept<S, B>(listeners: Vec<TcpListener>, service: S, close: watch::Sender<bool>)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connections = JoinSet::new();
    let mut closing = close.subscribe();
    let limit = connection_limit();
    // The most since memory was last given back.
    let mut most = 0;
    loop {
        let accepted = tokio::select! {
            () = told(&mut closing) => break,
            Some(_) = connections.join_next() => {
                if most >= CROWD && connections.len() < most / 8 {
                    platform::give_memory_back();
                    most = connections.len();
                }
                continue;
            }
            accepted = accept_any(&listeners) => accepted,
        };
        match accepted {
            // PER-31: told so by the connection alone, whatever it would have asked.
            Ok((stream, _)) if connections.len() >= limit => turn_away(&stream),
            Ok((stream, _)) => {
                // Best effort: a small answer leaves at once.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(
                    TokioIo::new(Patient::new(stream)),
                    service.clone(),
                    close.subscribe(),
                ));
                most = most.max(connections.len());
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: accepting again at once would only spin.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listeners);
    let flushed = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FLUSH_BOUND, flushed).await;
    connections.shutdown().await;
}

async fn accept_any(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(context));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// How many connections are open at once: at least the 128 of PER-29, and so many that descriptors are left for files.
fn connection_limit() -> usize {
    let descriptors = platform::most_descriptors().unwrap_or(usize::MAX);
    (descriptors / 4 * 3).clamp(128, 16_384)
}

/// Answers 503 to whatever comes; a fresh connection has room for that much.
fn turn_away(stream: &TcpStream) {
    const BODY: &str = r#"{"title":"Service Unavailable","status":503,"code":"overloaded","detail":"Too many connections are open."}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    // Best effort, as every word to somebody who may be gone.
    let _ = stream.try_write(answer.as_bytes());
    tracing::debug!("a connection beyond the limit was turned away");
}

async fn told(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the daemon with it.
    let _ = closing.wait_for(|close| *close).await;
}

async fn connection<S, B>(io: TokioIo<Patient>, service: S, mut closing: watch::Receiver<bool>)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        async move {
            poll_fn(|context| service.poll_ready(context)).await?;
            service.call(request.map(RequestBody::new)).await
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_BOUND)
        // PER-30: what does not fit is 431 or 414, and no more than this of it is held.
        .max_buf_size(MAX_BYTES)
        .max_headers(MOST_HEADERS)
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
    // PER-34: whatever one connection ends by, it ends alone.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Lets no new work in once the daemon stands down, and counts what is open.
#[derive(Clone)]
pub(super) struct Admit<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) service: S,
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
    type Future = Admitted<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // CONV-10: no new work from the moment it knows.
        match Open::enter(&self.shared) {
            None => Admitted::Draining,
            Some(open) => Admitted::Open { answer: self.service.call(request), open: Some(open) },
        }
    }
}

pin_project! {
    /// The answer of a daemon that serves, or of one that stands down.
    #[project = Pinned]
    pub(super) enum Admitted<F> {
        Draining,
        Open {
            #[pin]
            answer: F,
            open: Option<Open>,
        },
    }
}

impl<F, B> Future for Admitted<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<Either<Full<Bytes>, Counted<B>>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project() {
            Pinned::Draining => perimeter::problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "this daemon stands down; read the registration again",
            )
            .map(Either::Left),
            Pinned::Open { answer, open } => {
                let answer = ready!(answer.poll(context))?;
                let open = open.take();
                answer.map(|body| Either::Right(Counted { body, _open: open }))
            }
        }))
    }
}

/// One open request.
pub(super) struct Open(Arc<Shared>);

impl Open {
    fn enter(shared: &Arc<Shared>) -> Option<Self> {
        shared.admission.enter().then(|| Self(shared.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.admission.leave() {
            self.0.emptied.notify_one();
        }
    }
}

pin_project! {
    /// A body that counts as open until it is dropped.
    pub(super) struct Counted<B> {
        #[pin]
        body: B,
        _open: Option<Open>,
    }
}

impl<B: Body<Data = Bytes>> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

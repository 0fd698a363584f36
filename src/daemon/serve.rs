//! Connections: accepted, served behind the guard, counted, and closed within the drain bound.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use local_daemon_proto::handshake;
use local_daemon_proto::registration::MAX_BYTES;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinSet, coop, yield_now};
use tokio::time::sleep;
use tower_service::Service;

use super::patience::{Patient, RequestBody, discard_arrived, linger};
use super::shared::{FLUSH_BOUND, Shared};
use super::strangers::{Limits, Place, Strangers, User, Verdict};
use super::timer::Timer;
use crate::perimeter::{self, Answer, Caller, Guarded, Tamed};
use crate::platform::{self, Peers};

/// How long a client may take over the head of its request (HS-10, PER-33); others are served meanwhile (HS-11). It is also how
/// long a connection waits for its next request: longer than the 5 s of HS-34.
const HEAD_BOUND: Duration = Duration::from_secs(10);
/// After this many concurrent connections have closed, memory is returned to the system.
const TRIM_THRESHOLD: usize = 256;
/// How many connections the kernel keeps until they are accepted: the more, the later it drops those of the daemon's user.
const LISTEN_BACKLOG: i32 = 4096;
/// This many strangers are let in before the system is asked for their users; they count as the daemon's own user's.
const STRANGERS_BEFORE_ASKING: usize = 16;
/// The most strangers of other users: each may fill a buffer of twice [`MAX_BYTES`].
const MAX_STRANGERS_OF_OTHERS: usize = 64;
/// The most strangers if the system does not report their users: the daemon's own user may need 128 (PER-29).
const MAX_STRANGERS_OF_UNKNOWN: usize = 256;
/// How long after a failure to accept another one is the same condition, and not logged (LIFE-40, PER-47).
const ACCEPT_FAILURE_INTERVAL: Duration = Duration::from_mins(1);
/// How many requests of strangers are served before other connections have their turn.
const MAX_STRANGER_REQUESTS: usize = 8;

/// Accepts until told to close; then lets written answers leave.
pub(super) async fn accept<S, B>(
    listeners: Vec<TcpListener>,
    service: Guarded<Admit<S>>,
    close: watch::Sender<bool>,
) where
    S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    for listener in &listeners {
        // Best effort: a shorter queue serves as well while no one floods it.
        let _ = rustix::net::listen(listener, LISTEN_BACKLOG);
    }
    let mut connections = JoinSet::new();
    let mut closing = close.subscribe();
    let mut entrance = Entrance::new();
    // The most connections since memory was last returned.
    let mut most = 0;
    let mut failed: Option<Instant> = None;
    loop {
        let arrived = tokio::select! {
            biased;
            () = wait_for_close(&mut closing) => break,
            arrived = coop::unconstrained(future::poll_fn(|context| arrivals(&listeners, entrance.round, context))) => arrived,
            Some(_) = connections.join_next() => {
                if most >= TRIM_THRESHOLD && connections.len() < most / 8 {
                    platform::give_memory_back();
                    most = connections.len();
                }
                continue;
            }
        };
        let mut evicted = Vec::new();
        match arrived {
            Ok(arrived) => {
                let mut arrived: Vec<_> =
                    arrived.into_iter().filter_map(|stream| entrance.admit(stream)).collect();
                evicted = arrived.extract_if(.., Connection::is_evicted).collect();
                for connection in arrived {
                    connections.spawn(connection.serve(service.clone(), close.subscribe()));
                }
            }
            Err(error) => {
                let before = failed.replace(Instant::now());
                if before.is_none_or(|before| before.elapsed() > ACCEPT_FAILURE_INTERVAL) {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                // Out of descriptors, most likely: accepting again at once would only spin.
                sleep(Duration::from_millis(50)).await;
            }
        }
        most = most.max(connections.len());
        // Those that were let in are read before the next ones arrive, and those that were evicted have closed.
        yield_now().await;
        // One of the same round that was evicted is served if its request has already arrived.
        for connection in evicted.into_iter().filter(Connection::has_sent_request) {
            connections.spawn(connection.serve(service.clone(), close.subscribe()));
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listeners);
    let flushed = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FLUSH_BOUND, flushed).await;
    connections.shutdown().await;
}

/// Accepts all connections that wait, but no more than `round` from each listener.
fn arrivals(
    listeners: &[TcpListener],
    round: usize,
    context: &mut Context<'_>,
) -> Poll<io::Result<Vec<TcpStream>>> {
    let mut arrived = Vec::new();
    let mut failure = None;
    let mut are_all_pending = true;
    for listener in listeners {
        for _ in 0..round {
            let accepted = listener.poll_accept(context);
            are_all_pending &= accepted.is_pending();
            match accepted {
                Poll::Ready(Ok((stream, _))) => arrived.push(stream),
                // Its client has gone.
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Poll::Ready(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
    }
    match failure {
        Some(error) if arrived.is_empty() => Poll::Ready(Err(error)),
        _ if are_all_pending => Poll::Pending,
        _ => Poll::Ready(Ok(arrived)),
    }
}

/// Decides about each new connection.
struct Entrance {
    strangers: Arc<Mutex<Census>>,
    /// `None` if the system does not report the users of connections.
    peers: Option<Peers>,
    me: u32,
    turns: Arc<Semaphore>,
    /// How many connections are accepted before those that are open have their turn.
    round: usize,
}

/// A connection is evicted by dropping its sender.
type Census = Strangers<oneshot::Sender<Infallible>>;

impl Entrance {
    fn new() -> Self {
        let descriptors = platform::most_descriptors().unwrap_or(usize::MAX);
        // At least the 128 of PER-29; the rest of the descriptors is for files and for connections that are being evicted.
        let all = (descriptors / 4 * 3).clamp(128, 16_384);
        let peers = Peers::open()
            .inspect_err(
                |error| tracing::info!(%error, "the system does not report the users of connections"),
            )
            .ok();
        let others = if peers.is_some() { MAX_STRANGERS_OF_OTHERS } else { MAX_STRANGERS_OF_UNKNOWN };
        let limits = Limits { all, others: others.min(all / 2), reserve: all / 16 };
        Self {
            strangers: Arc::new(Mutex::new(Strangers::new(limits))),
            peers,
            me: platform::user(),
            turns: Arc::new(Semaphore::new(MAX_STRANGER_REQUESTS)),
            round: (descriptors / 8).clamp(16, 512),
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Option<Connection> {
        let (hold, evicted) = oneshot::channel();
        let is_asked = {
            let strangers = lock(&self.strangers);
            strangers.is_full() || strangers.count() >= STRANGERS_BEFORE_ASKING
        };
        let user = if is_asked { self.user(&stream) } else { User::Owner };
        let verdict = lock(&self.strangers).admit(user, Instant::now(), hold);
        let (place, is_handshake_only) = match verdict {
            Verdict::Served(place) => (place, false),
            Verdict::HandshakeOnly(place) => (place, true),
            Verdict::Overloaded => {
                turn_away(&stream);
                return None;
            }
            Verdict::Closed => return None,
        };
        // Best effort: a small answer leaves at once.
        let _ = stream.set_nodelay(true);
        let guest = Guest {
            strangers: self.strangers.clone(),
            place,
            turns: self.turns.clone(),
            is_of_other: matches!(user, User::Other(_)),
            is_handshake_only,
            has_authenticated: AtomicBool::new(false),
            has_last_authenticated: AtomicBool::new(false),
            has_sent_head: AtomicBool::new(false),
        };
        Some(Connection { stream, guest: Arc::new(guest), evicted: Some(evicted) })
    }

    fn user(&mut self, stream: &TcpStream) -> User {
        let ends = (stream.peer_addr(), stream.local_addr());
        let (Some(peers), (Ok(peer), Ok(own))) = (&mut self.peers, ends) else {
            return User::Unknown;
        };
        match peers.user(peer, own) {
            Some(user) if user == self.me => User::Owner,
            Some(user) => User::Other(user),
            None => User::Unknown,
        }
    }
}

fn lock(strangers: &Mutex<Census>) -> MutexGuard<'_, Census> {
    // No holder of this lock panics half-way.
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers 503 before any request is read (PER-31). The send buffer of a new connection has room for it.
fn turn_away(stream: &TcpStream) {
    let (code, detail) = OVERLOADED;
    let body =
        serde_json::json!({"title": "Service Unavailable", "status": 503, "code": code, "detail": detail});
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Best effort: the client may be gone.
    let _ = stream.try_write(answer.as_bytes());
    if perimeter::take_stranger_debug_line() {
        tracing::debug!("a connection beyond the limit was turned away");
    }
}

/// The code and the detail of a refusal because too many connections are open.
const OVERLOADED: (&str, &str) = ("overloaded", "Too many connections are open.");

async fn wait_for_close(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the daemon with it.
    let _ = closing.wait_for(|close| *close).await;
}

/// Waits for the same from a task that is woken for each request of its connection: what waits is polled again only after a
/// change, or by another waker.
async fn wait_for_close_of_connection(closing: &mut watch::Receiver<bool>) {
    let changes = closing.clone();
    let mut waits = pin!(wait_for_close(closing));
    let mut known: Option<Waker> = None;
    future::poll_fn(|context| {
        let is_known = known.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if is_known && matches!(changes.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        known = Some(context.waker().clone());
        waits.as_mut().poll(context)
    })
    .await;
}

/// What is known of one connection, which the census counts until this is dropped.
struct Guest {
    strangers: Arc<Mutex<Census>>,
    place: Place,
    /// One is held while a stranger's request waits for its turn.
    turns: Arc<Semaphore>,
    is_of_other: bool,
    /// Whether it may ask for the handshake alone.
    is_handshake_only: bool,
    /// Whether any request on it has authenticated.
    has_authenticated: AtomicBool,
    /// Whether its last request has authenticated.
    has_last_authenticated: AtomicBool,
    has_sent_head: AtomicBool,
}

impl Guest {
    fn has_authenticated(&self) -> bool {
        self.has_authenticated.load(Ordering::Acquire)
    }

    /// Notes that a request has arrived, and returns whether it has to wait for its turn: each request of another user's
    /// stranger does, and each but the first of any other stranger.
    fn note_request(&self) -> bool {
        self.has_last_authenticated.store(false, Ordering::Release);
        let is_first = !self.has_sent_head.load(Ordering::Acquire);
        if is_first {
            self.has_sent_head.store(true, Ordering::Release);
            lock(&self.strangers).note_head(self.place);
        }
        !self.has_authenticated() && (!is_first || self.is_of_other)
    }

    /// Notes that the request has authenticated: from now on the connection is not evicted (HS-34).
    fn note_authenticated(&self) {
        self.has_last_authenticated.store(true, Ordering::Release);
        if !self.has_authenticated() {
            self.has_authenticated.store(true, Ordering::Release);
            lock(&self.strangers).note_authenticated(self.place);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut strangers = lock(&self.strangers);
        if self.has_authenticated() {
            strangers.leave_authenticated();
        } else {
            strangers.leave(self.place);
        }
    }
}

struct Connection {
    stream: TcpStream,
    guest: Arc<Guest>,
    /// Ends when the connection is evicted; `None` if that was seen before.
    evicted: Option<oneshot::Receiver<Infallible>>,
}

impl Connection {
    /// Whether it was evicted for others that arrived with it.
    fn is_evicted(&mut self) -> bool {
        // A receiver that has ended must not be polled again.
        self.evicted
            .take_if(|evicted| matches!(evicted.try_recv(), Err(TryRecvError::Closed)))
            .is_some()
    }

    /// Whether the kernel holds what may be a whole request, of at most 8 KiB.
    fn has_sent_request(&self) -> bool {
        rustix::io::ioctl_fionread(&self.stream).is_ok_and(|bytes| (1..=8 * 1024).contains(&bytes))
    }

    async fn serve<S, B>(self, service: Guarded<Admit<S>>, mut closing: watch::Receiver<bool>)
    where
        S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { stream, guest, evicted } = self;
        let service = Guests {
            service: RefCell::new(service),
            guest: guest.clone(),
            is_body_left: Arc::default(),
        };
        let (stream, mut half_closed) = Patient::new(stream);
        // `hyper` adds `Date` (PER-52), and sends no interim answer to an HTTP/1.0 client (PER-53).
        let served = http1::Builder::new()
            .timer(Timer::default())
            .header_read_timeout(HEAD_BOUND)
            // PER-30: what does not fit is 431 or 414, and no more than this of it is held. `hyper` takes 100 header lines
            // (PER-29) unless it is given another number, for which it allocates at each request.
            .max_buf_size(MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let evicted = async {
            // It ends when the sender is dropped, which never sends.
            if let Some(evicted) = evicted {
                let _ = evicted.await;
            }
            // A request that had already arrived was read before, and may have authenticated.
            if guest.has_authenticated() {
                future::pending::<()>().await;
            }
        };
        let ended = async {
            // Boxed, so that its memory is given back before the rest of the request is waited for.
            let mut served = Box::pin(served);
            let ended = tokio::select! {
                biased;
                ended = &mut served => ended,
                () = wait_for_close_of_connection(&mut closing) => {
                    // PER-46
                    if !guest.has_last_authenticated.load(Ordering::Acquire) {
                        return;
                    }
                    served.as_mut().graceful_shutdown();
                    served.as_mut().await
                }
            };
            drop(served);
            // PER-34: an error on one connection affects no other.
            if let Err(error) = ended
                && perimeter::take_stranger_debug_line()
            {
                tracing::debug!(%error, "a connection ended early");
            }
            // A connection that was upgraded is not served here any more.
            let Ok(stream) = half_closed.try_recv() else {
                return;
            };
            tokio::select! {
                biased;
                () = wait_for_close(&mut closing) => discard_arrived(&stream),
                () = linger(&stream, guest.has_authenticated()) => {}
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = evicted => {}
        }
    }
}

/// What serves the requests of one connection.
struct Guests<S> {
    // A connection has one request at a time. To clone the service for each would cost three reference counts.
    service: RefCell<Guarded<Admit<S>>>,
    guest: Arc<Guest>,
    /// Whether so much of a body was left unread that the connection has to end.
    is_body_left: Arc<AtomicBool>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guests<S>
where
    S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = Served<S::Future, B>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let guest = &self.guest;
        let is_body_left = self.is_body_left.clone();
        // `hyper` reads a request once the body of the last one has ended or was dropped.
        is_body_left.store(false, Ordering::Release);
        let has_to_wait = guest.note_request();
        if guest.is_handshake_only && request.uri().path() != handshake::PATH {
            return Served::Overloaded;
        }
        let request = request.map(|body| RequestBody::new(body, is_body_left.clone()));
        let mut service = self.service.borrow_mut();
        let is_ready = service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready();
        if has_to_wait || !is_ready {
            let (mut service, guest) = (service.clone(), guest.clone());
            let answer = Box::pin(async move {
                if has_to_wait {
                    // However many requests strangers send at once, only a few are served before others have their turn.
                    let _turn = guest.turns.acquire().await;
                    yield_now().await;
                }
                future::poll_fn(|context| service.poll_ready(context)).await?;
                let answer = service.call(request);
                if answer.is_authenticated() {
                    guest.note_authenticated();
                }
                answer.await
            });
            return Served::Waiting { answer, is_body_left };
        }
        let answer = service.call(request);
        if answer.is_authenticated() {
            guest.note_authenticated();
        }
        Served::Answering { answer, is_body_left }
    }
}

type AnswerBody<B> = Tamed<Either<Full<Bytes>, Counted<B>>>;
type WaitingAnswer<B> = Pin<Box<dyn Future<Output = Result<Response<AnswerBody<B>>, Infallible>> + Send>>;

pin_project! {
    /// The answer to one request of a connection.
    #[project = PinnedServed]
    enum Served<F, B> {
        Overloaded,
        Waiting { answer: WaitingAnswer<B>, is_body_left: Arc<AtomicBool> },
        Answering {
            #[pin]
            answer: Answer<Admitted<F>>,
            is_body_left: Arc<AtomicBool>,
        },
    }
}

impl<F, B> Future for Served<F, B>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (answer, is_body_left) = match self.project() {
            PinnedServed::Overloaded => return Poll::Ready(Ok(overloaded().map(Either::Left))),
            PinnedServed::Waiting { answer, is_body_left } => {
                (ready!(answer.as_mut().poll(context)), is_body_left)
            }
            PinnedServed::Answering { answer, is_body_left } => (ready!(answer.poll(context)), is_body_left),
        };
        let mut answer = answer?;
        // PER-55: what comes next on this connection is discarded (PER-49), so the client must not send a request.
        if is_body_left.load(Ordering::Acquire) {
            answer.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(answer))
    }
}

/// Returns the answer to anything but the handshake on a connection of the reserve (PER-31).
fn overloaded() -> Response<Full<Bytes>> {
    let (code, detail) = OVERLOADED;
    let mut answer = perimeter::problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Lets no new work in once the daemon stands down, and counts what is open.
#[derive(Clone, Debug)]
pub struct Admit<S> {
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
        // LIFE-7, PER-46: a request that has not authenticated is not open work.
        let is_work = request.extensions().get() != Some(&Caller::Nobody);
        let open = is_work.then(|| Open::enter(&self.shared)).flatten();
        // CONV-10: no new work from the moment it knows.
        let is_refused = if is_work { open.is_none() } else { self.shared.admission.is_closed() };
        if is_refused {
            Admitted::Draining
        } else {
            Admitted::Open { answer: self.service.call(request), open }
        }
    }
}

pin_project! {
    /// The answer of a daemon that serves, or of one that stands down.
    #[project = Pinned]
    #[derive(Debug)]
    pub enum Admitted<F> {
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
#[derive(Debug)]
pub struct Open(Arc<Shared>);

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
    #[derive(Debug)]
    pub struct Counted<B> {
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

//! The client for asynchronous programs: it finds, proves and starts a daemon as the blocking [`Client`](super::Client) does, and
//! sends its requests by hyper, on connections that have proven themselves (HS-25).
//!
//! Finding and proving read files, take a lock and fork, so they run on a thread for blocking work. A call that is dropped stops
//! there at its next step; see [`Client::connect_or_spawn`] for what it can leave behind.
//!
//! All of it runs within a tokio runtime that has its I/O and its time enabled.
//!
//! ```no_run
//! use http_body_util::{BodyExt, Empty};
//! use hyper::body::Bytes;
//! use local_daemon::Launch;
//! use local_daemon::client::tokio::Client;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client: Client = local_daemon::Client::new("acme", "acme/1")?.into();
//! let daemon = client.connect_or_spawn(&Launch::new("acmed").args(["run", "--yield"])).await?;
//! let hello = daemon.send(http::Request::get("/v1/hello").body(Empty::<Bytes>::new())?).await?;
//! println!("{}: {:?}", hello.status(), hello.into_body().collect().await?.to_bytes());
//! # Ok(()) }
//! ```

mod events;
mod service;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use local_daemon_proto::Credential;
use local_daemon_proto::handshake::Handshake;
use local_daemon_proto::registration::{MAX_BYTES, Registration};
use tokio::net::TcpStream;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout_at;
use zeroize::Zeroizing;

pub use self::events::Events;
pub use self::service::{Service, ServiceError};
use super::attempt::Attempt;
use super::connection::prove;
use super::request::BoxError;
use super::{ConnectError, DEFAULT_TIMEOUT, Launch, RequestError, RequestErrorKind};
use crate::exchange::{Wire, deadline_in};

/// The most connections that are kept for later requests.
const MAX_IDLE: usize = 16;

/// How long a request may take until the head of its answer is there: an extension of the request, 10 s without it. To find a
/// daemon takes a [`Service`] as long as its [`Client`] may take, and time of its own.
///
/// ```
/// use std::time::Duration;
/// use local_daemon::client::tokio::Deadline;
///
/// let request = http::Request::get("/v1/slow").extension(Deadline(Duration::from_secs(60))).body(())?;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline(pub Duration);

/// Finds, proves and if need be starts the daemon of one component, from asynchronous code.
#[derive(Clone, Debug)]
pub struct Client {
    blocking: super::Client,
}

impl From<super::Client> for Client {
    fn from(blocking: super::Client) -> Self {
        Self { blocking }
    }
}

impl Client {
    /// Connects to the daemon that runs; starts nothing. A call that is dropped leaves nothing behind.
    ///
    /// # Errors
    /// [`ConnectError`] with any outcome but `ready` and `spawn-failed`.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let client = self.blocking.clone();
        let connect = move |cancelled: &AtomicBool| Attempt::new(&client, None).until(cancelled).drive();
        Ok(Connection::of(on_thread(connect).await?).await)
    }

    /// Connects to the daemon, starting one if none answers (CONN-15). N calls converge on one daemon.
    ///
    /// # Cancel safety
    /// A call that is dropped stops at its next step, at most 2 s later. It gives its lock back, and starts nothing after that. A
    /// daemon that it has already started runs on: it becomes ready for the next client, or ends by itself.
    ///
    /// # Errors
    /// [`ConnectError`]; `spawn-failed` carries the child's own error.
    pub async fn connect_or_spawn(&self, launch: &Launch) -> Result<Connection, ConnectError> {
        let (client, launch) = (self.blocking.clone(), launch.clone());
        let connect = move |cancelled: &AtomicBool| {
            client.create_directory()?;
            Attempt::new(&client, Some(&launch)).until(cancelled).drive()
        };
        Ok(Connection::of(on_thread(connect).await?).await)
    }

    /// Calls the blocking client, on a thread for that: to stop a daemon, to restart it, or to replace an older one. The call
    /// goes on if this one is dropped.
    ///
    /// ```no_run
    /// use local_daemon::Launch;
    /// use local_daemon::client::tokio::Client;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let launch = Launch::new("acmed").args(["run", "--yield"]);
    /// client.blocking(move |client| client.restart(&launch).map(drop)).await?;
    /// let daemon = client.connect().await?;
    /// # Ok(()) }
    /// ```
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&super::Client) -> T + Send + 'static,
    ) -> T {
        let client = self.blocking.clone();
        on_thread(move |_| call(&client)).await
    }

    /// Returns a service that sends each request to the daemon that runs then.
    pub fn service(&self) -> Service {
        Service::new(self.clone(), None)
    }

    /// Returns a service that sends each request to the daemon that runs then, and starts one if none answers.
    pub fn service_or_spawn(&self, launch: &Launch) -> Service {
        Service::new(self.clone(), Some(launch.clone()))
    }

    /// Returns the events of a stream of the daemon that runs and of those that follow it.
    pub fn events(&self, path: &str) -> Events {
        Events::new(self.clone(), path)
    }
}

/// Runs blocking work on a thread for that. If the call is dropped, the work finds the flag set.
async fn on_thread<T: Send + 'static>(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> T {
    struct Cancel(Arc<AtomicBool>);
    impl Drop for Cancel {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let cancel = Cancel(Arc::default());
    let cancelled = cancel.0.clone();
    match spawn_blocking(move || work(&cancelled)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The body of a request as it is sent, whatever type it had.
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// A daemon that has proven itself. Requests can be sent at the same time: each has a connection to itself, which is kept for
/// later ones, and which the daemon has proven (HS-25). A clone uses the same connections.
///
/// ```no_run
/// use std::time::Duration;
///
/// use http_body_util::Full;
/// use hyper::body::Bytes;
/// use local_daemon::client::tokio::{Client, Deadline};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client: Client = local_daemon::Client::new("acme", "acme/1")?.into();
/// let daemon = client.connect().await?;
/// let upload = http::Request::put("/v1/images/7")
///     .extension(Deadline(Duration::from_secs(60)))
///     .body(Full::new(Bytes::from(vec![0; 5 * 1024 * 1024])))?;
/// println!("{}", daemon.send(upload).await?.status());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: super::Client,
    registration: Registration,
    handshake: Handshake,
    credential: Credential,
    authority: HeaderValue,
    bearer: HeaderValue,
    idle: Mutex<Vec<SendRequest<AnyBody>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("registration", &self.shared.registration)
            .field("handshake", &self.shared.handshake)
            .finish_non_exhaustive()
    }
}

/// A request that was not answered, with the request if nothing of it was sent.
struct Unanswered {
    error: RequestError,
    unsent: Option<Request<AnyBody>>,
}

impl Connection {
    async fn of(connection: super::Connection) -> Self {
        let super::Connection { client, registration, handshake, credential, wire } = connection;
        let mut bearer = Zeroizing::new(String::with_capacity(64));
        bearer.push_str("Bearer ");
        bearer.push_str(&credential.expose());
        let mut bearer = HeaderValue::from_str(&bearer).expect("a credential is ASCII");
        bearer.set_sensitive(true);
        let authority = HeaderValue::from_str(&registration.url.authority()).expect("an authority is ASCII");
        // Without it, the first request opens another one.
        let proven = match wire {
            Some(wire) => sender(wire).await.ok(),
            None => None,
        };
        let shared = Shared {
            client,
            registration,
            handshake,
            credential,
            authority,
            bearer,
            idle: Mutex::new(proven.into_iter().collect()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the record by which the daemon was found.
    pub fn registration(&self) -> &Registration {
        &self.shared.registration
    }

    /// Returns what the daemon said of itself.
    pub fn handshake(&self) -> &Handshake {
        &self.shared.handshake
    }

    /// Returns the events of a stream of this daemon and of those that follow it.
    pub fn events(&self, path: &str) -> Events {
        Events::new(self.shared.client.clone().into(), path)
    }

    /// Sends a request and returns its answer as soon as the head is there, also one that comes before the whole body was sent.
    /// Bodies stream both ways.
    ///
    /// The host and the bearer are added, and replace those of the request; of its URI only the path and the query count. Its
    /// [`Deadline`] ends with the head of the answer: the body comes as long as it comes.
    ///
    /// # Cancel safety
    /// A call that is dropped closes its connection. The daemon may have done what was asked.
    ///
    /// # Errors
    /// [`RequestError`]. An error status is an answer.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, RequestError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.send_any(boxed(request)).await.map_err(|unanswered| unanswered.error)
    }

    async fn send_any(&self, request: Request<AnyBody>) -> Result<Response<Incoming>, Unanswered> {
        let deadline = request.extensions().get::<Deadline>().map_or(DEFAULT_TIMEOUT, |deadline| deadline.0);
        let ends = deadline_in(deadline);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let failed = |kind, source| self.error(&method, &uri, kind, source);
        let request = match self.prepare(request) {
            Ok(request) => request,
            Err(why) => {
                return Err(Unanswered { error: failed(RequestErrorKind::Invalid(why), None), unsent: None });
            }
        };
        match timeout_at(ends.into(), self.exchange(request, ends)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err((kind, source, unsent))) => Err(Unanswered { error: failed(kind, source), unsent }),
            Err(_) => Err(Unanswered { error: failed(RequestErrorKind::TimedOut, None), unsent: None }),
        }
    }

    fn error(
        &self,
        method: &Method,
        uri: &Uri,
        kind: RequestErrorKind,
        source: Option<BoxError>,
    ) -> RequestError {
        let url = self.shared.registration.url;
        RequestError::new(kind, format!("{method} {url}{}", uri.path()), source)
    }

    fn prepare(&self, request: Request<AnyBody>) -> Result<Request<AnyBody>, &'static str> {
        if request.method() == Method::CONNECT {
            return Err("the method is none that can be sent");
        }
        let path = request.uri().path_and_query().filter(|path| path.as_str().starts_with('/'));
        let path = path.cloned().ok_or("the path does not begin with `/`")?;
        let (mut head, body) = request.into_parts();
        head.uri = Uri::from(path);
        head.version = Version::HTTP_11;
        head.headers.insert(HOST, self.shared.authority.clone());
        head.headers.insert(AUTHORIZATION, self.shared.bearer.clone());
        head.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        Ok(Request::from_parts(head, body))
    }

    async fn exchange(
        &self,
        mut request: Request<AnyBody>,
        ends: Instant,
    ) -> Result<Response<Incoming>, (RequestErrorKind, Option<BoxError>, Option<Request<AnyBody>>)> {
        loop {
            let (mut sender, is_new) = match self.kept().await {
                Some(sender) => (sender, false),
                None => match self.prove(ends).await {
                    Ok(sender) => (sender, true),
                    Err((kind, source)) => return Err((kind, source, Some(request))),
                },
            };
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    self.keep(sender);
                    return Ok(answer);
                }
                Err(mut failed) => match failed.take_message() {
                    // The daemon closed the connection before.
                    Some(unsent) if !is_new => request = unsent,
                    Some(unsent) => return Err((RequestErrorKind::Gone, None, Some(unsent))),
                    None => {
                        let error = failed.into_error();
                        return Err((kind_of(&error), Some(error.into()), None));
                    }
                },
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SendRequest<AnyBody>>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a connection that waits for a request.
    async fn kept(&self) -> Option<SendRequest<AnyBody>> {
        let take = || {
            let mut idle = self.idle();
            idle.retain(|sender| !sender.is_closed());
            let ready = idle.iter().rposition(SendRequest::is_ready);
            (ready.map(|place| idle.swap_remove(place)), idle.is_empty())
        };
        match take() {
            (None, false) => {
                // One whose answer was just read to its end may not have noticed it yet.
                yield_now().await;
                take().0
            }
            (ready, _) => ready,
        }
    }

    fn keep(&self, sender: SendRequest<AnyBody>) {
        let mut idle = self.idle();
        if idle.len() == MAX_IDLE
            && let Some(busy) = idle.iter().position(|sender| !sender.is_ready())
        {
            // Its answer may be a stream without end; that goes on without the sender, but keeps no place from others.
            idle.remove(busy);
        }
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    /// Opens a connection on which the daemon proves itself (HS-25).
    async fn prove(
        &self,
        ends: Instant,
    ) -> Result<SendRequest<AnyBody>, (RequestErrorKind, Option<BoxError>)> {
        let shared = self.shared.clone();
        let wire = on_thread(move |_| prove(&shared.registration, &shared.credential, ends)).await?;
        sender(wire).await.map_err(|error| (RequestErrorKind::Gone, Some(error)))
    }
}

/// Returns what sends requests on a connection that has proven itself.
async fn sender(wire: Wire) -> Result<SendRequest<AnyBody>, BoxError> {
    let stream = wire.into_stream().ok_or("it was closed after its proof")?;
    stream.set_nonblocking(true)?;
    let io = TokioIo::new(TcpStream::from_std(stream)?);
    let (sender, connection) = Builder::new().max_buf_size(MAX_BYTES).handshake(io).await?;
    tokio::spawn(async move {
        // A request learns of its own failure.
        let _ = connection.await;
    });
    Ok(sender)
}

fn boxed<B>(request: Request<B>) -> Request<AnyBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    request.map(|body| {
        body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
            .map_err(Into::into)
            .boxed_unsync()
    })
}

fn kind_of(error: &hyper::Error) -> RequestErrorKind {
    if error.is_user() {
        RequestErrorKind::Body
    } else if error.is_parse_too_large() {
        RequestErrorKind::TooLarge
    } else if error.is_parse() {
        RequestErrorKind::Malformed
    } else {
        RequestErrorKind::Broken
    }
}

//! Daemons for tests: real ones, fakes and squatters, each on a state directory of its own.
//!
//! Nothing here reads the environment or the home directory, so that tests can run at the same time, in one process. Each
//! daemon runs on a thread with a runtime of its own and ends when its value is dropped.
//!
//! A daemon is tested by its own client:
//!
//! ```
//! use local_daemon::testing::Home;
//! use axum::{Router, routing::get};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let home = Home::new("acme", "acme/1")?;
//! let daemon = home.start(Router::new().route("/v1/hello", get(async || "hello")))?;
//! assert_eq!(home.client().connect()?.get("/v1/hello")?.body, b"hello");
//! daemon.stop()?;
//! # Ok(()) }
//! ```
//!
//! A client is tested against a [`FakeDaemon`], which proves itself and answers what the test says, and against a
//! [`Squatter`], which has the port of a record and proves nothing.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use local_daemon_proto::claim::Reason;
use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl, Registration};
use tempfile::TempDir;
use tower_service::Service;

use crate::client::{Client, SetupError};
use crate::daemon::{Builder, Daemon, Error, Handle, RequestBody};
use crate::state_directory::{FileError, StateDir, fresh_id};

/// How long a test waits for a daemon to publish or to end.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A test could not set up what it needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// No temporary directory could be made, or no socket or thread.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The component or the protocol is not one.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A file of the state directory could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The daemon could not start or go on.
    #[error(transparent)]
    Daemon(#[from] Error),
    /// The daemon ended before it had published.
    #[error("the daemon ended before it had published: {}", .0.as_str())]
    Ended(Reason),
    /// The daemon neither published nor ended in time.
    #[error("the daemon neither published nor ended within 30 s")]
    TimedOut,
}

/// A state directory of its own, which is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Home {
    state_dir: PathBuf,
    component: String,
    protocol: String,
    client: Client,
    // Removed last.
    _directory: TempDir,
}

impl Home {
    /// Makes a directory for the daemon of `component` that speaks `protocol` (`name/N`).
    ///
    /// # Errors
    /// [`TestError`].
    pub fn new(component: &str, protocol: &str) -> Result<Self, TestError> {
        let directory = tempfile::tempdir()?;
        let state_dir = directory.path().join("state");
        Ok(Self {
            client: Client::at(&state_dir, component, protocol)?,
            state_dir,
            component: component.to_owned(),
            protocol: protocol.to_owned(),
            _directory: directory,
        })
    }

    /// Returns the state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Returns a client of the daemon of this directory. It blocks: a test in a runtime makes a `client::tokio::Client` of it,
    /// or calls it from `tokio::task::spawn_blocking`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns a builder for a daemon of this directory, for [`serve`](Self::serve).
    pub fn builder(&self) -> Builder {
        Daemon::builder(&*self.component, &*self.protocol).state_dir(&self.state_dir)
    }

    /// Starts a daemon, and waits until it has published.
    ///
    /// # Errors
    /// [`TestError`].
    pub fn start<S, B>(&self, service: S) -> Result<TestDaemon, TestError>
    where
        S: Service<Request<Limited<RequestBody>>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.serve(self.builder(), async |daemon| daemon.serve(service).await)
    }

    /// Starts the daemon of a builder on this directory, and waits until it has published. `serve` calls [`Daemon::serve`],
    /// after whatever it needs the daemon's [`Handle`] for. The builder may be the product's own: this sets its state directory.
    ///
    /// ```
    /// use local_daemon::testing::Home;
    /// use axum::Router;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let home = Home::new("acme", "acme/1")?;
    /// let builder = home.builder().version("1.4.0").capabilities(["events"]);
    /// let daemon = home.serve(builder, async |daemon| daemon.serve(Router::new()).await)?;
    /// assert_eq!(daemon.handle().version(), "1.4.0");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`TestError`].
    pub fn serve<F, R>(&self, builder: Builder, serve: F) -> Result<TestDaemon, TestError>
    where
        F: FnOnce(Daemon) -> R + Send + 'static,
        R: Future<Output = Result<Reason, Error>>,
    {
        let builder = builder.state_dir(&self.state_dir);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new().name("test-daemon".to_owned()).spawn(move || {
            runtime.block_on(async {
                let daemon = builder.start().await?;
                let handle = daemon.handle();
                tokio::spawn(async move {
                    handle.published().await;
                    // The test may have given up.
                    let _ = sender.send(handle);
                });
                serve(daemon).await
            })
        })?;
        match receiver.recv_timeout(TEST_TIMEOUT) {
            Ok(handle) => Ok(TestDaemon { handle, thread: Some(thread) }),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(TestError::TimedOut),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(TestError::Ended(joined(thread)?)),
        }
    }

    /// Starts a daemon that proves itself and answers each request by `answer`, also one for a status or a stop. Its answers
    /// pass the guard, as those of any daemon: an error with a line of text or nothing becomes a problem (PER-35).
    ///
    /// ```
    /// use http::{Response, StatusCode};
    /// use local_daemon::testing::Home;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let home = Home::new("acme", "acme/1")?;
    /// let fake = home.fake(|_| {
    ///     let mut answer = Response::new("busy".into());
    ///     *answer.status_mut() = StatusCode::CONFLICT;
    ///     answer
    /// })?;
    /// assert_eq!(home.client().connect()?.get("/v1/jobs")?.status, 409);
    /// assert_eq!(fake.requests()[0].uri(), "/v1/jobs");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`TestError`].
    pub fn fake<F>(&self, answer: F) -> Result<FakeDaemon, TestError>
    where
        F: Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.fake_of(&self.protocol, answer)
    }

    /// Starts a [`fake`](Self::fake) of another protocol: clients find it `incompatible`.
    ///
    /// # Errors
    /// [`TestError`].
    pub fn fake_of<F>(&self, protocol: &str, answer: F) -> Result<FakeDaemon, TestError>
    where
        F: Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        let requests = Arc::default();
        let service = Scripted { answer: Arc::new(answer), requests: Arc::clone(&requests) };
        let builder = Daemon::builder(&*self.component, protocol);
        let daemon = self.serve(builder, async |daemon| daemon.serve(service).await)?;
        Ok(FakeDaemon { daemon, requests })
    }

    /// Publishes a record whose port belongs to a program that proves nothing: clients find it `foreign`.
    ///
    /// # Errors
    /// [`TestError`].
    pub fn squatter(&self) -> Result<Squatter, TestError> {
        self.squat(Some(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"))
    }

    /// Publishes a record whose port belongs to a program that never answers: clients find it `busy`.
    ///
    /// # Errors
    /// [`TestError`].
    pub fn mute_squatter(&self) -> Result<Squatter, TestError> {
        self.squat(None)
    }

    fn squat(&self, answer: Option<&'static [u8]>) -> Result<Squatter, TestError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let directory = StateDir::at(&self.state_dir);
        directory.create()?;
        directory.create_credential()?;
        let record = Registration {
            id: fresh_id(),
            version: String::new(),
            url: LoopbackUrl::new(LoopbackHost::V4, NonZeroU16::new(port).expect("a bound port is not zero")),
            pid: NonZeroU32::new(std::process::id()).expect("a process id is never zero"),
            protocol: Some(self.protocol.clone()),
            socket: None,
            started_at: None,
            world: crate::client::world(),
        };
        directory.publish(&directory.write_temporary(&record)?)?;
        Squatter::start(listener, answer)
    }
}

/// A daemon on a thread of this process. It stops when this is dropped.
#[derive(Debug)]
pub struct TestDaemon {
    handle: Handle,
    thread: Option<JoinHandle<Result<Reason, Error>>>,
}

impl TestDaemon {
    /// Returns the daemon's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Stops the daemon, and waits until it has ended. Returns why it stood down.
    ///
    /// # Errors
    /// Fails if the daemon did.
    ///
    /// # Panics
    /// Panics if the daemon did.
    pub fn stop(self) -> Result<Reason, TestError> {
        self.handle.stop();
        self.ended()
    }

    /// Waits until the daemon has ended by itself: it was displaced, or a request has stopped it.
    ///
    /// # Errors
    /// Fails if the daemon did.
    ///
    /// # Panics
    /// Panics if the daemon did.
    pub fn ended(mut self) -> Result<Reason, TestError> {
        joined(self.thread.take().expect("it is there until the drop"))
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Twice: what is still open does not hold a test up.
            self.handle.stop();
            self.handle.stop();
            // A panic of the daemon was printed by its thread; another one here would hide that of the test.
            let _ = thread.join();
        }
    }
}

fn joined(thread: JoinHandle<Result<Reason, Error>>) -> Result<Reason, TestError> {
    match thread.join() {
        Ok(ended) => Ok(ended?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A daemon that proves itself and answers what a test says.
#[derive(Debug)]
pub struct FakeDaemon {
    daemon: TestDaemon,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl FakeDaemon {
    /// Returns the authenticated requests that have come, in their order.
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        lock(&self.requests).clone()
    }

    /// Returns the daemon, whose [`handle`](TestDaemon::handle) stops it.
    pub fn daemon(&self) -> &TestDaemon {
        &self.daemon
    }
}

struct Scripted<F> {
    answer: Arc<F>,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl<F> Clone for Scripted<F> {
    fn clone(&self) -> Self {
        Self { answer: self.answer.clone(), requests: self.requests.clone() }
    }
}

impl<F> Service<Request<Limited<RequestBody>>> for Scripted<F>
where
    F: Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Limited<RequestBody>>) -> Self::Future {
        let Self { answer, requests } = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // A body that breaks off is what came of it.
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let request = Request::from_parts(head, body);
            lock(&requests).push(request.clone());
            Ok(answer(&request).map(Full::new))
        })
    }
}

/// A program that has the port of a record and proves nothing. It ends when this is dropped.
///
/// ```
/// use local_daemon::connect::ConnectOutcome;
/// use local_daemon::testing::Home;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let home = Home::new("acme", "acme/1")?;
/// let squatter = home.squatter()?;
/// let error = home.client().connect().unwrap_err();
/// assert_eq!(error.outcome, ConnectOutcome::Foreign);
/// assert!(!String::from_utf8(squatter.received())?.contains("Bearer"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Squatter {
    received: Arc<Mutex<Vec<u8>>>,
    address: std::net::SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Squatter {
    fn start(listener: TcpListener, answer: Option<&'static [u8]>) -> Result<Self, TestError> {
        let address = listener.local_addr()?;
        let received = Arc::<Mutex<Vec<u8>>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let (log, over) = (received.clone(), is_over.clone());
        let thread = thread::Builder::new().name("squatter".to_owned()).spawn(move || {
            // Those of a mute one stay open.
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                hear(&stream, &log, answer);
                open.extend(answer.is_none().then_some(stream));
            }
        })?;
        Ok(Self { received, address, is_over, thread: Some(thread) })
    }

    /// Returns everything that was sent to it: no client sends it a credential.
    pub fn received(&self) -> Vec<u8> {
        lock(&self.received).clone()
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Ends its wait for the next connection. If that fails, the thread ends with the process.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Reads one request, and answers it.
fn hear(mut stream: &TcpStream, log: &Mutex<Vec<u8>>, answer: Option<&[u8]>) {
    // A client that connects and says nothing does not hold up the others for long.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let (mut head, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut part) {
        lock(log).extend_from_slice(&part[..count]);
        head.extend_from_slice(&part[..count]);
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    if let Some(answer) = answer {
        // The client may have gone.
        let _ = io::Write::write_all(&mut stream, answer);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks leaves them half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

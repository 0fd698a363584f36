//! A tower service of proven connections, so that generated clients use them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::sync::Mutex;

use super::{AnyBody, Client, Connection, boxed};
use crate::client::request::BoxError;
use crate::client::{ConnectError, Launch, RequestError, RequestErrorKind};

/// A service that sends each request to the daemon that runs then, on a connection that has proven itself (HS-25). The host and
/// the bearer are added.
///
/// If the daemon is gone, it is looked for once more, unless a part of the request was sent.
///
/// ```no_run
/// use http_body_util::Empty;
/// use hyper::body::Bytes;
/// use local_daemon::client::tokio::Client;
/// use tower_service::Service as _;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client: Client = local_daemon::Client::new("acme", "acme/1")?.into();
/// let mut service = client.service();
/// // A generated client has a base URL of its own; its host is replaced.
/// let answer = service.call(http::Request::get("http://acme/v1/hello").body(Empty::<Bytes>::new())?).await?;
/// println!("{}", answer.status());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Service {
    client: Client,
    launch: Option<Arc<Launch>>,
    current: Arc<Mutex<Option<Connection>>>,
}

/// A request that a [`Service`] could not send, or that got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// No daemon was found. Nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The request was not sent, or not answered.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Service {
    pub(super) fn new(client: Client, launch: Option<Launch>) -> Self {
        Self { client, launch: launch.map(Arc::new), current: Arc::default() }
    }

    async fn send(self, request: Request<AnyBody>) -> Result<Response<Incoming>, ServiceError> {
        let connection = self.connection(None).await?;
        let unanswered = match connection.send_any(request).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) => unanswered,
        };
        match unanswered.unsent {
            Some(unsent) if unanswered.error.kind() == RequestErrorKind::Gone => {
                let connection = self.connection(Some(&connection)).await?;
                connection.send_any(unsent).await.map_err(|unanswered| unanswered.error.into())
            }
            _ => Err(unanswered.error.into()),
        }
    }

    /// Returns the connection that all requests use, unless that is `gone`, or another one. Requests wait for one connect.
    async fn connection(&self, gone: Option<&Connection>) -> Result<Connection, ConnectError> {
        let mut current = self.current.lock().await;
        let is_gone = |known: &Connection| gone.is_some_and(|gone| Arc::ptr_eq(&gone.shared, &known.shared));
        if let Some(known) = current.as_ref().filter(|known| !is_gone(known)) {
            return Ok(known.clone());
        }
        let connection = match &self.launch {
            Some(launch) => self.client.connect_or_spawn(launch).await?,
            None => self.client.connect().await?,
        };
        Ok(current.insert(connection).clone())
    }
}

impl<B> tower_service::Service<Request<B>> for Service
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = ServiceError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ServiceError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().send(boxed(request)))
    }
}

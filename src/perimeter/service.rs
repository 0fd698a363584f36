//! The guard as a `tower` layer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Either, Full, Limited};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::caller::Caller;
use super::guard::{Admission, Guard};
use super::refusal::Refusal;
use super::request::without_token;
use super::response::{Dress, Tamed, tame};
use crate::browser;

/// How long a request that has not authenticated may take, including its body: less than the 5 s of PER-45.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(4);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: Arc::new(self.clone()), inner }
    }
}

/// A service behind a [`Guard`]. The inner service takes bodies that end with an error at the guard's limit.
#[derive(Clone)]
pub struct Guarded<S> {
    // A server clones the service for each request.
    guard: Arc<Guard>,
    inner: S,
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<Limited<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    type Response = Response<Tamed<R>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut dress = Dress {
            text: false,
            origin: None,
            protocol: None,
            page: None,
            credential: None,
        };
        let response = match self.guard.judge(&request, &mut dress) {
            Ok(Admission::Inner { caller, host, body_limit }) => {
                let late = (caller == Caller::Nobody).then(|| Box::pin(sleep(STRANGER_TIMEOUT)));
                request.extensions_mut().insert(caller);
                if self.guard.has_pages() {
                    request.extensions_mut().insert(host);
                }
                if self.guard.is_stream_route(request.uri().path()) {
                    *request.uri_mut() = without_token(request.uri());
                }
                if let Some(authorization) = request.headers_mut().get_mut(AUTHORIZATION) {
                    authorization.set_sensitive(true);
                }
                let request = request.map(|body| Limited::new(body, body_limit));
                return Answer {
                    dress: Some(dress),
                    source: Source::Inner { answer: self.inner.call(request), late },
                };
            }
            Ok(Admission::EndOfWorker) => browser::end_of_worker(),
            Ok(Admission::Preflight) => self.guard.preflight(request.uri().path()),
            Ok(Admission::Handshake(evidence)) => self.guard.handshake(evidence),
            Err(refusal) => self.guard.refuse(refusal),
        };
        Answer { dress: Some(dress), source: Source::Guard { response: Some(response) } }
    }
}

pin_project! {
    /// The answer to come: the guard's own, or the inner service's.
    pub struct Answer<F> {
        dress: Option<Dress>,
        #[pin]
        source: Source<F>,
    }
}

pin_project! {
    #[project = Pinned]
    enum Source<F> {
        Guard { response: Option<Response<Full<Bytes>>> },
        Inner {
            #[pin]
            answer: F,
            // Ends with the time of a request that has not authenticated.
            late: Option<Pin<Box<Sleep>>>,
        },
    }
}

impl<F> fmt::Debug for Answer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl<F> Answer<F> {
    /// Whether the request has authenticated.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.dress.as_ref().is_some_and(|dress| dress.protocol.is_some())
    }
}

impl<F, R, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<Tamed<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "a future is not polled after it has ended";
        let this = self.project();
        let (response, dress) = match this.source.project() {
            Pinned::Guard { response } => {
                (response.take().expect(ONCE).map(Either::Left), this.dress.take().expect(ONCE))
            }
            Pinned::Inner { answer, late } => {
                let mut answer = match (answer.poll(context), late) {
                    (Poll::Ready(answer), _) => tame(answer?),
                    (Poll::Pending, Some(late)) => {
                        ready!(late.as_mut().poll(context));
                        // PER-45
                        Refusal::BodyTooSlow.problem().map(Either::Left)
                    }
                    (Poll::Pending, None) => return Poll::Pending,
                };
                let mut dress = this.dress.take().expect(ONCE);
                dress.refuse_after_rotation(&mut answer);
                (answer, dress)
            }
        };
        Poll::Ready(Ok(dress.onto(response)))
    }
}

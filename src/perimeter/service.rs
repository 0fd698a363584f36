//! The guard as a `tower` layer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Either, Full, Limited};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::guard::{Admission, Guard};
use super::problem::wants_text;
use super::request::without_token;
use super::response::{Dress, Tamed, tame};
use crate::browser;

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`]. The inner service takes bodies that end with an error at the guard's limit.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
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
            text: wants_text(request.headers()),
            origin: None,
            protocol: None,
            page: None,
        };
        let response = match self.guard.judge(&request, &mut dress) {
            Ok(Admission::Inner(caller, host)) => {
                request.extensions_mut().insert(caller);
                request.extensions_mut().insert(host);
                if self.guard.is_stream_route(request.uri().path()) {
                    *request.uri_mut() = without_token(request.uri());
                }
                if let Some(authorization) = request.headers_mut().get_mut(AUTHORIZATION) {
                    authorization.set_sensitive(true);
                }
                let request = request.map(|body| Limited::new(body, self.guard.body_limit));
                return Answer {
                    dress: Some(dress),
                    source: Source::Inner { answer: self.inner.call(request) },
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
        Inner { #[pin] answer: F },
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
        let response = match this.source.project() {
            Pinned::Guard { response } => response.take().expect(ONCE).map(Either::Left),
            Pinned::Inner { answer } => tame(ready!(answer.poll(context))?),
        };
        Poll::Ready(Ok(this.dress.take().expect(ONCE).onto(response)))
    }
}

//! The routes, and what surrounds every request to them.

use std::sync::Arc;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use local_daemon::perimeter::{self, Caller};
use serde_json::Value;
use tokio::time::Instant;

use super::activity::Kind;
use super::body::refuse;
use super::{App, browser, events, shutdown, status};
use crate::render::render;

/// The pattern and the method of each route.
type Table = Arc<[(&'static str, Method)]>;

/// The routes and their methods, listed once, so that preflights know what the router does (PER-16).
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<App>>,
    pub(super) methods: Vec<(&'static str, Method)>,
}

impl Routes {
    fn on<H: Handler<T, Arc<App>>, T: 'static>(
        mut self,
        method: Method,
        path: &'static str,
        handler: H,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that HTTP defines");
        self.router = self.router.route(path, on(filter, handler));
        // PER-54: a route that takes GET takes HEAD too.
        if method == Method::GET {
            self.methods.push((path, Method::HEAD));
        }
        self.methods.push((path, method));
        self
    }
}

pub(super) fn routes() -> Routes {
    Routes::default()
        .on(Method::GET, "/v1/status", status::status)
        .on(Method::POST, "/v1/shutdown", shutdown::shutdown)
        .on(Method::GET, events::PATH, events::subscribe)
        .on(Method::POST, events::PATH, events::note)
        .on(Method::GET, "/", browser::shell)
        .on(Method::POST, "/page", browser::page)
        .on(Method::POST, "/v1/tickets", browser::ticket)
        .on(Method::GET, "/v1/tickets/{id}", browser::ticket_state)
        .on(Method::POST, "/v1/handoff", browser::handoff)
        .on(Method::GET, "/v1/page-tokens", browser::tokens)
        .on(Method::DELETE, "/v1/page-tokens/{id}", browser::revoke)
}

/// What a path takes; `None`: there is no such path.
pub(super) fn methods_of(routes: &[(&str, Method)], path: &str) -> Option<Vec<Method>> {
    let of_path = routes.iter().filter(|(pattern, _)| is_like(pattern, path));
    let methods: Vec<Method> = of_path.map(|(_, method)| method.clone()).collect();
    (!methods.is_empty()).then_some(methods)
}

fn is_like(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(segment)) if part == segment => {}
            (Some(part), Some(segment)) if part.starts_with('{') && !segment.is_empty() => {}
            _ => return false,
        }
    }
}

pub(super) fn router(app: Arc<App>) -> Router {
    let Routes { router, methods } = routes();
    router
        .fallback(async || refuse(StatusCode::NOT_FOUND, "not_found", "there is no such route"))
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the route has no such method")
        })
        .layer(middleware::from_fn_with_state((app.clone(), methods.into()), around))
        .with_state(app)
}

/// Counts a request as activity (LIFE-6), logs its route, and renders its answer as text if the client prefers that (PER-37).
async fn around(State((app, table)): State<(Arc<App>, Table)>, mut request: Request, next: Next) -> Response {
    let text = perimeter::wants_text(request.headers());
    // LIFE-7, PER-47: a request that has not authenticated is neither counted nor logged.
    if request.extensions().get() == Some(&Caller::Nobody) {
        let answer = next.run(request).await;
        return if text { as_text(answer).await } else { answer };
    }
    let method = standard(request.method());
    // CRED-8: a path that is no route, and a part of one that varies, can hold the credential in any form.
    let path = request.uri().path();
    let route = table.iter().map(|(pattern, _)| *pattern).find(|pattern| is_like(pattern, path));
    let began = Instant::now();
    let (open, before) = app.activity.begin(Kind::Request);
    request.extensions_mut().insert(before);
    let answer = next.run(request).await;
    drop(open);
    tracing::debug!(method, route, status = answer.status().as_u16(), elapsed = ?began.elapsed(), "answered");
    if text { as_text(answer).await } else { answer }
}

/// Returns the name of a method that HTTP defines; any other text is the client's, and can hold the credential (CRED-8).
fn standard(method: &Method) -> Option<&'static str> {
    let names = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    names.into_iter().find(|name| method == *name)
}

async fn as_text(answer: Response) -> Response {
    let json = [&b"application/json"[..], b"application/problem+json"];
    if !answer.headers().get(CONTENT_TYPE).is_some_and(|kind| json.contains(&kind.as_bytes())) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    // An answer of this daemon's own, held in memory already.
    let Ok(bytes) = body::to_bytes(body, usize::MAX).await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer could not be rendered");
    };
    let text = serde_json::from_slice::<Value>(&bytes).map_or(bytes, |value| render(&value).into());
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use local_daemon::handshake;

    use super::*;

    #[test]
    fn openapi_document_names_exactly_the_routes() {
        let document: Value = serde_json::from_str(include_str!("../../../spec/openapi.json")).unwrap();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        // HEAD goes with GET; the handshake is the guard's own route.
        let served: BTreeSet<(String, String)> = routes()
            .methods
            .iter()
            .filter(|(_, method)| *method != Method::HEAD)
            .map(|(path, method)| ((*path).to_owned(), method.to_string()))
            .chain([(handshake::PATH.to_owned(), "GET".to_owned())])
            .collect();
        assert_eq!(documented, served);
    }
}

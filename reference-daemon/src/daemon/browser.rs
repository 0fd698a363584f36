//! How a browser is let in: tickets for the user's commands, page tokens for tickets, and the page itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form};
use local_daemon::axum::{Json, Problem, check_coding};
use local_daemon::browser::{self, CLEAR_SITE_DATA, Host, Purpose, RedeemError, TICKET_LIFETIME};
use local_daemon::perimeter::{self, Caller, PROTOCOL_HEADER};
use local_daemon::registration::LoopbackHost;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Context, events, rfc3339};

/// A request that only the credential opens: what makes tickets or takes tokens away makes itself immune (BROW-5).
pub(super) struct User;

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<Caller>() {
            Some(Caller::User) => Ok(Self),
            _ => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "forbidden_scope",
                "this needs the credential; a page's token does not open it",
            )),
        }
    }
}

/// What a ticket is asked for.
#[derive(Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Wanted {
    Page {
        /// A name of the daemon to use instead of the page host.
        #[serde(default, skip_serializing)]
        host: Option<String>,
    },
    Handoff {
        origin: String,
    },
}

#[derive(Serialize)]
struct Issued<'a> {
    id: &'a str,
    ticket: &'a str,
    #[serde(flatten)]
    wanted: Wanted,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_url: Option<String>,
    expires_in_seconds: u64,
}

/// `POST /v1/tickets`.
pub(super) async fn ticket(
    State(context): State<Arc<Context>>,
    _: User,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Problem> {
    let (purpose, page_url) = match &wanted {
        Wanted::Page { host } => {
            let (host, url) = place_of_page(&context, host.as_deref()).map_err(Problem::invalid)?;
            (Purpose::Page { host }, Some(url))
        }
        Wanted::Handoff { origin } if is_listed(&context, origin) => {
            (Purpose::Handoff { origin: origin.clone() }, None)
        }
        // BROW-31
        Wanted::Handoff { .. } => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "origin_not_listed",
                "a page is let in by a handoff once its origin is on the list: `locald origins add`",
            ));
        }
    };
    let ticket = context.tickets.issue(purpose, Instant::now().into_std());
    context.launchers.notify_one();
    let issued = Issued {
        id: &ticket.id,
        ticket: ticket.secret.expose(),
        wanted,
        page_url,
        expires_in_seconds: TICKET_LIFETIME.as_secs(),
    };
    Ok((StatusCode::CREATED, Json(issued)).into_response())
}

/// Returns the host and the URL of the page: at the page host, unless the request names another one or there is no page host
/// (BROW-40).
///
/// # Errors
/// Fails if the request names no host of the daemon, or, without a page host, one at which another process may listen.
fn place_of_page(context: &Context, wanted: Option<&str>) -> Result<(Host, String), &'static str> {
    let recorded = context.handle.url().host();
    // Asked once: the daemon may lose its page host at any time.
    let page_host = context.handle.page_host();
    let (host, name) = match (wanted, page_host) {
        (None, Some(page_host)) => (Host::Page, page_host.expose()),
        (None, None) => (Host::Loopback(recorded), recorded.as_str()),
        (Some(wanted), page_host) => {
            let host: LoopbackHost =
                wanted.parse().map_err(|_| "host is one of 127.0.0.1, localhost and [::1]")?;
            if page_host.is_none() && host != recorded {
                return Err(
                    "the daemon does not have its port on both address families, so that name may lead to another process",
                );
            }
            (Host::Loopback(host), host.as_str())
        }
    };
    Ok((host, format!("http://{name}:{}/page", context.handle.url().port())))
}

#[derive(Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait_seconds: u64,
}

/// `GET /v1/tickets/ID[?wait_seconds=…]`: answers as soon as the ticket is redeemed, or after the wait.
pub(super) async fn ticket_state(
    State(context): State<Arc<Context>>,
    _: User,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Ok(Query(Wait { wait_seconds: seconds @ 0..=30 })) = wait else {
        return Err(Problem::invalid("wait_seconds is a whole number from 0 to 30"));
    };
    let state = || context.tickets.state(&id, Instant::now().into_std());
    let is_redeemed = || state().is_some_and(|state| state.is_redeemed);
    let unknown =
        || Problem::new(StatusCode::NOT_FOUND, "not_found", "no ticket of the last 30 s has this id");
    let known = state().ok_or_else(unknown)?;
    let redeemed = async {
        loop {
            // Created before the check, so that no redemption is missed.
            let next = context.redeemed.notified();
            if is_redeemed() {
                return;
            }
            next.await;
        }
    };
    tokio::select! {
        biased;
        () = redeemed => {}
        // A draining daemon does not wait for a browser.
        _ = context.handle.draining() => {}
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
    }
    let kind = match known.purpose {
        Purpose::Page { .. } => "page",
        Purpose::Handoff { .. } => "handoff",
    };
    Ok(Json(json!({"id": id, "kind": kind, "redeemed": known.is_redeemed || is_redeemed()})))
}

fn is_listed(context: &Context, origin: &str) -> bool {
    context.handle.origins().borrow().contains(origin)
}

/// Redeems a ticket, or answers as for every other ticket that does not admit (BROW-6). The user is told of a second use
/// (BROW-34).
fn redeem(context: &Context, text: &str, purpose: &Purpose) -> Result<(), ()> {
    let refused = match context.tickets.redeem(text, purpose, Instant::now().into_std()) {
        Ok(()) => {
            context.redeemed.notify_waiters();
            return Ok(());
        }
        Err(refused) => refused,
    };
    // PER-47, BROW-47: there is one warning per ticket, and the user alone obtains tickets.
    if let RedeemError::Used(issued_for) = refused {
        let origin = match issued_for {
            Purpose::Page { .. } => context.handle.url().to_string(),
            Purpose::Handoff { origin } => origin,
        };
        events::warn(
            context,
            "ticket_reused",
            "a ticket was presented a second time, so somebody else may have it; look at `locald pages list`",
            Some(&origin),
        );
    }
    Err(())
}

fn refused_ticket() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "ticket_refused",
        "the ticket was used, is late or never was; ask for a new one with `locald open` or `locald handoff`",
    )
}

#[derive(Deserialize)]
pub(super) struct Submitted {
    #[serde(default)]
    ticket: String,
}

/// `POST /page`: the page with its token, for a ticket (BROW-21). A browser gets the shell for one that is refused: after
/// a reload, its script goes on with the token that the tab has.
pub(super) async fn page(
    State(context): State<Arc<Context>>,
    Extension(at): Extension<Host>,
    headers: HeaderMap,
    form: Result<Form<Submitted>, FormRejection>,
) -> Response {
    if let Err(refused) = check_coding(&headers) {
        return refused.into_response();
    }
    let Form(Submitted { ticket }) = match form {
        Ok(form) => form,
        Err(rejection) => return rejection.into_response(),
    };
    if redeem(&context, &ticket, &Purpose::Page { host: at }).is_err() {
        let is_browser = perimeter::accepts_html(&headers);
        return if is_browser {
            document(StatusCode::UNAUTHORIZED, "")
        } else {
            refused_ticket().into_response()
        };
    }
    // The guard has judged it.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let token = context.page_tokens.issue(&format!("http://{host}"), SystemTime::now());
    let mut page = document(StatusCode::OK, token.expose());
    if at != Host::Page {
        // An earlier owner of the port may have left a worker here.
        let everything = HeaderValue::from_static("\"cache\", \"storage\"");
        page.headers_mut().insert(CLEAR_SITE_DATA, everything);
    }
    admitted(&context, page)
}

/// `GET /`: holds nothing, whoever asks (BROW-26).
pub(super) async fn shell(Extension(caller): Extension<Caller>) -> Response {
    let status = match caller {
        Caller::User | Caller::Page { .. } => StatusCode::OK,
        _ => StatusCode::UNAUTHORIZED,
    };
    document(status, "")
}

/// The page, with a token or, as the shell, without.
fn document(status: StatusCode, token: &str) -> Response {
    let page = |nonce: &str| {
        // What is put in last is not looked through for the marks of the others.
        include_str!("../page/page.html")
            .replace("{{nonce}}", nonce)
            .replace("{{style}}", include_str!("../page/page.css"))
            .replace("{{script}}", include_str!("../page/page.js"))
            .replace("{{token}}", token)
    };
    browser::html(status, page).map(Body::new)
}

/// CTL-1: a ticket authenticates too.
fn admitted(context: &Context, mut answer: Response) -> Response {
    let protocol = HeaderValue::try_from(context.handle.protocol().to_string());
    let protocol = protocol.expect("a protocol identifier is visible ASCII");
    answer.headers_mut().insert(PROTOCOL_HEADER, protocol);
    answer
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presented {
    ticket: String,
}

/// `POST /v1/handoff`: a token for the page of the origin that the ticket is bound to (BROW-32). From elsewhere, or without
/// an origin, the ticket is spent for nothing (BROW-33).
pub(super) async fn handoff(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    Json(Presented { ticket }): Json<Presented>,
) -> Result<Response, Problem> {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    // No ticket is bound to an empty origin.
    let origin = origin.unwrap_or_default().to_owned();
    let purpose = Purpose::Handoff { origin: origin.clone() };
    if redeem(&context, &ticket, &purpose).is_err() {
        return Err(refused_ticket());
    }
    let token = context.page_tokens.issue(&origin, SystemTime::now());
    // BROW-14: it may have been taken off the list since the guard looked.
    if !is_listed(&context, &origin) {
        context.page_tokens.revoke_where(|token| *token.origin == *origin);
        return Err(refused_ticket());
    }
    let answer = Json(json!({"token": token.expose(), "origin": origin})).into_response();
    let mut answer = admitted(&context, answer);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

#[derive(Serialize)]
struct Listed {
    id: String,
    origin: String,
    issued_at: String,
    last_used: String,
}

/// `GET /v1/page-tokens` (BROW-12).
pub(super) async fn tokens(State(context): State<Arc<Context>>, _: User) -> Response {
    let list = context.page_tokens.list().into_iter().map(|token| Listed {
        id: token.id.to_string(),
        origin: token.origin.to_string(),
        issued_at: rfc3339(token.issued_at),
        last_used: rfc3339(token.last_used),
    });
    Json(list.collect::<Vec<_>>()).into_response()
}

/// `DELETE /v1/page-tokens/ID` (BROW-13).
pub(super) async fn revoke(
    State(context): State<Arc<Context>>,
    _: User,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    if context.page_tokens.revoke(&id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "no live page token has this id"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Request;
    use tower_service::Service;

    use super::*;
    use crate::daemon::{app, tests};

    /// BROW-3: the clock of the daemon is the test's.
    #[tokio::test(start_paused = true)]
    async fn a_late_ticket_is_refused() {
        let (_dir, started) = tests::start().await;
        let context = started.context;
        for (after, expected) in [
            (TICKET_LIFETIME, StatusCode::OK),
            (TICKET_LIFETIME + Duration::from_millis(1), StatusCode::UNAUTHORIZED),
        ] {
            let host = Host::Loopback(LoopbackHost::V4);
            let ticket = context.tickets.issue(Purpose::Page { host }, Instant::now().into_std());
            tokio::time::advance(after).await;
            let request = Request::post("/page")
                .header(HOST, "127.0.0.1:1")
                .header("content-type", "application/x-www-form-urlencoded")
                .extension(Caller::Nobody)
                .extension(host)
                .body(Body::from(format!("ticket={}", ticket.secret.expose())))
                .unwrap();
            let answer =
                app(context.clone()).into_router(context.handle.clone()).call(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{after:?}");
        }
        assert_eq!(context.page_tokens.list().len(), 1);
    }
}

//! Streams as routes.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{ORIGIN, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::app::Context;
use super::problem::Problem;
use crate::browser::PageHost;
use crate::perimeter::Caller;
use crate::streams::{Hub, Selection, SubscribeError};
use crate::text::redact;

/// The longest text of a request that is shown to other clients, in characters.
const MAX_SHOWN: usize = 200;

/// What other clients are told of the reader of a stream.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Listener {
    since: String,
    /// The web origin of the page that opened it, if the browser named one and it is not that of the page host (BROW-41).
    origin: Option<String>,
    /// What the program calls itself.
    agent: Option<String>,
    is_page: bool,
    #[serde(skip)]
    pub(super) caller: Caller,
}

impl Listener {
    fn new(context: &Context, caller: Caller, headers: &HeaderMap) -> Self {
        // CRED-9: `/v1/status` shows these to other clients.
        let text = |name: HeaderName| {
            Some(redact(headers.get(name)?.to_str().ok()?).chars().take(MAX_SHOWN).collect())
        };
        let page_host = context.handle.page_host().map(PageHost::expose);
        let is_shown = |origin: &String| page_host.is_none_or(|page_host| !origin.contains(page_host));
        Self {
            since: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            origin: text(ORIGIN).filter(is_shown),
            agent: text(USER_AGENT),
            is_page: matches!(caller, Caller::Page { .. }),
            caller,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    topics: Option<String>,
    after: Option<String>,
}

/// `GET …[?topics=…][&after=…]`.
pub(super) fn subscribe(
    hub: &Arc<Hub>,
    context: &Context,
    caller: Caller,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let Query(wanted) =
        wanted.map_err(|_| Problem::invalid("the query is not the one that this route takes"))?;
    let last = headers.get_all("last-event-id").iter().map(HeaderValue::as_bytes);
    let selection = Selection::parse(wanted.topics.as_deref(), wanted.after.as_deref(), last)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    match hub.subscribe(&selection) {
        Ok(subscriber) => {
            let mut answer = subscriber.into_response().map(Body::new);
            answer.extensions_mut().insert(Listener::new(context, caller, headers));
            Ok(answer)
        }
        // STR-6: it began to stand down after this request was let in.
        Err(SubscribeError::Ended) => Err(Problem::draining()),
        Err(refused @ SubscribeError::UnknownTopic) => {
            Err(Problem::invalid(format!("{refused}; there are {}", hub.topics().join(", "))))
        }
    }
}

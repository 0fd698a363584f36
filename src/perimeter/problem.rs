//! Errors as answers, for programs and for people.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Map, Value};

pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A problem (RFC 9457) with a stable `code`; `detail` is for people and holds no secret. Behind a [`Guard`](super::Guard) it becomes
/// text for a request that prefers `text/plain` (PER-35, PER-37).
pub fn problem(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
) -> Response<Full<Bytes>> {
    problem_with(status, code, detail, Map::new())
}

/// A [`problem`] with further members for programs, such as `active` beside the code `busy`.
pub fn problem_with(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
    members: Map<String, Value>,
) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or("Problem");
    let problem = Problem {
        r#type: "about:blank",
        title,
        status: status.as_u16(),
        code,
        detail: detail.into(),
        members,
    };
    let json = serde_json::to_vec(&problem).expect("strings and numbers always serialise");
    let mut response = Response::new(Full::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response.extensions_mut().insert(problem);
    response
}

/// A problem's body. It travels with its answer as an extension, so that the guard can render it as text.
#[derive(Clone, Serialize)]
pub(super) struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: Cow<'static, str>,
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} ({}): {}", self.status, self.title, self.code, self.detail)?;
        self.members.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}

/// Whether a request accepts HTML, as a browser's navigation does.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    const HTML: &[u8] = b"text/html";
    let values = headers.get_all(ACCEPT).iter();
    values
        .map(HeaderValue::as_bytes)
        .any(|value| value.windows(HTML.len()).any(|part| part == HTML))
}

/// Whether a request would rather read text than JSON: `Accept` weighs `text/plain` highest, and of equals names it first
/// (PER-37).
pub fn wants_text(headers: &HeaderMap) -> bool {
    let ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut best = (false, 0.0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let is_text = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/plain" => true,
            "application/json" | "application/problem+json" => false,
            _ => continue,
        };
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0));
        if quality > best.1 {
            best = (is_text, quality);
        }
    }
    best.0
}

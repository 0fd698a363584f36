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

/// Returns a problem (RFC 9457) with a stable `code`; `detail` is for people and holds no secret. Behind a
/// [`Guard`](super::Guard) it becomes text for a request that prefers `text/plain` (PER-35, PER-37).
pub fn problem(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
) -> Response<Full<Bytes>> {
    problem_with(status, code, detail, Map::new())
}

/// Returns a [`problem`] with further members for programs, such as `active` beside the code `busy`.
pub fn problem_with(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
    members: Map<String, Value>,
) -> Response<Full<Bytes>> {
    let title = title(status);
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

/// Returns the reason phrase of RFC 9110, for which the `http` crate has two of an earlier text.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        status => status.canonical_reason().unwrap_or("Problem"),
    }
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

/// Returns whether a request accepts HTML, as a browser's navigation does.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    const HTML: &[u8] = b"text/html";
    let values = headers.get_all(ACCEPT).iter();
    values
        .map(HeaderValue::as_bytes)
        .any(|value| value.windows(HTML.len()).any(|part| part == HTML))
}

/// Returns whether a request would rather read text than JSON: its `Accept` gives `text/plain` a higher quality than
/// `application/json` (PER-37).
pub fn wants_text(headers: &HeaderMap) -> bool {
    quality(headers, "text", "plain") > quality(headers, "application", "json")
}

/// The quality that `Accept` gives a media type, in thousandths: that of the most specific range that includes it, and none if
/// no range does (RFC 9110, 12.5.1). A range whose quality is none of HTTP's counts for nothing.
fn quality(headers: &HeaderMap, kind: &str, subtype: &str) -> u16 {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let rank = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let (named, sub) = parts.next()?.split_once('/')?;
        let specificity = match (named, sub) {
            ("*", "*") => 0,
            (named, "*") if named.eq_ignore_ascii_case(kind) => 1,
            (named, sub) if named.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => 2,
            _ => return None,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some((specificity, weight.map_or(Some(1000), thousandths)?))
    };
    lines
        .flat_map(|line| line.split(','))
        .filter_map(rank)
        .max()
        .map_or(0, |(_, quality)| quality)
}

/// Parses a quality: 0 or 1, and up to three decimals.
fn thousandths(quality: &str) -> Option<u16> {
    let (whole, decimals) = quality.split_once('.').unwrap_or((quality, ""));
    let is_number = matches!(whole, "0" | "1")
        && decimals.len() <= 3
        && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = format!("{whole}{decimals:0<3}").parse().ok().filter(|_| is_number)?;
    (parsed <= 1000).then_some(parsed)
}

//! Answers to requests, and the reasons for refusals.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::fault::broken;
use crate::registration::VERSION;

/// Why a request is refused: status, code, title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str, pub(super) &'static str);

pub(super) const INVALID: Refusal = Refusal(400, "invalid_request", "Invalid request");
pub(super) const UNAUTHORIZED: Refusal = Refusal(401, "unauthorized", "Unauthorized");
pub(super) const ORIGIN: Refusal = Refusal(403, "origin_refused", "Origin refused");
pub(super) const FORBIDDEN: Refusal = Refusal(403, "forbidden_scope", "Forbidden");
pub(super) const NOT_FOUND: Refusal = Refusal(404, "not_found", "Not found");
pub(super) const METHOD: Refusal = Refusal(405, "method_not_allowed", "Method not allowed");
pub(super) const TIME: Refusal = Refusal(408, "request_timeout", "Request timeout");
pub(super) const TOO_LARGE: Refusal = Refusal(413, "body_too_large", "Body too large");
pub(super) const TARGET_TOO_LONG: Refusal = Refusal(414, "uri_too_long", "Request target too long");
pub(super) const MISDIRECTED: Refusal = Refusal(421, "misdirected", "Misdirected");
pub(super) const HEADERS_TOO_LARGE: Refusal = Refusal(431, "headers_too_large", "Headers too large");
pub(super) const OVERLOADED: Refusal = Refusal(503, "overloaded", "Overloaded");
pub(super) const DRAINING: Refusal = Refusal(503, "draining", "Draining");

/// What is answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: "application/json",
            body: body.to_string().into_bytes(),
        }
    }

    pub(super) fn problem(Refusal(status, code, title): Refusal, more: &Value) -> Self {
        let mut problem = json!({"title": title, "status": status, "code": code});
        if let (Some(problem), Some(more)) = (problem.as_object_mut(), more.as_object()) {
            problem.extend(more.clone());
        }
        if broken("PER-35.another-status") {
            problem["status"] = json!(500);
        }
        if let Some(problem) = problem.as_object_mut().filter(|_| broken("PER-35.no-code")) {
            problem.remove("code");
        }
        let mut answer = Self {
            content_type: "application/problem+json",
            ..Self::json(status, &problem)
        };
        if broken("PER-35.plain-json") {
            answer.content_type = "application/json";
        } else if broken("PER-35.sentence") {
            answer.content_type = "text/plain; charset=utf-8";
            answer.body = title.as_bytes().to_vec();
        }
        match status {
            401 if broken("PER-21.another-challenge") => answer.with("WWW-Authenticate", "Basic"),
            401 => answer.with("WWW-Authenticate", "Bearer"),
            503 if broken("PER-31.no-retry-after") => answer,
            503 => answer.with("Retry-After", "1"),
            _ => answer,
        }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), content_type: "", body: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same for a person who reads.
    pub(super) fn in_plain_text(mut self) -> Self {
        if let Ok(Value::Object(members)) = serde_json::from_slice(&self.body) {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let lines = members.iter().map(|(name, value)| format!("{name}: {}\n", text(value)));
            self.body = lines.collect::<String>().into_bytes();
            self.content_type = "text/plain; charset=utf-8";
        }
        self
    }

    pub(super) fn head(&self, closes: bool) -> String {
        let mut lines = vec![format!("HTTP/1.1 {} {}", self.status, reason(self.status))];
        if !broken("PER-52.no-date") {
            lines.push(format!("Date: {}", date(SystemTime::now())));
        }
        let may_be_stored =
            broken("PER-38.stored") || broken("BROW-22.stored") && self.content_type.starts_with("text/html");
        if !may_be_stored {
            lines.push("Cache-Control: no-store".to_owned());
        }
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !self.content_type.is_empty() {
            lines.push(format!("Content-Type: {}", self.content_type));
        }
        if closes && !broken("PER-55.unsaid") {
            lines.push("Connection: close".to_owned());
        }
        if broken("HS-9.version-in-a-header") {
            lines.push(format!("Server: daemonspec-subject/{VERSION}"));
        }
        lines.join("\r\n") + "\r\n"
    }

    /// Writes the answer, without its body unless `with_body`.
    pub(super) fn write(&self, mut stream: &TcpStream, closes: bool, with_body: bool) -> io::Result<()> {
        let mut bytes = self.head(closes).into_bytes();
        if self.status != 204 {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        if with_body {
            bytes.extend_from_slice(&self.body);
        }
        stream.write_all(&bytes)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::problem(refusal, &Value::Null)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        503 => "Service Unavailable",
        _ => "Refused",
    }
}

/// Returns a time as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or_default()];
    // `2026-11-29T02:04:23Z`
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let (year, month, day, clock) = (&text[..4], &text[5..7], &text[8..10], &text[11..19]);
    let month = MONTHS[month.parse::<usize>().unwrap_or(1) - 1];
    format!("{weekday}, {day} {month} {year} {clock} GMT")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}

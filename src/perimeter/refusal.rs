//! Why a request is not let through, and how that is told.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;

use super::problem::problem;

/// Why the guard does not let a request through.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    UnknownCoding,
    InvalidHost,
    ForeignHost,
    FormerPage,
    ForeignOrigin,
    Unauthorized,
    Overloaded,
    HandshakeMethod,
    ProtocolMismatch,
    TargetTooLong,
    HeadersTooLarge,
    BodyTooLarge,
    BodyTooSlow,
}

impl Refusal {
    pub(super) fn problem(self) -> Response<Full<Bytes>> {
        let (status, code, detail) = self.describe();
        problem(status, code, detail)
    }

    /// Status, stable code, and a sentence for people.
    pub(super) const fn describe(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::UnknownCoding => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "A body comes as it is, or in chunks: no other transfer coding is understood.",
            ),
            Self::InvalidHost => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "A request has one Host, which is a host and, after a colon, a port.",
            ),
            Self::ForeignHost | Self::FormerPage => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "Host has to be 127.0.0.1, localhost or [::1] with the port that the daemon listens on.",
            ),
            Self::ForeignOrigin => {
                (StatusCode::FORBIDDEN, "origin_refused", "This origin is not on the daemon's list.")
            }
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Send the credential of the daemon's state directory: Authorization: Bearer <credential>.",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Too many handshakes without valid authentication; try again in a second.",
            ),
            Self::HandshakeMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The handshake is a GET.")
            }
            Self::ProtocolMismatch => (
                StatusCode::UPGRADE_REQUIRED,
                "protocol_mismatch",
                "The request names another wire protocol than the daemon speaks.",
            ),
            Self::TargetTooLong => {
                (StatusCode::URI_TOO_LONG, "uri_too_long", "Path and query are longer than 8 KiB.")
            }
            Self::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "The header section is longer than 32 KiB.",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is larger than this daemon takes.",
            ),
            Self::BodyTooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "The whole body did not come in time.")
            }
        }
    }
}

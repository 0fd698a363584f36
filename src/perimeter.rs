//! The perimeter: a `tower` layer that judges every request before it is routed. It does no I/O of its own.
//!
//! The order is fixed (PER-1), and the first check that fails answers: the lengths of target and header section, `Host`,
//! `Origin`, preflight, authentication, then the handshake, which the guard answers itself, then the wire protocol and the
//! body's length, then the inner service. Whatever the inner service answers, the guard alone decides what a page
//! of another origin may read.
//!
//! Refusals are problems with a stable `code`, or a line of text where the request prefers `text/plain`. Who has not
//! authenticated learns nothing of the daemon: not its protocol (HS-9), not which routes it has (HS-8). The bounds on
//! connections and slow clients are those of the server below this layer, but for the body of a request that has not
//! authenticated, which is small and has little time (PER-44, PER-45).
//!
//! With [page tokens](Guard::page_tokens) the few requests by which a browser begins come through without authentication:
//! what answers them gives nothing for nothing.

mod answers;
mod caller;
mod guard;
mod origin;
mod problem;
mod rate_limit;
mod refusal;
mod request;
mod response;
mod revocable;
mod service;

pub use self::caller::Caller;
pub use self::guard::{DEFAULT_BODY_LIMIT, Guard, Identity, MAX_HEADER_BYTES, MAX_TARGET_BYTES};
pub use self::origin::{Origin, Origins, ParseOriginError};
pub use self::problem::{accepts_html, problem, problem_with, wants_text};
pub(crate) use self::rate_limit::take_stranger_debug_line;
pub use self::response::PROTOCOL_HEADER;
pub(crate) use self::response::Tamed;
pub use self::service::{Answer, Guarded};

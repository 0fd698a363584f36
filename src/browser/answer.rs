//! What a browser is answered: pages that nobody frames, opens, caches or injects into, and the end of a worker.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::secret::Secret;

/// The response header that makes a browser remove what an earlier owner of the port left there (BROW-22).
pub const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Returns a page, written for the nonce that its scripts and styles have to bear: a new one in each answer (BROW-23). It
/// carries every header that the specification asks of a page (BROW-22), and no cookie, as no answer of this crate does
/// (BROW-25). The page that a ticket opens at another host than the page host has to replace [`CLEAR_SITE_DATA`].
pub fn html(status: StatusCode, page: impl FnOnce(&str) -> String) -> Response<Full<Bytes>> {
    const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    let nonce = Secret::fresh();
    let nonce = nonce.expose();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).expect("base64url is visible ASCII");
    let mut response = Response::new(Full::from(page(nonce)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CLEAR_SITE_DATA, "\"cache\""),
        (X_FRAME_OPTIONS, "DENY"),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the page for a tab that an earlier launch left behind (BROW-43). It names `program` as the command that opens a new
/// one.
pub(crate) fn former_page(program: &str) -> Response<Full<Bytes>> {
    html(StatusCode::MISDIRECTED_REQUEST, |_| {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{program}</title>\n\
             <h1>This page has ended</h1>\n\
             <p>It belonged to a daemon that was restarted since. To open the page of the new one, run \
             <code>{program} open</code> in a terminal.</p>\n"
        )
    })
}

/// A worker that takes the place of whatever was registered at this port before, unregisters itself, and has the pages
/// that were served by the old one load anew (BROW-28).
pub(crate) fn end_of_worker() -> Response<Full<Bytes>> {
    const SCRIPT: &str = "\
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil((async () => {
  await self.registration.unregister();
  for (const page of await self.clients.matchAll({ type: 'window' })) page.navigate('/');
})()));
";
    let mut response = Response::new(Full::from(SCRIPT));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

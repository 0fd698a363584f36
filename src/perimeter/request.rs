//! What a request says of itself: its host, its origin, its tokens.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::header::{ACCEPT, AUTHORIZATION, HOST, ORIGIN, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use local_daemon_proto::registration::LoopbackHost;

use super::refusal::Refusal;
use super::response::PROTOCOL_HEADER;
use crate::browser::{Host, PageHost};

/// The headers that decide about a request, found in one pass.
#[derive(Clone, Copy, Default)]
pub(super) struct Named<'a> {
    /// The length of the header section, in bytes.
    pub(super) length: usize,
    pub(super) accept: Field<'a>,
    pub(super) authorization: Field<'a>,
    pub(super) host: Field<'a>,
    pub(super) origin: Field<'a>,
    pub(super) protocol: Field<'a>,
    pub(super) service_worker: Field<'a>,
    pub(super) transfer_encoding: Field<'a>,
}

/// A header, which may be there more than once.
#[derive(Clone, Copy, Default)]
pub(super) struct Field<'a> {
    first: Option<&'a HeaderValue>,
    is_repeated: bool,
}

impl<'a> Field<'a> {
    pub(super) fn is_present(self) -> bool {
        self.first.is_some()
    }

    /// Returns the value if the header is there exactly once.
    pub(super) fn only(self) -> Option<&'a HeaderValue> {
        self.first.filter(|_| !self.is_repeated)
    }
}

impl<'a> Named<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");
        let mut named = Self::default();
        for (name, value) in headers {
            named.length += name.as_str().len() + value.len() + 4;
            let field = match name {
                name if *name == ACCEPT => &mut named.accept,
                name if *name == AUTHORIZATION => &mut named.authorization,
                name if *name == HOST => &mut named.host,
                name if *name == ORIGIN => &mut named.origin,
                name if *name == TRANSFER_ENCODING => &mut named.transfer_encoding,
                name if *name == PROTOCOL_HEADER => &mut named.protocol,
                name if *name == SERVICE_WORKER => &mut named.service_worker,
                _ => continue,
            };
            field.is_repeated = field.first.is_some();
            field.first = field.first.or(Some(value));
        }
        named
    }
}

/// Whether the request has no transfer coding, or `chunked` alone and once (RFC 9112, 6.1). Several header lines are one
/// list, in which empty elements count for nothing (RFC 9110, 5.3 and 5.6.1).
pub(super) fn is_plain_or_chunked(headers: &HeaderMap, named: &Named<'_>) -> bool {
    if !named.transfer_encoding.is_present() {
        return true;
    }
    let lines = headers.get_all(TRANSFER_ENCODING).iter();
    let elements = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut named = elements.filter(|coding| !coding.is_empty());
    named.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) && named.next().is_none()
}

/// Whether the request names no origin, or one: `http://` and its own `Host` (PER-8, PER-11, PER-12).
pub(super) fn is_own_origin(origin: Field<'_>, host: &[u8]) -> bool {
    let is_host = |origin: &HeaderValue| origin.as_bytes().strip_prefix(b"http://") == Some(host);
    !origin.is_present() || origin.only().is_some_and(is_host)
}

/// Returns the host that a request names, with its port: its one `Host` header (PER-5). In HTTP/2 the target stands for an
/// absent header. With it comes which of the daemon's names it is, by `own`.
///
/// # Errors
/// Fails if there is no such header or more than one, if it or the authority of the target is no valid host, or if the target
/// is no URL of HTTP.
pub(super) fn named_host<'a, B>(
    request: &'a Request<B>,
    named: &Named<'a>,
    own: impl Fn(&[u8]) -> Option<Host>,
) -> Result<(&'a [u8], Option<Host>), Refusal> {
    let uri = request.uri();
    let target = uri.authority().map(|target| target.as_str().as_bytes());
    let host = if request.version() >= Version::HTTP_2 && !named.host.is_present() {
        target
    } else {
        named.host.only().map(HeaderValue::as_bytes)
    };
    let host = host.ok_or(Refusal::InvalidHost)?;
    let name = own(host);
    if name.is_none() && !is_host(host) {
        return Err(Refusal::InvalidHost);
    }
    // PER-6
    if target.is_some_and(|target| !is_host(target)) {
        return Err(Refusal::InvalidHost);
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        return Err(Refusal::ForeignHost);
    }
    Ok((host, name))
}

/// Whether this is a host that is not empty, and an optional port (RFC 3986, 3.2.2 and 3.2.3; RFC 9110, 4.2.1).
fn is_host(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    if let Some((literal, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return is_ip_literal(literal) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_digits));
    }
    // A registered name, which an IPv4 address is too, has no colon.
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    !name.is_empty() && is_registered_name(name) && is_digits(port)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a byte is `unreserved` or one of the `sub-delims`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

fn is_registered_name(name: &str) -> bool {
    let mut parts = name.split('%');
    let is_encoded = |part: &str| {
        let digits = part.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    parts.next().is_some_and(|first| first.bytes().all(is_plain))
        && parts.all(|part| is_encoded(part) && part.bytes().skip(2).all(is_plain))
}

/// Whether this stands between the brackets of a host: an IPv6 address, or one of a version to come.
fn is_ip_literal(literal: &str) -> bool {
    let Some(future) = literal.strip_prefix(['v', 'V']) else {
        return literal.parse::<Ipv6Addr>().is_ok();
    };
    future.split_once('.').is_some_and(|(version, address)| {
        let is_of_address = |byte: u8| is_plain(byte) || byte == b':';
        !version.is_empty()
            && version.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !address.is_empty()
            && address.bytes().all(is_of_address)
    })
}

/// Returns which of the daemon's names `host` is, byte for byte and with the port (PER-3, PER-4).
pub(super) fn own_host(host: &[u8], port: u16, page_host: Option<&PageHost>) -> Option<Host> {
    let name = name_at(host, port)?;
    if page_host.is_some_and(|page_host| page_host.matches(name)) {
        return Some(Host::Page);
    }
    let mut hosts = [LoopbackHost::V4, LoopbackHost::V6, LoopbackHost::Localhost].into_iter();
    hosts.find(|host| host.as_str().as_bytes() == name).map(Host::Loopback)
}

/// Whether `host` has the form of a page host, with this port: if it is not this launch's, it is another one's (BROW-43).
pub(super) fn has_page_host_form(host: &[u8], port: u16) -> bool {
    name_at(host, port).is_some_and(PageHost::is_well_formed)
}

/// Returns the name before the colon and this port.
fn name_at(host: &[u8], port: u16) -> Option<&[u8]> {
    let colon = host.iter().rposition(|byte| *byte == b':')?;
    (parse_port(&host[colon + 1..]) == Some(port)).then(|| &host[..colon])
}

/// Parses a port as a URL writes it: `u16::from_str` would also take a sign and leading zeros.
pub(super) fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.starts_with(b"0") || digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u16, |port, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        port.checked_mul(10)?.checked_add(digit)
    })
}

/// The origin of the page that sends a request: engines name it with each request but the same-origin GET (BROW-10).
pub(super) fn sender<'a>(origin: Field<'a>, host: &[u8]) -> Option<Cow<'a, str>> {
    if origin.is_present() {
        return origin.only()?.to_str().ok().map(Cow::Borrowed);
    }
    Some(Cow::Owned(format!("http://{}", str::from_utf8(host).ok()?)))
}

/// Whether an engine asks for the script of a service worker.
pub(super) fn is_worker<B>(request: &Request<B>, named: &Named<'_>) -> bool {
    request.method() == Method::GET && named.service_worker.only().is_some_and(|value| value == "script")
}

/// The values of a target's `token` parameters.
pub(super) fn tokens_of(uri: &Uri) -> impl Iterator<Item = Cow<'_, [u8]>> {
    uri.query().into_iter().flat_map(|query| query.split('&')).filter_map(as_token)
}

/// The value of a `token` parameter, both as whatever reads the query behind the guard would decode them.
fn as_token(parameter: &str) -> Option<Cow<'_, [u8]>> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (*percent_decoded(name) == *b"token").then(|| percent_decoded(value))
}

/// A part of a query with every `%` and two hexadecimal digits replaced by the byte that they are.
fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    let Some((plain, encoded)) = text.split_once('%') else {
        return Cow::Borrowed(text.as_bytes());
    };
    let mut bytes = plain.as_bytes().to_vec();
    for part in encoded.split('%') {
        let digit = |at: usize| char::from(*part.as_bytes().get(at)?).to_digit(16);
        let byte = digit(0).zip(digit(1)).map(|(high, low)| 16 * high + low);
        let (byte, rest) = match byte.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => (byte, &part.as_bytes()[2..]),
            None => (b'%', part.as_bytes()),
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest);
    }
    Cow::Owned(bytes)
}

/// The same target without its `token` parameter.
pub(super) fn without_token(uri: &Uri) -> Uri {
    let rest: Vec<&str> =
        uri.query().unwrap_or_default().split('&').filter(|p| as_token(p).is_none()).collect();
    let target = if rest.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), rest.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(target).expect("a part of a valid query is a valid query"));
    Uri::from_parts(parts).expect("the other parts are those of a valid target")
}

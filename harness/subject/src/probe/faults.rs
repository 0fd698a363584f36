//! What the faults of the client do in a probe.

use std::net::SocketAddr;

use super::{Answer, Probe};
use crate::credential::Credential;
use crate::fault::broken;
use crate::handshake::{Body, PATH};

/// Where the handshake is asked for.
pub(super) fn target(credential: &Credential) -> String {
    if broken("CRED-10.url") {
        format!("{PATH}?token={}", credential.text())
    } else {
        PATH.to_owned()
    }
}

/// Whether an answer is believed without a look at its proof.
pub(super) fn believes(answer: &Answer, proofs: &[&str]) -> bool {
    let body = || Body::parse(&answer.body);
    let unproven = [
        "HS-26.unproven",
        "CONN-4.unproven",
        "HS-25.bearer",
        "HS-25.after-refusal",
    ];
    (unproven.iter().any(|fault| broken(fault)) && proofs.is_empty() && body().is_some())
        || (broken("HS-26.draining-first") && body().is_some_and(|body| !body.ready))
}

/// What an answer without proof is taken for.
pub(super) fn unproven(answer: &Answer, why: &str, credential: &Credential) -> Option<Probe> {
    match answer.status {
        401 if broken("CONN-8.unauthorized") => Some(Probe::Reset(why.to_owned())),
        503 if broken("CONN-8.unavailable") => Some(Probe::Late(why.to_owned())),
        404 if broken("CONN-8.not-found") => Some(Probe::Refused(why.to_owned())),
        _ if broken("CRED-10.error") => Some(Probe::Foreign(format!("{why} to {}", credential.text()))),
        _ => None,
    }
}

/// The address that a redirect leads to.
pub(super) fn redirect(answer: &Answer) -> Option<SocketAddr> {
    let location = answer.headers("location").next()?.strip_prefix("http://")?;
    location.split('/').next()?.parse().ok()
}

/// The proxy that the environment names.
pub(super) fn proxy() -> Option<SocketAddr> {
    let names: &[&str] = if broken("HS-30.http-proxy") {
        &["http_proxy", "HTTP_PROXY"]
    } else if broken("HS-30.all-proxy") {
        &["all_proxy", "ALL_PROXY"]
    } else {
        &[]
    };
    let proxy = names.iter().find_map(|name| std::env::var(name).ok())?;
    let proxy = proxy.strip_prefix("http://").unwrap_or(&proxy);
    proxy.trim_end_matches('/').parse().ok()
}

/// Whether an answer is read to its end, however far that is.
pub(super) fn reads_on(in_head: bool) -> bool {
    broken(if in_head { "HS-31.header" } else { "HS-31.body" })
}

//! What the faults of the client do in a probe.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

use super::{Answer, Fault, Probe};
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
        401 if broken("CONN-8.unauthorized") => Some(Probe::Refused(why.to_owned())),
        503 if broken("CONN-8.unavailable") => Some(Probe::Late(why.to_owned())),
        404 if broken("CONN-8.not-found") => Some(Probe::Refused(why.to_owned())),
        _ if broken("CRED-10.error") => Some(Probe::Foreign(format!("{why} to {}", credential.text()))),
        _ => None,
    }
}

/// What an error of the system's is taken for.
pub(super) fn misread(error: &io::Error) -> Option<Fault> {
    let stale: &[(&str, &[Errno])] = &[
        ("CONN-37.sandbox-is-stale", &[Errno::PERM, Errno::ACCESS]),
        ("CONN-37.emfile-is-stale", &[Errno::MFILE, Errno::NFILE]),
        ("CONN-37.no-port-is-stale", &[Errno::ADDRNOTAVAIL]),
        ("CONN-37.no-route-is-stale", &[Errno::NETUNREACH, Errno::HOSTUNREACH]),
    ];
    let is_one_of =
        |errnos: &[Errno]| errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if stale.iter().any(|(fault, errnos)| broken(fault) && is_one_of(errnos)) {
        Some(Fault::Refused(error.to_string()))
    } else if broken("CONN-37.no-buffers-is-busy") && is_one_of(&[Errno::NOBUFS]) {
        Some(Fault::Late)
    } else if broken("CONN-37.any-is-foreign") {
        Some(Fault::Senseless("no answer"))
    } else {
        None
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

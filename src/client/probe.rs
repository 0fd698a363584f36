//! The handshake from the client's side: asks a record's daemon to prove itself.

use std::time::{Duration, Instant};

use local_daemon_proto::Credential;
use local_daemon_proto::handshake::{self, Handshake, Nonce, Probe};
use local_daemon_proto::registration::{Invalid, MAX_BYTES, Registration};

use crate::exchange::{self, Wire};
use crate::state_directory;

/// How long one handshake may take (HS-24).
pub const PROBE_BOUND: Duration = Duration::from_secs(2);
/// How long one handshake may take where a daemon that does not answer is going to be replaced: three looks (this call's
/// first, its second under the lock, and the child's before it publishes) end within 2.5 s together.
pub const SPAWN_PROBE_BOUND: Duration = Duration::from_secs(1);

/// One look at a record's daemon: a handshake within `bound`, on a connection of its own that is closed after it.
pub fn look(record: &Registration, credential: &Credential, bound: Duration) -> Probe {
    probe(record, credential, bound).0
}

/// One time-bounded handshake: a round trip to each address that the record may mean (HS-32). The connection is returned
/// only where it has proven itself, and nothing but a proof was sent on it.
pub(super) fn probe(
    record: &Registration,
    credential: &Credential,
    bound: Duration,
) -> (Probe, Option<Wire>) {
    let addresses = exchange::addresses(record.url);
    let each = bound / u32::try_from(addresses.len()).unwrap_or(1);
    let mut seen = Probe::Refused;
    for address in addresses {
        let ends = Instant::now() + each;
        let wire = Wire::connect(address, ends);
        match wire.and_then(|mut wire| Ok((prove(&mut wire, record, credential, ends)?, wire))) {
            Ok((Probe::Foreign, _)) | Err(exchange::Fault::Garbage) => seen = Probe::Foreign,
            Ok((proven, wire)) => return (proven, Some(wire)),
            Err(exchange::Fault::TimedOut) if seen == Probe::Refused => seen = Probe::TimedOut,
            Err(_) => {}
        }
    }
    (seen, None)
}

/// One exchange, and what it proves.
fn prove(
    wire: &mut Wire,
    record: &Registration,
    credential: &Credential,
    ends: Instant,
) -> Result<Probe, exchange::Fault> {
    let authority = record.url.authority();
    let nonce = Nonce::from_bytes(state_directory::random_bytes());
    let authorization =
        handshake::authorization(nonce, handshake::client_code(credential, &authority, nonce));
    let request = exchange::request("GET", handshake::PATH, &authority, &authorization, None);
    // HS-31
    let answer = wire.exchange(&request, MAX_BYTES, ends)?;
    // HS-26: no byte of the body is believed before this comparison.
    let expected = handshake::daemon_code(credential, &authority, nonce, &answer.body);
    let proven = answer.header(handshake::SCHEME).and_then(handshake::parse_answer) == Some(expected);
    if !proven || !matches!(answer.status, 200 | 503) {
        return Ok(Probe::Foreign);
    }
    Ok(match Handshake::parse(&answer.body) {
        Ok(handshake) => Probe::Proven(handshake),
        // GATE-7
        Err(Invalid::Spec) => Probe::OtherSpec,
        Err(_) => Probe::Foreign,
    })
}

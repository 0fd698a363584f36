//! The handshake from the client's side: asks a record's daemon to prove itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_daemon_proto::Credential;
use local_daemon_proto::handshake::{self, Handshake, Nonce, Probe};
use local_daemon_proto::registration::{LoopbackUrl, MAX_BYTES, ParseRegistrationError, Place, Registration};

use crate::exchange::{self, ExchangeError, Wire, deadline_in};
use crate::state_directory::{self, StateDir};
use crate::{loopback, platform};

/// How long one handshake may take (HS-24).
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one handshake may take where a daemon that does not answer is going to be replaced: three looks (this call's
/// first, its second under the lock, and the child's before it publishes) end within 2.5 s together.
pub const SPAWN_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks once at a record's daemon: a handshake within `bound`, on a connection of its own that is closed after it.
pub fn look(record: &Registration, credential: &Credential, bound: Duration) -> Probe {
    probe(record, credential, bound).probe
}

/// What one look showed.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) probe: Probe,
    /// The connection, if it has proven itself. Nothing but a proof was sent on it.
    pub(super) wire: Option<Wire>,
    /// Why the daemon could not be asked.
    pub(crate) detail: Option<String>,
}

impl Seen {
    pub(super) fn only(probe: Probe) -> Self {
        Self { probe, wire: None, detail: None }
    }

    fn unreachable(detail: &impl ToString) -> Self {
        Self {
            probe: Probe::Unreachable,
            wire: None,
            detail: Some(detail.to_string()),
        }
    }
}

/// Judges a record by its world alone. Returns `None` if its daemon has to be asked.
pub(crate) fn look_at_world(state_dir: &StateDir, record: &Registration) -> Option<Seen> {
    let here = platform::world();
    let place = record.world.seen_from(&here);
    match place {
        Place::Here => return None,
        Place::OtherHost => return Some(Seen::unreachable(&"its record was written on another host")),
        Place::EarlierBoot | Place::OtherNetwork => {}
    }
    Some(match state_dir.has_living_daemon() {
        Ok(false) => Seen::only(Probe::Refused),
        // CONN-51: a container may have a boot id of its own.
        Ok(true) if place == Place::EarlierBoot && record.world.shares_network(&here) => return None,
        Ok(true) => Seen::unreachable(&"it runs in another network namespace, such as a sandbox's"),
        Err(fault) => Seen::unreachable(&format!(
            "its record was written in another network namespace, and it is not known whether it still runs: {fault}"
        )),
    })
}

/// Asks a record's daemon, and doubts a refusal that says nothing: one that a listener of this process's own meets as well,
/// and one from an unknown network namespace while a daemon of this directory lives (CONN-37, CONN-41).
pub(crate) fn ask_daemon(
    state_dir: &StateDir,
    record: &Registration,
    credential: &Credential,
    bound: Duration,
) -> Seen {
    let seen = probe(record, credential, bound);
    if seen.probe != Probe::Refused {
        return seen;
    }
    if let Err(fault) = loopback::can_be_reached() {
        return Seen::unreachable(&format!("nor can a listener of this process's own: {fault}"));
    }
    let is_doubtful = record.world.netns.is_some() && platform::world().netns.is_none();
    if is_doubtful && !matches!(state_dir.has_living_daemon(), Ok(false)) {
        return Seen::unreachable(
            &"it may run in another network namespace: that of this process is not known",
        );
    }
    seen
}

/// Returns whether the system refuses the connection to each address that the URL may mean, within `bound` for each. A
/// time-out, or any other failure, is no refusal (CONV-30).
pub fn is_refused(url: LoopbackUrl, bound: Duration) -> bool {
    let mut addresses: Vec<SocketAddr> = url.addresses().collect();
    if addresses.len() > 1 {
        addresses.retain(|address| !loopback::is_absent(*address));
    }
    let is_refused = |address: &SocketAddr| {
        matches!(Wire::connect(*address, deadline_in(bound)), Err(ExchangeError::Refused))
    };
    !addresses.is_empty() && addresses.iter().all(is_refused)
}

/// One time-bounded handshake with each address that the record may mean (HS-32).
pub(super) fn probe(record: &Registration, credential: &Credential, bound: Duration) -> Seen {
    let addresses: Vec<SocketAddr> = record.url.addresses().collect();
    let each = bound / u32::try_from(addresses.len()).unwrap_or(1);
    let rank = |seen: &Seen| match seen.probe {
        Probe::Refused => 0,
        Probe::TimedOut => 1,
        Probe::Foreign => 2,
        // The daemon may be at the address that could not be asked.
        _ => 3,
    };
    let mut seen: Option<Seen> = None;
    for address in &addresses {
        let ends = deadline_in(each);
        let found = match ask(*address, record, credential, ends) {
            Ok((Probe::Foreign, _))
            | Err(
                ExchangeError::Garbage | ExchangeError::TooLarge | ExchangeError::Broken { answered: true },
            ) => Seen::only(Probe::Foreign),
            Ok((proven, wire)) => return Seen { probe: proven, wire: Some(wire), detail: None },
            Err(ExchangeError::TimedOut | ExchangeError::Broken { .. }) => Seen::only(Probe::TimedOut),
            Err(ExchangeError::Unreachable { .. })
                if addresses.len() > 1 && loopback::is_absent(*address) =>
            {
                continue;
            }
            Err(fault @ ExchangeError::Unreachable { .. }) => Seen::unreachable(&fault),
            Err(ExchangeError::Refused) => Seen::only(Probe::Refused),
        };
        if seen.as_ref().is_none_or(|seen| rank(&found) > rank(seen)) {
            seen = Some(found);
        }
    }
    seen.unwrap_or_else(|| Seen::unreachable(&"this host has no loopback address"))
}

/// One exchange on a new connection. If that breaks, something listens there, or did: it is asked once more (CONN-7).
fn ask(
    address: SocketAddr,
    record: &Registration,
    credential: &Credential,
    ends: Instant,
) -> Result<(Probe, Wire), ExchangeError> {
    let once = || {
        let mut wire = Wire::connect(address, ends)?;
        Ok((prove(&mut wire, record, credential, ends)?, wire))
    };
    match once() {
        Err(ExchangeError::Broken { .. }) => once(),
        asked => asked,
    }
}

/// One exchange, and what it proves.
fn prove(
    wire: &mut Wire,
    record: &Registration,
    credential: &Credential,
    ends: Instant,
) -> Result<Probe, ExchangeError> {
    let authority = record.url.authority();
    let nonce = Nonce::from_bytes(state_directory::random_bytes());
    let authorization =
        handshake::authorization(nonce, handshake::client_code(credential, &authority, nonce));
    let request =
        exchange::request("GET", handshake::PATH, &authority, &authorization, "Accept: application/json\r\n");
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
        Err(ParseRegistrationError::Spec) => Probe::OtherSpec,
        Err(_) => Probe::Foreign,
    })
}

//! What a byte stands for where an input is a list of steps.

use std::num::NonZeroU32;

use local_daemon_proto::Protocol;
use local_daemon_proto::handshake::{Handshake, Probe, State};
use local_daemon_proto::registration::{self, ClaimId, RecordRead, Registration};

/// The bytes of an input one by one, each as a choice.
pub(crate) struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    pub(crate) fn of(data: &'a [u8]) -> Self {
        Self(data.iter())
    }

    /// The next one below `count`; `None` at the end of the input.
    pub(crate) fn next(&mut self, count: usize) -> Option<usize> {
        self.0.next().map(|byte| usize::from(*byte) % count)
    }

    /// The next one of these.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        self.next(of.len()).map(|at| of[at].clone())
    }
}

pub(crate) fn id(n: u8) -> ClaimId {
    ClaimId::from_bits(u128::from(n))
}

pub(crate) fn protocol(number: u8) -> Protocol {
    format!("acme/{number}").parse().expect("an identifier")
}

pub(crate) fn record(n: u8) -> Registration {
    Registration {
        id: id(n),
        version: String::new(),
        url: format!("http://127.0.0.1:{}", 1000 + u16::from(n)).parse().expect("a URL"),
        pid: NonZeroU32::MIN,
        protocol: None,
        socket: None,
        started_at: None,
        world: registration::World::default(),
    }
}

/// Every kind of look at the registration, with three daemons.
pub(crate) fn sights() -> Vec<RecordRead> {
    let ids = [1, 2, 3];
    let records = ids.map(|n| RecordRead::Record(record(n))).into_iter();
    let malformed = ids.map(|n| RecordRead::Malformed(Some(id(n))));
    let others = [
        RecordRead::Missing,
        RecordRead::DirectoryGone,
        RecordRead::Malformed(None),
        RecordRead::Unreadable,
    ];
    records.chain(malformed).chain(others).collect()
}

/// Every kind of answer to a handshake, of three daemons and three protocols.
pub(crate) fn probes() -> Vec<Probe> {
    let mut probes = vec![
        Probe::Refused,
        Probe::TimedOut,
        Probe::OtherSpec,
        Probe::Foreign,
        Probe::NoCredential,
        Probe::CredentialRefused,
        Probe::Unreachable,
    ];
    for (n, state) in [1, 2, 3].into_iter().flat_map(|n| [(n, State::Ready), (n, State::Draining)]) {
        // The machines speak the second: an older one, their own, a newer one.
        probes.extend([1, 2, 3].map(|number| {
            Probe::Proven(Handshake {
                protocol: protocol(number),
                id: id(n),
                pid: NonZeroU32::MIN,
                version: String::new(),
                state,
                capabilities: Vec::new(),
            })
        }));
    }
    probes
}

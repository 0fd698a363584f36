//! Describes a machine in the words of the model.

use local_daemon_model::machine::{DAEMONS, Want, claim_id, client_want, daemon_want};
use local_daemon_proto::ClaimId;
use local_daemon_proto::claim::ClaimEffect;
use local_daemon_proto::connect::ConnectEffect;

/// What a machine wants to do, without what differs between a model's record and a real one.
pub(crate) fn wish(want: Want) -> String {
    match want {
        Want::Probe(record) => format!("probe D{}", record.id),
        other => format!("{other:?}"),
    }
}

pub(crate) fn daemon_wish(effect: &ClaimEffect) -> String {
    match effect {
        ClaimEffect::Probe(record) => format!("probe {}", name(record.id)),
        other => wish(daemon_want(other)),
    }
}

pub(crate) fn client_wish(effect: &ConnectEffect) -> String {
    match effect {
        ConnectEffect::Probe(record) => format!("probe {}", name(record.id)),
        other => wish(client_want(other)),
    }
}

pub(crate) fn name(id: ClaimId) -> String {
    let known = (0_u8..).take(DAEMONS).find(|known| claim_id(*known) == id);
    known.map_or_else(|| format!("{id}"), |known| format!("D{known}"))
}

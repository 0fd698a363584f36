//! Handshake and proof: chapter 07.

mod answer;
mod exchange;
mod hostile;
mod proofs;
mod refused;
mod state;
mod wrong;

pub(super) use self::wrong::{broken_requests, wrong_bearers};
use crate::case::Case;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "handshake/bearer-answered-with-every-member",
        &["HS-1", "HS-2", "HS-5", "HS-13"],
        "The credential file's 43 characters are sent as a bearer. One answer comes: 200, JSON, ready, and every \
         member of the table in its type.",
        answer::bearer_answered_with_every_member,
    ),
    Case::core(
        "handshake/one-exchange-whatever-the-client-is",
        &["HS-1"],
        "The good handshake is sent as a browser, a script and an old library would: other Accept, encodings, \
         languages, agents, closing connections. It is never redirected, challenged or answered with a page.",
        answer::one_exchange_whatever_the_client_is,
    ),
    Case::core(
        "handshake/id-and-pid-are-the-records",
        &["HS-3"],
        "A daemon is started, asked, ended without warning and started again: each answer names the id and the pid \
         of the record that is there.",
        answer::id_and_pid_are_the_records,
    ),
    Case::core(
        "handshake/body-within-64-kib",
        &["HS-4"],
        "The answers of a ready daemon and of one that cannot read its record are at most 65536 bytes long.",
        answer::body_within_64_kib,
    ),
    Case::core(
        "handshake/no-authorization-refused",
        &["HS-6"],
        "The handshake is asked without an Authorization header; also with the credential in the query, a cookie, \
         another header or the body. Each is 401 with WWW-Authenticate.",
        refused::no_authorization_refused,
    ),
    Case::core(
        "handshake/wrong-bearer-refused",
        &["HS-7"],
        "Bearers that a careless comparison takes for the credential: empty, cut, longer, another case, one bit off, \
         another spelling of the same bytes, other schemes, beside a right one. Each is 401.",
        refused::wrong_bearer_refused,
    ),
    Case::core(
        "handshake/every-path-and-method-refused",
        &["HS-8"],
        "Seven methods on known, likely and random paths, without authentication and with a wrong bearer: 401, never \
         404, 405 or 200 (opencode#6355, sccache 0.19: rows 1 and 37).",
        refused::every_path_and_method_refused,
    ),
    Case::core(
        "handshake/authentication-is-for-one-request",
        &["HS-6", "HS-8"],
        "On a connection whose first request was authenticated, the next ones are not, and are refused; also when \
         they were sent together with it.",
        refused::authentication_is_for_one_request,
    ),
    Case::core(
        "handshake/refusals-tell-no-facts",
        &["HS-9"],
        "Headers and bodies of refused handshakes are searched for the daemon's id, pid, version and protocol, which \
         an accepted handshake tells.",
        refused::refusals_tell_no_facts,
    ),
    Case::core(
        "handshake/answered-after-broken-requests",
        &["HS-10"],
        "Requests that are cut off, malformed or much too large, and bytes that are none; after each of them the next \
         good handshake is answered by the same launch.",
        hostile::answered_after_broken_requests,
    ),
    Case::core(
        "handshake/answered-beside-mute-connections",
        &["HS-11"],
        "64 connections that send nothing, half a header or half a body stay open; handshakes are answered within 2 s \
         meanwhile (opencode 1.18: row 36).",
        hostile::answered_beside_mute_connections,
    )
    .exclusive(),
    Case::core(
        "handshake/tells-the-state-of-this-moment",
        &["HS-13", "HS-14", "HS-15", "HS-16"],
        "The record is made unreadable and restored, twenty times, each change followed by a handshake at once: \
         draining and 503 while the daemon cannot find its id, ready and 200 when it can.",
        state::tells_the_state_of_this_moment,
    ),
    Case::core(
        "handshake/never-ready-beside-another-owner",
        &["HS-15", "HS-16"],
        "While the daemon is stopped (SIGSTOP), its record is replaced by another's and handshakes are sent, one of them \
         on a connection that was told ready before; what it answers when it goes on is draining, with its own id.",
        state::never_ready_beside_another_owner,
    ),
    Case::core(
        "handshake/draining-while-it-stops",
        &["HS-14", "HS-16"],
        "The daemon is asked to stop (SIGTERM) with a request half received; as soon as its record is off its name, \
         handshakes are answered draining with all members (buck2: row 12).",
        state::draining_while_it_stops,
    ),
    Case::proof(
        "handshake/proof-answered-with-proof",
        &["HS-17", "HS-21"],
        "Good proofs of different nonces, and one sent again. Each answer carries one D, right for its nonce and for \
         exactly the body's bytes, wrong for any other body or nonce; no content coding even if the client takes one.",
        proofs::proof_answered_with_proof,
    ),
    Case::proof(
        "handshake/proof-accepted-in-every-spelling",
        &["HS-17"],
        "The accepted Authorization texts of the test vectors, filled with a nonce and its right MAC: other order, \
         case of the scheme, white space.",
        proofs::proof_accepted_in_every_spelling,
    ),
    Case::proof(
        "handshake/each-request-of-a-connection-proves-itself",
        &["HS-21", "HS-22"],
        "Handshakes one after another and all at once on one connection, good ones and wrong ones in turn: each \
         answer has the proof of its own nonce, or none.",
        proofs::each_request_of_a_connection_proves_itself,
    ),
    Case::proof(
        "handshake/wrong-mac-refused",
        &["HS-18", "HS-22"],
        "MACs that are one bit off, cut short, of another key, label, nonce or message. Each is 401 and proves \
         nothing.",
        proofs::wrong_mac_refused,
    ),
    Case::proof(
        "handshake/malformed-proof-refused",
        &["HS-19", "HS-22"],
        "Nonces and MACs that are missing, empty, short, long, padded, twice, in hexadecimal or in another alphabet, \
         with the right MAC over the nonce as it was sent. Each is 401 and proves nothing.",
        proofs::malformed_proof_refused,
    ),
    Case::proof(
        "handshake/proof-for-another-authority-refused",
        &["HS-20", "HS-22"],
        "Right MACs over other ports, other loopback names of the same port, and other spellings of the authority \
         (tailscale#7851: row 25). Each is 401 and proves nothing.",
        proofs::proof_for_another_authority_refused,
    ),
    Case::proof(
        "handshake/relayed-proof-refused",
        &["HS-20", "HS-22"],
        "Two daemons hold the same credential. A proof for one is sent to the other, also when the record of the one is \
         in the place of the other's, and a squatter passes a proof for its own port on to a daemon: 401, and nothing \
         that the squatter could answer with.",
        proofs::relayed_proof_refused,
    ),
    Case::proof(
        "handshake/unproven-answers-carry-no-proof",
        &["HS-22"],
        "The header Local-Daemon-Proof is looked for in answers to bearers, to nobody, to nonces without a MAC, and \
         on other routes.",
        proofs::unproven_answers_carry_no_proof,
    ),
    Case::proof(
        "handshake/proof-opens-no-other-route",
        &["HS-23"],
        "A valid proof is sent, fresh and replayed, to the operations that the credential opens, and to unknown \
         paths: 401, while the bearer is served; a shutdown has no effect.",
        proofs::proof_opens_no_other_route,
    ),
    Case::proof(
        "handshake/draining-is-proven-too",
        &["HS-21"],
        "A daemon that cannot read its record answers a good proof draining, with all members and a right D.",
        proofs::draining_is_proven_too,
    ),
    Case::proof(
        "handshake/draining-before-it-publishes",
        &["HS-16", "HS-21"],
        "A daemon that was told to yield looks at a record that leads to a mute socket. It listens and has not \
         published: what it answers meanwhile is draining and proven.",
        proofs::draining_before_it_publishes,
    ),
];

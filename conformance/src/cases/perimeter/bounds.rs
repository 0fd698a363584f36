//! How much, how many and how slow.

mod numbers;
mod sizes;
mod times;

use std::time::Duration;

use super::ask::Ask;
use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::perimeter(
        "perimeter/ordinary-sizes-served",
        &["PER-29"],
        "A body of 64 KiB, announced and in chunks, a target of 4 KiB and a header section of 8 KiB, in one header and \
         in many: served.",
        sizes::ordinary_sizes_served,
    ),
    Case::perimeter(
        "perimeter/many-connections-served",
        &["PER-29"],
        "128 connections are open with half a request each; then each sends the rest and is served.",
        numbers::many_connections_served,
    ),
    Case::perimeter(
        "perimeter/many-handshakes-served",
        &["PER-29"],
        "200 good handshakes as fast as this host sends them: each is answered 200.",
        numbers::many_handshakes_served,
    ),
    Case::perimeter(
        "perimeter/oversized-target-refused",
        &["PER-30"],
        "Request targets just beyond 32 KiB and longer, with and without the credential: 414.",
        sizes::oversized_target_refused,
    ),
    Case::perimeter(
        "perimeter/oversized-header-section-refused",
        &["PER-30"],
        "Header sections just beyond 64 KiB, in one header and in thousands, at once and in pieces, with and without the \
         credential: 431. A megabyte is refused or not read to its end.",
        sizes::oversized_header_section_refused,
    ),
    Case::perimeter(
        "perimeter/oversized-body-refused",
        &["PER-30"],
        "Bodies beyond 16 MiB with the credential, announced and in chunks: 413.",
        sizes::oversized_body_refused,
    ),
    Case::perimeter(
        "perimeter/endless-head-is-not-kept",
        &["PER-30"],
        "Request lines and header sections without end on eight connections: each is cut off before 16 MiB, and the \
         daemon's memory grows by less than that.",
        sizes::endless_head_is_not_kept,
    ),
    Case::perimeter(
        "perimeter/connections-beyond-the-limit-refused",
        &["PER-31"],
        "A daemon that may have 1024 descriptors is given 1100 connections: one after at least 128 is answered 503 with \
         Retry-After, none is left without an answer, and it serves again once they are closed.",
        numbers::connections_beyond_the_limit_refused,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/handshakes-beyond-the-limit-refused",
        &["PER-31"],
        "Handshakes with a wrong credential as fast as this host sends them: some are answered 503 with Retry-After.",
        numbers::handshakes_beyond_the_limit_refused,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/only-refused-handshakes-counted",
        &["PER-32"],
        "While handshakes with a wrong credential are answered 503, a good one is answered 200.",
        numbers::only_refused_handshakes_counted,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/slow-connections-ended",
        &["PER-33"],
        "Side by side: a header section that stops and one that drips, a body that stops, a client that reads no answer. \
         Each is ended by its bound: 10 s, 30 s, 30 s.",
        times::slow_connections_ended,
    )
    .idle()
    .deadline_s(100),
    Case::perimeter(
        "perimeter/served-after-every-bad-request",
        &["PER-34"],
        "After each of many refused, oversized and broken requests a good one is served, by the same launch in the same \
         process.",
        times::served_after_every_bad_request,
    ),
];

/// As much as the table's second column says, each.
const BODY: usize = 64 << 10;
const TARGET: usize = 4 << 10;
const SECTION: usize = 8 << 10;
/// How late a busy host may show what happened in time.
const LATE: Duration = Duration::from_secs(5);

/// `ask` with as many bytes of further headers as make its header section `length` long, in `count` headers.
fn padded(ask: &Ask, length: usize, count: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(&ask.bytes()).into_owned();
    let (line, rest) = text.split_once("\r\n").unwrap_or_default();
    let (section, body) = rest.split_once("\r\n\r\n").unwrap_or_default();
    let section = format!("{section}\r\n");
    let missing = length.saturating_sub(section.len());
    let mut filler = String::with_capacity(missing);
    for place in 0..count {
        // The last takes what a division leaves over.
        let share = (missing * (place + 1) / count).saturating_sub(filler.len());
        let head = format!("x-{place}: ");
        filler += &head;
        filler += &"a".repeat(share.saturating_sub(head.len() + 2));
        filler += "\r\n";
    }
    format!("{line}\r\n{section}{filler}\r\n{body}").into_bytes()
}

fn in_chunks(ask: &Ask, body: &str) -> Ask {
    let (first, second) = body.split_at(body.len() / 2);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    ask.clone().with("Transfer-Encoding", "chunked").body(chunks)
}

//! How much, how many and how slow.

mod numbers;
mod sizes;
mod times;

use std::time::Duration;

use crate::fixtures::http::Ask;

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

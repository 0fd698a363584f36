//! How much, how many and how slow.

mod bodies;
mod numbers;
mod sizes;
mod strangers;
mod times;

use std::time::Duration;

use crate::fixtures::http::Ask;
use crate::stage::Daemon;

/// As much as the table's second column says, each.
const BODY: usize = 64 << 10;
const TARGET: usize = 4 << 10;
const SECTION: usize = 8 << 10;
const LINES: usize = 100;
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

/// Raises this process's limit of descriptors to `wanted`; returns whether it is that high.
fn make_room(wanted: u64) -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return false;
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).is_ok()
}

/// The command prefix under which a daemon may have 1024 descriptors, as is usual.
fn bounded() -> Vec<String> {
    ["sh", "-c", r#"ulimit -n 1024; exec "$@""#, "sh"].map(str::to_owned).into()
}

/// Resident memory of the daemon's processes, in bytes.
fn resident(daemon: &Daemon) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let pids = daemon.tree().into_iter().map(|process| process.pid);
    pids.filter_map(of).sum::<u64>() * 1024
}

fn in_chunks(ask: &Ask, body: &str) -> Ask {
    let (first, second) = body.split_at(body.len() / 2);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    ask.clone().with("Transfer-Encoding", "chunked").body(chunks)
}

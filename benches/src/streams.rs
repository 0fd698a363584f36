//! Fan-out of events: the crate's streams, guard and all, beside the smallest server that has a shared log.
//!
//! `ci/bench streams` runs it. Server and readers are two processes, and rounds alternate between the two servers, so that
//! what else the machine does meets both. It is no test: it prints what it measured.

mod readers;
mod server;

use std::time::Duration;

use self::{
    readers::Readers,
    server::{Kind, Server},
};
use crate::measure::Turns;

/// How many events a burst has.
const EVENTS: u32 = 100_000;
/// How many pairs of rounds a row is the median of.
const ROUNDS: usize = 7;

pub(crate) use server::serve;

pub(crate) fn table() {
    raise_descriptors();
    println!("A burst of {EVENTS} events, medians of {ROUNDS} pairs of rounds.\n");
    println!("| Subscribers | Floor, million events/s | Ours, million events/s | Ratio | Goal |");
    println!("|---|---|---|---|---|");
    for subscribers in [1, 100, 1_000] {
        let both = pairs(
            || burst(Kind::Floor, subscribers, 0),
            || burst(Kind::Ours, subscribers, 0),
        );
        println!("| {subscribers} | {} | ≥ 0.8 |", cells(&both, subscribers));
    }
    println!(
        "\n| Readers | Alone, million events/s | Beside a stopped one, million events/s | Ratio | Goal |"
    );
    println!("|---|---|---|---|---|");
    let both = pairs(|| burst(Kind::Ours, 999, 0), || burst(Kind::Ours, 999, 1));
    println!("| 999 | {} | 1 |", cells(&both, 999));
    memory();
}

/// The times of both, which take turns.
fn pairs(one: impl FnMut() -> Duration, other: impl FnMut() -> Duration) -> Turns {
    Turns::take(ROUNDS, vec![Box::new(one), Box::new(other)])
}

/// Both as rates of delivery, and their ratio.
fn cells(both: &Turns, subscribers: u32) -> String {
    let delivered = f64::from(EVENTS) * f64::from(subscribers) / 1e6;
    let rate = |task| delivered / both.median(task).as_secs_f64();
    format!("{:.2} | {:.2} | {:.2}", rate(0), rate(1), both.ratio(0, 1))
}

/// How long a burst takes from its begin to the last byte at the last reader.
fn burst(kind: Kind, readers: u32, stopped: u32) -> Duration {
    let mut server = Server::start(kind, EVENTS);
    let mut subscribed = Readers::subscribe(&server, readers);
    let _stopped = Readers::subscribe(&server, stopped);
    let began = server.go();
    subscribed.read_all();
    began.elapsed()
}

/// What a thousand subscribers that all stopped cost, where the log is bounded as it is by default.
fn memory() {
    const SUBSCRIBERS: u32 = 1_000;
    let mut server = Server::start(Kind::Ours, 4096);
    let before = server.anonymous_kb();
    let _stopped = Readers::subscribe(&server, SUBSCRIBERS);
    let open = server.anonymous_kb();
    server.go();
    // The server says so when all events are in its log.
    server.wait_appended();
    let after = server.anonymous_kb();
    println!(
        "\n{SUBSCRIBERS} stopped subscribers, {EVENTS} events, a log of 4,096 events or 4 MiB: anonymous memory {before} kB at \
         first, {open} kB with the streams open, {after} kB after the burst: {} kB a subscriber (goal ≤ 64, the log not taken off).",
        (after.saturating_sub(before)) / u64::from(SUBSCRIBERS)
    );
}

/// A thousand connections need more descriptors than many shells give.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

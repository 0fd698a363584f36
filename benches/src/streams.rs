//! Fan-out of events: the crate's streams, guard and all, beside the smallest server that has a shared log.
//!
//! Server and readers are two processes, and rounds alternate between the two servers, so that what else the machine does
//! meets both.

mod readers;
mod server;

use std::fs;
use std::time::{Duration, Instant};

use self::readers::Readers;
pub(crate) use self::server::serve;
use self::server::{Kind, Load, Server, now};
use crate::measure::{Turns, memory_kb};

/// How many events a burst has.
const EVENTS: u32 = 100_000;
/// How many pairs of rounds a row is the median of.
const ROUNDS: usize = 7;
/// What opencode delivered to 100 subscribers when the goals were set, in million events a second.
const OPENCODE: f64 = 0.06;

pub(crate) fn table() {
    println!("A burst of {EVENTS} events, medians of {ROUNDS} pairs of rounds.\n");
    println!("| Subscribers | Floor, million events/s | Ours, million events/s | Ratio | Goal |");
    println!("|---|---|---|---|---|");
    for subscribers in [1, 100, 1_000] {
        let [floor, ours] = [Kind::Floor, Kind::Ours].map(|kind| move || burst(kind, EVENTS, subscribers, 0));
        let turns = Turns::take(ROUNDS, vec![Box::new(ours), Box::new(floor)]);
        let [ours, floor] = [0, 1].map(|task| rate(turns.median(task), subscribers));
        let ratio = turns.ratio(1, 0);
        println!("| {subscribers} | {floor:.2} | {ours:.2} | {ratio:.2} | ≥ 0.8 |");
        if subscribers == 100 {
            let ratio = ours / OPENCODE;
            println!(
                "| {subscribers} | opencode, as measured before: {OPENCODE} | {ours:.2} | {ratio:.0} | ≥ 100 |"
            );
        }
    }
    println!(
        "\n| Readers | Alone, million events/s | Beside a stopped one, million events/s | Ratio | Goal |"
    );
    println!("|---|---|---|---|---|");
    let [alone, beside] = [0, 1].map(|stopped| move || burst(Kind::Ours, EVENTS, 999, stopped));
    let turns = Turns::take(ROUNDS, vec![Box::new(alone), Box::new(beside)]);
    let [alone, beside] = [0, 1].map(|task| rate(turns.median(task), 999));
    println!("| 999 | {alone:.2} | {beside:.2} | {:.2} | 1 |", turns.ratio(0, 1));
    live();
    memory();
}

/// In million events a second, all subscribers together.
fn rate(time: Duration, subscribers: u32) -> f64 {
    f64::from(EVENTS) * f64::from(subscribers) / 1e6 / time.as_secs_f64()
}

/// How long a burst takes from its begin to the last byte at the last reader.
fn burst(kind: Kind, events: u32, readers: u32, stopped: u32) -> Duration {
    let mut server = Server::start(kind, Load::burst(events));
    let mut subscribed = Readers::subscribe(&server, readers);
    let _stopped = Readers::subscribe(&server, stopped);
    let began = server.go();
    subscribed.read_all(events, |_| {});
    began.elapsed()
}

/// How long a burst takes the crate's streams.
pub(crate) fn fan_out(events: u32, readers: u32) -> Duration {
    burst(Kind::Ours, events, readers, 0)
}

/// What a stream of a thousand events a second is to a hundred readers: how late an event comes, and what that takes.
fn live() {
    const READERS: u32 = 100;
    const SECONDS: u32 = 5;
    let load = Load { events: SECONDS * 1000, is_live: true, most: 4096 };
    let mut server = Server::start(Kind::Ours, load);
    let mut readers = Readers::subscribe(&server, READERS);
    let used = cpu_time(server.child.id());
    let began: Instant = server.go();
    let mut late = Vec::new();
    // A number that was cut in two by the end of a read is left out.
    readers.read_all(load.events, |bytes| {
        let now = now();
        let text = String::from_utf8_lossy(bytes);
        let stamps = text.split("\"at_ns\":").skip(1);
        let whole = stamps.filter_map(|rest| rest.split_once('}')?.0.parse::<u64>().ok());
        late.extend(whole.map(|stamp| now.saturating_sub(stamp)));
    });
    let used = cpu_time(server.child.id()).saturating_sub(used);
    let cores = used.div_duration_f64(began.elapsed());
    late.sort_unstable();
    let at = |part: usize| Duration::from_nanos(late[late.len() * part / 1000]).as_secs_f64() * 1e3;
    println!(
        "\nLive, 1,000 events/s to {READERS} subscribers, {SECONDS} s: {} events came, p50 {:.2} ms, p99 {:.2} ms (goal ≤ 2 ms), \
         p99.9 {:.2} ms; the server took {cores:.2} of a core (goal ≤ 0.5).",
        late.len(),
        at(500),
        at(990),
        at(999)
    );
}

/// What a process has had of the processors, its own time and the kernel's.
fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|&field| fields[field].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// What a thousand subscribers that all stopped cost, where the log is bounded as it is by default.
fn memory() {
    const SUBSCRIBERS: u32 = 1_000;
    let load = Load { most: 4096, ..Load::burst(EVENTS) };
    let mut server = Server::start(Kind::Ours, load);
    let anonymous = |server: &Server| memory_kb(server.child.id(), "Anonymous");
    let before = anonymous(&server);
    let _stopped = Readers::subscribe(&server, SUBSCRIBERS);
    let open = anonymous(&server);
    server.go();
    // The server says so when all events are in its log.
    server.wait_appended();
    let after = anonymous(&server);
    println!(
        "\n{SUBSCRIBERS} stopped subscribers, {EVENTS} events, a log of 4,096 events or 4 MiB: anonymous memory {before} kB at \
         first, {open} kB with the streams open, {after} kB after the burst: {} kB a subscriber (goal ≤ 64, the log not taken off).",
        (after.saturating_sub(before)) / u64::from(SUBSCRIBERS)
    );
}

//! A daemon that nobody asks: what it takes, and how soon it leaves when another has come.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use super::{Row, time};
use crate::contestant::{Contestant, Ours, run, until};
use crate::measure::{self, Connection, median};

const ROUNDS: usize = 7;
/// How long a daemon may take to publish itself.
const PUBLISHED: Duration = Duration::from_secs(30);
/// How long an idle daemon is looked at.
const LONG: Duration = Duration::from_secs(20);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![
        stand_down("with change notification", Duration::from_millis(100), &|| Vec::new()),
        stand_down("without change notification", Duration::from_millis(2500), &every_watcher),
    ];
    rows.extend(idle());
    rows
}

/// From the record of the next daemon to the end of this one.
fn stand_down(how: &str, goal: Duration, hold: &dyn Fn() -> Vec<rustix::fd::OwnedFd>) -> Row {
    let round = || {
        let ours = Ours::new();
        let held = hold();
        let mut first = foreground(&ours);
        drop(held);
        let record = fs::read(ours.state_dir().join("registration.json")).unwrap();
        let _second = Reaped(
            ours.locald(&["run"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let published =
            || fs::read(ours.state_dir().join("registration.json")).is_ok_and(|now| now != record);
        let started = Instant::now();
        // Without a pause between two looks, for what is measured is shorter than that.
        while !published() {
            assert!(started.elapsed() < PUBLISHED, "the second daemon publishes: not within {PUBLISHED:?}");
        }
        let began = Instant::now();
        first.0.wait().unwrap();
        let took = began.elapsed();
        ours.end();
        took
    };
    let times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    let worst = times.iter().max().copied().unwrap_or_default();
    Row::alone(
        format!("stand-down of an idle daemon after displacement, {how}"),
        format!("{} (the longest {})", time(median(times)), time(worst)),
        format!("≤ {}", time(goal)),
        worst <= goal,
    )
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that has published itself.
fn foreground(ours: &Ours) -> Reaped {
    let quiet = Stdio::null;
    let child = ours.locald(&["run"]).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    until("the daemon publishes", || ours.wire().is_some());
    Reaped(child)
}

/// All that this user may have: whoever starts now has to look for changes itself.
fn every_watcher() -> Vec<rustix::fd::OwnedFd> {
    std::iter::from_fn(|| inotify::init(inotify::CreateFlags::CLOEXEC).ok()).collect()
}

fn idle() -> [Row; 2] {
    let ours = Ours::new();
    run(ours.connect());
    let wire = ours.wire().unwrap();
    // Active: it has served somebody.
    measure::kept_alive(&wire, 1000).unwrap();
    drop(Connection::open(&wire).unwrap());
    let daemons = ours.daemons();
    let idle = measure::idle(&daemons, LONG).remove(0);
    let memory = idle.pss_kb <= 3 * 1024 && idle.anonymous_kb <= 1536;
    [
        Row::alone(
            "idle, after 1,000 requests: memory",
            format!("PSS {} kB, anonymous {} kB", idle.pss_kb, idle.anonymous_kb),
            "PSS ≤ 3 MiB, anonymous ≤ 1.5 MiB",
            memory,
        ),
        Row::alone(
            "idle: threads, switches a second",
            format!("{}, {:.1}", idle.threads, idle.switches),
            "≤ 3, ≤ 1",
            idle.threads <= 3 && idle.switches <= 1.0,
        ),
    ]
}

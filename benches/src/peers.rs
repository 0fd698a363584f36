//! Other people's daemons, where they are installed, beside ours and the floor.
//!
//! `ci/bench peers` runs it, in some six minutes. Each has a home of its own below the temporary directory, by which its
//! processes are known, and listens on loopback or on a socket in that home. Where its clients start it, they do; the HTTP
//! servers that no client starts are started by this program again (`start-peer`).

mod known;

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Floor, Ours, Wire, run};
use crate::measure::{
    Crowd, Idle, Stopped, Task, Turns, clients, cold, crowd, fresh, idle, kept_alive, stopped,
};

pub(crate) use known::start;

/// How often clients are started that find a daemon.
const WARM: usize = 41;
/// How often a daemon is started; one that takes longer than `SLOW`, less often.
const COLD: usize = 11;
const COLD_SLOW: usize = 3;
const SLOW: Duration = Duration::from_millis(500);
/// How often a row of so many requests is sent.
const ROWS: usize = 11;
const REQUESTS: usize = 200;
/// How many clients come at once.
const CROWD: usize = 32;
/// How long daemons have to become one, and how long an idle one is looked at.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a daemon has to become idle.
const CALM: Duration = Duration::from_secs(5);
/// How long a client has: some give up themselves after 15 s.
const LIMIT: Duration = Duration::from_secs(16);

pub(crate) fn table() {
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(Ours::new()), Box::new(Floor::new())];
    for (name, make) in known::PEERS {
        match make() {
            Some(peer) => contestants.push(Box::new(peer)),
            None => println!("{name} is not installed and left out: `ci/third-party install {name}`\n"),
        }
    }
    let contestants: Vec<&dyn Contestant> = contestants.iter().map(|one| &**one).collect();
    row("", contestants.iter().map(|one| one.name().to_owned()));
    println!("|---|{}", "---|".repeat(contestants.len()));
    let cold = colds(&contestants);
    for one in &contestants {
        run(one.connect());
    }
    thread::sleep(CALM);
    warms(&contestants);
    row("cold: connect-or-spawn to the first answer (ms)", cold);
    requests(&contestants);
    crowds(&contestants);
    let title = format!("daemon stopped by SIGSTOP: the next client, within {} s", LIMIT.as_secs());
    each(&title, &contestants, |one| {
        (one.has_launcher() || one.ask().is_some()).then(|| shown(&stopped(one, LIMIT)))
    });
    each("idle: PSS MB · threads · switches/s", &contestants, |one| Some(idles(one)));
}

fn row(title: &str, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    println!("| {title} | {} |", cells.join(" | "));
}

/// A row for which each contestant is started from nothing, alone, and ended.
fn each(title: &str, contestants: &[&dyn Contestant], cell: impl Fn(&dyn Contestant) -> Option<String>) {
    let cells = contestants.iter().map(|&one| {
        cold(one);
        let cell = cell(one);
        one.end();
        cell.unwrap_or_else(nothing)
    });
    row(title, cells);
}

/// Where there is nothing to measure.
fn nothing() -> String {
    "–".to_owned()
}

/// In milliseconds, with three digits where that makes sense.
fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.2}"),
        ..100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// The cells of the row about starts. Each runs alone.
fn colds(contestants: &[&dyn Contestant]) -> Vec<String> {
    let mut cells = vec![String::new(); contestants.len()];
    let alone = |at: usize| {
        let took = cold(contestants[at]);
        contestants[at].end();
        took
    };
    let (slow, quick): (Vec<_>, Vec<_>) = (0..contestants.len()).partition(|&at| alone(at) > SLOW);
    for (rounds, group) in [(COLD, quick), (COLD_SLOW, slow)] {
        let task = |&at: &usize| -> Task { Box::new(move || alone(at)) };
        let turns = Turns::take(rounds, group.iter().map(task).collect());
        for (at, median) in group.into_iter().zip(turns.medians()) {
            cells[at] = ms(median);
        }
    }
    cells
}

/// Needs running daemons.
fn warms(contestants: &[&dyn Contestant]) {
    let floor = Floor::new();
    let mut asked: Vec<Box<dyn Fn() -> Command + '_>> = vec![Box::new(|| floor.client("nothing"))];
    let mut places = Vec::new();
    for one in contestants {
        places.push(one.ask().map(|_| asked.len()));
        if one.ask().is_some() {
            asked.push(Box::new(|| one.ask().unwrap()));
        }
    }
    let asked: Vec<&dyn Fn() -> Command> = asked.iter().map(|ask| &**ask).collect();
    let turns = clients(WARM, &asked);
    let title = format!(
        "warm: a fresh client process finds the daemon, gets an answer, exits (ms; a process that does nothing: {})",
        ms(turns.median(0))
    );
    let cell = |place: Option<usize>| place.map_or_else(nothing, |place| ms(turns.median(place)));
    row(&title, places.into_iter().map(cell));
}

/// Needs running daemons.
fn requests(contestants: &[&dyn Contestant]) {
    let wires: Vec<Option<Wire>> = contestants.iter().map(|one| one.wire()).collect();
    let both = |wire| -> [Task; 2] {
        [
            Box::new(move || kept_alive(wire, REQUESTS).unwrap()),
            Box::new(move || fresh(wire, REQUESTS).unwrap()),
        ]
    };
    let turns = Turns::take(ROWS, wires.iter().flatten().flat_map(both).collect());
    let us = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e6);
    let mut medians = turns.medians().into_iter().map(us);
    let mut next = || medians.next().unwrap();
    let cells = wires.iter().map(|wire| match wire {
        Some(_) => format!("{} · {}", next(), next()),
        None => nothing(),
    });
    row("request over keep-alive · over a fresh connection (p50, µs)", cells);
}

fn crowds(contestants: &[&dyn Contestant]) {
    for one in contestants {
        one.end();
    }
    let cells = contestants.iter().map(|&one| {
        if !one.has_launcher() {
            return nothing();
        }
        one.forget();
        let Crowd { served, slowest, daemons, settled, .. } = crowd(one, CROWD, SETTLE);
        one.end();
        format!("{served} · {daemons} → {settled} · {}", ms(slowest))
    });
    let title = format!(
        "{CROWD} cold clients: served · daemons at first → after {} s · slowest (ms)",
        SETTLE.as_secs()
    );
    row(&title, cells);
}

fn shown(next: &Stopped) -> String {
    let took = format!("{:.2} s", next.end.took.as_secs_f64());
    let end = match next.end.status {
        None => return "hangs".to_owned(),
        Some(status) if status.success() => "served".to_owned(),
        Some(status) => status.code().map_or("killed".to_owned(), |code| format!("exit {code}")),
    };
    let replaced = if next.is_replaced { ", replaced" } else { "" };
    format!("{took}, {end}{replaced}")
}

fn idles(one: &dyn Contestant) -> String {
    thread::sleep(CALM);
    let daemons = idle(&one.daemons(), SETTLE);
    let sum = |part: fn(&Idle) -> f64| daemons.iter().map(part).sum::<f64>();
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let (pss, threads) = (sum(|one| one.pss_kb as f64) / 1e3, sum(|one| one.threads as f64));
    format!("{pss:.1} · {threads} · {:.1}", sum(|one| one.switches))
}

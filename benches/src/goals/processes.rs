//! Whole processes: a client that finds the daemon, one that starts it, and many that come at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Row, time};
use crate::contestant::{Contestant, Floor, Ours, beside, locald, run};
use crate::measure::{self, Crowd, Turns};

/// How many rounds have clients of a daemon that runs, and clients that start one.
const WARM: usize = 201;
const COLD: usize = 41;
/// How many rounds have crowds.
const CROWDS: usize = 7;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![warm()];
    rows.extend(cold());
    for clients in [32, 64] {
        for stale in [false, true] {
            rows.push(crowd(clients, stale));
        }
    }
    rows.extend(sizes());
    rows
}

fn warm() -> Row {
    let (ours, floor) = (Ours::new(), Floor::new());
    run(ours.connect());
    run(floor.connect());
    let status = || ours.ask().expect("locald has a client");
    let turns = measure::clients(WARM, &[&status, &|| floor.client("ask"), &|| floor.client("nothing")]);
    let nothing = time(turns.median(2));
    Row {
        floor: format!("floor {}, a process that does nothing {nothing}", time(turns.median(1))),
        ..Row::at_most(
            "warm `locald status --json`, a whole process",
            turns.median(0),
            turns.median(1),
            turns.ratio(0, 1),
            1.3,
            "floor",
        )
    }
}

fn cold() -> [Row; 2] {
    let (ours, floor) = (Ours::new(), Floor::new());
    let turns = Turns::take(
        COLD,
        vec![
            Box::new(|| measure::cold(&ours)),
            Box::new(|| measure::cold(&floor)),
            Box::new(|| measure::after_kill(&ours)),
        ],
    );
    let row = |what, one, other, goal, than| {
        Row::at_most(what, turns.median(one), turns.median(other), turns.ratio(one, other), goal, than)
    };
    [
        row("cold `locald connect --json` to ready", 0, 1, 1.5, "floor"),
        row("`locald connect --json` after `kill -9`", 2, 0, 1.2, "cold"),
    ]
}

/// Many clients, where there is nothing or what a killed daemon has left.
fn crowd(clients: usize, stale: bool) -> Row {
    let (ours, floor) = (Ours::new(), Floor::locked());
    let prepare = |contestant: &dyn Contestant| {
        contestant.end();
        contestant.forget();
        if stale {
            run(contestant.connect());
            contestant.end();
        }
    };
    let mut crowds = Vec::new();
    let turns = Turns::take(
        CROWDS,
        vec![
            Box::new(|| {
                prepare(&ours);
                let crowd = measure::crowd(&ours, clients, Duration::ZERO);
                let slowest = crowd.slowest;
                crowds.push(crowd);
                slowest
            }),
            Box::new(|| {
                prepare(&floor);
                measure::crowd(&floor, clients, Duration::ZERO).slowest
            }),
        ],
    );
    let (slowest, of_floor, ratio) = (turns.median(0), turns.median(1), turns.ratio(0, 1));
    drop(turns);
    let all = |holds: fn(&Crowd, usize) -> bool| crowds.iter().all(|crowd| holds(crowd, clients));
    let one = all(|crowd, clients| crowd.served == clients && ids(crowd) == 1 && crowd.daemons == 1);
    let served = crowds.iter().map(|crowd| crowd.served).min().unwrap_or(0);
    let most = |count: fn(&Crowd) -> usize| crowds.iter().map(count).max().unwrap_or(0);
    let record = if stale { "stale record" } else { "no record" };
    let row = Row::at_most(
        format!("{clients} cold clients at once, {record}: the slowest"),
        slowest,
        of_floor,
        ratio,
        2.0,
        "floor with a lock",
    );
    Row {
        ours: format!(
            "{}; {served} ready, {} id, {} daemon",
            row.ours,
            most(ids),
            most(|crowd| crowd.daemons)
        ),
        goal: format!("all ready on one id, {}", row.goal),
        is_met: row.is_met && one,
        ..row
    }
}

/// How many daemons the clients of a crowd were told of.
fn ids(crowd: &Crowd) -> usize {
    let id = |answer: &Vec<u8>| {
        let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
        Some(answer["id"].as_str()?.to_owned())
    };
    crowd.answers.iter().map(id).collect::<BTreeSet<_>>().len()
}

/// What is installed.
fn sizes() -> Option<Row> {
    let size = |path: PathBuf| fs::metadata(path).ok().map(|file| file.len());
    let of_floor = |name: &str| size(beside().join(name));
    let (ours, client, daemon) = (size(locald())?, of_floor("floor-client")?, of_floor("floor-daemon")?);
    let row = Row::alone("size of `locald`, in kB", (ours / 1000).to_string(), "none", true);
    Some(Row {
        floor: format!("client {} and daemon {}", client / 1000, daemon / 1000),
        ..row
    })
}

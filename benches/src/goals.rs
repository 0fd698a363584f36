//! What is to be reached, each beside the floor of the same run: a table with a line a goal.

mod clients;
mod hostile;
mod presence;
mod processes;
mod requests;
mod strangers;
mod suite;

use std::time::Duration;

pub(crate) use requests::serve;

/// One line of the table.
#[derive(Debug)]
struct Row {
    what: String,
    floor: String,
    ours: String,
    ratio: Option<f64>,
    goal: String,
    is_met: bool,
}

impl Row {
    /// Two times, of which the first may be so many times the other at most.
    fn at_most(
        what: impl Into<String>,
        ours: Duration,
        floor: Duration,
        ratio: f64,
        goal: f64,
        than: &str,
    ) -> Self {
        Self {
            what: what.into(),
            floor: time(floor),
            ours: time(ours),
            ratio: Some(ratio),
            goal: format!("≤ {goal} × {than}"),
            is_met: ratio <= goal,
        }
    }

    /// Something that is so or not, compared with nothing.
    fn alone(
        what: impl Into<String>,
        ours: impl Into<String>,
        goal: impl Into<String>,
        is_met: bool,
    ) -> Self {
        Self {
            what: what.into(),
            floor: "–".to_owned(),
            ours: ours.into(),
            ratio: None,
            goal: goal.into(),
            is_met,
        }
    }
}

/// A part of the table by its name.
type Part = (&'static str, fn() -> Vec<Row>);

const PARTS: [Part; 7] = [
    ("processes", processes::rows),
    ("requests", requests::rows),
    ("clients", clients::rows),
    ("hostile", hostile::rows),
    ("strangers", strangers::rows),
    ("presence", presence::rows),
    ("suite", suite::rows),
];

/// Prints each part as soon as it is measured: those that are named, or all.
pub(crate) fn table(named: &[String]) {
    println!("| What | Compared with | Ours | Ratio | Goal | Met |\n|---|---|---|---|---|---|");
    let wanted = |name: &str| named.is_empty() || named.iter().any(|one| one == name);
    for (_, part) in PARTS.iter().filter(|(name, _)| wanted(name)) {
        for row in part() {
            let ratio = row.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            let is_met = if row.is_met { "yes" } else { "**no**" };
            let Row { what, floor, ours, goal, .. } = row;
            println!("| {what} | {floor} | {ours} | {ratio} | {goal} | {is_met} |");
        }
    }
}

/// A time with the unit that suits it.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.1} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

//! How long the checks take that everybody runs: the suite against `locald`, and the model.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{Row, time};
use crate::contestant::beside;

pub(super) fn rows() -> Vec<Row> {
    let suite = ["run", "conformance/subjects/locald.toml", "--browser"];
    let rows = [
        row("daemonspec", &[&suite[..], &["none"]].concat(), Duration::from_mins(1)),
        row("daemonspec", &[&suite[..], &["all"]].concat(), Duration::from_mins(3)),
        row("local-daemon-model", &["check"], Duration::from_mins(2)),
    ];
    rows.into_iter().flatten().collect()
}

/// None where it was not built.
fn row(program: &str, arguments: &[&str], goal: Duration) -> Option<Row> {
    let path = beside().join(program);
    if !path.exists() {
        eprintln!("{program} is not built in release: its row is left out");
        return None;
    }
    let began = Instant::now();
    let output = Command::new(path).args(arguments).output().unwrap();
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().next_back().unwrap_or_default();
    Some(Row::alone(
        format!("`{program} {}`", arguments.join(" ")),
        format!("{} ({last})", time(took)),
        format!("≤ {} s", goal.as_secs()),
        // 2: where engines are left out, their cases are untestable.
        took <= goal && matches!(output.status.code(), Some(0 | 2)),
    ))
}

//! Measures, and prints ratios as tables in Markdown: `ci/bench` runs it, and `BENCHMARKS.md` quotes it.
//!
//! Nothing of it is a test: it gates nothing. What is compared takes turns in one run, so that whatever else the machine does
//! meets both; figures are medians.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends with what was in its way")]

mod contestant;
mod curves;
mod goals;
mod measure;
mod peers;
mod streams;
mod timing;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    raise_descriptors();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("curves") => curves::draw(Path::new(arguments.get(1).map_or("benches/curves", String::as_str))),
        Some("goals") => goals::table(&arguments[1..]),
        Some("peers") => peers::table(),
        Some("streams") => streams::table(),
        Some("timing") => timing::table(),
        Some("serve-requests") => goals::serve(&arguments[1..]),
        Some("start-peer") => peers::start(&arguments[1..]),
        Some("serve-streams") => streams::serve(&arguments[1..]),
        _ => {
            eprintln!("bench goals [PART…]|peers|streams|curves [DIRECTORY]|timing");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Thousands of connections need more descriptors than many shells give.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

//! What it costs as the work grows: a curve each, drawn beside the straight line that starts where it does.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_daemon::streams::{Hub, Limits};
use plotters::prelude::*;
use serde_json::json;

use crate::contestant::{Contestant as _, Ours, run};
use crate::measure::{self, Connection, median, memory_kb};
use crate::streams;

/// Rounds of each point, of which the middle one counts.
const ROUNDS: usize = 3;

/// What there is of work, and what it costs.
type Points = Vec<(f64, f64)>;

/// Measures, prints, and draws an SVG file each into the directory.
pub(crate) fn draw(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let curve = |name: &str, title, across, up, points: Points| {
        println!("\n{title}\n\n| {across} | {up} |\n|---|---|");
        for (x, y) in &points {
            println!("| {x} | {y:.3} |");
        }
        plot(&directory.join(name).with_extension("svg"), title, across, up, &points);
    };
    curve(
        "subscribers",
        "A burst of 10,000 events to so many subscribers",
        "subscribers",
        "ms until the last byte",
        points([1, 10, 100, 1000, 5000], |count| streams::fan_out(10_000, count)),
    );
    let (latency, memory) = connections();
    curve(
        "connections",
        "A request beside so many open connections",
        "open connections",
        "ms a request (p50)",
        latency,
    );
    curve(
        "connections-memory",
        "Memory of the daemon with so many open connections",
        "open connections",
        "anonymous memory, MB",
        memory,
    );
    curve(
        "clients",
        "So many clients at once, and no daemon",
        "clients",
        "ms until the last is ready",
        points([1, 4, 16, 64, 256], |clients| {
            let ours = Ours::new();
            let crowd = measure::crowd(&ours, clients as usize, Duration::ZERO);
            assert_eq!(crowd.served, clients as usize);
            crowd.slowest
        }),
    );
    curve(
        "events",
        "Appending so many events to a log that holds them all",
        "events",
        "ms",
        points([1_000, 10_000, 100_000, 1_000_000, 10_000_000], append),
    );
}

fn points<const N: usize>(counts: [u32; N], mut measured: impl FnMut(u32) -> Duration) -> Points {
    let mut point = |count| {
        let time = median((0..ROUNDS).map(|_| measured(count)).collect());
        (f64::from(count), time.as_secs_f64() * 1e3)
    };
    counts.into_iter().map(&mut point).collect()
}

/// The time of a request, and the daemon's memory, as connections that ask nothing are added.
fn connections() -> (Points, Points) {
    let ours = Ours::new();
    run(ours.connect());
    let (wire, daemon) = (ours.wire().unwrap(), ours.daemons()[0]);
    let mut open = Vec::new();
    let mut curves = (Vec::new(), Vec::new());
    for count in [1_u32, 10, 100, 1000, 4000, 10_000] {
        while open.len() + 1 < count as usize {
            open.push(Connection::open(&wire).unwrap());
        }
        // The last of them, so that all are taken before anything is measured; a daemon closes what asks nothing for 10 s.
        let mut asking = Connection::open(&wire).unwrap();
        asking.ask().unwrap();
        let mut last = Vec::new();
        for _ in 0..1000 {
            let began = Instant::now();
            asking.ask().unwrap();
            last.push(began.elapsed());
        }
        let x = f64::from(count);
        curves.0.push((x, median(last).as_secs_f64() * 1e3));
        #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
        curves.1.push((x, memory_kb(daemon, "Anonymous") as f64 / 1e3));
    }
    curves
}

fn append(events: u32) -> Duration {
    let limits = Limits { events: events as usize, bytes: events as usize * 256 };
    let hub: Arc<Hub> = Arc::new(Hub::new(1, &["note"], limits));
    let began = Instant::now();
    for number in 0..events {
        hub.append("note", &json!({"n": number})).unwrap();
    }
    began.elapsed()
}

/// Both axes are logarithmic, so that what is linear is a straight line with the slope of the dashed one.
fn plot(file: &Path, title: &str, across: &str, up: &str, points: &[(f64, f64)]) {
    let (first, last) = (points[0], points[points.len() - 1]);
    let linear: Points = points.iter().map(|(x, _)| (*x, first.1 * x / first.0)).collect();
    let ys = || points.iter().chain(&linear).map(|(_, y)| *y);
    let (low, high) = (ys().fold(f64::MAX, f64::min), ys().fold(0.0, f64::max));
    let root = SVGBackend::new(file, (640, 400)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(32)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((first.0..last.0).log_scale(), (low / 2.0..high * 2.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_desc(across)
        .y_desc(up)
        .x_label_formatter(&ToString::to_string)
        .y_label_formatter(&ToString::to_string)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    let dashed = DashedLineSeries::new(linear, 4, 4, BLACK.mix(0.5).into());
    chart
        .draw_series(dashed)
        .unwrap()
        .label("linear")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.5)));
    chart
        .draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)).point_size(3))
        .unwrap()
        .label("measured")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .draw()
        .unwrap();
    root.present().unwrap();
}

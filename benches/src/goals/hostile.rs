//! What answers nothing or is somebody else: how long a client waits, and what it gives away.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use local_daemon::Client;
use rustix::process::Signal;

use super::{Row, time};
use crate::contestant::{Contestant, Ours, kill, run, until};
use crate::measure::{self, median, run_within};

/// What a client may take beyond its deadline.
const SLACK: Duration = Duration::from_millis(50);
/// How many times a client that waits for a deadline is measured.
const ROUNDS: usize = 7;
const DEADLINES: [u64; 4] = [100, 500, 1000, 1500];

pub(super) fn rows() -> Vec<Row> {
    vec![
        stopped_deadline(),
        mute_deadline(),
        stopped_recovery(),
        mute_recovery(),
        squatter(),
    ]
}

/// The longest that clients took beyond their deadlines.
fn overrun(what: &str, ours: &Ours) -> Row {
    let overrun = |&deadline: &u64| {
        let deadline = Duration::from_millis(deadline);
        let client = Client::new("locald", "locald/1").unwrap();
        let client = client.state_dir(ours.state_dir()).deadline(deadline);
        (0..ROUNDS).map(move |_| {
            let began = Instant::now();
            assert!(client.connect().is_err(), "nobody answered");
            began.elapsed().saturating_sub(deadline)
        })
    };
    let worst = DEADLINES.iter().flat_map(overrun).max().unwrap_or_default();
    Row::alone(
        format!("{what}, deadlines of {DEADLINES:?} ms: the latest answer"),
        format!("{} late", time(worst)),
        "≤ 50 ms late",
        worst <= SLACK,
    )
}

fn stopped_deadline() -> Row {
    let ours = Ours::new();
    run(ours.connect());
    for daemon in ours.daemons() {
        kill(daemon, Signal::STOP);
    }
    overrun("a stopped daemon", &ours)
}

fn mute_deadline() -> Row {
    let ours = Ours::new();
    let _squatter = Squatter::beside(&ours, None);
    overrun("a mute squatter", &ours)
}

fn recovery(what: &str, mut round: impl FnMut() -> Duration) -> Row {
    let took = median((0..ROUNDS).map(|_| round()).collect());
    let goal = Duration::from_millis(2500);
    Row::alone(
        format!("{what}: `locald connect` to a daemon that answers"),
        time(took),
        "≤ 2.5 s",
        took <= goal,
    )
}

fn stopped_recovery() -> Row {
    let ours = Ours::new();
    recovery("a stopped daemon", || {
        ours.end();
        ours.forget();
        run(ours.connect());
        let stopped = measure::stopped(&ours, Duration::from_secs(15));
        assert!(stopped.end.is_success() && stopped.is_replaced, "{stopped:?}");
        stopped.end.took
    })
}

fn mute_recovery() -> Row {
    let ours = Ours::new();
    recovery("a mute squatter", || {
        ours.end();
        ours.forget();
        let _squatter = Squatter::beside(&ours, None);
        run(ours.connect())
    })
}

/// Each command of `locald` against each squatter.
fn squatter() -> Row {
    let answers = [Some("200 OK"), Some("404 Not Found"), None];
    let commands: [&[&str]; 5] = [
        &["status"],
        &["connect", "--no-spawn"],
        &["stop"],
        &["doctor"],
        &["connect"],
    ];
    let (mut received, mut given_away, mut signals) = (0, 0, 0);
    for answer in answers {
        let ours = Ours::new();
        for command in commands {
            ours.end();
            ours.forget();
            let mut squatter = Squatter::beside(&ours, answer);
            run_within(Duration::from_secs(15), ours.locald(command));
            let bytes = squatter.received.lock().unwrap().clone();
            received += bytes.len();
            given_away += squatter
                .credential
                .iter()
                .map(|form| occurrences(&bytes, form) * form.len())
                .sum::<usize>();
            signals += usize::from(squatter.bystander.try_wait().unwrap().is_some());
        }
    }
    Row::alone(
        "squatters that answer 200, 404, nothing: bytes of the credential, signals to the recorded process",
        format!("{given_away} of {received} bytes; {signals} signals"),
        "0; 0",
        given_away == 0 && signals == 0 && received > 0,
    )
}

fn occurrences(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// Somebody who listens where the record says, and a process of the recorded id that would die of a signal.
struct Squatter {
    received: Arc<Mutex<Vec<u8>>>,
    bystander: Child,
    /// The credential in the forms in which it could travel.
    credential: [Vec<u8>; 3],
}

impl Squatter {
    /// Takes the place of a daemon that was killed.
    fn beside(ours: &Ours, answer: Option<&'static str>) -> Self {
        run(ours.connect());
        ours.end();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bystander = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let path = ours.state_dir().join("registration.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["url"] = format!("http://{}/", listener.local_addr().unwrap()).into();
        record["pid"] = bystander.id().into();
        fs::write(&path, record.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let credential = fs::read_to_string(ours.state_dir().join("credential")).unwrap();
        let text = credential.trim_end().as_bytes().to_vec();
        let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&text).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let heard = received.clone();
        // It ends with this process: a mute one keeps what it has accepted.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = heard.clone();
                thread::spawn(move || serve(stream, answer, &heard));
            }
        });
        Self {
            received,
            bystander,
            credential: [STANDARD.encode(&text).into_bytes(), text, raw],
        }
    }
}

fn serve(mut stream: std::net::TcpStream, answer: Option<&str>, heard: &Mutex<Vec<u8>>) {
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        let mut heard = heard.lock().unwrap();
        heard.extend_from_slice(&part[..count]);
        let is_whole = heard.ends_with(b"\r\n\r\n");
        if let (Some(answer), true) = (answer, is_whole) {
            let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\n{{}}");
        }
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.bystander.kill();
        let _ = self.bystander.wait();
        until("the bystander ends", || self.bystander.try_wait().is_ok());
    }
}

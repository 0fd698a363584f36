//! Requests over a socket: a proven handshake, an authenticated request, and as many as there is time for.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use local_daemon::handshake::{self, Nonce};
use local_daemon::{Credential, Daemon};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::Row;
use crate::contestant::{Contestant as _, Floor, Ours, Wire, is_whole_http, run, until};
use crate::measure::{self, Connection, Turns, median};

/// How many requests a round has whose middle one counts.
const EACH: usize = 2000;
const ROUNDS: usize = 15;
/// How many requests a round has that are counted together, and over how many connections.
const MANY: usize = 100_000;
const CONNECTIONS: usize = 16;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = one_after_the_other();
    rows.push(through_the_guard());
    rows.extend(beside_nginx());
    rows
}

/// Starts servers on the one processor, and measures from the other: where client and server share one, or move, a request
/// takes anything from 7 to 70 µs.
pub(super) fn apart<S, T>(start: impl FnOnce() -> S, measure: impl FnOnce(&S) -> T) -> T {
    let both = sched_getaffinity(None).unwrap();
    let only = |processor| {
        let mut set = CpuSet::new();
        set.set(processor);
        // A host with one processor has nothing to choose.
        let _ = sched_setaffinity(None, &set);
    };
    only(1);
    let servers = start();
    only(0);
    let measured = measure(&servers);
    let _ = sched_setaffinity(None, &both);
    measured
}

fn one_after_the_other() -> Vec<Row> {
    let start = || {
        let (ours, floor) = (Ours::new(), Floor::new());
        run(ours.connect());
        run(floor.connect());
        (ours, floor, Server::start("guarded"))
    };
    apart(start, |(ours, floor, least)| latencies(ours, floor, least))
}

fn latencies(ours: &Ours, floor: &Floor, least: &Server) -> Vec<Row> {
    let [ours, floor] = [ours.wire().unwrap(), floor.wire().unwrap()];
    let text = fs::read_to_string(least.home.path().join("state/credential")).unwrap();
    let credential: Credential = Credential::parse(text.as_bytes()).unwrap();
    let turns = Turns::take(
        ROUNDS,
        vec![
            Box::new(|| handshakes(&least.wire.address, &credential)),
            Box::new(|| measure::fresh(&floor, EACH).unwrap()),
            Box::new(|| measure::kept_alive(&least.wire, EACH).unwrap()),
            Box::new(|| measure::kept_alive(&floor, EACH).unwrap()),
            Box::new(|| measure::kept_alive(&ours, EACH).unwrap()),
        ],
    );
    let row = |what, one, other, goal| {
        Row::at_most(what, turns.median(one), turns.median(other), turns.ratio(one, other), goal, "floor")
    };
    vec![
        row("handshake over a fresh connection, both sides proven, p50", 0, 1, 1.2),
        row("authenticated request over keep-alive, p50", 2, 3, 1.1),
        Row {
            goal: "none: it reads the record".to_owned(),
            is_met: true,
            ..row("`GET /v1/status` of `locald` over keep-alive, p50", 4, 3, 1.1)
        },
    ]
}

/// The middle one of handshakes, from connecting to a proven answer.
fn handshakes(address: &str, credential: &Credential) -> Duration {
    let one = |number: usize| {
        let mut nonce = [0x5a; 32];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let nonce = Nonce::from_bytes(nonce);
        let began = Instant::now();
        let authorization =
            handshake::authorization(nonce, handshake::client_code(credential, address, nonce));
        let wire = Wire::http(address.to_owned(), handshake::PATH, &authorization);
        let mut connection = Connection::open(&wire).unwrap();
        let answer = connection.ask().unwrap();
        assert!(is_proven(answer, credential, address, nonce), "{}", String::from_utf8_lossy(answer));
        began.elapsed()
    };
    median((0..EACH).map(one).collect())
}

fn is_proven(answer: &[u8], credential: &Credential, address: &str, nonce: Nonce) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let code = str::from_utf8(head).unwrap_or_default().lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case(handshake::SCHEME).then(|| handshake::parse_answer(value))?
    });
    code.is_some_and(|code| code == handshake::daemon_code(credential, address, nonce, body))
}

fn through_the_guard() -> Row {
    let start = || (Server::start("guarded"), Server::start("bare"));
    let turns = apart(start, |(guarded, bare)| in_turns(&guarded.wire, &bare.wire));
    rate(&turns, "requests/s through the whole guard, 16 connections", "the same server without it", 0.85)
}

fn beside_nginx() -> Option<Row> {
    let start = || Some((Server::start("guarded"), Nginx::start()?));
    let turns = apart(start, |servers| {
        let (guarded, nginx) = servers.as_ref()?;
        Some(in_turns(&guarded.wire, &nginx.wire))
    });
    Some(rate(&turns?, "the same beside nginx, one worker", "nginx", 1.0))
}

fn in_turns(one: &Wire, other: &Wire) -> Turns {
    Turns::take(ROUNDS, vec![Box::new(|| many(one)), Box::new(|| many(other))])
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn rate(turns: &Turns, what: &str, than: &str, goal: f64) -> Row {
    let rate = |task| format!("{:.0}", MANY as f64 / turns.median(task).as_secs_f64());
    let ratio = turns.ratio(1, 0);
    Row {
        what: what.to_owned(),
        floor: rate(1),
        ours: rate(0),
        ratio: Some(ratio),
        goal: format!("≥ {goal} × {than}"),
        is_met: ratio >= goal,
    }
}

/// How long so many requests take over so many connections, each of which sends its next when it has its answer.
fn many(wire: &Wire) -> Duration {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let mut streams: Vec<(TcpStream, Vec<u8>)> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(&wire.address).unwrap();
            stream.set_nodelay(true).unwrap();
            (stream, Vec::with_capacity(4096))
        })
        .collect();
    let began = Instant::now();
    for (place, (stream, _)) in streams.iter_mut().enumerate() {
        epoll::add(&epoll, stream.as_fd(), EventData::new_u64(place as u64), EventFlags::IN).unwrap();
        stream.write_all(&wire.request).unwrap();
    }
    let (mut sent, mut answered) = (CONNECTIONS, 0);
    let mut ready = Vec::with_capacity(CONNECTIONS);
    let mut part = [0; 4096];
    while answered < MANY {
        ready.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None).unwrap();
        for event in &ready {
            let place = usize::try_from(event.data.u64()).unwrap();
            let (stream, answer) = &mut streams[place];
            let count = match stream.read(&mut part) {
                Ok(0) => panic!("{} closed a connection", wire.address),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{}: {error}", wire.address),
            };
            answer.extend_from_slice(&part[..count]);
            if is_whole_http(answer) {
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
                answer.clear();
                answered += 1;
                if sent < MANY {
                    stream.write_all(&wire.request).unwrap();
                    sent += 1;
                }
            }
        }
    }
    began.elapsed()
}

/// This program again, as a server of one route, and of a stream.
pub(super) struct Server {
    child: Child,
    pub(super) wire: Wire,
    pub(super) home: TempDir,
}

impl Server {
    pub(super) fn start(kind: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let state_dir = home.path().join("state");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve-requests", kind])
            .arg(&state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let credential = fs::read_to_string(state_dir.join("credential")).unwrap_or_default();
        let wire =
            Wire::http(address.trim_end().to_owned(), "/", &format!("Bearer {}", credential.trim_end()));
        Self { child, wire, home }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process with the argument `serve-requests` does.
pub(crate) fn serve(arguments: &[String]) {
    let [kind, state_dir] = arguments else {
        panic!("serve-requests guarded|bare STATE-DIR")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let router = Router::new()
        .route("/", get(async || Json(json!({"ok": true}))))
        .route("/events", get(super::clients::events));
    runtime.block_on(async {
        if kind == "guarded" {
            guarded(router, Path::new(state_dir)).await;
        } else {
            bare(router).await;
        }
    });
}

async fn guarded(router: Router, state_dir: &Path) {
    let daemon = Daemon::builder("bench", "bench/1")
        .state_dir(state_dir)
        .stop_on_signals(true)
        .start()
        .await
        .unwrap();
    let handle = daemon.handle();
    let served = daemon.serve(router);
    let told = async {
        handle.published().await;
        println!("{}", handle.url().authority());
    };
    let (served, ()) = tokio::join!(served, told);
    served.unwrap();
}

async fn bare(router: Router) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let service = TowerToHyperService::new(router.clone());
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await;
            Ok::<_, Infallible>(())
        });
    }
}

/// One worker of nginx that answers the same.
struct Nginx {
    child: Child,
    wire: Wire,
    _home: TempDir,
}

impl Nginx {
    /// None where it is not installed.
    fn start() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        // nginx binds what it is told, so a port that is free now has to do; where it is taken meanwhile this fails.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let prefix = home.path().display();
        let configuration = format!(
            "daemon off; master_process off; pid {prefix}/pid; error_log {prefix}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {prefix}/body;\n\
             proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi; uwsgi_temp_path {prefix}/uwsgi;\n\
             scgi_temp_path {prefix}/scgi;\n\
             server {{ listen {address}; location / {{ default_type application/json; return 200 '{{\"ok\":true}}'; }} }} }}\n"
        );
        let file = home.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(home.path())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("nginx is not installed (ci/third-party install nginx): its row is left out");
            return None;
        };
        let started = Self {
            child,
            wire: Wire::http(address.to_string(), "/", "Bearer none"),
            _home: home,
        };
        until("nginx listens", || TcpStream::connect(address).is_ok());
        Some(started)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

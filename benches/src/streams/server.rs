//! The two servers, each in a process of its own: this program again, with the argument `serve`.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use local_daemon::Daemon;
use local_daemon::streams::{Hub, Limits, Selection};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a connection is written at most at a time, in bytes.
const WRITE: usize = 32 * 1024;
/// How many events are appended before others get their turn.
const TURN: u32 = 64;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Sockets, a shared log, and nothing else.
    Floor,
    /// The crate: listener, guard, hub, bodies.
    Ours,
}

/// What a server appends when it is told to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) events: u32,
    /// One each millisecond, or all at once.
    pub(crate) is_live: bool,
    /// How many events its log holds.
    pub(crate) most: u32,
}

impl Load {
    /// So many events at once, all of which its log holds.
    pub(crate) const fn burst(events: u32) -> Self {
        Self { events, is_live: false, most: events }
    }
}

/// A running server. It ends with its standard input.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    /// The value of `Authorization`.
    pub(crate) bearer: String,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(kind: Kind, load: Load) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The daemon makes it, with the mode that it wants.
        let state_dir = folder.path().join("state");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve-streams")
            .args([
                format!("{kind:?}"),
                load.events.to_string(),
                load.is_live.to_string(),
                load.most.to_string(),
            ])
            .arg(&state_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let address = line(&mut output).parse().unwrap();
        let credential = std::fs::read_to_string(state_dir.join("credential")).unwrap_or_default();
        Self {
            input: child.stdin.take().unwrap(),
            child,
            output,
            address,
            bearer: format!("Bearer {}", credential.trim_end()),
            _folder: folder,
        }
    }

    /// Lets the burst begin; when it did.
    pub(crate) fn go(&mut self) -> Instant {
        let began = Instant::now();
        self.input.write_all(b"\n").unwrap();
        began
    }

    /// Waits until all events are in the log.
    pub(crate) fn wait_appended(&mut self) {
        line(&mut self.output);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    assert_ne!(output.read_line(&mut line).unwrap(), 0, "the server has ended");
    line.trim_end().to_owned()
}

/// What the process with the argument `serve` does.
pub(crate) fn serve(arguments: &[String]) {
    let [kind, events, is_live, most, state_dir] = arguments else {
        panic!("serve-streams KIND EVENTS LIVE MOST STATE-DIR")
    };
    let load = Load {
        events: events.parse().unwrap(),
        is_live: is_live.parse().unwrap(),
        most: most.parse().unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if kind == "Floor" {
            floor(load).await;
        } else {
            ours(load, state_dir).await;
        }
    });
}

/// Returns when the other side says so.
async fn told() {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        let _ = tell.send(());
        // The other side is gone, so nobody wants this any more.
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let _ = told.await;
}

/// Appends the events.
async fn perform(load: Load, mut append: impl FnMut(u32)) {
    told().await;
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for number in 1..=load.events {
        if load.is_live {
            pace.tick().await;
        } else if number % TURN == 0 {
            tokio::task::yield_now().await;
        }
        append(number);
    }
    println!("appended");
}

/// The monotonic clock, which both processes read, in nanoseconds.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

async fn ours(load: Load, state_dir: &str) {
    let events = usize::try_from(load.most).unwrap();
    let limits = Limits {
        events,
        // The default for as many as are held by default.
        bytes: Limits::default().bytes / Limits::default().events * events,
    };
    let hub: Arc<Hub> = Arc::new(Hub::new(0x5f0c_2a9b, &["note"], limits));
    let subscribe = get(async |State(hub): State<Arc<Hub>>| {
        let subscriber = hub.subscribe(&Selection::default()).unwrap();
        subscriber.into_response().map(Body::new)
    });
    let router = Router::new().route("/v1/events", subscribe).with_state(hub.clone());
    let builder = Daemon::builder("bench", "bench/1").state_dir(state_dir).stop_on_signals(true);
    let daemon = builder.start().await.unwrap();
    let handle = daemon.handle();
    let served = tokio::task::spawn_local(daemon.serve(router));
    handle.published().await;
    println!("{}", handle.url().authority());
    perform(load, |number| {
        let event = if load.is_live { json!({"at_ns": now()}) } else { json!({"n": number}) };
        hub.append("note", &event).unwrap();
    })
    .await;
    served.await.unwrap().unwrap();
}

/// Frames of the same bytes in one vector, which every connection writes from as it is.
async fn floor(load: Load) {
    let log = Rc::new(RefCell::new(Vec::<u8>::new()));
    let (grown, wait) = watch::channel(());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let accepting = {
        let log = log.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (log, mut wait) = (log.clone(), wait.clone());
                tokio::task::spawn_local(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                    stream.try_write(head).unwrap();
                    let mut cursor = log.borrow().len();
                    loop {
                        while cursor == log.borrow().len() {
                            if wait.changed().await.is_err() {
                                return;
                            }
                        }
                        if stream.writable().await.is_err() {
                            return;
                        }
                        let log = log.borrow();
                        let end = log.len().min(cursor + WRITE);
                        match stream.try_write(&log[cursor..end]) {
                            Ok(written) => cursor += written,
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                });
            }
        })
    };
    perform(load, |number| {
        let at = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        writeln!(
            log.borrow_mut(),
            "id: 5f0c2a9b-{number}\nevent: note\ndata: {{\"topic\":\"note\",\"at\":\"{at}\",\"data\":{{\"n\":{number}}}}}\n"
        )
        .unwrap();
        grown.send_replace(());
    })
    .await;
    accepting.await.unwrap();
}

//! Other people's daemons, where they are installed, beside ours and the floor.
//!
//! `ci/bench peers` runs it. Each has a home of its own below the temporary directory, by which its processes are known, and
//! listens on loopback or on a socket in that home. Where its clients start it, they do; the HTTP servers that no client
//! starts are started by this program again (`start-peer`).

use std::{
    ffi::OsString,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use local_daemon::Credential;
use tempfile::TempDir;

use crate::{
    contestant::{Contestant, Floor, Ours, Wire, is_whole_http, processes_in, until},
    measure::{
        self, Connection, Crowd, Idle, Next, Task, Turns, clients, cold, crowd, fresh, idle, kept_alive,
    },
};

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
/// How long a client has.
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn table() {
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(Ours::new()), Box::new(Floor::new())];
    for (name, make) in PEERS {
        match make() {
            Some(peer) => contestants.push(Box::new(peer)),
            None => println!("{name} is not installed and left out: `ci/third-party install {name}`\n"),
        }
    }
    let contestants: Vec<&dyn Contestant> = contestants.iter().map(|one| &**one).collect();
    row("", contestants.iter().map(|one| one.name().to_owned()));
    println!("|---|{}", "---|".repeat(contestants.len()));
    let cold = colds(&contestants);
    warms(&contestants);
    row("cold: connect-or-spawn to the first answer (ms)", cold);
    requests(&contestants);
    crowds(&contestants);
    let title = format!("daemon stopped by SIGSTOP: the next client, within {LIMIT:?}");
    each(&title, &contestants, |one| {
        measure::stopped(one, LIMIT).map(|next| shown(&next))
    });
    each("idle: PSS MB · threads · switches/s", &contestants, |one| {
        Some(idles(one))
    });
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

/// The cells of the row about starts. The daemons run then.
fn colds(contestants: &[&dyn Contestant]) -> Vec<String> {
    let mut cells = vec![String::new(); contestants.len()];
    let (slow, quick): (Vec<_>, Vec<_>) =
        (0..contestants.len()).partition(|&at| cold(contestants[at]) > SLOW);
    for (rounds, group) in [(COLD, quick), (COLD_SLOW, slow)] {
        let task = |&at: &usize| -> Task { Box::new(move || cold(contestants[at])) };
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
    let nothing_done = || floor.client("nothing");
    let mut asked: Vec<Box<dyn Fn() -> Command>> = vec![Box::new(nothing_done)];
    let mut places = Vec::new();
    for one in contestants {
        places.push(one.ask().map(|_| asked.len()));
        asked.extend(
            one.ask()
                .map(|_| -> Box<dyn Fn() -> Command> { Box::new(|| one.ask().unwrap()) }),
        );
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
    row(
        "request over keep-alive · over a fresh connection (p50, µs)",
        cells,
    );
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
        let Crowd {
            served,
            slowest,
            daemons,
            settled,
            ..
        } = crowd(one, CROWD, SETTLE);
        one.end();
        format!("{served} · {daemons} → {settled} · {}", ms(slowest))
    });
    let title = format!(
        "{CROWD} cold clients: served · daemons at first → after {} s · slowest (ms)",
        SETTLE.as_secs()
    );
    row(&title, cells);
}

fn shown(next: &Next) -> String {
    let took = format!("{:.2} s", next.end.took.as_secs_f64());
    let end = match next.end.status {
        None => return "hangs".to_owned(),
        Some(status) if status.success() => "served".to_owned(),
        Some(status) => status
            .code()
            .map_or("killed".to_owned(), |code| format!("exit {code}")),
    };
    let replaced = if next.is_replaced { ", replaced" } else { "" };
    format!("{took}, {end}{replaced}")
}

fn idles(one: &dyn Contestant) -> String {
    std::thread::sleep(CALM);
    let daemons = idle(&one.daemons(), SETTLE);
    let sum = |part: fn(&Idle) -> f64| daemons.iter().map(part).sum::<f64>();
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let (pss, threads) = (sum(|one| one.pss_kb as f64) / 1e3, sum(|one| one.threads as f64));
    format!("{pss:.1} · {threads} · {:.1}", sum(|one| one.switches))
}

/// A peer by its name; none where it is not installed.
type Known = (&'static str, fn() -> Option<Peer>);

/// All that are known, by the names by which `ci/third-party` installs them.
const PEERS: [Known; 8] = [
    ("gpg-agent", gpg_agent),
    ("sccache", sccache),
    ("watchman", watchman),
    ("turbo", turbo),
    ("biome", biome),
    ("syncthing", syncthing),
    ("jupyter_server", jupyter_server),
    ("opencode", opencode),
];

/// Somebody else's daemon. All that it writes is in a home of its own, and that it was started with it as `HOME` is how its
/// processes are known.
struct Peer {
    name: &'static str,
    home: TempDir,
    client: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    /// The arguments of a client that asks, if there is one.
    ask: Option<Vec<String>>,
    launch: Launch,
    wire: Find,
}

/// Finds out below the home what the running daemon is asked over its socket.
type Find = Box<dyn Fn(&Path) -> Option<Wire>>;

/// How it comes to run.
enum Launch {
    /// By a client with these arguments.
    Client(Vec<String>),
    /// As `start-peer` does with these arguments.
    Server(Vec<String>),
}

impl Peer {
    /// One that is asked and started by the same program. Where it has more to say, the caller sets it.
    fn new(name: &'static str, client: PathBuf, ask: &[&str], connect: &[&str]) -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let state = home.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        Self {
            name,
            home,
            client,
            environment: Vec::new(),
            ask: Some(owned(ask)),
            launch: Launch::Client(owned(connect)),
            wire: Box::new(|_| None),
        }
    }

    /// An HTTP server that is asked for a path, and that no client starts.
    fn server(
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        path: &'static str,
        auth: String,
    ) -> Self {
        let program = program.to_str().unwrap();
        let mut server = Self::new(name, program.into(), &[], &[]);
        server.ask = None;
        server.launch = Launch::Server([&owned(&[path, program]), &owned(arguments)[..]].concat());
        server.environment = vec![(AUTHORIZATION, auth.clone().into())];
        server.wire = Box::new(move |state| {
            let address = fs::read_to_string(state.join(ADDRESS)).ok()?;
            Some(Wire::http(address, path, &auth))
        });
        server
    }

    fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    fn with_wire(mut self, wire: impl Fn(&Path) -> Option<Wire> + 'static) -> Self {
        self.wire = Box::new(wire);
        self
    }

    /// A file that it finds at home, beside what it writes.
    fn with_file(self, name: &str, content: &str) -> Self {
        fs::write(self.home.path().join(name), content).unwrap();
        self
    }

    fn command(&self, program: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        for name in [
            "TMPDIR",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "XDG_STATE_HOME",
        ] {
            command.env(name, self.state_dir());
        }
        command
    }
}

impl Contestant for Peer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn ask(&self) -> Option<Command> {
        let arguments = self.ask.as_ref()?;
        Some(self.command(&self.client, arguments))
    }

    fn connect(&self) -> Command {
        match &self.launch {
            Launch::Client(arguments) => self.command(&self.client, arguments),
            Launch::Server(arguments) => {
                let ourselves = std::env::current_exe().expect("Linux tells");
                self.command(&ourselves, &[&owned(&["start-peer"]), &arguments[..]].concat())
            }
        }
    }

    fn has_launcher(&self) -> bool {
        matches!(self.launch, Launch::Client(_))
    }

    fn daemons(&self) -> Vec<u32> {
        processes_in(&format!("HOME={}", self.home.path().display()))
    }

    fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn wire(&self) -> Option<Wire> {
        (self.wire)(&self.state_dir())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

/// A program where `ci/third-party` installs it; `ci/bench` runs this one at the root of the repository.
fn installed(path: &str) -> Option<PathBuf> {
    fs::canonicalize(Path::new("target/third-party").join(path)).ok()
}

/// A program that its package has installed for all.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|candidate| candidate.is_file())
}

/// A credential for a daemon that takes one from its environment.
fn secret() -> String {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    Credential::from_bytes(bytes).expose().as_str().to_owned()
}

fn gpg_agent() -> Option<Peer> {
    on_path("gpg-agent")?;
    let question = ["getinfo version", "/bye"];
    let peer = Peer::new(
        "gpg-agent",
        on_path("gpg-connect-agent")?,
        &[&["--no-autostart"], &question[..]].concat(),
        &question,
    );
    let home = peer.state_dir();
    let peer = peer.with("GNUPGHOME", home).with_wire(|state| {
        Some(Wire {
            address: state.join("S.gpg-agent").to_str()?.to_owned(),
            request: b"GETINFO version\n".to_vec(),
            is_whole: is_whole_assuan,
            hello: Some(Vec::new()),
        })
    });
    Some(peer)
}

/// An answer of gpg-agent's is lines, of which the last begins so.
fn is_whole_assuan(answer: &[u8]) -> bool {
    let Some(lines) = answer.strip_suffix(b"\n") else {
        return false;
    };
    let last = lines.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    last.starts_with(b"OK") || last.starts_with(b"ERR")
}

fn sccache() -> Option<Peer> {
    let program = installed("sccache/bin/sccache")?;
    let peer = Peer::new("sccache", program, &["--show-stats"], &["--zero-stats"]);
    let state = peer.state_dir();
    let peer = peer
        .with("SCCACHE_SERVER_UDS", state.join("socket"))
        .with("SCCACHE_DIR", state.join("cache"))
        .with_wire(|state| {
            Some(Wire {
                address: state.join("socket").to_str()?.to_owned(),
                // Four bytes follow, and are the number of the request for statistics.
                request: vec![0, 0, 0, 4, 1, 0, 0, 0],
                is_whole: |answer| {
                    answer
                        .split_first_chunk()
                        .is_some_and(|(length, rest)| rest.len() >= u32::from_be_bytes(*length) as usize)
                },
                hello: None,
            })
        });
    Some(peer)
}

fn watchman() -> Option<Peer> {
    let mut peer = Peer::new("watchman", on_path("watchman")?, &[], &[]);
    let path = |name| peer.state_dir().join(name).display().to_string();
    let connect = vec![
        format!("--sockname={}", path("socket")),
        format!("--statefile={}", path("watches")),
        format!("--logfile={}", path("log")),
        "get-pid".to_owned(),
    ];
    peer.ask = Some([&owned(&["--no-spawn", "--no-local"]), &connect[..]].concat());
    peer.launch = Launch::Client(connect);
    let peer = peer.with_wire(|state| {
        Some(Wire {
            address: state.join("socket").to_str()?.to_owned(),
            request: b"[\"get-pid\"]\n".to_vec(),
            is_whole: |answer| answer.ends_with(b"\n"),
            hello: None,
        })
    });
    Some(peer)
}

/// No wire: it speaks gRPC.
fn turbo() -> Option<Peer> {
    let program = installed("turbo/node_modules/@turbo/linux-64/bin/turbo")?;
    let package = r#"{"name":"root","private":true,"packageManager":"npm@10.0.0","workspaces":["none"]}"#;
    let peer = Peer::new("turbo", program, &["daemon", "status"], &["daemon", "start"])
        .with_file("package.json", package)
        .with_file("turbo.json", r#"{"tasks":{}}"#)
        .with("TURBO_TELEMETRY_DISABLED", "1");
    Some(peer)
}

fn biome() -> Option<Peer> {
    let program = installed("biome/node_modules/@biomejs/cli-linux-x64/biome")?;
    let peer = Peer::new("biome", program, &["version", "--use-server"], &["start"]).with_wire(|state| {
        let sockets = fs::read_dir(state.join("biome/biome-daemon")).ok()?;
        let socket = sockets.flatten().next()?.path();
        let rage = r#"{"jsonrpc":"2.0","id":1,"method":"biome/rage","params":{}}"#;
        let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{}}}"#;
        let framed = |json: &str| format!("Content-Length: {}\r\n\r\n{json}", json.len()).into_bytes();
        Some(Wire {
            address: socket.to_str()?.to_owned(),
            request: framed(rage),
            // It frames as HTTP does.
            is_whole: is_whole_http,
            hello: Some(framed(initialize)),
        })
    });
    Some(peer)
}

/// It talks to nobody else.
fn syncthing() -> Option<Peer> {
    const CONFIGURATION: &str = r#"<configuration version="37">
        <gui enabled="true"><address>127.0.0.1:0</address></gui>
        <options>
            <listenAddress>tcp://127.0.0.1:0</listenAddress>
            <globalAnnounceEnabled>false</globalAnnounceEnabled>
            <localAnnounceEnabled>false</localAnnounceEnabled>
            <relaysEnabled>false</relaysEnabled>
            <natEnabled>false</natEnabled>
            <startBrowser>false</startBrowser>
            <crashReportingEnabled>false</crashReportingEnabled>
            <urAccepted>-1</urAccepted>
            <autoUpgradeIntervalH>0</autoUpgradeIntervalH>
            <stunKeepaliveStartS>0</stunKeepaliveStartS>
        </options>
    </configuration>"#;
    let arguments = [
        "serve",
        "--config=.",
        "--data=state",
        "--no-browser",
        "--no-default-folder",
    ];
    let (program, secret) = (installed("syncthing/usr/bin/syncthing")?, secret());
    let auth = format!("Bearer {secret}");
    let peer = Peer::server("syncthing", &program, &arguments, "/rest/system/ping", auth)
        .with_file("config.xml", CONFIGURATION)
        .with("STGUIAPIKEY", secret)
        // Without its monitor, which would be a second process.
        .with("STMONITORED", "yes")
        .with("STNOUPGRADE", "1");
    Some(peer)
}

fn jupyter_server() -> Option<Peer> {
    let program = installed("jupyter_server/bin")?.join("jupyter-server");
    let arguments = ["--ip=127.0.0.1", "--port=0", "--no-browser", "--allow-root"];
    let secret = secret();
    let auth = format!("Bearer {secret}");
    let peer = Peer::server("jupyter_server", &program, &arguments, "/api/status", auth)
        .with("JUPYTER_TOKEN", secret);
    Some(peer)
}

/// It asks nobody on the network for models, plugins or a newer version.
fn opencode() -> Option<Peer> {
    let program = installed("opencode/node_modules/opencode-linux-x64/bin/opencode")?;
    let arguments = ["serve", "--hostname", "127.0.0.1", "--port", "0"];
    let secret = secret();
    let auth = format!("Basic {}", STANDARD.encode(format!("opencode:{secret}")));
    let peer = Peer::server("opencode", &program, &arguments, "/path", auth)
        .with("OPENCODE_SERVER_PASSWORD", secret)
        .with(
            "OPENCODE_CONFIG_CONTENT",
            r#"{"share":"disabled","autoupdate":false}"#,
        )
        .with("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .with("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .with("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1");
    Some(peer)
}

/// The file in which `start-peer` says where the server listens, below the state directory.
const ADDRESS: &str = "address";
/// The variable from which `start-peer` takes what it shows to the server.
const AUTHORIZATION: &str = "BENCH_AUTHORIZATION";

/// `start-peer PATH PROGRAM ARGUMENT…` starts a server, and ends when that answers to a `GET` of this path with 200.
#[expect(clippy::zombie_processes, reason = "the server outlives this process")]
pub(crate) fn start(arguments: &[String]) {
    let [path, program, arguments @ ..] = arguments else {
        panic!("start-peer PATH PROGRAM ARGUMENT…")
    };
    let authorization = std::env::var(AUTHORIZATION).unwrap();
    let server = Command::new(program)
        .args(arguments)
        .env_remove(AUTHORIZATION)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answers = |address: &String| {
        let wire = Wire::http(address.clone(), path, &authorization);
        let is_success = |answer: &[u8]| answer.starts_with(b"HTTP/1.1 200 ");
        Connection::open(&wire).is_ok_and(|mut connection| connection.ask().is_ok_and(is_success))
    };
    let mut address = None;
    until("the server answers", || {
        address = listening(server.id()).into_iter().find(answers);
        address.is_some()
    });
    fs::write(Path::new("state").join(ADDRESS), address.unwrap_or_default()).unwrap();
}

/// The addresses of 127.0.0.1 on which a process listens.
fn listening(process: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let held: Vec<PathBuf> = descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let address = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        let port = u16::from_str_radix(local.split_once(':')?.1, 16).ok()?;
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        held.contains(&socket).then(|| format!("127.0.0.1:{port}"))
    };
    table.lines().filter_map(address).collect()
}

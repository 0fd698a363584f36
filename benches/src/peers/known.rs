//! The peers: how each is started and asked, and how it is kept to itself.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use local_daemon::Credential;
use tempfile::TempDir;

use crate::contestant::{Contestant, Wire, is_whole_http, processes_in, until};
use crate::measure::Connection;

/// How long a server that starts may be silent before it is asked anew: some never answer what comes too early.
const SILENCE: Duration = Duration::from_millis(100);

/// Makes a peer, if it is installed.
type Make = fn() -> Option<Peer>;

/// Finds in a state directory how to talk to the daemon.
type Find = dyn Fn(&Path) -> Option<Wire>;

/// All that are known, by the names by which `ci/third-party` installs them.
pub(super) const PEERS: [(&str, Make); 8] = [
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
pub(crate) struct Peer {
    name: &'static str,
    home: TempDir,
    client: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    /// The arguments of a client that asks, if there is one.
    ask: Option<Vec<String>>,
    /// The variable by which that client is told where a server listens.
    told_by: Option<&'static str>,
    launch: Launch,
    wire: Box<Find>,
}

/// The variables by which a program knows where to write.
const WRITES: [&str; 5] = [
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

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
            told_by: None,
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
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
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
            .env("XDG_CONFIG_HOME", self.home.path().join("config"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        for name in WRITES {
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
        let mut command = self.command(&self.client, self.ask.as_ref()?);
        if let Some(variable) = self.told_by {
            command.env(variable, fs::read_to_string(self.state_dir().join(ADDRESS)).ok()?);
        }
        Some(command)
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
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
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
    const OPTIONS: &str = "
        <listenAddress>tcp://127.0.0.1:0</listenAddress>
        <globalAnnounceEnabled>false</globalAnnounceEnabled>
        <localAnnounceEnabled>false</localAnnounceEnabled>
        <relaysEnabled>false</relaysEnabled>
        <natEnabled>false</natEnabled>
        <startBrowser>false</startBrowser>
        <crashReportingEnabled>false</crashReportingEnabled>
        <urAccepted>-1</urAccepted>
        <autoUpgradeIntervalH>0</autoUpgradeIntervalH>
        <stunKeepaliveStartS>0</stunKeepaliveStartS>";
    let (program, secret) = (installed("syncthing/usr/bin/syncthing")?, secret());
    let gui = format!("<address>127.0.0.1:0</address><apikey>{secret}</apikey>");
    let configuration = format!(
        r#"<configuration version="37"><gui enabled="true">{gui}</gui><options>{OPTIONS}</options></configuration>"#
    );
    let home = ["--config=.", "--data=state"];
    let serve = [&["serve", "--no-browser", "--no-default-folder"], &home[..]].concat();
    let auth = format!("Bearer {secret}");
    let mut peer = Peer::server("syncthing", &program, &serve, "/rest/system/ping", auth)
        .with_file("config.xml", &configuration)
        // Without its monitor, which would be a second process.
        .with("STMONITORED", "yes")
        .with("STNOUPGRADE", "1");
    peer.ask = Some(owned(&[&["cli"], &home[..], &["show", "system"]].concat()));
    peer.told_by = Some("STGUIADDRESS");
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
    // It wants this package from the registry for its plugins, and a lock that has it is enough.
    let wanted = r#""dependencies":{"@opencode-ai/plugin":"1.18.33"}"#;
    let lock = format!(r#"{{"lockfileVersion":3,"packages":{{"":{{{wanted}}}}}}}"#);
    let peer = Peer::server("opencode", &program, &arguments, "/path", auth)
        .with_file("config/opencode/package.json", &format!("{{{wanted}}}"))
        .with_file("config/opencode/package-lock.json", &lock)
        .with_file("config/opencode/node_modules/.keep", "")
        .with("OPENCODE_SERVER_PASSWORD", secret)
        .with("OPENCODE_CONFIG_CONTENT", r#"{"share":"disabled","autoupdate":false}"#)
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
        Connection::open_to(&wire, SILENCE).is_ok_and(|mut connection| connection.ask().is_ok_and(is_success))
    };
    let mut address = None;
    until("the server answers", || {
        // Not more often: looking takes the time of the one that is looked at.
        thread::sleep(Duration::from_millis(4));
        address = listening(server.id()).into_iter().find(answers);
        address.is_some()
    });
    fs::write(Path::new("state").join(ADDRESS), address.unwrap_or_default()).unwrap();
}

/// The addresses of 127.0.0.1 on which a process listens.
fn listening(process: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let held: Vec<PathBuf> = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
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

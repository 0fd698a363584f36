//! Daemons that are measured beside each other: ours, the floor, and the peers that are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where a daemon listens, and what it is asked over and over.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// `IP:PORT`, or the path of a socket.
    pub(crate) address: String,
    /// What is sent.
    pub(crate) request: Vec<u8>,
    /// Whether what came so far is the whole answer.
    pub(crate) is_whole: fn(&[u8]) -> bool,
    /// What is sent before the first request, where a connection has to begin so, and is answered too. Empty where the
    /// daemon speaks first.
    pub(crate) hello: Option<Vec<u8>>,
}

/// A daemon with its client and a home of its own. Dropped, it ends what it started.
pub(crate) trait Contestant {
    fn name(&self) -> &'static str;

    /// A client that finds the running daemon, gets an answer and exits; none where there is no such client.
    fn ask(&self) -> Option<Command>;

    /// A client that finds the daemon or starts it, and ends with its first answer. Where there is no such client, the
    /// daemon is started and asked until it answers.
    fn connect(&self) -> Command;

    /// Whether `connect` is a client that looks for a daemon before it starts one.
    fn has_launcher(&self) -> bool {
        true
    }

    /// The daemons that run, by their process ids.
    fn daemons(&self) -> Vec<u32>;

    /// What the running daemon is asked over its socket, where a client could be written in an hour.
    fn wire(&self) -> Option<Wire>;

    /// Where the daemon writes: only what the next start does not need.
    fn state_dir(&self) -> PathBuf;

    /// Takes off what an ended daemon has left.
    fn forget(&self) {
        let entries = fs::read_dir(self.state_dir());
        for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }

    /// Ends whatever daemon runs, and waits until it is gone.
    fn end(&self) {
        for daemon in self.daemons() {
            kill(daemon, Signal::KILL);
        }
        until("the daemons end", || self.daemons().is_empty());
    }
}

/// Sends a signal to a process that the bench has started, directly or not.
pub(crate) fn kill(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process id of the kernel's"), signal);
}

/// Waits for what has to come, and panics where it does not.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processes whose command line has this argument: a home's path is nobody else's.
pub(crate) fn processes_with(argument: &Path) -> Vec<u32> {
    processes_where("cmdline", argument.as_os_str().as_encoded_bytes())
}

/// The processes that were started with this variable, `NAME=VALUE`.
pub(crate) fn processes_in(variable: &str) -> Vec<u32> {
    processes_where("environ", variable.as_bytes())
}

/// The processes of which a list of the kernel's (`/proc/PID/FILE`) has this item.
fn processes_where(file: &str, item: &[u8]) -> Vec<u32> {
    let has_it = |process: &u32| {
        let items = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        items.split(|&byte| byte == 0).any(|one| one == item)
    };
    processes().filter(has_it).collect()
}

/// All processes of this host.
pub(crate) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Runs a client to its end, all output thrown away, and returns how long that took. Panics where it fails.
pub(crate) fn run(mut client: Command) -> Duration {
    let began = Instant::now();
    let status = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = began.elapsed();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{client:?}: {status:?}");
    took
}

/// The directory of this program, where Cargo puts the others too.
pub(crate) fn beside() -> PathBuf {
    let program = std::env::current_exe().expect("Linux tells");
    program.parent().expect("a program is in a directory").to_owned()
}

/// `locald`.
#[derive(Debug)]
pub(crate) struct Ours {
    home: TempDir,
}

impl Ours {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        Self { home }
    }

    pub(crate) fn locald(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(locald());
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state_dir())
            .current_dir(self.home.path());
        command
    }
}

/// What `ci/release` has built, or what this was built with.
pub(crate) fn locald() -> PathBuf {
    std::env::var_os("LOCALD").map_or_else(|| beside().join("locald"), PathBuf::from)
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        "locald"
    }

    fn ask(&self) -> Option<Command> {
        Some(self.locald(&["status", "--json"]))
    }

    fn connect(&self) -> Command {
        self.locald(&["connect", "--json"])
    }

    fn daemons(&self) -> Vec<u32> {
        processes_with(&self.state_dir())
    }

    /// The daemon makes it, with the mode that it wants.
    fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn wire(&self) -> Option<Wire> {
        let record = fs::read(self.state_dir().join("registration.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        let url = record.get("url")?.as_str()?;
        let address = url.strip_prefix("http://")?.trim_end_matches('/').to_owned();
        let credential = fs::read_to_string(self.state_dir().join("credential")).ok()?;
        Some(Wire::http(address, "/v1/status", &format!("Bearer {}", credential.trim_end())))
    }
}

impl Wire {
    /// A `GET` over a connection that stays open.
    pub(crate) fn http(address: String, path: &str, authorization: &str) -> Self {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\r\n")
                .into_bytes();
        Self { address, request, is_whole: is_whole_http, hello: None }
    }
}

/// Whether an HTTP/1.1 answer of a declared length is whole.
pub(crate) fn is_whole_http(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let length = answer[..head].split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| value.trim_ascii())
    });
    let length: usize = length.and_then(|length| str::from_utf8(length).ok()?.parse().ok()).unwrap_or(0);
    answer.len() >= head + 4 + length
}

/// The least daemon and the least client.
#[derive(Debug)]
pub(crate) struct Floor {
    home: TempDir,
    /// What its client does where nothing answers.
    connect: &'static str,
}

impl Floor {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        Self { home, connect: "connect" }
    }

    /// Starts under a lock.
    pub(crate) fn locked() -> Self {
        let mut floor = Self::new();
        floor.connect = "locked";
        floor
    }

    pub(crate) fn client(&self, task: &str) -> Command {
        let mut command = Command::new(beside().join("floor-client"));
        command.arg(self.home.path()).arg(task).current_dir(self.home.path());
        command
    }
}

impl Contestant for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn ask(&self) -> Option<Command> {
        Some(self.client("ask"))
    }

    fn connect(&self) -> Command {
        self.client(self.connect)
    }

    fn daemons(&self) -> Vec<u32> {
        processes_with(self.home.path())
    }

    fn state_dir(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    fn wire(&self) -> Option<Wire> {
        let registration = fs::read_to_string(self.home.path().join("registration")).ok()?;
        let address = registration.split(' ').next()?.to_owned();
        let secret = fs::read_to_string(self.home.path().join("secret")).ok()?;
        Some(Wire::http(address, "/", &format!("Bearer {secret}")))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.end();
    }
}

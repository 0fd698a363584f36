//! What the tests share: a state directory that ends its daemons, foreground daemons, squatters, raw HTTP.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use local_daemon::Credential;
use local_daemon::handshake::{self, Nonce};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything that has to happen may take on a loaded machine.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Looks again and again until it is so.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let ends = Instant::now() + BOUND;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < ends, "not in {BOUND:?}: {what}");
        thread::yield_now();
    }
}

/// A state directory on a path with a space. Every daemon that works in it ends with it.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::with_prefix("locald test ").unwrap() }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    /// `locald ARGS` for this directory, in an environment without any of its variables. `ci/ablation` names another build
    /// of it, which the tests have to find out.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = match std::env::var_os("ABLATED_LOCALD") {
            Some(ablated) => Command::new(ablated),
            None => Command::new(assert_cmd::cargo::cargo_bin!("locald")),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCAL") {
                command.env_remove(name);
            }
        }
        command.args(args).arg("--state-dir").arg(self.state_dir()).stdin(Stdio::null());
        command
    }

    pub(crate) fn locald(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args))
    }

    pub(crate) fn locald_as(&self, protocol: &str, args: &[&str]) -> Output {
        Output::of(self.command(args).env("LOCALD_PROTOCOL", protocol))
    }

    /// A foreground daemon that has published.
    pub(crate) fn run(&self, args: &[&str]) -> Foreground {
        self.run_with(args, &[])
    }

    pub(crate) fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Foreground {
        let mut command = self.command(&[&["run"], args].concat());
        command.envs(env.iter().copied()).stderr(Stdio::piped());
        let mut daemon = Foreground::spawn(&mut command);
        daemon.wait_for_log("published");
        daemon
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.file("registration.json")).ok()?).ok()
    }

    pub(crate) fn credential(&self) -> String {
        fs::read_to_string(self.file("credential")).unwrap().trim_end().to_owned()
    }

    /// Writes a record that says a daemon listens on `port`, and a credential.
    pub(crate) fn pretend(&self, port: u16) -> String {
        assert_eq!(self.locald(&["credential", "rotate"]).code, 0);
        let id = "5f0c2a9be17d4836a1c04f9d2e6b8370";
        let url = format!("http://127.0.0.1:{port}");
        // A process that must survive everything: this one.
        let record = json!({"id": id, "version": "9", "url": url, "pid": std::process::id()});
        let path = self.file("registration.json");
        fs::write(&path, record.to_string()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        id.to_owned()
    }

    /// The daemons that run for this directory.
    pub(crate) fn daemons(&self) -> Vec<Pid> {
        let directory = self.state_dir();
        let works_here = |pid: &i32| {
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
                return false;
            };
            let args: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            args.get(1) == Some(&&b"run"[..]) && args.contains(&directory.as_os_str().as_encoded_bytes())
        };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(works_here).filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.daemons() {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let seen = Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!seen.stderr.contains("panicked"), "{seen:?}");
        seen
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A child of the test. It is reaped as soon as it ends, as by a supervisor: to whoever has only its pid, a zombie is
/// still there.
pub(crate) struct Foreground {
    pid: Pid,
    end: Arc<Mutex<Option<ExitStatus>>>,
    log: Arc<Mutex<String>>,
    lines: mpsc::Receiver<()>,
}

impl Foreground {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let sink = log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sink.lock().unwrap().push_str(&(line + "\n"));
                let _ = sender.send(());
            }
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let end: Arc<Mutex<Option<ExitStatus>>> = Arc::default();
        let ended = Arc::clone(&end);
        thread::spawn(move || *ended.lock().unwrap() = child.wait().ok());
        Self { pid, end, log, lines }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_log(&mut self, word: &str) {
        let ends = Instant::now() + BOUND;
        while !self.log().contains(word) {
            let left = ends.saturating_duration_since(Instant::now());
            self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {word:?} in {}", self.log()));
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The exit status, once it ends by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the daemon ends", || *self.end.lock().unwrap())
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.end.lock().unwrap().is_none()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// What a squatter does with a connection.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Answers 200 to everything.
    Agree,
    /// Takes connections and never answers.
    Mute,
}

/// A stranger at a port, and every byte that it was sent.
pub(crate) struct Squatter {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Squatter {
    pub(crate) fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let shared = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let heard = shared.clone();
                thread::spawn(move || squat(stream, manner, &heard));
            }
        });
        Self { port, heard }
    }

    pub(crate) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

fn squat(mut stream: TcpStream, manner: Manner, heard: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        heard.lock().unwrap().extend_from_slice(&chunk[..read]);
        if matches!(manner, Manner::Agree) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\
                 Local-Daemon-Proof: \"{}\"\r\n\r\n{{\"outcome\":\"ready\"}}",
                "A".repeat(43)
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// A port that is taken and refuses connections: nobody can come to listen there while the test runs.
pub(crate) struct Refusing {
    pub(crate) port: u16,
    _socket: OwnedFd,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
        Self { port: address.port(), _socket: socket }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of the header that there is once at most.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value);
        assert!(values.next().is_none(), "two {name}: {}", self.head);
        value
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A connection to the daemon, by hand.
pub(crate) struct Raw {
    reader: BufReader<TcpStream>,
    authority: String,
    credential: String,
}

impl Raw {
    pub(crate) fn connect(home: &Home) -> Self {
        let record = home.record().unwrap();
        let authority = record["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&authority).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        Self {
            reader: BufReader::new(stream),
            authority,
            credential: home.credential(),
        }
    }

    /// Sends a request's head, and what `rest` adds to it.
    pub(crate) fn begin(&mut self, line: &str, rest: &str) {
        let Self { authority, credential, .. } = self;
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {credential}\r\n{rest}\r\n"
        );
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Sends a request that carries nothing but `Host` and `rest`, which ends its head and may go on.
    pub(crate) fn unframed(&mut self, line: &str, rest: &str) {
        let request = format!("{line} HTTP/1.1\r\nHost: {}\r\n{rest}", self.authority);
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Sends a request without a body, and reads the head of its answer: the status line and headers.
    pub(crate) fn send(&mut self, line: &str, headers: &str) -> String {
        self.begin(line, headers);
        self.head()
    }

    /// Sends a request that carries nothing but what is given, `Host` and the length of its body; reads the whole answer.
    pub(crate) fn bare(&mut self, line: &str, headers: &str, body: &str) -> Answer {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
        let head = self.head();
        let lower = head.to_ascii_lowercase();
        // BROW-25
        assert!(!lower.contains("set-cookie"), "{head}");
        let has_body = !line.starts_with("HEAD ") && lower.contains("content-length: ");
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: has_body
                .then(|| self.body(&head))
                .map_or_else(String::new, |body| String::from_utf8(body).unwrap()),
            head,
        }
    }

    /// Sends such a request with the credential as well.
    pub(crate) fn with_credential(&mut self, line: &str, headers: &str, body: &str) -> Answer {
        let headers = format!("Authorization: Bearer {}\r\n{headers}", self.credential);
        self.bare(line, &headers, body)
    }

    /// Sends such a request and reads until the connection ends, or for 300 ms: a stream does not end by itself.
    pub(crate) fn whole(&mut self, line: &str, headers: &str, body: &str) -> String {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        self.reader.get_mut().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        // The error is the time-out of a stream.
        let _ = self.reader.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The header of a proof that only this daemon takes.
    pub(crate) fn proof(&self) -> String {
        let credential = Credential::parse(self.credential.as_bytes()).unwrap();
        let nonce = Nonce::from_bytes([7; 32]);
        let code = handshake::client_code(&credential, &self.authority, nonce);
        format!("Authorization: {}\r\n", handshake::authorization(nonce, code))
    }

    /// Goes on over another connection.
    pub(crate) fn over(mut self, stream: TcpStream) -> Self {
        self.reader = BufReader::new(stream);
        self
    }

    /// Names another host from here on.
    pub(crate) fn at(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        head
    }

    /// One request with a JSON body, and its whole answer.
    pub(crate) fn ask(&mut self, line: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.begin(line, &format!("Content-Length: {}\r\n", body.len()));
        self.reader.get_mut().write_all(body.as_bytes()).unwrap();
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_slice(&self.body(&head)).unwrap())
    }

    /// The body that the head announces.
    pub(crate) fn body(&mut self, head: &str) -> Vec<u8> {
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).expect(head);
        let mut body = vec![0; length.parse().unwrap()];
        self.reader.read_exact(&mut body).unwrap();
        body
    }

    /// The next frame of an event stream, comments left out: its fields by name. `None`: the stream has ended.
    pub(crate) fn frame(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line).unwrap() {
                0 => return None,
                _ if line == "0\r\n" => return None,
                // The sizes of chunks, and the line ends after them, are between frames here.
                _ if line.ends_with("\r\n") => continue,
                _ => {}
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) => fields.push((name.to_owned(), value.to_owned())),
                None if !fields.is_empty() => return Some(fields),
                None => {}
            }
        }
    }

    pub(crate) fn close(self) {
        self.reader.get_ref().shutdown(Shutdown::Both).unwrap();
    }
}

/// The schema that the specification has for `value`, and whether it fits.
pub(crate) fn assert_fits(schema: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/schemas").join(schema);
    let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {value}");
}

/// The cases of a file of test vectors.
pub(crate) fn vectors(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../spec/vectors/{name}.json"));
    let mut file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let Value::Array(cases) = file["cases"].take() else {
        panic!("no cases of {name}")
    };
    cases
}

/// The `OpenAPI` document of the routes.
pub(crate) fn openapi() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/openapi.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Whether the `OpenAPI` document knows this answer to an operation, such as `POST /v1/tickets`.
pub(crate) fn assert_documented(operation: &str, status: u16, body: &Value) {
    let document = openapi();
    let (method, path) = operation.split_once(' ').unwrap();
    let answer = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
    assert!(answer.is_object(), "{operation}: {status} is not in the document");
    let mut schema = answer["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{operation}: {status} has no JSON");
    if let Some(file) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("schemas/")) {
        return assert_fits(file, body);
    }
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{operation}: {errors:?} in {body}");
}

/// Sets a file's mode.
pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The names in a directory.
pub(crate) fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| lossy(&entry.file_name())).collect();
    names.sort();
    names
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

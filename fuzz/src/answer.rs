//! The client's reading of an answer to its handshake, over a real connection: it believes nothing that the suite would not
//! believe, and everything that a well-behaved daemon sends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use local_daemon::handshake::{Probe, SPEC, State};
use local_daemon::{Credential, LoopbackUrl, Registration, client};
use local_daemon_harness::http::{self, DaemonProof, HttpFault, ProbeAnswer, Response, Target};
use local_daemon_harness::proof as suite;
use serde_json::json;

use crate::Seed;

const KEY: [u8; 32] = [7; 32];
const BOUND: Duration = Duration::from_secs(5);

/// Who answers: one connection after the other, each with what is due, and then closes.
struct Daemon {
    address: SocketAddr,
    /// The answer, in which `{length}` and `{proof}` stand for those of its body.
    due: Mutex<Vec<u8>>,
}

static DAEMON: LazyLock<Daemon> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("nobody else connects");
            // Whoever has enough of an answer may close before it has been written whole.
            let _ = answer(&stream);
        }
    });
    Daemon { address, due: Mutex::default() }
});

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..read]);
    }
    let request = String::from_utf8(request).expect("clients write text");
    let proof = request.lines().find_map(|line| line.strip_prefix("Authorization: "));
    let nonce = proof.and_then(suite::parse_authorization).expect("clients prove themselves").nonce;
    let due = DAEMON.due.lock().unwrap_or_else(PoisonError::into_inner).clone();
    stream.write_all(&fill(&due, &nonce))
}

/// The answer to the handshake of this nonce.
fn fill(due: &[u8], nonce: &str) -> Vec<u8> {
    let end = due.windows(4).position(|end| end == b"\r\n\r\n");
    let (head, body) = due.split_at(end.map_or(due.len(), |end| end + 4));
    let decoded = unchunked(head, body);
    let mac =
        suite::daemon_mac(&suite::Credential::from_bytes(KEY), &DAEMON.address.to_string(), nonce, &decoded);
    let mut filled = Vec::new();
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        match str::from_utf8(line) {
            Ok(line) => filled.extend_from_slice(
                line.replace("{proof}", &mac).replace("{length}", &body.len().to_string()).as_bytes(),
            ),
            Err(_) => filled.extend_from_slice(line),
        }
    }
    filled.extend_from_slice(body);
    filled
}

/// The bytes that a body in chunks stands for, as far as it can be read; any other body is itself.
fn unchunked(head: &[u8], body: &[u8]) -> Vec<u8> {
    if !head.to_ascii_lowercase().windows(7).any(|word| word == b"chunked") {
        return body.to_vec();
    }
    let (mut rest, mut decoded) = (body, Vec::new());
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) {
        let chunk = usize::try_from(size).ok().and_then(|size| rest.get(start..start.checked_add(size)?));
        let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        decoded.extend_from_slice(chunk);
        rest = rest.get(start + chunk.len() + 2..).unwrap_or_default();
    }
    decoded
}

/// Has the client and the suite ask a daemon that answers with these bytes.
pub fn run(data: &[u8]) {
    *DAEMON.due.lock().unwrap_or_else(PoisonError::into_inner) = data.to_vec();
    let url: LoopbackUrl = format!("http://{}", DAEMON.address).parse().expect("it is loopback");
    let mut record: Registration = crate::script::record(1);
    record.url = url;
    let probe = client::look(&record, &Credential::from_bytes(KEY), BOUND);

    let (credential, nonce) = (suite::Credential::from_bytes(KEY), suite::nonce());
    let target = Target::at(DAEMON.address);
    let request = target.proving(&credential, &nonce).bytes();
    let seen = http::exchange(DAEMON.address, &request, Instant::now() + BOUND);
    let seen = seen.map(|response| http::judge(response, &target, &credential, &nonce));

    let believed = seen.as_ref().ok().filter(|seen| is_proven(seen));
    match &probe {
        Probe::Proven(theirs) => {
            let suites =
                believed.expect("the suite believes it too").handshake.as_ref().expect("it can be read");
            assert_eq!(suites.spec, SPEC);
            assert_eq!(
                (theirs.id.to_string(), theirs.protocol.to_string()),
                (suites.id.clone(), suites.protocol.clone())
            );
            assert_eq!(theirs.state == State::Ready, suites.state == "ready");
        }
        Probe::OtherSpec => assert!(believed.is_some(), "HS-26: not a byte before the proof: {seen:?}"),
        Probe::Foreign => {
            let is_good = |seen: &ProbeAnswer| {
                seen.handshake.as_ref().is_ok_and(|read| read.spec == SPEC) && is_plain(&seen.response)
            };
            assert!(!believed.is_some_and(is_good), "a good answer is not believed: {seen:?}");
        }
        // Closed or reset before it said anything, at both looks.
        Probe::TimedOut => {
            assert!(matches!(seen, Err(HttpFault::Closed(_) | HttpFault::Reset)), "{seen:?}");
        }
        Probe::Refused | Probe::Unreachable | Probe::NoCredential | Probe::CredentialRefused => {
            panic!("{probe:?} of {seen:?}")
        }
    }
}

fn is_proven(seen: &ProbeAnswer) -> bool {
    seen.proof == DaemonProof::Valid && matches!(seen.response.status, 200 | 503)
}

/// Whether an answer is framed as servers of this protocol frame theirs.
fn is_plain(response: &Response) -> bool {
    let (lengths, codings) = (response.all("content-length"), response.all("transfer-encoding"));
    let digits = |length: &str| length.bytes().all(|byte| byte.is_ascii_digit());
    response.headers.len() <= 64
        && response.body.len() <= 64 * 1024
        && match (&lengths[..], &codings[..]) {
            ([], []) => true,
            ([length], []) => digits(length),
            _ => false,
        }
}

/// The body of a ready daemon of this protocol.
pub(crate) fn body(protocol: &str) -> String {
    json!({
        "spec": SPEC, "protocol": protocol, "id": "5f0c2a9be17d4836a1c04f9d2e6b8370", "pid": 4242,
        "version": "2.3.0", "state": "ready", "capabilities": ["events"],
    })
    .to_string()
}

/// Good answers in each framing, and the likely bad ones.
pub fn seeds() -> Vec<Seed> {
    let ready = body("acme/1");
    let draining = ready.replace("ready", "draining");
    let other = ready.replace("daemon/1", "daemon/2");
    let chunked = format!("{:x}\r\n{ready}\r\n0\r\n\r\n", ready.len());
    let head = "Content-Type: application/json\r\nLocal-Daemon-Proof: \"{proof}\"\r\n";
    let length = "Content-Length: {length}\r\n\r\n";
    [
        ("ready", format!("HTTP/1.1 200 OK\r\n{head}{length}{ready}")),
        ("draining", format!("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n{head}{length}{draining}")),
        ("other-spec", format!("HTTP/1.1 200 OK\r\n{head}{length}{other}")),
        ("until-close", format!("HTTP/1.0 200 OK\r\n{head}\r\n{ready}")),
        ("chunked", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n{chunked}")),
        ("continue", format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{head}{length}{ready}")),
        ("unproven", format!("HTTP/1.1 200 OK\r\n{length}{ready}")),
        ("redirect", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned()),
        (
            "problem",
            "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\n\r\n\
             {\"title\":\"Unauthorized\",\"status\":401,\"code\":\"unauthorized\"}"
                .to_owned(),
        ),
        ("stranger", "SSH-2.0-OpenSSH\r\n\r\n".to_owned()),
        ("silence", String::new()),
    ]
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .into()
}

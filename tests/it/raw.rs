//! A daemon that proves itself, and writes whatever a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use local_daemon::testing::Home;
use local_daemon::{Client, StateDir};
use local_daemon_proto::handshake::{self, Handshake, State};
use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl, Registration};

/// What is written for the head of a request; `false` ends the connection.
type Script = dyn Fn(&str, &mut TcpStream) -> bool + Send + Sync;

pub(crate) struct Raw {
    home: Home,
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Raw {
    /// Starts it as the process of this id.
    pub(crate) fn start(
        pid: u32,
        script: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let home = Home::new("acme", "acme/1").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let directory = StateDir::at(home.state_dir());
        directory.create().unwrap();
        directory.create_credential().unwrap();
        let record = Registration {
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            version: "1".to_owned(),
            url: LoopbackUrl::new(LoopbackHost::V4, NonZeroU16::new(address.port()).unwrap()),
            pid: NonZeroU32::new(pid).unwrap(),
            protocol: Some("acme/1".to_owned()),
            socket: None,
            started_at: None,
            world: local_daemon::client::world(),
        };
        directory.publish(&directory.write_temporary(&record).unwrap()).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, script, state_dir): (_, Arc<Script>, _) =
            (is_over.clone(), Arc::new(script), home.state_dir().to_owned());
        let listening = thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (record, script, state_dir) = (record.clone(), script.clone(), state_dir.clone());
                thread::spawn(move || serve(&mut stream.unwrap(), &record, &state_dir, &*script));
            }
        });
        Self { home, address, is_over, listening: Some(listening) }
    }

    pub(crate) fn client(&self) -> Client {
        self.home.client()
    }

    /// Listens no more.
    pub(crate) fn stop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            listening.join().unwrap();
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(stream: &mut TcpStream, record: &Registration, state_dir: &Path, script: &Script) {
    let (mut head, mut byte) = (String::new(), [0]);
    while let Ok(1) = stream.read(&mut byte) {
        head.push(char::from(byte[0]));
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        let request = std::mem::take(&mut head);
        let mut fields = request.lines().filter_map(|line| line.split_once(": "));
        let authorization = fields.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let proof = authorization.and_then(|(_, value)| handshake::parse_authorization(value));
        let Some((nonce, _)) = proof else {
            if script(&request, stream) {
                continue;
            }
            return;
        };
        let handshake = Handshake {
            protocol: "acme/1".parse().unwrap(),
            id: record.id,
            pid: record.pid,
            version: record.version.clone(),
            state: State::Ready,
            capabilities: Vec::new(),
        };
        let body = handshake.to_bytes();
        let credential = StateDir::at(state_dir).read_credential().unwrap().unwrap();
        let code = handshake::daemon_code(&credential, &record.url.authority(), nonce, &body);
        let (length, proof) = (body.len(), handshake::answer(code));
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{}: {proof}\r\n\r\n", handshake::SCHEME);
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    }
}

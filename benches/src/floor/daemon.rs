//! The least that a daemon of this shape does, without which there would be no daemon: it listens, writes a secret and a
//! registration, says that it is ready, answers who knows the secret, and looks each second whether it is still the one.
//!
//! `floor-daemon DIRECTORY`; standard output is closed when it is ready.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends with what was in its way")]

use std::convert::Infallible;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directory = std::env::args_os().nth(1).unwrap();
    let directory = Path::new(&directory);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secret = secret(directory);
    let id = random(16);
    let registration = format!("{} {id}\n", listener.local_addr().unwrap());
    let new = directory.join(format!("{id}.new"));
    fs::write(&new, &registration).unwrap();
    fs::rename(&new, directory.join("registration")).unwrap();
    // Whoever started it reads the end of this.
    rustix::stdio::dup2_stdout(fs::File::open("/dev/null").unwrap()).unwrap();

    let bearer: &'static str = format!("Bearer {secret}").leak();
    let answer = Bytes::from(format!("{{\"id\":\"{id}\"}}\n"));
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            let answer = answer.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let known = request.headers().get(header::AUTHORIZATION).is_some_and(|value| value == bearer);
                let mut response =
                    Response::new(Full::new(if known { answer.clone() } else { Bytes::new() }));
                if !known {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    let displaced = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if fs::read_to_string(directory.join("registration")).ok().as_deref() != Some(&registration) {
                return;
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = displaced => {}
    }
}

/// What is there, or a new one.
fn secret(directory: &Path) -> String {
    let path = directory.join("secret");
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    if let Ok(mut file) = made {
        file.write_all(random(32).as_bytes()).unwrap();
    }
    fs::read_to_string(path).unwrap()
}

fn random(bytes: usize) -> String {
    use std::io::Read as _;
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    URL_SAFE_NO_PAD.encode(random)
}

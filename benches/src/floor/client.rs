//! The least that a client does: it reads two files, asks who is there with the secret, and believes the answer.
//!
//! `floor-client DIRECTORY ask` fails where nothing answers; `connect` starts `floor-daemon` then; `locked` does so too, under
//! a lock, so that many at once start one; `nothing` does nothing at all, which is what a process costs.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends with what was in its way")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory, task] = &arguments[..] else {
        return ExitCode::from(2);
    };
    let directory = Path::new(directory);
    let task = task.to_str().unwrap();
    if task == "nothing" {
        return ExitCode::SUCCESS;
    }
    let mut answer = ask(directory);
    if answer.is_err() && task != "ask" {
        let lock = (task == "locked").then(|| {
            let lock = fs::File::create(directory.join("lock")).unwrap();
            lock.lock().unwrap();
            lock
        });
        if lock.is_some() {
            answer = ask(directory);
        }
        if answer.is_err() {
            start(directory);
            answer = ask(directory);
        }
    }
    match answer {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn ask(directory: &Path) -> io::Result<String> {
    let registration = fs::read_to_string(directory.join("registration"))?;
    let address = registration.split(' ').next().unwrap_or_default();
    let secret = fs::read_to_string(directory.join("secret"))?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Returns when the daemon has closed its standard output: then it is ready, or has failed.
#[expect(clippy::zombie_processes, reason = "the daemon outlives this process")]
fn start(directory: &Path) {
    let program = std::env::current_exe().unwrap().with_file_name("floor-daemon");
    let mut daemon = Command::new(program)
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = daemon.stdout.take().unwrap().read(&mut [0]);
}

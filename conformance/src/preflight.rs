//! What every run needs of its host, looked at once and before anything is judged: a host that lacks it would be charged to
//! the subject.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::files::set_mode;
use local_daemon_harness::platform::{raise_descriptors, which};
use local_daemon_harness::process::{Launch, LaunchFault};

/// How many descriptors the cases need that open the most connections at once, several cases at a time.
const DESCRIPTORS: u64 = 4_096;

/// The longest path of a directory for temporary files, in bytes: the name of a Unix socket, of at most 108 bytes, is in a
/// case's directory below it.
const LONGEST: usize = 90;

/// The programs that cases start.
const TOOLS: [&str; 3] = ["sh", "sleep", "cat"];

/// One thing that every run needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is about.
    pub what: &'static str,
    /// What was found, or what is wrong.
    pub found: Result<String, Lack>,
}

/// What is wrong with the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What is wrong.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// Looks at everything that a run needs, and raises the limit of descriptors.
pub fn look() -> Vec<Check> {
    let folder = std::env::temp_dir();
    vec![
        Check { what: "descriptors", found: descriptors() },
        Check { what: "temporary files", found: temporary(&folder) },
        Check { what: "IPv4 loopback", found: loopback() },
        Check { what: "tools", found: tools() },
    ]
}

/// Returns the first thing that is wrong.
pub fn first_lack() -> Option<Lack> {
    look().into_iter().find_map(|check| check.found.err())
}

fn lack<T>(why: impl Into<String>, remedy: impl Into<String>) -> Result<T, Lack> {
    Err(Lack { why: why.into(), remedy: remedy.into() })
}

fn descriptors() -> Result<String, Lack> {
    match raise_descriptors(DESCRIPTORS) {
        has if has >= DESCRIPTORS => Ok(format!("{has} may be open")),
        has => lack(
            format!(
                "the cases need {DESCRIPTORS} open descriptors, and this process may have no more than {has}"
            ),
            format!("raise the hard limit, for instance with `ulimit -Hn {DESCRIPTORS}` as root"),
        ),
    }
}

fn temporary(folder: &Path) -> Result<String, Lack> {
    let shown = folder.display();
    let elsewhere = |why: String| lack(why, "set TMPDIR to another directory, such as /tmp");
    let whole = match folder.canonicalize() {
        Ok(whole) => whole,
        Err(error) => {
            return elsewhere(format!("the directory for temporary files {shown} cannot be used: {error}"));
        }
    };
    if whole.to_str().is_none() {
        return elsewhere(format!(
            "the path of the directory for temporary files {shown} is not UTF-8, which a registration record and a \
             command line of a manifest have to be"
        ));
    }
    let length = whole.as_os_str().as_bytes().len();
    if length > LONGEST {
        return elsewhere(format!(
            "the path of the directory for temporary files {shown} has {length} bytes; with more than {LONGEST}, Unix \
             sockets of cases do not fit below it"
        ));
    }
    let probe = match tempfile::Builder::new().prefix("ld").tempdir_in(&whole) {
        Ok(probe) => probe,
        Err(error) => {
            return elsewhere(format!(
                "nothing can be made in the directory for temporary files {shown}: {error}"
            ));
        }
    };
    let program = probe.path().join("runs");
    let made = std::fs::write(&program, "#!/bin/sh\nexit 0\n").and_then(|()| set_mode(&program, 0o700));
    if let Err(error) = made {
        return elsewhere(format!(
            "nothing can be written in the directory for temporary files {shown}: {error}"
        ));
    }
    let started = Launch::new([program.as_os_str()]).start();
    let ended = match started {
        Ok(started) => started.wait_exit(Instant::now() + Duration::from_secs(10)).is_some(),
        Err(LaunchFault::NotExecutable(_)) => {
            return elsewhere(format!(
                "the directory for temporary files {shown} lets no program run (it may be mounted noexec), and cases put \
                 programs there"
            ));
        }
        Err(fault) => return elsewhere(format!("no program runs in {shown}: {fault}")),
    };
    if ended {
        Ok(shown.to_string())
    } else {
        elsewhere(format!("a program in {shown} does not end"))
    }
}

fn loopback() -> Result<String, Lack> {
    let reach = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2))?;
        listener.local_addr()
    };
    match reach() {
        Ok(SocketAddr::V4(_)) => Ok("127.0.0.1 can be listened on and reached".to_owned()),
        Ok(other) => lack(format!("127.0.0.1 became {other}"), "look at the network of this host"),
        Err(error) => {
            let why = if error.kind() == ErrorKind::TimedOut {
                "no answer".to_owned()
            } else {
                error.to_string()
            };
            lack(
                format!(
                    "127.0.0.1 cannot be reached from this host itself ({why}): no daemon could be, either"
                ),
                "bring the loopback device up: `ip link set lo up`, with the address 127.0.0.1/8",
            )
        }
    }
}

fn tools() -> Result<String, Lack> {
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| which(tool).is_none()).collect();
    if missing.is_empty() {
        Ok(TOOLS.join(", "))
    } else {
        lack(
            format!("PATH has no {}, which cases start", missing.join(" and no ")),
            "add the directory of these programs to PATH: they are in the package coreutils, and sh in dash",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let why = |path: &Path| temporary(path).unwrap_err().why;
        assert!(why(&folder.path().join("gone")).contains("gone"));
        let long = folder.path().join("x".repeat(LONGEST));
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
        let file = folder.path().join("file");
        let quoted = folder.path().join("it's a \"quoted\\ one");
        for made in [&long, &odd, &quoted] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(&file, "").unwrap();
        assert!(why(&long).contains(&format!("more than {LONGEST}")));
        assert!(why(&odd).contains("UTF-8"));
        assert!(why(&file).contains("file"));
        assert_eq!(temporary(&quoted), Ok(quoted.display().to_string()));
    }
}

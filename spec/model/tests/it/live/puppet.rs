//! A puppet: a process that runs one machine of the crate on a real state directory, one step whenever it is told to.
//!
//! It connects to the socket that the walk holds, says who it is and its process id, and after that, and after each
//! line that it is told, what can be told of its machine.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::client::Client;
use super::daemon::Daemon;
use super::role::{PUPPET, Played, Puppet, Role, Told};

/// Not a test, but the process that a walk starts.
#[test]
#[ignore = "a walk runs it"]
fn plays() {
    let Ok(puppet) = std::env::var(PUPPET) else {
        return;
    };
    let played = serde_json::from_str(&puppet).map_err(io::Error::other).and_then(|puppet| play(&puppet));
    if let Err(error) = &played {
        // A test's own output is captured, and lost at the exit.
        let _ = writeln!(io::stderr(), "{puppet}: {error}");
    }
    // Exits here, because what a test prints at its end is not part of a puppet's answers.
    std::process::exit(i32::from(played.is_err()));
}

/// Plays until the machine ends or the walk has gone.
fn play(puppet: &Puppet) -> io::Result<()> {
    let mut stream = UnixStream::connect(&puppet.strings)?;
    let (name, mut played): (String, Box<dyn Played>) = match puppet.role {
        Role::Daemon { id, .. } => (format!("D{id}"), Box::new(Daemon::new(puppet)?)),
        Role::Client { id, .. } => (format!("C{id}"), Box::new(Client::new(puppet)?)),
    };
    writeln!(stream, "{name} {}", std::process::id())?;
    writeln!(stream, "{}", played.word().unwrap_or_default())?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        played.told(Told::parse(&line?)?)?;
        let Some(word) = played.word() else {
            break;
        };
        writeln!(stream, "{word}")?;
    }
    Ok(())
}

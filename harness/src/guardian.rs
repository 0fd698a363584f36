//! A process that outlives a suite which is killed, and leaves nothing of it behind: neither processes nor directories.
//!
//! It reads from a pipe which arenas there are. The pipe ends with the suite, however that ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::arena::TAG;
use crate::files::set_mode;
use crate::platform;
use crate::process::{Proc, Signal, descendants, processes};
use crate::wait::{lock, ms, until};

static GUARDIAN: Mutex<Option<Child>> = Mutex::new(None);

/// Starts the guardian of this process: `command`, which has to call [`guard`] with its standard input.
pub fn start(command: &mut Command) -> io::Result<()> {
    // In a group of its own: what a terminal sends to the suite is not meant for it. Its outputs are not the suite's, whose
    // readers wait for their end.
    command.env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    *lock(&GUARDIAN) = Some(command.spawn()?);
    Ok(())
}

/// Lets the guardian do its work, and waits for its end: before this process ends without dropping its arenas.
pub fn dismiss() {
    if let Some(mut child) = lock(&GUARDIAN).take() {
        drop(child.stdin.take());
        until(ms(5_000), || child.try_wait().unwrap_or(None));
    }
}

/// Tells it of an arena.
pub(crate) fn arena(tag: &str, root: &Path) {
    tell(&[tag.as_bytes(), b" ", root.as_os_str().as_bytes(), b"\0"].concat());
}

/// Tells it that an arena is no more.
pub(crate) fn gone(tag: &str) {
    tell(&[tag.as_bytes(), b"\0"].concat());
}

fn tell(word: &[u8]) {
    if let Some(pipe) = lock(&GUARDIAN).as_mut().and_then(|child| child.stdin.as_mut()) {
        // One that was killed is of no more use, and nothing else depends on it.
        let _ = pipe.write_all(word);
    }
}

/// Listens to a suite until it ends, and then ends and removes what it has left.
pub fn guard(suite: impl BufRead) {
    let mut arenas = BTreeMap::new();
    for word in suite.split(0).map_while(Result::ok) {
        let (tag, root) = match word.iter().position(|byte| *byte == b' ') {
            Some(place) => (&word[..place], Some(&word[place + 1..])),
            None => (&word[..], None),
        };
        match root {
            Some(root) => arenas.insert(tag.to_vec(), PathBuf::from(OsStr::from_bytes(root))),
            None => arenas.remove(tag),
        };
    }
    for (tag, root) in arenas {
        end(&tag, &root);
        remove(&root);
    }
}

/// Ends every process that has the tag in its environment, comes of one that has, or is at home in the arena. One of the
/// latter that is older than this process is spared: it may be a user's shell.
fn end(tag: &[u8], root: &Path) {
    let mark = [TAG.as_bytes(), b"=", tag].concat();
    let own = Proc::of(std::process::id()).map_or(0, |own| own.start);
    let inside = |process: &Proc| {
        process.start >= own
            && (process.cwd().is_some_and(|cwd| cwd.starts_with(root))
                || process.descriptors().iter().any(|(_, target)| target.starts_with(root)))
    };
    let belongs =
        |process: &&Proc| process.environ().iter().any(|entry| entry.as_bytes() == mark) || inside(process);
    for _ in 0..32 {
        let all: Vec<Proc> = processes();
        let alive = all.iter().filter(|process| !process.is_zombie() && process.pid != std::process::id());
        let marked: Vec<u32> = alive.filter(belongs).map(|process| process.pid).collect();
        if marked.is_empty() {
            return;
        }
        let family = descendants(&all, &marked);
        for process in all.iter().filter(|process| family.contains(&process.pid)) {
            process.signal(Signal::KILL);
        }
        for process in all.iter().filter(|process| family.contains(&process.pid)) {
            process.wait_gone(ms(1_000));
        }
    }
}

/// Removes an arena, also one with directories that may not be entered and with file systems mounted in it.
fn remove(root: &Path) {
    platform::unmount_below(root);
    if fs::remove_dir_all(root).is_err() {
        open_up(root);
        let _ = fs::remove_dir_all(root);
    }
}

fn open_up(directory: &Path) {
    let _ = set_mode(directory, 0o700);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

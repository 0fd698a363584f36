//! One case's own world: a directory, an environment, and the certainty that nothing is left of it afterwards.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::files::{make_private, set_mode};
use crate::guardian;
use crate::process::{Env, Launch, Proc, Signal, descendants, held, processes};
use crate::proof::random_hex;
use crate::transcript::Transcript;
use crate::wait::ms;

/// Name of the variable that marks every process of a case.
pub const TAG: &str = "LOCAL_DAEMON_CASE";

/// What kind of path an arena lies at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// Short enough for a Unix socket below it.
    #[default]
    Short,
    /// The state directory's path holds spaces, quotes and letters outside ASCII.
    Spaces,
    /// The state directory's path is exactly 200 bytes long.
    Long,
}

/// One case's own world. Dropping it ends what leaked and removes the directory.
#[derive(Debug)]
pub struct Arena {
    root: tempfile::TempDir,
    state_dir: PathBuf,
    tag: String,
    transcript: Transcript,
}

/// A process of a case that nobody holds any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The process, as it was found.
    pub process: Proc,
    /// Its command line.
    pub argv: Vec<OsString>,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let argv: Vec<_> = self.argv.iter().map(|arg| arg.to_string_lossy()).collect();
        write!(f, "pid {} ({})", self.process.pid, argv.join(" "))
    }
}

impl Arena {
    /// An arena at a short path.
    pub fn new() -> io::Result<Self> {
        Self::shaped(Shape::Short)
    }

    /// An arena at a path of this shape: mode 0700, a home, no state directory yet.
    pub fn shaped(shape: Shape) -> io::Result<Self> {
        let private = std::fs::Permissions::from_mode(0o700);
        let root = tempfile::Builder::new().prefix("ld").permissions(private).tempdir()?;
        let base = root.path().canonicalize()?;
        let tag = random_hex::<16>();
        guardian::arena(&tag, &base);
        let state_dir = match shape {
            Shape::Short => base.join("state"),
            Shape::Spaces => base.join("it's a \"ståte\" dir"),
            Shape::Long => {
                let missing = 200_usize.saturating_sub(base.as_os_str().len() + 1);
                base.join("s".repeat(missing.max(1)))
            }
        };
        let arena = Self { root, state_dir, tag, transcript: Transcript::new() };
        for directory in [
            "home",
            "home/.local",
            "home/.local/state",
            "home/.config",
            "run",
            "tmp",
        ] {
            make_private(arena.path().join(directory))?;
        }
        Ok(arena)
    }

    /// The arena's own directory.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The subject's home.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Where the state directory is, or will be.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Creates the state directory with mode 0700.
    pub fn make_state_dir(&self) -> io::Result<&Path> {
        make_private(&self.state_dir)?;
        Ok(&self.state_dir)
    }

    /// Opens the way to the state directory to other users (mode 0755), so that only the subject's own modes guard it.
    pub fn let_others_in(&self) -> io::Result<()> {
        set_mode(self.path(), 0o755)
    }

    /// The random tag in the environment of every process of this case.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The case's transcript.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The fixed environment of a subject: a home and every per-user directory inside the arena, the suite's own `PATH`,
    /// a plain locale, no proxy, and the tag.
    pub fn env(&self) -> Env {
        let (home, path) = (self.home(), std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        Env::from([
            ("HOME".into(), home.clone().into()),
            ("XDG_STATE_HOME".into(), home.join(".local/state").into()),
            ("XDG_DATA_HOME".into(), home.join(".local/share").into()),
            ("XDG_CONFIG_HOME".into(), home.join(".config").into()),
            ("XDG_CACHE_HOME".into(), home.join(".cache").into()),
            ("XDG_RUNTIME_DIR".into(), self.path().join("run").into()),
            ("TMPDIR".into(), self.path().join("tmp").into()),
            ("PATH".into(), path),
            ("LANG".into(), "C.UTF-8".into()),
            (TAG.into(), self.tag.clone().into()),
        ])
    }

    /// `argv`, about to be launched in this arena: its environment, its home as working directory, its transcript.
    pub fn launch<S: Into<OsString>>(&self, actor: &str, argv: impl IntoIterator<Item = S>) -> Launch {
        Launch::new(argv).env(self.env()).cwd(self.home()).noted(&self.transcript, actor)
    }

    /// Every living process of this case: the tag in its environment, or a descendant of the suite with another program
    /// that works in the arena or holds a file of it open.
    pub fn processes(&self) -> Vec<Proc> {
        let all = processes();
        let ours = descendants(&all, &[std::process::id()]);
        let me = std::process::id();
        let mark = format!("{TAG}={}", self.tag);
        // What the suite has just forked, for another case too, has all that the suite has open until it executes its program.
        // So this is asked before the descriptors are.
        let own = std::fs::read_link("/proc/self/exe").ok();
        let has_executed = |process: &Proc| process.exe().is_some_and(|exe| Some(exe) != own);
        let inside = |process: &Proc| {
            let root = self.path();
            process.cwd().is_some_and(|cwd| cwd.starts_with(root))
                || process.descriptors().iter().any(|(_, target)| target.starts_with(root))
        };
        let belongs = |process: &Proc| {
            process.environ().iter().any(|entry| entry.as_bytes() == mark.as_bytes())
                || (ours.contains(&process.pid) && has_executed(process) && inside(process))
        };
        all.iter().filter(|p| p.pid != me && !p.is_zombie() && belongs(p)).cloned().collect()
    }

    /// The processes of this case that no held subject accounts for.
    pub fn leaks(&self) -> Vec<Leak> {
        let (all, held) = (processes(), held());
        let roots = all.iter().filter(|p| held.contains(&p.pid) || held.contains(&p.pgrp));
        let accounted = descendants(&all, &roots.map(|p| p.pid).collect::<Vec<_>>());
        let loose = self.processes().into_iter().filter(|process| !accounted.contains(&process.pid));
        loose.map(|process| Leak { argv: process.argv(), process }).collect()
    }

    /// Ends every leak and returns what was found; looks again until nothing new turns up.
    pub fn end_leaks(&self) -> Vec<Leak> {
        let mut ended = Vec::new();
        for _ in 0..16 {
            let leaks = self.leaks();
            if leaks.is_empty() {
                break;
            }
            for leak in leaks {
                leak.process.signal(Signal::KILL);
                leak.process.wait_gone(ms(1_000));
                self.transcript.note("suite", "leak ended", leak.to_string());
                ended.push(leak);
            }
        }
        ended
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.end_leaks();
        // A case may have taken away the right to enter a directory, which would keep it from being removed.
        let _ = set_mode(&self.state_dir, 0o700);
        if std::fs::remove_dir_all(self.root.path()).is_ok() {
            guardian::gone(&self.tag);
        }
    }
}

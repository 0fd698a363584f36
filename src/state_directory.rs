//! The state directory: where the record, the credential and the lock live, each read only after it was checked and
//! written so that no reader ever sees a part of it.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
#[cfg(feature = "daemon")]
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fmt, fs};

use local_daemon_proto::Credential;
use local_daemon_proto::connect::Budget;
use local_daemon_proto::registration::{ClaimId, ParseRegistrationError, RecordRead, Registration};

use crate::platform;

pub use crate::platform::FileErrorKind;

/// The registration's file name.
pub const REGISTRATION: &str = "registration.json";
/// The credential's.
pub const CREDENTIAL: &str = "credential";
/// The advisory lock's.
pub const LOCK: &str = "registration.lock";
/// The life lock's: a running daemon holds a shared lock on it (REG-15).
pub const ALIVE: &str = "daemon.alive";
/// What the user configures.
pub const CONFIG: &str = "config.toml";
/// The log of a detached daemon.
pub const LOG: &str = "daemon.log";
/// The logs that were set aside; the second is the older one.
const LOG_1: &str = "daemon.log.1";
const LOG_2: &str = "daemon.log.2";
/// The log of a detached daemon is set aside when it is longer than this many bytes.
const MAX_LOG_BYTES: u64 = 5 * 1024 * 1024;
/// What the names of launcher files begin with: each hands a ticket to a browser, once.
pub const LAUNCHER: &str = "launcher-";
/// How often a spawn failed of late; a client keeps it so that calls in other processes count too.
const FAILURES: &str = "spawn-failures.json";
const TAKEN: &str = "registration.json.taken-";
const TEMPORARY: &str = ".tmp-";

/// A [`FileErrorKind`] and the path that it is about (DIR-11).
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: FileErrorKind,
}

impl FileError {
    /// Whether the file was not judged at all: the system failed, and says nothing about it.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(&self.kind, FileErrorKind::Io(error) if error.kind() != ErrorKind::PermissionDenied)
    }

    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        Self { path: path.to_owned(), kind: FileErrorKind::Io(error) }
    }
}

/// The name of a component, such as `acme` (DIR-19).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Component(String);

impl Component {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the variable that names its state directory if no argument does, such as `ACME_STATE_DIR`.
    pub fn variable(&self) -> String {
        format!("{}_STATE_DIR", self.0.to_ascii_uppercase().replace('-', "_"))
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not the name of a component.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is not the name of a component: expected a lower-case letter, then lower-case letters, digits or `-`, 64 at most, \
     such as acme"
)]
pub struct ParseComponentError(pub String);

impl FromStr for Component {
    type Err = ParseComponentError;

    fn from_str(text: &str) -> Result<Self, ParseComponentError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
        if begins && text.len() <= 64 && text.bytes().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseComponentError(text.chars().take(80).collect()))
        }
    }
}

/// No place for the state directory could be found.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no home directory to keep state in, and {variable} names no directory")]
#[non_exhaustive]
pub struct NoHomeError {
    /// The variable that may name one.
    pub variable: String,
}

/// A state directory that belongs to one component of one user.
#[derive(Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl StateDir {
    /// Returns the directory for `component`: the given one, else the one that the client named which started this process,
    /// else `$<COMPONENT>_STATE_DIR`, else the platform's per-user one (DIR-1, DIR-2, DIR-3, DIR-17). Touches nothing.
    ///
    /// # Errors
    /// Fails if none is named and there is no home directory.
    pub fn locate(given: Option<&Path>, component: &Component) -> Result<Self, NoHomeError> {
        let launched = || platform::launched_directory(component.as_str());
        let given = given.map(Path::to_owned).or_else(launched);
        Self::locate_in(given, component, &|name| env::var_os(name))
    }

    fn locate_in(
        given: Option<PathBuf>,
        component: &Component,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, NoHomeError> {
        let variable = component.variable();
        let named = given.or_else(|| env(&variable).filter(|value| !value.is_empty()).map(PathBuf::from));
        let path = named.or_else(|| Some(platform::state_home(env)?.join(component.as_str())));
        Ok(Self::at(&path.ok_or(NoHomeError { variable })?))
    }

    /// Returns the directory at `path`.
    pub fn at(path: &Path) -> Self {
        // A detached daemon works in `/`: a relative path means the caller's directory, here and now. And `link/` would
        // be looked at through the link (DIR-6).
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path: path.components().collect() }
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes sure that the directory is there, is this user's alone, and is local (DIR-4, DIR-10, DIR-12, DIR-13, DIR-16,
    /// DIR-22, DIR-23).
    ///
    /// # Errors
    /// Fails if it cannot be made, or if it, or a directory above it, must not be trusted.
    pub fn create(&self) -> Result<(), FileError> {
        if !self.check()? {
            platform::create_directory(&self.path).map_err(|(path, kind)| FileError { path, kind })?;
            self.check()?;
        }
        if platform::is_network_filesystem(&self.path) {
            return Err(FileError { path: self.path.clone(), kind: FileErrorKind::Network });
        }
        Ok(())
    }

    /// Checks the directory as every reader does (DIR-14); returns `false` if it does not exist. If this user may not search a
    /// directory above it, the error names that one.
    ///
    /// # Errors
    /// Fails if it must not be trusted, or if the system does not tell.
    pub fn check(&self) -> Result<bool, FileError> {
        platform::check_directory(&self.path).map_err(|kind| match kind {
            FileErrorKind::Io(error) if error.kind() == ErrorKind::PermissionDenied => self.denied(error),
            kind => FileError { path: self.path.clone(), kind },
        })
    }

    /// Checks the type, owner and mode of a file of the directory as every reader does (DIR-5, DIR-20), without reading it;
    /// returns `false` if it does not exist.
    ///
    /// ```no_run
    /// use std::path::Path;
    /// use local_daemon::StateDir;
    /// use local_daemon::state_directory::{FileErrorKind, LOG};
    ///
    /// match StateDir::at(Path::new("/home/me/.local/state/acme")).check_file(LOG) {
    ///     Ok(true) => println!("there is a log"),
    ///     Ok(false) => println!("there is none"),
    ///     Err(fault) if matches!(fault.kind, FileErrorKind::Mode(_)) => println!("others can read {fault}"),
    ///     Err(fault) => println!("{fault}"),
    /// }
    /// ```
    ///
    /// # Errors
    /// Fails if it is a link or no regular file, belongs to another user or lets others in, or if the system does not tell.
    pub fn check_file(&self, name: &str) -> Result<bool, FileError> {
        let path = self.file(name);
        platform::check_file(&path).map_err(|kind| FileError { path, kind })
    }

    /// Names the directory that this user may not search.
    fn denied(&self, error: io::Error) -> FileError {
        match platform::first_unsearchable(&self.path) {
            None => FileError::io(&self.path, error),
            Some((path, owner)) if owner == platform::user() => FileError::io(&path, error),
            Some((path, owner)) => {
                FileError { path, kind: FileErrorKind::Owner { owner, me: platform::user() } }
            }
        }
    }

    /// Checks that [`create`](Self::create) would create nothing in another user's directory (DIR-22).
    ///
    /// # Errors
    /// Fails if it would, or if the system does not tell.
    pub fn check_creatable(&self) -> Result<(), FileError> {
        platform::check_creatable(&self.path).map_err(|(path, kind)| FileError { path, kind })
    }

    /// Removes the permission bits of group and others from a file or directory of this user, through its descriptor: for a
    /// repair that the user asks for (DIR-21). Does nothing if it has none of these bits.
    ///
    /// # Errors
    /// Fails if the file is missing, is a link, or belongs to another user, or if the system does not allow it.
    pub fn close_to_others(path: &Path) -> Result<(), FileError> {
        platform::close_to_others(path).map_err(|kind| FileError { path: path.to_owned(), kind })
    }

    /// Reads the record, and says what was wrong with it where it is not a valid one.
    pub fn read_record(&self) -> (RecordRead, Option<Diagnostic>) {
        match self.check() {
            Ok(true) => self.read_registration(&self.file(REGISTRATION)),
            Ok(false) => (RecordRead::DirectoryGone, None),
            Err(fault) => (RecordRead::Unreadable, Some(Diagnostic::File(fault))),
        }
    }

    fn read_registration(&self, path: &Path) -> (RecordRead, Option<Diagnostic>) {
        match platform::read_checked(path) {
            Ok(Some(bytes)) => match Registration::parse(&bytes) {
                Ok(record) => (RecordRead::Record(record), None),
                Err(why) => {
                    let sight = RecordRead::Malformed(Registration::id_of(&bytes));
                    (sight, Some(Diagnostic::Malformed { path: path.to_owned(), why }))
                }
            },
            // The directory may have gone between its check and the read.
            Ok(None) => match self.check() {
                Ok(true) => (RecordRead::Missing, None),
                Ok(false) => (RecordRead::DirectoryGone, None),
                Err(fault) => (RecordRead::Unreadable, Some(Diagnostic::File(fault))),
            },
            Err(kind) => {
                (RecordRead::Unreadable, Some(Diagnostic::File(FileError { path: path.to_owned(), kind })))
            }
        }
    }

    /// Reads the credential; returns `None` if there is none yet.
    ///
    /// # Errors
    /// Fails if the file must not be trusted, cannot be read, or holds no credential.
    pub fn read_credential(&self) -> Result<Option<Credential>, FileError> {
        let path = self.file(CREDENTIAL);
        let fault = |kind| FileError { path: path.clone(), kind };
        match platform::read_checked(&path).map_err(fault)? {
            None => Ok(None),
            Some(bytes) => {
                let bytes = zeroize::Zeroizing::new(bytes);
                Credential::parse(&bytes).map(Some).map_err(|why| fault(why.into()))
            }
        }
    }

    /// Creates the credential by link-without-replace of a finished file. The first of several wins, and the caller reads
    /// back what is there (CRED-3, CRED-4, CRED-5).
    ///
    /// # Errors
    /// Fails if a file cannot be written or linked. A credential that exists already is no error.
    pub fn create_credential(&self) -> Result<(), FileError> {
        let path = self.file(CREDENTIAL);
        let temporary = self.write_credential()?;
        let linked = fs::hard_link(&temporary, &path);
        let removed = fs::remove_file(&temporary);
        match linked {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(FileError::io(&path, e)),
            _ => removed.map_err(|e| FileError::io(&temporary, e)),
        }
    }

    /// Replaces the credential on request, by a rename (CRED-14): every client reads the new one at its next connect.
    ///
    /// # Errors
    /// Fails if a file cannot be written or renamed.
    pub fn rotate_credential(&self) -> Result<(), FileError> {
        let path = self.file(CREDENTIAL);
        let temporary = self.write_credential()?;
        fs::rename(&temporary, &path).map_err(|e| {
            let _ = fs::remove_file(&temporary);
            FileError::io(&path, e)
        })
    }

    fn write_credential(&self) -> Result<PathBuf, FileError> {
        let temporary = self.file(&format!("{CREDENTIAL}{TEMPORARY}{:032x}", random()));
        let mut text = Credential::from_bytes(random_bytes()).expose();
        text.push('\n');
        platform::create_owner_only(&temporary, text.as_bytes()).map_err(|e| FileError::io(&temporary, e))?;
        Ok(temporary)
    }

    /// Reads a file of the directory that is checked as the credential is; returns `None` if there is none.
    ///
    /// # Errors
    /// Fails if the file must not be trusted or cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.file(name);
        platform::read_checked(&path).map_err(|kind| FileError { path, kind })
    }

    /// Reads a file of the directory as [`read`](Self::read) does, but whatever its mode is. Others may have written it, so it
    /// may take rights away and grant none (PER-48).
    ///
    /// # Errors
    /// Fails if the file is a link, belongs to another user, or cannot be read.
    pub fn read_of_any_mode(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.file(name);
        platform::read_own(&path).map_err(|kind| FileError { path, kind })
    }

    /// Replaces a file of the directory by a rename: every reader sees the old content or the new.
    ///
    /// # Errors
    /// Fails if a file cannot be written or renamed.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), FileError> {
        let path = self.file(name);
        let temporary = self.file(&format!("{name}{TEMPORARY}{:032x}", random()));
        platform::create_owner_only(&temporary, content).map_err(|e| FileError::io(&temporary, e))?;
        fs::rename(&temporary, &path).map_err(|e| {
            let _ = fs::remove_file(&temporary);
            FileError::io(&path, e)
        })
    }

    /// Writes `record` whole to a temporary file of a unique name and flushes it (PUB-5, PUB-6). What a launch that
    /// was killed left behind has another name (PUB-9).
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write_temporary(&self, record: &Registration) -> Result<PathBuf, FileError> {
        let temporary = self.file(&format!("{REGISTRATION}{TEMPORARY}{:032x}", random()));
        platform::create_owner_only(&temporary, &record.to_bytes())
            .map_err(|e| FileError::io(&temporary, e))?;
        Ok(temporary)
    }

    /// Renames a finished temporary file over the registration, whatever stands there (PUB-3, PUB-7).
    ///
    /// # Errors
    /// Fails if it cannot be renamed.
    pub fn publish(&self, temporary: &Path) -> Result<(), FileError> {
        let path = self.file(REGISTRATION);
        fs::rename(temporary, &path).map_err(|e| FileError::io(&path, e))
    }

    /// Removes a temporary file that is not needed after all.
    ///
    /// # Errors
    /// Fails if it cannot be removed.
    pub fn drop_temporary(&self, temporary: &Path) -> Result<(), FileError> {
        fs::remove_file(temporary).map_err(|e| FileError::io(temporary, e))
    }

    /// Renames the registration to this id's taken name, which it returns; `None` if there was no registration (CONV-15).
    ///
    /// # Errors
    /// Fails if it cannot be renamed.
    pub fn take(&self, id: ClaimId) -> Result<Option<PathBuf>, FileError> {
        let path = self.file(REGISTRATION);
        let taken = self.file(&format!("{TAKEN}{id}-{:032x}", random()));
        match fs::rename(&path, &taken) {
            Ok(()) => Ok(Some(taken)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(FileError::io(&path, e)),
        }
    }

    /// Reads a file that [`take`](Self::take) made.
    pub fn read_taken(&self, taken: &Path) -> RecordRead {
        self.read_registration(taken).0
    }

    /// Unlinks a taken file that holds the caller's id.
    ///
    /// # Errors
    /// Fails if it cannot be removed. A file that is gone is no error.
    pub fn unlink_taken(&self, taken: &Path) -> Result<(), FileError> {
        match fs::remove_file(taken) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io(taken, e)),
            _ => Ok(()),
        }
    }

    /// Returns the taken files whose content has this id, whichever daemon took them.
    ///
    /// # Errors
    /// Fails if none was found, and one file could not be read for a reason such as a lack of descriptors: it may be the one
    /// with this id.
    pub fn taken_of(&self, id: ClaimId) -> Result<Vec<PathBuf>, FileError> {
        let (mut mine, mut unread) = (Vec::new(), None);
        for path in self.list(TAKEN)? {
            let (sight, diagnostic) = self.read_registration(&path);
            if sight.id() == Some(id) {
                mine.push(path);
            } else if let Some(Diagnostic::File(fault)) = diagnostic
                && fault.is_passing()
            {
                unread = Some(fault);
            }
        }
        match unread {
            Some(fault) if mine.is_empty() => Err(fault),
            _ => Ok(mine),
        }
    }

    /// Returns the id of the daemon that took a record, from the name of the taken file; `None` if it is not a taken file.
    pub fn taker(path: &Path) -> Option<ClaimId> {
        let rest = path.file_name()?.to_str()?.strip_prefix(TAKEN)?;
        rest.get(..32)?.parse().ok()
    }

    /// Returns the files that launches or removals which were killed left behind: temporary and taken files.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut left = self.list(TAKEN)?;
        for name in [REGISTRATION, CREDENTIAL, FAILURES] {
            left.extend(self.list(&format!("{name}{TEMPORARY}"))?);
        }
        Ok(left)
    }

    /// Returns the launcher files that are there.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub fn launchers(&self) -> Result<Vec<PathBuf>, FileError> {
        self.list(LAUNCHER)
    }

    fn list(&self, prefix: &str) -> Result<Vec<PathBuf>, FileError> {
        let fault = |e| FileError::io(&self.path, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Takes the life lock, shared with others; it is released when the file is dropped (REG-15).
    #[cfg(feature = "daemon")]
    pub(crate) fn hold_life_lock(&self) -> Result<fs::File, FileError> {
        let path = self.file(ALIVE);
        platform::hold_life_lock(&path).map_err(|kind| FileError { path, kind })
    }

    /// Whether a daemon of this directory runs in any namespace of this host, as the life lock tells (CONN-41).
    pub(crate) fn has_living_daemon(&self) -> Result<bool, FileError> {
        let path = self.file(ALIVE);
        platform::is_life_lock_held(&path).map_err(|kind| FileError { path, kind })
    }

    /// Takes the advisory lock, waiting at most `bound`; it is given back when the file is dropped.
    pub fn lock(&self, bound: Duration) -> Option<fs::File> {
        platform::lock(&self.file(LOCK), bound)
    }
}

/// What a client keeps there besides: the log of what it starts, and how often that failed.
impl StateDir {
    /// Opens the log of a detached daemon, and checks it like every file (DIR-20). A full log is set aside first (LIFE-38).
    pub(crate) fn open_log(&self) -> Result<fs::File, FileError> {
        let path = self.file(LOG);
        let open = || platform::open_to_append(&path).map_err(|kind| FileError { path: path.clone(), kind });
        let log = open()?;
        if log.metadata().map_err(|error| FileError::io(&path, error))?.len() <= MAX_LOG_BYTES {
            return Ok(log);
        }
        self.set_log_aside()?;
        open()
    }

    /// Renames the log to `daemon.log.1`, and that to `daemon.log.2`.
    fn set_log_aside(&self) -> Result<(), FileError> {
        for [from, to] in [[LOG_1, LOG_2], [LOG, LOG_1]] {
            let from = self.file(from);
            match fs::rename(&from, self.file(to)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(FileError::io(&from, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Rotates the log of a detached daemon (LIFE-38): if standard error is that log and is longer than 5 MiB, the log is
    /// renamed to `daemon.log.1`, an earlier `daemon.log.1` to `daemon.log.2`, and standard error becomes a new file. Does
    /// nothing if standard error is anything else. A [`Daemon`](crate::Daemon) calls this every few seconds; a program that
    /// logs much calls it more often.
    ///
    /// The descriptor is replaced instead of copying and truncating the file, so that nothing is lost that this process writes
    /// at the same time, such as the message of a panic. A program that inherited the descriptor goes on with the old file.
    ///
    /// # Errors
    /// Fails if a log cannot be looked at, renamed or created, or if the new one is refused (DIR-20).
    #[cfg(feature = "daemon")]
    pub fn rotate_log(&self) -> Result<(), FileError> {
        /// The log that standard error was seen to be. It is also replaced when full if its file was removed.
        static OURS: Mutex<Option<PathBuf>> = Mutex::new(None);
        // The path is replaced whole. Two threads take turns, so that neither sets the other's new log aside.
        let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.file(LOG);
        let stderr = rustix::stdio::stderr();
        let io = |error| FileError::io(&path, error);
        let is_named = platform::is_at(stderr, &path).map_err(io)?;
        // Another process, such as a client that starts a daemon, may have set it aside.
        if is_named || platform::is_at(stderr, &self.file(LOG_1)).map_err(io)? {
            *ours = Some(path.clone());
        }
        let length = rustix::fs::fstat(stderr).map_err(|error| io(error.into()))?.st_size;
        if ours.as_ref() != Some(&path) || length.cast_unsigned() <= MAX_LOG_BYTES {
            return Ok(());
        }
        if is_named {
            self.set_log_aside()?;
        }
        let log = platform::open_to_append(&path).map_err(|kind| FileError { path: path.clone(), kind })?;
        rustix::stdio::dup2_stderr(&log).map_err(|error| io(error.into()))
    }

    /// Returns why clients start no daemon at present, if the last three did not become ready (CONN-21).
    pub fn held_back(&self) -> Option<HeldBack> {
        let budget = self.read_budget();
        let (error, left) = budget.exhausted(unix_millis())?;
        Some(HeldBack { error: error.to_owned(), left })
    }

    /// The restart budget; what cannot be read counts as unspent, since it only spares work.
    fn read_budget(&self) -> Budget {
        let bytes = platform::read_checked(&self.file(FAILURES)).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Forgets the failed starts, after one that became ready.
    pub(crate) fn clear_budget(&self) {
        self.write_budget(&Budget::default());
    }

    /// Keeps the restart budget for the next call, in whatever process that runs.
    fn write_budget(&self, budget: &Budget) {
        let path = self.file(FAILURES);
        if *budget == Budget::default() {
            let _ = fs::remove_file(&path);
            return;
        }
        let temporary = self.file(&format!("{FAILURES}{TEMPORARY}{:032x}", random()));
        let bytes = serde_json::to_vec(budget).unwrap_or_default();
        let written =
            platform::create_owner_only(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "the restart budget was not kept");
        }
    }

    /// Counts one spawn that did not become ready.
    pub(crate) fn note_failure(&self, error: &str) {
        let mut budget = self.read_budget();
        budget.failed(unix_millis(), error);
        self.write_budget(&budget);
    }
}

/// Why, and for how long, clients start no daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HeldBack {
    /// What the last daemon said that did not become ready.
    pub error: String,
    /// The time after which a daemon may be started again.
    pub left: Duration,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, left } = self;
        // Rounded up, so that it is true.
        let seconds = left.as_millis().div_ceil(1000);
        write!(
            f,
            "three daemons in the last minute did not become ready, and it may be tried again in {seconds} s; \
             the last said: {error}"
        )
    }
}

/// What a reader says of a record that it cannot use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Diagnostic {
    /// The file or the directory must not be trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file was read, and is no valid record.
    #[error("{}: {why}; it counts as absent", path.display())]
    Malformed {
        /// The record's path.
        path: PathBuf,
        /// What is wrong with it.
        why: ParseRegistrationError,
    },
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 32 bytes from the operating system's generator (CRED-2, HS-28).
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    bytes
}

/// 128 bits from the operating system's generator (REG-4).
pub(crate) fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    u128::from_ne_bytes(bytes)
}

/// Returns 32 random bits.
pub(crate) fn random_word() -> u32 {
    let [a, b, c, d, ..] = random_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A fresh id for one launch.
#[cfg(feature = "daemon")]
pub(crate) fn fresh_id() -> ClaimId {
    ClaimId::from_bits(random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_names() {
        let longest = "a".repeat(64);
        for name in ["acme", "a", "acme-tools", "a1-", &longest] {
            assert_eq!(name.parse::<Component>().unwrap().as_str(), name);
        }
        for name in [
            "",
            "../acme",
            "Acme",
            "acme tools",
            "1acme",
            "-acme",
            "acme_x",
            "acm\u{e9}",
            &format!("{longest}a"),
        ] {
            let error = name.parse::<Component>().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains("such as acme"), "{error}");
        }
    }

    /// DIR-17.
    #[test]
    fn each_component_has_a_variable_of_its_own() {
        let env = |name: &str| match name {
            "ACME_STATE_DIR" | "LOCAL_DAEMON_STATE_DIR" => Some("/tmp/acme".into()),
            "ACME_TOOLS_STATE_DIR" => Some("".into()),
            "XDG_STATE_HOME" => Some("/home/u/state".into()),
            _ => None,
        };
        let find = |given: Option<&str>, component: &str| {
            let component = component.parse().unwrap();
            StateDir::locate_in(given.map(PathBuf::from), &component, &env).unwrap().path().to_owned()
        };
        assert_eq!(find(None, "acme"), Path::new("/tmp/acme"));
        assert_eq!(find(Some("/given"), "acme"), Path::new("/given"));
        if cfg!(target_os = "linux") {
            assert_eq!(find(None, "acme-tools"), Path::new("/home/u/state/acme-tools"), "empty is not set");
            assert_eq!(find(None, "locald"), Path::new("/home/u/state/locald"));
        }
    }
}

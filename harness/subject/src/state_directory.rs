//! Chapter 02: the directory that daemon and clients share, and what is checked before anything in it is believed.

pub(crate) mod faults;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fault::{broken, window};

/// The name of the record.
pub(super) const RECORD: &str = "registration.json";
/// The name of the credential.
pub(super) const CREDENTIAL: &str = "credential";

/// The name under which this program keeps its state directory.
const COMPONENT: &str = "daemonspec-subject";
/// The variable that names another one: the component in capitals, with `_` for what is neither letter nor digit.
const VARIABLE: &str = "DAEMONSPEC_SUBJECT_STATE_DIR";
/// No file that is read is longer, in bytes.
const MOST_BYTES: u64 = 64 * 1024;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<PathBuf>, why: impl fmt::Display) -> Self {
        Self { path: path.into(), why: why.to_string() }
    }

    /// Whether the file is refused for its type, owner, mode or size, and not because an operation failed.
    pub(super) fn is_of_a_check(&self) -> bool {
        !self.why.starts_with("cannot ")
    }

    /// Whether the system failed to read the file, which says nothing about it. A lack of permission does.
    pub(super) fn is_passing(&self) -> bool {
        let failed = ["cannot open: ", "cannot read: "].iter().any(|what| self.why.starts_with(what));
        failed && ![Errno::ACCESS, Errno::PERM].iter().any(|errno| self.why.ends_with(&errno.to_string()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for Fault {}

/// What a read of a file in the state directory came to.
#[derive(Debug)]
pub(super) enum Content {
    /// The file passed every check.
    Bytes(Vec<u8>),
    /// There is no such file.
    Absent,
    /// There is no such directory.
    NoDirectory,
    /// A check failed, or the system did not let it be read.
    Refused(Fault),
}

/// A state directory, by its path: whoever takes the directory away takes it from a running daemon too.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// The directory that the option names, else the component's variable, else the user's default.
    pub(super) fn settle(option: Option<&Path>) -> Result<Self, Fault> {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let first = broken("DIR-1.environment-first") || broken("DIR-3.environment-first");
        let chosen = first
            .then(|| variable(VARIABLE))
            .flatten()
            .map(PathBuf::from)
            .or_else(|| option.map(Path::to_owned))
            .or_else(faults::named)
            .or_else(|| {
                let unread = broken("DIR-3.not-read") || broken("DIR-17.not-read");
                variable(VARIABLE).filter(|_| !unread).map(PathBuf::from)
            })
            .or_else(|| {
                let runtime = variable("XDG_RUNTIME_DIR").filter(|_| broken("DIR-3.runtime-dir"))?;
                Some(PathBuf::from(runtime).join(COMPONENT))
            })
            .or_else(|| {
                let state_home = variable("XDG_STATE_HOME").map(PathBuf::from);
                let base = state_home
                    .filter(|path| path.is_absolute() || broken("DIR-3.relative"))
                    .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")))?;
                Some(base.join(COMPONENT))
            })
            .ok_or_else(|| Fault::new("~", "there is no home directory"))?;
        let absolute = std::path::absolute(&chosen).map_err(|error| Fault::new(&chosen, error))?;
        if broken("DIR-6.final-slash") {
            return Ok(Self { path: absolute });
        }
        // Without the final slash, which would make the system follow a link.
        let path: PathBuf = absolute.components().collect();
        Ok(Self { path: elsewhere(&path).unwrap_or(path) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates what is missing, for the owner alone, and checks what is there.
    pub(super) fn prepare(&self) -> Result<(), Fault> {
        if broken("DIR-6.link-to-nothing")
            && let Ok(target) = fs::read_link(&self.path)
        {
            let _ = make_directory(&target);
        }
        if broken("DIR-6.replaces-a-file") && self.path.is_file() {
            let _ = fs::remove_file(&self.path);
        }
        if broken("DIR-10.fifo-waits") {
            let _ = File::open(&self.path);
        }
        if fs::symlink_metadata(&self.path).is_err() {
            make_directory(&self.path)
                .map_err(|error| Fault::new(&self.path, format!("cannot create: {error}")))?;
            if broken("DIR-16.directory") {
                let _ = fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755));
                return Ok(());
            }
            if broken("DIR-4.as-its-parent")
                && let Some(above) = self.path.parent().and_then(|above| fs::metadata(above).ok())
            {
                let _ = fs::set_permissions(&self.path, above.permissions());
            }
        }
        self.open().map(drop)
    }

    /// Opens the directory and checks what was opened.
    pub(super) fn open(&self) -> Result<File, Fault> {
        let fault = |why: &str| Err(Fault::new(&self.path, why));
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let follows = broken("DIR-6.link-to-a-directory") || broken("DIR-14.directory-link");
        flags.set(OFlags::NOFOLLOW, !follows);
        let directory = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(directory) => File::from(directory),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let link = fs::symlink_metadata(&self.path).is_ok_and(|facts| facts.is_symlink());
                return fault(if link { "a symbolic link" } else { "not a directory" });
            }
            Err(error) => return fault(&format!("cannot open: {error}")),
        };
        if !broken("DIR-14.directory") && !broken("DIR-16.directory") && !broken("DIR-4.as-its-parent") {
            check_owner_and_mode(&directory, "directory").map_err(|why| Fault::new(&self.path, why))?;
        }
        match rustix::fs::fstatfs(&directory) {
            Ok(facts) if is_remote(facts.f_type.cast_unsigned()) => fault("on a network filesystem"),
            _ => Ok(directory),
        }
    }

    /// Reads a file after every check, of the directory too.
    pub(super) fn read(&self, name: &str) -> Content {
        let path = self.file(name);
        let refused = |why: &str| Content::Refused(Fault::new(&path, why));
        let directory = match self.open() {
            Ok(directory) => directory,
            Err(_) if self.is_gone() => return Content::NoDirectory,
            Err(fault) => return Content::Refused(fault),
        };
        // Not blocking: a FIFO would wait for its writer.
        let mut flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let is_credential = name == CREDENTIAL;
        let follows = broken("DIR-14.link") || broken("DIR-6.credential-link") && is_credential;
        let waits = broken("DIR-14.fifo") || broken("DIR-6.credential-waits") && is_credential;
        flags.set(OFlags::NOFOLLOW, !follows);
        flags.set(OFlags::NONBLOCK, !waits);
        let file = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Content::Absent,
            Err(Errno::LOOP) => return refused("a symbolic link"),
            Err(Errno::NXIO) => return refused("not a regular file"),
            Err(error) => return refused(&format!("cannot open: {error}")),
        };
        let unchecked =
            broken("DIR-14.record") && name == RECORD || broken("DIR-14.credential") && is_credential;
        let content = if unchecked { read(&file) } else { checked(&file, name) };
        match content {
            Ok(bytes) => Content::Bytes(bytes),
            Err(why) => refused(&why),
        }
    }

    /// Whether nothing is at the path any more.
    fn is_gone(&self) -> bool {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        fs::symlink_metadata(&self.path).is_err_and(|error| gone.contains(&error.kind()))
    }

    /// Writes a new file whole, for the owner alone, and flushes it. Fails where the name exists.
    pub(super) fn write_new(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if broken("DIR-5.mode-later") {
            as_inherited(|| fs::write(self.file(name), bytes))?;
            window();
            return fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600));
        }
        if broken("DIR-5.umask-applies") {
            let options = |path| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            return as_inherited(|| options(self.file(name))?.write_all(bytes));
        }
        if broken("DIR-5.open-log") {
            let log = self.file("daemon.log");
            let mut options = fs::OpenOptions::new();
            let mut log = as_inherited(|| options.append(true).create(true).mode(0o644).open(log))?;
            writeln!(log, "writes {name}")?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(self.file(name), flags, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = self.unlink(name);
        }
        written
    }

    /// Renames a file over whatever stands at `to`, but for a directory.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from), self.file(to))
    }

    /// Gives a file a second name. Fails where the name exists.
    pub(super) fn link(&self, from: &str, to: &str) -> io::Result<()> {
        fs::hard_link(self.file(from), self.file(to))
    }

    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    /// The names in the directory that begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }
}

/// From now on this process creates nothing that others may touch, whatever its parent's mask is.
pub(super) fn create_for_the_owner_alone() {
    let _ = INHERITED.set(rustix::process::umask(Mode::from_raw_mode(0o077)));
}

/// The mask that the process was started with.
static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Creates something under the mask that the process was started with, as a faulty daemon does.
fn as_inherited<T>(create: impl FnOnce() -> T) -> T {
    let own = rustix::process::umask(INHERITED.get().copied().unwrap_or(Mode::empty()));
    let created = create();
    rustix::process::umask(own);
    created
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    if broken("DIR-4.umask-applies") {
        return as_inherited(|| builder.create(path));
    }
    if broken("DIR-4.mode-later") {
        as_inherited(|| builder.mode(0o777).create(path))?;
        window();
        return fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    }
    make_missing(path)?;
    faults::set_the_mode(path);
    Ok(())
}

/// Creates a directory and the missing ones above it, but none in a directory of a user other than this one and root.
fn make_missing(path: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(above, flags, Mode::empty())
    };
    let directory = match open() {
        Err(Errno::NOENT) if broken("DIR-22.last-alone") => {
            fs::create_dir_all(above)?;
            open()?
        }
        Err(Errno::NOENT) => {
            make_missing(above)?;
            open()?
        }
        opened => opened?,
    };
    let owner = rustix::fs::fstat(&directory)?.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let why = format!("{} belongs to another user, of uid {owner}", above.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o700)) {
        // An existing directory is checked when it is opened.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where a faulty daemon keeps its state instead.
fn elsewhere(path: &Path) -> Option<PathBuf> {
    let text = path.to_string_lossy();
    if broken("DIR-1.first-word") {
        return text.split_whitespace().next().map(PathBuf::from);
    }
    if broken("DIR-1.buffer") {
        return path
            .as_os_str()
            .as_bytes()
            .get(..107)
            .map(|start| PathBuf::from(OsStr::from_bytes(start)));
    }
    if broken("DIR-2.headless") && std::env::var("XDG_RUNTIME_DIR").is_ok_and(|value| value.is_empty()) {
        return Some(path.join("headless"));
    }
    if broken("DIR-12.elsewhere") && !path.exists() && make_directory(path).is_err() {
        return Some(std::env::temp_dir().join(COMPONENT));
    }
    None
}

/// The content of an open file, if it may be believed.
fn checked(file: &File, name: &str) -> Result<Vec<u8>, String> {
    let facts = file.metadata().map_err(|error| error.to_string())?;
    if !facts.is_file() {
        let kind = facts.file_type();
        let what = [(kind.is_dir(), "a directory"), (kind.is_fifo(), "a FIFO")];
        let what = what.iter().find(|(is, _)| *is).map_or("a device", |(_, what)| what);
        return Err(format!("not a regular file but {what}"));
    }
    check_owner_and_mode(file, name)?;
    if broken("DIR-9.first-bytes") && name == CREDENTIAL && facts.len() > MOST_BYTES {
        let mut first = vec![0; 44];
        let read = file.read_exact_at(&mut first, 0);
        return read.map(|()| first).map_err(|error| error.to_string());
    }
    read(file)
}

/// The content of an open file, if it is not too long.
fn read(file: &File) -> Result<Vec<u8>, String> {
    let too_long = || format!("longer than {MOST_BYTES} bytes");
    // It may grow meanwhile, so its length now is not what counts.
    let mut bytes = Vec::new();
    let most = if broken("DIR-14.too-long") { u64::MAX - 1 } else { MOST_BYTES };
    let mut file = file.take(most + 1);
    file.read_to_end(&mut bytes).map_err(|error| format!("cannot read: {error}"))?;
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// `what` is `directory`, `credential` or another file.
fn check_owner_and_mode(opened: impl AsFd, what: &str) -> Result<(), String> {
    let facts = rustix::fs::fstat(&opened).map_err(|error| error.to_string())?;
    let user = rustix::process::geteuid();
    let (is_directory, is_credential) = (what == "directory", what == CREDENTIAL);
    let trusts_owner = broken("DIR-7.root-may") && user.is_root() && !matches!(what, RECORD)
        || broken("DIR-7.directory-alone") && is_credential
        || broken("DIR-7.credential-alone") && is_directory
        || broken("DIR-14.owner");
    if facts.st_uid != user.as_raw() && !trusts_owner {
        return Err(format!("it belongs to another user, of uid {}", facts.st_uid));
    }
    let mode = facts.st_mode & 0o7777;
    let loose = if broken("DIR-8.directory-unchecked") && is_directory
        || broken("DIR-8.credential-unchecked") && is_credential
    {
        0
    } else if broken("DIR-8.group-trusted") && !matches!(what, RECORD) {
        mode & 0o007
    } else if broken("DIR-8.read-bits") && !matches!(what, RECORD) {
        mode & 0o044
    } else if broken("DIR-14.write-bits") {
        mode & 0o022
    } else {
        mode & 0o077
    };
    if loose != 0
        && (broken("DIR-8.directory-mended") && is_directory
            || broken("DIR-8.credential-mended") && is_credential)
    {
        let mended = rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode & 0o700));
        return mended.map_err(|error| error.to_string());
    }
    if loose != 0 {
        return Err(format!("mode {mode:04o} lets others in"));
    }
    Ok(())
}

/// NFS, SMB, CIFS, SMB2, AFS, Ceph, 9P.
fn is_remote(kind: u64) -> bool {
    [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x5346_414f,
        0x00c3_6400,
        0x0102_1997,
    ]
    .contains(&(kind & 0xffff_ffff))
}

/// Random digits for the name of a temporary file, or an id.
pub(super) fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    hex(&bytes)
}

/// Lowercase hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

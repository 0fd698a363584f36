//! The faults of the state directory, chapter 02.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::as_inherited;
use crate::fault::{Fault, broken, fault};

/// The variables by which a launcher passes the directory and the pipe to its child, in the faults of DIR-18.
pub(crate) const TOLD_DIRECTORY: &str = "SUBJECT_LAUNCH_DIRECTORY";
pub(crate) const TOLD_PIPE: &str = "SUBJECT_LAUNCH_PIPE";

pub(crate) const FAULTS: &[Fault] = &[
    fault("DIR-1.environment-first", "takes the environment variable before the option"),
    fault("DIR-1.first-word", "splits the path at its spaces, as an unquoted shell variable"),
    fault("DIR-1.buffer", "copies the path into a buffer as long as a socket's name may be"),
    fault("DIR-2.headless", "keeps the state of a launch without XDG_RUNTIME_DIR apart"),
    fault("DIR-4.mode-later", "makes the directory as the umask will have it, and then sets the mode"),
    fault("DIR-4.umask-applies", "asks for 0700 and leaves the umask to what it is"),
    fault("DIR-4.as-its-parent", "gives the directory the mode of the one that it is in"),
    fault("DIR-5.mode-later", "creates files as the umask will have them, and then sets the mode"),
    fault("DIR-5.umask-applies", "asks for 0600 and leaves the umask to what it is"),
    fault("DIR-5.open-log", "writes a log that everybody may read"),
    fault("DIR-6.link-to-nothing", "creates the directory to which a dangling link leads"),
    fault("DIR-6.link-to-a-directory", "asks the path, which follows a link, whether it is a directory"),
    fault("DIR-6.final-slash", "leaves a final slash on the path, so that the system follows a link"),
    fault("DIR-6.replaces-a-file", "puts a directory in the place of a file"),
    fault("DIR-6.credential-link", "opens the credential through a link"),
    fault("DIR-6.credential-waits", "opens a FIFO in the credential's place, which waits for a writer"),
    fault("DIR-6.credential-replaced", "removes what is no regular file, and makes a credential"),
    fault("DIR-7.root-may", "does not look at owners when it is root"),
    fault("DIR-7.directory-alone", "looks at the owner of the directory alone"),
    fault("DIR-7.credential-alone", "looks at the owner of files alone"),
    fault("DIR-8.directory-unchecked", "looks at the mode of files alone"),
    fault("DIR-8.credential-unchecked", "looks at the mode of the directory alone"),
    fault("DIR-8.group-trusted", "looks at the bits of others alone"),
    fault("DIR-8.read-bits", "looks at the bits that let others read, and not at the rest"),
    fault("DIR-8.directory-mended", "sets the mode of a directory that others may enter"),
    fault("DIR-8.credential-mended", "sets the mode of a file that others may read"),
    fault("DIR-9.first-bytes", "uses the beginning of a credential that is too long"),
    fault("DIR-10.waits", "waits a while for somebody to mend what it refuses"),
    fault("DIR-10.status-zero", "ends with status 0 when it has said what it refuses"),
    fault("DIR-10.fifo-waits", "opens whatever stands in the directory's place before it looks at it"),
    fault("DIR-11.no-path", "says the fault and not the path"),
    fault("DIR-11.same-words", "says of each fault that permission is denied"),
    fault("DIR-11.standard-output", "says it on standard output"),
    fault("DIR-12.waits", "waits a while for the directory to become possible"),
    fault("DIR-12.elsewhere", "takes a directory for temporary files where it cannot create its own"),
    fault("DIR-17.not-read", "does not read the variable"),
    fault("DIR-17.old-name-still-read", "reads the variable that was once for all components"),
    fault("DIR-17.other-components-read", "reads any variable whose name ends like its own"),
    fault("DIR-17.hyphen-kept", "leaves the hyphen in the variable's name"),
    fault("DIR-18.directory", "publishes in the directory that a launcher told another process"),
    fault("DIR-18.pipe", "writes into any pipe that has the number which a launcher told another process"),
    fault("DIR-21.by-path", "sets the mode of the directory by its path, which follows a link"),
    fault("DIR-21.another", "sets the mode of the directory, also if another process made it"),
    fault("DIR-21.alive", "sets the mode of the lock of its life that it finds"),
    fault("DIR-22.daemon", "makes the directory whoever those above it belong to"),
    fault("DIR-22.last-alone", "looks at the owner of the last directory above its own, having made it"),
    fault("DIR-23.daemon", "leaves the modes of the parents to the umask"),
];

/// Sets the mode of a directory that was made, or was there before.
pub(super) fn set_the_mode(path: &Path) {
    if broken("DIR-21.by-path") {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
    }
    if broken("DIR-21.another") {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let _ = opened.and_then(|directory| rustix::fs::fchmod(directory, Mode::from_raw_mode(0o700)));
    }
}

/// Makes the directory `anywhere`, or its parents `as_the_umask` has them, if this process has one of these faults.
pub(crate) fn make_carelessly(path: &Path, anywhere: &str, as_the_umask: &str) {
    if broken(anywhere) {
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(path);
    }
    if broken(as_the_umask)
        && let Some(above) = path.parent()
    {
        let _ = as_inherited(|| fs::create_dir_all(above));
    }
}

/// Writes into any pipe that has the number which a launcher told some child.
pub(crate) fn tell_launcher(id: &str) {
    let told = std::env::var(TOLD_PIPE).ok().filter(|_| broken("DIR-18.pipe"));
    let pipe = told.map(|number| PathBuf::from("/proc/self/fd").join(number));
    let pipe = pipe.filter(|path| path.metadata().is_ok_and(|facts| facts.file_type().is_fifo()));
    if let Some(Ok(mut pipe)) = pipe.map(|path| File::options().write(true).open(path)) {
        let _ = writeln!(pipe, "ready {id}");
    }
}

/// Returns the directory that a faulty reader takes from the environment before the component's own variable.
pub(super) fn named() -> Option<PathBuf> {
    let old = broken("DIR-3.old-name-still-read") || broken("DIR-17.old-name-still-read");
    let others = broken("DIR-3.other-components-read") || broken("DIR-17.other-components-read");
    let hyphen = broken("DIR-3.hyphen-kept") || broken("DIR-17.hyphen-kept");
    let is_taken = |name: &str| {
        old && name == "LOCAL_DAEMON_STATE_DIR"
            || others && name.ends_with("_STATE_DIR") && name != "LOCAL_DAEMON_STATE_DIR"
            || hyphen && name == "DAEMONSPEC-SUBJECT_STATE_DIR"
            || broken("DIR-18.directory") && name == TOLD_DIRECTORY
    };
    let mut named = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_taken));
    named.find(|(_, value)| !value.is_empty()).map(|(_, value)| value.into())
}

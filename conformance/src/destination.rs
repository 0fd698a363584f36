//! Where a text goes that is written whole at the end of a command: to a file, to what is there and is no regular file, or
//! to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::wait::until;
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

/// The name of standard output.
pub const STDOUT: &str = "-";

/// Links that lead to links are followed so many times, as the system does.
const MOST_LINKS: usize = 40;

/// A reader of a FIFO may come so much later than the writer.
const READER: Duration = Duration::from_secs(3);

/// A text that cannot be written. Always exit status 3.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub struct Unwritable {
    path: PathBuf,
    source: io::Error,
}

/// A place that was seen to be writable.
#[derive(Debug)]
pub struct Destination {
    /// As given.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Stdout,
    /// A regular file or nothing, which is replaced whole; its path has no link at its end.
    Replaced(PathBuf),
    /// What is there, opened.
    Opened(File),
}

impl Destination {
    /// Makes sure that `path` can be written, and leaves what is there as it is.
    pub fn open(path: &Path) -> Result<Self, Unwritable> {
        let place = if path.as_os_str() == STDOUT { Ok(Place::Stdout) } else { find(path) };
        match place {
            Ok(place) => Ok(Self { path: path.to_owned(), place }),
            Err(source) => Err(Unwritable { path: path.to_owned(), source }),
        }
    }

    /// Whether the text goes to standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.place, Place::Stdout)
    }

    /// Writes the text: a regular file is replaced whole or not at all.
    pub fn write(self, text: &str) -> Result<(), Unwritable> {
        let written = match self.place {
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Place::Replaced(path) => replace(&path, text),
            Place::Opened(file) => overwrite(file, text),
        };
        written.map_err(|source| Unwritable { path: self.path, source })
    }
}

fn find(path: &Path) -> io::Result<Place> {
    let (path, descriptor) = followed(path)?;
    let there = match fs::metadata(&path) {
        Ok(there) if there.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    match there {
        Some(there) if descriptor || !there.is_file() => {
            open(&path, descriptor, there.file_type().is_fifo()).map(Place::Opened)
        }
        there => match next_to(&path) {
            Ok(_) => Ok(Place::Replaced(path)),
            // The directory takes no new file, and the file that is there may still be writable.
            Err(_) if there.is_some() => open(&path, false, false).map(Place::Opened),
            Err(error) => Err(error),
        },
    }
}

/// Returns where the links at the end of a path lead, and whether that is an open descriptor of some process, such as
/// `/dev/stdout`: what it names is written, and never replaced behind the back of others who write to it.
fn followed(path: &Path) -> io::Result<(PathBuf, bool)> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&path) else {
            return Ok((path, false));
        };
        if folder(&path).canonicalize()?.starts_with("/proc") {
            return Ok((path, true));
        }
        path = folder(&path).join(next);
    }
    Err(io::Error::from(rustix::io::Errno::LOOP))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens what is there. A FIFO is opened only while it has a reader.
fn open(path: &Path, append: bool, fifo: bool) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = || {
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        OpenOptions::new().write(true).append(append).custom_flags(flags).open(path)
    };
    let no_reader =
        |error: &io::Error| fifo && error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error());
    let opened = until(Instant::now() + READER, || match open() {
        Err(error) if no_reader(&error) => None,
        opened => Some(opened),
    });
    let file =
        opened.unwrap_or_else(|| Err(io::Error::other("it is a FIFO, and no process reads from it")))?;
    let waits = rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&file, waits)?;
    Ok(file)
}

/// A file that may take the place of the one at this path.
fn next_to(path: &Path) -> io::Result<NamedTempFile> {
    // Like any other file of the user's: the mask decides, not the privacy of temporary files.
    let mode = PermissionsExt::from_mode(0o666);
    tempfile::Builder::new()
        .prefix(".daemonspec-")
        .permissions(mode)
        .tempfile_in(folder(path))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = next_to(path)?;
    file.write_all(text.as_bytes())?;
    if let Ok(there) = fs::metadata(path) {
        file.as_file().set_permissions(there.permissions())?;
    }
    file.persist(path).map(drop).map_err(|error| error.error)
}

fn overwrite(mut file: File, text: &str) -> io::Result<()> {
    let appends = rustix::fs::fcntl_getfl(&file)?.contains(OFlags::APPEND);
    if file.metadata()?.is_file() && !appends {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use local_daemon_harness::platform::make_fifo;

    use super::*;

    fn write(path: &Path, text: &str) -> Result<(), Unwritable> {
        Destination::open(path)?.write(text)
    }

    #[test]
    fn a_link_is_followed_and_its_target_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, second, new] =
            ["real", "link", "second", "new"].map(|name| folder.path().join(name));
        fs::write(&real, "old").unwrap();
        symlink("real", &link).unwrap();
        symlink(&link, &second).unwrap();
        let mut reader = File::open(&real).unwrap();
        write(&second, "text").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "text");
        let mut before = String::new();
        reader.read_to_string(&mut before).unwrap();
        assert_eq!(before, "old", "the file was written in place");
        assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
        // Nothing is there yet.
        fs::remove_file(&real).unwrap();
        write(&link, "again").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "again");
        write(&new, "new").unwrap();
        symlink("round", folder.path().join("round")).unwrap();
        let fault = write(&folder.path().join("round"), "text").unwrap_err().to_string();
        assert!(fault.contains("round"), "{fault}");
        let names = fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 5, "a temporary file was left");
    }

    #[test]
    fn what_is_no_regular_file_is_written_and_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        make_fifo(&fifo).unwrap();
        let reading = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        write(&fifo, "text").unwrap();
        assert_eq!(reading.join().unwrap(), "text");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        let fault = write(&fifo, "text").unwrap_err().to_string();
        assert!(fault.contains("no process reads"), "{fault}");

        let null = folder.path().join("null");
        symlink("/dev/null", &null).unwrap();
        write(&null, "text").unwrap();
        assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
        let full = folder.path().join("full");
        symlink("/dev/full", &full).unwrap();
        assert!(write(&full, "text").unwrap_err().to_string().contains("No space left"));
        assert!(write(folder.path(), "text").unwrap_err().to_string().contains("directory"));
    }

    #[test]
    fn an_open_descriptor_is_written_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before ").unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        write(Path::new(&format!("/proc/self/fd/{descriptor}")), "text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before text");
    }
}

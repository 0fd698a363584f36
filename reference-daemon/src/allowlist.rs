//! The origins that may call: a list in `config.toml` that people and `locald origins` edit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use local_daemon::StateDir;
use local_daemon::perimeter::{Origin, Origins};
use local_daemon::state_directory::{CONFIG, FileError, FileErrorKind};
use toml_edit::{Array, DocumentMut, Item, Table, Value};

use crate::error::Error;

/// How many faults of one version of the file are reported.
const MAX_FAULTS: usize = 16;

/// The list as the running daemon knows it.
pub(crate) struct Allowlist {
    directory: StateDir,
    /// What the command line named.
    given: Vec<Origin>,
    known: Mutex<Known>,
    /// Is called with what is new of the file.
    report: Box<dyn Fn(News) + Send + Sync>,
}

/// What becomes known of the file while the daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// It was read again, since it had changed.
    Reloaded,
    /// A fault of it, once when it begins (LIFE-37, LIFE-40).
    Fault(String),
}

#[derive(Default)]
struct Known {
    /// Whether the file was looked at before.
    has_looked: bool,
    stamp: Option<Stamp>,
    origins: Origins,
    /// The faults of the file when it was last read.
    faults: Vec<String>,
}

/// What a file is known by again: a rename gives it another number, an edit in place another time.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::symlink_metadata(path).ok()?;
        Some(Self {
            file: (facts.dev(), facts.ino()),
            length: facts.len(),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

impl Allowlist {
    /// Creates the list of the origins in the file, and of `given` in addition; if there are none, no origin is admitted
    /// (PER-39).
    pub(crate) fn new(
        directory: StateDir,
        given: Vec<Origin>,
        report: impl Fn(News) + Send + Sync + 'static,
    ) -> Self {
        let origins = given.iter().cloned().collect();
        let known = Known { origins, ..Known::default() };
        Self { directory, given, known: Mutex::new(known), report: Box::new(report) }
    }

    /// The list of this moment: the file is read again whenever it is another one than before (PER-41).
    pub(crate) fn now(&self) -> Origins {
        let stamp = Stamp::of(&self.directory.file(CONFIG));
        // What is known is replaced whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.stamp != stamp {
            self.refresh(&mut known, stamp);
        }
        known.has_looked = true;
        known.origins.clone()
    }

    /// Reads the file, takes over its origins, and reports what is wrong with it.
    fn refresh(&self, known: &mut Known, stamp: Option<Stamp>) {
        let mut faults = Vec::new();
        let (read, is_trusted) = match listed(&self.directory) {
            Err(Error::StateDir(fault @ FileError { kind: FileErrorKind::Mode(_), .. })) => {
                faults.push(format!("{fault}; until then it can only remove origins from the list"));
                (entries(&self.directory, StateDir::read_of_any_mode), false)
            }
            read => (read, true),
        };
        match &read {
            Ok(entries) => {
                let mut origins = self.given.clone();
                for (entry, place) in entries.iter().zip(1..) {
                    match entry.parse::<Origin>() {
                        // PER-48: another user may have written the file.
                        Ok(origin) if is_trusted || known.origins.contains(entry) => origins.push(origin),
                        Ok(_) => {}
                        // PER-40. The entry itself is not repeated to the subscribers.
                        Err(why) => {
                            faults.push(format!("{CONFIG}: origin {place} of the list is refused: {why}"));
                        }
                    }
                }
                known.origins = origins.into_iter().collect();
                if known.has_looked {
                    (self.report)(News::Reloaded);
                }
            }
            Err(error) => {
                // The parser's further lines quote the file.
                let error = error.to_string();
                let error = error.lines().next().unwrap_or_default();
                faults.push(format!("{error}; the list of origins stays as it was"));
            }
        }
        // A file that the system failed to read is read again next time.
        if !matches!(read, Err(Error::StateDir(FileError { kind: FileErrorKind::Io(_), .. }))) {
            known.stamp = stamp;
        }
        faults.truncate(MAX_FAULTS);
        for fault in faults.iter().filter(|fault| !known.faults.contains(fault)) {
            (self.report)(News::Fault(fault.clone()));
        }
        known.faults = faults;
    }
}

/// The entries of the file as they stand there; none where there is no file.
pub(crate) fn listed(directory: &StateDir) -> Result<Vec<String>, Error> {
    entries(directory, StateDir::read)
}

fn entries(directory: &StateDir, read_file: ReadFile) -> Result<Vec<String>, Error> {
    let mut document = read(directory, read_file)?;
    let Some(allow) = allow(&mut document, directory)? else {
        return Ok(Vec::new());
    };
    Ok(allow.iter().map(text).collect())
}

fn text(entry: &Value) -> String {
    entry.as_str().map_or_else(|| entry.to_string().trim().to_owned(), str::to_owned)
}

/// Puts an origin on the list; `false`: it is there already.
pub(crate) fn add(directory: &StateDir, origin: &Origin) -> Result<bool, Error> {
    directory.create()?;
    edit(directory, |allow| {
        let is_new = !allow.iter().any(|entry| text(entry) == origin.as_str());
        if is_new {
            allow.push(origin.as_str());
        }
        is_new
    })
}

/// Takes an entry off the list, whatever it is; `false`: it is not there.
pub(crate) fn remove(directory: &StateDir, entry: &str) -> Result<bool, Error> {
    if !directory.check()? {
        return Ok(false);
    }
    edit(directory, |allow| {
        let before = allow.len();
        allow.retain(|listed| text(listed) != entry);
        allow.len() < before
    })
}

/// Changes the list, and leaves everything else in the file as its owner wrote it.
fn edit(directory: &StateDir, change: impl FnOnce(&mut Array) -> bool) -> Result<bool, Error> {
    let io = |doing| {
        let path = directory.path().to_owned();
        move |source| Error::Io { path, doing, source }
    };
    // Two commands at once take turns, so that neither loses what the other wrote.
    let turn = fs::File::open(directory.path()).map_err(io("opening it"))?;
    turn.lock().map_err(io("waiting for another command"))?;
    let mut document = read(directory, StateDir::read)?;
    if allow(&mut document, directory)?.is_none() {
        let origins = document.entry("origins").or_insert(Item::Table(Table::new()));
        // A table without `allow`, or the one that was just made.
        origins["allow"] = Item::Value(Array::new().into());
    }
    let changed = allow(&mut document, directory)?.is_some_and(change);
    if changed {
        directory.replace(CONFIG, document.to_string().as_bytes())?;
    }
    Ok(changed)
}

/// How a file of the directory is read.
type ReadFile = fn(&StateDir, &str) -> Result<Option<Vec<u8>>, FileError>;

fn read(directory: &StateDir, read_file: ReadFile) -> Result<DocumentMut, Error> {
    let text = read_file(directory, CONFIG)?.unwrap_or_default();
    let text = String::from_utf8(text).map_err(|error| broken(directory, &error))?;
    text.parse::<DocumentMut>().map_err(|error| broken(directory, &error))
}

fn broken(directory: &StateDir, why: &dyn std::fmt::Display) -> Error {
    Error::Config { path: config(directory), why: why.to_string().trim().to_owned() }
}

fn config(directory: &StateDir) -> PathBuf {
    directory.file(CONFIG)
}

/// `[origins] allow`, where it is there.
fn allow<'a>(document: &'a mut DocumentMut, directory: &StateDir) -> Result<Option<&'a mut Array>, Error> {
    let Some(origins) = document.get_mut("origins") else {
        return Ok(None);
    };
    let Some(origins) = origins.as_table_like_mut() else {
        return Err(broken(directory, &"`origins` is not a table"));
    };
    match origins.get_mut("allow") {
        None => Ok(None),
        Some(allow) => match allow.as_array_mut() {
            Some(allow) => Ok(Some(allow)),
            None => Err(broken(directory, &"`origins.allow` is not a list")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::mpsc::{self, Receiver};

    use local_daemon::StateDir;
    use local_daemon::perimeter::Origin;
    use local_daemon::state_directory::CONFIG;
    use tempfile::TempDir;

    use super::{Allowlist, News, add, listed, remove};

    fn directory() -> (TempDir, StateDir) {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let directory = StateDir::at(dir.path());
        (dir, directory)
    }

    /// A list, and the faults that it reports.
    fn watched(directory: &StateDir, given: Vec<Origin>) -> (Allowlist, Receiver<String>) {
        let (sender, reported) = mpsc::channel();
        let report = move |news| {
            if let News::Fault(fault) = news {
                sender.send(fault).unwrap();
            }
        };
        (Allowlist::new(directory.clone(), given, report), reported)
    }

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    fn write(directory: &StateDir, text: &str) {
        directory.replace(CONFIG, text.as_bytes()).unwrap();
    }

    #[test]
    fn a_change_leaves_the_rest_of_the_file_as_it_was() {
        let (_dir, directory) = directory();
        let text = "# mine\nidle = 3 # seconds\n\n[origins]\n# the app\nallow = [\"https://a.example\"]\n\n[[endpoints]]\nname = \"db\"\n";
        write(&directory, text);
        assert!(add(&directory, &origin("http://127.0.0.1:5173")).unwrap());
        assert!(!add(&directory, &origin("https://a.example")).unwrap());
        let file = || fs::read_to_string(directory.file(CONFIG)).unwrap();
        assert_eq!(file(), text.replace("example\"]", "example\", \"http://127.0.0.1:5173\"]"));
        assert!(remove(&directory, "http://127.0.0.1:5173").unwrap());
        assert!(!remove(&directory, "http://127.0.0.1:5173").unwrap());
        assert_eq!(file(), text);
        let mode = fs::metadata(directory.file(CONFIG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_list_begins_without_a_file_without_a_table_and_without_a_list() {
        for text in [None, Some(""), Some("[origins]\n"), Some("origins = {}\n")] {
            let (_dir, directory) = directory();
            if let Some(text) = text {
                write(&directory, text);
            }
            assert!(add(&directory, &origin("https://a.example")).unwrap(), "{text:?}");
            assert_eq!(listed(&directory).unwrap(), ["https://a.example"], "{text:?}");
        }
    }

    #[test]
    fn a_bad_entry_admits_nothing_and_can_be_taken_off() {
        let (_dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"*\", \"https://a.example\", 7]\n");
        let (allowlist, reported) = watched(&directory, vec![origin("https://given.example")]);
        let now: Vec<String> = allowlist.now().iter().map(ToString::to_string).collect();
        assert_eq!(now, ["https://a.example", "https://given.example"]);
        let faults = reported.try_iter().collect::<Vec<_>>();
        assert!(
            faults.len() == 2 && faults[0].contains("origin 1") && faults[1].contains("origin 3"),
            "{faults:?}"
        );
        write(&directory, "[origins]\nallow = [\"*\", \"https://b.example\", 7]\n");
        assert!(allowlist.now().contains("https://b.example"));
        assert_eq!(reported.try_recv().ok(), None, "each is reported once");
        assert!(remove(&directory, "*").unwrap() && remove(&directory, "7").unwrap());
        assert_eq!(listed(&directory).unwrap(), ["https://b.example"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_changes_nothing() {
        let (_dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"https://a.example\"]\n");
        let (allowlist, reported) = watched(&directory, Vec::new());
        let before = allowlist.now();
        for broken in [
            "[origins",
            "origins = 1",
            "[origins]\nallow = \"https://b.example\"",
        ] {
            write(&directory, broken);
            assert_eq!(allowlist.now(), before, "{broken}");
            let faults = reported.try_iter().collect::<Vec<_>>();
            assert!(
                faults.len() == 1 && faults[0].contains(CONFIG) && !faults[0].contains('\n'),
                "{faults:?}"
            );
            assert!(add(&directory, &origin("https://c.example")).is_err());
        }
        fs::remove_file(directory.file(CONFIG)).unwrap();
        assert_eq!(allowlist.now().iter().count(), 0);
    }

    #[test]
    fn a_file_that_is_read_again_is_news() {
        let (_dir, directory) = directory();
        let (sender, reported) = mpsc::channel();
        let report = move |news| sender.send(news).unwrap();
        write(&directory, "[origins]\nallow = []\n");
        let allowlist = Allowlist::new(directory.clone(), Vec::new(), report);
        let news = || {
            allowlist.now();
            allowlist.now();
            reported.try_iter().collect::<Vec<_>>()
        };
        assert_eq!(news(), [], "the first look is none");
        write(&directory, "[origins]\nallow = ['https://a.example']\n");
        assert_eq!(news(), [News::Reloaded]);
        write(&directory, "[origins");
        assert!(matches!(&news()[..], [News::Fault(_)]), "it keeps what it has");
        fs::remove_file(directory.file(CONFIG)).unwrap();
        assert_eq!(news(), [News::Reloaded]);
    }

    #[test]
    fn an_edit_in_place_is_seen_too() {
        let (_dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"https://a.example\"]\n");
        let (allowlist, _) = watched(&directory, Vec::new());
        assert!(allowlist.now().contains("https://a.example"));
        let text = "[origins]\nallow = [\"https://a.example\", \"https://b.example\"]\n";
        fs::write(directory.file(CONFIG), text).unwrap();
        assert!(allowlist.now().contains("https://b.example"));
    }

    /// PER-48, LIFE-37.
    #[test]
    fn a_file_that_others_may_write_removes_origins_and_adds_none() {
        let (_dir, directory) = directory();
        let list = |origins: &str| format!("[origins]\nallow = [{origins}]\n");
        let file = directory.file(CONFIG);
        let set = |origins: &str, mode| {
            fs::write(&file, list(origins)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        write(&directory, &list("'https://a.example', 'https://b.example'"));
        let (allowlist, reported) = watched(&directory, vec![origin("https://given.example")]);
        let now = || allowlist.now().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(now(), ["https://a.example", "https://b.example", "https://given.example"]);
        set("'https://b.example', 'https://c.example'", 0o644);
        assert_eq!(now(), ["https://b.example", "https://given.example"]);
        let fault = reported.try_recv().unwrap();
        assert!(fault.contains(CONFIG) && fault.contains("0644"), "{fault}");
        set("'https://a.example', 'https://b.example'", 0o644);
        assert_eq!(now(), ["https://b.example", "https://given.example"], "a removed origin stays removed");
        assert_eq!(reported.try_recv().ok(), None, "the fault is the one that was reported");
        set("'https://a.example'", 0o600);
        assert_eq!(now(), ["https://a.example", "https://given.example"]);
        set("'https://a.example'", 0o640);
        assert_eq!((now().len(), reported.try_iter().count()), (2, 1), "it began again");
        set("[", 0o640);
        assert_eq!((now().len(), reported.try_iter().count()), (2, 1), "a malformed file changes nothing");
    }

    /// Neither is followed or read.
    #[test]
    fn a_link_or_a_directory_changes_nothing() {
        let (dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"https://a.example\"]\n");
        let (allowlist, reported) = watched(&directory, Vec::new());
        let before = allowlist.now();
        let (file, elsewhere) = (directory.file(CONFIG), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "").unwrap();
        fs::remove_file(&file).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert_eq!(allowlist.now(), before);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(allowlist.now(), before);
        assert_eq!(reported.try_iter().count(), 2);
    }
}

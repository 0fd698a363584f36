//! The origins that may call: a list in `config.toml` that people and `locald origins` edit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use local_daemon::StateDir;
use local_daemon::perimeter::{Origin, Origins};
use local_daemon::state_directory::CONFIG;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

use crate::error::Error;

/// The list as the running daemon knows it.
pub(crate) struct Allowlist {
    directory: StateDir,
    /// What the command line named.
    given: Vec<Origin>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    origins: Origins,
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
    /// What the file says, and `given` beside it (PER-39: where nobody says anything, nobody is admitted).
    pub(crate) fn new(directory: StateDir, given: Vec<Origin>) -> Self {
        let known = Known { stamp: None, origins: given.iter().cloned().collect() };
        Self { directory, given, known: Mutex::new(known) }
    }

    /// The list of this moment: the file is read again whenever it is another one than before (PER-41).
    pub(crate) fn now(&self) -> Origins {
        let stamp = Stamp::of(&self.directory.file(CONFIG));
        // What is known is replaced whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.stamp != stamp {
            known.stamp = stamp;
            match listed(&self.directory) {
                Ok(entries) => {
                    let listed = entries.iter().filter_map(|entry| {
                        // PER-40
                        let refused =
                            |error| tracing::warn!(entry, %error, "an origin in {CONFIG} is refused");
                        entry.parse::<Origin>().map_err(refused).ok()
                    });
                    known.origins = listed.chain(self.given.iter().cloned()).collect();
                }
                Err(error) => tracing::warn!(%error, "the list of origins stays as it was"),
            }
        }
        known.origins.clone()
    }
}

/// The entries of the file as they stand there; none where there is no file.
pub(crate) fn listed(directory: &StateDir) -> Result<Vec<String>, Error> {
    let mut document = read(directory)?;
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
    let mut document = read(directory)?;
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

fn read(directory: &StateDir) -> Result<DocumentMut, Error> {
    let text = directory.read(CONFIG)?.unwrap_or_default();
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
    use std::os::unix::fs::PermissionsExt;

    use local_daemon::StateDir;
    use local_daemon::perimeter::Origin;
    use local_daemon::state_directory::CONFIG;
    use tempfile::TempDir;

    use super::{Allowlist, add, listed, remove};

    fn directory() -> (TempDir, StateDir) {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let directory = StateDir::at(dir.path());
        (dir, directory)
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
        let allowlist = Allowlist::new(directory.clone(), vec![origin("https://given.example")]);
        let now: Vec<String> = allowlist.now().iter().map(ToString::to_string).collect();
        assert_eq!(now, ["https://a.example", "https://given.example"]);
        assert!(remove(&directory, "*").unwrap() && remove(&directory, "7").unwrap());
        assert_eq!(listed(&directory).unwrap(), ["https://a.example"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_changes_nothing() {
        let (_dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"https://a.example\"]\n");
        let allowlist = Allowlist::new(directory.clone(), Vec::new());
        let before = allowlist.now();
        for broken in [
            "[origins",
            "origins = 1",
            "[origins]\nallow = \"https://b.example\"",
        ] {
            write(&directory, broken);
            assert_eq!(allowlist.now(), before, "{broken}");
            assert!(add(&directory, &origin("https://c.example")).is_err());
        }
        fs::remove_file(directory.file(CONFIG)).unwrap();
        assert_eq!(allowlist.now().iter().count(), 0);
    }

    #[test]
    fn an_edit_in_place_is_seen_too() {
        let (_dir, directory) = directory();
        write(&directory, "[origins]\nallow = [\"https://a.example\"]\n");
        let allowlist = Allowlist::new(directory.clone(), Vec::new());
        assert!(allowlist.now().contains("https://a.example"));
        let text = "[origins]\nallow = [\"https://a.example\", \"https://b.example\"]\n";
        fs::write(directory.file(CONFIG), text).unwrap();
        assert!(allowlist.now().contains("https://b.example"));
    }
}

//! Every input that is checked in, and every seed, given to its target without libFuzzer: a finding that was mended stays so.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use local_daemon_fuzz::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder with their names, in order; none where there is no such folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).expect("it can be read"));
    paths.into_iter().map(read).collect()
}

#[test]
fn every_input_is_replayed() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let name = target.name;
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let corpus = files(&folder("corpus").join(name));
        assert!(!corpus.is_empty(), "{name} has no corpus");
        let cases = files(&folder("cases").join(name));
        for (input, bytes) in seeds.into_iter().chain(corpus).chain(cases) {
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                failed.push(format!("{name}: {input}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn what_is_checked_in_belongs_to_a_target_and_is_small() {
    let mut bytes = 0;
    for kind in ["corpus", "cases"] {
        for entry in fs::read_dir(folder(kind)).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(TARGETS.iter().any(|target| target.name == name), "{} is of no target", path.display());
            bytes += files(&path).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        }
    }
    assert!(bytes < 5 * 1024 * 1024, "{bytes} bytes");
    for target in TARGETS {
        let dictionary = folder("dictionaries").join(format!("{}.dict", target.name));
        assert!(dictionary.is_file(), "{} has no dictionary", target.name);
        assert!(
            folder("fuzz_targets").join(format!("{}.rs", target.name)).is_file(),
            "{} has no program",
            target.name
        );
    }
}

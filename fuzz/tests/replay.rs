//! Every input that is checked in, and every seed, given to its target without libFuzzer: a finding that was mended stays so.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

use local_daemon_fuzz::{TARGETS, Target};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder with their names, in order; none if there is no such folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
    let read = |path: PathBuf| (name(&path), fs::read(&path).expect("it can be read"));
    paths.into_iter().map(read).collect()
}

/// The inputs in the archive of a target's corpus.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let archive = folder("corpus").join(format!("{target}.tar.gz"));
    let unpacked = tempfile::tempdir().expect("a folder can be made");
    let mut tar = Command::new("tar");
    let status = tar.arg("-xzf").arg(&archive).arg("-C").arg(unpacked.path()).status();
    assert!(status.is_ok_and(|status| status.success()), "tar cannot unpack {}", archive.display());
    let inputs = files(unpacked.path());
    assert!(!inputs.is_empty(), "{} is empty", archive.display());
    inputs
}

#[test]
fn every_input_is_replayed() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let name = target.name;
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let cases = files(&folder("cases").join(name));
        for (input, bytes) in seeds.into_iter().chain(corpus(name)).chain(cases) {
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                failed.push(format!("{name}: {input}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn what_is_checked_in_belongs_to_a_target_and_is_small() {
    for (kind, suffix) in [("corpus", ".tar.gz"), ("cases", "")] {
        for entry in fs::read_dir(folder(kind)).expect("the folder is there") {
            let name = entry.expect("it can be listed").file_name();
            let target = name.to_str().and_then(|name| name.strip_suffix(suffix));
            let known = TARGETS.iter().any(|known| target == Some(known.name));
            assert!(known, "{kind}/{} belongs to no target", name.display());
        }
    }
    let inputs =
        |target: &Target| corpus(target.name).into_iter().chain(files(&folder("cases").join(target.name)));
    let bytes: usize = TARGETS.iter().flat_map(inputs).map(|(_, bytes)| bytes.len()).sum();
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

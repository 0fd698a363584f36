//! Checked before it is trusted: the directory, then the credential in it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use local_daemon_harness::files::{EntryKind, Facts, Snapshot, make_private, set_mode};
use local_daemon_harness::platform;
use local_daemon_harness::record;

use crate::case::case;
use crate::fixtures::refused_start::{
    between_good_starts, files_unchanged, refused, refused_as_it_is, sibling, unchanged,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{Stage, Start};

/// Every single group and other bit, what a usual umask leaves of a file, and all of them.
const LOOSE: [u32; 8] = [0o001, 0o002, 0o004, 0o010, 0o020, 0o040, 0o044, 0o077];

/// A daemon is started with a symbolic link in the place of the state directory: to a good state directory,
/// and to nothing.
#[case("DIR-6", "DIR-10", "DIR-11")]
fn symlink_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (good, link, dangling) =
            (stage.state_dir().to_owned(), sibling(stage, "link"), sibling(stage, "dangling"));
        let nothing = sibling(stage, "nothing");
        symlink(&good, &link)?;
        symlink(&nothing, &dangling)?;
        let before = Snapshot::of(&good)?;
        for (what, path) in [
            ("a link to a good state directory", &link),
            ("a link to nothing", &dangling),
        ] {
            refused(stage, what, Start::new().state_dir(path), path)?;
            unchanged(what, &good, &before)?;
            ensure!(!nothing.exists(), "{what}: its target was created");
            let kind = Facts::of(path)?.kind;
            ensure!(kind == EntryKind::Link, "{what}: it became a {kind}", kind = in_words(&kind));
        }
        Ok(())
    })
}

/// A daemon is started with a symbolic link to a good state directory, and the path ends with a slash, as a
/// shell completes it: to the system this means what the link leads to, to the user it is the same path.
#[case("DIR-6", "DIR-10", "DIR-11")]
fn symlink_with_a_slash_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (good, link) = (stage.state_dir().to_owned(), sibling(stage, "link"));
        symlink(&good, &link)?;
        let before = Snapshot::of(&good)?;
        let slash = format!("{}/", link.display());
        refused(stage, "a link and a slash", Start::new().state_dir(slash), &link)?;
        unchanged("a link and a slash", &good, &before)
    })
}

/// A daemon is started with a regular file and with a FIFO in the place of the state directory.
#[case("DIR-6", "DIR-10", "DIR-11")]
fn no_directory_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (file, fifo) = (sibling(stage, "file"), sibling(stage, "fifo"));
        record::write_new(&file, b"not a directory\n", 0o600)?;
        platform::make_fifo(&fifo)?;
        for (what, path) in [("a regular file", &file), ("a FIFO", &fifo)] {
            let before = Facts::of(path)?;
            refused(stage, what, Start::new().state_dir(path), path)?;
            let after = Facts::of(path)?;
            ensure!(before == after, "{what}: was {before} and is {after}");
        }
        ensure!(fs::read(&file)? == b"not a directory\n", "the regular file was written to");
        Ok(())
    })
}

/// A daemon that runs as root is started with a state directory, and then with a credential, of the user
/// nobody.
#[case("DIR-7", "DIR-10", "DIR-11")]
fn foreign_owner_refused(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        for (what, path) in [
            ("a state directory of nobody", stage.state_dir().to_owned()),
            ("a credential of nobody", stage.credential_path()),
        ] {
            chown(&path, Some(nobody.uid), Some(nobody.gid))?;
            let before = Snapshot::of(stage.state_dir())?;
            refused(stage, what, Start::new(), &path)?;
            let state_dir = stage.state_dir().to_owned();
            if path == state_dir {
                unchanged(what, &state_dir, &before)?;
            }
            files_unchanged(stage, what, &before)?;
            chown(&path, Some(platform::uid()), None)?;
        }
        Ok(())
    })
}

/// A daemon is started with a state directory that has one of the six group and other permission bits, or
/// several. It does not mend the mode in silence either.
#[case("DIR-8", "DIR-10", "DIR-11")]
fn loose_mode_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let path = stage.state_dir().to_owned();
        for bits in LOOSE {
            let what = format!("a state directory of mode {:04o}", 0o700 | bits);
            set_mode(&path, 0o700 | bits)?;
            let before = Snapshot::of(&path)?;
            refused(stage, &what, Start::new(), &path)?;
            unchanged(&what, &path, &before)?;
        }
        set_mode(&path, 0o700)?;
        Ok(())
    })
}

/// A daemon is started with a symbolic link in the place of the credential: to a good credential elsewhere,
/// and to a name at which nothing is.
#[case("DIR-6", "DIR-10", "DIR-11")]
fn credential_symlink_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (path, elsewhere, nothing) =
            (stage.credential_path(), sibling(stage, "elsewhere"), sibling(stage, "nothing"));
        fs::rename(&path, &elsewhere)?;
        let content = fs::read(&elsewhere)?;
        for (what, target) in [
            ("a link to a good credential", &elsewhere),
            ("a link to nothing", &nothing),
        ] {
            symlink(target, &path)?;
            let before = Snapshot::of(stage.state_dir())?;
            refused(stage, what, Start::new(), &path)?;
            files_unchanged(stage, what, &before)?;
            ensure!(!nothing.exists(), "{what}: its target was created");
            ensure!(fs::read(&elsewhere)? == content, "{what}: its target was written to");
            fs::remove_file(&path)?;
        }
        fs::rename(&elsewhere, &path)?;
        Ok(())
    })
}

/// A daemon is started with a FIFO, a directory and a socket in the place of the credential. Opening the FIFO
/// must not hang.
#[case("DIR-6", "DIR-10", "DIR-11")]
fn credential_no_file_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (path, good) = (stage.credential_path(), sibling(stage, "good"));
        fs::rename(&path, &good)?;
        platform::make_fifo(&path)?;
        refused_as_it_is(stage, "a FIFO", &path)?;
        fs::remove_file(&path)?;
        make_private(&path)?;
        refused_as_it_is(stage, "a directory", &path)?;
        fs::remove_dir(&path)?;
        let socket = UnixListener::bind(&path)?;
        set_mode(&path, 0o600)?;
        refused_as_it_is(stage, "a socket", &path)?;
        drop(socket);
        fs::remove_file(&path)?;
        fs::rename(&good, &path)?;
        Ok(())
    })
}

/// A daemon is started with a good credential that has one of the six group and other permission bits, or
/// several. It does not mend the mode in silence either.
#[case("DIR-8", "DIR-10", "DIR-11")]
fn credential_loose_mode_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let path = stage.credential_path();
        for bits in LOOSE {
            set_mode(&path, 0o600 | bits)?;
            refused_as_it_is(stage, &format!("a credential of mode {:04o}", 0o600 | bits), &path)?;
        }
        set_mode(&path, 0o600)?;
        Ok(())
    })
}

/// A daemon is started with a credential file that begins well and goes on beyond 64 KiB, up to 1 MiB.
#[case("DIR-9", "DIR-10", "DIR-11")]
fn oversized_credential_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, live| {
        let (path, good) = (stage.credential_path(), sibling(stage, "good"));
        fs::rename(&path, &good)?;
        // The file begins as a good one: whoever reads only a beginning and never asks for the size accepts it.
        record::write_new(&path, format!("{}\n", live.credential.text()).as_bytes(), 0o600)?;
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        for size in [64 * 1024 + 1, 1024 * 1024] {
            file.set_len(size)?;
            refused_as_it_is(stage, &format!("a credential of {size} bytes"), &path)?;
        }
        fs::rename(&good, &path)?;
        Ok(())
    })
}

/// A daemon is started with one fault of the state directory or the credential after the other. Each error names the path, and
/// what it says of the kind of the file, of its mode and of its content differs: such an error cannot name the fault.
#[case("DIR-11")]
fn refusals_name_the_fault(stage: &mut Stage) -> Outcome {
    stage.expect("errors that name the path, and the fault: not the same for a wrong kind, a loose mode and damaged content");
    between_good_starts(stage, |stage, _| {
        let (state_dir, good) = (stage.state_dir().to_owned(), sibling(stage, "good"));
        let mut directory = Vec::new();
        let (link, file) = (sibling(stage, "link"), sibling(stage, "file"));
        symlink(&state_dir, &link)?;
        record::write_new(&file, b"", 0o600)?;
        for (what, path) in [("a wrong kind", &link), ("a wrong kind", &file)] {
            let said = refused(stage, what, Start::new().state_dir(path), path)?;
            directory.push((what, beyond(&said, path)));
        }
        set_mode(&state_dir, 0o755)?;
        let said = refused(stage, "a loose mode", Start::new(), &state_dir)?;
        directory.push(("a loose mode", beyond(&said, &state_dir)));
        set_mode(&state_dir, 0o700)?;
        faults_named(stage, "the state directory", &directory)?;

        let mut credential = Vec::new();
        let path = stage.credential_path();
        set_mode(&path, 0o644)?;
        let said = refused_as_it_is(stage, "a loose mode", &path)?;
        credential.push(("a loose mode", beyond(&said, &path)));
        set_mode(&path, 0o600)?;
        fs::rename(&path, &good)?;
        symlink(&good, &path)?;
        let said = refused_as_it_is(stage, "a symbolic link", &path)?;
        credential.push(("a wrong kind", beyond(&said, &path)));
        fs::remove_file(&path)?;
        make_private(&path)?;
        let said = refused_as_it_is(stage, "no regular file", &path)?;
        credential.push(("a wrong kind", beyond(&said, &path)));
        fs::remove_dir(&path)?;
        record::write_new(&path, b"cut\n", 0o600)?;
        let said = refused_as_it_is(stage, "a damaged text", &path)?;
        credential.push(("a damaged text", beyond(&said, &path)));
        fs::rename(&good, &path)?;
        faults_named(stage, "the credential", &credential)
    })
}

/// An error without the path that it names, and without what differs from launch to launch.
fn beyond(said: &str, path: &Path) -> String {
    let said = said.replace(&*path.to_string_lossy(), "");
    said.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().trim().to_owned()
}

fn faults_named(stage: &mut Stage, of: &str, errors: &[(&str, String)]) -> Outcome {
    for (place, (fault, error)) in errors.iter().enumerate() {
        // One sentence may name several kinds that a file must not be of.
        let same = errors[..place].iter().find(|(other, said)| said == error && other != fault);
        if let Some((other, _)) = same {
            return fail(format!("{of}: {fault} and {other} are reported alike: {error}"));
        }
    }
    stage.observed(format!("{of}: {} errors, which name the fault", errors.len()));
    Ok(())
}

/// A daemon is started with a state directory that cannot be created: below a regular file, below /proc, and,
/// where the suite is not root, in a directory that it may not write (watchman#543).
#[case("DIR-12", "DIR-11")]
fn unwritable_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, and an error that names the path");
    between_good_starts(stage, |stage, _| {
        let file = sibling(stage, "file");
        record::write_new(&file, b"", 0o600)?;
        for (what, path) in [
            ("a state directory below a regular file", file.join("state")),
            ("a state directory below /proc", PathBuf::from("/proc/local-daemon-state")),
        ] {
            refused(stage, what, Start::new().state_dir(&path), &path)?;
        }
        if !platform::is_root() {
            let path = sibling(stage, "read-only");
            fs::DirBuilder::new().mode(0o500).create(&path)?;
            refused(stage, "a state directory of mode 0500", Start::new().state_dir(&path), &path)?;
        }
        Ok(())
    })
}

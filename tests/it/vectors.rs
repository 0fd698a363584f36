//! The state directory is read as `spec/vectors/permissions` says. The other vectors are those of `proto/`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use local_daemon::StateDir;
use local_daemon::registration::RecordRead;
use local_daemon::state_directory::FileErrorKind;
use local_daemon_spec::vectors::{cases, text};
use serde_json::Value;

/// Makes what a permission case describes. `None`: this user cannot make it.
fn arrange(path: &Path, case: &Value, content: &[u8]) -> Option<()> {
    let target = path.with_extension("target");
    let content = || {
        let size = case
            .get("size")
            .and_then(Value::as_u64)
            .map_or(content.len(), |size| usize::try_from(size).unwrap());
        let mut content = content.to_vec();
        content.resize(size.max(content.len()), b' ');
        content
    };
    match text(case, "type") {
        "file" => fs::write(path, content()).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "fifo" => {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        }
        "symlink" if text(case, "object") == "directory" => {
            fs::create_dir(&target).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
            symlink(&target, path).unwrap();
            return Some(());
        }
        "symlink" => {
            fs::write(&target, content()).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
            symlink(&target, path).unwrap();
            return Some(());
        }
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        // Devices and the like.
        _ => return None,
    }
    let mode = u32::from_str_radix(text(case, "mode"), 8).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if text(case, "owner") == "other" {
        std::os::unix::fs::chown(path, Some(65534), None).ok()?;
    }
    Some(())
}

/// Returns whether the state directory, the record or the credential of a case is read, or `None` if this user cannot
/// create it.
fn is_read(case: &Value) -> Option<bool> {
    let record = br#"{"id":"5f0c2a9be17d4836a1c04f9d2e6b8370","version":"1","url":"http://127.0.0.1:49152","pid":4242}"#;
    let secret = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n";
    let home = tempfile::tempdir().unwrap();
    let object = text(case, "object");
    if object == "directory" {
        let path = home.path().join("state");
        arrange(&path, case, b"")?;
        return Some(StateDir::at(&path).check().is_ok_and(|there| there));
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let state_dir = StateDir::at(home.path());
    let name = if object == "record" { "registration.json" } else { "credential" };
    let content: &[u8] = if object == "record" { record } else { secret };
    arrange(&home.path().join(name), case, content)?;
    Some(if object == "record" {
        !matches!(state_dir.read_record().0, RecordRead::Unreadable)
    } else {
        // What a file of the right kind holds is judged elsewhere.
        match state_dir.read_credential() {
            Ok(found) => found.is_some(),
            Err(fault) => matches!(fault.kind, FileErrorKind::Credential(_)),
        }
    })
}

#[test]
fn permissions() {
    let cases = cases("permissions");
    assert!(!cases.is_empty());
    let wrong: Vec<_> = cases
        .iter()
        .filter(|case| is_read(case).is_some_and(|read| read != case["accept"].as_bool().unwrap()))
        .map(|case| format!("{}: {}", text(case, "name"), text(case, "why")))
        .collect();
    assert!(wrong.is_empty(), "decided otherwise than permissions:\n{}", wrong.join("\n"));
}

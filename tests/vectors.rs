//! The crate's readers decide as `spec/vectors/` says; each test walks one file.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use local_daemon::claim::Sight;
use local_daemon::handshake::{self, Nonce};
use local_daemon::state_directory::Refused;
use local_daemon::{Credential, LoopbackUrl, Protocol, Registration, StateDir};
use local_daemon_spec::vectors::{bytes, cases, text};
use serde_json::Value;

/// The cases of a vector file; fails on an empty one, so that no test passes by reading nothing.
/// Runs `decide` on the cases of `kind` (all, where there are no kinds) and reports every wrong decision at once.
fn walk(file: &str, kind: Option<&str>, decide: impl Fn(&Value) -> bool) {
    let mut walked = 0;
    let wrong: Vec<_> = cases(file)
        .into_iter()
        .filter(|case| kind.is_none_or(|kind| text(case, "kind") == kind))
        .inspect(|_| walked += 1)
        .filter(|case| decide(case) != case["accept"].as_bool().unwrap())
        .map(|case| format!("{}: {}", text(&case, "name"), text(&case, "why")))
        .collect();
    assert!(walked > 0, "no case of kind {kind:?} in {file}");
    assert!(wrong.is_empty(), "decided otherwise than {file}:\n{}", wrong.join("\n"));
}

#[test]
fn records() {
    walk("records", None, |case| Registration::parse(&bytes(case, "input")).is_ok());
}

#[test]
fn urls() {
    walk("urls", None, |case| match text(case, "input").parse::<LoopbackUrl>() {
        Ok(url) => {
            assert_eq!(url.to_string(), text(case, "input"), "written as it was read");
            assert_eq!(url.authority(), text(case, "authority"));
            true
        }
        Err(_) => false,
    });
}

#[test]
fn credentials() {
    walk("credentials", None, |case| {
        let bytes = bytes(case, "input");
        // The bound is the file's, not the text's.
        bytes.len() <= local_daemon::registration::MAX_BYTES && Credential::parse(&bytes).is_ok()
    });
}

#[test]
fn protocol_identifiers() {
    walk("protocols", Some("identifier"), |case| text(case, "input").parse::<Protocol>().is_ok());
}

#[test]
fn gate() {
    walk("protocols", Some("gate"), |case| {
        let ours: Protocol = text(case, "ours").parse().unwrap();
        let theirs: Protocol = text(case, "theirs").parse().unwrap();
        let may = case["may_displace"].as_bool().unwrap();
        assert_eq!(ours.may_displace(&theirs), may, "{}", text(case, "name"));
        ours.accepts(&theirs)
    });
}

fn nonce(case: &Value) -> Nonce {
    // Any valid header text brings a nonce in: the type has no other way from text.
    let header = format!("Local-Daemon-Proof nonce=\"{0}\", mac=\"{0}\"", text(case, "nonce"));
    handshake::parse_authorization(&header).expect("the vector's nonce is one").0
}

fn credential(case: &Value) -> Credential {
    Credential::parse(text(case, "credential").as_bytes()).unwrap()
}

fn daemon_header(case: &Value) -> String {
    handshake::answer(handshake::daemon_code(
        &credential(case),
        text(case, "authority"),
        nonce(case),
        &bytes(case, "body"),
    ))
}

fn client_header(case: &Value) -> String {
    let code = handshake::client_code(&credential(case), text(case, "authority"), nonce(case));
    handshake::authorization(nonce(case), code)
}

#[test]
fn proof_codes() {
    walk("proof", Some("mac"), |case| {
        assert_eq!(daemon_header(case), format!("\"{}\"", text(case, "daemon_mac")));
        let expected = format!(
            "Local-Daemon-Proof nonce=\"{}\", mac=\"{}\"",
            text(case, "nonce"),
            text(case, "client_mac")
        );
        assert_eq!(client_header(case), expected);
        true
    });
    walk("proof", Some("verify-client"), |case| {
        client_header(case).ends_with(&format!("mac=\"{}\"", text(case, "mac")))
    });
    walk("proof", Some("verify-daemon"), |case| daemon_header(case) == format!("\"{}\"", text(case, "mac")));
}

#[test]
fn proof_headers() {
    walk("proof", Some("authorization"), |case| {
        handshake::parse_authorization(text(case, "input")).is_some()
    });
    walk("proof", Some("answer"), |case| {
        // More than one header is the exchange's business: it gives none of them to the parser.
        let values = case["values"].as_array().unwrap();
        values.len() == 1 && handshake::parse_answer(values[0].as_str().unwrap()).is_some()
    });
}

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

#[test]
fn permissions() {
    let record = br#"{"id":"5f0c2a9be17d4836a1c04f9d2e6b8370","version":"1","url":"http://127.0.0.1:49152","pid":4242}"#;
    let secret = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n";
    walk("permissions", None, |case| {
        let accept = case["accept"].as_bool().unwrap();
        let home = tempfile::tempdir().unwrap();
        let object = text(case, "object");
        if object == "directory" {
            let path = home.path().join("state");
            let Some(()) = arrange(&path, case, b"") else {
                return accept;
            };
            return StateDir::at(&path).check().is_ok_and(|there| there);
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let state_dir = StateDir::at(home.path());
        let name = if object == "record" { "registration.json" } else { "credential" };
        let content: &[u8] = if object == "record" { record } else { secret };
        let Some(()) = arrange(&home.path().join(name), case, content) else {
            return accept;
        };
        if object == "record" {
            !matches!(state_dir.read_record().0, Sight::Unreadable)
        } else {
            // What a file of the right kind holds is judged elsewhere.
            match state_dir.read_credential() {
                Ok(found) => found.is_some(),
                Err(fault) => matches!(fault.why, Refused::Credential(_)),
            }
        }
    });
}

//! Which directories and files are created, with which modes, and which are left as they are.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Home, Output, chmod, mode, names};

const NOBODY: u32 = 65_534;

/// A home, and `locald` for its user. If the tests run as root, the user is 65534, because modes do not restrict root.
struct User {
    home: Home,
    program: PathBuf,
    is_other: bool,
}

impl User {
    fn new() -> Self {
        let home = Home::new();
        let top = home.state_dir().parent().unwrap().to_owned();
        let program = top.join("locald");
        fs::copy(home.command(&[]).get_program(), &program).unwrap();
        chmod(&program, 0o755);
        chmod(&top, 0o755);
        let user = Self { home, program, is_other: rustix::process::geteuid().is_root() };
        fs::create_dir(user.path()).unwrap();
        if user.is_other {
            chown(user.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        user
    }

    fn path(&self) -> PathBuf {
        self.home.state_dir().with_file_name("home")
    }

    fn state_dir(&self) -> PathBuf {
        self.path().join(".local/state/locald")
    }

    /// Runs a command for this home, as the user of the tests.
    fn as_tester(&self, args: &[&str], umask: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        command.arg(&self.program).args(args).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.path());
        command
    }

    fn locald(&self, args: &[&str], umask: &str) -> Output {
        let mut command = self.as_tester(args, umask);
        if self.is_other {
            command.uid(NOBODY).gid(NOBODY);
        }
        Output::of(&mut command)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.locald(&["stop", "--force"], "077");
    }
}

/// DIR-4, DIR-5, DIR-16, DIR-23.
#[test]
fn modes_do_not_depend_on_the_umask() {
    for umask in ["000", "0177", "0777"] {
        let user = User::new();
        for args in [
            &["credential", "rotate"][..],
            &["origins", "add", "https://app.example"],
            &["start"],
            &["restart"],
            &["open", "--browser", "true"],
        ] {
            let seen = user.locald(args, umask);
            // `true` opens no page.
            let expected = if args[0] == "open" { 19 } else { 0 };
            assert_eq!(seen.code, expected, "{args:?} under {umask}: {seen:?}");
        }
        let directory = user.state_dir();
        for at in directory.ancestors().take_while(|at| *at != user.path()) {
            assert_eq!(mode(at), 0o700, "{at:?} under {umask}");
        }
        for name in names(&directory) {
            assert_eq!(mode(directory.join(&name)), 0o600, "{name} under {umask}");
        }
    }
}

/// DIR-21.
#[test]
fn existing_files_and_directories_keep_their_modes() {
    let user = User::new();
    assert_eq!(user.locald(&["start"], "077").code, 0);
    assert_eq!(user.locald(&["stop"], "077").code, 0);
    let files = ["daemon.log", "registration.lock"].map(|name| user.state_dir().join(name));
    for path in &files {
        chmod(path, 0o700);
    }
    chmod(user.path().join(".local"), 0o755);
    assert_eq!(user.locald(&["start"], "077").code, 0);
    for path in &files {
        assert_eq!(mode(path), 0o700, "{path:?}");
    }
    assert_eq!(mode(user.path().join(".local")), 0o755);
}

/// A parent that is a link is the user's own choice.
#[test]
fn a_parent_may_be_a_link() {
    let user = User::new();
    let place = user.path().join("disk");
    for path in [&place, &user.path().join(".local")] {
        fs::create_dir(path).unwrap();
        chown(path, Some(if user.is_other { NOBODY } else { rustix::process::geteuid().as_raw() }), None)
            .unwrap();
    }
    symlink(&place, user.path().join(".local/state")).unwrap();
    let seen = user.locald(&["start"], "022");
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_eq!(mode(place.join("locald")), 0o700);
}

/// DIR-22.
#[test]
fn nothing_is_created_in_the_home_of_another_user() {
    let user = User::new();
    if !user.is_other {
        // Only root can write to the home of another user.
        return;
    }
    let named = user.path().display().to_string();
    for args in [
        &["start"][..],
        &["run"],
        &["connect"],
        &["restart"],
        &["open"],
        &["origins", "add", "https://app.example"],
        &["credential", "rotate"],
        &["doctor"],
        &["doctor", "--fix"],
    ] {
        let seen = Output::of(&mut user.as_tester(args, "022"));
        let code = if args[0] == "doctor" { 1 } else { 15 };
        assert_eq!(seen.code, code, "{args:?}: {seen:?}");
        let said = if args[0] == "doctor" { &seen.stdout } else { &seen.stderr };
        assert!(said.contains(&named) && said.contains("sudo -H"), "{args:?}: {said}");
        assert_eq!(names(user.path()), Vec::<String>::new(), "{args:?}");
    }
    let seen = Output::of(user.as_tester(&["connect", "--private"], "022").env("TMPDIR", user.path()));
    assert!(seen.code != 0 && seen.stderr.contains(&named), "{seen:?}");
    assert_eq!(names(user.path()), Vec::<String>::new());
}

#[test]
fn the_directory_that_keeps_the_user_out_is_named() {
    let user = User::new();
    let local = user.path().join(".local");
    fs::create_dir(&local).unwrap();
    // It belongs to root if the tests run as root, as after an earlier sudo.
    chmod(&local, if user.is_other { 0o700 } else { 0 });
    let named = |said: &str| said.contains(&format!("{}: ", Path::new(&local).display()));
    let word = if user.is_other { "belongs to user 0" } else { "Permission denied" };
    for command in ["start", "status", "doctor"] {
        let seen = user.locald(&[command], "022");
        let said = if command == "doctor" { &seen.stdout } else { &seen.stderr };
        assert!(seen.code != 0 && named(said) && said.contains(word), "{command}: {seen:?}");
    }
    chmod(&local, 0o700);
}

//! The state directory: chapter 02.

mod made;
mod place;
mod refused;

use std::path::{Path, PathBuf};

use local_daemon_harness::arena::Shape;
use local_daemon_harness::files::Snapshot;

pub(super) use self::refused::{between_good_starts, refused_as_it_is};
use crate::case::Case;
use crate::outcome::Outcome;
use crate::stage::Stage;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "state-directory/launch-wins-over-the-environment",
        &["DIR-1"],
        "A daemon whose command names a state directory is started while LOCAL_DAEMON_STATE_DIR names another one. It \
         publishes in the first and leaves the second, and the home, without a record.",
        place::launch_wins_over_the_environment,
    ),
    Case::core(
        "state-directory/same-in-every-session",
        &["DIR-2"],
        "One daemon after the other is started as a login session, a cron job and a service would start it: another \
         XDG_RUNTIME_DIR or none, another TMPDIR, another working directory, a session of its own. All of them meet in \
         one directory: each displaces the one before (clawpatrol#670, gmux#359).",
        place::same_in_every_session,
    ),
    Case::core(
        "state-directory/path-with-spaces",
        &["DIR-1"],
        "The state directory's path holds spaces, both kinds of quotes and a letter outside of ASCII.",
        place::used_as_named,
    )
    .shaped(Shape::Spaces),
    Case::core(
        "state-directory/path-of-200-bytes",
        &["DIR-1"],
        "The state directory's path is 200 bytes long, more than the name of a Unix socket may be.",
        place::used_as_named,
    )
    .shaped(Shape::Long),
    Case::core(
        "state-directory/created-owner-only",
        &["DIR-4"],
        "A daemon is started where there is no state directory, under the umasks 000, 022, 077 and 777. Notifications \
         and a thread that does nothing but look see the directory's mode from the instant it exists.",
        made::created_owner_only,
    ),
    Case::core(
        "state-directory/files-owner-only-from-creation",
        &["DIR-5"],
        "A daemon is started in an empty state directory, used and stopped, under the umasks 000, 022, 077 and 777. \
         Every file's mode is looked at whenever something happens to it, and all of them once it is ready.",
        made::files_owner_only_from_creation,
    ),
    Case::core(
        "state-directory/closed-to-other-users",
        &["DIR-4", "DIR-5"],
        "A daemon is started under umask 000, below a directory that is open to everybody. The user nobody, who can \
         read a file beside the state directory, tries to list it and to read the record and the credential.",
        made::closed_to_other_users,
    ),
    Case::core(
        "state-directory/symlink-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link in the place of the state directory: to a good state directory, and \
         to nothing.",
        refused::symlink_refused,
    ),
    Case::core(
        "state-directory/symlink-with-a-slash-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link to a good state directory, and the path ends with a slash, as a \
         shell completes it: to the system this means what the link leads to, to the user it is the same path.",
        refused::symlink_with_a_slash_refused,
    ),
    Case::core(
        "state-directory/no-directory-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a regular file and with a FIFO in the place of the state directory.",
        refused::no_directory_refused,
    ),
    Case::core(
        "state-directory/foreign-owner-refused",
        &["DIR-7", "DIR-10", "DIR-11"],
        "A daemon that runs as root is started with a state directory, and then with a credential, of the user nobody.",
        refused::foreign_owner_refused,
    ),
    Case::core(
        "state-directory/loose-mode-refused",
        &["DIR-8", "DIR-10", "DIR-11"],
        "A daemon is started with a state directory that has one of the six group and other permission bits, or \
         several. It does not mend the mode in silence either.",
        refused::loose_mode_refused,
    ),
    Case::core(
        "state-directory/credential-symlink-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link in the place of the credential: to a good credential elsewhere, and \
         to a name at which nothing is.",
        refused::credential_symlink_refused,
    ),
    Case::core(
        "state-directory/credential-no-file-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a FIFO, a directory and a socket in the place of the credential. Opening the FIFO \
         must not hang.",
        refused::credential_no_file_refused,
    ),
    Case::core(
        "state-directory/credential-loose-mode-refused",
        &["DIR-8", "DIR-10", "DIR-11"],
        "A daemon is started with a good credential that has one of the six group and other permission bits, or \
         several. It does not mend the mode in silence either.",
        refused::credential_loose_mode_refused,
    ),
    Case::core(
        "state-directory/oversized-credential-refused",
        &["DIR-9", "DIR-10", "DIR-11"],
        "A daemon is started with a credential file that begins well and goes on beyond 64 KiB, up to 1 MiB.",
        refused::oversized_credential_refused,
    ),
    Case::core(
        "state-directory/refusals-name-the-fault",
        &["DIR-11"],
        "A daemon is started with one fault of the state directory or the credential after the other. Each error names \
         the path, and beyond the path no two faults read the same.",
        refused::refusals_name_the_fault,
    ),
    Case::core(
        "state-directory/unwritable-refused",
        &["DIR-12", "DIR-11"],
        "A daemon is started with a state directory that cannot be created: below a regular file, below /proc, and, \
         where the suite is not root, in a directory that it may not write (watchman#543).",
        refused::unwritable_refused,
    ),
];

/// Nothing in `directory` is other than in `before`.
fn unchanged(stage: &mut Stage, what: &str, directory: &Path, before: &Snapshot) -> Outcome {
    let differences = before.diff(&Snapshot::of(directory)?);
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    stage.ensure(differences.is_empty(), format!("{what}: {}", differences.join(", ")))
}

/// A path beside the arena's state directory.
pub(super) fn beside(stage: &Stage, name: &str) -> PathBuf {
    stage.state_dir().with_file_name(name)
}

//! The credential: chapter 04.

mod made;
mod replaced;
mod told;

use std::time::{Duration, Instant};

use local_daemon_harness::http::{self, Request, Target};
use local_daemon_harness::proof::Credential;

use crate::case::Case;
use crate::stage::{PROBE, Stage};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "credential/exact-form",
        &["CRED-1"],
        "A daemon is started in an empty state directory. What it leaves as credential is 44 bytes: the unpadded \
         base64url text of 32 bytes, and a newline.",
        made::exact_form,
    ),
    Case::core(
        "credential/random",
        &["CRED-2"],
        "Twelve daemons are started at the same moment in twelve fresh state directories. Their credentials have \
         nothing in common that random bytes would not have.",
        made::random,
    ),
    Case::core(
        "credential/never-seen-in-part",
        &["CRED-3"],
        "A daemon is started in an empty state directory, several times. Readers that spin on the credential, and \
         notifications of every write, see it absent or whole and nothing else.",
        made::never_seen_in_part,
    ),
    Case::core(
        "credential/sixteen-first-launches",
        &["CRED-4"],
        "Sixteen daemons are held at their very beginning and let go at once in an empty state directory. One \
         credential comes to be, once, and whoever publishes is asked at once whether it accepts that one.",
        made::sixteen_first_launches,
    ),
    Case::core(
        "credential/survives-every-start",
        &["CRED-5"],
        "A credential meets a graceful restart, a restart after SIGKILL, a second daemon beside the first, and a start \
         that fails because nothing can be written (bitcoin#28784). Another one was put there by hand, without a \
         newline. Each stays the same file with the same bytes.",
        made::survives_every_start,
    ),
    Case::core(
        "credential/damaged-refused",
        &["CRED-6", "CRED-8"],
        "A daemon is started with credentials that are damaged in many ways: cut, padded, with one newline too many, \
         in another alphabet. It refuses each, leaves it as it is, and does not quote it in the error.",
        made::damaged_refused,
    ),
    Case::core(
        "credential/not-in-arguments-or-environment",
        &["CRED-7"],
        "The arguments and the environment of every process of a daemon are looked at again and again: in a first \
         launch, in one that finds the credential, while requests are answered, and during the stop (cqs#1337, \
         podscape#99).",
        told::not_in_arguments_or_environment,
    ),
    Case::core(
        "credential/not-in-output-or-files",
        &["CRED-8"],
        "A daemon that is asked to log everything gets requests with the credential in every place, right and wrong, \
         and is stopped. Its output and every file but the credential are searched for it in every form \
         (jupyter_server#1681, mcp-memory-service#1117).",
        told::not_in_output_or_files,
    ),
    Case::core(
        "credential/not-in-answers",
        &["CRED-9"],
        "Requests hold the credential in path, query, method, header and body, with and without authentication, so \
         that an error that repeats what it refuses repeats it. No answer holds it in any form.",
        told::not_in_answers,
    ),
    Case::core(
        "credential/not-in-a-core-dump",
        &["CRED-15"],
        "A daemon dies of a signal that leaves a core dump, as another process does before it. No file that it leaves \
         holds the credential in any form.",
        told::not_in_a_core_dump,
    ),
    Case::core(
        "credential/rotation-taken-on",
        &["CRED-11", "CRED-12"],
        "The credential of a running daemon is replaced. Within 2.5 s it accepts the new one and refuses the old one.",
        replaced::rotation_taken_on,
    ),
    // Takes the 2.5 s in which a daemon must have noticed, because what must be seen is that nothing changes.
    Case::core(
        "credential/kept-while-the-file-is-bad",
        &["CRED-13"],
        "While daemons run, their credential files are removed, emptied, loosened, linked elsewhere, given away and \
         blown up, mostly with another credential in them. For 2.5 s each daemon accepts the last good one and nothing \
         else, and then takes on a good replacement.",
        replaced::kept_while_the_file_is_bad,
    ),
];

/// Within this a running daemon follows a replaced credential (CRED-11, CRED-12).
const FOLLOWS: Duration = Duration::from_millis(2_500);

/// The content of a credential file.
fn file_of(credential: &Credential) -> Vec<u8> {
    format!("{}\n", credential.text()).into_bytes()
}

/// A credential that the transcript hides, and that no subject made.
fn another(stage: &Stage) -> Credential {
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    credential
}

/// The status of a handshake with `token` as bearer, or with no `Authorization` at all.
fn status(stage: &Stage, target: &Target, token: Option<&str>) -> Result<u16, http::HttpFault> {
    let method = &stage.manifest().binding.handshake.method;
    let request = Request::new(method, &target.path).host(&target.authority);
    let request = match token {
        Some(token) => request.header("Authorization", &format!("Bearer {token}")),
        None => request,
    };
    // Not noted: whoever polls asks hundreds of times.
    http::exchange(target.address, &request.bytes(), Instant::now() + PROBE).map(|answer| answer.status)
}

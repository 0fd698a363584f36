//! The credential: chapter 04.

mod made;
mod replaced;
mod told;

use std::time::{Duration, Instant};

use local_daemon_harness::http::{self, Request, Target};
use local_daemon_harness::proof::Credential;

use crate::stage::{PROBE, Stage};

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

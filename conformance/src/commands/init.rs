//! `daemonspec init`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use local_daemon_conformance::manifest::TEMPLATE;
use local_daemon_conformance::verdict::ExitCode;

use super::{Problem, print};

/// Writes a commented manifest to a file that is not there yet, or to standard output.
pub(crate) fn init(file: Option<&Path>) -> Result<ExitCode, Problem> {
    let Some(path) = file else {
        print(TEMPLATE)?;
        return Ok(ExitCode::Conforms);
    };
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    match opened.and_then(|mut file| file.write_all(TEMPLATE.as_bytes())) {
        Ok(()) => {
            eprintln!("wrote {}; run it with: daemonspec run {0}", path.display());
            Ok(ExitCode::Conforms)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let what = format!("{} is there already and stays as it is", path.display());
            Err(Problem::new(ExitCode::Fault, what, Some("name another file, or remove it first")))
        }
        Err(error) => Err(Problem::fault(format!("cannot write {}: {error}", path.display()))),
    }
}

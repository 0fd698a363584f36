//! The command that edits the list of origins.

use super::open::let_look;
use crate::fault::broken;
use crate::origins;
use crate::perimeter::faults::normalised;
use crate::perimeter::is_origin;
use crate::state_directory::{Fault, StateDir, create_for_the_owner_alone};

/// `origins add|remove ORIGIN --state-dir DIR`: edits the list. A running daemon reads it with each request.
pub fn edit_origins(arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ([what @ ("add" | "remove"), origin, "--state-dir", directory]
    | [what @ ("add" | "remove"), "--state-dir", directory, origin]) = arguments[..]
    else {
        eprintln!("usage: daemonspec-subject origins add|remove ORIGIN --state-dir DIR");
        return 2;
    };
    let normal = normalised(origin);
    let origin = if broken("PER-40.normalised-by-command") { &*normal } else { origin };
    if what == "add" && !is_origin(origin) && !broken("PER-40.unchecked-by-command") {
        eprintln!("{origin} is no serialised origin");
        return 2;
    }
    match edit(directory, what == "add", origin) {
        Ok(()) => 0,
        Err(fault) => {
            eprintln!("{fault}");
            1
        }
    }
}

fn edit(directory: &str, add: bool, origin: &str) -> Result<(), Fault> {
    create_for_the_owner_alone();
    let directory = StateDir::settle(Some(directory.as_ref()))?;
    directory.prepare()?;
    origins::edit(&directory, add, origin)?;
    let_look(&directory);
    Ok(())
}

//! Why there is no manifest to work with.

use std::path::PathBuf;
use std::sync::Arc;

use local_daemon_spec::Profile;
use miette::{Diagnostic, NamedSource, SourceSpan};

/// Why there is no manifest to work with. Always exit status 3.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ManifestFault {
    /// The file cannot be read.
    #[error("cannot read the manifest {}: {source}", .path.display())]
    #[diagnostic(help("`daemonspec init` writes one"))]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a manifest: syntax, an unknown key, a wrong type, a value out of range.
    #[error("{path}: {message}")]
    Invalid {
        /// As given.
        path: String,
        /// What is wrong, with the key.
        message: String,
        /// The text.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Where in it.
        #[label("here")]
        at: Option<SourceSpan>,
        /// What was probably meant.
        #[help]
        help: Option<String>,
    },
    /// There is no such program.
    #[error("`{key}`: no program `{program}` {looked}")]
    NoProgram {
        /// The key of the command.
        key: String,
        /// The command's first word.
        program: String,
        /// Where it was looked for.
        looked: String,
        /// How the lookup goes.
        #[help]
        help: String,
    },
    /// The command is empty.
    #[error("`{0}` is empty")]
    NoCommand(String),
    /// There is no command, and the subject claims what needs one.
    #[error("`{key}` is missing: the profile {profile} needs it")]
    Missing {
        /// The key of the command.
        key: &'static str,
        /// The claimed profile.
        profile: Profile,
        /// What to do about it.
        #[help]
        help: &'static str,
    },
    /// A placeholder that is not known here.
    #[error("`{key}`: unknown placeholder {{{name}}}")]
    Placeholder {
        /// The key whose value holds it.
        key: String,
        /// The word between the braces.
        name: String,
        /// The known ones.
        #[help]
        help: String,
    },
}

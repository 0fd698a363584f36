//! What a case, or a step of one, comes to.

use local_daemon_harness::browser::BrowserFault;
use local_daemon_harness::process::LaunchFault;

/// What a case, or a step of one, comes to. `Ok(())` at the end means: everything that must be seen was seen.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Why a case ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The subject violates a requirement of the case; the text is what was seen. Counts only after a precondition.
    Violation(String),
    /// The subject never became ready. Accuses it where a MUST is judged; of a recommendation it says nothing.
    NotReady(String),
    /// The subject did what it must; the browser engine did not do what is known of it.
    Deviation(String),
    /// A precondition was not met, so nothing follows.
    Inconclusive(String),
    /// This host or this manifest gives no way to observe it.
    Untestable(String),
    /// The subject does not have what the case needs, and need not.
    NotApplicable(String),
    /// The suite itself failed.
    Fault(String),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

impl From<BrowserFault> for Stop {
    fn from(fault: BrowserFault) -> Self {
        Self::Fault(fault.to_string())
    }
}

impl From<LaunchFault> for Stop {
    fn from(fault: LaunchFault) -> Self {
        Self::Fault(fault.to_string())
    }
}

/// The requirement is violated: `seen` says what was seen.
pub fn fail<T>(seen: impl Into<String>) -> Outcome<T> {
    Err(Stop::Violation(seen.into()))
}

/// A precondition never came about: nothing follows.
pub fn inconclusive<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Stop::Inconclusive(why.into()))
}

/// This host cannot show it.
pub fn untestable<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Stop::Untestable(why.into()))
}

/// The subject need not have what the case looks at, or its manifest does not say how to reach it.
pub fn not_applicable<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Stop::NotApplicable(why.into()))
}

/// The subject did what it must, and the engine did otherwise than is known of it: a warning.
pub fn deviation<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Stop::Deviation(what.into()))
}

/// Ends a case as a violation unless the condition holds. The rest says what was seen instead, as for `format!`.
macro_rules! ensure {
    ($holds:expr, $($seen:tt)+) => {
        if !$holds {
            return Err($crate::outcome::Stop::Violation(format!($($seen)+)));
        }
    };
}

pub(crate) use ensure;

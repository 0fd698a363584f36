//! What this host lets the suite observe. What it does not is `untestable`, not failed.

use std::net::{Ipv6Addr, TcpListener};
use std::path::PathBuf;

use serde::Serialize;

use crate::browser::{Engine, Kind};
use crate::platform::{self, which};

/// What this host can observe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// `linux`.
    pub os: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// Whether the suite runs as root.
    pub root: bool,
    /// Whether there is an unprivileged user `nobody`.
    pub nobody: bool,
    /// The system-call tracer.
    pub strace: Option<PathBuf>,
    /// Whether `[::1]` can be listened on.
    pub ipv6: bool,
    /// The three engines.
    pub engines: Vec<Engine>,
}

impl Host {
    /// Looks at this host.
    pub fn look() -> Self {
        Self {
            os: std::env::consts::OS,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: platform::is_root(),
            nobody: platform::nobody().is_some(),
            strace: which("strace"),
            ipv6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
            engines: Kind::ALL.map(Engine::find).into(),
        }
    }

    /// Whether a case can act as another user than the subject's.
    pub fn has_second_user(&self) -> bool {
        self.root && self.nobody
    }
}

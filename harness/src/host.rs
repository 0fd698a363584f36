//! What this host lets the suite observe. What it does not is `untestable`, not failed.

use std::net::{Ipv6Addr, TcpListener};
use std::path::PathBuf;

use serde::Serialize;

use crate::platform;
use crate::process::Launch;
use crate::wait::ms;

/// A browser engine or a driver found in `PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// `chromium`, `firefox` or `webkit`.
    pub name: &'static str,
    /// The browser, where there is one.
    pub browser: Option<PathBuf>,
    /// Its `WebDriver`, where there is one.
    pub driver: Option<PathBuf>,
}

impl Engine {
    /// Whether a case can drive it.
    pub fn is_usable(&self) -> bool {
        self.browser.is_some() && self.driver.is_some()
    }

    /// What the browser says of its version; `None` where it is absent or says nothing within 5 s.
    pub fn version(&self) -> Option<String> {
        let env = std::env::vars_os().collect();
        let argv = [self.browser.as_ref()?.as_os_str(), "--version".as_ref()];
        let output = Launch::new(argv)
            .env(env)
            .start()
            .ok()?
            .wait_output_end(ms(5_000))?;
        let text = String::from_utf8_lossy(&output.stdout()).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

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
        let engine = |name, browsers: &[&str], drivers: &[&str]| Engine {
            name,
            browser: browsers.iter().find_map(|program| which(program)),
            driver: drivers.iter().find_map(|program| which(program)),
        };
        Self {
            os: std::env::consts::OS,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: platform::is_root(),
            nobody: platform::nobody().is_some(),
            strace: which("strace"),
            ipv6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
            engines: vec![
                engine(
                    "chromium",
                    &["chromium", "google-chrome", "chromium-browser"],
                    &["chromedriver"],
                ),
                engine("firefox", &["firefox", "firefox-esr"], &["geckodriver"]),
                engine(
                    "webkit",
                    &["MiniBrowser", "WebKitWebDriver"],
                    &["WebKitWebDriver"],
                ),
            ],
        }
    }

    /// Whether a case can act as another user than the subject's.
    pub fn has_second_user(&self) -> bool {
        self.root && self.nobody
    }
}

/// The first executable file of this name in `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    let executable = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    candidates.into_iter().find(executable)
}

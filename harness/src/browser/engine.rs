//! The engines, and which of their programs this host has.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::platform::which;
use crate::process::Launch;

/// Where `MiniBrowser` is on Debian: not in `PATH`.
const MINI_BROWSER: &str = "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser";

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Chromium, and whatever is built on it.
    Chromium,
    /// Firefox.
    Firefox,
    /// `WebKitGTK`, by its `MiniBrowser`.
    Webkit,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chromium, Self::Firefox, Self::Webkit];

    /// The word in reports and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
            Self::Webkit => "webkit",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| format!("no such engine: {text}"))
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The programs of an engine that this host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// Which one.
    pub name: Kind,
    /// The browser.
    pub browser: Option<PathBuf>,
    /// Its `WebDriver`.
    pub driver: Option<PathBuf>,
    /// What it shows itself on; `WebKitGTK` has no other way.
    pub display: Option<PathBuf>,
}

impl Engine {
    /// Looks for the programs in `PATH`.
    pub fn find(kind: Kind) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| which(name));
        let (browser, driver, display) = match kind {
            Kind::Chromium => {
                (first(&["chromium", "google-chrome", "chromium-browser"]), which("chromedriver"), None)
            }
            Kind::Firefox => (first(&["firefox-esr", "firefox"]), which("geckodriver"), None),
            Kind::Webkit => {
                let mini = Some(PathBuf::from(MINI_BROWSER)).filter(|path| path.is_file());
                let browser = which("MiniBrowser").or(mini);
                (browser, which("WebKitWebDriver"), which("Xvfb"))
            }
        };
        Self { name: kind, browser, driver, display }
    }

    /// The programs that are missing, each by the name that it usually has.
    pub fn missing(&self) -> Vec<&'static str> {
        let (browser, driver) = match self.name {
            Kind::Chromium => ("chromium", "chromedriver"),
            Kind::Firefox => ("firefox-esr", "geckodriver"),
            Kind::Webkit => ("MiniBrowser", "WebKitWebDriver"),
        };
        let mut missing = Vec::new();
        missing.extend(self.browser.is_none().then_some(browser));
        missing.extend(self.driver.is_none().then_some(driver));
        missing.extend((self.name == Kind::Webkit && self.display.is_none()).then_some("Xvfb"));
        missing
    }

    /// What the browser and its driver say of their versions, as far as they do within 5 s. `WebKitGTK`'s say nothing
    /// without a display: of them the package tells.
    pub fn versions(&self) -> [Option<String>; 2] {
        let say = |program: &Option<PathBuf>| {
            let env = std::env::vars_os().collect();
            let launch = Launch::new([program.as_ref()?.as_os_str(), "--version".as_ref()]).env(env);
            let output = launch.start().ok()?.wait_output_end(crate::wait::ms(5_000))?;
            let text = String::from_utf8_lossy(&output.stdout()).into_owned();
            let line = text.lines().next()?.trim();
            // geckodriver and chromedriver add their commit; MiniBrowser without a display says how it is used.
            let version = line.split(" (").next().filter(|line| line.contains('.'))?;
            Some(version.to_owned())
        };
        [say(&self.browser), say(&self.driver)]
    }
}

//! A real browser engine, driven over `WebDriver`: what a page does to a daemon is known only by doing it from a page.
//!
//! Each [`Browser`] is a driver in a process group of its own and in an [`Arena`] of its own, which holds its profile;
//! when it ends, nothing of either is left. A driver that is merely killed would orphan its browser.

mod engine;
mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

pub use self::engine::{Engine, Kind};
use self::session::Session;
use crate::actors::{Actor, Bind, Squatter, response};
use crate::arena::{Arena, Leak};
use crate::platform::is_root;
use crate::process::{Launch, LaunchFault, Subject};

/// How to get every program of every engine on Debian; geckodriver is not among its packages.
pub const INSTALL: &str = "apt-get install chromium chromium-driver firefox-esr webkit2gtk-driver xvfb xauth && \
                           cargo install geckodriver --locked";

/// A name that leads to this machine in the engines that can be told so, as one does whose owner has rebound it.
pub const REBOUND: &str = "evil.test";

/// How long a driver may take until it listens, and its browser until it has a session, beside other work.
const START: Duration = Duration::from_mins(1);

/// Waits until what the page is by now has been painted, and a resized window with it: a picture is of what was.
const PAINTED: &str = "const painted = async () => {
    await Promise.race([
        new Promise(done => addEventListener('resize', done, { once: true })),
        new Promise(done => setTimeout(done, 500)),
    ]);
    for (let frame = 0; frame < 3; frame += 1) await new Promise(done => requestAnimationFrame(done));
};";

/// How a browser shows pages: by day and wide, unless something is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// The user prefers a dark scheme.
    pub dark: bool,
    /// On a phone, or in as narrow a window as the engine has.
    pub phone: bool,
}

impl Look {
    /// Width and height of the window.
    fn size(self) -> (u32, u32) {
        if self.phone { (390, 844) } else { (1200, 900) }
    }
}

/// Why there is no browser, or why it did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrowserFault {
    /// Programs are missing.
    #[error("{kind} cannot be driven: no {} here; get all engines by: {INSTALL}", .programs.join(", no "))]
    Missing {
        /// The engine.
        kind: Kind,
        /// The programs.
        programs: Vec<&'static str>,
    },
    /// The driver or the display does not start.
    #[error("{kind} does not start: {why}")]
    NotStarted {
        /// The engine.
        kind: Kind,
        /// Why.
        why: String,
    },
    /// A command failed or did not end in its time.
    #[error("{kind}: {command}: {why}")]
    Command {
        /// The engine.
        kind: Kind,
        /// What it was told.
        command: String,
        /// What came of it.
        why: String,
    },
    /// A script in a page threw.
    #[error("the page's script threw {0}")]
    Threw(String),
}

/// The processes and the profile of a browser. Ends with its last handle.
#[derive(Debug)]
pub struct Quarters {
    driver: Subject,
    display: Option<Subject>,
    arena: Arena,
}

impl Quarters {
    /// Ends every process, now; whoever waits for an answer of the driver sees its end.
    pub fn end(&self) {
        self.driver.kill_group();
        if let Some(display) = &self.display {
            display.kill_group();
        }
    }

    /// Ends every process, and what is left then of them outside their group, which [`Self::end`] does not reach: it is
    /// ended, too.
    pub fn end_leftovers(&self) -> Vec<Leak> {
        self.end();
        self.arena.end_leaks()
    }

    /// The directory with everything that the browser has written.
    pub fn path(&self) -> &std::path::Path {
        self.arena.path()
    }
}

/// A running browser with one session.
#[derive(Debug)]
pub struct Browser {
    kind: Kind,
    version: String,
    session: Session,
    quarters: Arc<Quarters>,
    public: Actor,
}

impl Browser {
    /// Starts the driver and a browser with a fresh profile.
    pub fn start(kind: Kind) -> Result<Self, BrowserFault> {
        Self::start_in(kind, Look::default(), |_| {})
    }

    /// The same; `told` learns of its processes as soon as there are any, so that they can be ended before it has started.
    pub fn start_in(kind: Kind, look: Look, told: impl FnOnce(&Arc<Quarters>)) -> Result<Self, BrowserFault> {
        let engine = Engine::find(kind);
        let missing = engine.missing();
        let (Some(browser), Some(driver), true) = (engine.browser, engine.driver, missing.is_empty()) else {
            return Err(BrowserFault::Missing { kind, programs: missing });
        };
        let failed = |why: String| BrowserFault::NotStarted { kind, why };
        let launched = |fault: LaunchFault| failed(fault.to_string());
        let deadline = Instant::now() + START;
        let arena = Arena::new().map_err(|error| failed(format!("no directory for it: {error}")))?;
        let public = Squatter::responding(|_, _| page("")).start(Bind::V4);
        let public = public.map_err(|error| failed(format!("no page for it: {error}")))?;

        let mut argv = vec![driver.into_os_string()];
        // Each binds a port of the system's choice, which is read off the process itself.
        let host: &[&str] = match kind {
            Kind::Chromium => &["--port=0"],
            Kind::Firefox => &["--host", "127.0.0.1", "--port", "0"],
            Kind::Webkit => &["--host=127.0.0.1", "--port=0"],
        };
        argv.extend(host.iter().map(Into::into));
        let mut launch = Launch::new(argv).env(arena.env()).cwd(arena.home());
        let mut display = None;
        if let Some(program) = engine.display {
            let words = [
                "-displayfd",
                "1",
                "-nolisten",
                "tcp",
                "-screen",
                "0",
                "1280x3000x24",
            ];
            let argv = std::iter::once(program.into_os_string()).chain(words.map(Into::into));
            let server = Launch::new(argv).env(arena.env()).cwd(arena.home());
            let server = server.start().map_err(launched)?;
            let said = server.wait_output(deadline, |output| output.stdout().ends_with(b"\n"));
            let number = said.map(|output| String::from_utf8_lossy(&output.stdout()).trim().to_owned());
            let Some(number) = number else {
                let said = String::from_utf8_lossy(&server.output().all()).trim().to_owned();
                return Err(failed(format!("its display says no number: {said}")));
            };
            launch = launch.var("DISPLAY", format!(":{number}"));
            display = Some(server);
        }
        if look.dark && kind == Kind::Webkit {
            launch = launch.var("GTK_THEME", "Adwaita:dark");
        }
        let driver = launch.start().map_err(launched)?;
        let capabilities = capabilities(kind, look, &browser, &arena, &public);
        let quarters = Arc::new(Quarters { driver, display, arena });
        told(&quarters);
        let driver = &quarters.driver;
        let address = driver.wait_listening(deadline).ok_or_else(|| {
            let said = String::from_utf8_lossy(&driver.output().all()).trim().to_owned();
            failed(format!("its driver does not listen: {said}"))
        })?;
        let opened = Session::open(kind, address, capabilities, deadline);
        let (session, version) = opened.inspect_err(|_| quarters.end())?;
        Ok(Self { kind, version, session, quarters, public })
    }

    /// Which engine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The version that the browser told its driver.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its processes and its profile.
    pub fn quarters(&self) -> &Arc<Quarters> {
        &self.quarters
    }

    /// An empty page that the engine takes for one of the public internet, where it knows the difference.
    pub fn public(&self) -> &Actor {
        &self.public
    }

    /// The name beside `localhost` that leads to this machine: where the engine cannot be told of [`REBOUND`], one that
    /// it takes for loopback by itself.
    pub fn rebound_name(&self) -> &'static str {
        match self.kind {
            Kind::Chromium | Kind::Firefox => REBOUND,
            Kind::Webkit => "evil.localhost",
        }
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) -> Result<(), BrowserFault> {
        self.session.goto(url)
    }

    /// Goes back to the page before.
    pub fn back(&self) -> Result<(), BrowserFault> {
        self.session.back()
    }

    /// Loads the page again.
    pub fn reload(&self) -> Result<(), BrowserFault> {
        self.session.reload()
    }

    /// Runs the body of an `async` function of `arg` in the page and hands back what it returns.
    pub fn run(&self, body: &str, arg: Value) -> Result<Value, BrowserFault> {
        let script = format!(
            "const arg = arguments[0], done = arguments[arguments.length - 1];
             (async () => {{ {body} }})().then(
                 value => done({{ value: value === undefined ? null : value }}),
                 error => done({{ error: String(error) }}))"
        );
        let mut answer = self.session.run(&script, arg)?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(BrowserFault::Threw(error.to_owned())),
            None => Ok(answer["value"].take()),
        }
    }

    /// Opens a tab and goes on in it.
    pub fn open_tab(&self) -> Result<(), BrowserFault> {
        self.session.open_tab()
    }

    /// Closes the tab and goes on in one that is left.
    pub fn close_tab(&self) -> Result<(), BrowserFault> {
        self.session.close_tab()
    }

    /// What a script sees in the page's first frame, whatever the engine shows there.
    pub fn run_in_frame(&self, body: &str, arg: Value) -> Result<Value, BrowserFault> {
        self.session.enter_frame()?;
        let seen = self.run(body, arg);
        self.session.leave_frame()?;
        seen
    }

    /// Goes on in a tab whose address begins so; `false` where there is none.
    pub fn tab_at(&self, start: &str) -> Result<bool, BrowserFault> {
        self.session.tab_at(start)
    }

    /// Clicks, as the user would, what a CSS selector finds: some things no engine lets a script do by itself.
    pub fn click(&self, selector: &str) -> Result<(), BrowserFault> {
        self.session.click(selector)
    }

    /// Leaves one tab with an empty page, without the cookies of this machine.
    pub fn clear(&self) -> Result<(), BrowserFault> {
        self.session.clear(&format!("http://{}/", self.public.address()))
    }

    /// Answers, as the user would, whether the page may do something.
    pub fn permit(&self, what: &str, granted: bool) -> Result<(), BrowserFault> {
        let state = if granted { "granted" } else { "prompt" };
        let body = json!({ "descriptor": { "name": what }, "state": state });
        self.session.post("permissions", &body).map(drop)
    }

    /// A picture (PNG) of the page in its whole length, in a window of the look's width or the narrowest that the engine
    /// makes.
    pub fn picture(&self, look: Look) -> Result<Vec<u8>, BrowserFault> {
        let (width, height) = look.size();
        self.session.resize(width, height)?;
        let length =
            "await painted(); return outerHeight - innerHeight + document.documentElement.scrollHeight";
        let length = self.run(&format!("{PAINTED} {length}"), Value::Null)?;
        let length = length.as_u64().and_then(|length| u32::try_from(length).ok());
        self.session.resize(width, length.map_or(height, |length| length.max(height)))?;
        self.run(&format!("{PAINTED} await painted()"), Value::Null)?;
        self.session.picture()
    }

    /// Whether its driver runs and answers.
    pub fn is_alive(&self) -> bool {
        self.quarters.driver.is_running() && self.session.is_alive()
    }
}

/// The bytes of an HTML page with this content.
pub fn page(content: &str) -> Vec<u8> {
    let html = format!("<!doctype html><meta charset=utf-8><title>suite</title>{content}");
    response(200, &[("Content-Type", "text/html; charset=utf-8")], html.as_bytes())
}

/// What a session is asked for: a fresh profile without the engine's own traffic, names and addresses as the cases need
/// them, and scripts that end.
fn capabilities(
    kind: Kind,
    look: Look,
    browser: &std::path::Path,
    arena: &Arena,
    public: &Actor,
) -> Map<String, Value> {
    let public = public.address();
    let own = match kind {
        Kind::Chromium => {
            let mut args = vec![
                "--headless=new".to_owned(),
                "--disable-gpu".to_owned(),
                "--disable-quic".to_owned(),
                // A container's shared memory may be too small for its pages.
                "--disable-dev-shm-usage".to_owned(),
                "--no-first-run".to_owned(),
                "--disable-background-networking".to_owned(),
                "--disable-component-update".to_owned(),
                "--disable-sync".to_owned(),
                format!("--user-data-dir={}", arena.path().join("profile").display()),
                format!("--host-resolver-rules=MAP {REBOUND} 127.0.0.1"),
                format!("--ip-address-space-overrides={public}=public"),
            ];
            // Its sandbox refuses root.
            args.extend(is_root().then(|| "--no-sandbox".to_owned()));
            args.extend(look.dark.then(|| "--force-dark-mode".to_owned()));
            json!({ "goog:chromeOptions": { "binary": browser, "args": args } })
        }
        Kind::Firefox => json!({ "moz:firefoxOptions": {
            "binary": browser,
            "args": ["-headless"],
            "prefs": {
                "network.dns.localDomains": REBOUND,
                "network.lna.address_space.public.override": public.to_string(),
                // 0 is dark, 1 light.
                "layout.css.prefers-color-scheme.content-override": i32::from(!look.dark),
            },
        } }),
        Kind::Webkit => json!({}),
    };
    let Value::Object(mut capabilities) = own else {
        unreachable!("each is an object")
    };
    let timeouts = json!({ "script": 20_000, "pageLoad": 15_000 });
    capabilities.insert("timeouts".to_owned(), timeouts);
    // Pages over TLS are the suite's own.
    capabilities.insert("acceptInsecureCerts".to_owned(), json!(true));
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_there_is_named_with_what_gets_it() {
        let engine = Engine {
            name: Kind::Webkit,
            browser: Some("/usr/bin/true".into()),
            driver: None,
            display: None,
        };
        assert_eq!(engine.missing(), ["WebKitWebDriver", "Xvfb"]);
        let fault = BrowserFault::Missing { kind: engine.name, programs: engine.missing() };
        let text = fault.to_string();
        assert!(
            text.contains("no WebKitWebDriver") && text.contains("no Xvfb") && text.contains(INSTALL),
            "{text}"
        );
    }

    #[test]
    fn an_engine_is_called_by_its_word() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("lynx".parse::<Kind>().is_err());
    }
}

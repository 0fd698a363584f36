//! `open` and `handoff`: the user lets a web page in.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use clap::Args;
use local_daemon::client::{Connection, Request, Response};
use local_daemon::perimeter::Origin;
use local_daemon::state_directory::LAUNCHER;
use local_daemon::{LAUNCH_VARIABLE, StateDir, with_caller_limits};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::launch::launch;
use super::port::check_listeners;
use super::{Context, note};
use crate::error::Error;

/// The variable that names browsers, as other programs read it: `firefox`, or `w3m %s:lynx`.
const BROWSER: &str = "BROWSER";
/// What opens a file with the program that the desktop has for it: freedesktop's, macOS's.
const OPENERS: [&str; 2] = ["xdg-open", "open"];
/// How soon a program that cannot open a file has said so. One that is still there then is a browser.
const FAILURE_BOUND: Duration = Duration::from_secs(2);

/// A name below localhost that is not the page host, which no resolver may learn (BROW-41).
const RESOLVER_PROBE: &str = "locald.localhost";

const NOTES: &str = "\
Examples:
  locald open
  locald open --browser firefox
  locald open --print-url           for a browser on another screen, or one that may not read files
  locald open --host 127.0.0.1      for a browser that cannot resolve the page's own host

The page gets a token of its own, which ends with the daemon. It is let in by a ticket that works once and for
30 seconds, in a file that only you can read and that is gone a minute later. Without --browser, $BROWSER is what
opens that file, or else the desktop's own choice (xdg-open, open). A daemon is started where none runs, as by connect.

The page is at a host of its own below localhost, which is new with each daemon, so that nothing that another program left
in the browser for this port can see the token. At another --host that may happen.

Exit code 19 if no browser has opened the page within 5 s, or if the page has no host of its own and no --host is given.";

const HANDOFF_NOTES: &str = "\
Example:
  locald origins add http://127.0.0.1:5173 && locald handoff --origin http://127.0.0.1:5173

The page is opened with a ticket in the fragment of its address, which works once and for 30 seconds. It posts that to
/v1/handoff of the daemon, and gets a token that works from its origin alone.

For http://localhost:5173 a browser may connect to 127.0.0.1 or to [::1], so 127.0.0.1 is the better name. An origin on
whose port another user listens is refused.

Exit code 2 if the origin is not on the list, 13 if another user listens there.";

#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct Open {
    /// Open it at this name instead of its own host
    #[arg(long, value_name = "NAME", value_parser = ["127.0.0.1", "localhost", "[::1]"])]
    host: Option<String>,

    #[command(flatten)]
    way: Way,
}

#[derive(Args)]
#[command(after_help = HANDOFF_NOTES)]
pub(super) struct Handoff {
    /// The web origin whose page is let in, as it stands in the list
    #[arg(long)]
    origin: String,

    #[command(flatten)]
    way: Way,
}

/// How the ticket gets to the page.
#[derive(Args)]
struct Way {
    /// Print an address with the ticket in it, and start no browser
    #[arg(long)]
    print_url: bool,

    /// The program to open it with
    #[arg(long, value_name = "PROGRAM", conflicts_with = "print_url")]
    browser: Option<OsString>,
}

impl Open {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let unresolved = !resolves_page_hosts();
        let host = self.host.as_deref().or(unresolved.then_some("127.0.0.1"));
        let wanted = match host {
            Some(host) => json!({"kind": "page", "host": host}),
            None => json!({"kind": "page"}),
        };
        let mut ticket = Ticket::new(context, &wanted)?;
        let page = ticket.page.take().ok_or_else(|| ticket.refused())?;
        // BROW-42: a page host is the only name that contains this.
        if !page.as_str().contains(".localhost:") {
            let why = match (&self.host, unresolved) {
                (Some(_), _) => "",
                (None, true) => " (this system does not resolve names below localhost)",
                // Another user may have taken the ports in order to have it opened elsewhere.
                (None, false) => return Err(Error::NoPageHost),
            };
            note(&format!(
                "locald: the page is not at a host of its own{why}; what another program left in the browser for {page} may see \
                 its token"
            ));
        }
        let form = format!(
            "<form method=\"post\" action=\"{page}/page\"><input type=\"hidden\" name=\"ticket\" value=\"{text}\">\
             </form>\n<script>document.forms[0].submit()</script>",
            text = ticket.text
        );
        // BROW-18: a fragment is sent to nobody.
        let address = format!("{page}/#ticket={}", ticket.text);
        let Some(program) = self.way.follow(context, &form, &address)? else {
            return Ok(0);
        };
        // BROW-44
        if !ticket.is_redeemed()? {
            return Err(Error::NotOpened { program });
        }
        let json = json!({"url": format!("{page}/"), "browser": program});
        context.answer(&format!("the page is open in {program}"), "opened", json)?;
        Ok(0)
    }
}

/// Whether browsers can resolve the page host. On macOS they ask the system; elsewhere they resolve names below localhost
/// themselves.
fn resolves_page_hosts() -> bool {
    !cfg!(target_os = "macos") || (RESOLVER_PROBE, 80).to_socket_addrs().is_ok()
}

impl Handoff {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let origin: Origin = self
            .origin
            .parse()
            .map_err(|error| Error::usage(format!("{:?} is not an origin: {error}", self.origin)))?;
        check_listeners(&origin)?;
        let ticket = Ticket::new(context, &json!({"kind": "handoff", "origin": origin.as_str()}))?;
        let base = format!("http://{}", ticket.connection.registration().url.authority());
        let base = base.replace(':', "%3A").replace('/', "%2F");
        let page = format!("{origin}/");
        let address = format!("{page}#ldp_ticket={}&ldp_url={base}", ticket.text);
        // An origin and what is added here hold neither quotes nor angle brackets.
        let script = format!("<script>location.replace(\"{address}\")</script>");
        if let Some(program) = self.way.follow(context, &script, &address)? {
            let json = json!({"url": page, "browser": program});
            context.answer(&format!("{page} was handed to {program}"), "done", json)?;
        }
        Ok(0)
    }
}

/// A ticket, and the daemon that issued it.
struct Ticket {
    connection: Connection,
    answer: Response,
    id: String,
    text: String,
    /// The origin at which a page ticket is redeemed.
    page: Option<Origin>,
}

impl Ticket {
    const PATH: &str = "/v1/tickets";

    /// Requests one. The daemon is started if it is missing.
    fn new(context: &Context, wanted: &Value) -> Result<Self, Error> {
        let mut connection = context.client.connect_or_spawn(&launch(context, "auto", false)?)?;
        let answer = connection.send(Request::post(Self::PATH).json(wanted)?)?;
        let body: Value = answer.json().unwrap_or_default();
        if body["code"] == "origin_not_listed" {
            return Err(Error::NotListed(wanted["origin"].as_str().unwrap_or_default().to_owned()));
        }
        let page = body["page_url"].as_str().and_then(|url| url.strip_suffix("/page")?.parse().ok());
        match (answer.status, body["id"].as_str(), body["ticket"].as_str()) {
            (201, Some(id), Some(text)) => {
                Ok(Self { id: id.to_owned(), text: text.to_owned(), page, answer, connection })
            }
            _ => Err(connection.answer_error(Self::PATH, &answer).into()),
        }
    }

    /// Returns the error of an answer that is not what this client needs.
    fn refused(&self) -> Error {
        self.connection.answer_error(Self::PATH, &self.answer).into()
    }

    /// Waits until it is redeemed, for 5 s at most; returns whether it was (BROW-44).
    fn is_redeemed(&mut self) -> Result<bool, Error> {
        let answer = self.connection.get(&format!("{}/{}?wait_seconds=5", Self::PATH, self.id))?;
        let state: Value = answer.json().unwrap_or_default();
        let known = state["redeemed"].as_bool().filter(|_| answer.status == 200);
        known.ok_or_else(|| self.connection.answer_error(Self::PATH, &answer).into())
    }
}

impl Way {
    /// Prints the address, or has a browser open a launcher file with `body` and returns the name of the browser.
    fn follow(&self, context: &Context, body: &str, address: &str) -> Result<Option<String>, Error> {
        if self.print_url {
            context.answer(address, "done", json!({"url": address, "expires_in_seconds": 30}))?;
            return Ok(None);
        }
        let launcher = write_launcher(context.directory(), body)?;
        let program = self.show(&launcher).inspect_err(|_| {
            // Nobody will read it; what is left is removed by the daemon (BROW-17).
            let _ = fs::remove_file(&launcher);
        })?;
        Ok(Some(program))
    }

    /// Has the first program open the file that can; says which it was. BROW-16: what it is told is the name of the file.
    fn show(&self, launcher: &Path) -> Result<String, Error> {
        let candidates = match &self.browser {
            Some(program) => vec![vec![program.clone()]],
            None => candidates(env::var_os(BROWSER).as_deref()),
        };
        let mut faults = Vec::new();
        for words in candidates {
            let program = words.first().map(PathBuf::from).unwrap_or_default();
            match start(&words, launcher) {
                Ok(()) => return Ok(program.display().to_string()),
                Err(error) => faults.push(format!("{}: {error}", program.display())),
            }
        }
        Err(Error::NoBrowser(faults.join("; ")))
    }
}

/// The programs that `$BROWSER` names, each with its arguments; the desktop's own where it names none.
fn candidates(browser: Option<&OsStr>) -> Vec<Vec<OsString>> {
    let named = browser.and_then(OsStr::to_str).unwrap_or_default();
    let words = |command: &str| -> Vec<OsString> { command.split_whitespace().map(Into::into).collect() };
    let mut programs: Vec<_> = named.split(':').map(words).collect();
    programs.retain(|words| !words.is_empty());
    if programs.is_empty() {
        programs.extend(OPENERS.map(|opener| vec![opener.into()]));
    }
    programs
}

/// The arguments with the file in the place of `%s`, or at their end.
fn arguments(words: &[OsString], file: &Path) -> Vec<OsString> {
    const PLACE: &str = "%s";
    let end = if words.iter().any(|word| word == PLACE) { None } else { Some(PLACE.into()) };
    let placed = |word: OsString| {
        if word == PLACE { file.as_os_str().to_owned() } else { word }
    };
    words.iter().skip(1).cloned().chain(end).map(placed).collect()
}

/// Starts a program on its own, and waits for its end or until it seems to stay.
fn start(words: &[OsString], file: &Path) -> io::Result<()> {
    let program = words.first().ok_or(io::ErrorKind::NotFound)?;
    handle_sigchld()?;
    let mut command = Command::new(program);
    command
        .args(arguments(words, file))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_remove(LAUNCH_VARIABLE)
        .process_group(0);
    let mut child = with_caller_limits(&mut command).spawn()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    match receiver.recv_timeout(FAILURE_BOUND) {
        Ok(Ok(status)) if !status.success() => Err(io::Error::other(format!("it ended with {status}"))),
        // It still runs, or has ended without an error.
        _ => Ok(()),
    }
}

/// Makes the exit statuses of children available. A caller that ignores SIGCHLD passes that on through exec, and `Command` then
/// panics if a program cannot be executed (CONN-46).
fn handle_sigchld() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // The handler remains installed; no child inherits it.
    runtime.block_on(async { signal(SignalKind::child()) }).map(drop)
}

/// BROW-15: a page that goes where the ticket is wanted, in a file of mode 0600.
fn write_launcher(directory: &StateDir, body: &str) -> Result<PathBuf, Error> {
    let io = |source| Error::Io {
        path: directory.path().to_owned(),
        doing: "writing the file that opens the page",
        source,
    };
    let mut file = tempfile::Builder::new()
        .prefix(LAUNCHER)
        .suffix(".html")
        .rand_bytes(16)
        .tempfile_in(directory.path())
        .map_err(io)?;
    // A umask may have taken the owner's bits.
    file.as_file().set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\n{body}\n"
    );
    file.write_all(page.as_bytes()).map_err(io)?;
    let (_, path) = file.keep().map_err(|error| io(error.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browser_is_a_list_of_commands() {
        for (browser, expected) in [
            ("", &[&["xdg-open", "F"][..], &["open", "F"]][..]),
            (" : ", &[&["xdg-open", "F"], &["open", "F"]]),
            ("firefox", &[&["firefox", "F"]]),
            (
                "w3m -T  text/html %s -x:/usr/bin/lynx",
                &[&["w3m", "-T", "text/html", "F", "-x"], &["/usr/bin/lynx", "F"]],
            ),
        ] {
            let seen: Vec<Vec<OsString>> = candidates(Some(browser.as_ref()))
                .iter()
                .map(|words| [&words[..1], &arguments(words, Path::new("F"))].concat())
                .collect();
            assert_eq!(seen, expected, "{browser}");
        }
    }
}

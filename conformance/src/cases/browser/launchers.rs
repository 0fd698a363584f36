//! The commands that open a page: what they write, what they start, and what is left of it.
//!
//! A program of the suite's stands in for the browser. It notes the arguments and the environment of itself and of who
//! started it, and opens nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_daemon_harness::files::{EntryKind, Facts, set_mode};
use local_daemon_harness::platform::as_user;
use local_daemon_harness::process::Subject;
use local_daemon_harness::wait::until;

use super::visit::{SECRET, Secret, candidates, handoff_ask, page_ask, page_ticket};
use crate::case::case;
use crate::fixtures::http::{LISTED, launch_listed};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable, untestable};
use crate::stage::{OPENED, Opening, ReadyDaemon, Stage};

/// What stands in for a browser: notes what it and its parents are given, below a directory named by its pid.
const BROWSER: &str = r#"#!/bin/sh
notes='{notes}'
mkdir "$notes/new-$$"
pid=$$
for level in 1 2 3; do
  cat "/proc/$pid/cmdline" >> "$notes/new-$$/arguments" 2>/dev/null
  [ "$level" = 1 ] && cp "$notes/new-$$/arguments" "$notes/new-$$/own"
  cat "/proc/$pid/environ" >> "$notes/new-$$/environment" 2>/dev/null
  pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status")
  [ "${pid:-1}" = 1 ] || [ "$pid" = '{suite}' ] && break
done
mv "$notes/new-$$" "$notes/$$"
"#;

/// A browser of the suite's.
struct Browser {
    notes: PathBuf,
    vars: Vec<(String, String)>,
}

/// What a browser was given.
struct Given {
    /// Its arguments, the program the first of them.
    own: Vec<String>,
    /// The arguments and the environments of it and its parents.
    all: String,
}

impl Browser {
    fn put(stage: &Stage) -> Outcome<Self> {
        let root = stage.arena().path().join("browser");
        let (notes, programs) = (root.join("notes"), root.join("programs"));
        std::fs::create_dir_all(&notes)?;
        std::fs::create_dir_all(&programs)?;
        let text = BROWSER
            .replace("{notes}", &notes.to_string_lossy())
            .replace("{suite}", &std::process::id().to_string());
        for name in ["xdg-open", "open", "sensible-browser", "x-www-browser"] {
            let program = programs.join(name);
            std::fs::write(&program, &text)?;
            set_mode(&program, 0o755)?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let vars = [
            ("PATH", format!("{}:{path}", programs.display())),
            ("BROWSER", programs.join("xdg-open").display().to_string()),
        ];
        Ok(Self { notes, vars: vars.map(|(name, value)| (name.to_owned(), value)).into() })
    }

    /// What every browser so far was given, as far as it is noted, by its directory.
    fn started(&self) -> std::io::Result<BTreeMap<PathBuf, Given>> {
        let words = |file: PathBuf| -> std::io::Result<String> {
            let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
            Ok(text.replace('\0', "\n"))
        };
        let mut started = BTreeMap::new();
        for entry in std::fs::read_dir(&self.notes)? {
            let path = entry?.path();
            if !path.to_string_lossy().contains("/new-") {
                // The interpreter stands before the program.
                let own = words(path.join("own"))?.lines().map(str::to_owned).collect();
                let all = words(path.join("arguments"))? + &words(path.join("environment"))?;
                started.insert(path, Given { own, all });
            }
        }
        Ok(started)
    }

    /// Runs a command, which has to start a browser, and may then wait for its page.
    fn open(&self, stage: &mut Stage, which: Opening) -> Outcome<Given> {
        Ok(self.start(stage, which)?.1)
    }

    /// Checks that a handoff starts no browser, and ends with an error.
    fn ensure_not_started(&self, stage: &mut Stage, origin: &str, why: &str) -> Outcome {
        let before = self.started()?.len();
        let (exit, output) = stage.open_page(Opening::Handoff(origin), &self.vars)?;
        ensure!(exit.code != Some(0), "{why}: the handoff to {origin} ended with {exit}");
        let started = until(Instant::now() + Duration::from_millis(300), || {
            (self.started().ok()?.len() > before).then_some(())
        });
        ensure!(started.is_none(), "{why}: a browser was started for {origin}");
        stage.observed(format!("{why}: {}", String::from_utf8_lossy(&output.stderr()).trim_end()));
        Ok(())
    }

    /// Does the same, and also returns the command, which may still run.
    fn start(&self, stage: &mut Stage, which: Opening) -> Outcome<(Arc<Subject>, Given)> {
        let before = self.started()?;
        let command = stage.start_opening(which, &self.vars)?;
        let given = until(stage.ready_deadline(), || {
            let mut started = self.started().ok()?;
            started.retain(|place, _| !before.contains_key(place));
            started.pop_first().map(|(_, given)| given)
        });
        match (given, command.exit()) {
            (Some(given), None) => Ok((command, given)),
            (Some(given), Some(exit)) if exit.code == Some(0) => Ok((command, given)),
            (_, Some(exit)) => fail(format!("the command that opens a page: {exit}")),
            (None, None) => fail("the command has started no browser"),
        }
    }
}

impl Given {
    /// The file that it is to open.
    fn file(&self) -> Option<PathBuf> {
        let last = self.own.last()?;
        let path = PathBuf::from(last.strip_prefix("file://").unwrap_or(last));
        path.is_file().then_some(path)
    }
}

/// The first of these texts that is a live ticket, which is used up by it; one of the page is presented at `host`.
fn redeemable(live: &ReadyDaemon, host: &str, texts: &[&str], which: Opening) -> Outcome<Option<String>> {
    for text in texts {
        live.transcript().hide(text.as_bytes());
        let ask = match which {
            Opening::Handoff(origin) => handoff_ask(live, text).origin(origin),
            _ => page_ask(live, &Secret::at(host, text)).origin("null"),
        };
        let ask = ask.named("what stands there, as ticket");
        if live.answered(&ask, &[200, 401])?.status == 200 {
            return Ok(Some((*text).to_owned()));
        }
    }
    Ok(None)
}

/// The command `open` is called with a browser of the suite's: that is given a file of mode 0600 in the state
/// directory, in which a live ticket stands.
#[case("BROW-15")]
fn launcher_file_hands_over_the_ticket(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect(
        "one argument: a regular file of mode 0600, in the state directory, that holds a live ticket",
    );
    let browser = Browser::put(stage)?;
    let host = page_ticket(stage, &live)?.host;
    let given = browser.open(stage, Opening::Page(None))?;
    let Some(file) = given.file() else {
        return fail("the last argument of the browser is no file");
    };
    let facts = Facts::of(&file)?;
    ensure!(
        facts.kind == EntryKind::File && facts.mode == 0o600,
        "the launcher is {} of mode {:04o}",
        in_words(&facts.kind),
        facts.mode
    );
    let inside =
        |path: &Path| Some(path.canonicalize().ok()?.starts_with(stage.state_dir().canonicalize().ok()?));
    let inside = inside(&file) == Some(true);
    ensure!(inside, "the launcher is not in the state directory: {}", file.display());
    let text = std::fs::read_to_string(&file)?;
    let ticket = redeemable(&live, &host, &candidates(&text), Opening::Page(None))?;
    ensure!(ticket.is_some(), "the launcher contains no live ticket");
    Ok(())
}

/// The commands `open` and `handoff` are called with a browser of the suite's: neither its arguments and
/// environment nor those of who started it hold a live ticket, a token, the credential or the page host.
#[case("BROW-16", "BROW-41")]
fn no_secret_in_arguments_or_environment(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("neither a live ticket nor the credential nor the page host among them");
    let browser = Browser::put(stage)?;
    let own = page_ticket(stage, &live)?;
    let (host, name) = (&own.host, own.name());
    let mut commands = 0;
    for which in [Opening::Page(None), Opening::Handoff(LISTED)] {
        let given = match browser.open(stage, which) {
            Err(crate::outcome::Stop::NotApplicable(_)) => continue,
            given => given?,
        };
        commands += 1;
        stage.precondition(format!(
            "{which}: a browser was started, with {} arguments",
            given.own.len(),
            which = in_words(&which)
        ));
        let holds = given.all.contains(&live.credential.text());
        ensure!(!holds, "{which}: the credential is among them", which = in_words(&which));
        let named = given.all.contains(name);
        ensure!(!named, "{which}: the page host is among them", which = in_words(&which));
        let ticket = redeemable(&live, host, &candidates(&given.all), which)?;
        ensure!(ticket.is_none(), "{which}: a live ticket is among them", which = in_words(&which));
        if let Some(file) = given.file() {
            let text = std::fs::read_to_string(file)?;
            let ticket = redeemable(&live, host, &candidates(&text), which)?;
            ensure!(
                ticket.is_some(),
                "{which}: the launcher contains no live ticket",
                which = in_words(&which)
            );
        }
    }
    if commands == 0 {
        return not_applicable("the manifest has neither `browser.open` nor `browser.handoff`");
    }
    Ok(())
}

/// The lines that a command has printed.
fn lines(bytes: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// The page is opened at the page host and at 127.0.0.1, by a browser and by its address: at 127.0.0.1 standard error has a
/// line that it does not have at the page host.
#[case("BROW-42")]
fn weaker_host_is_said(stage: &mut Stage) -> Outcome {
    const WEAKER: Option<&str> = Some("127.0.0.1");
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a line on standard error, if the page is not at its own host");
    let browser = Browser::put(stage)?;
    let (exit, plain) = stage.open_page(Opening::Address(None), &browser.vars)?;
    ensure!(exit.code == Some(0), "the command that prints the address: {exit}");
    let (exit, weaker) = stage.open_page(Opening::Address(WEAKER), &browser.vars)?;
    ensure!(exit.code == Some(0), "the command that prints the address at 127.0.0.1: {exit}");
    let at = format!("http://127.0.0.1:{}/", live.port());
    let there = String::from_utf8_lossy(&weaker.stdout()).starts_with(&at);
    ensure!(there, "the address does not begin with {at}");
    let (mut said, mut plainly) = (lines(&weaker.stderr()), lines(&plain.stderr()));
    let more: Vec<String> = said.difference(&plainly).cloned().collect();
    ensure!(!more.is_empty(), "with --print-url, standard error does not say that the host is another one");
    stage.observed(more.join(" | "));
    for (host, said) in [(None, &mut plainly), (WEAKER, &mut said)] {
        let (command, given) = browser.start(stage, Opening::Page(host))?;
        let own = match host {
            Some(host) => format!("{host}:{}", live.port()),
            None => page_ticket(stage, &live)?.host,
        };
        let text = std::fs::read_to_string(given.file().unwrap_or_default())?;
        let ticket = redeemable(&live, &own, &candidates(&text), Opening::Page(host))?;
        ensure!(ticket.is_some(), "the launcher holds no live ticket for {own}");
        command.wait_exit(stage.ready_deadline());
        let ended = command.wait_output_end(Instant::now() + Duration::from_secs(2));
        *said = lines(&ended.unwrap_or_else(|| command.output()).stderr());
    }
    let more = said.difference(&plainly).count();
    ensure!(more > 0, "with a browser, standard error does not say that the host is another one");
    Ok(())
}

/// The page is opened by a browser that posts its ticket, and by one that does not: the success is reported for the first
/// alone, and not before its ticket is redeemed.
#[case("BROW-44")]
fn open_waits_for_its_page(stage: &mut Stage) -> Outcome {
    // Longer than a command takes to report that it has started a browser.
    const REPORTED: Duration = Duration::from_secs(1);
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a success that is reported after the ticket was redeemed, and not without that");
    let browser = Browser::put(stage)?;
    let host = page_ticket(stage, &live)?.host;
    // The output of a command may arrive after its end.
    let whole = |command: &Subject| {
        let ended = command.wait_output_end(Instant::now() + Duration::from_secs(2));
        lines(&ended.unwrap_or_else(|| command.output()).all())
    };
    let (command, given) = browser.start(stage, Opening::Page(None))?;
    // Nothing must be reported in this time.
    std::thread::sleep(REPORTED);
    let (before, ended) = (lines(&command.output().all()), command.exit());
    let text = std::fs::read_to_string(given.file().unwrap_or_default())?;
    let ticket = redeemable(&live, &host, &candidates(&text), Opening::Page(None))?;
    ensure!(ticket.is_some(), "the launcher holds no live ticket");
    let Some(exit) = command.wait_exit(stage.ready_deadline() + OPENED) else {
        return fail("the command does not end when its page is open");
    };
    ensure!(exit.code == Some(0), "the command whose page is open: {exit}");
    let success = whole(&command);
    stage.control("the command whose page was opened ended well");
    ensure!(ended.is_none(), "it ended before its ticket was redeemed: {}", exit);
    ensure!(
        success.is_empty() || !success.is_subset(&before),
        "before its ticket was redeemed it said all that it says: {before}",
        before = in_words(&before)
    );
    let (command, _) = browser.start(stage, Opening::Page(None))?;
    let Some(exit) = command.wait_exit(stage.ready_deadline() + OPENED) else {
        return fail("the command does not end without a page");
    };
    let said = whole(&command);
    stage.observed(format!("without a page: {exit}; {said}", said = in_words(&said)));
    let reports_success =
        exit.code == Some(0) && success.is_empty() || !success.is_empty() && success.is_subset(&said);
    ensure!(
        !reports_success,
        "without a page it reports what it does for an open one: {success}",
        success = in_words(&success)
    );
    Ok(())
}

/// Another user listens at the port of a listed loopback origin, at one address or the other: no browser is started for it. A
/// handoff to an address at which the suite's user listens works with the same port.
#[case("BROW-46")]
fn no_handoff_to_another_users_port(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    let (_daemon, _live) = stage.launch_ready()?;
    stage.expect("an error and no browser, if another user listens where a browser may go");
    let browser = Browser::put(stage)?;
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let listen = |address: SocketAddr| TcpListener::bind(address);
    let own = listen(SocketAddr::new(v4, 0))?;
    let port = own.local_addr()?.port();
    let by_name = format!("http://localhost:{port}");
    let by_address = format!("http://127.0.0.1:{port}");
    for origin in [&by_name, &by_address] {
        let exit = stage.add_origin(origin)?;
        ensure!(exit.code == Some(0), "the origin was not added: {exit}");
        browser.open(stage, Opening::Handoff(origin))?;
    }
    stage.control("a handoff to a port at which no other user listens works, by both names");
    let Ok(other) = as_user(nobody, || listen(SocketAddr::new(v6, port)))? else {
        return untestable("no other user can listen at ::1 here");
    };
    browser.ensure_not_started(stage, &by_name, "another user listens at ::1")?;
    browser.open(stage, Opening::Handoff(&by_address))?;
    stage.control("a handoff to 127.0.0.1, where the suite's user listens, works with the same port");
    drop((other, own));
    let other = as_user(nobody, || listen(SocketAddr::new(v4, port)))??;
    browser.ensure_not_started(stage, &by_name, "another user listens at 127.0.0.1")?;
    browser.ensure_not_started(stage, &by_address, "another user listens there")?;
    drop(other);
    let other = as_user(nobody, || listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)))??;
    browser.ensure_not_started(stage, &by_address, "another user listens at every address")?;
    drop(other);
    browser.open(stage, Opening::Handoff(&by_name)).map(drop)
}

/// Launcher files of both commands are written, and one whose ticket is used: none is there 60 s later.
#[case("BROW-17", idle, deadline_s = 100)]
fn launcher_file_is_removed(stage: &mut Stage) -> Outcome {
    const BOUND: Duration = Duration::from_mins(1);
    const LATE: Duration = Duration::from_secs(1);
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("no launcher 60 s after the command has ended");
    let browser = Browser::put(stage)?;
    let mut files = Vec::new();
    let host = page_ticket(stage, &live)?.host;
    for which in [Opening::Page(None), Opening::Page(None), Opening::Handoff(LISTED)] {
        let given = match browser.open(stage, which) {
            Err(crate::outcome::Stop::NotApplicable(_)) if !files.is_empty() => continue,
            given => given?,
        };
        let Some(file) = given.file() else {
            return inconclusive("the browser was given no file");
        };
        files.push(file);
    }
    let deadline = Instant::now() + BOUND + LATE;
    let text = std::fs::read_to_string(&files[0])?;
    redeemable(&live, &host, &candidates(&text), Opening::Page(None))?;
    stage.precondition(format!("{} launchers were there, the ticket of one is used", files.len()));
    let gone = until(deadline, || files.iter().all(|file| !file.exists()).then_some(()));
    let left = files.iter().filter(|file| file.exists()).count();
    ensure!(gone.is_some(), "{left} launchers are there after 60 s");
    Ok(())
}

/// The command `open` with `--print-url` prints one address, whose fragment holds a live ticket, and starts
/// nothing, as `open` without it does.
#[case("BROW-18")]
fn print_url(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("one line: an address at the page host, with a live ticket behind its `#`; and no browser");
    let browser = Browser::put(stage)?;
    let host = page_ticket(stage, &live)?.host;
    let (exit, output) = stage.open_page(Opening::Address(None), &browser.vars)?;
    ensure!(exit.code == Some(0), "the command that prints the address: {exit}");
    let said = String::from_utf8_lossy(&output.stdout()).into_owned();
    for candidate in candidates(&said) {
        stage.transcript().hide(candidate.as_bytes());
    }
    let lines: Vec<&str> = said.lines().collect();
    let [line] = lines[..] else {
        return fail(format!("{} lines on standard output", lines.len()));
    };
    let own = format!("http://{host}/");
    let Some((address, fragment)) = line.split_once('#') else {
        return fail(format!("an address without a fragment: {} characters", line.len()));
    };
    let plain = address.starts_with(&own) && !address.contains(['?', ' ']) && candidates(address).is_empty();
    ensure!(plain, "the address is {address}");
    ensure!(!fragment.contains(char::is_whitespace), "something follows the fragment");
    let ticket = redeemable(&live, &host, &candidates(fragment), Opening::Page(None))?;
    ensure!(ticket.is_some(), "the fragment holds no live ticket of {SECRET} characters or more");
    // The browser of a command that starts one shows how long that takes here; another would be noted soon after.
    if stage.manifest().browser.as_ref().is_some_and(|browser| browser.open.is_some()) {
        browser.open(stage, Opening::Page(None))?;
        let another = until(Instant::now() + Duration::from_secs(1), || {
            (browser.started().ok()?.len() > 1).then_some(())
        });
        ensure!(another.is_none(), "the command that starts no browser started one");
    }
    let ask = page_ask(&live, &Secret::at(&host, "x")).origin("null").named("the daemon afterwards");
    live.answer(&ask).map(drop)
}

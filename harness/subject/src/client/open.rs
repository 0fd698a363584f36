//! Chapter 12, the client's side: the commands that open a page.

mod listeners;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::connect::{Client, Proven};
use crate::browser::{LAUNCHER, PAGE, TICKETS};
use crate::credential::Credential;
use crate::fault::broken;
use crate::perimeter::is_page_host;
use crate::probe::{Answer, Probe, exchange, probe};
use crate::registration::{Found, Record, authority};
use crate::state_directory::{RECORD, StateDir, random_hex};

/// How long a browser may take to open the page.
const OPENED: Duration = Duration::from_secs(5);

/// Opens the daemon's own page, or the page of another origin; with `print_url`, prints its address instead. `host` is one of
/// the daemon's three names, to be used instead of the page host.
pub(super) fn open(client: &Client, origin: Option<&str>, host: Option<&str>, print_url: bool) -> u8 {
    match try_open(client, origin, host, print_url) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("daemonspec-subject: {why}");
            1
        }
    }
}

fn try_open(
    client: &Client,
    origin: Option<&str>,
    host: Option<&str>,
    print_url: bool,
) -> Result<(), String> {
    if let Some(uid) = origin.and_then(listeners::stranger_at) {
        return Err(format!("user {uid} listens at the port of the origin, and would be handed the ticket"));
    }
    let mut found = client.find().map_err(|answer| {
        let said = answer.to_json(&client.diagnostics.borrow());
        said["message"].as_str().unwrap_or_default().to_owned()
    })?;
    let Ticket { text: ticket, id, page_url } = ask_for_ticket(client, &mut found, origin, host)?;
    let place = match (origin, &page_url) {
        (Some(origin), _) => {
            let daemon = found.record.url.replace(':', "%3A").replace('/', "%2F");
            format!("{origin}/#ldp_ticket={ticket}&ldp_url={daemon}")
        }
        (None, Some(page)) => {
            let page = page.strip_suffix(PAGE).unwrap_or(page);
            if !page.strip_prefix("http://").is_some_and(is_page_host) && !broken("BROW-42.silent") {
                let warning =
                    "the page is not at a host of its own: what had the port before may still reach it";
                if broken("BROW-42.standard-output") {
                    println!("daemonspec-subject: {warning}");
                } else {
                    eprintln!("daemonspec-subject: {warning}");
                }
            }
            let mark = if broken("BROW-18.query") { '?' } else { '#' };
            format!("{page}/{mark}ticket={ticket}")
        }
        (None, None) => return Err("the daemon does not say where its page is".to_owned()),
    };
    if print_url {
        if broken("BROW-18.chatter") {
            println!("Open this address in a browser:");
        }
        println!("{place}");
        if !broken("BROW-18.browser-too") {
            return Ok(());
        }
    }
    let file = write_launcher(client, &launcher(page_url.as_deref(), &place, &ticket))?;
    start_browser(&file, &place, &ticket, &found.credential)?;
    if origin.is_some() {
        return Ok(());
    }
    if broken("BROW-44.at-once") {
        println!("The page is open.");
    }
    if !is_redeemed(&mut found, &id) && !broken("BROW-44.in-a-while") {
        return Err(
            "no browser has opened the page yet; there are --print-url and --host 127.0.0.1".to_owned()
        );
    }
    println!("The page is open.");
    Ok(())
}

/// Waits until a ticket is redeemed.
fn is_redeemed(found: &mut Proven, id: &str) -> bool {
    let path = format!("{TICKETS}/{id}?wait_seconds={}", OPENED.as_secs());
    let answer = ask(found, "GET", &path, "", Instant::now() + OPENED + Duration::from_secs(2));
    let body = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
    body.is_some_and(|body| body["redeemed"] == true)
}

struct Ticket {
    text: String,
    id: String,
    /// Where it is redeemed, if it is one for the daemon's page.
    page_url: Option<String>,
}

/// Asks for a ticket, on the connection on which the daemon proved itself.
fn ask_for_ticket(
    client: &Client,
    found: &mut Proven,
    origin: Option<&str>,
    host: Option<&str>,
) -> Result<Ticket, String> {
    let wish = match (origin, host) {
        (Some(origin), _) => json!({"kind": "handoff", "origin": origin}),
        (None, Some(host)) => json!({"kind": "page", "host": host}),
        (None, None) => json!({"kind": "page"}),
    };
    let answer = ask(found, "POST", TICKETS, &wish.to_string(), client.deadline)
        .ok_or("the daemon does not answer")?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    match (text("ticket"), text("id")) {
        (Some(ticket), Some(id)) if answer.status == 201 => {
            Ok(Ticket { text: ticket, id, page_url: text("page_url") })
        }
        _ => Err(format!("the daemon issues no ticket: {}", body["title"].as_str().unwrap_or_default())),
    }
}

fn ask(found: &mut Proven, method: &str, path: &str, body: &str, until: Instant) -> Option<Answer> {
    let authority = authority(&found.record.url)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        found.credential.text(),
        body.len()
    );
    exchange(&mut found.stream, request.as_bytes(), until).ok()
}

/// The file that goes on to the page: a form that posts the ticket to `action`, or the address itself.
fn launcher(action: Option<&str>, place: &str, ticket: &str) -> String {
    let head = "<!doctype html><meta name=\"referrer\" content=\"no-referrer\">\n";
    match action {
        Some(action) => format!(
            "{head}<form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"ticket\" value=\"{ticket}\">\
             </form>\n<script>document.forms[0].submit()</script>\n"
        ),
        None => format!("{head}<script>location.replace(\"{place}\")</script>\n"),
    }
}

fn write_launcher(client: &Client, text: &str) -> Result<PathBuf, String> {
    let cannot = |error: std::io::Error| format!("cannot write a launcher file: {error}");
    let name = format!("{LAUNCHER}{}.html", random_hex::<8>());
    if broken("BROW-15.elsewhere") {
        let file = std::env::temp_dir().join(name);
        fs::write(&file, text).map_err(cannot)?;
        return Ok(file);
    }
    let name = if broken("BROW-17.left") { format!("kept-{name}") } else { name };
    client.directory.write_new(&name, text.as_bytes()).map_err(cannot)?;
    let file = client.directory.file(&name);
    if broken("BROW-15.for-all") {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(cannot)?;
    }
    Ok(file)
}

/// Starts `$BROWSER`, or else the desktop's own choice, and does not wait for it.
fn start_browser(file: &PathBuf, place: &str, ticket: &str, credential: &Credential) -> Result<(), String> {
    let program = std::env::var_os("BROWSER").filter(|program| !program.is_empty());
    let mut command = Command::new(program.unwrap_or_else(|| "xdg-open".into()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if broken("BROW-15.address") && !place.contains("ldp_ticket") {
        command.arg(place.split('#').next().unwrap_or_default());
    } else if broken("BROW-41.argument") && !place.contains("ldp_ticket") {
        command.arg(file).arg(place.split('#').next().unwrap_or_default());
    } else if broken("BROW-16.address") || broken("BROW-16.handoff-address") && place.contains("ldp_ticket") {
        command.arg(file).arg(place);
    } else {
        command.arg(file);
    }
    if broken("BROW-16.environment") {
        command.env("LDP_TICKET", ticket);
    }
    if broken("BROW-16.credential") {
        command.env("LDP_CREDENTIAL", credential.text());
    }
    match command.spawn() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot start a browser: {error}")),
    }
}

/// Has the daemon look at its files, where one runs: two changes of the list in a row are two for it.
pub(super) fn let_look(directory: &StateDir) {
    let until = Instant::now() + Duration::from_secs(2);
    let Found::Record(record) = Record::read(directory, RECORD) else {
        return;
    };
    let Ok(Some(credential)) = Credential::read(directory) else {
        return;
    };
    if let Probe::Proven(Some(body), stream) = probe(&record, &credential, until) {
        let mut found = Proven { record, body, credential, stream };
        ask(&mut found, "GET", "/v1/status", "", until);
    }
}

//! Chapter 12, the client's side: the commands that open a page.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::connect::{Client, Proven};
use crate::browser::{LAUNCHER, TICKETS};
use crate::credential::Credential;
use crate::fault::broken;
use crate::probe::{Answer, Probe, exchange, probe};
use crate::registration::{Found, Record, authority};
use crate::state_directory::{RECORD, StateDir, random_hex};

/// Opens the daemon's own page, or the page of another origin; with `print_url` says where it is instead.
pub(super) fn open(client: &Client, origin: Option<&str>, print_url: bool) -> u8 {
    match try_open(client, origin, print_url) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("daemonspec-subject: {why}");
            1
        }
    }
}

fn try_open(client: &Client, origin: Option<&str>, print_url: bool) -> Result<(), String> {
    let mut found = client.find().map_err(|answer| {
        let said = answer.to_json(&client.diagnostics.borrow());
        said["message"].as_str().unwrap_or_default().to_owned()
    })?;
    let url = found.record.url.clone();
    let ticket = ticket(client, &mut found, origin)?;
    let place = match origin {
        Some(origin) => {
            let daemon = url.replace(':', "%3A").replace('/', "%2F");
            format!("{origin}/#ldp_ticket={ticket}&ldp_url={daemon}")
        }
        None if broken("BROW-18.query") => format!("{url}/?ticket={ticket}"),
        None => format!("{url}/#ticket={ticket}"),
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
    let action = origin.is_none().then(|| format!("{url}/page"));
    let file = write_launcher(client, &launcher(action.as_deref(), &place, &ticket))?;
    start_browser(&file, &place, &ticket, &found.credential)
}

/// Asks for a ticket, on the connection on which the daemon proved itself.
fn ticket(client: &Client, found: &mut Proven, origin: Option<&str>) -> Result<String, String> {
    let wish = match origin {
        Some(origin) => json!({"kind": "handoff", "origin": origin}),
        None => json!({"kind": "page"}),
    };
    let answer = ask(found, "POST", TICKETS, &wish.to_string(), client.deadline)
        .ok_or("the daemon does not answer")?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body["ticket"].as_str() {
        Some(ticket) if answer.status == 201 => Ok(ticket.to_owned()),
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

//! The engines of this host: each is started, driven and gone. An engine that is not there is named and left out, as the
//! suite itself does.

use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::browser::{Browser, BrowserFault, Kind, page};
use local_daemon_harness::process::processes;
use local_daemon_harness::wait::ms;
use serde_json::json;

fn started(kind: Kind) -> Option<Browser> {
    match Browser::start(kind) {
        Ok(browser) => Some(browser),
        Err(missing @ BrowserFault::Missing { .. }) => {
            eprintln!("left out: {missing}");
            None
        }
        Err(fault) => panic!("{fault}"),
    }
}

fn is_driven_and_gone(kind: Kind) {
    let Some(browser) = started(kind) else { return };
    let site = Squatter::responding(|_, _| page("<p id=p>here</p>")).start(Bind::V4).unwrap();
    let url = format!("http://{}/a", site.address());
    browser.open(&url).unwrap();
    let script = "window.seen = (window.seen ?? 0) + arg.by;
                  return { text: document.getElementById('p').textContent, seen: window.seen, url: location.href };";
    for seen in [7, 14] {
        let back = browser.run(script, json!({ "by": 7 })).unwrap();
        assert_eq!(back, json!({ "text": "here", "seen": seen, "url": url }));
    }
    let thrown = browser.run("throw new TypeError('ouch')", json!({}));
    assert!(matches!(thrown, Err(BrowserFault::Threw(what)) if what.contains("ouch")));
    assert!(site.ledger().requests().iter().any(|request| request.target == "/a"));

    // What its name leads to is this machine.
    let rebound = format!("http://{}:{}/b", browser.rebound_name(), site.address().port());
    browser.open(&rebound).unwrap();
    let seen = site.ledger().requests();
    let host = seen.iter().find(|seen| seen.target == "/b").unwrap().header("host");
    assert!(host.unwrap().starts_with(browser.rebound_name()), "{host:?}");

    browser.clear().unwrap();
    assert!(browser.is_alive());
    assert!(!browser.version().is_empty());
    let quarters = std::sync::Arc::clone(browser.quarters());
    assert!(quarters.path().exists());
    drop(browser);
    let left = quarters.end_leftovers();
    assert!(left.len() < 3, "{kind} scatters its processes: {left:?}");
    let path = quarters.path().to_owned();
    drop(quarters);
    assert!(!path.exists(), "the profile is left at {}", path.display());
    let marks = |process: &local_daemon_harness::process::Proc| {
        process
            .environ()
            .iter()
            .any(|entry| entry.to_string_lossy().contains(&*path.to_string_lossy()))
    };
    let left: Vec<_> = processes().into_iter().filter(|p| !p.is_zombie() && marks(p)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn chromium_is_driven_and_gone() {
    is_driven_and_gone(Kind::Chromium);
}

#[test]
fn firefox_is_driven_and_gone() {
    is_driven_and_gone(Kind::Firefox);
}

#[test]
fn webkit_is_driven_and_gone() {
    is_driven_and_gone(Kind::Webkit);
}

#[test]
fn a_browser_that_was_ended_says_so_at_once() {
    let Some(browser) = Kind::ALL.into_iter().find_map(started) else {
        return;
    };
    browser.quarters().end();
    let began = ms(5_000);
    assert!(!browser.is_alive());
    assert!(browser.open("about:blank").is_err());
    assert!(local_daemon_harness::wait::left(began).is_some(), "it hung");
}

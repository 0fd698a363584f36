//! What other chapters require, seen from pages of real engines. A case is there once for each engine, because none
//! stands for another.

mod addresses;
mod admitted;
mod cookies;
mod cors;
pub(super) mod handoff;
pub(super) mod launchers;
mod origins;
pub(super) mod page;
mod scene;
mod streams;
pub(super) mod tickets;
pub(super) mod tokens;
mod visit;

use local_daemon_harness::browser::Kind;

use crate::case::Case;

/// A case for each engine.
macro_rules! in_each_engine {
    ($($name:literal, $requirements:expr, $about:expr, $run:path;)+) => {
        &[$(
            Case::browser(concat!("browser/", $name, "/chromium"), $requirements, $about, $run, Kind::Chromium),
            Case::browser(concat!("browser/", $name, "/firefox"), $requirements, $about, $run, Kind::Firefox),
            Case::browser(concat!("browser/", $name, "/webkit"), $requirements, $about, $run, Kind::Webkit),
        )+]
    };
}

/// The cases.
pub(crate) const CASES: &[Case] = in_each_engine! {
    "allowlisted-fetch", &["PER-15", "PER-13", "PER-16", "PER-17"],
    "An allowlisted page reads and changes something with the credential: the engine asks beforehand, and each is served.",
    cors::allowlisted_fetch;

    "unlisted-fetch-blocked", &["PER-8", "PER-9", "PER-10"],
    "A page that is not allowlisted reads with the credential: the engine asks, is refused, and sends nothing more.",
    cors::unlisted_fetch_blocked;

    "another-name-blocked", &["PER-10"],
    "A page of an allowlisted server, opened at other names of that server, reads with the credential: blocked.",
    cors::another_name_blocked;

    "unlisted-method-or-header-blocked", &["PER-16", "PER-17"],
    "An allowlisted page tries a method that the route does not take and a header that is not listed: both end with the \
     preflight.",
    cors::unlisted_method_or_header_blocked;

    "simple-requests-change-nothing", &["PER-2", "PER-8", "PER-21"],
    "Pages, allowlisted or not, send what needs no preflight: a text, a beacon, a form. It arrives, is refused and has no \
     effect.",
    cors::simple_requests_change_nothing;

    "no-cors-carries-no-credential", &["PER-21"],
    "An allowlisted page reads in the mode without CORS: the engine takes the credential off, and the daemon refuses.",
    cors::no_cors_carries_no_credential;

    "removed-origin-refused-after-its-preflight", &["PER-19"],
    "An allowlisted page reads, its origin is removed, and it reads again while the engine still holds the preflight.",
    cors::removed_origin_refused_after_its_preflight;

    "redirected-fetch-refused", &["PER-11", "PER-21"],
    "A fetch of an allowlisted page is redirected to the daemon: by its own server it loses the credential, by another \
     one its origin too.",
    origins::redirected_fetch_refused;

    "null-origins-refused", &["PER-11"],
    "A sandboxed frame, a data: frame and a file read: each sends the origin null, and is refused.",
    origins::null_origins_refused;

    "web-socket-refused", &["PER-28"],
    "A page that is not allowlisted opens a WebSocket with a good query token: refused, and the page sees code 1006.",
    origins::web_socket_refused;

    "event-source-resumes", &["STR-15", "STR-12", "PER-26"],
    "An allowlisted page follows the stream by query token; the connection is cut twice while notes are posted. It sees \
     each once, in order.",
    streams::event_source_resumes;

    "event-source-unlisted-gets-nothing", &["PER-26", "PER-8"],
    "A page that is not allowlisted follows the stream with a good token: the request arrives, and no frame is sent.",
    streams::event_source_unlisted_gets_nothing;

    "event-source-bad-token-is-final", &["PER-26", "PER-21"],
    "A page follows the stream with a bad token: 401, and the engine never asks again.",
    streams::event_source_bad_token_is_final;

    "away-and-back", &["STR-15", "STR-12"],
    "A page that follows the stream is left and come back to while notes are posted: none is missing, none comes twice.",
    streams::away_and_back;

    "daemon-restart", &["STR-18", "STR-19"],
    "The daemon is killed and back on its port after a while: the page goes on by itself or by its script, and is told of \
     the gap.",
    streams::daemon_restart;

    "closed-tab-is-noticed", &["STR-24"],
    "A tab with an open stream is closed: the daemon has given up its connection within 2 s.",
    streams::closed_tab_is_noticed;

    "six-streams-in-a-tab", &["STR-7"],
    "A tab holds six streams, all that an engine opens to one host: each delivers, and what waits for a connection is \
     served once one is free.",
    streams::six_streams_in_a_tab;

    "cookies-open-nothing", &["PER-23"],
    "Another port of this machine has set strict cookies that hold the credential. They arrive with every kind of \
     request, and open nothing.",
    cookies::cookies_open_nothing;

    "overwritten-cookies-open-nothing", &["PER-23"],
    "One port of this machine sets cookies, and another one the same with the credential in them: they arrive, and open \
     nothing.",
    cookies::overwritten_cookies_open_nothing;

    "no-strict-cookie-across-names", &["PER-23"],
    "Strict cookies of 127.0.0.1 do not come along from a page at localhost, and it is refused without them.",
    cookies::no_strict_cookie_across_names;

    "stale-page-gets-nothing", &["PER-21", "PER-23"],
    "A page of a server that has died asks the daemon that has got its port, as same-origin as can be, with cookies: it \
     is refused, and no answer holds a secret.",
    cookies::stale_page_gets_nothing;

    "rebound-name-refused", &["PER-3", "PER-7"],
    "A page at a name that was rebound to this machine asks every route with the credential: 421.",
    addresses::rebound_name_refused;

    "other-spellings-of-loopback-refused", &["PER-3", "PER-7"],
    "The daemon is opened by other spellings of a loopback address: 421, unless the engine makes a right one of it.",
    addresses::other_spellings_of_loopback_refused;

    "public-page-needs-a-grant", &["PER-13", "PER-8"],
    "A page of the public internet reaches the daemon: nothing arrives unless the user grants it, then the allowlist \
     decides; a form arrives always, and is refused.",
    addresses::public_page_needs_a_grant;

    "secure-page-reaches-the-daemon", &["PER-13", "PER-15"],
    "An allowlisted page that was served over TLS reads and follows the stream: served where the engine lets it ask.",
    addresses::secure_page_reaches_the_daemon;

    "own-page-by-its-launcher", &["BROW-19", "BROW-24", "BROW-25", "BROW-27"],
    "A file in the browser posts a ticket: the daemon's page opens, keeps its token in the tab alone, and goes on after a \
     reload.",
    admitted::own_page_by_its_launcher;

    "own-page-by-its-address", &["BROW-27", "BROW-24", "BROW-18", "BROW-26"],
    "The address with a ticket in its fragment is opened, then the bare one in another tab, which gets nothing.",
    admitted::own_page_by_its_address;

    "own-page-opens-its-stream-anew", &["BROW-30", "BROW-29"],
    "The stream of the daemon's page is closed for good by an answer of 503: the page opens one anew, after the last event.",
    admitted::own_page_opens_its_stream_anew;

    "own-page-after-a-restart", &["BROW-8"],
    "The daemon is killed under its page and another launch gets its port: what the page asks with its token is refused.",
    admitted::own_page_after_a_restart;

    "own-page-is-not-framed", &["BROW-22"],
    "Other pages put the daemon's page, with a good ticket, into a frame: it is not shown there.",
    admitted::own_page_is_not_framed;

    "own-page-has-no-opener", &["BROW-22"],
    "Another page opens the daemon's page, with a good ticket, in a window: neither reaches the other.",
    admitted::own_page_has_no_opener;

    "own-page-is-not-included", &["BROW-22", "BROW-26"],
    "Other pages include the daemon's page as a script and as a style, and fetch it without CORS.",
    admitted::own_page_is_not_included;

    "foreign-worker-is-removed", &["BROW-28"],
    "A squatter has left a service worker at the port that the daemon gets: it ends, and the daemon answers.",
    admitted::foreign_worker_is_removed;

    "handoff-to-one-origin", &["BROW-32", "BROW-2", "BROW-10", "BROW-11"],
    "A page of an allowlisted origin redeems a handoff ticket, and uses its token; so does a page of another origin.",
    admitted::handoff_to_one_origin;
};

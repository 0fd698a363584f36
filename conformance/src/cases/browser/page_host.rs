//! The host of the daemon's own page: its form, where it leads, and what does not work there.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use local_daemon_harness::proof;
use local_daemon_harness::strace::Point;
use serde_json::json;

use super::tokens::holding;
use super::visit::{
    Secret, bits, issued, page_ask, page_ticket, page_ticket_at, page_token, read_ask, text, ticket_ask,
};
use crate::case::case;
use crate::fixtures::daemon::ensure_exclusive;
use crate::fixtures::http::{ANSWER, Ask, Follower, METHODS, UNKNOWN, launch_listed, marker};
use crate::fixtures::stream::id;
use crate::fixtures::trace::{launch_under, trace, was_failed};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, untestable};
use crate::stage::{ReadyDaemon, Stage, Start};

/// The other hosts of a daemon.
const OTHERS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Returns the digits of a page host; fails if the ticket's host does not have the form of one.
fn digits(ticket: &Secret) -> Outcome<&str> {
    let digits = ticket.name().strip_suffix(".localhost").unwrap_or_default();
    let lowercase = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    ensure!(
        digits.len() == 32 && digits.bytes().all(lowercase),
        "the page is at {}, which is not a page host",
        ticket.host
    );
    Ok(digits)
}

/// Returns a ticket at the page host; fails if the daemon has none.
fn at_page_host(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Secret> {
    let ticket = page_ticket(stage, live)?;
    digits(&ticket)?;
    Ok(ticket)
}

/// Sixteen launches name their page hosts: all differ, and 128 bits of them vary at random.
#[case("BROW-35")]
fn page_host_is_random(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 16;
    stage.expect("a page host for each launch, of 128 bits that vary, and the same for all tickets of one");
    let mut all: Vec<String> = Vec::new();
    for _ in 0..LAUNCHES {
        let (daemon, live) = stage.launch_ready()?;
        let (first, second) = (page_ticket(stage, &live)?, page_ticket(stage, &live)?);
        ensure!(first.host == second.host, "a launch has the page hosts {} and {}", first.host, second.host);
        all.push(digits(&first)?.to_owned());
        daemon.kill_group();
    }
    let different: BTreeSet<&String> = all.iter().collect();
    ensure!(different.len() == LAUNCHES, "{} of {LAUNCHES} page hosts differ", different.len());
    let bits = bits(&all);
    ensure!(bits >= 128, "no more than {bits} bits of the page hosts vary");
    Ok(())
}

/// Returns a daemon with another one of its addresses.
fn at(live: &ReadyDaemon, address: SocketAddr) -> ReadyDaemon {
    let mut there = live.clone();
    there.target.address = address;
    there
}

/// Makes a case untestable if this host does not have both address families.
fn both_families() -> Outcome {
    let has = |address| TcpListener::bind(address).is_ok();
    if has(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))) && has(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
        return Ok(());
    }
    untestable("this host does not have both 127.0.0.1 and ::1")
}

/// Checks that the page opens at the page host over both address families.
fn ensure_on_both(stage: &mut Stage, live: &ReadyDaemon) -> Outcome {
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let address = SocketAddr::new(ip, live.port());
        let ticket = at_page_host(stage, live)?;
        let ask = page_ask(live, &ticket).origin("null");
        at(live, address).answered(&ask.named(format!("the page at its host, by {address}")), &[200])?;
    }
    Ok(())
}

/// The page is opened at its host by both families, and other sockets try to bind the port of each.
#[case("BROW-36")]
fn page_host_on_both_families(stage: &mut Stage) -> Outcome {
    both_families()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("the page by 127.0.0.1 and by ::1, and no other socket at either");
    ensure_on_both(stage, &live)?;
    live.between_controls(|| {
        ensure_exclusive(stage, SocketAddr::from((Ipv4Addr::LOCALHOST, live.port())))?;
        ensure_exclusive(stage, SocketAddr::from((Ipv6Addr::LOCALHOST, live.port())))
    })
}

/// The second bind(2) of a launch, which is that of the other family, fails because its port is in use: the
/// daemon has another port on both, or no page host.
#[case("BROW-36", "BROW-40")]
fn port_taken_on_the_other_family(stage: &mut Stage) -> Outcome {
    both_families()?;
    stage.expect("the page at a page host by both families, or at one of the three other names");
    let (before, _) = stage.launch_ready()?;
    before.kill_group();
    stage.control("a launch without a failing call became ready");
    let strace = trace(stage, "bind", Point::at([&["bind"][..]]).nth(2).failing("EADDRINUSE"))?;
    let daemon = launch_under(stage, Start::new(), &strace)?;
    let live = stage.ready(&daemon)?;
    was_failed(stage, &strace, "a launch")?;
    let ticket = page_ticket(stage, &live)?;
    stage.observed(format!("its page is at {}", ticket.host));
    if OTHERS.contains(&ticket.name()) {
        return Ok(());
    }
    ensure_on_both(stage, &live)
}

/// The handshake is asked for at the page host, with everything that opens it elsewhere and with nothing: 421.
#[case("BROW-37")]
fn no_handshake_at_the_page_host(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("421 for each");
    let token = page_token(stage, &live)?;
    digits(&token)?;
    let handshake = || stage.handshake_route().ask(&live).hosts([&*token.host]);
    let proof = |authority: &str| proof::authorization(&live.credential, authority, &proof::nonce());
    let path = stage.handshake_route().path;
    let mut asks = vec![
        handshake().named("with nothing"),
        handshake().bearer(&live).named("with the credential"),
        handshake()
            .with("Authorization", &proof(&live.target.authority))
            .named("with a proof for the recorded address"),
        handshake()
            .with("Authorization", &proof(&token.host))
            .named("with a proof for the page host"),
        handshake().with("Authorization", &format!("Bearer {token}")).named("with a page token"),
        handshake().origin(&token.origin()).named("from the page"),
        handshake().with("Service-Worker", "script").named("as a service worker"),
        handshake()
            .target(format!("http://{}{path}", token.host))
            .hosts([&*live.target.authority])
            .bearer(&live)
            .named("in absolute form, with another Host"),
    ];
    asks.extend(METHODS.map(|method| handshake().method(method).named(format!("{method} with nothing"))));
    live.between_controls(|| live.all_answered(&asks, &[421]))?;
    live.served(&read_ask(&live, &token))?;
    stage.control("the page token reads something at the page host");
    Ok(())
}

/// The credential is shown at the page host, as bearer on every path and as query token: 401.
#[case("BROW-38")]
fn credential_refused_at_the_page_host(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for each");
    let token = page_token(stage, &live)?;
    digits(&token)?;
    let handshake = stage.handshake_route().path;
    let mut asks: Vec<Ask> = stage
        .paths()
        .iter()
        .filter(|path| **path != handshake)
        .map(|path| Ask::new(&live, "GET", path))
        .collect();
    asks.push(ticket_ask(&live, &json!({"kind": "page"})));
    asks.push(Ask::new(&live, "GET", "/v1/page-tokens"));
    asks.extend(stage.mutation_route().ok().map(|mutation| mutation.ask(&live)));
    let mut asks: Vec<Ask> = asks
        .into_iter()
        .map(|ask| {
            let what = format!("{} with the credential", ask.what);
            ask.hosts([&*token.host]).bearer(&live).named(what)
        })
        .collect();
    let stream = stage.manifest().binding.stream.clone();
    if let Some((path, name)) = stream.and_then(|stream| Some((stream.path, stream.query_token?))) {
        let ask = Ask::new(&live, "GET", &path).hosts([&*token.host]);
        asks.push(ask.parameter(&name, &live.credential.text()).named("the stream with the credential"));
    }
    live.between_controls(|| live.all_answered(&asks, &[401]))?;
    live.served(&read_ask(&live, &token))?;
    stage.control("the page token reads something at the page host");
    Ok(())
}

/// Tickets are requested without a host, for each of the three names, and for other names: the page is at the host that was
/// requested.
#[case("BROW-40")]
fn page_is_where_it_is_asked_for(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a `page_url` at the page host, or at the name that was asked for; 400 for any other");
    let own = at_page_host(stage, &live)?;
    for name in OTHERS {
        let ticket = page_ticket_at(stage, &live, name)?;
        let asked = format!("{name}:{}", live.port());
        ensure!(ticket.host == asked, "asked for {asked}, the page is at {}", ticket.host);
        live.answered(&page_ask(&live, &ticket).origin("null"), &[200])?;
    }
    let others = [
        "evil.example",
        "0.0.0.0",
        "foo.localhost",
        "LOCALHOST",
        "",
        "127.0.0.1:80",
        "::1",
        "00000000000000000000000000000000.localhost",
    ];
    live.between_controls(|| {
        for host in others {
            let wish = ticket_ask(&live, &json!({"kind": "page", "host": host})).bearer(&live);
            live.answered(&wish, &[400])?;
        }
        Ok(())
    })?;
    let again = at_page_host(stage, &live)?;
    ensure!(again.host == own.host, "the page is at {} afterwards, not at {}", again.host, own.host);
    Ok(())
}

/// Tickets are issued, used and refused. The page host is in neither the record, the handshake, a file, the output, an event,
/// nor the arguments and environment of the daemon.
#[case("BROW-41")]
fn page_host_is_told_to_nobody(stage: &mut Stage) -> Outcome {
    let (daemon, live) = launch_listed(stage)?;
    stage.expect("the page host in the answer to the request for a ticket, and nowhere else");
    let (ticket, _) = issued(stage, &live, &json!({"kind": "page"}))?;
    let host = digits(&ticket)?.to_owned();
    let ask = page_ask(&live, &ticket).origin("null");
    live.answered(&ask, &[200])?;
    live.answered(&ask.named("the same ticket again"), &[401])?;
    let elsewhere = page_ticket(stage, &live)?;
    let wrong = page_ask(&live, &elsewhere).hosts([&*live.target.authority]).origin("null");
    live.answered(&wrong.named("a ticket at another host"), &[401])?;
    let unknown = Ask::new(&live, "GET", UNKNOWN).hosts([&*ticket.host]);
    live.answered(&unknown.named("an unknown path of the page"), &[401])?;
    stage.precondition("tickets at the page host were used and refused");
    let handshake = live.served(&stage.handshake_route().ask(&live).bearer(&live))?;
    let mut told = vec![("the handshake", text(&handshake))];
    if let Ok(stream) = stage.stream_route() {
        let all = stream.ask(&live).bearer(&live).parameter("after", &id(&live, 0));
        let mut follower = Follower::open(&live, &all)?;
        let number = marker(stage);
        live.served(&stage.emit_route(number)?.ask(&live).bearer(&live))?;
        let came = follower.wait_for(number, Instant::now() + ANSWER);
        ensure!(came, "the stream does not deliver");
        told.push(("an event", follower.text()));
    }
    let output = daemon.output().all();
    told.push(("the output", String::from_utf8_lossy(&output).into_owned()));
    for process in daemon.tree() {
        for what in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{}/{what}", process.pid)).unwrap_or_default();
            told.push(("the arguments and the environment", String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let holds = told.iter().find(|(_, told)| told.contains(&host)).map(|(what, _)| what);
    ensure!(holds.is_none(), "{} holds the page host", holds.unwrap_or(&""));
    let mut found = Vec::new();
    holding(stage.arena().path(), &[("the page host", host)], &mut found)?;
    ensure!(found.is_empty(), "{}", found.join(", "));
    Ok(())
}

/// A browser reloads the page of an earlier launch, at this port or at one of the same form: it gets a readable page.
#[case("BROW-43")]
fn earlier_page_host_is_readable(stage: &mut Stage) -> Outcome {
    let (daemon, before) = stage.launch_ready()?;
    let earlier = at_page_host(stage, &before)?;
    daemon.kill_group();
    let (_daemon, live) = stage.launch_ready()?;
    let own = at_page_host(stage, &live)?;
    stage.expect("421, `text/html`, and a text");
    let hosts = [earlier.name(), "0123456789abcdef0123456789abcdef.localhost"];
    for host in hosts.into_iter().filter(|host| *host != own.name()) {
        for path in ["/", "/page"] {
            let ask = Ask::new(&live, "GET", path).hosts([&*format!("{host}:{}", live.port())]);
            let ask = ask.with("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");
            let page = live.answered(&ask.named(format!("{path} of an earlier launch")), &[421])?;
            let kind = page.media_type();
            let words = text(&page).split_whitespace().count();
            ensure!(
                kind.as_deref() == Some("text/html") && words > 5,
                "{path} of an earlier launch: {kind} of {words} words",
                kind = in_words(&kind)
            );
        }
    }
    let plain = Ask::new(&live, "GET", "/").hosts([&*own.host]).with("Accept", "text/html");
    match live.answer(&plain)?.status {
        401 => Ok(()),
        status => fail(format!("its own page host is answered {status}")),
    }
}

//! Which `Host` is the daemon's.

use local_daemon_spec::{Profile, vectors};
use serde_json::Value;

use crate::case::case;
use crate::cases::browser::visit::page_ticket;
use crate::fixtures::http::{Ask, LISTED, METHODS, cites, ensure_status, launch_listed, texts};
use crate::outcome::{Outcome, not_applicable};
use crate::stage::{ReadyDaemon, Stage};

fn names(live: &ReadyDaemon) -> [String; 3] {
    ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", live.port()))
}

/// The handshake and a read are asked under each of the three names with the daemon's port: served, whichever
/// address it bound.
#[case("PER-4", "PER-3")]
fn own_names_accepted(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200 under each name");
    for route in [stage.handshake_route(), stage.read_route()] {
        for name in names(&live) {
            let ask = route.ask(&live).hosts([&*name]).bearer(&live);
            live.served(&ask.named(format!("{} at {name}", route.path)))?;
        }
    }
    Ok(())
}

/// The refused `Host` headers of the vectors that cite a requirement, each list with the statuses that refuse it.
fn refused_by_vectors(live: &ReadyDaemon, id: &str) -> Vec<(Vec<String>, Vec<u16>)> {
    let (port, own) = (live.port().to_string(), names(live));
    let mut refused = Vec::new();
    for vector in vectors::cases("hosts") {
        let is_path = vector["target"].as_str().is_some_and(|target| target.starts_with('/'));
        if vector["accept"] == true || vector["port"] != 49152 || !is_path || !cites(&vector, id) {
            continue;
        }
        let statuses = vector["statuses"].as_array().into_iter().flatten();
        let statuses = statuses.filter_map(Value::as_u64).filter_map(|n| u16::try_from(n).ok());
        let hosts: Vec<String> =
            texts(&vector["hosts"]).iter().map(|host| host.replace("49152", &port)).collect();
        // A port may come to be what a vector takes for another one.
        if hosts.len() != 1 || !own.contains(&hosts[0]) {
            refused.push((hosts, statuses.collect()));
        }
    }
    refused
}

/// Texts that a careless parser takes for one of the daemon's names, and that are no host with a port.
fn invalid_hosts(port: u16) -> [String; 11] {
    [
        format!("127.0.0.1:{port}@evil.example"),
        format!("evil.example@127.0.0.1:{port}"),
        format!("127.0.0.1:{port}#evil.example"),
        format!("127.0.0.1:{port}?"),
        format!("127.0.0.1:{port}\\evil.example"),
        format!("127.0.0.1:{port},127.0.0.1:{port}"),
        format!("127.0.0.1:{port};evil.example"),
        format!("127.0.0.1:{port}:80"),
        format!("[::1]:{port}]"),
        format!("[::1]{port}"),
        format!("\"127.0.0.1:{port}\""),
    ]
}

/// Reads with the credential under every other valid name of the vectors, under names that resemble the right one, and under
/// a foreign name next to headers that a proxy would set: 421.
#[case("PER-3")]
fn foreign_host_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("421 for each");
    let mut hosts = refused_by_vectors(&live, "PER-3");
    hosts.retain(|(hosts, _)| hosts.len() == 1);
    let port = live.port();
    let more = [
        "example",
        "evil.test",
        "localhost.evil.test",
        "127.0.0.1.",
        "127.0.0.01",
        "127.0.0.1%00.evil.example",
        "0x7f.1",
        "localhost.localdomain",
    ];
    hosts.extend(more.map(|name| (vec![format!("{name}:{port}")], vec![421])));
    let read = stage.read_route();
    live.between_controls(|| {
        for (hosts, statuses) in &hosts {
            let ask = read.ask(&live).hosts([&*hosts[0]]).bearer(&live);
            live.answered(&ask.named(format!("Host: {}", hosts[0])), statuses)?;
        }
        let foreign = format!("evil.example:{}", live.port());
        for name in ["X-Forwarded-Host", "X-Host", "X-Original-Host", "Forwarded"] {
            let value = match name {
                "Forwarded" => format!("host=\"{}\"", live.target.authority),
                _ => live.target.authority.clone(),
            };
            let ask = read.ask(&live).hosts([&*foreign]).with(name, &value).bearer(&live);
            live.answered(&ask.named(format!("Host: {foreign}, {name}: {value}")), &[421])?;
        }
        stage.observed(format!("{} hosts were refused", hosts.len() + 4));
        Ok(())
    })
}

/// Requests for the page, and with the credential, name hosts that resemble the page host, including that of an earlier launch:
/// 421. At the page host the page answers.
#[case("PER-3", "PER-7")]
fn page_host_is_one_more_name(stage: &mut Stage) -> Outcome {
    if !stage.manifest().claims(Profile::Browser) {
        return not_applicable("the subject does not claim `browser`, and has no page host");
    }
    let (daemon, before) = stage.launch_ready()?;
    let earlier = page_ticket(stage, &before)?.host;
    daemon.kill_group();
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 at the page host, 421 at every other name below localhost");
    let own = page_ticket(stage, &live)?.host;
    let (name, port) = own.rsplit_once(':').unwrap_or((&own, ""));
    let digits = name.split('.').next().unwrap_or_default();
    let other_port = live.port() ^ 1;
    let names = [
        format!("{}:{port}", earlier.split(':').next().unwrap_or_default()),
        format!("0123456789abcdef0123456789abcdef.localhost:{port}"),
        format!("foo.localhost:{port}"),
        format!("{}.localhost:{port}", digits.to_ascii_uppercase()),
        format!("{digits}.LOCALHOST:{port}"),
        format!("{name}.:{port}"),
        format!("a.{name}:{port}"),
        format!("{name}.evil.example:{port}"),
        format!("{digits}:{port}"),
        format!("{}.localhost:{port}", &digits[..digits.len().min(31)]),
        format!("{name}:{other_port}"),
        name.to_owned(),
    ];
    let mut asks = Vec::new();
    for host in names.iter().filter(|host| **host != own) {
        for (method, path) in [
            ("GET", "/"),
            ("POST", "/page"),
            ("GET", "/no/such/route"),
            ("OPTIONS", "/page"),
        ] {
            asks.push(
                Ask::new(&live, method, path).hosts([&**host]).named(format!("{method} {path} at {host}")),
            );
        }
        let read = stage.read_route().ask(&live).hosts([&**host]);
        asks.push(read.bearer(&live).named(format!("a read at {host}")));
    }
    live.answered(&Ask::new(&live, "GET", "/").hosts([&*own]), &[401])?;
    stage.control("the page answers at its host");
    live.between_controls(|| live.all_answered(&asks, &[421]))
}

/// No Host, an empty one, two of them in every order and spelling, one folded over two lines, HTTP/1.0 without any, and texts
/// that are no host; with the credential: 400.
#[case("PER-5")]
fn missing_second_or_invalid_host_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("400 for each");
    let read = stage.read_route();
    let own = live.target.authority.clone();
    let other = if own.starts_with("localhost") { "127.0.0.1" } else { "localhost" };
    let other = format!("{other}:{}", live.port());
    let asked = |hosts: &[&str]| {
        let ask = read.ask(&live).hosts(hosts.iter().copied()).bearer(&live);
        ask.named(match hosts {
            [] => "no Host".to_owned(),
            hosts => format!("Host: {}", hosts.join(", and Host: ")),
        })
    };
    let raw = |what: &str, head: &str| {
        let bearer = local_daemon_harness::proof::bearer(&live.credential);
        let text = format!("{head}Authorization: {bearer}\r\n\r\n");
        (what.to_owned(), text.into_bytes())
    };
    let path = &read.path;
    let mut requests: Vec<(String, Vec<u8>)> = [
        asked(&[]),
        asked(&[""]),
        asked(&[" "]),
        asked(&[&own, &own]),
        asked(&[&own, "evil.example"]),
        asked(&["evil.example", &own]),
        asked(&[&own, ""]),
        asked(&["", &own]),
        asked(&[&own, &other]),
    ]
    .map(|ask| (ask.what.clone(), ask.bytes()))
    .into();
    let of_vectors = refused_by_vectors(&live, "PER-5").into_iter().map(|(hosts, _)| hosts);
    for hosts in of_vectors.chain(invalid_hosts(live.port()).map(|host| vec![host])) {
        let ask = asked(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
        requests.push((ask.what.clone(), ask.bytes()));
    }
    requests.extend([
        raw("HTTP/1.0 without Host", &format!("GET {path} HTTP/1.0\r\n")),
        raw("two of other letters", &format!("GET {path} HTTP/1.1\r\nHost: {own}\r\nhOST: evil.example\r\n")),
        raw(
            "one after the bearer",
            &format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nX-Filler: a\r\nHost: {own}\r\n"),
        ),
        raw("folded over two lines", &format!("GET {path} HTTP/1.1\r\nHost: {own}\r\n evil.example\r\n")),
        raw("folded, empty at first", &format!("GET {path} HTTP/1.1\r\nHost:\r\n {own}\r\n")),
        raw("a space before the colon", &format!("GET {path} HTTP/1.1\r\nHost : {own}\r\n")),
        raw(
            "a second one with a space before the colon",
            &format!("GET {path} HTTP/1.1\r\nHost: {own}\r\nHost : evil.example\r\n"),
        ),
    ]);
    live.between_controls(|| {
        for (what, bytes) in &requests {
            let response = live.answer_to(what, bytes)?;
            ensure_status(stage, what, &response, &[400])?;
        }
        stage.observed(format!("{} requests were refused", requests.len()));
        Ok(())
    })
}

/// Targets in absolute form with a foreign authority next to the right Host, and the right one next to a foreign Host: refused
/// as a Host is. With the daemon's own authority they are served.
#[case("PER-6")]
fn absolute_target_judged(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("421 for a foreign authority or another scheme, 400 for one that is no host, 2xx for the daemon's own");
    let read = stage.read_route();
    let (own, port) = (live.target.authority.clone(), live.port());
    let at = |authority: &str| {
        let target = format!("http://{authority}{}", read.path);
        let ask = read.ask(&live).target(&target).bearer(&live);
        ask.named(format!("GET {target}"))
    };
    live.served(&at(&own))?;
    let other_port = if port == u16::MAX { port - 1 } else { port + 1 };
    let foreign: Vec<Ask> = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1:{other_port}"),
        "127.0.0.1".to_owned(),
        "localhost".to_owned(),
        format!("0.0.0.0:{port}"),
        format!("localhost.:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
    ]
    .iter()
    .map(|authority| at(authority))
    .collect();
    let foreign = foreign.into_iter().chain([
        at(&own).hosts(["evil.example"]).named("own target, foreign Host"),
        at("evil.example").hosts(["evil.example"]).named("foreign target, the same Host"),
    ]);
    let foreign: Vec<Ask> = foreign.collect();
    let invalid = [
        at(&format!("evil.example@127.0.0.1:{port}")),
        at(&format!("127.0.0.1:{port}@evil.example")),
        at(&format!("127.0.0.1:{port}.evil.example")),
        at(&own).hosts([]).named("own target, no Host"),
        at(&own).hosts([&*own, "evil.example"]).named("own target, two Hosts"),
    ];
    let of_another_scheme = ["https", "ftp"].map(|scheme| {
        let target = format!("{scheme}://{own}{}", read.path);
        read.ask(&live).target(&target).bearer(&live).named(format!("GET {target}"))
    });
    live.between_controls(|| {
        live.all_answered(&foreign, &[421])?;
        live.all_answered(&invalid, &[400])?;
        live.all_answered(&of_another_scheme, &[421])
    })
}

/// Every bound path, the page, unknown paths and `*`, with seven methods, with and without the credential, as
/// preflight and as request for a service worker, under a foreign name: 421.
#[case("PER-7")]
fn host_judged_on_every_path(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("421 for each");
    let foreign = format!("evil.example:{}", live.port());
    let mut asks = Vec::new();
    for path in stage.paths() {
        for method in METHODS {
            let ask = Ask::new(&live, method, &path).hosts([&*foreign]);
            asks.extend([ask.clone().bearer(&live), ask]);
        }
        let ask = Ask::new(&live, "GET", &path).hosts([&*foreign]);
        asks.push(ask.clone().preflight(LISTED, "GET").named(format!("preflight of {path}")));
        asks.push(ask.clone().with("Service-Worker", "script"));
        let upgrade = ask.with("Connection", "upgrade").with("Upgrade", "websocket");
        asks.push(upgrade.bearer(&live).named(format!("upgrade at {path}")));
    }
    asks.push(Ask::new(&live, "OPTIONS", "*").hosts([&*foreign]));
    live.between_controls(|| live.all_answered(&asks, &[421]))
}

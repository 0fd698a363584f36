//! Which `Origin` may ask, and what its answers say.

use local_daemon_spec::{Profile, vectors};

use crate::case::case;
use crate::cases::browser::visit::page_ticket;
use crate::fixtures::http::{
    Ask, LISTED, LISTED_TOO, UNLISTED, cites, cors, ensure_status, launch_listed, lists, texts,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, not_applicable};
use crate::stage::{ReadyDaemon, Stage};

/// The refused requests of the vectors that cite `id`: host and origins, for the port of this daemon.
fn refused_origins(live: &ReadyDaemon, id: &str) -> Vec<(String, Vec<String>)> {
    let port = live.port().to_string();
    let vectors = vectors::cases("origins");
    // Only those whose list is the one that these cases make; removal and the empty list have cases of their own.
    let mine = |vector: &&serde_json::Value| {
        vector["kind"] == "request"
            && vector["accept"] == false
            && texts(&vector["allowlist"]) == [LISTED, LISTED_TOO]
            && cites(vector, id)
    };
    let ours = |text: &str| text.replace("49152", &port);
    let refused = vectors.iter().filter(mine).map(|vector| {
        let host = ours(vector["host"].as_str().unwrap_or_default());
        (host, texts(&vector["origins"]).into_iter().map(ours).collect())
    });
    refused.collect()
}

/// Reads with the credential, refused for their origins alone; the same without an `Origin` is the control.
fn refused(live: &ReadyDaemon, asked: &[(String, Vec<String>)]) -> Outcome {
    let read = live.read_route();
    let asks: Vec<Ask> = asked
        .iter()
        .map(|(host, origins)| {
            let ask = read.ask(live).hosts([&**host]).bearer(live);
            let ask = origins.iter().fold(ask, |ask, origin| ask.origin(origin));
            ask.named(format!("{origins} at {host}", origins = in_words(&origins)))
        })
        .collect();
    live.between_controls(|| live.all_answered(&asks, &[403]))
}

/// Reads with the credential without Origin, from the daemon's own and from a listed origin are served; from
/// other pages of this machine, other sites, files and extensions they are 403.
#[case("PER-8")]
fn unlisted_origin_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("2xx for no origin, the own and the listed ones; 403 for every other");
    let read = stage.read_route();
    let good = || read.ask(&live).bearer(&live);
    live.served(&good())?;
    for origin in [live.own_origin(), LISTED.to_owned(), LISTED_TOO.to_owned()] {
        live.served(&good().origin(&origin).named(format!("from {origin}")))?;
    }
    let host = live.target.authority.clone();
    let mut asked = refused_origins(&live, "PER-8");
    let more = [
        UNLISTED,
        "http://localhost:3000",
        "http://127.0.0.1",
        "https://localhost",
        "http://192.168.0.17",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0f4b1c1e-1b1a-4f2e-8f57-6c7d6e6f7a8b",
        "vscode-webview://abc",
        "tauri://localhost",
        "app://.",
        "capacitor://localhost",
        "undefined",
        "about:blank",
    ];
    asked.extend(more.map(|origin| (host.clone(), vec![origin.to_owned()])));
    refused(&live, &asked)
}

/// Every bound path and unknown ones, with and without the credential, from an unlisted origin: 403; the
/// event stream too, and with a valid query token.
#[case("PER-8")]
fn unlisted_origin_refused_on_every_path(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 for each");
    let mut asks = Vec::new();
    for path in stage.paths() {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
            let ask = Ask::new(&live, method, &path).origin(UNLISTED);
            asks.extend([ask.clone().bearer(&live), ask]);
        }
    }
    if let Some(stream) = stage.manifest().binding.stream.clone()
        && let Some(name) = &stream.query_token
    {
        let ask = Ask::new(&live, "GET", &stream.path).parameter(name, &live.credential.text());
        for origin in [UNLISTED, "null", "http://localhost:3000"] {
            asks.push(ask.clone().origin(origin).named(format!("stream with a query token from {origin}")));
        }
    }
    live.between_controls(|| live.all_answered(&asks, &[403]))
}

/// Preflights from unlisted origins, `null` and two origins at once, with and without the credential: 403,
/// and nothing that a browser takes for a permission.
#[case("PER-8", "PER-9")]
fn unlisted_preflight_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 without any Access-Control- header");
    let read = stage.read_route();
    let ask = || Ask::new(&live, "OPTIONS", &read.path);
    live.answered(&ask().preflight(LISTED, "GET").named("a listed preflight"), &[204])?;
    stage.control("the preflight of a listed origin was answered 204");
    let mut asks: Vec<Ask> = [
        UNLISTED,
        "null",
        "http://localhost:3000",
        "https://app.example.evil.example",
        "*",
        "",
    ]
    .iter()
    .map(|origin| {
        ask()
            .preflight(origin, "GET")
            .named(format!("preflight from {origin}", origin = in_words(&origin)))
    })
    .collect();
    asks.push(ask().preflight(LISTED, "GET").origin(UNLISTED).named("preflight from two origins"));
    asks.push(Ask::new(&live, "OPTIONS", "/no/such/route").preflight(UNLISTED, "GET"));
    let bearing = asks.clone().into_iter().map(|ask| ask.bearer(&live));
    asks.extend(bearing.collect::<Vec<_>>());
    live.between_controls(|| {
        for ask in &asks {
            let response = live.answered(ask, &[403])?;
            let permissions = cors(&response);
            ensure!(
                permissions.is_empty(),
                "{}: {permissions}",
                ask.what,
                permissions = in_words(&permissions)
            );
        }
        Ok(())
    })
}

/// Origins that differ from a listed one, or from the daemon's own, in scheme, port, case, a prefix, a
/// suffix, a subdomain, user info or a path: 403 (CVE-2026-40110).
#[case("PER-10")]
fn origins_compared_whole(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 for each");
    let host = live.target.authority.clone();
    let mut asked = refused_origins(&live, "PER-10");
    asked.extend(refused_origins(&live, "PER-28"));
    let more = [
        "https://app.example:80".to_owned(),
        "https://app.exampl".to_owned(),
        "ttps://app.example".to_owned(),
        "https://app.example%00".to_owned(),
        "https://appxexample".to_owned(),
        "https://app.example#".to_owned(),
        "https://app.example?".to_owned(),
        "https:/app.example".to_owned(),
        "https://https://app.example".to_owned(),
        "http://127.0.0.1:51730".to_owned(),
        "http://127.0.0.1:517".to_owned(),
        "http://x.127.0.0.1:5173".to_owned(),
        format!("http://x.{host}"),
        format!("http://{host}.evil.example"),
        format!("ftp://{host}"),
        host.clone(),
    ];
    asked.extend(more.map(|origin| (host.clone(), vec![origin])));
    refused(&live, &asked)
}

/// `null`, and more than one Origin in every order, also two equal listed ones: 403.
#[case("PER-11")]
fn null_and_second_origin_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 for each");
    let (host, own) = (live.target.authority.clone(), live.own_origin());
    let mut asked = refused_origins(&live, "PER-11");
    let more: [&[&str]; 7] = [
        &["null"],
        &["null", LISTED],
        &[LISTED, "null"],
        &[LISTED, LISTED_TOO],
        &[UNLISTED, LISTED],
        &[LISTED, UNLISTED],
        &[&own, &own],
    ];
    asked.extend(
        more.map(|origins| (host.clone(), origins.iter().map(|&origin| origin.to_owned()).collect())),
    );
    refused(&live, &asked)
}

/// The daemon's own origin at one of its names asks it at another: 403; at its own: served.
#[case("PER-12")]
fn other_loopback_name_is_another_origin(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("2xx from the name that is asked, 403 from the other two");
    let read = stage.read_route();
    let names = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", live.port()));
    let mut asked = Vec::new();
    for host in &names {
        for name in &names {
            let origin = format!("http://{name}");
            if host == name {
                let ask = read.ask(&live).hosts([&**host]).bearer(&live).origin(&origin);
                live.served(&ask.named(format!("{origin} at itself")))?;
            } else {
                asked.push((host.clone(), vec![origin]));
            }
        }
    }
    refused(&live, &asked)
}

/// Requests from the origin of the daemon's page to its other names, and from those to the page host: 403.
#[case("PER-12")]
fn own_page_is_another_origin(stage: &mut Stage) -> Outcome {
    if !stage.manifest().claims(Profile::Browser) {
        return not_applicable("the subject does not claim `browser`, and has no page host");
    }
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 in both directions");
    let page = page_ticket(stage, &live)?.host;
    let mut asked = Vec::new();
    for name in ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", live.port())) {
        asked.push((name.clone(), vec![format!("http://{page}")]));
        asked.push((page.clone(), vec![format!("http://{name}")]));
    }
    asked.retain(|(host, origins)| origins[0] != format!("http://{host}"));
    refused(&live, &asked)
}

/// Requests whose answers, all of them after step 1, have many statuses; and those statuses.
fn of_every_status(live: &ReadyDaemon) -> Vec<(Ask, u16)> {
    let read = live.read_route();
    let good = || read.ask(live).bearer(live);
    let mut asks = vec![
        (good(), 200),
        (read.ask(live), 401),
        (read.ask(live).with("Authorization", "Bearer x"), 401),
        (good().target("/no/such/route"), 404),
        (good().method("DELETE"), 405),
        (good().hosts(["evil.example"]), 421),
        (good().hosts([]), 400),
        (good().with("Accept", "text/plain"), 200),
    ];
    if let Ok(mutation) = live.mutation_route() {
        let mutate = || Ask::new(live, &mutation.method, &mutation.path).bearer(live);
        asks.push((mutate().with("Content-Type", "application/json").body("{"), 400));
        asks.push((mutate().with("Content-Length", &(20 << 20).to_string()), 413));
    }
    if let Ok(stream) = live.stream_route() {
        asks.push((stream.ask(live).bearer(live), 200));
    }
    asks.into_iter()
        .map(|(ask, status)| {
            let mut what = ask.what.clone();
            what.truncate(60);
            (ask.named(format!("{what} (to be {status})")), status)
        })
        .collect()
}

/// Answers of every status to requests without Origin, from the daemon's own and from unlisted ones: no
/// header begins with Access-Control-.
#[case("PER-9")]
fn no_cors_header_for_others(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("no header that begins with Access-Control-");
    let own = live.own_origin();
    let listed = stage.read_route().ask(&live).bearer(&live).origin(LISTED);
    let listed = live.served(&listed.named("from a listed origin"))?;
    stage.control(format!("a listed origin's answer has {}", in_words(&cors(&listed))));
    for (ask, status) in of_every_status(&live) {
        for origin in [None, Some(&*own), Some(UNLISTED), Some("null")] {
            let ask = origin.map_or_else(|| ask.clone(), |origin| ask.clone().origin(origin));
            let response = live.answer(&ask)?;
            // Most have the status that they are to have, and that is another case's affair.
            let what = format!(
                "{} from {origin}, answered {}",
                ask.what,
                response.status,
                origin = in_words(&origin)
            );
            let headers = cors(&response);
            ensure!(headers.is_empty(), "{what}: {headers}", headers = in_words(&headers));
            let allowed = response.status == status || origin.is_some();
            ensure!(allowed, "{what} instead of {status}");
        }
    }
    Ok(())
}

/// Answers of every status to two listed origins in turn: exactly the asking one in
/// Access-Control-Allow-Origin, and Vary names Origin.
#[case("PER-13")]
fn listed_origin_may_read_every_answer(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("Access-Control-Allow-Origin is the asking origin, once, and Vary names Origin");
    let mut seen = 0;
    for (ask, status) in of_every_status(&live) {
        for origin in [LISTED, LISTED_TOO, LISTED] {
            let ask = ask.clone().origin(origin);
            let response = live.answer(&ask)?;
            ensure_status(stage, &ask.what, &response, &[status])?;
            let allowed = response.all("access-control-allow-origin");
            ensure!(
                allowed == [origin],
                "{} from {origin}: Access-Control-Allow-Origin is {allowed}",
                ask.what,
                allowed = in_words(&allowed)
            );
            ensure!(
                lists(&response, "vary", "origin"),
                "{} from {origin}: Vary is {}",
                ask.what,
                in_words(&response.all("vary"))
            );
            seen += 1;
        }
    }
    stage.precondition(format!("{seen} requests of listed origins were answered"));
    Ok(())
}

/// Answers and preflights of listed origins, whatever they ask for: no Access-Control-Allow-Credentials, and
/// no * in any Access-Control- header.
#[case("PER-14")]
fn no_credentials_and_no_star(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("no Access-Control-Allow-Credentials and no *");
    let read = stage.read_route();
    let mut asks: Vec<Ask> = of_every_status(&live)
        .into_iter()
        .map(|(ask, _)| ask.origin(LISTED).with("Cookie", "session=1"))
        .collect();
    for headers in ["*", "authorization", "x-anything, cookie", "Authorization, *"] {
        for method in ["GET", "DELETE", "*"] {
            let ask = read.ask(&live).preflight(LISTED, method);
            asks.push(ask.with("Access-Control-Request-Headers", headers));
        }
    }
    for ask in &asks {
        let response = live.answer(ask)?;
        let bad: Vec<String> = cors(&response)
            .into_iter()
            .filter(|header| {
                header.contains('*')
                    || header.to_ascii_lowercase().starts_with("access-control-allow-credentials")
            })
            .collect();
        ensure!(bad.is_empty(), "{}: {bad}", ask.what, bad = in_words(&bad));
    }
    stage.precondition(format!("{} requests of a listed origin were answered", asks.len()));
    Ok(())
}

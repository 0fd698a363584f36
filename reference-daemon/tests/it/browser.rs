//! How a browser is let in, by raw HTTP.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::launching::under;
use crate::support::{Answer, Foreground, Home, Raw, assert_documented, assert_fits, until};

const APP: &str = "https://app.example";
const OTHER: &str = "https://other.example";

const CACHE: &str = "\"cache\"";
const EVERYTHING: &str = "\"cache\", \"storage\"";

fn raw(home: &Home) -> Raw {
    until("a record", || home.record());
    Raw::connect(home)
}

/// The answer to a request for a ticket.
fn issued(home: &Home, wanted: &Value) -> Value {
    let (status, answer) = raw(home).ask("POST /v1/tickets", Some(wanted));
    assert_documented("POST /v1/tickets", status, &answer);
    assert_eq!((status, &answer["expires_in_seconds"]), (201, &json!(30)), "{answer}");
    assert_eq!((&answer["kind"], &answer["origin"]), (&wanted["kind"], &wanted["origin"]));
    answer
}

/// A ticket for what `wanted` says.
fn ticket(home: &Home, wanted: &Value) -> String {
    text(&issued(home, wanted)["ticket"]).to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A ticket for the page at the address of the record.
pub(crate) fn page_ticket(home: &Home) -> String {
    ticket(home, &json!({"kind": "page", "host": "127.0.0.1"}))
}

/// A ticket for the page at its own host, and the authority of that host.
fn at_page_host(home: &Home) -> (String, String) {
    let answer = issued(home, &json!({"kind": "page"}));
    let authority = text(&answer["page_url"]).strip_prefix("http://").unwrap().strip_suffix("/page").unwrap();
    (text(&answer["ticket"]).to_owned(), authority.to_owned())
}

/// What the form of a launcher sends, from the given origin.
pub(crate) fn submit(home: &Home, ticket: &str, headers: &str) -> Answer {
    submit_to(raw(home), ticket, headers)
}

fn submit_to(mut raw: Raw, ticket: &str, headers: &str) -> Answer {
    let headers = format!("Content-Type: application/x-www-form-urlencoded\r\n{headers}");
    raw.bare("POST /page", &headers, &format!("ticket={ticket}"))
}

fn hand_off(home: &Home, ticket: &str, origin: Option<&str>) -> Answer {
    let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
    let headers = format!("Content-Type: application/json\r\n{origin}");
    raw(home).bare("POST /v1/handoff", &headers, &json!({"ticket": ticket}).to_string())
}

/// The token in a page.
pub(crate) fn token_in(page: &Answer) -> String {
    assert_eq!(page.status, 200, "{page:?}");
    let after = page.body.split("name=\"page-token\" content=\"").nth(1).expect("a place for the token");
    after.split('"').next().unwrap().to_owned()
}

/// A token of a page of this origin.
fn token_of(home: &Home, origin: &str) -> String {
    let ticket = ticket(home, &json!({"kind": "handoff", "origin": origin}));
    let answer = hand_off(home, &ticket, Some(origin));
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
    assert_documented("POST /v1/handoff", 200, &answer.json());
    assert_eq!(answer.json()["origin"], origin);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// The status of a request with a page token as bearer.
fn with_token(home: &Home, line: &str, token: &str, headers: &str) -> u16 {
    raw(home).bare(line, &format!("Authorization: Bearer {token}\r\n{headers}"), "").status
}

/// An open stream, and the word before its first event.
fn listen(home: &Home, line: &str, headers: &str) -> Raw {
    let mut stream = raw(home);
    let head = stream.send(line, headers);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(stream.frame().unwrap()[0].0, "retry");
    stream
}

/// The data of the next warning.
fn warning(stream: &mut Raw) -> Value {
    let frame = stream.frame().unwrap();
    let data = frame.iter().find(|(name, _)| name == "data").unwrap();
    let event: Value = serde_json::from_str(&data.1).unwrap();
    assert_fits("events.schema.json", &event);
    event["data"].clone()
}

/// The headers of the table, and the nonce.
fn assert_page_headers(answer: &Answer, cleared: &str) -> String {
    for (name, value) in [
        ("clear-site-data", cleared),
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    let policy = answer.header("content-security-policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let expected = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'"
    );
    assert_eq!(policy, expected);
    for (element, count) in [("<script", 1), ("<style", 1), ("</script", 1), ("</style", 1)] {
        assert_eq!(answer.body.matches(element).count(), count, "{element}");
    }
    for element in ["script", "style"] {
        assert!(answer.body.contains(&format!("<{element} nonce=\"{nonce}\">")));
    }
    for forbidden in [" style=", " onclick", " onload", " onsubmit", "javascript:", "{{"] {
        assert!(!answer.body.contains(forbidden), "{forbidden}");
    }
    nonce.to_owned()
}

/// BROW-19, BROW-21 to BROW-23.
#[test]
fn a_ticket_opens_the_page_once() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", APP]);
    let own = format!("Origin: http://{}\r\n", raw(&home).authority());
    let mut seen = BTreeSet::new();
    for origin in ["Origin: null\r\n", &own, ""] {
        let page = submit(&home, &page_ticket(&home), origin);
        let token = token_in(&page);
        assert_eq!((token.len(), page.body.matches(&token).count()), (43, 1));
        assert_eq!(page.header("local-daemon-protocol"), Some("locald/1"));
        assert_eq!(with_token(&home, "GET /v1/status", &token, ""), 200);
        seen.extend([token, assert_page_headers(&page, EVERYTHING)]);
    }
    assert_eq!(seen.len(), 6, "tokens and nonces are new each time");
    // BROW-20: the ticket is for later.
    let ticket = page_ticket(&home);
    for origin in [APP, OTHER, "http://localhost:1"] {
        assert_eq!(submit(&home, &ticket, &format!("Origin: {origin}\r\n")).status, 403);
    }
    assert_eq!(submit(&home, &ticket, "Origin: null\r\n").status, 200);
}

/// BROW-2, BROW-6, BROW-34.
#[test]
fn a_refused_ticket_says_nothing_and_a_second_use_is_told() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let mut stream = listen(&home, "GET /v1/events?topics=warning", "");
    let used = page_ticket(&home);
    assert_eq!(submit(&home, &used, "").status, 200);
    let never = "A".repeat(43);
    let mut answers = [&*used, &never, "", &used[1..]].map(|ticket| submit(&home, ticket, ""));
    for answer in &mut answers {
        assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("ticket_refused")));
        assert_fits("problem.schema.json", &answer.json());
        assert!(answer.header("www-authenticate").unwrap().contains("Bearer"));
        answer.head = answer
            .head
            .lines()
            .filter(|line| !line.to_ascii_lowercase().starts_with("date"))
            .collect();
    }
    let [first, rest @ ..] = answers;
    assert!(rest.iter().all(|answer| (&answer.head, &answer.body) == (&first.head, &first.body)));

    let told = warning(&mut stream);
    let own = format!("http://{}", raw(&home).authority());
    assert_eq!((&told["code"], &told["origin"]), (&json!("ticket_reused"), &json!(own)));
    assert!(!told.to_string().contains(&used));

    // A browser that posts it again gets the shell: a reload goes on with what the tab has.
    let shell = submit(&home, &used, "Accept: text/html,*/*;q=0.8\r\n");
    assert_eq!((shell.status, assert_page_headers(&shell, CACHE).len()), (401, 43));
    assert!(shell.body.contains("name=\"page-token\" content=\"\""));
}

#[test]
fn sixteen_at_once_get_one_page() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for _ in 0..4 {
        let ticket = page_ticket(&home);
        let statuses: Vec<u16> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..16).map(|_| scope.spawn(|| submit(&home, &ticket, "").status)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 15, "{statuses:?}");
    }
    let (_, list) = raw(&home).ask("GET /v1/page-tokens", None);
    assert_eq!(list.as_array().unwrap().len(), 4);
}

/// BROW-4, BROW-31 to BROW-33.
#[test]
fn a_handoff_is_for_its_origin_alone() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", APP, "--allow-origin", OTHER]);
    let mut stream = listen(&home, "GET /v1/events?topics=warning", "");
    let wanted = json!({"kind": "handoff", "origin": APP});
    for (origin, status) in [
        (None, 401),
        (Some(OTHER), 401),
        (Some("https://third.example"), 403),
    ] {
        let ticket = ticket(&home, &wanted);
        assert_eq!(hand_off(&home, &ticket, origin).status, status, "{origin:?}");
        let expected = if status == 403 { 200 } else { 401 };
        assert_eq!(hand_off(&home, &ticket, Some(APP)).status, expected, "spent by {origin:?}");
        if expected == 401 {
            assert_eq!(warning(&mut stream)["origin"], APP);
        }
    }
    // Of the other kind, and as what it is not.
    assert_eq!(submit(&home, &ticket(&home, &wanted), "").status, 401);
    assert_eq!(hand_off(&home, &page_ticket(&home), Some(APP)).status, 401);
    let ticket_text = ticket(&home, &wanted);
    let origin = format!("Origin: {APP}\r\n");
    assert_eq!(with_token(&home, "GET /v1/status", &ticket_text, &origin), 401);
    let line = format!("GET /v1/events?token={ticket_text}");
    assert_eq!(raw(&home).bare(&line, &origin, "").status, 401);
    assert_eq!(hand_off(&home, &ticket_text, Some(APP)).status, 200, "it was not spent by that");

    for wanted in [
        json!({"kind": "handoff", "origin": "https://third.example"}),
        json!({"kind": "handoff", "origin": "null"}),
        json!({"kind": "handoff"}),
        json!({"kind": "other"}),
        json!({"kind": "page", "origin": APP}),
        json!({}),
    ] {
        let (status, answer) = raw(&home).ask("POST /v1/tickets", Some(&wanted));
        assert_eq!((status, &answer["ticket"]), (400, &Value::Null), "{wanted}: {answer}");
    }
}

/// BROW-5, BROW-10 to BROW-13.
#[test]
fn a_page_token_is_listed_confined_and_revoked() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", APP, "--allow-origin", OTHER]);
    let token = token_of(&home, APP);
    let own = token_in(&submit(&home, &page_ticket(&home), "Origin: null\r\n"));
    let app = format!("Origin: {APP}\r\n");
    for (headers, of_app, of_own) in [
        (&*app, 200, 401),
        ("", 401, 200),
        (&*format!("Origin: {OTHER}\r\n"), 401, 401),
        ("Origin: null\r\n", 403, 403),
    ] {
        let statuses = [&token, &own].map(|token| with_token(&home, "GET /v1/status", token, headers));
        assert_eq!(statuses, [of_app, of_own], "{headers}");
    }
    for line in [
        "POST /v1/tickets",
        "GET /v1/page-tokens",
        "DELETE /v1/page-tokens/x",
    ] {
        assert_eq!(with_token(&home, line, &token, &app), 403, "{line}");
        assert_eq!(with_token(&home, line, &own, ""), 403, "{line}");
    }

    let mut stream = raw(&home);
    let answer = stream.bare(&format!("GET /v1/events?token={token}"), &app, "");
    assert_eq!(answer.status, 200);
    assert_eq!(stream.frame().unwrap()[0].0, "retry");

    let (_, list) = raw(&home).ask("GET /v1/page-tokens", None);
    assert_documented("GET /v1/page-tokens", 200, &list);
    let tokens = list.as_array().unwrap();
    assert_eq!(tokens.len(), 2, "{list}");
    assert!(!list.to_string().contains(&token[..6]) && !list.to_string().contains(&own[..6]));
    assert_eq!(tokens[0]["origin"], APP);
    assert!(tokens[0]["last_used"].as_str() > tokens[0]["issued_at"].as_str(), "{list}");
    let (_, status) = raw(&home).ask("GET /v1/status", None);
    assert_documented("GET /v1/status", 200, &status);
    let listener = &status["listeners"][0];
    assert_eq!((&listener["origin"], &listener["is_page"]), (&json!(APP), &json!(true)), "{status}");

    let id = tokens[0]["id"].as_str().unwrap();
    let line = format!("DELETE /v1/page-tokens/{id}");
    assert!(raw(&home).send(&line, "").starts_with("HTTP/1.1 204"));
    let revoked = std::time::Instant::now();
    assert_eq!(stream.frame(), None);
    assert!(revoked.elapsed() < Duration::from_secs(2));
    assert_eq!(with_token(&home, "GET /v1/status", &token, &app), 401);
    assert_eq!(with_token(&home, "GET /v1/status", &own, ""), 200);
    assert!(raw(&home).send(&line, "").starts_with("HTTP/1.1 404"));
}

/// BROW-14.
#[test]
fn an_origin_that_comes_back_finds_its_tokens_dead() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    let token = token_of(&home, APP);
    let origin = format!("Origin: {APP}\r\n");
    assert_eq!(with_token(&home, "GET /v1/status", &token, &origin), 200);
    assert_eq!(home.locald(&["origins", "remove", APP]).code, 0);
    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    assert_eq!(with_token(&home, "GET /v1/status", &token, &origin), 401);
    let other = token_of(&home, APP);
    assert_eq!(with_token(&home, "GET /v1/status", &other, &origin), 200);
}

/// BROW-8: an origin that every launch admits, so that nothing but the launch differs.
#[test]
fn a_token_ends_with_its_launch() {
    let home = Home::new();
    let args = ["--allow-origin", APP];
    let mut first = home.run(&args);
    let token = token_of(&home, APP);
    let origin = format!("Origin: {APP}\r\n");
    assert_eq!(with_token(&home, "GET /v1/status", &token, &origin), 200);
    assert_eq!(home.locald(&["stop"]).code, 0);
    first.ended();
    let _second = home.run(&args);
    assert_eq!(with_token(&home, "GET /v1/status", &token, &origin), 401);
    assert_eq!(with_token(&home, "GET /v1/status", &token_of(&home, APP), &origin), 200);
}

/// BROW-26, BROW-28.
#[test]
fn the_shell_is_for_everybody_and_holds_nothing() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let token = token_in(&submit(&home, &page_ticket(&home), ""));
    let cookies = format!("Cookie: token={token}; credential={}\r\n", home.credential());
    let fetch = "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n";
    let mut nonces = BTreeSet::new();
    let secrets = [
        home.credential(),
        token.clone(),
        home.record().unwrap()["id"].as_str().unwrap().to_owned(),
    ];
    for headers in [
        "",
        &cookies,
        fetch,
        &format!("{cookies}{fetch}"),
        "Authorization: Bearer x\r\n",
    ] {
        let shell = raw(&home).bare("GET /", headers, "");
        assert_eq!((shell.status, shell.header("local-daemon-protocol")), (401, None));
        assert!(shell.header("www-authenticate").unwrap().contains("Bearer"));
        nonces.insert(assert_page_headers(&shell, CACHE));
        for secret in &secrets {
            assert!(!shell.body.contains(secret) && !shell.head.contains(secret));
        }
        assert!(shell.body.contains("locald open"));
    }
    assert_eq!(nonces.len(), 5);
    let worker = raw(&home).bare("GET /anything.js", "Service-Worker: script\r\n", "");
    assert_eq!((worker.status, worker.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
}

/// PER-27, BROW-9: with everything logged, neither the log nor any file shows a ticket or a token.
#[test]
fn the_log_and_the_files_hold_neither_ticket_nor_token() {
    let home = Home::new();
    let mut daemon = home.run_with(&["--allow-origin", APP], &[("LOCALD_LOG", "trace")]);
    let ticket_text = page_ticket(&home);
    let token = token_in(&submit(&home, &ticket_text, "Origin: null\r\n"));
    submit(&home, &ticket_text, "Origin: null\r\n");
    let line = format!("GET /v1/events?token={token}");
    assert_eq!(raw(&home).bare(&line, "", "").status, 200);
    with_token(&home, &format!("GET /{token}?ticket={ticket_text}"), &token, "");
    daemon.wait_for_log("ticket_reused");
    let mut seen = daemon.log();
    for entry in std::fs::read_dir(home.state_dir()).unwrap() {
        seen += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!seen.contains(&token) && !seen.contains(&ticket_text));
}

/// BROW-35, BROW-36, BROW-38 to BROW-40.
#[test]
fn the_page_is_at_a_host_of_its_launch() {
    let home = Home::new();
    let mut hosts = BTreeSet::new();
    for _ in 0..2 {
        let mut daemon = home.run(&[]);
        let (ticket_text, authority) = at_page_host(&home);
        let (name, port) = authority.split_once(".localhost:").unwrap();
        assert!(name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        assert_eq!(raw(&home).authority(), format!("127.0.0.1:{port}"));
        let page = submit_to(raw(&home).at(&authority), &ticket_text, "Origin: null\r\n");
        let token = token_in(&page);
        assert_page_headers(&page, CACHE);
        let bearer = format!("Authorization: Bearer {token}\r\n");
        for (at, headers, status) in [
            (&*authority, &*bearer, 200),
            (&format!("127.0.0.1:{port}"), &bearer, 401),
            (&format!("localhost:{port}"), &bearer, 401),
            (&authority, &format!("Authorization: Bearer {}\r\n", home.credential()), 401),
        ] {
            assert_eq!(
                raw(&home).at(at).bare("GET /v1/status", headers, "").status,
                status,
                "{at} {headers}"
            );
        }
        // A reload, from a browser that uses the other family.
        let v6 = std::net::TcpStream::connect(("::1", port.parse().unwrap())).unwrap();
        let shell = raw(&home).over(v6).at(&authority).bare("GET /", "", "");
        assert_eq!((shell.status, assert_page_headers(&shell, CACHE).len()), (401, 43));

        // At another host a ticket is refused as one that never was, and is spent.
        let never = submit(&home, &"A".repeat(43), "");
        for (host, wrong) in [
            (None, "127.0.0.1"),
            (Some("127.0.0.1"), "page"),
            (Some("[::1]"), "localhost"),
        ] {
            let wanted = host.map_or(json!({"kind": "page"}), |host| json!({"kind": "page", "host": host}));
            let answer = issued(&home, &wanted);
            let right = host.map_or(authority.clone(), |host| format!("{host}:{port}"));
            assert_eq!(answer["page_url"], format!("http://{right}/page"));
            let wrong = if wrong == "page" { authority.clone() } else { format!("{wrong}:{port}") };
            let seen = [&wrong, &right].map(|at| submit_to(raw(&home).at(at), text(&answer["ticket"]), ""));
            assert!(seen.iter().all(|seen| (seen.status, &seen.body) == (401, &never.body)), "{seen:?}");
            let ticket_text = ticket(&home, &wanted);
            assert_eq!(submit_to(raw(&home).at(&right), &ticket_text, "").status, 200, "{right}");
        }
        for wanted in [
            json!({"kind": "page", "host": "foo.localhost"}),
            json!({"kind": "page", "host": authority}),
        ] {
            assert_eq!(raw(&home).ask("POST /v1/tickets", Some(&wanted)).0, 400, "{wanted}");
        }
        hosts.insert(name.to_owned());
        assert_eq!(home.locald(&["stop"]).code, 0);
        daemon.ended();
        let gone =
            ["127.0.0.1", "::1"].map(|host| std::net::TcpStream::connect((host, port.parse().unwrap())));
        assert!(gone.iter().all(Result::is_err), "{gone:?}");
    }
    assert_eq!(hosts.len(), 2);
}

/// BROW-41: with everything logged, the page host is in neither log nor file nor any other answer.
#[test]
fn the_page_host_is_in_one_answer_alone() {
    let home = Home::new();
    let mut daemon = home.run_with(&["--allow-origin", APP], &[("LOCALD_LOG", "trace")]);
    let mut stream = listen(&home, "GET /v1/events", "");
    let (ticket_text, authority) = at_page_host(&home);
    let token = token_in(&submit_to(raw(&home).at(&authority), &ticket_text, "Origin: null\r\n"));
    submit_to(raw(&home).at(&authority), &ticket_text, "Origin: null\r\n");
    let headers = format!("Origin: http://{authority}\r\n");
    let mut page = raw(&home).at(&authority);
    assert_eq!(page.bare(&format!("GET /v1/events?token={token}"), &headers, "").status, 200);
    daemon.wait_for_log("ticket_reused");
    let mut seen = daemon.log();
    for line in ["GET /v1/status", "GET /.well-known/local-daemon"] {
        seen += &raw(&home).ask(line, None).1.to_string();
    }
    seen.extend(stream.frame().unwrap().into_iter().map(|(_, value)| value));
    for file in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{file}", daemon.pid().as_raw_nonzero());
        seen += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
    }
    for entry in std::fs::read_dir(home.state_dir()).unwrap() {
        seen += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!seen.contains(&authority[..32]), "{seen}");
}

/// The state of a ticket: at once, when it is redeemed, and after the wait.
#[test]
fn a_ticket_can_be_waited_for() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let answer = issued(&home, &json!({"kind": "page", "host": "127.0.0.1"}));
    let line = format!("GET /v1/tickets/{}", text(&answer["id"]));
    let state = |query: &str| {
        let (status, state) = raw(&home).ask(&format!("{line}{query}"), None);
        if status == 200 {
            assert_documented("GET /v1/tickets/{id}", status, &state);
        }
        (status, state["redeemed"].as_bool())
    };
    let began = std::time::Instant::now();
    assert_eq!((state(""), state("?wait_seconds=1")), ((200, Some(false)), (200, Some(false))));
    assert!(began.elapsed() >= Duration::from_secs(1));
    for query in ["?wait_seconds=31", "?wait_seconds=-1", "?wait_seconds=x"] {
        assert_eq!(state(query).0, 400, "{query}");
    }
    let token = thread::scope(|scope| {
        let waiting = scope.spawn(|| state("?wait_seconds=30"));
        thread::sleep(Duration::from_millis(100));
        let token = token_in(&submit(&home, text(&answer["ticket"]), ""));
        assert_eq!(waiting.join().unwrap(), (200, Some(true)));
        token
    });
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(state("?wait_seconds=30"), (200, Some(true)));
    assert_eq!(with_token(&home, &line, &token, ""), 403);
    assert_eq!(raw(&home).bare(&line, "", "").status, 401);
    assert_eq!(raw(&home).ask("GET /v1/tickets/0123456789abcdef", None).0, 404);

    // A stop does not wait for it.
    let other = issued(&home, &json!({"kind": "page"}));
    let line = format!("GET /v1/tickets/{}?wait_seconds=30", text(&other["id"]));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| raw(&home).ask(&line, None));
        thread::sleep(Duration::from_millis(100));
        let began = std::time::Instant::now();
        assert_eq!(home.locald(&["stop"]).code, 0);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(waiting.join().unwrap().1["redeemed"], false);
    });
}

/// BROW-36. Each third bind is that of `[::1]`.
#[test]
fn a_daemon_whose_port_is_taken_on_the_other_family_tries_others_or_has_no_page_host() {
    for (inject, record, is_page_host) in [
        ("bind:error=EADDRINUSE:when=3", "127.0.0.1", true),
        ("bind:error=EADDRINUSE:when=3+3", "127.0.0.1", false),
        ("bind:error=EACCES:when=3", "127.0.0.1", false),
        ("bind:error=EADDRNOTAVAIL:when=3", "127.0.0.1", true),
        ("bind:error=EADDRNOTAVAIL:when=1", "[::1]", true),
    ] {
        let inject = format!("inject={inject}");
        let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject];
        let start = || {
            let home = Home::new();
            let mut command = under(&strace, &home.command(&["run"]));
            let mut daemon = Foreground::spawn(command.stderr(std::process::Stdio::piped()));
            daemon.wait_for_log("published");
            let at_page_host = at_page_host(&home);
            (home, daemon, at_page_host)
        };
        // A port that is free on [::1] may be taken on 127.0.0.1: the connections that other tests closed within the last 60 s
        // hold thousands of them.
        let deadline = Instant::now() + Duration::from_secs(90);
        let is_taken = |daemon: &Foreground| record == "[::1]" && daemon.log().contains("no host of its own");
        let (home, mut daemon, (ticket_text, authority)) = loop {
            let started = start();
            if !is_taken(&started.1) {
                break started;
            }
            assert!(Instant::now() < deadline, "no port is free on both families");
        };
        assert!(raw(&home).authority().starts_with(record), "{inject}");
        assert_eq!(authority != raw(&home).authority(), is_page_host, "{inject}: {authority}");
        assert_eq!(submit_to(raw(&home).at(&authority), &ticket_text, "").status, 200, "{inject}");
        assert_eq!(daemon.log().contains("no host of its own"), !is_page_host, "{inject}");
        let elsewhere = json!({"kind": "page", "host": "localhost"});
        let status = raw(&home).ask("POST /v1/tickets", Some(&elsewhere)).0;
        assert_eq!(status, if is_page_host { 201 } else { 400 }, "{inject}");
        assert_eq!(home.locald(&["stop"]).code, 0);
        daemon.ended();
    }
}

//! HTTP as other people's clients speak it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Answer, Home, Raw, openapi};

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// The routes that take JSON, and a body for each that is JSON.
const JSON_ROUTES: [(&str, &str); 4] = [
    ("POST /v1/events", "{\"topic\":\"note\",\"data\":1}"),
    ("POST /v1/shutdown", "{\"id\":\"0\"}"),
    ("POST /v1/tickets", "{\"kind\":\"page\"}"),
    ("POST /v1/handoff", "{\"ticket\":\"x\"}"),
];

#[test]
fn a_body_that_says_that_it_is_not_json_is_415() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for (line, body) in JSON_ROUTES {
        let ask = |headers: &str| match line {
            // Its ticket authenticates.
            "POST /v1/handoff" => Raw::connect(&home).bare(line, headers, body),
            _ => Raw::connect(&home).with_credential(line, headers, body),
        };
        for good in [
            "",
            "Content-Type: application/json\r\n",
            "Content-Type: Application/JSON ; charset=utf-8\r\n",
            "Content-Encoding: identity\r\n",
            "Content-Encoding:\r\n",
        ] {
            assert_ne!(ask(good).status, 415, "{line} {good}");
        }
        for other in [
            "Content-Type: text/plain\r\n",
            "Content-Type: text/json\r\n",
            "Content-Type: application/jsonx\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "Content-Type:\r\n",
            "Content-Type: application/json\r\nContent-Type: text/xml\r\n",
            "Content-Encoding: gzip\r\n",
            "Content-Encoding: identity, br\r\n",
            "Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        ] {
            let answer = ask(other);
            assert_eq!(
                (answer.status, &answer.json()["code"]),
                (415, &"unsupported_media_type".into()),
                "{line} {other}"
            );
        }
    }
    let page = "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: gzip\r\n";
    assert_eq!(Raw::connect(&home).bare("POST /page", page, "ticket=x").status, 415);
}

/// PER-50.
#[test]
fn a_body_that_is_not_framed_as_http_asks_is_400() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let page = ("POST /page", "Content-Type: application/x-www-form-urlencoded\r\n");
    let routes = JSON_ROUTES.map(|(line, _)| (line, "")).into_iter().chain([page]);
    for (line, kind) in routes {
        for framing in [
            "Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            "Transfer-Encoding: chunked\r\n\r\n0x19\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
            "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            "Transfer-Encoding: chunked\r\n\r\n\r\n",
        ] {
            let mut raw = Raw::connect(&home);
            let is_door = ["POST /page", "POST /v1/handoff"].contains(&line);
            let credential = format!("Authorization: Bearer {}\r\n", home.credential());
            raw.unframed(line, &format!("{}{kind}{framing}", if is_door { "" } else { &credential }));
            let head = raw.head();
            let body = String::from_utf8(raw.body(&head)).unwrap();
            assert!(head.starts_with("HTTP/1.1 400 "), "{line} {framing:?}: {head}");
            assert!(body.contains("\"invalid_request\""), "{line} {framing:?}: {body}");
        }
    }
}

/// PER-36.
#[test]
fn a_method_that_a_route_does_not_take_is_405_with_those_that_it_takes() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for (path, operations) in openapi()["paths"].as_object().unwrap() {
        let mut expected: Vec<String> = operations
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
            .map(|key| key.to_uppercase())
            .collect();
        if expected.contains(&"GET".to_owned()) && path != "/.well-known/local-daemon" {
            expected.push("HEAD".to_owned());
        }
        expected.sort();
        let answer =
            Raw::connect(&home).with_credential(&format!("PATCH {}", path.replace("{id}", "0")), "", "");
        let mut allow: Vec<&str> =
            header(&answer, "allow").unwrap_or_default().split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!((answer.status, &answer.json()["code"]), (405, &"method_not_allowed".into()), "{path}");
        assert_eq!(allow, expected, "{path}");
    }
}

/// PER-54: a HEAD has the headers of the GET that it stands for.
#[test]
fn head_is_answered_like_get() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for path in ["/", "/v1/status", "/nowhere"] {
        for is_user in [false, true] {
            let ask = |method: &str| {
                let (mut raw, line) = (Raw::connect(&home), format!("{method} {path}"));
                let answer = if is_user {
                    raw.with_credential(&line, "", "")
                } else {
                    raw.bare(&line, "", "")
                };
                let told = [
                    "content-type",
                    "www-authenticate",
                    "cache-control",
                    "x-frame-options",
                ]
                .map(|name| header(&answer, name).map(str::to_owned));
                (answer.status, told)
            };
            assert_eq!(ask("HEAD"), ask("GET"), "{path} {is_user}");
        }
    }
    let length = |method: &str| {
        let answer = Raw::connect(&home).bare(&format!("{method} /"), "", "");
        header(&answer, "content-length").map(str::to_owned)
    };
    assert_eq!(length("HEAD"), length("GET"));
}

#[test]
fn a_problem_has_the_phrase_of_http() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let large = format!("{{\"topic\":\"note\",\"data\":\"{}\"}}", "x".repeat(70_000));
    let answer = Raw::connect(&home).with_credential("POST /v1/events", "", &large);
    assert_eq!(answer.json()["title"], "Content Too Large");
    let mut raw = Raw::connect(&home);
    raw.begin("POST /v1/events", "Content-Length: 10000000\r\n");
    let head = raw.head();
    assert!(String::from_utf8(raw.body(&head)).unwrap().contains("\"Content Too Large\""), "{head}");
}

/// PER-52, PER-53.
#[test]
fn an_answer_has_a_date_and_an_old_client_gets_no_interim_answer() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for (version, interim) in [("1.1", true), ("1.0", false)] {
        let address = home.record().unwrap()["url"].as_str().unwrap().replace("http://", "");
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /v1/events HTTP/{version}\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Expect: 100-continue\r\nContent-Length: 25\r\n\r\n",
            home.credential()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Long enough for an interim answer, if there is one.
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(br#"{"topic":"note","data":1}"#).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.contains(" 100 "), interim, "{answer}");
        assert!(answer.contains(" 201 "), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\ndate: "), "{answer}");
    }
    for (line, status) in [("GET /nowhere", 404), ("GET /v1/status", 200)] {
        let answer = Raw::connect(&home).with_credential(line, "", "");
        assert_eq!((answer.status, header(&answer, "date").is_some()), (status, true), "{line}");
    }
    let mut raw = Raw::connect(&home);
    raw.unframed("BROKEN", "x\r\n\r\n");
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("\r\ndate: "), "{head}");
}

/// PER-51: what a page of a listed origin may read.
#[test]
fn a_listed_page_reads_the_protocol_and_when_to_come_back() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", "https://app.example"]);
    let origin = "Origin: https://app.example\r\n";
    let preflight = format!("{origin}Access-Control-Request-Method: GET\r\n");
    for (answer, status) in [
        (Raw::connect(&home).with_credential("GET /v1/status", origin, ""), 200),
        (Raw::connect(&home).bare("GET /v1/status", origin, ""), 401),
        (Raw::connect(&home).bare("OPTIONS /v1/status", &preflight, ""), 204),
    ] {
        assert_eq!(answer.status, status);
        assert_eq!(
            header(&answer, "access-control-expose-headers"),
            Some("local-daemon-protocol, retry-after")
        );
    }
    let own = Raw::connect(&home).with_credential("GET /v1/status", "", "");
    assert_eq!(header(&own, "access-control-expose-headers"), None);
}

/// HS-34: the credential may follow on the connection that has proven itself.
#[test]
fn a_proven_connection_stays_open_for_five_seconds() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let mut raw = Raw::connect(&home);
    let proof = raw.proof();
    assert_eq!(raw.bare("GET /.well-known/local-daemon", &proof, "").status, 200);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(raw.with_credential("GET /v1/status", "", "").status, 200);
}

//! The perimeter as a table, walked whole: route × method × credential × origin. The routes come from the `OpenAPI`
//! document, which names exactly those that are served; what is expected comes from the chapters, by rules that know no
//! exception but those that the document states with its `security`. A route that slips out of the guard is found here.

use serde_json::{Value, json};

use crate::browser::{page_ticket, submit, token_in};
use crate::support::{Answer, Home, Raw, openapi, until};

const LISTED: &str = "https://app.example";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Nothing,
    WrongBearer,
    Credential,
    Proof,
    QueryToken,
    Ticket,
    PageToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whence {
    Nowhere,
    Own,
    Listed,
    Unlisted,
    Null,
}

/// A path of the document, or one that is none.
struct Route {
    path: String,
    operations: Value,
}

impl Route {
    fn all() -> Vec<Self> {
        let document = openapi();
        let paths = document["paths"].as_object().unwrap().clone();
        let known = paths
            .into_iter()
            .map(|(path, operations)| Self { path: path.replace("{id}", "0"), operations });
        let unknown = ["/v1/no-such-route", "//v1/status", "/v1/status/"]
            .map(|path| Self { path: path.to_owned(), operations: json!({}) });
        known.chain(unknown).collect()
    }

    fn is_handshake(&self) -> bool {
        self.path == "/.well-known/local-daemon"
    }

    /// HEAD goes with GET, but for the handshake (HS-1).
    fn operation(&self, method: &str) -> Option<&Value> {
        let is_head = method == "HEAD" && !self.is_handshake();
        let method = if is_head { "GET" } else { method };
        self.operations.get(method.to_lowercase())
    }

    /// Whether an operation takes evidence of this kind; without a word of its own it takes the credential and page tokens.
    fn takes(&self, method: &str, kind: &str) -> bool {
        match self.operation(method).and_then(|operation| operation.get("security")) {
            None => ["credential", "pageToken"].contains(&kind),
            Some(kinds) => kinds.as_array().unwrap().iter().any(|known| known.get(kind).is_some()),
        }
    }

    /// Whether the document says that it is for everybody.
    fn is_door(&self, method: &str) -> bool {
        self.operation(method).is_some_and(|operation| operation["security"] == json!([{}]))
    }
}

/// The statuses that may be answered.
fn expected(route: &Route, method: &str, shows: Shows, from: Whence) -> Vec<u16> {
    // BROW-19, BROW-20: the launcher is a local file, and no other origin gets this page.
    let is_page = (method, &*route.path) == ("POST", "/page");
    if matches!((from, is_page), (Whence::Unlisted, _) | (Whence::Null, false) | (Whence::Listed, true)) {
        return vec![403]; // PER-8, PER-11
    }
    if route.is_door(method) && method == "POST" {
        return vec![400, 401, 415]; // The ticket decides, and there is none.
    }
    let is_authenticated = match shows {
        Shows::Nothing | Shows::WrongBearer | Shows::Ticket => false, // BROW-4
        Shows::Credential => true,
        Shows::Proof => route.is_handshake() && method == "GET", // HS-17
        Shows::QueryToken => route.takes(method, "streamToken") && method == "GET", // PER-25
        Shows::PageToken => matches!(from, Whence::Nowhere | Whence::Own), // BROW-10
    };
    let is_known = route.operation(method).is_some();
    if !is_authenticated {
        // PER-21, BROW-26; PER-31 for a handshake after many that failed.
        return if route.is_handshake() { vec![401, 503] } else { vec![401] };
    }
    if shows == Shows::PageToken && is_known && !route.takes(method, "pageToken") && !route.is_door(method) {
        return vec![403]; // BROW-5
    }
    match route.operation(method) {
        // PER-36
        None if route.operations == json!({}) => vec![404],
        None => vec![405],
        Some(operation) => {
            let statuses = operation["responses"].as_object().unwrap().keys();
            let mut refusals = if route.is_door(method) { vec![403] } else { vec![401, 403] };
            // The requests here are well-formed, short and quick, and their bodies JSON.
            refusals.extend([408, 414, 415, 431]);
            if operation.get("requestBody").is_none() && operation.get("parameters").is_none() {
                refusals.push(400);
            }
            statuses
                .map(|status| status.parse().unwrap())
                .filter(|status| !refusals.contains(status))
                .collect()
        }
    }
}

struct Walk<'a> {
    home: &'a Home,
    ticket: String,
    token: String,
}

impl Walk<'_> {
    fn ask(&self, route: &Route, method: &str, shows: Shows, from: Whence) -> Answer {
        let mut raw = Raw::connect(self.home);
        let own = format!("http://{}", raw.authority());
        let credential = self.home.credential();
        let bearer = |text: &str| format!("Authorization: Bearer {text}\r\n");
        let evidence = match shows {
            Shows::Nothing | Shows::QueryToken => String::new(),
            Shows::WrongBearer => bearer(&"A".repeat(43)),
            Shows::Credential => bearer(&credential),
            Shows::Proof => raw.proof(),
            Shows::Ticket => bearer(&self.ticket),
            Shows::PageToken => bearer(&self.token),
        };
        let origin = match from {
            Whence::Nowhere => String::new(),
            Whence::Own => format!("Origin: {own}\r\n"),
            Whence::Listed => format!("Origin: {LISTED}\r\n"),
            Whence::Unlisted => "Origin: https://evil.example\r\n".to_owned(),
            Whence::Null => "Origin: null\r\n".to_owned(),
        };
        let target = match shows {
            Shows::QueryToken => format!("{}?token={credential}", route.path),
            _ => route.path.clone(),
        };
        let headers = ["Content-Type: application/json\r\n", &evidence, &origin].concat();
        raw.bare(&format!("{method} {target}"), &headers, "{}")
    }
}

/// PER-1, PER-7, PER-8, PER-11, PER-21, PER-25, PER-36, BROW-4, BROW-5, BROW-10, BROW-19, BROW-20, BROW-26.
#[test]
fn no_route_slips_out_of_the_perimeter() {
    use Shows::{Credential, Nothing, PageToken, Proof, QueryToken, Ticket, WrongBearer};
    use Whence::{Listed, Nowhere, Null, Own, Unlisted};
    let home = Home::new();
    let mut daemon = home.run(&["--allow-origin", LISTED]);
    until("a record", || home.record());
    let walk = Walk {
        home: &home,
        token: token_in(&submit(&home, &page_ticket(&home), "")),
        ticket: page_ticket(&home),
    };
    let mut unexpected = Vec::new();
    let mut asked = 0;
    for route in Route::all() {
        for method in METHODS {
            for shows in [
                Nothing,
                WrongBearer,
                Credential,
                Proof,
                QueryToken,
                Ticket,
                PageToken,
            ] {
                for from in [Nowhere, Own, Listed, Unlisted, Null] {
                    let status = walk.ask(&route, method, shows, from).status;
                    let expected = expected(&route, method, shows, from);
                    asked += 1;
                    if !expected.contains(&status) {
                        let path = &route.path;
                        unexpected.push(format!(
                            "{method} {path}, {shows:?} from {from:?}: {status}, not {expected:?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(
        unexpected.is_empty(),
        "{} of {asked} answers were not expected:\n{}",
        unexpected.len(),
        unexpected.join("\n")
    );
    assert!(daemon.is_alive());
}

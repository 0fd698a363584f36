//! Which `Host` is the daemon's.

use std::sync::Arc;

use http::{StatusCode, Version};
use local_daemon_spec::vectors;
use serde_json::json;

use super::{
    Daemon, KEY, ask, ask_new, assert_anonymous, authorized, bare, code, guard, guarded, new_daemon, strings,
};

#[tokio::test]
async fn hosts_are_judged_as_the_vectors_say() {
    let bearer = format!("Bearer {KEY}");
    for case in vectors::cases("hosts") {
        let port = case["port"].as_u64().unwrap().try_into().unwrap();
        let service = guarded(&guard(&Arc::new(Daemon { port, ..new_daemon() })));
        // Not even the credential opens anything under another name.
        for authorization in [None, Some(("authorization", &*bearer))] {
            let mut headers: Vec<_> =
                strings(&case["hosts"]).into_iter().map(|host| ("host", host)).collect();
            headers.extend(authorization);
            let response = ask(&service, bare("GET", case["target"].as_str().unwrap(), &headers)).await;
            let status = response.status().as_u16();
            if case["accept"] == true {
                assert!(![400, 421].contains(&status), "{status}: {case}");
            } else {
                assert_eq!(json!([status]), case["statuses"], "{case}");
                let expected = if status == 400 { "invalid_request" } else { "misdirected" };
                assert_eq!(code(&response), expected);
                assert_anonymous(&response);
            }
        }
    }
}

#[tokio::test]
async fn absolute_target_is_judged_as_host_is() {
    let status = async |target: &str| ask_new(authorized("GET", target, &[])).await.status();
    for target in [
        "http://127.0.0.1:49152/v1/status",
        "http://localhost:49152/v1/status",
    ] {
        assert_eq!(status(target).await, StatusCode::OK, "{target}");
    }
    for target in [
        "http://evil.test:49152/v1/status",
        "http://localhost:49153/v1/status",
        "https://127.0.0.1:49152/v1/status",
    ] {
        assert_eq!(status(target).await, StatusCode::MISDIRECTED_REQUEST, "{target}");
    }
}

#[tokio::test]
async fn http_2_names_its_host_in_the_target() {
    let bearer = format!("Bearer {KEY}");
    let mut statuses = Vec::new();
    for version in [Version::HTTP_2, Version::HTTP_11, Version::HTTP_10] {
        for host in ["127.0.0.1", "evil.test"] {
            let target = format!("http://{host}:49152/v1/status");
            let mut request = bare("GET", &target, &[("authorization", &bearer)]);
            *request.version_mut() = version;
            statuses.push(ask_new(request).await.status().as_u16());
        }
    }
    assert_eq!(statuses, [200, 421, 400, 400, 400, 400]);
}

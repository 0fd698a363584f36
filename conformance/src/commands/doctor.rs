//! `daemonspec doctor`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use local_daemon_conformance::preflight::{self, Lack};
use local_daemon_conformance::verdict::ExitCode;
use local_daemon_harness::browser::INSTALL;
use local_daemon_harness::host::Host;
use serde::Serialize;

use super::{Problem, print};

/// A case watches a handful of directories; several run at once, beside whatever else the user runs.
const FEWEST_INOTIFY_INSTANCES: u64 = 32;

/// One thing that this host has or lacks.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    has: bool,
    /// The path or number that was found, or what is missing without it.
    detail: String,
    /// How to get it.
    remedy: Option<String>,
}

/// Says what this host lets the suite observe.
pub(crate) fn doctor(as_json: bool) -> Result<ExitCode, Problem> {
    let host = Host::look();
    let findings = look(&host);
    if as_json {
        let report = serde_json::json!({ "host": host, "findings": findings });
        print(&format!("{report:#}\n"))?;
        return Ok(ExitCode::Conforms);
    }
    let mut text = format!("{} {}\n\n", host.os, host.kernel);
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    for finding in &findings {
        let mark = if finding.has { "has  " } else { "lacks" };
        let _ = writeln!(text, "  {mark}  {:width$}  {}", finding.what, finding.detail);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "         {:width$}  get it: {remedy}", "");
        }
    }
    print(&text)?;
    Ok(ExitCode::Conforms)
}

fn look(host: &Host) -> Vec<Finding> {
    let found = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
    let needed = preflight::look().into_iter().map(|check| {
        let (lack, found) = (check.found.clone().err(), check.found.ok());
        let Lack { why, remedy } = lack.unwrap_or(Lack { why: String::new(), remedy: String::new() });
        finding(check.what, found, &format!("{why}: nothing can be judged"), &remedy)
    });
    let mut findings: Vec<Finding> = needed.collect();
    findings.extend([
        finding(
            "a second user",
            host.has_second_user().then(|| "root may act as nobody".to_owned()),
            "what other users may read is judged by modes alone, or untestable",
            "run as root, on a host whose /etc/passwd has the user nobody",
        ),
        finding(
            "IPv6 loopback",
            host.ipv6.then(|| "[::1] can be listened on".to_owned()),
            "squatters on the other address family are untestable",
            "sysctl net.ipv6.conf.lo.disable_ipv6=0",
        ),
        finding(
            "strace",
            found(&host.strace),
            "system calls cannot be watched or failed one by one",
            "apt-get install strace",
        ),
        inotify(),
    ]);
    for engine in &host.engines {
        let missing = engine.missing();
        let versions = engine.versions();
        let has = missing.is_empty().then(|| {
            let paths = [&engine.browser, &engine.driver].map(|path| found(path).unwrap_or_default());
            let [browser, driver] =
                [0, 1].map(|place| versions[place].as_ref().unwrap_or(&paths[place]).clone());
            format!("{browser}, driven by {driver}")
        });
        findings.push(finding(
            &engine.name.to_string(),
            has,
            &format!("no {}: no cases in this engine", missing.join(", no ")),
            INSTALL,
        ));
    }
    findings
}

fn finding(what: &str, found: Option<String>, missing: &str, remedy: &str) -> Finding {
    Finding {
        what: what.to_owned(),
        has: found.is_some(),
        remedy: found.is_none().then(|| remedy.to_owned()),
        detail: found.unwrap_or_else(|| missing.to_owned()),
    }
}

fn inotify() -> Finding {
    let limit = |name: &str| -> Option<u64> {
        std::fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let instances = limit("max_user_instances").unwrap_or_default();
    let watches = limit("max_user_watches").unwrap_or_default();
    finding(
        "inotify instances",
        (instances >= FEWEST_INOTIFY_INSTANCES).then(|| format!("{instances}, with {watches} watches")),
        &format!("{instances} are too few to run several cases at once"),
        "sysctl fs.inotify.max_user_instances=512, or run with --jobs 1",
    )
}

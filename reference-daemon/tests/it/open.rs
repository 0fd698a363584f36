//! `open` and `handoff`: what they hand to a browser, and what they keep from everybody else.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::launching::under;
use crate::support::{Foreground, Home, Output, Raw, chmod, mode, names, until};

const APP: &str = "http://127.0.0.1:5173";
const NOBODY: u32 = 65534;

/// A browser that keeps what it was given: its arguments, its environment, and the file that it opens.
struct Browser {
    home: Home,
    program: PathBuf,
}

impl Browser {
    fn new() -> Self {
        let home = Home::new();
        fs::create_dir_all(home.state_dir().parent().unwrap()).unwrap();
        let program = home.state_dir().with_file_name("a browser");
        let at = program.display();
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > '{at}.args'\nenv > '{at}.env'\nfor last; do :; done\ncp -p \"$last\" '{at}.file'\n"
        );
        fs::write(&program, script).unwrap();
        chmod(&program, 0o700);
        Self { home, program }
    }

    /// Runs a command with this browser.
    fn opens(&self, args: &[&str]) -> Output {
        let program = self.program.to_str().unwrap();
        self.home.locald(&[args, &["--browser", program]].concat())
    }

    /// Runs it, and redeems the ticket in the file that the browser gets.
    fn opens_the_page(&self, args: &[&str]) -> (Output, String) {
        thread::scope(|scope| {
            let command = scope.spawn(|| self.opens(args));
            let form = until("the browser gets a file", || {
                fs::read_to_string(self.kept("file")).ok().filter(|file| file.contains("</script>"))
            });
            let page = between(&form, "action=\"http://", "/page\"");
            assert_eq!(status_of_form(&self.home, page, between(&form, "value=\"", "\"")), 200);
            (command.join().unwrap(), form.clone())
        })
    }

    fn kept(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("{}.{what}", self.program.display()))
    }

    fn read(&self, what: &str) -> String {
        fs::read_to_string(self.kept(what)).unwrap()
    }
}

/// What stands between two words.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("no {before}: {text}"));
    rest.split(after).next().unwrap()
}

/// The status of a ticket that is presented at an authority.
fn status_of_form(home: &Home, authority: &str, ticket: &str) -> u16 {
    let headers = "Content-Type: application/x-www-form-urlencoded\r\nOrigin: null\r\n";
    let answer = Raw::connect(home).at(authority).bare("POST /page", headers, &format!("ticket={ticket}"));
    answer.status
}

/// BROW-15, BROW-16.
#[test]
fn open_hands_a_ticket_over_in_a_file_and_nowhere_else() {
    let browser = Browser::new();
    let home = &browser.home;
    let (seen, page) = browser.opens_the_page(&["open", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (0, Some("opened")), "{seen:?}");
    let authority = between(&page, "action=\"http://", "/page\"");
    assert_eq!(seen.json()["url"], format!("http://{authority}/"));
    assert!(is_page_host(authority), "{authority}");
    let port = authority.rsplit_once(':').unwrap().1;
    assert_eq!(home.record().expect("it has started a daemon")["url"], format!("http://127.0.0.1:{port}"));

    let args = browser.read("args");
    let launcher = Path::new(args.trim_end());
    assert_eq!(launcher.parent().unwrap(), home.state_dir());
    assert_eq!((mode(launcher), mode(browser.kept("file"))), (0o600, 0o600));
    let ticket = between(&page, "value=\"", "\"");
    assert_eq!(ticket.len(), 43);
    let pid = home.record().unwrap()["pid"].to_string();
    let daemon = ["cmdline", "environ"]
        .map(|file| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned());
    let credential = home.credential();
    for place in [
        &args,
        &browser.read("env"),
        &seen.stdout,
        &seen.stderr,
        &daemon[0],
        &daemon[1],
    ] {
        assert!(!place.is_empty() || place == &seen.stderr);
        assert!(!place.contains(ticket) && !place.contains(&credential), "{place}");
    }
    for place in [&args, &browser.read("env"), &daemon[0], &daemon[1]] {
        assert!(!place.contains(".localhost"), "{place}");
    }
    assert_eq!(status_of_form(home, authority, ticket), 401);
}

fn is_page_host(authority: &str) -> bool {
    authority.find(".localhost:") == Some(32)
}

/// BROW-44: the browser starts, but does not open the file.
#[test]
fn open_reports_success_only_after_the_page_was_opened() {
    let browser = Browser::new();
    let began = Instant::now();
    let seen = browser.opens(&["open"]);
    assert_eq!((seen.code, &*seen.stdout), (19, ""), "{seen:?}");
    assert!(began.elapsed() >= Duration::from_secs(5));
    for word in ["--print-url", "--host 127.0.0.1", "a browser was started"] {
        assert!(seen.stderr.contains(word), "{seen:?}");
    }
    // The ticket still works for the rest of its lifetime.
    let page = browser.read("file");
    let authority = between(&page, "action=\"http://", "/page\"");
    assert_eq!(status_of_form(&browser.home, authority, between(&page, "value=\"", "\"")), 200);
    let seen = browser.opens(&["open", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (19, Some("not-opened")), "{seen:?}");
}

/// BROW-42.
#[test]
fn open_warns_of_another_host() {
    let browser = Browser::new();
    let (seen, page) = browser.opens_the_page(&["open", "--host", "127.0.0.1"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert!(
        seen.stdout.contains("the page is open in") && seen.stderr.contains("not at a host of its own"),
        "{seen:?}"
    );
    let url = browser.home.record().unwrap()["url"].as_str().unwrap().to_owned();
    assert_eq!(between(&page, "action=\"", "\""), format!("{url}/page"));
    for host in ["localhost", "[::1]"] {
        let seen = browser.home.locald(&["open", "--print-url", "--host", host]);
        assert!(seen.stdout.starts_with(&format!("http://{host}:")), "{seen:?}");
        assert!(seen.stderr.contains("not at a host of its own"), "{seen:?}");
    }
    assert_eq!(browser.home.locald(&["open", "--print-url"]).stderr, "");
    assert_eq!(browser.home.locald(&["open", "--print-url", "--host", "app.localhost"]).code, 2);
}

/// DIR-18.
#[test]
fn a_browser_does_not_inherit_what_a_launcher_passed_on() {
    let browser = Browser::new();
    let program = browser.program.to_str().unwrap();
    let mut open = browser.home.command(&["open", "--browser", program]);
    let seen = Output::of(open.env("LOCAL_DAEMON_LAUNCH", "locald 9 1:1 /elsewhere"));
    assert_eq!(seen.code, 19, "{seen:?}");
    assert!(!browser.read("env").contains("LOCAL_DAEMON_LAUNCH"));
    let pid = browser.home.record().unwrap()["pid"].to_string();
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let told = String::from_utf8_lossy(&environ).matches("LOCAL_DAEMON_LAUNCH=").count();
    assert_eq!((told, Path::new("/elsewhere").exists()), (1, false));
}

/// BROW-18.
#[test]
fn print_url_starts_nothing_and_keeps_the_ticket_in_the_fragment() {
    let browser = Browser::new();
    let home = &browser.home;
    let program = browser.program.to_str().unwrap();
    let seen = Output::of(home.command(&["open", "--print-url"]).env("BROWSER", program));
    let authority = between(&seen.stdout, "http://", "/#ticket=").to_owned();
    assert!(is_page_host(&authority), "{seen:?}");
    assert_eq!(seen.stdout.lines().count(), 1);
    assert_eq!(status_of_form(home, &authority, between(&seen.stdout, "/#ticket=", "\n")), 200);
    let seen = Output::of(home.command(&["open", "--print-url", "--json"]).env("BROWSER", program));
    let json = seen.json();
    assert_eq!((json["outcome"].as_str(), json["expires_in_seconds"].as_u64()), (Some("done"), Some(30)));
    let ticket = between(json["url"].as_str().unwrap(), "#ticket=", "&").to_owned();
    assert_eq!(status_of_form(home, &authority, &ticket), 200);
    assert!(
        !browser.kept("args").exists()
            && !names(home.state_dir()).iter().any(|name| name.starts_with("launcher-"))
    );
}

#[test]
fn browser_is_named_by_the_environment() {
    let browser = Browser::new();
    // A path with spaces is for --browser; this one is found by its name.
    let named = browser.program.with_file_name("browser");
    fs::rename(&browser.program, &named).unwrap();
    let path = format!("{}:/usr/bin:/bin", named.parent().unwrap().display());
    for variable in ["browser", "no-such-browser:false:browser --new-window %s"] {
        let seen = Output::of(browser.home.command(&["open"]).env("BROWSER", variable).env("PATH", &path));
        assert_eq!(seen.code, 19, "{seen:?}");
        assert!(seen.stderr.contains("browser was started"), "{seen:?}");
        assert_eq!(browser.read("args").contains("--new-window"), variable.contains("--new-window"));
    }
}

#[test]
fn what_cannot_open_it_is_named_and_leaves_no_file() {
    let home = Home::new();
    for (args, why) in [
        (["open", "--browser", "/no/such/browser"], "/no/such/browser: No such file"),
        (["open", "--browser", "false"], "false: it ended with exit status: 1"),
    ] {
        let seen = home.locald(&args);
        assert_eq!(seen.code, 1, "{seen:?}");
        assert!(seen.stderr.contains(why) && seen.stderr.contains("--print-url"), "{seen:?}");
        let left = names(home.state_dir());
        assert!(!left.iter().any(|name| name.starts_with("launcher-")), "{left:?}");
    }
    let seen = home.locald(&["open", "--browser", "false", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (1, Some("error")), "{seen:?}");
    assert_eq!(home.locald(&["open", "--browser", "x", "--print-url"]).code, 2);
}

#[test]
fn handoff_goes_to_a_listed_origin() {
    let browser = Browser::new();
    let home = &browser.home;
    for (origin, why) in [
        (APP, "origins add"),
        ("http://127.0.0.1:5173/", "is not an origin"),
    ] {
        let seen = browser.opens(&["handoff", "--origin", origin]);
        assert_eq!(seen.code, 2, "{seen:?}");
        assert!(seen.stderr.contains(why), "{seen:?}");
    }
    assert!(!browser.kept("args").exists());

    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    let seen = browser.opens(&["handoff", "--origin", APP, "--json"]);
    assert_eq!((seen.code, seen.json()["url"].as_str()), (0, Some("http://127.0.0.1:5173/")), "{seen:?}");
    let url = home.record().unwrap()["url"].as_str().unwrap().to_owned();
    let page = browser.read("file");
    let address = between(&page, "location.replace(\"", "\"");
    let ticket = between(address, "#ldp_ticket=", "&");
    let base = url.replace(':', "%3A").replace('/', "%2F");
    assert_eq!(address, format!("{APP}/#ldp_ticket={ticket}&ldp_url={base}"));
    assert!(!browser.read("args").contains(ticket) && !browser.read("env").contains(ticket));
    let printed = home.locald(&["handoff", "--origin", APP, "--print-url"]).stdout;
    assert!(printed.starts_with(&format!("{APP}/#ldp_ticket=")));

    let headers = format!("Origin: {APP}\r\n");
    let body = format!("{{\"ticket\":\"{ticket}\"}}");
    let answer = Raw::connect(home).bare("POST /v1/handoff", &headers, &body);
    assert_eq!((answer.status, &answer.json()["origin"]), (200, &APP.into()));
}

/// BROW-46: the listener of another user is a daemon of that user.
#[test]
fn handoff_to_a_port_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start a process of another user");
        return;
    }
    let (home, other) = (Home::new(), Home::new());
    chown(other.state_dir().parent().unwrap(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = other.command(&["run"]);
    let _other = Foreground::spawn(command.uid(NOBODY).gid(NOBODY).stderr(Stdio::piped()));
    let record = until("a record", || other.record());
    let theirs = record["url"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let _daemon = home.run(&[]);
    let ours = home.record().unwrap()["url"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    for (host, port, code) in [
        ("127.0.0.1", &theirs, 13),
        ("localhost", &theirs, 13),
        ("app.localhost", &theirs, 13),
        ("[::1]", &theirs, 13),
        ("127.0.0.1", &ours, 0),
        ("localhost", &ours, 0),
        ("app.example", &theirs, 0),
    ] {
        let origin = format!("http://{host}:{port}");
        let seen = home.locald(&["origins", "add", &origin]);
        assert_eq!(seen.code, 0, "{seen:?}");
        assert_eq!(seen.stderr.contains("[::1] first"), host.ends_with("localhost"), "{seen:?}");
        let seen = home.locald(&["handoff", "--origin", &origin, "--print-url"]);
        assert_eq!(seen.code, code, "{origin}: {seen:?}");
        assert_eq!(
            seen.stderr.contains(&format!("another user (uid {NOBODY}) listens")),
            code == 13,
            "{seen:?}"
        );
        assert_eq!(seen.stdout.contains("ldp_ticket="), code == 0);
    }

    // The system may give another name a loopback address.
    let hosts = home.state_dir().with_file_name("hosts");
    fs::write(&hosts, "127.0.0.1 localhost my-machine\n").unwrap();
    let mount = format!("mount --bind '{}' /etc/hosts && exec \"$@\"", hosts.display());
    let named = ["unshare", "-m", "sh", "-c", &mount, "sh"];
    for (port, code) in [(&theirs, 13), (&ours, 0)] {
        let origin = format!("http://my-machine:{port}");
        assert_eq!(home.locald(&["origins", "add", &origin]).code, 0);
        let handoff = home.command(&["handoff", "--origin", &origin, "--print-url"]);
        let seen = Output::of(&mut under(&named, &handoff));
        assert_eq!(seen.code, code, "{origin}: {seen:?}");
    }
}

#[test]
fn pages_are_listed_and_revoked() {
    let home = Home::new();
    let list = || home.locald(&["pages", "list", "--json"]).json()["pages"].as_array().unwrap().clone();
    assert_eq!(home.locald(&["pages", "list"]).code, 10);
    let printed = home.locald(&["open", "--print-url"]).stdout;
    assert!(home.locald(&["pages", "list"]).stdout.contains("locald open"));
    let authority = between(&printed, "http://", "/#ticket=");
    assert_eq!(status_of_form(&home, authority, between(&printed, "#ticket=", "\n")), 200);
    let pages = list();
    assert_eq!(pages.len(), 1, "{pages:?}");
    let id = pages[0]["id"].as_str().unwrap();
    for (changed, left) in [(true, 0), (false, 0)] {
        let seen = home.locald(&["pages", "revoke", id, "--json"]);
        assert_eq!((seen.code, seen.json()["changed"].as_bool()), (0, Some(changed)), "{seen:?}");
        assert_eq!(list().len(), left);
    }
    assert_eq!(home.locald(&["pages", "revoke", "../status"]).code, 2);
}

/// BROW-17: what a daemon finds that was left behind is gone at once; what doctor finds, where none runs, with --fix.
#[test]
fn stale_launchers_go() {
    let home = Home::new();
    assert_eq!(home.locald(&["credential", "rotate"]).code, 0);
    let leave = |name: &str, age| {
        let path = home.file(name);
        fs::write(&path, "").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        path
    };
    let [old, young] = [("launcher-a.html", 61), ("launcher-b.html", 5)].map(|(name, age)| leave(name, age));
    let levels = |args: &[&str]| {
        let json = home.locald(args).json();
        let checks = json["checks"].as_array().unwrap().clone();
        let check = checks.iter().find(|check| check["check"] == "launchers").unwrap().clone();
        check["level"].as_str().unwrap().to_owned()
    };
    assert_eq!(levels(&["doctor", "--json"]), "warn");
    assert!(old.exists());
    assert_eq!(levels(&["doctor", "--fix", "--json"]), "ok");
    assert!(!old.exists() && young.exists());

    let old = leave("launcher-c.html", 31);
    let _daemon = home.run(&[]);
    until("the daemon removes it", || (!old.exists()).then_some(()));
    assert!(young.exists(), "its ticket may still work");
}

#[test]
fn what_people_read() {
    let home = Home::new();
    let said = |args: &[&str]| {
        let seen = home.locald(args);
        let url = home.record().unwrap()["url"].as_str().unwrap().to_owned();
        let text = format!("{} {}{}", seen.code, seen.stdout, seen.stderr);
        format!("$ locald {}\n{}", args.join(" "), text.replace(&url, "http://127.0.0.1:PORT"))
    };
    let text = [
        said(&["open", "--browser", "true"]),
        said(&["open", "--browser", "no-such-browser"]),
        said(&["origins", "add", "http://localhost:5173"]),
        said(&["handoff", "--origin", APP]),
        said(&["handoff", "--origin", "*"]),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

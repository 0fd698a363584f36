//! A picture of a page in one engine: `screenshot ENGINE LOOK FILE SELECTOR COMMAND… [-- SELECTOR COMMAND…]…`
//!
//! The first command prints the page's address on its first line. It is run when the browser is ready, because a ticket in
//! the address does not last, and is not given as an argument, because those are public. Each further one is run once the
//! CSS selector before it finds something, and the picture is taken once the last selector does. What the look is, words
//! say: `light`, `dark`, `phone`, `dark-phone`.

use std::error::Error;
use std::process::Command;

use local_daemon_harness::browser::{Browser, Kind, Look};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [engine, look, file, steps @ ..] = &args[..] else {
        return Err("screenshot ENGINE LOOK FILE SELECTOR COMMAND… [-- SELECTOR COMMAND…]…".into());
    };
    let look = Look { dark: look.contains("dark"), phone: look.contains("phone") };
    let kind: Kind = engine.parse()?;
    let browser = Browser::start_in(kind, look, |_| {})?;
    let mut is_open = false;
    let mut missing = None;
    for step in steps.split(|arg| arg == "--") {
        let [selector, program, rest @ ..] = step else {
            return Err("a selector and a command".into());
        };
        let output = Command::new(program).args(rest).output()?;
        if !is_open {
            let said = String::from_utf8(output.stdout)?;
            browser.open(said.lines().next().ok_or("the command prints no address")?)?;
            is_open = true;
        }
        missing = (!shows(&browser, selector)).then_some(selector);
        if missing.is_some() {
            break;
        }
    }
    std::fs::write(file, browser.picture(look)?)?;
    match missing {
        None => Ok(()),
        Some(selector) => Err(format!("nothing in the page is {selector}").into()),
    }
}

/// Whether the page comes to have something that the selector finds.
fn shows(browser: &Browser, selector: &str) -> bool {
    // A ticket's page comes by a form that the shell submits: a script may be cut off by its coming.
    let shown = "const end = Date.now() + 10000;
                 while (!document.querySelector(arg) && Date.now() < end) await new Promise(done => setTimeout(done, 20));
                 return document.querySelector(arg) !== null";
    (0..5).any(|_| browser.run(shown, json!(selector)).is_ok_and(|shown| shown == true))
}

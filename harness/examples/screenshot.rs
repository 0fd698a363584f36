//! A picture of a page in one engine: `screenshot ENGINE LOOK SELECTOR FILE COMMAND…`
//!
//! The command prints the page's address on its first line. It is run when the browser is ready, because a ticket in the
//! address does not last, and is not given as an argument, because those are public. The picture is taken once the CSS
//! selector finds something; what the look is, words say: `light`, `dark`, `phone`, `dark-phone`.

use std::error::Error;
use std::process::Command;

use local_daemon_harness::browser::{Browser, Kind, Look};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [engine, look, selector, file, program, rest @ ..] = &args[..] else {
        return Err("screenshot ENGINE LOOK SELECTOR FILE COMMAND…".into());
    };
    let look = Look {
        dark: look.contains("dark"),
        phone: look.contains("phone"),
    };
    let kind: Kind = engine.parse()?;
    let browser = Browser::start_in(kind, look, |_| {})?;
    let output = Command::new(program).args(rest).output()?;
    let said = String::from_utf8(output.stdout)?;
    let address = said.lines().next().ok_or("the command prints no address")?;
    browser.open(address)?;
    // A ticket's page comes by a form that the shell submits: a script may be cut off by its coming.
    let shown = "const end = Date.now() + 10000;
                 while (!document.querySelector(arg) && Date.now() < end) await new Promise(done => setTimeout(done, 20));
                 return document.querySelector(arg) !== null";
    let is_shown = (0..5).any(|_| {
        browser
            .run(shown, json!(selector))
            .is_ok_and(|shown| shown == true)
    });
    std::fs::write(file, browser.picture(look)?)?;
    if is_shown {
        Ok(())
    } else {
        Err(format!("nothing in the page is {selector}").into())
    }
}

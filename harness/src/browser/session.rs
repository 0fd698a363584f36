//! A `WebDriver` session whose commands wait, each with a deadline.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use url::{ParseError, Url};

use super::{BrowserFault, Kind};

/// Longer than the bounds that the session itself sets scripts and loads, so that its own word comes first.
const COMMAND: Duration = Duration::from_secs(25);

/// One session of one driver.
#[derive(Debug)]
pub(super) struct Session {
    kind: Kind,
    client: Client,
    runtime: Runtime,
}

impl Session {
    /// Asks the driver at `address` for a session; also the version of the browser that came.
    pub(super) fn open(
        kind: Kind,
        address: SocketAddr,
        capabilities: Map<String, Value>,
        deadline: Instant,
    ) -> Result<(Self, String), BrowserFault> {
        let failed = |why: String| BrowserFault::NotStarted { kind, why };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(format!("no runtime for it: {error}")))?;
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities);
            let url = format!("http://{address}");
            tokio::time::timeout_at(deadline.into(), builder.connect(&url)).await
        });
        let client = match client {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("no session in time".to_owned())),
        };
        let told = client.capabilities().and_then(|told| told.get("browserVersion"));
        let version = told.and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let session = Self { kind, client, runtime };
        Ok((session, version))
    }

    fn wait<T>(
        &self,
        command: &str,
        doing: impl Future<Output = Result<T, CmdError>>,
    ) -> Result<T, BrowserFault> {
        let why = match self.runtime.block_on(async { tokio::time::timeout(COMMAND, doing).await }) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", COMMAND.as_secs()),
        };
        Err(BrowserFault::Command { kind: self.kind, command: command.to_owned(), why })
    }

    pub(super) fn goto(&self, url: &str) -> Result<(), BrowserFault> {
        self.wait(&format!("open {url}"), self.client.goto(url))
    }

    pub(super) fn back(&self) -> Result<(), BrowserFault> {
        self.wait("back", self.client.back())
    }

    pub(super) fn reload(&self) -> Result<(), BrowserFault> {
        self.wait("reload", self.client.refresh())
    }

    pub(super) fn run(&self, script: &str, arg: Value) -> Result<Value, BrowserFault> {
        self.wait("run a script", self.client.execute_async(script, vec![arg]))
    }

    pub(super) fn open_tab(&self) -> Result<(), BrowserFault> {
        self.wait("open a tab", async {
            let tab = self.client.new_window(true).await?;
            self.client.switch_to_window(tab.handle).await
        })
    }

    pub(super) fn close_tab(&self) -> Result<(), BrowserFault> {
        self.wait("close a tab", async {
            self.client.close_window().await?;
            let left = self.client.windows().await?;
            match left.into_iter().next() {
                Some(tab) => self.client.switch_to_window(tab).await,
                None => Ok(()),
            }
        })
    }

    pub(super) fn tab_at(&self, start: &str) -> Result<bool, BrowserFault> {
        self.wait(&format!("go on in the tab at {start}"), async {
            for tab in self.client.windows().await? {
                self.client.switch_to_window(tab).await?;
                if self.client.current_url().await?.as_str().starts_with(start) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    pub(super) fn click(&self, selector: &str) -> Result<(), BrowserFault> {
        self.wait(&format!("click {selector}"), async {
            self.client.find(Locator::Css(selector)).await?.click().await
        })
    }

    pub(super) fn enter_frame(&self) -> Result<(), BrowserFault> {
        self.wait("enter the frame", self.client.enter_frame(0))
    }

    pub(super) fn leave_frame(&self) -> Result<(), BrowserFault> {
        self.wait("leave the frame", self.client.enter_parent_frame())
    }

    pub(super) fn resize(&self, width: u32, height: u32) -> Result<(), BrowserFault> {
        self.wait("resize the window", self.client.set_window_size(width, height))
    }

    pub(super) fn picture(&self) -> Result<Vec<u8>, BrowserFault> {
        self.wait("take a picture", self.client.screenshot())
    }

    pub(super) fn clear(&self, page: &str) -> Result<(), BrowserFault> {
        self.wait("clear", async {
            let old = self.client.windows().await?;
            let tab = self.client.new_window(true).await?;
            for window in old {
                self.client.switch_to_window(window).await?;
                self.client.close_window().await?;
            }
            self.client.switch_to_window(tab.handle).await?;
            // Cookies have no port: those of any page of this machine are seen from this one, and are gone with them.
            self.client.goto(page).await?;
            self.client.delete_all_cookies().await
        })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.wait("list tabs", self.client.windows()).is_ok()
    }

    /// A command that the client does not know by name.
    pub(super) fn post(&self, path: &'static str, body: &Value) -> Result<Value, BrowserFault> {
        let command = Post { path, body: body.to_string() };
        self.wait(path, self.client.issue_cmd(command))
    }
}

#[derive(Debug)]
struct Post {
    path: &'static str,
    body: String,
}

impl WebDriverCompatibleCommand for Post {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        let session = session_id.unwrap_or_default();
        base_url.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.clone()))
    }
}

//! The guard alone, in front of a server that exists already and that no record names: what embeds it hands out the address and
//! a credential of this launch. For a server that other programs find, see `shape_a.rs`.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use local_daemon::handshake::{Handshake, State};
use local_daemon::perimeter::{Guard, Identity, Origins};
use local_daemon::{ClaimId, Credential, Protocol};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_layer::Layer;

struct Server {
    id: ClaimId,
    protocol: Protocol,
    credential: watch::Sender<Credential>,
    authority: String,
    port: u16,
    origins: watch::Sender<Origins>,
}

impl Identity for Server {
    fn credential(&self) -> watch::Receiver<Credential> {
        self.credential.subscribe()
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn handshake(&self) -> Handshake {
        Handshake {
            protocol: self.protocol.clone(),
            id: self.id,
            pid: NonZeroU32::new(std::process::id()).expect("a process id is never zero"),
            version: "1.4.0".to_owned(),
            state: State::Ready,
            capabilities: Vec::new(),
        }
    }

    fn origins(&self) -> watch::Receiver<Origins> {
        self.origins.subscribe()
    }

    fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let credential = Credential::from_bytes(random()?);
    // Only to the program that has started this one.
    println!("{address} {}", *credential.expose());
    let server = Server {
        id: ClaimId::from_bits(u128::from_ne_bytes(random()?)),
        protocol: "acme/1".parse()?,
        credential: watch::channel(credential).0,
        authority: address.to_string(),
        port: address.port(),
        origins: watch::channel(Origins::default()).0,
    };
    let guard = Guard::new(Arc::new(server)).body_limit(16 * 1024 * 1024);
    let routes = Router::new().route("/v1/hello", get(async || "hello"));
    // As a fallback, so that the guard judges before anything is routed (PER-1).
    Ok(axum::serve(listener, Router::new().fallback_service(guard.layer(routes))).await?)
}

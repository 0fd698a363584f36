//! Shape A: a shell with a server of its own, which other programs find as well. The shell talks to its routes by standard input,
//! a path a line, and goes on to do so after another daemon has displaced what it published.

use std::error::Error;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::routing::get;
use local_daemon::Daemon;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::net::TcpListener;
use tower_layer::Layer;
use tower_service::Service;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut routes = Router::new().route("/v1/hello", get(async || "hello"));

    // What is added for other programs: a record, and the guard in front of the same routes.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let publication = Daemon::builder("acme", "acme/1")
        .version("1.4.0")
        .publication([listener.local_addr()?])
        .await?;
    let handle = publication.handle();
    let guarded = publication.layer().layer(routes.clone());
    let server = axum::serve(listener, Router::new().fallback_service(guarded));
    let server = tokio::spawn(async move { server.await });
    let published = tokio::spawn(async move {
        let ended = publication.run().await;
        server.abort();
        match ended {
            Ok(reason) => println!("published no more: {}", reason.as_str()),
            Err(error) => println!("published no more: {error}"),
        }
    });

    // What the shell does by itself.
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(path) = lines.next_line().await? {
        let answer = routes.call(Request::get(path).body(Body::empty())?).await?;
        let body = to_bytes(answer.into_body(), 64 * 1024).await?;
        println!("{}", String::from_utf8_lossy(&body));
    }
    handle.stop();
    Ok(published.await?)
}

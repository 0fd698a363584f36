//! The examples of the crate, by the manifests next to them.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use super::{build_subjects, root};

/// Builds an example and judges it by its manifest, below the root.
fn conforms(example: &str, manifest: &str) {
    build_subjects();
    let beside = cargo_bin!("daemonspec").parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "local-daemon",
        "--features",
        "axum",
        "--example",
        example,
    ]);
    build.arg("--target-dir").arg(beside.parent().unwrap()).current_dir(root());
    if beside.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [beside.join("examples")].into_iter().chain(std::env::split_paths(&path));
    let judged = Command::new(cargo_bin!("daemonspec"))
        .args(["run", manifest])
        .env("PATH", std::env::join_paths(path).unwrap())
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&judged.stdout);
    assert_eq!(judged.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn readmes_daemon_passes_what_it_claims() {
    conforms("daemon", "examples/daemon.toml");
}

#[test]
fn acme_passes_what_it_claims_without_glue() {
    let lines = |path: &str| std::fs::read_to_string(root().join(path)).unwrap().lines().count();
    assert!(lines("examples/acme/main.rs") + lines("examples/acme/daemon.rs") <= 120);
    conforms("acme", "examples/acme/acme.toml");
}

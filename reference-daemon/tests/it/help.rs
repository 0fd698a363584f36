//! The help is part of the face: it changes on purpose only.

use crate::support::{Home, Output};

#[test]
fn help() {
    let home = Home::new();
    let commands: &[&[&str]] = &[
        &[],
        &["start"],
        &["stop"],
        &["restart"],
        &["status"],
        &["connect"],
        &["open"],
        &["handoff"],
        &["pages"],
        &["run"],
        &["credential"],
        &["origins"],
        &["doctor"],
    ];
    let pages = commands.iter().map(|command| {
        let seen = Output::of(home.command(&[command, &["--help"][..]].concat()).env("COLUMNS", "100"));
        assert_eq!(seen.code, 0, "{seen:?}");
        format!("$ locald {}\n{}", [command, &["--help"][..]].concat().join(" "), seen.stdout)
    });
    insta::assert_snapshot!(pages.collect::<Vec<_>>().join("\n"));
}

#[test]
fn version() {
    let seen = Home::new().locald(&["--version"]);
    assert_eq!((seen.code, seen.stdout.trim_end()), (0, concat!("locald ", env!("CARGO_PKG_VERSION"))));
}

//! What holds of the whole tree: the walls between its packages, the licences and sources of its dependencies, and
//! that none of them is a version with a known hole. All of it offline, from `cargo metadata`.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand, PackageId};

fn metadata() -> Metadata {
    // What other platforms would need has not been downloaded here.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap().stdout;
    let host = format!("--filter-platform={}", String::from_utf8(host).unwrap().trim());
    MetadataCommand::new()
        .other_options(["--offline".to_owned(), "--locked".to_owned(), host])
        .exec()
        .unwrap()
}

/// The names of everything that `package` is built from, dev-dependencies of others left aside.
fn dependencies(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let nodes: HashMap<_, _> =
        metadata.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id: &PackageId| metadata[id].name.to_string();
    let root = metadata.workspace_packages().into_iter().find(|p| p.name.as_str() == package).unwrap();
    let mut found = BTreeSet::new();
    let mut open = vec![(&root.id, true)];
    while let Some((id, is_root)) = open.pop() {
        for dependency in &nodes[id].deps {
            use cargo_metadata::DependencyKind::Development;
            let built = dependency.dep_kinds.iter().any(|kind| kind.kind != Development);
            if (built || is_root) && found.insert(name(&dependency.pkg)) {
                open.push((&dependency.pkg, false));
            }
        }
    }
    found
}

#[test]
fn the_judge_shares_no_code_with_the_judged() {
    let metadata = metadata();
    for judge in ["local-daemon-harness", "local-daemon-conformance"] {
        let needs = dependencies(&metadata, judge);
        assert!(needs.contains("local-daemon-spec"), "{judge}: the walk found {needs:?}");
        for judged in ["local-daemon", "reference-daemon"] {
            assert!(!needs.contains(judged), "{judge} depends on {judged}");
        }
    }
    assert!(
        dependencies(&metadata, "reference-daemon").contains("local-daemon"),
        "the walk finds what is there"
    );
}

/// The machines and what they speak of do no I/O and read no clock: the model and the fuzzers drive them as they are.
#[test]
fn the_machines_touch_nothing() {
    const FORBIDDEN: &[&str] = &[
        "std::fs",
        "std::net",
        "std::io",
        "std::process",
        "std::thread",
        "std::env",
        "Instant",
        "SystemTime",
        "tokio",
        "rustix",
        "libc",
        "getrandom",
        "notify",
        "platform::",
        "state_dir",
        "StateDir",
        "client::",
        "daemon::",
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in [
        "registration",
        "handshake",
        "claim",
        "connect",
        "gate",
        "credential",
    ] {
        let text = fs::read_to_string(src.join(format!("{module}.rs"))).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            let found = FORBIDDEN.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "src/{module}.rs, code line {}: {line}", number + 1);
        }
    }
}

#[test]
fn licences_are_ones_that_a_product_can_ship() {
    const ALLOWED: &[&str] = &[
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
    ];
    let allowed: Vec<_> = ALLOWED.iter().map(|text| spdx::Licensee::parse(text).unwrap()).collect();
    let refused: Vec<_> = metadata()
        .packages
        .iter()
        .filter(|package| {
            let text = package.license.as_deref().unwrap_or_default();
            let parsed = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX);
            !parsed
                .is_ok_and(|e| e.evaluate(|needed| allowed.iter().any(|licence| licence.satisfies(needed))))
        })
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(refused.is_empty(), "licences to look at:\n{}", refused.join("\n"));
}

#[test]
fn dependencies_come_from_the_registry_and_have_no_known_hole() {
    // One line an advisory: its id, the crate, the first version that is mended. A snapshot: the check works offline,
    // and knows no advisory that nobody has added here.
    let advisories = include_str!("../ci/advisories.txt");
    let advisories: Vec<Vec<_>> = advisories
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(advisories.len() >= 10, "the snapshot was read");
    let mut wrong = Vec::new();
    for package in metadata().packages {
        let name = package.name.as_str();
        match &package.source {
            Some(source) if !source.is_crates_io() => wrong.push(format!("{name}: from {source}")),
            _ => {}
        }
        for advisory in advisories.iter().filter(|advisory| advisory[1] == name) {
            let mended: cargo_metadata::semver::Version = advisory[2].parse().unwrap();
            if package.version < mended {
                wrong.push(format!("{name} {}: {} (mended in {mended})", package.version, advisory[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Versions stand in the root manifest and nowhere else.
#[test]
fn one_table_of_versions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for member in ["", "spec", "reference-daemon", "harness", "conformance", "fuzz"] {
        let text = fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
        let sections = text.split("\n[").filter(|section| {
            let head = section.lines().next().unwrap_or_default();
            head == "dependencies]" || head == "dev-dependencies]" || head == "build-dependencies]"
        });
        for line in sections.flat_map(|section| section.lines().skip(1)) {
            let inherits = line.is_empty() || line.starts_with('#') || line.contains("workspace = true");
            assert!(inherits, "{member}/Cargo.toml: `{line}` names its own version");
        }
    }
}

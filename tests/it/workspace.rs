//! What holds of the whole tree: the walls between its packages, the licences and sources of its dependencies, and
//! that none of them is a version with a known hole. All of it offline, from `cargo metadata`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

fn metadata() -> Metadata {
    // What other platforms would need has not been downloaded here.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap().stdout;
    let host = format!("--filter-platform={}", String::from_utf8(host).unwrap().trim());
    MetadataCommand::new()
        .other_options(["--offline".to_owned(), "--locked".to_owned(), host])
        .exec()
        .unwrap()
}

/// What reads a file, a socket, a clock or a random generator, or waits for one.
const IO: &[&str] = &[
    "getrandom",
    "hyper",
    "inotify",
    "libc",
    "mio",
    "notify",
    "rand",
    "rustix",
    "socket2",
    "tokio",
];
/// The implementation and everything that is made of it.
const JUDGED: &[&str] = &[
    "local-daemon",
    "local-daemon-model",
    "local-daemon-proto",
    "reference-daemon",
];
const OURS: &[&str] = &[
    "local-daemon",
    "local-daemon-bench",
    "local-daemon-conformance",
    "local-daemon-fuzz",
    "local-daemon-harness",
    "local-daemon-model",
    "local-daemon-proto",
    "local-daemon-subject",
    "reference-daemon",
];

/// Which package must not depend on which, at any distance.
const WALLS: &[(&str, Including, &[&str])] = &[
    // The machines do no I/O, and the model explores these very machines.
    ("local-daemon-proto", Including::BuildOnly, IO),
    ("local-daemon-model", Including::BuildOnly, &["local-daemon", "rustix"]),
    // The judge shares no code with the judged.
    ("local-daemon-conformance", Including::Tests, JUDGED),
    ("local-daemon-harness", Including::Tests, JUDGED),
    // The independent implementation is no part of what judges it.
    (
        "local-daemon-subject",
        Including::Tests,
        &["local-daemon", "local-daemon-harness", "local-daemon-proto"],
    ),
    ("local-daemon-spec", Including::Tests, OURS),
];

/// Which of a package's own dependencies count.
#[derive(Clone, Copy, PartialEq)]
enum Including {
    BuildOnly,
    Tests,
}

/// Returns the names of everything that `package` depends on.
fn dependencies(metadata: &Metadata, package: &str, including: Including) -> BTreeSet<String> {
    let nodes: HashMap<_, _> =
        metadata.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata.workspace_packages().into_iter().find(|p| p.name.as_str() == package).unwrap();
    let mut found = BTreeSet::new();
    let mut open = vec![&root.id];
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let counts = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
                || (including == Including::Tests && *id == root.id);
            let name = metadata[&dependency.pkg].name.to_string();
            // `cpufeatures` asks for the features of an ARM processor by `libc`, and does nothing else.
            let is_leaf = name == "cpufeatures";
            if counts && found.insert(name) && !is_leaf {
                open.push(&dependency.pkg);
            }
        }
    }
    found
}

#[test]
fn walls_between_packages_stand() {
    let metadata = metadata();
    let walk = dependencies(&metadata, "reference-daemon", Including::BuildOnly);
    assert!(walk.contains("local-daemon-proto") && walk.contains("tokio"), "the walk found {walk:?}");
    let mut broken = Vec::new();
    for (package, including, forbidden) in WALLS {
        let needs = dependencies(&metadata, package, *including);
        broken.extend(
            forbidden
                .iter()
                .filter(|name| needs.contains(**name))
                .map(|name| format!("{package} depends on {name}")),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
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
    let advisories = include_str!("../../ci/advisories.txt");
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

/// Versions are in the root manifest and nowhere else.
#[test]
fn one_table_of_versions() {
    for package in metadata().workspace_packages() {
        let text = fs::read_to_string(&package.manifest_path).unwrap();
        let sections = text.split("\n[").filter(|section| {
            let head = section.lines().next().unwrap_or_default();
            head.ends_with("dependencies]") && head != "workspace.dependencies]"
        });
        for line in sections.flat_map(|section| section.lines().skip(1)) {
            let inherits = line.is_empty() || line.starts_with('#') || line.contains("workspace = true");
            assert!(inherits, "{}: `{line}` names its own version", package.manifest_path);
        }
    }
}

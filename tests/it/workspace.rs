//! Properties of the whole tree: the walls between its packages, and the licences and sources of its dependencies, all read
//! offline from `cargo metadata`.

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

/// What a package may depend on among our own: in its build, and in its tests also. Declared dependencies count, whatever
/// the feature or the system they are for; every package has a row, so that what they lead to is held too.
const WALLS: &[(&str, &[&str], &[&str])] = &[
    ("local-daemon-spec", &[], &[]),
    // The model explores the machines that run. Only its tests step real processes.
    ("local-daemon-proto", &[], &["local-daemon-spec"]),
    ("local-daemon", &["local-daemon-proto"], &["local-daemon", "local-daemon-spec"]),
    ("reference-daemon", &["local-daemon"], &[]),
    ("local-daemon-model", &["local-daemon-proto"], &["local-daemon"]),
    // The judge shares no code with the reference implementation, and the independent one none with either.
    ("local-daemon-subject", &[], &["local-daemon-spec"]),
    ("local-daemon-harness", &[], &["local-daemon-spec"]),
    ("local-daemon-conformance-macros", &[], &[]),
    (
        "local-daemon-conformance",
        &[
            "local-daemon-conformance-macros",
            "local-daemon-harness",
            "local-daemon-spec",
            "local-daemon-subject",
        ],
        &[],
    ),
    // These compare all of them.
    (
        "local-daemon-fuzz",
        &[
            "local-daemon",
            "local-daemon-harness",
            "local-daemon-model",
            "local-daemon-proto",
            "local-daemon-spec",
            "local-daemon-subject",
        ],
        &[],
    ),
    ("local-daemon-bench", &["local-daemon"], &[]),
];

/// All that the machines are built from. None of it reads a file, a socket, a clock or a random generator.
const WITHOUT_IO: &[&str] = &[
    "base64",
    "hmac",
    "serde",
    "serde_json",
    "sha2",
    "subtle",
    "thiserror",
    "zeroize",
];

#[test]
fn packages_depend_on_what_they_may() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    assert!(packages.len() >= WALLS.len(), "the walk found {} packages", packages.len());
    let mut broken = Vec::new();
    for package in packages {
        let row = WALLS.iter().find(|(name, ..)| *name == package.name.as_str());
        let Some((name, build, tests)) = row else {
            broken.push(format!("{} has no row in the table", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let in_tests = dependency.kind == DependencyKind::Development;
            let ours = build.contains(&&*dependency.name) || in_tests && tests.contains(&&*dependency.name);
            let is_pure =
                *name != "local-daemon-proto" || in_tests || WITHOUT_IO.contains(&&*dependency.name);
            if !(if dependency.path.is_some() { ours } else { is_pure }) {
                broken.push(format!("{name} must not depend on {}", dependency.name));
            }
        }
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
fn dependencies_come_from_the_registry() {
    let metadata = metadata();
    let is_foreign = |package: &&cargo_metadata::Package| {
        package.source.as_ref().is_some_and(|source| !source.is_crates_io())
    };
    let wrong: Vec<_> = metadata.packages.iter().filter(is_foreign).map(|package| &package.id).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
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
            let has_none = line.contains("path = ") && !line.contains("version");
            assert!(inherits || has_none, "{}: `{line}` names its own version", package.manifest_path);
        }
    }
}

/// Who copies README's daemon copies the one that the suite has judged.
#[test]
fn readme_shows_the_example_daemon() {
    let example = include_str!("../../examples/daemon.rs");
    let code = example.split_once("\n\n").expect("it begins with a comment").1;
    assert!(include_str!("../../README.md").contains(&format!("```rust\n{code}```\n")));
}

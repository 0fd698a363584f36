//! A product whose stream has a topic of its own.

use super::{build_subjects, daemonspec};

#[test]
fn a_product_passes_the_cases_of_streams_by_its_manifest_alone() {
    build_subjects();
    let ended = daemonspec([
        "run",
        "conformance/subjects/product.toml",
        "--case",
        "streams/*",
        "--browser",
        "none",
    ]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
}

//! Requirement, citation in code, case, fault: the chain is walked both ways.

use local_daemon_conformance::case::Case;
use local_daemon_conformance::{cases, traceability};
use local_daemon_spec::catalogue;
use local_daemon_subject::faults::{self, Fault};

#[test]
fn no_end_dangles() {
    let root = traceability::repository().expect("the suite is built beside the code");
    let citations = traceability::citations(catalogue(), &root).unwrap();
    let cases: Vec<&Case> = cases::all().collect();
    let faults: Vec<&Fault> = faults::all().collect();
    let ends = traceability::dangling(catalogue(), &citations, &cases, &faults);
    assert!(ends.is_empty(), "{} ends dangle:\n{}", ends.len(), ends.join("\n"));
}

#[test]
fn every_kind_of_dangling_end_is_found() {
    static CASES: [Case; 4] = [
        Case::new("gate/no-such-requirement", &["PUB-999"], "", |_| Ok(())),
        Case::new("gate/of-another-chapter", &["PUB-1"], "", |_| Ok(())),
        Case::new("gate/of-another-chapter", &["GATE-1"], "", |_| Ok(())),
        Case::new("schedule/across-the-chapters", &["PUB-2", "GATE-1"], "", |_| Ok(())),
    ];
    static FAULT: Fault = Fault { name: "PUB-1.every-address", about: "" };
    let cited = traceability::Citation { id: "HS-999".to_owned(), file: "src/lib.rs".into(), line: 7 };
    let ends = traceability::dangling(catalogue(), &[cited], &CASES.iter().collect::<Vec<_>>(), &[&FAULT])
        .join("\n");
    for end in [
        "gate/no-such-requirement: covers PUB-999, which is not there",
        "gate/of-another-chapter: its first requirement, PUB-1, is of publish",
        "gate/of-another-chapter: two cases of this name",
        "src/lib.rs:7: cites HS-999, which is not there",
        "PUB-3: a MUST without a case",
        "PUB-1: a MUST that no code cites",
        "PUB-3: a MUST that no fault breaks",
    ] {
        assert!(ends.contains(end), "{end}\n---\n{ends}");
    }
    assert!(!ends.contains("PUB-1: a MUST without a case"));
    assert!(!ends.contains("PUB-1: a MUST that no fault breaks"));
    assert!(!ends.contains("schedule/"), "a schedule goes across chapters\n{ends}");
}

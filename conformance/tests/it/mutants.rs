//! The kill matrix, of faults and cases made up for the purpose.

use std::collections::BTreeSet;

use local_daemon_conformance::case::Case;
use local_daemon_conformance::engines::Engines;
use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::mutants::{Fate, Matrix, Plan, judge, sample};
use local_daemon_conformance::outcome::{Outcome, Stop, fail, untestable};
use local_daemon_conformance::runner::Stopper;
use local_daemon_conformance::stage::Stage;
use local_daemon_conformance::verdict::Verdict;
use local_daemon_spec::{Profile, catalogue};
use local_daemon_subject::faults::Fault;

/// What the subject, which prints its arguments, was told.
fn said(stage: &mut Stage) -> Outcome<String> {
    let daemon = stage.launch()?;
    let ended = daemon.wait_output_end(stage.ready_deadline());
    stage.precondition("it was started and has ended");
    Ok(String::from_utf8_lossy(&ended.unwrap().stdout()).into_owned())
}

fn tells(stage: &mut Stage, fault: &str) -> Outcome {
    let said = said(stage)?;
    if said.contains(fault) { fail(said) } else { Ok(()) }
}

const fn fault(name: &'static str) -> Fault {
    Fault { name, about: "does it | wrongly" }
}

static TORN: Fault = fault("PUB-3.torn");
static PLACE: Fault = fault("PUB-3.in-place");
static SILENT: Fault = fault("PUB-6.no-flush");
static MUTE: Fault = fault("PUB-4.mute");
static DEAD: Fault = fault("PUB-8.dead");
static NO_CASE: Fault = fault("PUB-13.leftover");
static ELSEWHERE: Fault = fault("HS-6.open");
static SHOULD: Fault = fault("REG-8.no-protocol");

static CASES: [Case; 8] = [
    Case::new("publish/torn-or-in-place", &["PUB-3"], "", |stage| tells(stage, "PUB-3")),
    Case::new("publish/torn", &["PUB-3"], "", |stage| tells(stage, "torn")),
    Case::new("publish/flush", &["PUB-6"], "", |stage| said(stage).map(drop)),
    Case::new("publish/answers", &["PUB-4"], "", |stage| ready(stage, "mute")),
    Case::new("publish/locked", &["PUB-8"], "", |stage| ready(stage, "dead")),
    Case::new("handshake/other", &["HS-7"], "", |stage| tells(stage, "HS-6")),
    Case::new("handshake/here", &["HS-6"], "", |_| untestable("no second user")),
    Case::new("registration/protocol", &["REG-8"], "", |stage| tells(stage, "REG-8")),
];

/// Never ready with this fault.
fn ready(stage: &mut Stage, fault: &str) -> Outcome {
    if said(stage)?.contains(fault) {
        return Err(Stop::NotReady("it is not ready".to_owned()));
    }
    Ok(())
}

fn plan(faults: &[&'static Fault], cases: impl IntoIterator<Item = &'static Case>) -> Plan {
    let echo = ["sh", "-c", r#"echo "$@""#, "sh"].map(str::to_owned);
    Plan {
        manifest: Manifest::of_command(echo.to_vec(), BTreeSet::from([Profile::Core])).unwrap(),
        faults: faults.to_vec(),
        cases: cases.into_iter().collect(),
        all: false,
        whole: true,
        jobs: 4,
        seed: 0,
        engines: Engines::default(),
    }
}

fn judged(plan: &Plan) -> Matrix {
    judge(plan, &Stopper::default(), |_| {}).unwrap()
}

fn fate(matrix: &Matrix, fault: &Fault) -> Fate {
    matrix.faults.iter().find(|row| row.fault == fault.name).unwrap().fate
}

#[test]
fn a_kill_needs_a_failure_of_a_case_that_covers_the_requirement() {
    let faults = [&TORN, &PLACE, &SILENT, &NO_CASE, &ELSEWHERE, &SHOULD];
    let matrix = judged(&plan(&faults, &CASES));
    let killed = |fault| fate(&matrix, fault) == Fate::Killed;
    assert!(killed(&TORN) && killed(&PLACE) && killed(&SHOULD));
    assert_eq!(fate(&matrix, &SILENT), Fate::Survived);
    assert_eq!(fate(&matrix, &NO_CASE), Fate::Survived);
    // The only case that covers it cannot judge here; another that would notice is not about it.
    assert_eq!(fate(&matrix, &ELSEWHERE), Fate::Unjudged);
    assert_eq!(matrix.score.percent(), 60);
    insta::assert_snapshot!("kills_text", stable(&matrix.text()));
    insta::assert_snapshot!("kills_markdown", matrix.markdown());
    let json: serde_json::Value = serde_json::from_str(&matrix.json()).unwrap();
    assert_eq!(json["score"]["killed"], 3);
    let schema = local_daemon_spec::schemas::get("kills").unwrap();
    jsonschema::validate(&serde_json::from_str(schema).unwrap(), &json).unwrap();
}

/// Without the specification's sentences.
fn stable(text: &str) -> String {
    let sentences = catalogue().requirements().map(|requirement| &requirement.text);
    sentences.fold(text.to_owned(), |text, sentence| text.replace(sentence, "<sentence>"))
}

#[test]
fn with_every_case_what_is_not_about_the_requirement_is_shown_and_kills_nothing() {
    let matrix = judged(&Plan { all: true, ..plan(&[&ELSEWHERE], &CASES) });
    assert_eq!(fate(&matrix, &ELSEWHERE), Fate::Unjudged);
    let cell = matrix.faults[0].cells.iter().find(|cell| cell.case == "handshake/other").unwrap();
    assert!(cell.verdict == Verdict::Fail && !cell.covers && !cell.kills);
    assert!(matrix.text().contains("handshake/other (fail)"));
}

#[test]
fn a_subject_that_never_works_is_killed_for_readiness_alone() {
    let matrix = judged(&plan(&[&MUTE, &DEAD], &CASES));
    assert_eq!(fate(&matrix, &MUTE), Fate::Killed);
    assert_eq!(fate(&matrix, &DEAD), Fate::Survived);
    assert!(matrix.text().contains("a plain start of it is never ready"));
}

#[test]
fn without_its_only_killer_a_fault_survives_and_a_superfluous_case_is_named() {
    let faults = [&TORN, &PLACE];
    let matrix = judged(&plan(&faults, &CASES));
    let superfluous: Vec<&str> = matrix.superfluous().map(|worth| worth.case).collect();
    assert_eq!(superfluous, ["publish/torn"]);
    let fates = |left_out: &str| {
        let matrix = judged(&plan(&faults, CASES.iter().filter(|case| case.name != left_out)));
        faults.map(|fault| fate(&matrix, fault))
    };
    assert_eq!(fates("publish/torn"), [Fate::Killed, Fate::Killed]);
    assert_eq!(fates("publish/torn-or-in-place"), [Fate::Killed, Fate::Survived]);
}

#[test]
fn a_subject_that_is_not_clean_is_named_and_the_case_kills_nothing() {
    static BAD: Case = Case::new("publish/bad", &["PUB-3"], "", |stage| {
        said(stage)?;
        fail("always")
    });
    let matrix = judged(&plan(&[&TORN], [&BAD]));
    assert_eq!(matrix.unclean[0].case, BAD.name);
    assert_eq!(fate(&matrix, &TORN), Fate::Unjudged);
    let matrix = judged(&plan(&[&TORN], [&BAD, &CASES[1]]));
    assert_eq!((matrix.unclean.len(), fate(&matrix, &TORN)), (1, Fate::Killed));
}

#[test]
fn a_stopped_run_gives_no_matrix() {
    let stopper = Stopper::default();
    stopper.stop();
    let judged = judge(&plan(&[&TORN], &CASES), &stopper, |_| {});
    assert!(judged.is_none());
}

#[test]
fn a_sample_has_some_of_each_chapter_and_role_and_comes_again() {
    let all = [
        &TORN, &PLACE, &SILENT, &MUTE, &DEAD, &NO_CASE, &ELSEWHERE, &SHOULD,
    ];
    let names = |seed| sample(&all, 2, seed).iter().map(|fault| fault.name).collect::<Vec<_>>();
    assert_eq!(names(1), names(1));
    assert!((2..20).any(|seed| names(seed) != names(1)));
    for seed in 0..5 {
        let of = |prefix: &str| names(seed).iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!([of("PUB-"), of("HS-"), of("REG-")], [2, 1, 1]);
    }
}

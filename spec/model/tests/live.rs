//! A thousand random walks of the model, made by real processes on real files, step by step.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use local_daemon_model::{live, scenario::SCENARIOS, world::Setting};

/// A small generator: a walk that fails is found again by its number.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

fn walks(scenario: &str, numbers: std::ops::Range<u64>) {
    let scenario = *SCENARIOS.iter().find(|known| known.name == scenario).unwrap();
    let setting = Setting::new(scenario, 0);
    let program = Path::new(env!("CARGO_BIN_EXE_local-daemon-model"));
    let mut steps = 0;
    for number in numbers.clone() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random(number);
        match live::walk(&setting, program, folder.path(), |bound| random.below(bound)) {
            Ok(taken) => steps += taken,
            Err(error) => panic!("walk {number} of {}: {error}", scenario.name),
        }
    }
    let walks = usize::try_from(numbers.end - numbers.start).unwrap();
    assert!(steps > walks * 8, "{walks} walks took only {steps} steps");
}

#[test]
fn walks_of_four_daemons_with_everything() {
    walks("four-daemons-everything", 0..500);
}

#[test]
fn more_walks_of_four_daemons_with_everything() {
    walks("four-daemons-everything", 500..1000);
}

#[test]
fn walks_of_five_daemons() {
    walks("five-daemons-three-stops-crash-pause", 0..250);
}

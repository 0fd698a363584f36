//! `Claim` and `Connect` together, several of each, in the model's world: the input chooses who moves and what goes wrong,
//! and every property of the model is judged after each step.

use std::sync::OnceLock;

use local_daemon_model::property::PROPERTIES;
use local_daemon_model::scenario::{SCENARIOS, Scenario};
use local_daemon_model::world::Setting;

use crate::Seed;
use crate::script::Choices;

/// How far the input leads at most.
const LED: usize = 200;
/// How far a walk goes on by itself, each process in its turn, once the input has ended.
const ALONE: usize = 200;

/// A scenario with its machines, which take their time and are computed when it is first chosen.
fn setting(at: usize) -> &'static Setting {
    static SETTINGS: [OnceLock<Setting>; SCENARIOS.len()] = [const { OnceLock::new() }; SCENARIOS.len()];
    SETTINGS[at].get_or_init(|| {
        let breaches = PROPERTIES.iter().fold(0, |all, property| all | property.breach);
        Setting::new(SCENARIOS[at], breaches)
    })
}

/// The first byte is the scenario, each other one a choice among what can come next.
pub fn run(data: &[u8]) {
    let mut choices = Choices::of(&data[..data.len().min(LED)]);
    let Some(setting) = choices.next(SCENARIOS.len()).map(setting) else {
        return;
    };
    let mut world = setting.initial();
    let (mut walked, mut successors, mut alone) = (Vec::new(), Vec::new(), 0..ALONE);
    loop {
        let still = setting.successors(&world, &mut successors);
        if setting.is_spent(&world) {
            break;
        }
        for property in PROPERTIES {
            let violated = property.is_violated(setting, &world, still);
            assert!(!violated, "{}: {}, after {walked:?}", setting.scenario.name, property.name);
        }
        let chosen = match successors.len() {
            0 => None,
            count => choices.next(count).or_else(|| alone.next().map(|_| 0)),
        };
        let Some(chosen) = chosen else { break };
        let (action, next) = successors[chosen];
        walked.push(action);
        world = next;
    }
}

/// The beginning of each scenario.
pub fn seeds() -> Vec<Seed> {
    let seed = |(at, scenario): (usize, &Scenario)| {
        let at = u8::try_from(at).expect("a few dozen scenarios");
        (scenario.name.to_owned(), vec![at, 0, 1, 0, 1, 2, 3, 0, 1, 2])
    };
    SCENARIOS.iter().enumerate().map(seed).collect()
}

//! Thousands of random walks of the model, made by real processes on real files, step by step.

mod client;
mod daemon;
mod puppet;
mod role;
mod stage;
mod strings;
mod words;

use local_daemon_model::scenario::scenario;
use local_daemon_model::world::Setting;

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

fn walk(name: &str, number: u64, credulous: bool) -> Result<usize, String> {
    let setting = Setting::new(*scenario(name).unwrap(), 0);
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(number);
    stage::walk(&setting, folder.path(), credulous, |bound| random.below(bound))
        .map_err(|error| format!("walk {number} of {name}: {error}"))
}

/// `steps`: how many a walk takes on average at least, so that it is one.
fn walks(name: &str, numbers: std::ops::Range<u64>, steps: usize) {
    let walks = usize::try_from(numbers.end - numbers.start).unwrap();
    let taken: usize = numbers.map(|number| walk(name, number, false).unwrap()).sum();
    println!("{walks} walks of {name} took {taken} steps");
    assert!(taken > walks * steps, "{walks} walks of {name} took only {taken} steps");
}

macro_rules! walks {
    ($($test:ident: $scenario:literal, $numbers:expr, $steps:expr;)*) => {
        $(#[test] fn $test() { walks($scenario, $numbers, $steps); })*
    };
}

walks! {
    four_daemons_with_everything: "four-daemons-everything", 0..500, 8;
    four_daemons_with_everything_again: "four-daemons-everything", 500..1000, 8;
    five_daemons: "five-daemons-three-stops-crash-pause", 0..250, 8;
    clients_that_find_nothing: "two-clients-cold", 0..150, 8;
    clients_beside_daemons: "three-daemons-three-clients-crash-pause", 0..250, 8;
    clients_that_are_killed_and_stopped: "daemon-two-frail-clients", 0..250, 8;
    clients_whose_deadline_passes: "two-clients-hurried", 0..150, 3;
    clients_whose_daemon_is_stopped_and_killed: "daemon-two-clients-stop-crash", 0..150, 8;
    clients_without_the_lock: "two-clients-lockless", 0..100, 8;
    clients_that_meet_a_squatter: "two-clients-squatter", 0..100, 8;
    clients_of_two_generations: "two-generations-daemon", 0..150, 8;
    clients_that_come_first_of_all: "first-clients", 0..100, 8;
}

/// A walk notices a client that does not do what the crate's machine says.
#[test]
fn a_client_that_believes_the_record_alone_is_found_out() {
    let found = (0..20).find_map(|number| walk("two-clients-hurried", number, true).err());
    let found = found.expect("in one walk of twenty a client reads the record of a dead daemon");
    assert!(found.contains("is connected to D0, and the model's wants to"), "{found}");
}

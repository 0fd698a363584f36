//! Random choices that can be made again.

use sha2::{Digest as _, Sha256};

/// A stream of numbers that depends on nothing but the run's seed and the case's name. Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: [u8; 32],
    drawn: u64,
}

impl Rng {
    /// The stream of one case in a run.
    pub fn new(seed: u64, case: &str) -> Self {
        Self {
            seed: Sha256::new().chain_update(seed.to_le_bytes()).chain_update(case).finalize().into(),
            drawn: 0,
        }
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.drawn += 1;
        let digest = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_le_bytes()).finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or_default()
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(choices.len() as u64);
        &choices[usize::try_from(index).expect("an index of a slice fits")]
    }

    /// Random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next_u64().to_le_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_stream_returns_with_its_seed_and_case_and_differs_with_any_other() {
        let draw = |seed, case| Rng::new(seed, case).bytes(16);
        assert_eq!(draw(7, "a/b"), draw(7, "a/b"));
        assert_ne!(draw(7, "a/b"), draw(8, "a/b"));
        assert_ne!(draw(7, "a/b"), draw(7, "a/c"));
        let mut rng = Rng::new(1, "a/b");
        assert!((0..100).all(|_| rng.below(3) < 3));
    }
}

//! The dice of tests: thrown anew in each run, from a seed that is told and can be given again.

use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;

/// A seed, which is told; `BELAY_TEST_SEED` gives an earlier one again.
#[expect(clippy::disallowed_methods, reason = "the seed of a test is no setting of belay")]
pub fn seed() -> u64 {
    let given = std::env::var("BELAY_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed = given.unwrap_or_else(rand::random::<u64>);
    eprintln!("BELAY_TEST_SEED={seed}");
    seed
}

/// Dice thrown from such a seed.
pub fn dice() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed())
}

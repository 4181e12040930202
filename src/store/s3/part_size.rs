//! How large the parts of an object are, so that no object needs more of them than S3 allows.
//!
//! The length of an object is not known before its end, so its parts grow as it does. Pure.

/// S3 takes no more parts of one object.
const MOST_PARTS: usize = 10_000;
/// After so many parts they are twice as large, as long as they stay within the memory given.
const DOUBLED_EVERY: usize = 250;
/// From this part on they grow even beyond it: more memory is better than no object.
const PRESSED_FROM: usize = 5_000;
const PRESSED_DOUBLED_EVERY: usize = 1_000;
/// S3 takes no larger part.
const LARGEST_BYTES: usize = 5 << 30;

/// The bytes of part `number`, counted from 1, when the first parts have `first_bytes` and all that
/// are on their way `memory_bytes` together.
pub(super) fn part_bytes(number: usize, first_bytes: usize, memory_bytes: usize) -> usize {
    let before = number.saturating_sub(1).min(MOST_PARTS);
    let within = (0..before / DOUBLED_EVERY)
        .fold(first_bytes, |bytes, _| if bytes * 2 <= memory_bytes { bytes * 2 } else { bytes });
    let pressed = before.saturating_sub(PRESSED_FROM).div_ceil(PRESSED_DOUBLED_EVERY);
    (0..pressed).fold(within, |bytes, _| bytes.saturating_mul(2)).min(LARGEST_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn total_bytes(parts: usize, first: usize, memory: usize) -> usize {
        (1..=parts).map(|number| part_bytes(number, first, memory)).sum()
    }

    #[test]
    fn parts_stay_within_the_memory_given_up_to_300_gib() {
        for number in 1..=5_000 {
            assert!(part_bytes(number, 16 * MIB, 64 * MIB) <= 64 * MIB);
        }
        assert!(total_bytes(5_000, 16 * MIB, 64 * MIB) > 280 << 30);
    }

    #[test]
    fn an_object_of_40_gib_has_fewer_than_a_thousand_parts() {
        assert!(total_bytes(999, 16 * MIB, 64 * MIB) > 40 << 30);
    }

    #[test]
    fn the_largest_object_of_s3_fits_into_ten_thousand_parts() {
        for (first, memory) in [(16 * MIB, 64 * MIB), (8 * MIB, 32 * MIB), (256 * MIB, 256 * MIB)] {
            assert!(total_bytes(MOST_PARTS, first, memory) > 2 << 40, "{first} {memory}");
        }
        assert!(total_bytes(MOST_PARTS, 16 * MIB, 64 * MIB) > 4 << 40);
    }

    #[test]
    fn the_first_parts_are_as_the_settings_say() {
        assert_eq!(part_bytes(1, 5 * MIB, 5 * MIB), 5 * MIB);
        assert_eq!(part_bytes(250, 8 * MIB, 64 * MIB), 8 * MIB);
        assert_eq!(part_bytes(251, 8 * MIB, 64 * MIB), 16 * MIB);
    }
}

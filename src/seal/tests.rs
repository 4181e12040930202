//! What is sealed opens again, and nothing else does.

use super::*;
use proptest::prelude::*;

fn sealer_and_opener() -> (Sealer, Opener) {
    let identity = Identity::generate();
    (Sealer::new(vec![identity.to_public()]).unwrap(), Opener::new(vec![identity]))
}

/// Text that compresses, bytes that do not, and both in one.
fn plain_of(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut plain = Vec::with_capacity(bytes + 64);
    while plain.len() < bytes {
        if noise() % 3 == 0 {
            plain.extend_from_slice(&noise().to_le_bytes());
        } else {
            plain.extend_from_slice(format!("{}\tcustomer\t{}\n", noise() % 1000, noise() % 7).as_bytes());
        }
    }
    plain.truncate(bytes);
    plain
}

#[test]
fn sealed_bytes_open_again_at_every_length() {
    let (sealer, opener) = sealer_and_opener();
    let lengths = [0, 1, 2, 1000, MEMBER_BYTES - 1, MEMBER_BYTES, MEMBER_BYTES + 1, 3 * MEMBER_BYTES + 77];
    for (seed, bytes) in lengths.into_iter().enumerate() {
        let plain = plain_of(bytes, seed as u64);
        for sealer in [&sealer, &sealer.fast(1), &sealer.fast(3)] {
            let (sealed, record) = sealer.seal(&plain).unwrap();
            assert_eq!(record.plain_bytes, bytes as u64);
            assert_eq!(record.stored_bytes, sealed.len() as u64);
            assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain, "{bytes} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_gzip_member_decodes_to_what_went_in(bytes in 0usize..300_000, seed: u64) {
        let plain = plain_of(bytes, seed);
        for effort in [Effort::Small, Effort::Fast] {
            // The second member is not longer than the first: nothing of that may be left.
            let mut compressor = Compressor::new(effort);
            for plain in [&plain[..], &plain[..bytes / 2]] {
                let mut back = Vec::new();
                MultiGzDecoder::new(compressor.member(plain).unwrap()).read_to_end(&mut back).unwrap();
                prop_assert_eq!(&back, plain);
            }
        }
    }

    #[test]
    fn writes_of_any_size_seal_the_same_bytes(
        cuts in proptest::collection::vec(1usize..2_000_000, 1..8),
        threads in 0usize..4,
        is_fast: bool,
    ) {
        let (sealer, opener) = sealer_and_opener();
        let sealer = if is_fast { sealer.fast(threads) } else { sealer };
        let plain = plain_of(cuts.iter().sum(), 5);
        let mut writer = sealer.seal_into(Vec::new()).unwrap();
        let mut rest = plain.as_slice();
        for cut in cuts {
            let (now, later) = rest.split_at(cut);
            writer.write_all(now).unwrap();
            rest = later;
        }
        let (sealed, record) = writer.finish().unwrap();
        prop_assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain);
    }
}

#[test]
fn members_of_another_maker_open_too() {
    let plain = plain_of(3_000_000, 11);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&plain).unwrap();
    let mut back = Vec::new();
    gunzip::all(gzip.finish().unwrap().as_slice(), &mut back, u64::MAX).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn headers_inside_a_member_do_not_end_it() {
    // Stored blocks hold their bytes as they are: the header's bytes occur in the middle.
    let mut compressor = Compressor::new(Effort::Small);
    let header = compressor.member(b"x").unwrap()[..10].to_vec();
    let mut plain: Vec<u8> =
        (0..200_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..2].to_vec()).collect();
    plain.extend_from_slice(&header);
    plain.extend_from_slice(&plain.clone());
    let (sealer, opener) = sealer_and_opener();
    let (sealed, record) = sealer.seal(&plain).unwrap();
    assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain);
}

#[test]
fn noise_seals_to_hardly_more_than_itself() {
    let (sealer, _) = sealer_and_opener();
    let noise: Vec<u8> =
        (0..4_000_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    let (sealed, _) = sealer.seal(&noise).unwrap();
    assert!(sealed.len() < noise.len() + noise.len() / 100);
}

#[test]
fn flipped_cut_and_swapped_bytes_never_open() {
    let (sealer, opener) = sealer_and_opener();
    let (sealed, record) = sealer.seal(&plain_of(100_000, 3)).unwrap();
    for at in (0..sealed.len()).step_by(sealed.len() / 50) {
        let mut flipped = sealed.to_vec();
        flipped[at] ^= 1;
        assert!(opener.open_checked(&flipped, &record).is_err(), "flip at {at}");
        assert!(
            opener.open_plain(&flipped, record.plain_bytes, record.plain_blake3, Vec::new()).is_err(),
            "flip at {at}"
        );
        assert!(
            opener.open_plain(&sealed[..at], record.plain_bytes, record.plain_blake3, Vec::new()).is_err(),
            "cut at {at}"
        );
    }
    let (other, _) = sealer.seal(&plain_of(100_000, 4)).unwrap();
    assert!(matches!(opener.open_checked(&other, &record), Err(SealError::Damaged(_))));
}

#[test]
fn a_stranger_opens_nothing() {
    let (sealer, _) = sealer_and_opener();
    let (_, stranger) = sealer_and_opener();
    let (sealed, record) = sealer.seal(b"secret").unwrap();
    assert!(matches!(stranger.open_checked(&sealed, &record), Err(SealError::WrongIdentity)));
}

#[test]
fn unfinished_writing_does_not_open() {
    let (sealer, opener) = sealer_and_opener();
    let mut kept = Vec::new();
    {
        let mut writer = sealer.seal_into(&mut kept).unwrap();
        writer.write_all(&plain_of(2_000_000, 9)).unwrap();
    }
    let mut back = Vec::new();
    assert!(
        opener.open(kept.as_slice()).is_err_and(|_| true)
            || opener.open(kept.as_slice()).unwrap().read_to_end(&mut back).is_err()
    );
}

/// Takes so many bytes, and then no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_ends_the_sealing_with_its_own_error() {
    let (sealer, _) = sealer_and_opener();
    let plain = plain_of(20 * MEMBER_BYTES, 13);
    for sealer in [&sealer, &sealer.fast(3)] {
        let mut writer = sealer.seal_into(Full(2 * MEMBER_BYTES)).unwrap();
        let error = writer.write_all(&plain).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }
}

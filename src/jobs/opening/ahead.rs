//! Reads on a thread of its own, so that bytes are opened while those before them are written.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes that are handed over at a time.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that are read before they are asked for.
const BLOCKS: usize = 4;

/// What `take` makes of the bytes of `from`, of which it need not read all. More may have been read from there
/// than `take` had.
///
/// # Errors
/// What `take` says, to which errors of `from` are handed; that of the system when it has no thread.
pub(super) fn of<T>(
    from: &mut (impl Read + Send),
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let (full, blocks) = sync_channel(BLOCKS);
    let (back, empty) = sync_channel(BLOCKS + 2);
    std::thread::scope(|scope| {
        let reading = move || {
            loop {
                let mut block: Vec<u8> = empty.try_recv().unwrap_or_default();
                block.clear();
                let read = from.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block);
                let is_last = block.is_empty() || read.is_err();
                let is_wanted = block.is_empty() || full.send(Ok(block)).is_ok();
                if let Err(error) = read {
                    let _ = full.send(Err(error));
                }
                if is_last || !is_wanted {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("open".into()).spawn_scoped(scope, reading)?;
        // Dropped when `take` has enough, which ends the thread.
        let mut ahead = Ahead { blocks, block: Vec::new(), at: 0, back };
        take(&mut ahead)
    })
}

/// Reads blocks as they come.
struct Ahead {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    /// How far it was read.
    at: usize,
    back: SyncSender<Vec<u8>>,
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            // An end without an error is the end of the bytes.
            let Ok(next) = self.blocks.recv() else { return Ok(0) };
            let _ = self.back.try_send(std::mem::replace(&mut self.block, next?));
            self.at = 0;
        }
        let mut rest = self.block.get(self.at..).unwrap_or_default();
        let read = rest.read(into)?;
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_in_its_order_and_the_error_behind_them() {
        for bytes in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 20 * BLOCK_BYTES + 7] {
            let plain: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            let all = |from: &mut dyn Read| {
                let mut back = Vec::new();
                from.read_to_end(&mut back).map(|_| back)
            };
            assert!(of(&mut plain.as_slice(), all).unwrap() == plain, "{bytes} bytes");

            let mut back = Vec::new();
            let read = of(&mut plain.as_slice().chain(Broken), |from| from.read_to_end(&mut back));
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert!(back == plain, "{bytes} bytes before the error");
        }
    }

    #[test]
    fn one_that_has_enough_waits_for_nothing() {
        let first = of(&mut io::repeat(7), |from| {
            let mut first = [0; 10];
            from.read_exact(&mut first).map(|()| first)
        });
        assert_eq!(first.unwrap(), [7; 10]);
        assert!(of(&mut io::repeat(7), |_| Err::<(), _>(io::ErrorKind::StorageFull.into())).is_err());
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}

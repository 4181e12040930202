//! Compresses members on several threads; they come out in the order in which they went in.
//!
//! Members go round the lanes in turn, and are taken from them in the same turn: so nothing has to be put
//! in order again.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::gzip::{Compressor, Effort};

/// Members that wait in a lane, besides the one that is being compressed.
const WAITING: usize = 1;

/// Plain bytes, and room for what becomes of them; both are used again.
#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    member: Vec<u8>,
}

/// A thread, and the ways to it and back.
struct Lane {
    give: SyncSender<Block>,
    take: Receiver<io::Result<Block>>,
    thread: JoinHandle<()>,
}

/// Threads that compress. Dropped, they end by themselves.
pub struct Lanes {
    lanes: Vec<Lane>,
    given: usize,
    taken: usize,
    spare: Vec<Block>,
}

impl Lanes {
    /// Starts `threads` of them, at least one.
    pub fn start(threads: usize, effort: Effort) -> io::Result<Self> {
        let lanes = (0..threads.max(1)).map(|_| Lane::start(effort)).collect::<io::Result<_>>()?;
        Ok(Self { lanes, given: 0, taken: 0, spare: Vec::new() })
    }

    /// Gives `plain` to be compressed, and has a buffer for the next in its place; `write` gets members
    /// that have to be taken before.
    pub fn push(
        &mut self,
        plain: &mut Vec<u8>,
        write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.given - self.taken == self.lanes.len() * (WAITING + 1) {
            self.pull(write)?;
        }
        let mut block = self.spare.pop().unwrap_or_default();
        std::mem::swap(plain, &mut block.plain);
        plain.clear();
        let lane = self.given % self.lanes.len();
        self.lanes.get(lane).ok_or_else(died)?.give.send(block).map_err(|_| died())?;
        self.given += 1;
        Ok(())
    }

    /// Gives `write` all that is left, and ends the threads.
    pub fn finish(mut self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while self.taken < self.given {
            self.pull(&mut write)?;
        }
        for Lane { give, take, thread } in self.lanes {
            drop((give, take));
            thread.join().map_err(|_| died())?;
        }
        Ok(())
    }

    fn pull(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let lane = self.lanes.get(self.taken % self.lanes.len()).ok_or_else(died)?;
        let block = lane.take.recv().map_err(|_| died())??;
        self.taken += 1;
        write(&block.member)?;
        self.spare.push(block);
        Ok(())
    }
}

impl Lane {
    fn start(effort: Effort) -> io::Result<Self> {
        let (give, given) = sync_channel::<Block>(WAITING);
        // As much as was given finds room: a thread never waits for its members to be taken.
        let (done, take) = sync_channel(WAITING + 2);
        let thread = std::thread::Builder::new().name("gzip".into()).spawn(move || {
            let mut compressor = Compressor::new(effort);
            for mut block in given {
                let compressed = compressor.member(&block.plain).map(|member| {
                    block.member.clear();
                    block.member.extend_from_slice(member);
                });
                if done.send(compressed.map(|()| block)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { give, take, thread })
    }
}

fn died() -> io::Error {
    io::Error::other("a thread that compresses has died")
}

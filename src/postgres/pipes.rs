//! What goes through the pipes of PostgreSQL's programs: bytes as they are, or the schema as text.

use std::fs::File;
use std::io::{self, BufRead as _, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};

use crate::rules::digest::Digest256;

/// Bytes moved between a child and its reader at a time.
const PIPE_BYTES: usize = 1 << 20;

/// Lets a pipe hold more, where the system grants it: the two sides then wait for one another less often.
pub(super) fn widen(pipe: &OwnedFd) {
    let bytes = i32::try_from(PIPE_BYTES).unwrap_or(i32::MAX);
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Moves everything from `from` to `to`, telling `on_bytes`; both may block.
///
/// # Errors
/// What either side says; a reader that ended early (`EPIPE`) is an error of `to`.
pub fn pump(mut from: impl Read, mut to: impl Write, on_bytes: impl Fn(usize)) -> io::Result<u64> {
    let mut piece = vec![0; PIPE_BYTES];
    let mut moved = 0;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(moved),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece.get(..read).unwrap_or_default())?;
        on_bytes(read);
        moved += read as u64;
    }
}

/// Passes bytes on for as long as they are read: pg_restore may stop before the end of an archive,
/// and its exit status says whether it should have.
pub struct WhileRead(Option<File>);

impl WhileRead {
    /// Writes into `pipe`.
    pub fn new(pipe: File) -> Self {
        Self(Some(pipe))
    }
}

impl Write for WhileRead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(pipe) = &mut self.0
            && let Err(error) = pipe.write_all(bytes)
        {
            if error.kind() != io::ErrorKind::BrokenPipe {
                return Err(error);
            }
            self.0 = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what `pg_restore -f -` writes for an archive of schema sections, line by line: the
/// schema as SQL.
///
/// Lines that differ from run to run (`\restrict` keys) or between minor versions (the header)
/// are left out, so that equal schemas are equal texts within one major version of server and
/// tools.
///
/// # Errors
/// What the reader says.
pub fn read_schema_text(text: impl Read, mut on_line: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = io::BufReader::with_capacity(PIPE_BYTES, text);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let passing: [&[u8]; 4] = [br"\restrict ", br"\unrestrict ", b"-- Dumped ", b"-- TOC entry "];
        if !passing.iter().any(|prefix| line.starts_with(prefix)) {
            on_line(&line);
        }
    }
}

/// Digests the schema as [`read_schema_text`] has it.
///
/// # Errors
/// What the reader says.
pub fn digest_schema_text(text: impl Read) -> io::Result<Digest256> {
    let mut hasher = blake3::Hasher::new();
    read_schema_text(text, |line| {
        hasher.update(line);
    })?;
    Ok(hasher.finalize().into())
}

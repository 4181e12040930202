//! Takes the rows of some tables out of what `pg_restore --section=data --file=-` writes.
//!
//! The text is SQL with COPY text in between. It is taken apart here and never run: a name may
//! hold line breaks and semicolons.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};

/// Bytes of COPY text handed over at a time; one longer row is handed over whole.
const BATCH_BYTES: usize = 256 << 10;

/// Schema and name of a table, in the encoding of the text.
pub type NativeName = (Vec<u8>, Vec<u8>);

/// What was found in the text, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The encoding of all that follows.
    Encoding(String),
    /// The rows of a table begin.
    Table(NativeName),
    /// Some of its rows, cut at row ends.
    Rows(Vec<u8>),
    /// It has no more.
    End,
}

/// Reads `text` to its end and hands over the rows of the tables in `wanted`.
///
/// # Errors
/// What the reader or `take` say; [`io::ErrorKind::UnexpectedEof`] for a table that is cut off.
pub fn extract(
    mut text: impl BufRead,
    wanted: &BTreeSet<NativeName>,
    mut take: impl FnMut(Piece) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(statement) = next_statement(&mut text)? {
        if let Some(encoding) = encoding_in(&statement) {
            take(Piece::Encoding(encoding))?;
        }
        let Some(name) = copied_table(&statement) else { continue };
        // The rows begin on the next line.
        text.skip_until(b'\n')?;
        if wanted.contains(&name) {
            take(Piece::Table(name))?;
            rows(&mut text, &mut take)?;
        } else {
            rows(&mut text, |_| Ok(()))?;
        }
    }
    Ok(())
}

fn rows(text: &mut impl BufRead, mut take: impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        let start = batch.len();
        if text.read_until(b'\n', &mut batch)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the rows of a table are cut off"));
        }
        // COPY text escapes a backslash, so no row is ever exactly this.
        let is_end = batch.get(start..) == Some(b"\\.\n".as_slice());
        if is_end {
            batch.truncate(start);
        }
        if batch.len() >= BATCH_BYTES || (is_end && !batch.is_empty()) {
            take(Piece::Rows(std::mem::take(&mut batch)))?;
        }
        if is_end {
            return take(Piece::End);
        }
    }
}

/// Reads up to the next semicolon outside quotes; comments and psql's own commands are left out.
fn next_statement(text: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut statement = Vec::new();
    let mut quote = None;
    loop {
        let Some(byte) = text.fill_buf()?.first().copied() else { return Ok(None) };
        text.consume(1);
        match (quote, byte) {
            (None, b';') => return Ok(Some(statement)),
            (None, b'\\') if statement.is_empty() => {
                text.skip_until(b'\n')?;
            }
            (None, b'-') if statement.last() == Some(&b'-') => {
                statement.pop();
                text.skip_until(b'\n')?;
            }
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                statement.push(byte);
            }
            // A doubled quote closes and opens again, which comes to the same.
            (Some(open), _) if open == byte => {
                quote = None;
                statement.push(byte);
            }
            (None, _) if byte.is_ascii_whitespace() && statement.is_empty() => {}
            _ => statement.push(byte),
        }
    }
}

fn encoding_in(statement: &[u8]) -> Option<String> {
    let value = statement.strip_prefix(b"SET client_encoding = '")?.strip_suffix(b"'")?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The table of `COPY schema.name (columns) FROM stdin`.
fn copied_table(statement: &[u8]) -> Option<NativeName> {
    let target = statement.strip_prefix(b"COPY ")?.strip_suffix(b" FROM stdin")?;
    let (schema, rest) = identifier(target)?;
    let (name, _) = identifier(rest.strip_prefix(b".")?)?;
    Some((schema, name))
}

/// An identifier at the start of `text`, unquoted, and what follows it.
fn identifier(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b'.' | b' ')).unwrap_or(text.len());
        return Some((text.get(..end)?.to_vec(), text.get(end..)?));
    };
    let mut name = Vec::new();
    loop {
        let end = memchr::memchr(b'"', rest)?;
        name.extend_from_slice(rest.get(..end)?);
        rest = rest.get(end + 1..)?;
        match rest.strip_prefix(b"\"") {
            Some(tail) => {
                name.push(b'"');
                rest = tail;
            }
            None => return Some((name, rest)),
        }
    }
}

/// Takes what is written also after its reader has gone.
///
/// pg_restore stops reading once it has found all that it was asked for; the rest of the archive
/// still has to be compared with the manifest.
pub struct UntilClosed<W> {
    to: Option<W>,
}

impl<W> UntilClosed<W> {
    /// Writes to `to` while it takes bytes.
    pub fn new(to: W) -> Self {
        Self { to: Some(to) }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(to) = &mut self.to else { return Ok(bytes.len()) };
        match to.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.to = None;
                Ok(bytes.len())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, wanted: &[(&str, &str)]) -> io::Result<Vec<Piece>> {
        let wanted = wanted.iter().map(|(schema, name)| ((*schema).into(), (*name).into())).collect();
        let mut found = Vec::new();
        extract(text.as_bytes(), &wanted, |piece| {
            found.push(piece);
            Ok(())
        })?;
        Ok(found)
    }

    const TEXT: &str = "--\n-- PostgreSQL; dump 'x\n--\n\n\\restrict k;\n\nSET client_encoding = 'LATIN1';\n\
        SELECT pg_catalog.set_config('search_path', '', false);\n\n\
        COPY public.other (a) FROM stdin;\nCOPY public.orders (a) FROM stdin;\n\\.\n\n\
        COPY \"Odd; \"\"S\".\"a\nCOPY public.orders (a) FROM stdin;\n\" (\"x)\n;\") FROM stdin;\nodd\n\\.\n\n\
        COPY public.orders (a, b) FROM stdin;\n1\t\\\\.\n\\\\.\t;\n\\.\n\
        SELECT pg_catalog.setval('public.it''s;', 1, true);\nCOPY public.bare  FROM stdin;\n\n\n\\.\n\\unrestrict k\n";

    fn table(schema: &str, name: &str) -> Piece {
        Piece::Table((schema.into(), name.into()))
    }

    #[test]
    fn only_the_rows_of_wanted_tables_are_handed_over() {
        let found = pieces(TEXT, &[("public", "orders"), ("public", "bare")]).unwrap();
        assert_eq!(
            found,
            [
                Piece::Encoding("LATIN1".into()),
                table("public", "orders"),
                Piece::Rows(b"1\t\\\\.\n\\\\.\t;\n".into()),
                Piece::End,
                table("public", "bare"),
                Piece::Rows(b"\n\n".into()),
                Piece::End,
            ]
        );
    }

    #[test]
    fn a_name_that_looks_like_statements_is_a_name() {
        let found = pieces(TEXT, &[("Odd; \"S", "a\nCOPY public.orders (a) FROM stdin;\n")]).unwrap();
        assert_eq!(found.get(2), Some(&Piece::Rows(b"odd\n".into())));
    }

    #[test]
    fn rows_that_are_cut_off_are_an_error() {
        let error = pieces("COPY public.t (a) FROM stdin;\n1\n", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

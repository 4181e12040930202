//! Cuts Python source into statements, as far as assignments of texts need it.
//!
//! Comes in: the text of a module. Goes out: its statements as tokens, with what each text literal
//! holds. Nothing is evaluated; blocks are known by their indentation alone.

use super::RevisionError;

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    /// What a text literal holds, its escapes read.
    Text(String),
    /// A bytes literal, a literal with expressions inside, or a number.
    Other,
    /// A bracket or an operator; an operator with `=` at its end is one mark.
    Mark(String),
}

impl Token {
    pub(super) fn is_mark(&self, wanted: &str) -> bool {
        matches!(self, Self::Mark(mark) if mark == wanted)
    }

    pub(super) fn is_word(&self, wanted: &str) -> bool {
        matches!(self, Self::Word(word) if word == wanted)
    }
}

/// A statement, brackets and continued lines included; of a block, its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Where it begins, from 1.
    pub(super) line: usize,
    pub(super) is_indented: bool,
    pub(super) tokens: Vec<Token>,
}

/// Returns the statements of a module in order.
pub(super) fn statements(source: &str) -> Result<Vec<Statement>, RevisionError> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source).replace("\r\n", "\n");
    let mut reader = Reader { rest: &source, line: 1 };
    let mut found = Vec::new();
    let mut current = reader.begin();
    let mut open_brackets: Vec<usize> = Vec::new();
    while let Some(first) = reader.rest.chars().next() {
        match first {
            '\n' if open_brackets.is_empty() => {
                reader.skip(1);
                found.push(std::mem::replace(&mut current, reader.begin()));
            }
            ';' if open_brackets.is_empty() => {
                reader.skip(1);
                let next =
                    Statement { line: reader.line, is_indented: current.is_indented, tokens: Vec::new() };
                found.push(std::mem::replace(&mut current, next));
            }
            '#' => reader.skip(reader.rest.find('\n').unwrap_or(reader.rest.len())),
            '\\' if reader.rest.starts_with("\\\n") => reader.skip(2),
            space if space.is_whitespace() => reader.skip(space.len_utf8()),
            bracket => {
                match bracket {
                    '(' | '[' | '{' => open_brackets.push(reader.line),
                    ')' | ']' | '}' => drop(open_brackets.pop()),
                    _ => {}
                }
                let token = reader.token(first)?;
                current.tokens.push(token);
            }
        }
    }
    if let Some(line) = open_brackets.last() {
        return Err(RevisionError::Syntax { line: *line, complaint: "this bracket is never closed" });
    }
    found.push(current);
    found.retain(|statement| !statement.tokens.is_empty());
    Ok(found)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn begin(&self) -> Statement {
        let is_indented = self.rest.starts_with([' ', '\t']);
        Statement { line: self.line, is_indented, tokens: Vec::new() }
    }

    fn skip(&mut self, length: usize) {
        let (passed, rest) = self.rest.split_at(length);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }

    fn token(&mut self, first: char) -> Result<Token, RevisionError> {
        if matches!(first, '\'' | '"') {
            return self.literal("");
        }
        if is_of_word(first) {
            let length = self.rest.find(|c: char| !is_of_word(c)).unwrap_or(self.rest.len());
            let (word, after) = self.rest.split_at(length);
            let word = word.to_owned();
            self.skip(length);
            let is_prefix = word.len() <= 2 && word.chars().all(|c| "rubftRUBFT".contains(c));
            return match first {
                _ if is_prefix && after.starts_with(['\'', '"']) => self.literal(&word.to_lowercase()),
                digit if digit.is_ascii_digit() => Ok(Token::Other),
                _ => Ok(Token::Word(word)),
            };
        }
        let is_assigning = "=!<>+-*/%&|^@:~".contains(first)
            && self.rest.get(first.len_utf8()..).is_some_and(|after| after.starts_with('='));
        let length = first.len_utf8() + usize::from(is_assigning);
        let mark = self.rest.chars().take(1 + usize::from(is_assigning)).collect();
        self.skip(length);
        Ok(Token::Mark(mark))
    }

    /// Reads a literal from its opening quote on; `prefix` is in lower case.
    fn literal(&mut self, prefix: &str) -> Result<Token, RevisionError> {
        let line = self.line;
        let long = ["\"\"\"", "'''"].into_iter().find(|quote| self.rest.starts_with(quote));
        let quote = long.unwrap_or(if self.rest.starts_with('"') { "\"" } else { "'" });
        self.skip(quote.len());
        let endless = RevisionError::Syntax { line, complaint: "the text that begins here does not end" };
        let Some(length) = body_length(self.rest, quote) else { return Err(endless) };
        let body = self.rest.get(..length).unwrap_or_default().to_owned();
        self.skip(length + quote.len());
        Ok(match prefix {
            "" | "u" => Token::Text(unescaped(&body)),
            "r" => Token::Text(body),
            _ => Token::Other,
        })
    }
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The length of a literal's body; a short one may not go over the end of a line.
fn body_length(text: &str, quote: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        if std::mem::take(&mut is_escaped) {
            continue;
        }
        match character {
            '\\' => is_escaped = true,
            '\n' if quote.len() == 1 => return None,
            _ if text.get(at..).is_some_and(|rest| rest.starts_with(quote)) => return Some(at),
            _ => {}
        }
    }
    None
}

/// Reads the escapes of a text literal (Python reference, "String and Bytes literals"). Those by
/// name, and those that mean nothing, stay as written.
fn unescaped(body: &str) -> String {
    let mut text = String::new();
    let mut rest = body;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (meaning, length) = escaped(escape);
        match meaning {
            Some(meaning) => text.extend(meaning),
            None => text.push('\\'),
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    text + rest
}

/// What the escape after a backslash means, and its length; no meaning for an unknown one.
fn escaped(escape: &str) -> (Option<Option<char>>, usize) {
    let simple = |meaning| (Some(Some(meaning)), 1);
    let coded = |digits: &str, radix: u32, before: usize| {
        let code = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        if code.is_some() { (Some(code), before + digits.len()) } else { (None, 0) }
    };
    match escape.chars().next() {
        Some('\n') => (Some(None), 1),
        Some(plain @ ('\\' | '\'' | '"')) => simple(plain),
        Some('a') => simple('\u{7}'),
        Some('b') => simple('\u{8}'),
        Some('f') => simple('\u{c}'),
        Some('n') => simple('\n'),
        Some('r') => simple('\r'),
        Some('t') => simple('\t'),
        Some('v') => simple('\u{b}'),
        Some('x') => coded(escape.get(1..3).unwrap_or_default(), 16, 1),
        Some('u') => coded(escape.get(1..5).unwrap_or_default(), 16, 1),
        Some('U') => coded(escape.get(1..9).unwrap_or_default(), 16, 1),
        Some('0'..='7') => {
            let length = escape.chars().take(3).take_while(|digit| digit.is_digit(8)).count();
            coded(escape.get(..length).unwrap_or_default(), 8, 0)
        }
        _ => (None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let tokens = statements(source).unwrap().into_iter().flat_map(|statement| statement.tokens);
        tokens.filter_map(|token| if let Token::Text(text) = token { Some(text) } else { None }).collect()
    }

    #[test]
    fn statements_end_at_lines_outside_brackets_and_texts() {
        let source = "a = (1,\n 2) # ( not open\n'''x\ny'''; b \\\n= 'c'\ndef f():\n    return 1\n";
        let found = statements(source).unwrap();
        let starts: Vec<_> = found.iter().map(|statement| (statement.line, statement.is_indented)).collect();
        assert_eq!(starts, [(1, false), (3, false), (4, false), (6, false), (7, true)]);
    }

    #[test]
    fn literals_are_read_as_python_reads_them() {
        assert_eq!(
            texts(r#"'it\'s' "\x41\u00e9\101\n" r'\n' u'u' '\d\\'"#),
            ["it's", "Aé\u{41}\n", "\\n", "u", "\\d\\"]
        );
        assert_eq!(texts("'''a\"b\n''c'''"), ["a\"b\n''c"]);
        assert_eq!(texts("'a\\\nb'"), ["ab"]);
        assert_eq!(texts(r"'\N{BULLET}\u12'"), [r"\N{BULLET}\u12"]);
        assert_eq!(texts("b'a' f'b' rb'c'"), Vec::<String>::new());
        assert_eq!(texts("\u{feff}'a'\r\n'b'"), ["a", "b"]);
    }

    #[test]
    fn what_does_not_end_is_refused_with_its_line() {
        for (source, at) in [("\n'abc\n'", 2), ("'''abc", 1), ("a = [\n(1)\n", 1)] {
            let error = statements(source).unwrap_err();
            assert!(matches!(error, RevisionError::Syntax { line, .. } if line == at), "{source:?}: {error}");
        }
    }

    #[test]
    fn an_operator_that_holds_an_equals_sign_is_no_assignment() {
        for source in ["a == 'b'", "a += 'b'", "a := 'b'", "a <= 'b'"] {
            let found = statements(source).unwrap();
            assert!(!found[0].tokens.iter().any(|token| token.is_mark("=")), "{source}");
        }
    }
}

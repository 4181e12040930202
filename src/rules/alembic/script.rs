//! Reads what Alembic reads from a revision script: four assignments and the docstring.
//!
//! Comes in: the text of a script, as any version of Alembic's templates writes it. Goes out: the
//! revision, or why it cannot be read without Python. A script is never executed.

mod body;

use serde::{Deserialize, Serialize};

use super::python::{Statement, Token, statements};

const ID: &str = "revision";
const DOWN: &str = "down_revision";
const DEPENDS_ON: &str = "depends_on";
const LABELS: &str = "branch_labels";

/// What a docstring says before the text about what no longer works.
const BREAKING: &str = "BREAKING CHANGE:";

/// A revision script, as far as the history of revisions needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Revision {
    /// `revision`
    pub id: String,
    /// `down_revision`: none for a base, several for a merge.
    #[serde(default)]
    pub down: Vec<String>,
    /// `depends_on`: ids or labels.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// `branch_labels`
    #[serde(default)]
    pub labels: Vec<String>,
    /// The docstring without white space around it; empty if there is none.
    #[serde(default)]
    pub doc: String,
    /// What the docstring says after `BREAKING CHANGE:` up to an empty line, in one line.
    #[serde(default)]
    pub breaking: Option<String>,
    /// `upgrade()` plainly does nothing, as that of a merge.
    #[serde(default)]
    pub upgrades_nothing: bool,
    /// `downgrade()` plainly does nothing.
    #[serde(default)]
    pub downgrades_nothing: bool,
}

impl Revision {
    /// The docstring up to its first empty line, as Alembic shows it.
    pub fn message(&self) -> &str {
        self.doc.split("\n\n").next().unwrap_or_default()
    }
}

/// Why a script cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// It is not Python, or not Python that ends.
    #[error("read line {line}: {complaint}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What is wrong there.
        complaint: &'static str,
    },
    /// A value that only Python could compute.
    #[error("read line {line}: {name} is not plainly a text, None, or a list of texts")]
    NotPlain {
        /// From 1.
        line: usize,
        /// The name that is given a value.
        name: &'static str,
    },
    /// A name without which Alembic does not load a script.
    #[error("read revision {id}: {DOWN} is not set")]
    NoDownRevision {
        /// The revision.
        id: String,
    },
    /// An id that Alembic refuses.
    #[error("read revision {id:?}: an id holds none of @, -, + and :")]
    IllegalId {
        /// The revision.
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    None,
    One(String),
    Several(Vec<String>),
}

impl Value {
    fn into_texts(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

/// Reads a script; `None` if nothing in it sets `revision`.
///
/// # Errors
/// [`RevisionError`]: what it cannot read it says, it never guesses.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, RevisionError> {
    let statements = statements(text)?;
    let mut id = None;
    let [mut down, mut depends_on, mut labels] = [const { None }; 3];
    let mut is_in_body = false;
    for statement in &statements {
        if !statement.is_indented {
            is_in_body = opens_scope(statement);
        }
        // What a function or a class assigns is its own.
        let Some((name, value)) = (if is_in_body { None } else { assignment(statement)? }) else { continue };
        match name {
            ID => id = Some((statement.line, value)),
            DOWN => down = Some(value),
            DEPENDS_ON => depends_on = Some(value),
            _ => labels = Some(value),
        }
    }
    let Some((line, id)) = id else { return Ok(None) };
    let Value::One(id) = id else { return Err(RevisionError::NotPlain { line, name: ID }) };
    if id.contains(['@', '-', '+', ':']) {
        return Err(RevisionError::IllegalId { id });
    }
    let Some(down) = down else { return Err(RevisionError::NoDownRevision { id }) };
    let texts = |value: Option<Value>| value.map(Value::into_texts).unwrap_or_default();
    let doc = docstring(statements.first()).trim().to_owned();
    let breaking = breaking(&doc);
    let (depends_on, labels) = (texts(depends_on), texts(labels));
    let down = down.into_texts();
    let upgrades_nothing = body::does_nothing(&statements, "upgrade");
    let downgrades_nothing = body::does_nothing(&statements, "downgrade");
    Ok(Some(Revision { id, down, depends_on, labels, doc, breaking, upgrades_nothing, downgrades_nothing }))
}

fn opens_scope(statement: &Statement) -> bool {
    let first = statement.tokens.first();
    first.is_some_and(|first| ["def", "class", "async", "@"].iter().any(|word| starts_with(first, word)))
}

fn starts_with(token: &Token, wanted: &str) -> bool {
    token.is_word(wanted) || token.is_mark(wanted)
}

/// What a statement assigns to one of the four names, if it does.
///
/// A statement that sets one in any other way than plainly, once and for all is refused.
fn assignment(statement: &Statement) -> Result<Option<(&'static str, Value)>, RevisionError> {
    let tokens = statement.tokens.as_slice();
    let Some(name) = set_name(tokens) else { return Ok(None) };
    let refused = RevisionError::NotPlain { line: statement.line, name };
    let is_plain_target = tokens.first().is_some_and(|first| first.is_word(name))
        && tokens.get(1).is_some_and(|second| second.is_mark("=") || second.is_mark(":"));
    if !is_plain_target || statement.is_indented {
        return Err(refused);
    }
    match tokens.iter().position(|token| token.is_mark("=")) {
        Some(equals) => match value(tokens.get(equals + 1..).unwrap_or_default()) {
            Some(value) => Ok(Some((name, value))),
            None => Err(refused),
        },
        // `revision: str` alone declares, and sets nothing.
        None => Ok(None),
    }
}

/// The first of the four names that a statement sets, imports or deletes, outside its brackets.
fn set_name(tokens: &[Token]) -> Option<&'static str> {
    let first = tokens.first()?;
    let binds = ["import", "from", "del"].iter().any(|word| first.is_word(word));
    let sets = |token: &Token| matches!(token, Token::Mark(mark) if is_setting(mark)) || token.is_word("in");
    let last_target = tokens.iter().rposition(sets);
    let end = match (binds, last_target) {
        (true, _) => tokens.len(),
        (false, Some(end)) => end,
        (false, None) => return None,
    };
    let mut depth = 0_usize;
    tokens.iter().take(end).find_map(|token| {
        match token {
            Token::Mark(mark) if ["(", "[", "{"].contains(&mark.as_str()) => depth += 1,
            Token::Mark(mark) if [")", "]", "}"].contains(&mark.as_str()) => depth = depth.saturating_sub(1),
            _ => {}
        }
        let names = [ID, DOWN, DEPENDS_ON, LABELS];
        names.into_iter().find(|name| depth == 0 && token.is_word(name))
    })
}

fn is_setting(mark: &str) -> bool {
    mark.ends_with('=') && !["==", "!=", "<=", ">="].contains(&mark)
}

/// Reads a whole expression; commas without brackets make a tuple too.
fn value(tokens: &[Token]) -> Option<Value> {
    let (value, rest) = items(tokens, None)?;
    rest.is_empty().then_some(value)
}

/// Reads items up to `end`, or to the end of the statement.
fn items<'a>(tokens: &'a [Token], end: Option<&str>) -> Option<(Value, &'a [Token])> {
    let (mut found, mut rest, mut has_comma) = (Vec::new(), tokens, false);
    let is_end = |rest: &[Token]| match (rest.first(), end) {
        (Some(token), Some(end)) => token.is_mark(end),
        (first, _) => first.is_none(),
    };
    while !is_end(rest) {
        let (value, after) = item(rest)?;
        found.push(value);
        rest = after;
        match rest.split_first() {
            Some((comma, after)) if comma.is_mark(",") => (has_comma, rest) = (true, after),
            _ if is_end(rest) => break,
            _ => return None,
        }
    }
    let rest = if end.is_some() { rest.get(1..)? } else { rest };
    // Brackets alone make no tuple, but square ones make a list.
    if !has_comma && end != Some("]") && !(found.is_empty() && end.is_some()) {
        return found.pop().map(|value| (value, rest));
    }
    let texts = found.into_iter().map(|value| if let Value::One(text) = value { Some(text) } else { None });
    Some((Value::Several(texts.collect::<Option<_>>()?), rest))
}

fn item(tokens: &[Token]) -> Option<(Value, &[Token])> {
    let (first, rest) = tokens.split_first()?;
    match first {
        Token::Text(text) => {
            let (more, rest) = more_texts(rest);
            Some((Value::One(format!("{text}{more}")), rest))
        }
        Token::Word(word) if word == "None" => Some((Value::None, rest)),
        Token::Mark(mark) if mark == "(" => items(rest, Some(")")),
        Token::Mark(mark) if mark == "[" => items(rest, Some("]")),
        _ => None,
    }
}

/// Texts that follow each other are one.
fn more_texts(tokens: &[Token]) -> (String, &[Token]) {
    let mut joined = String::new();
    let mut rest = tokens;
    while let Some((Token::Text(text), after)) = rest.split_first() {
        joined.push_str(text);
        rest = after;
    }
    (joined, rest)
}

fn docstring(first: Option<&Statement>) -> String {
    let Some((Token::Text(text), rest)) = first.and_then(|first| first.tokens.split_first()) else {
        return String::new();
    };
    let (more, rest) = more_texts(rest);
    if rest.is_empty() { format!("{text}{more}") } else { String::new() }
}

fn breaking(doc: &str) -> Option<String> {
    let (_, after) = doc.split_once(BREAKING)?;
    let paragraph = after.lines().enumerate().take_while(|(at, line)| *at == 0 || !line.trim().is_empty());
    let words: Vec<&str> = paragraph.flat_map(|(_, line)| line.split_whitespace()).collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests;

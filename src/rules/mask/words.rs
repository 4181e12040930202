//! Finds passwords in the words of a command by their place: behind `--password`, in `PGPASSWORD=`, in
//! a conninfo of libpq, in SQL, in a URL.
//!
//! Comes in: the words. Goes out: where in each of them passwords are, or what they are.

use std::ops::Range;

use percent_encoding::percent_decode_str;

use super::urls;

/// Names of secrets end so.
const ENDINGS: [&str; 3] = ["password", "passwd", "passphrase"];
/// They end so too, behind an underscore or a hyphen, or are no longer than that.
const LAST_PARTS: [&str; 7] = ["pass", "secret", "token", "secret_key", "access_key", "api_key", "mysql_pwd"];

/// Whether what is called `name` is kept secret; `PGPASSWORD`, `db-password`, and not `password-file`.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let is_last = |last: &str| {
        name.strip_suffix(last).is_some_and(|before| before.is_empty() || before.ends_with(['_', '.']))
    };
    let is_denied = name.starts_with("no_");
    !is_denied && (ENDINGS.iter().any(|ending| name.ends_with(ending)) || LAST_PARTS.into_iter().any(is_last))
}

/// What the passwords in `words` are, as they are written and as they are meant.
pub fn secrets_in(words: &[String]) -> Vec<String> {
    let mut secrets = Vec::new();
    for (word, ranges) in words.iter().zip(passwords(words)) {
        for secret in ranges.into_iter().filter_map(|range| word.get(range)) {
            secrets.push(percent_decode_str(secret).decode_utf8_lossy().into_owned());
            // Within a script a quote may stand behind it.
            secrets.push(secret.trim_end_matches(['"', '\'', ';', ')', ',']).to_owned());
            secrets.push(secret.to_owned());
        }
    }
    secrets
}

/// Where passwords are in each of `words`.
pub(super) fn passwords(words: &[String]) -> Vec<Vec<Range<usize>>> {
    let mut before: Option<&str> = None;
    let mut of_each = Vec::with_capacity(words.len());
    for word in words {
        let mut found = urls::passwords_of_word(word.as_bytes());
        if before.is_some_and(is_secret_option) && !word.is_empty() && !word.starts_with('-') {
            found.push(0..word.len());
        } else if let Some(value) = whole_value(word, before) {
            found.push(value);
        } else {
            found.extend(in_text(word));
        }
        of_each.push(found);
        before = Some(word);
    }
    of_each
}

/// `--password`, whose value is the next word.
fn is_secret_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    name.len() < word.len() && name.bytes().all(is_of_name) && is_secret(name)
}

/// The value of a word that is one assignment as a whole: of an option, or of a variable.
fn whole_value(word: &str, before: Option<&str>) -> Option<Range<usize>> {
    let (name, value) = word.split_once('=')?;
    let is_option = name.starts_with('-');
    let is_variable =
        !name.bytes().any(|byte| byte.is_ascii_lowercase()) && !before.is_some_and(takes_script);
    let bare = name.trim_start_matches('-');
    let is_whole = (is_option || is_variable) && bare.bytes().all(is_of_name) && is_secret(bare);
    (is_whole && !value.is_empty()).then(|| name.len() + 1..word.len())
}

/// `-c`, `-ec`: the next word is a script.
fn takes_script(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.ends_with('c'))
}

/// Where passwords are in a text of several words: a conninfo, a script, a statement.
fn in_text(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut end = 0;
    while let Some(start) = text.bytes().skip(end).position(is_of_name).map(|at| end + at) {
        let length = text.bytes().skip(start).take_while(|byte| is_of_name(*byte)).count();
        end = start + length;
        let written = text.get(start..end).unwrap_or_default();
        if is_secret(written.trim_start_matches('-'))
            && let Some(value) = value_behind(text, start..end)
        {
            end = value.end;
            found.push(value);
        }
    }
    found
}

/// The value that belongs to the name at `name`, if there is one.
fn value_behind(text: &str, name: Range<usize>) -> Option<Range<usize>> {
    let (written, rest) = (text.get(name.clone())?, text.get(name.end..)?);
    let is_option = written.starts_with('-');
    // libpq lets white space stand beside the sign, a shell does not.
    let may_have_space = !is_option && written.bytes().any(|byte| byte.is_ascii_lowercase());
    let unspaced = rest.trim_start();
    let start = if let Some(value) = rest.strip_prefix('=') {
        let value = if may_have_space { value.trim_start() } else { value };
        text.len() - value.len()
    } else if unspaced.starts_with('=') && may_have_space {
        text.len() - unspaced.strip_prefix('=')?.trim_start().len()
    } else if unspaced.len() < rest.len() && (is_option || is_literal(written, unspaced)) {
        text.len()
            - unspaced.strip_prefix(['E', 'e']).filter(|it| it.starts_with('\'')).unwrap_or(unspaced).len()
    } else {
        return None;
    };
    let separator = text.get(..name.start)?.chars().next_back().filter(|it| matches!(it, '?' | '&' | ';'));
    let value = value_at(text, start, separator);
    let is_flag = is_option && !rest.starts_with('=') && text.get(start..)?.starts_with('-');
    (!value.is_empty() && !is_flag).then_some(value)
}

/// `PASSWORD 'secret'` of SQL.
fn is_literal(name: &str, behind: &str) -> bool {
    let quoted = behind.strip_prefix(['E', 'e']).unwrap_or(behind);
    name.eq_ignore_ascii_case("password") && quoted.starts_with('\'')
}

/// What stands at `start`: within quotes, or until white space or the separator of URLs and the like.
fn value_at(text: &str, start: usize, separator: Option<char>) -> Range<usize> {
    let rest = text.get(start..).unwrap_or_default();
    let separator = separator.map(|it| if it == '?' { '&' } else { it });
    let Some(quote) = rest.chars().next().filter(|first| matches!(first, '\'' | '"')) else {
        let length = rest.find(|c: char| c.is_whitespace() || Some(c) == separator).unwrap_or(rest.len());
        return start..start + length;
    };
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        let is_doubled = character == quote && characters.peek().is_some_and(|(_, next)| *next == quote);
        if character == '\\' || is_doubled {
            characters.next();
        } else if character == quote {
            return start + 1..start + at;
        }
    }
    (start + 1).min(text.len())..text.len()
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::Mask;
    use super::*;

    fn masked(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Mask::new([]).apply_words(&words)
    }

    #[rstest]
    #[case(&["psql", "postgresql://u:s3cretpw@/app?x=y&password=qsecret9"], &["psql", "postgresql://u:***@/app?x=y&password=***"])]
    #[case(&["psql", "postgresql://u:it's a \"p w\"@/app"], &["psql", "postgresql://u:***@/app"])]
    #[case(&["tool", "--password=hunter2", "up"], &["tool", "--password=***", "up"])]
    #[case(&["tool", "--db-password=a b&c", "-password=x"], &["tool", "--db-password=***", "-password=***"])]
    #[case(&["tool", "--password", "hunter2", "up"], &["tool", "--password", "***", "up"])]
    #[case(&["env", "PGPASSWORD=zorro1", "psql"], &["env", "PGPASSWORD=***", "psql"])]
    #[case(&["env", "PGPASSWORD=zor ro1", "psql"], &["env", "PGPASSWORD=***", "psql"])]
    #[case(&["sh", "-ec", "PGPASSWORD=zorro1 psql -c 'select 1'"], &["sh", "-ec", "PGPASSWORD=*** psql -c 'select 1'"])]
    #[case(&["sh", "-c", "tool --password hunter2 --up"], &["sh", "-c", "tool --password *** --up"])]
    #[case(&["psql", "host=x password='a b' user=y"], &["psql", "host=x password='***' user=y"])]
    #[case(&["psql", r"password = 'a\'b' user=y"], &["psql", "password = '***' user=y"])]
    #[case(&["psql", "password=secret user=y"], &["psql", "password=*** user=y"])]
    #[case(&["psql", "user=y password='open"], &["psql", "user=y password='***"])]
    #[case(&["psql", "-c", "ALTER ROLE a PASSWORD 'it''s'; SELECT 1"], &["psql", "-c", "ALTER ROLE a PASSWORD '***'; SELECT 1"])]
    #[case(&["tool", "-x", "token=abc", "API_KEY=k"], &["tool", "-x", "token=***", "API_KEY=***"])]
    fn a_password_in_a_word_is_masked(#[case] words: &[&str], #[case] expected: &[&str]) {
        assert_eq!(masked(words), expected);
        assert_eq!(masked(expected), expected, "once is enough");
    }

    #[rstest]
    #[case(&["tool", "--password-file=/x", "--token-file", "/y"])]
    #[case(&["tool", "password", "hunter2"])]
    #[case(&["psql", "--no-password", "app"])]
    #[case(&["psql", "--password", "-d", "app"])]
    #[case(&["psql", "--password"])]
    #[case(&["psql", "postgresql://u@db:5432/app?sslmode=require"])]
    #[case(&["psql", "-c", "SELECT password FROM users WHERE compass = 1"])]
    #[case(&["env", "PWD=/srv", "PGPASSFILE=/x", "make"])]
    #[case(&["sh", "-c", "PGPASSWORD= psql"])]
    #[case(&["psql", "password='' user=y"])]
    #[case(&["alembic", "-x", "tenant=a", "upgrade", "head"])]
    fn what_is_no_password_stays(#[case] words: &[&str]) {
        assert_eq!(masked(words), words);
    }

    #[test]
    fn what_a_word_gives_away_is_known() {
        let words = ["psql", "postgresql://u:p%40ss@/app", "\"password=hunter2\"", "--token", "t0ken"];
        let secrets = secrets_in(&words.map(str::to_owned));
        for secret in ["p@ss", "p%40ss", "hunter2", "t0ken"] {
            assert!(secrets.contains(&secret.to_owned()), "{secrets:?}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_masked_once_and_for_all(
            words in prop::collection::vec("(--|-|)(password|PGPASSWORD|x|)[=:/@' \"é\\\\&?ab*-]{0,12}", 0..4),
        ) {
            let once = Mask::new([]).apply_words(&words);
            prop_assert_eq!(once.len(), words.len());
            let _ = secrets_in(&words);
        }
    }
}

//! What a check of a migration expects: `= 0`, `>= before`, `unchanged`.
//!
//! Comes in: the text of an expectation, and what a query answered before and after. Goes out:
//! whether it holds. Numbers are compared as decimal numbers of any length, all else as text.

use std::cmp::Ordering;
use std::fmt;

/// What the answer after a migration is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    /// The answer before it.
    Before,
    /// This.
    Value(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    More,
    Less,
}

/// Longer signs before the shorter ones that they begin with.
const SIGNS: [(&str, Comparison); 6] = [
    ("!=", Comparison::NotEqual),
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("=", Comparison::Equal),
    (">", Comparison::More),
    ("<", Comparison::Less),
];

impl Comparison {
    fn sign(self) -> &'static str {
        SIGNS.iter().find(|(_, comparison)| *comparison == self).map_or("", |(sign, _)| sign)
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::AtLeast => ordering.is_ge(),
            Self::AtMost => ordering.is_le(),
            Self::More => ordering.is_gt(),
            Self::Less => ordering.is_lt(),
        }
    }
}

/// What a check expects of an answer. `Display` writes what [`Expectation::parse`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    comparison: Comparison,
    operand: Operand,
}

/// A text that is no expectation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be \"unchanged\", or one of = != < <= > >= and a value or the word before, such as \
     \">= before\", not {0:?}"
)]
pub struct InvalidExpectation(String);

impl Expectation {
    /// Reads `unchanged`, or a sign and what is compared with: the word `before`, or a value,
    /// which may stand in single quotes (`'before'` is a value).
    ///
    /// # Errors
    /// [`InvalidExpectation`]
    pub fn parse(text: &str) -> Result<Self, InvalidExpectation> {
        let trimmed = text.trim();
        if trimmed == "unchanged" {
            return Ok(Self { comparison: Comparison::Equal, operand: Operand::Before });
        }
        let signed =
            SIGNS.iter().find_map(|(sign, comparison)| Some((trimmed.strip_prefix(sign)?, *comparison)));
        let (rest, comparison) = signed.ok_or_else(|| InvalidExpectation(text.into()))?;
        let operand = match rest.trim() {
            "before" => Operand::Before,
            // A sign left over: "==" or "=>" is a slip, and no value that a query answers.
            "" => return Err(InvalidExpectation(text.into())),
            value if value.starts_with(['=', '<', '>', '!']) => return Err(InvalidExpectation(text.into())),
            value => Operand::Value(unquoted(value).into()),
        };
        Ok(Self { comparison, operand })
    }

    /// Whether `after` is what is expected, where `before` was the answer before the migration.
    pub fn holds(&self, before: &str, after: &str) -> bool {
        let with = match &self.operand {
            Operand::Before => before,
            Operand::Value(value) => value,
        };
        self.comparison.holds(compare(after, with))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = self.comparison.sign();
        match &self.operand {
            Operand::Before if self.comparison == Comparison::Equal => f.write_str("unchanged"),
            Operand::Before => write!(f, "{sign} before"),
            Operand::Value(value) if is_plain_number(value) => write!(f, "{sign} {value}"),
            Operand::Value(value) => write!(f, "{sign} '{value}'"),
        }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value)
}

fn is_plain_number(value: &str) -> bool {
    value.trim() == value && Decimal::parse(value).is_some()
}

fn compare(one: &str, other: &str) -> Ordering {
    match (Decimal::parse(one), Decimal::parse(other)) {
        (Some(one), Some(other)) => one.compare(&other),
        _ => one.cmp(other),
    }
}

/// A decimal number of any length: its sign, its digits from the first to the last that is not
/// zero, and where the point stands before them.
struct Decimal {
    is_negative: bool,
    digits: String,
    /// 1 for `3.2`, 0 for `0.32`, -1 for `0.032`.
    point: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_start_matches('0');
        let exponent = i64::from(exponent.parse::<i32>().ok()?);
        let point =
            i64::try_from(whole.len()).ok()? - i64::try_from(all.len() - digits.len()).ok()? + exponent;
        let digits = digits.trim_end_matches('0').to_owned();
        let is_zero = digits.is_empty();
        Some(Self {
            is_negative: text.starts_with('-') && !is_zero,
            digits,
            point: if is_zero { i64::MIN } else { point },
        })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let magnitudes = || (self.point, &self.digits).cmp(&(other.point, &other.digits));
        match (self.is_negative, other.is_negative) {
            (false, false) => magnitudes(),
            (true, true) => magnitudes().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("= 0", "7", "0", true)]
    #[case("= 0", "7", "1", false)]
    #[case("=0", "", "0.00", true)]
    #[case("!= 0", "", "0", false)]
    #[case("!= 0", "", "-1", true)]
    #[case(">= before", "9", "10", true)]
    #[case(">= before", "10", "9", false)]
    #[case(">= before", "10", "10", true)]
    #[case("<= 10", "", "9.5", true)]
    #[case("<= 10", "", "11", false)]
    #[case("> 0", "", "0", false)]
    #[case("> 0", "", "1e-3", true)]
    #[case("< before", "-1", "-2", true)]
    #[case("< before", "-2", "-1", false)]
    #[case("unchanged", "abc", "abc", true)]
    #[case("unchanged", "abc", "abd", false)]
    #[case("unchanged", "1.50", "1.5", true)]
    #[case("= ok", "", "ok", true)]
    #[case("= 'before'", "x", "before", true)]
    #[case("= ''", "x", "", true)]
    #[case("= -0", "", "0", true)]
    #[case("> 9", "", "t", true)]
    fn expectation_holds_as_written(
        #[case] text: &str,
        #[case] before: &str,
        #[case] after: &str,
        #[case] is_met: bool,
    ) {
        assert_eq!(Expectation::parse(text).unwrap().holds(before, after), is_met);
    }

    #[test]
    fn numbers_longer_than_a_machine_word_are_compared_digit_by_digit() {
        let large = "90071992547409930000000000001";
        let larger = "90071992547409930000000000002";
        assert!(Expectation::parse("> before").unwrap().holds(large, larger));
        assert!(!Expectation::parse("= before").unwrap().holds(large, larger));
        assert!(Expectation::parse("= 1e3").unwrap().holds("", "1000"));
    }

    #[rstest]
    #[case("")]
    #[case("0")]
    #[case("=")]
    #[case("== 0")]
    #[case("=> 0")]
    #[case("same")]
    fn what_is_no_expectation_is_refused(#[case] text: &str) {
        let refusal = Expectation::parse(text).unwrap_err().to_string();
        assert!(
            refusal.contains("\">= before\"") && refusal.ends_with(&format!("not {text:?}")),
            "{refusal}"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(sign in 0..6usize, value in "before|[a-z0-9.' -]{0,12}") {
            let text = format!("{} '{value}'", SIGNS[sign].0);
            let expectation = Expectation::parse(&text).unwrap();
            prop_assert_eq!(Expectation::parse(&expectation.to_string()).unwrap(), expectation);
        }

        #[test]
        fn decimals_are_ordered_as_numbers(one: i32, other: i32, scale in 0..4usize) {
            let (one_text, other_text) = (format!("{one}e{scale}"), format!("{other}{}", "0".repeat(scale)));
            prop_assert_eq!(compare(&one_text, &other_text), one.cmp(&other));
        }
    }
}

//! Takes typed values out of one section and refuses what is left.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};
use strsim::damerau_levenshtein;

use super::SettingsError;
use super::layers::FROM_ENVIRONMENT;

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub value: T,
    /// With its section.
    pub key: String,
    /// The file, or the environment variable.
    pub origin: String,
}

impl<T> Given<T> {
    pub(super) fn invalid(&self, complaint: impl Into<String>) -> SettingsError {
        SettingsError::Invalid {
            origin: self.origin.clone(),
            key: self.key.clone(),
            complaint: complaint.into(),
        }
    }

    pub(super) fn is_from_environment(&self) -> bool {
        self.origin.starts_with(FROM_ENVIRONMENT)
    }
}

/// One section, from which keys are taken by name.
pub(super) struct Table {
    /// Dotted; empty for the root.
    path: String,
    /// One file that has it; the main one when none has.
    file: String,
    values: BTreeMap<String, Value>,
    known: Vec<&'static str>,
}

impl Table {
    pub(super) fn root(values: Map<String, Value>, file: &Path) -> Self {
        Self {
            path: String::new(),
            file: file.display().to_string(),
            values: values.into_iter().collect(),
            known: Vec::new(),
        }
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    fn origin(&self, value: &Value) -> String {
        first_origin(value).unwrap_or_else(|| self.file.clone())
    }

    fn take(&mut self, name: &'static str) -> Option<Given<ValueKind>> {
        self.known.push(name);
        let value = self.values.remove(name)?;
        Some(Given { origin: self.origin(&value), key: self.key(name), value: value.kind })
    }

    /// The section `name` in this one; an absent one is empty.
    pub(super) fn table(&mut self, name: &'static str) -> Result<Self, SettingsError> {
        self.known.push(name);
        let value =
            self.values.remove(name).unwrap_or_else(|| Value::new(None, ValueKind::Table(Map::new())));
        self.nested(name, value)
    }

    /// Everything in this one as sections, whatever they are called.
    pub(super) fn tables(mut self) -> Result<Vec<(String, Self)>, SettingsError> {
        let values = std::mem::take(&mut self.values);
        values.into_iter().map(|(name, value)| Ok((name.clone(), self.nested(&name, value)?))).collect()
    }

    /// The sections of a list such as `[[gate.fence]]`; an absent one is empty. In messages they
    /// are counted from 1.
    pub(super) fn sections(&mut self, name: &'static str) -> Result<Vec<Self>, SettingsError> {
        let Some(given) = self.take(name) else { return Ok(Vec::new()) };
        let ValueKind::Array(values) = given.value else {
            let complaint = format!("must be sections [[{}]], not {}", given.key, kind(&given.value));
            return Err(given.invalid(complaint));
        };
        let numbered = values.into_iter().enumerate();
        numbered.map(|(index, value)| self.nested(&format!("{name}[{}]", index + 1), value)).collect()
    }

    /// Everything in this one as texts, whatever they are called; they may be empty.
    pub(super) fn entries(mut self) -> Result<Vec<(String, Given<String>)>, SettingsError> {
        let mut entries = Vec::new();
        for (name, value) in std::mem::take(&mut self.values) {
            let given = Given { origin: self.origin(&value), key: self.key(&name), value: value.kind };
            match &given.value {
                ValueKind::String(text) if text.contains('\0') => {
                    return Err(given.invalid("must not hold a NUL"));
                }
                ValueKind::String(text) => {
                    entries.push((name, Given { value: text.clone(), key: given.key, origin: given.origin }));
                }
                other => return Err(given.invalid(format!("must be text, not {}", kind(other)))),
            }
        }
        Ok(entries)
    }

    fn nested(&self, name: &str, value: Value) -> Result<Self, SettingsError> {
        let (origin, key) = (self.origin(&value), self.key(name));
        match value.kind {
            ValueKind::Table(values) => Ok(Self {
                path: key,
                file: if origin.starts_with(FROM_ENVIRONMENT) { self.file.clone() } else { origin },
                values: values.into_iter().collect(),
                known: Vec::new(),
            }),
            other => {
                let complaint = format!("must be a section, not {}", kind(&other));
                Err(SettingsError::Invalid { origin, key, complaint })
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<Given<String>>, SettingsError> {
        let Some(given) = self.take(name) else { return Ok(None) };
        match &given.value {
            ValueKind::String(text) if text.is_empty() => Err(given.invalid("must not be empty")),
            ValueKind::String(text) if text.contains('\0') => Err(given.invalid("must not hold a NUL")),
            ValueKind::String(text) => {
                Ok(Some(Given { value: text.clone(), key: given.key, origin: given.origin }))
            }
            other => Err(given.invalid(format!("must be text, not {}", kind(other)))),
        }
    }

    /// A text that `parse` understands; its complaint follows the key in the message.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(given) = self.text(name)? else { return Ok(None) };
        parse(&given.value).map(Some).map_err(|complaint| given.invalid(complaint))
    }

    /// A path, which must be absolute: a daemon has no useful working directory.
    pub(super) fn absolute_path(&mut self, name: &'static str) -> Result<Option<PathBuf>, SettingsError> {
        self.parsed(name, |text| {
            let path = PathBuf::from(text);
            if path.is_absolute() { Ok(path) } else { Err(format!("must be an absolute path, not {text:?}")) }
        })
    }

    /// Where `name` is given, if it is; it still has to be taken.
    pub(super) fn peek(&self, name: &str) -> Option<Given<()>> {
        let value = self.values.get(name)?;
        Some(Given { value: (), key: self.key(name), origin: self.origin(value) })
    }

    /// A list of texts; from the environment, separated by commas.
    pub(super) fn texts(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Option<Vec<String>>, SettingsError> {
        let Some(given) = self.take(name) else { return Ok(None) };
        let texts: Vec<&str> = match &given.value {
            ValueKind::String(text) if given.is_from_environment() => {
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
            }
            ValueKind::Array(values) => values.iter().map_while(as_text).collect(),
            other => return Err(given.invalid(format!("must be a list of texts, not {}", kind(other)))),
        };
        if let ValueKind::Array(values) = &given.value
            && let Some(other) = values.get(texts.len())
        {
            return Err(given.invalid(format!("must be a list of texts, and holds {}", kind(&other.kind))));
        }
        let parsed: Result<_, String> = texts.into_iter().map(parse).collect();
        parsed.map(Some).map_err(|complaint| given.invalid(complaint))
    }

    /// A command as a list of words, its program first; from the environment, separated by commas.
    pub(super) fn command(&mut self, name: &'static str) -> Result<Option<Vec<String>>, SettingsError> {
        let given = self.peek(name);
        let word = |text: &str| match text.contains('\0') {
            true => Err("must not hold a NUL".into()),
            false => Ok(text.to_owned()),
        };
        let words = self.texts(name, word)?;
        match (words, given) {
            (Some(words), Some(given)) if words.first().is_none_or(String::is_empty) => {
                Err(given.invalid("must name a program first"))
            }
            (words, _) => Ok(words),
        }
    }

    /// `true` or `false`; from the environment, the word.
    pub(super) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, SettingsError> {
        let Some(given) = self.take(name) else { return Ok(None) };
        match &given.value {
            ValueKind::Boolean(is_so) => Ok(Some(*is_so)),
            ValueKind::String(text) if given.is_from_environment() => {
                text.parse().map(Some).map_err(|_| given.invalid("must be true or false"))
            }
            other => Err(given.invalid(format!("must be true or false, not {}", kind(other)))),
        }
    }

    /// A whole number within `range`; from the environment, its digits.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, SettingsError> {
        let Some(given) = self.take(name) else { return Ok(None) };
        let number = match &given.value {
            ValueKind::I64(number) => usize::try_from(*number).ok(),
            ValueKind::String(text) if given.is_from_environment() => text.trim().parse().ok(),
            other => return Err(given.invalid(format!("must be a whole number, not {}", kind(other)))),
        };
        let within = number.filter(|number| range.contains(number));
        let complaint = || format!("must be a whole number from {} to {}", range.start(), range.end());
        within.map(Some).ok_or_else(|| given.invalid(complaint()))
    }

    /// A secret: taken from the environment, refused in a file.
    pub(super) fn secret(&mut self, name: &'static str) -> Result<Option<Given<String>>, SettingsError> {
        let given = self.text(name)?;
        self.known.retain(|known| *known != name);
        match given {
            Some(given) if !given.is_from_environment() => Err(given.invalid(
                "is refused, because settings files get copied and shared; \
                 use password_file, env_prefix, a service file or .pgpass",
            )),
            other => Ok(other),
        }
    }

    /// The error for a key that must be given and is not.
    pub(super) fn missing(&self, name: &str) -> SettingsError {
        SettingsError::Missing { origin: self.file.clone(), key: self.key(name) }
    }

    /// An error about this section as a whole.
    pub(super) fn invalid(&self, complaint: String) -> SettingsError {
        SettingsError::Invalid { origin: self.file.clone(), key: self.path.clone(), complaint }
    }

    /// Refuses the first key that nobody took.
    pub(super) fn finish(self) -> Result<(), SettingsError> {
        let Some((name, value)) = self.values.first_key_value() else { return Ok(()) };
        let nearest = self.known.iter().min_by_key(|known| damerau_levenshtein(known, name));
        let is_near = |known: &&&str| {
            let edits = damerau_levenshtein(known, name);
            edits <= (name.chars().count() / 3).max(1) || known.starts_with(name.as_str())
        };
        Err(SettingsError::UnknownKey {
            origin: self.origin(value),
            key: self.key(name),
            nearest: nearest.filter(is_near).map(ToString::to_string),
        })
    }
}

fn as_text(value: &Value) -> Option<&str> {
    if let ValueKind::String(text) = &value.kind { Some(text) } else { None }
}

/// Merged tables have no origin of their own, so the first leaf speaks for them.
fn first_origin(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Table(values) => {
            let sorted: BTreeMap<_, _> = values.iter().collect();
            sorted.into_values().find_map(first_origin)
        }
        _ => value.origin().map(str::to_owned),
    }
}

fn kind(value: &ValueKind) -> &'static str {
    match value {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a number",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "a list",
    }
}

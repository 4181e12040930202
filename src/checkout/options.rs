//! The options of Alembic in `alembic.ini` and in `[tool.alembic]` of `pyproject.toml`.
//!
//! The former goes before the latter, option by option. Values are filled in as Python's
//! ConfigParser does it: `%(name)s` is another option, `%(here)s` the folder of the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf, absolute};

use config::{FileFormat, Format as _, Value, ValueKind};
use ini::{Ini, ParseOption};

use super::CheckoutError;

const PYPROJECT: &str = "pyproject.toml";
/// How deep options may name each other, as in Python.
const MAX_DEPTH: usize = 10;

/// Which files hold the configuration; a usual one may be missing, a named one may not.
pub(super) struct Files {
    ini: (PathBuf, Need),
    toml: (PathBuf, Need),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Usual,
    Named,
}

impl Files {
    /// What `-c` names, else what `ALEMBIC_CONFIG` names, else the usual ones in `directory`.
    pub(super) fn of(directory: &Path, configs: &[String], alembic_config: Option<&str>) -> Self {
        let is_toml = |name: &str| Path::new(name).file_name().is_some_and(|name| name == PYPROJECT);
        let usual = alembic_config.filter(|name| !name.is_empty());
        let find = |wants_toml: bool, default: &str| {
            let named = configs.iter().map(String::as_str).chain(usual);
            match named.into_iter().find(|name| is_toml(name) == wants_toml) {
                Some(name) => (directory.join(name), Need::Named),
                None => (directory.join(default), Need::Usual),
            }
        };
        Self { ini: find(false, "alembic.ini"), toml: find(true, PYPROJECT) }
    }
}

/// The options of one section.
pub(super) struct Options {
    ini: Option<Ranked<String>>,
    toml: Option<Ranked<Value>>,
}

/// What one file says.
struct Ranked<V> {
    path: PathBuf,
    options: BTreeMap<String, V>,
    /// The folder of the file.
    here: String,
}

impl Options {
    /// Reads both files; `None` if neither configures Alembic.
    pub(super) fn read(files: Files, section: &str) -> Result<Option<Self>, CheckoutError> {
        let ini = read(files.ini, |text, path| ini_section(text, path, section))?;
        let toml = read(files.toml, pyproject_section)?;
        Ok((ini.is_some() || toml.is_some()).then_some(Self { ini, toml }))
    }

    /// The file that speaks first.
    pub(super) fn path(&self) -> &Path {
        let ini = self.ini.as_ref().map(|ini| &ini.path);
        ini.or(self.toml.as_ref().map(|toml| &toml.path)).map_or(Path::new(""), PathBuf::as_path)
    }

    pub(super) fn complain(&self, option: &str, complaint: &str) -> CheckoutError {
        complaint_about(self.path(), option, complaint)
    }

    /// The text of an option.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, CheckoutError> {
        if let Some(text) = self.of_ini(name)? {
            return Ok(Some(text));
        }
        let Some((toml, value)) = self.of_toml(name) else { return Ok(None) };
        match &value.kind {
            ValueKind::String(text) => toml.filled_in(name, text).map(Some),
            _ => Err(complaint_about(&toml.path, name, "must be text")),
        }
    }

    /// The paths of an option; none if it is empty.
    pub(super) fn list(&self, name: &str) -> Result<Vec<String>, CheckoutError> {
        match self.of_ini(name)? {
            Some(text) if !text.is_empty() => return self.split(&text),
            _ => {}
        }
        let Some((toml, value)) = self.of_toml(name) else { return Ok(Vec::new()) };
        let refused = || complaint_about(&toml.path, name, "must be a list of texts");
        let ValueKind::Array(items) = &value.kind else { return Err(refused()) };
        let texts = items.iter().map(|item| match &item.kind {
            ValueKind::String(text) => toml.filled_in(name, text),
            _ => Err(refused()),
        });
        texts.collect()
    }

    /// Whether an option is on; in an INI only `true` is.
    pub(super) fn flag(&self, name: &str) -> Result<bool, CheckoutError> {
        if let Some(text) = self.of_ini(name)? {
            return Ok(text == "true");
        }
        match self.of_toml(name).map(|(toml, value)| (toml, &value.kind)) {
            None => Ok(false),
            Some((_, ValueKind::Boolean(is_on))) => Ok(*is_on),
            Some((toml, _)) => Err(complaint_about(&toml.path, name, "must be true or false")),
        }
    }

    fn of_ini(&self, name: &str) -> Result<Option<String>, CheckoutError> {
        let Some(ini) = &self.ini else { return Ok(None) };
        ini.options.get(name).map(|text| ini.filled_in(name, text)).transpose()
    }

    fn of_toml(&self, name: &str) -> Option<(&Ranked<Value>, &Value)> {
        let toml = self.toml.as_ref()?;
        toml.options.get(name).map(|value| (toml, value))
    }

    /// Splits a list of paths at what the INI says; at blanks and commas if it says nothing, as
    /// Alembic did before 1.7.
    fn split(&self, text: &str) -> Result<Vec<String>, CheckoutError> {
        let mut separator = None;
        for name in ["path_separator", "version_path_separator"] {
            if separator.is_none() {
                separator = self.of_ini(name)?.map(|separator| (name, separator));
            }
        }
        let at: &[char] = match separator.as_ref().map(|(name, separator)| (*name, separator.as_str())) {
            None => &[',', ' '],
            Some((_, "os" | ":")) => &[':'],
            Some((_, ";")) => &[';'],
            Some((_, "space")) => &[' '],
            Some((_, "newline")) => &['\n'],
            Some((name, _)) => return Err(self.complain(name, "must be os, space, newline, : or ;")),
        };
        let paths = text.split(at).map(|path| path.trim().to_owned());
        Ok(paths.filter(|path| !path.is_empty()).collect())
    }
}

impl<V: Text> Ranked<V> {
    fn filled_in(&self, name: &str, text: &str) -> Result<String, CheckoutError> {
        let filled = self.filled(text, MAX_DEPTH);
        filled.map_err(|complaint| complaint_about(&self.path, name, &complaint))
    }

    fn filled(&self, text: &str, depth: usize) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((plain, after)) = rest.split_once('%') {
            filled.push_str(plain);
            if let Some(after) = after.strip_prefix('%') {
                filled.push('%');
                rest = after;
                continue;
            }
            let named = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
            let (name, after) = named.ok_or("has a % that is neither %% nor %(name)s")?;
            let depth = depth.checked_sub(1).ok_or("refers to itself")?;
            filled.push_str(&self.named(&name.to_lowercase(), depth)?);
            rest = after;
        }
        Ok(filled + rest)
    }

    fn named(&self, name: &str, depth: usize) -> Result<String, String> {
        match self.options.get(name).and_then(V::referred) {
            Some(text) => self.filled(text, depth),
            None if name == "here" => Ok(self.here.clone()),
            None => Err(format!("refers to %({name})s, which is not set")),
        }
    }
}

/// A value that another may refer to.
trait Text {
    fn referred(&self) -> Option<&str>;
}

impl Text for String {
    fn referred(&self) -> Option<&str> {
        Some(self)
    }
}

impl Text for Value {
    /// In TOML Alembic knows `%(here)s` alone.
    fn referred(&self) -> Option<&str> {
        None
    }
}

fn complaint_about(path: &Path, option: &str, complaint: &str) -> CheckoutError {
    CheckoutError::Option { path: path.into(), option: option.into(), complaint: complaint.into() }
}

/// Reads one file; `None` if it is not there and need not be, or does not speak of Alembic.
fn read<V>(
    (path, need): (PathBuf, Need),
    parse: impl FnOnce(&str, &Path) -> Result<Option<BTreeMap<String, V>>, CheckoutError>,
) -> Result<Option<Ranked<V>>, CheckoutError> {
    if need == Need::Usual && !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(CheckoutError::read(&path))?;
    let whole = absolute(&path).map_err(CheckoutError::read(&path))?;
    let here = whole.parent().unwrap_or(Path::new("/")).display().to_string();
    Ok(parse(&text, &path)?.map(|options| Ranked { path, options, here }))
}

/// The options of a section with those of `[DEFAULT]`, their names in lower case.
fn ini_section(
    text: &str,
    path: &Path,
    section: &str,
) -> Result<Option<BTreeMap<String, String>>, CheckoutError> {
    // ConfigParser knows neither quotes nor escapes, and goes on in lines that are indented.
    let form = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        enabled_indented_mutiline_value: true,
        ..ParseOption::default()
    };
    let parsed = Ini::load_from_str_opt(text, form).map_err(|error| CheckoutError::Malformed {
        path: path.into(),
        complaint: format!("line {} is no option and no section", error.line),
    })?;
    let Some(own) = parsed.section(Some(section)) else { return Ok(None) };
    let defaults = parsed.section(Some("DEFAULT")).into_iter().flat_map(|section| section.iter());
    let options = defaults.chain(own.iter()).map(|(name, value)| (name.to_lowercase(), uncommented(value)));
    Ok(Some(options.collect()))
}

/// A value without the comments between its lines; a line alone is no comment.
fn uncommented(value: &str) -> String {
    let is_alone = value.lines().count() == 1;
    let is_comment = |line: &str| !is_alone && line.trim_start().starts_with(['#', ';']);
    let lines: Vec<&str> = value.lines().filter(|line| !is_comment(line)).collect();
    lines.join("\n").trim().to_owned()
}

/// `[tool.alembic]`
fn pyproject_section(text: &str, path: &Path) -> Result<Option<BTreeMap<String, Value>>, CheckoutError> {
    let parsed = FileFormat::Toml
        .parse(None, text)
        .map_err(|_| CheckoutError::Malformed { path: path.into(), complaint: "this is no TOML".into() })?;
    let tool = parsed.get("tool").and_then(|tool| tool.clone().into_table().ok());
    let alembic = tool.and_then(|tool| tool.get("alembic").cloned()).and_then(|it| it.into_table().ok());
    Ok(alembic.map(|options| options.into_iter().collect()))
}

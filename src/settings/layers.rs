//! Lays file, `conf.d` and environment over each other; every value remembers where it is from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, FileFormat, Format as _, Map, Source, Value, ValueKind};

use super::SettingsError;

/// How the origin of a value from the environment begins; no absolute path begins so.
pub(super) const FROM_ENVIRONMENT: &str = "environment variable ";

const PREFIX: &str = "BELAY__";

/// The environment variables that settings and connections are read from.
///
/// It may hold secrets and is never shown.
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process; what is not Unicode is left out.
    pub fn of_process() -> Self {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(unicode).collect())
    }

    /// Every variable, by its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of `name`; an empty one counts as not set, as libpq has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn settings(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let ours = |(name, value)| {
            let name: &String = name;
            let value: &String = value;
            Some((name.as_str(), name.strip_prefix(PREFIX)?, value.as_str()))
        };
        self.0.iter().filter_map(ours)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// One layer, already read.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads all layers; a later one wins key by key.
pub(super) fn merge(file: &Path, environment: &Environment) -> Result<Map<String, Value>, SettingsError> {
    let mut layers = vec![read(file)?];
    for file in beside(file)? {
        layers.push(read(&file)?);
    }
    let files = overlay(layers.clone(), file)?;
    layers.push(from_environment(environment, &section_names(&files))?);
    overlay(layers, file)
}

fn overlay(layers: Vec<Layer>, file: &Path) -> Result<Map<String, Value>, SettingsError> {
    let builder = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer));
    let merged = builder.build().and_then(|merged| merged.collect());
    merged.map_err(|error| SettingsError::NotToml { path: file.into(), complaint: error.to_string() })
}

/// The settings file and what lies beside it in `conf.d`, in the order in which they are read.
///
/// # Errors
/// [`SettingsError::Unreadable`] for `conf.d`.
pub fn files(file: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let mut all = vec![file.to_owned()];
    all.extend(beside(file)?);
    Ok(all)
}

/// `conf.d/*.toml` beside `file`, sorted by name.
fn beside(file: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let folder = file.with_file_name("conf.d");
    let unreadable = |source| SettingsError::Unreadable { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Layer, SettingsError> {
    let text =
        fs::read_to_string(file).map_err(|source| SettingsError::Unreadable { path: file.into(), source })?;
    let parsed = FileFormat::Toml.parse(Some(&file.display().to_string()), &text);
    parsed.map(Layer).map_err(|error| SettingsError::NotToml {
        path: file.into(),
        complaint: without_source_lines(&error.to_string()),
    })
}

/// Leaves out the quoted lines of the file (`3 | password = …`), which may hold a secret.
fn without_source_lines(complaint: &str) -> String {
    let is_quote = |line: &str| {
        line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|')
    };
    let told: Vec<&str> = complaint.lines().filter(|line| !is_quote(line)).map(str::trim).collect();
    told.join(": ")
}

fn section_names(files: &Map<String, Value>) -> Vec<String> {
    match files.get("database").map(|value| &value.kind) {
        Some(ValueKind::Table(sections)) => sections.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// `BELAY__SECTION__KEY` and `BELAY__DATABASE__NAME__KEY` as a layer.
///
/// A variable's name is upper case and without hyphens, so NAME means the section in the files
/// that is like it but for case and hyphens, if there is one.
fn from_environment(environment: &Environment, sections: &[String]) -> Result<Layer, SettingsError> {
    let mut layer = Map::new();
    for (variable, path, text) in environment.settings() {
        let origin = format!("{FROM_ENVIRONMENT}{variable}");
        let value = Value::new(Some(&origin), ValueKind::String(text.into()));
        let path = path.to_lowercase();
        match path.split_once("__") {
            Some(("database", rest)) if rest.contains("__") => {
                let (name, key) = rest.rsplit_once("__").expect("the guard saw the separator");
                let like = |section: &&String| section.to_lowercase().replace('-', "_") == name;
                let name = sections.iter().find(like).map_or(name, String::as_str);
                insert(insert_table(&mut layer, "database"), name, key, value);
            }
            Some((section, key)) if section != "database" => insert(&mut layer, section, key, value),
            _ => return Err(SettingsError::UnknownKey { origin, key: path, nearest: None }),
        }
    }
    Ok(Layer(layer))
}

fn insert(tables: &mut Map<String, Value>, table: &str, key: &str, value: Value) {
    insert_table(tables, table).insert(key.into(), value);
}

fn insert_table<'a>(tables: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = tables.entry(name.into()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
    match &mut value.kind {
        ValueKind::Table(table) => table,
        _ => unreachable!("only tables are put at this height"),
    }
}

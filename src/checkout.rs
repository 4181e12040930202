//! The migration scripts of an application, read from its checkout as Alembic would find them.
//!
//! Comes in: a working directory and what a command says about its configuration. Goes out: the
//! history of revisions and the file of each. Nothing is executed, and nothing is written. What
//! only Python knows, such as where an installed package lies, is an error that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::rules::alembic::{History, HistoryError, Intent, Revision, RevisionError, parse_revision};
use crate::rules::api::{Script, Scripts};
use crate::rules::causes::in_a_sentence;

mod options;
#[cfg(test)]
mod tests;

use options::{Files, Options};

/// The revision scripts of one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// How they follow each other.
    pub revisions: History,
    /// The script of each revision by its id, links resolved.
    pub files: BTreeMap<String, PathBuf>,
}

/// Why a checkout cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// A file or a folder.
    #[error("read {}", path.display())]
    Read {
        /// It.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A configuration that is no INI, or no TOML.
    #[error("parse {}: {complaint}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there; never the text itself, which may hold a secret.
        complaint: String,
    },
    /// An option of Alembic that is missing or means nothing here.
    #[error("read {}: {option} {complaint}", path.display())]
    Option {
        /// The file that has it, or should.
        path: PathBuf,
        /// Its name.
        option: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// A revision script that only Python could read.
    #[error("read revision script {}", path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// Where in it, and why.
        #[source]
        source: RevisionError,
    },
    /// A module among the scripts that is none; Alembic stops at it too.
    #[error("read revision script {}: nothing in it sets revision", path.display())]
    NoRevision {
        /// The file.
        path: PathBuf,
    },
    /// A compiled script whose source is not there, where Alembic is told to load such.
    #[error("read revision script {}: its source is not there", path.display())]
    NoSource {
        /// The file.
        path: PathBuf,
    },
    /// Scripts that do not fit together.
    #[error("read revision scripts of {}", path.display())]
    History {
        /// The configuration that leads to them.
        path: PathBuf,
        /// Which, and why.
        #[source]
        source: HistoryError,
    },
}

impl CheckoutError {
    fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { path: path.into(), source }
    }
}

impl Checkout {
    /// Reads the scripts that `intent`, run in `directory`, would load; `alembic_config` is the
    /// variable `ALEMBIC_CONFIG` of its environment. `None` without any configuration of Alembic.
    ///
    /// # Errors
    /// Every [`CheckoutError`]: half a history would be a wrong one.
    pub fn read(
        directory: &Path,
        intent: &Intent,
        alembic_config: Option<&str>,
    ) -> Result<Option<Self>, CheckoutError> {
        let files = Files::of(directory, &intent.configs, alembic_config);
        let Some(options) = Options::read(files, &intent.section)? else { return Ok(None) };
        let mut found = BTreeMap::new();
        let mut revisions = Vec::new();
        for path in scripts(directory, &options)? {
            let text = fs::read_to_string(&path).map_err(CheckoutError::read(&path))?;
            match parse_revision(&text) {
                Ok(Some(revision)) => {
                    found.insert(revision.id.clone(), path);
                    revisions.push(revision);
                }
                Ok(None) => return Err(CheckoutError::NoRevision { path }),
                Err(source) => return Err(CheckoutError::Script { path, source }),
            }
        }
        let history = History::new(revisions);
        let revisions =
            history.map_err(|source| CheckoutError::History { path: options.path().into(), source })?;
        Ok(Some(Self { revisions, files: found }))
    }
}

impl Checkout {
    /// What a runner has read of its own checkout.
    ///
    /// # Errors
    /// Why it could not be read, as a sentence.
    pub fn of_runner(scripts: &Scripts) -> Result<Option<Self>, String> {
        let history = match scripts {
            Scripts::Unreadable(why) => return Err(why.clone()),
            scripts => scripts.history().map_err(|error| error.to_string())?,
        };
        let Scripts::Read(all) = scripts else { return Ok(None) };
        let file = |script: &Script| Some((script.revision.id.clone(), PathBuf::from(script.file.clone()?)));
        Ok(history.map(|revisions| Self { revisions, files: all.iter().filter_map(file).collect() }))
    }

    /// What a gate elsewhere needs of the scripts that the command `words`, run in `directory`,
    /// would load; `alembic_config` as in [`Checkout::read`].
    pub fn for_gate(directory: &Path, words: &[String], alembic_config: Option<&str>) -> Scripts {
        let Some(intent) = Intent::of(words) else { return Scripts::None };
        let checkout = match Self::read(directory, &intent, alembic_config) {
            Ok(Some(checkout)) => checkout,
            Ok(None) => return Scripts::None,
            Err(error) => return Scripts::Unreadable(in_a_sentence(&error)),
        };
        let script = |revision: &Revision| Script {
            file: checkout.files.get(&revision.id).map(|path| path.display().to_string()),
            // What breaks is told by itself, and the rest may be long.
            revision: Revision { doc: String::new(), ..revision.clone() },
        };
        Scripts::Read(checkout.revisions.revisions().map(script).collect())
    }
}

/// The files of all revision scripts in the order in which Alembic loads them.
fn scripts(directory: &Path, options: &Options) -> Result<Vec<PathBuf>, CheckoutError> {
    let is_recursive = options.flag("recursive_version_locations")?;
    let is_sourceless = options.flag("sourceless")?;
    let (mut seen, mut scripts) = (BTreeSet::new(), Vec::new());
    for location in version_locations(directory, options)? {
        for folder in folders(&location, is_recursive)? {
            let names = file_names(&folder)?;
            if is_sourceless {
                refuse_bytecode(&folder, &names)?;
            }
            for name in names.iter().filter(|name| is_script(name)) {
                let path = folder.join(name);
                let path = fs::canonicalize(&path).map_err(CheckoutError::read(&path))?;
                if seen.insert(path.clone()) {
                    scripts.push(path);
                }
            }
        }
    }
    Ok(scripts)
}

/// Where scripts may lie; those of `version_locations` that are not there are passed over.
fn version_locations(directory: &Path, options: &Options) -> Result<Vec<PathBuf>, CheckoutError> {
    let Some(location) = options.text("script_location")? else {
        return Err(options.complain("script_location", "is missing"));
    };
    let scripts = located(directory, options, "script_location", &location)?;
    // Alembic needs it even if all versions lie elsewhere.
    fs::metadata(&scripts).map_err(CheckoutError::read(&scripts))?;
    let written = options.list("version_locations")?;
    let mut locations = Vec::new();
    for location in &written {
        locations.push(located(directory, options, "version_locations", location)?);
    }
    if written.is_empty() {
        locations.push(scripts.join("versions"));
    }
    locations.retain(|location| location.exists());
    Ok(locations)
}

/// A path as Alembic reads it: `package:folder`, or relative to the working directory.
fn located(
    directory: &Path,
    options: &Options,
    option: &str,
    written: &str,
) -> Result<PathBuf, CheckoutError> {
    let (package, folders) = match written.split_once(':') {
        Some(parts) if !written.starts_with('/') => parts,
        _ => return Ok(directory.join(written)),
    };
    let below = Path::new(&package.replace('.', "/")).join(folders.replace(':', "/"));
    let roots = options.list("prepend_sys_path")?;
    let roots = roots.iter().map(String::as_str).chain(["."]).map(|root| directory.join(root));
    let found = roots.map(|root| root.join(&below)).find(|place| place.is_dir());
    found.ok_or_else(|| {
        let complaint = format!("names {written}, a package that is not below {}", directory.display());
        options.complain(option, &complaint)
    })
}

/// The folder itself and, if wanted, those below it, each before its own.
fn folders(location: &Path, is_recursive: bool) -> Result<Vec<PathBuf>, CheckoutError> {
    let mut found = vec![location.to_path_buf()];
    if is_recursive {
        for name in entries(location, |kind| kind.is_dir())? {
            let is_cache = name.to_string_lossy().ends_with("__pycache__");
            if !is_cache {
                found.extend(folders(&location.join(name), is_recursive)?);
            }
        }
    }
    Ok(found)
}

fn file_names(folder: &Path) -> Result<Vec<OsString>, CheckoutError> {
    entries(folder, |kind| !kind.is_dir())
}

fn entries(folder: &Path, is_wanted: fn(fs::FileType) -> bool) -> Result<Vec<OsString>, CheckoutError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckoutError::read(folder))? {
        let entry = entry.map_err(CheckoutError::read(folder))?;
        if is_wanted(entry.file_type().map_err(CheckoutError::read(&entry.path()))?) {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

/// Alembic's `(?!\.\#|__init__)(.*\.py)$`; the former are locks of an editor.
fn is_script(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".py") && !name.starts_with(".#") && !name.starts_with("__init__")
}

/// Refuses a folder with compiled scripts beside which no source lies.
fn refuse_bytecode(folder: &Path, names: &[OsString]) -> Result<(), CheckoutError> {
    let stem = |name: &OsString| name.to_string_lossy().split('.').next().map(str::to_owned);
    let sources: Vec<_> = names.iter().filter(|name| is_script(name)).map(stem).collect();
    let cache = folder.join("__pycache__");
    let cached = if cache.is_dir() { file_names(&cache)? } else { Vec::new() };
    let compiled =
        names.iter().map(|name| folder.join(name)).chain(cached.iter().map(|name| cache.join(name)));
    let is_orphan = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_owned();
        let text = name.to_string_lossy();
        let is_compiled = text.ends_with(".pyc") || text.ends_with(".pyo");
        is_compiled && !text.starts_with("__init__") && !sources.contains(&stem(&name))
    };
    match compiled.into_iter().find(is_orphan) {
        Some(path) => Err(CheckoutError::NoSource { path }),
        None => Ok(()),
    }
}

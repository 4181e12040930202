//! One database of a run, and what this process holds for it.

use super::JobError;
use super::environment::{Address, connection_of};
use super::facts::DatabaseFacts;
use super::fingerprint::Look;
use super::run::Run;
use super::window::Relations;
use crate::catalog::Entry;
use crate::jobs::restore::Prepared;
use crate::jobs::verify::ScratchCopy;
use crate::postgres::tools::Tools;
use crate::rules::classify::combine;
use crate::settings::DatabaseSettings;

/// One database of a run.
pub(super) struct Member<'a> {
    pub(super) settings: &'a DatabaseSettings,
    pub(super) facts: DatabaseFacts,
    pub(super) entry: Option<Entry>,
    /// Its snapshot as of the restore point, while it is put back from there.
    pub(super) entry_at_point: Option<Entry>,
    pub(super) copy: Option<ScratchCopy>,
    pub(super) prepared: Option<Prepared>,
    /// A copy that the server made before the command ran.
    pub(super) local_copy: Option<Prepared>,
    /// What was known of the database's relations before it was closed.
    pub(super) relations: Option<Relations>,
    /// Whether the run has other databases beside it.
    pub(super) has_others: bool,
}

impl<'a> Member<'a> {
    /// Every database of `means`, each with what `known` has of it.
    pub(super) fn all(databases: &'a [DatabaseSettings], mut known: Vec<DatabaseFacts>) -> Vec<Self> {
        let member = |settings: &'a DatabaseSettings| {
            let at = known.iter().position(|facts| facts.section == settings.key);
            let fresh = || DatabaseFacts { section: settings.key.clone(), ..DatabaseFacts::default() };
            Self {
                settings,
                facts: at.map_or_else(fresh, |at| known.swap_remove(at)),
                entry: None,
                entry_at_point: None,
                copy: None,
                prepared: None,
                local_copy: None,
                relations: None,
                has_others: databases.len() > 1,
            }
        };
        databases.iter().map(member).collect()
    }

    /// Its name in PostgreSQL.
    pub(super) fn name(&self) -> &'a str {
        &self.settings.connection.database
    }

    /// A sentence about this database; where there are several, it says which.
    pub(super) fn says(&self, sentence: impl std::fmt::Display) -> String {
        if self.has_others { format!("{}: {sentence}", self.settings.key) } else { sentence.to_string() }
    }

    /// [`Self::says`] of each.
    pub(super) fn say_all(&self, sentences: impl IntoIterator<Item = String>) -> Vec<String> {
        sentences.into_iter().map(|sentence| self.says(sentence)).collect()
    }

    /// Where the command finds it.
    pub(super) fn address(&self, run: &Run<'_>) -> Address<'a> {
        Address { settings: self.settings, to: connection_of(self.settings, run.means.gate) }
    }

    pub(super) fn look<'s>(&'s self, run: &'s Run<'_>, tools: &'s Tools) -> Look<'s> {
        Look {
            connection: &self.settings.connection,
            tools,
            version_table: &run.means.gate.version_table,
            version_column: &run.means.gate.version_column,
            progress: run.means.progress,
        }
    }

    /// What it is put back from.
    pub(super) fn put_back_from(&self) -> Option<&Entry> {
        self.entry_at_point.as_ref().or(self.entry.as_ref())
    }

    /// Whether it is another one than before, as far as is known.
    pub(super) fn may_be_changed(&self) -> bool {
        self.facts.classified.as_ref().is_none_or(combine::is_to_be_put_back)
    }

    pub(super) async fn drop_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            // What is left of a scratch cluster is swept by the next run.
            let _ = copy.remove().await;
        }
    }

    /// The catalog's entry of its snapshot.
    pub(super) async fn find_entry(&self, run: &Run<'_>) -> Result<Option<Entry>, JobError> {
        let Some(snapshot) = &self.facts.snapshot else { return Ok(None) };
        let listing = run.means.catalog.list().await?;
        Ok(listing.entries.into_iter().find(|entry| entry.manifest.id == snapshot.id))
    }
}

//! `belay restore --at`: the database as it was at a moment, recovered with its cluster.

use std::sync::Arc;

use super::{Ground, RestoreArgs, destination};
use crate::cli::progress::shown;
use crate::cli::recover::plan::RecoveryPlan;
use crate::cli::report::{Failure, Report};
use crate::cli::{Global, audit, clock, recorded, wal};
use crate::jobs::recover::{self, Choice, Moment, Recovered, Stock};
use crate::jobs::restore::plan;
use crate::jobs::{JobError, Progress};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::postgres::session;
use crate::rules::recovery::Wanted;

impl Ground {
    /// Says how the cluster would be recovered to `wanted`, from which the database would be taken.
    pub(super) async fn plan_at(
        &self,
        args: &RestoreArgs,
        title: &str,
        wanted: &Wanted,
    ) -> Result<Report, Failure> {
        let state = &self.state_directory;
        let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(title))?;
        let stock = Stock::read_settled(&self.catalog, Some(&self.opener), wal::shipped(state))
            .await
            .map_err(Failure::of(title))?;
        let planned = stock.plan(&self.catalog, wanted, self.choice(args)).await;
        let (plan, base) = planned.map_err(Failure::of(title))?;
        let scratch = state.join("scratch");
        let mut planned = RecoveryPlan::of(&self.catalog, &plan, &base, wanted, &scratch).await?;
        planned.refusals.extend(self.what_speaks_against(args).await.map_err(Failure::of(title))?);
        let tables: Vec<String> = args.tables.iter().map(ToString::to_string).collect();
        let whose = match (tables.as_slice(), &args.into) {
            ([], Some(name)) => format!("{} as {name}", args.database),
            ([], None) => format!("{} in place of the live one", args.database),
            (tables, _) => format!("{} of {}", tables.join(", "), args.database),
        };
        Ok(planned.report(&format!("in the scratch directory, and restore {whose} from there")))
    }

    /// What of the repository the moment is recovered from, as far as the arguments say it.
    fn choice<'a>(&'a self, args: &'a RestoreArgs) -> Choice<'a> {
        let database = Some(self.database.connection.database.as_str());
        Choice { database, timeline: args.timeline, base: args.base.as_ref() }
    }

    /// Puts the database as it was at `wanted` in place of the repository's snapshots.
    pub(super) async fn at(
        &mut self,
        global: &Global,
        title: &str,
        wanted: &Wanted,
        args: &RestoreArgs,
    ) -> Result<Recovered, Failure> {
        // Before what takes long.
        let reasons = self.what_speaks_against(args).await.map_err(Failure::of(title))?;
        if !reasons.is_empty() {
            let action = format!("restore into {}", destination(args, self).name());
            return Err(Failure::of(title)(JobError::Refused { action, reasons }));
        }
        let state = &self.state_directory;
        let ledger =
            Ledger::open(&state.join("ledger.sqlite")).await.map_err(Failure::of("open the ledger"))?;
        let (progress, scratch_directory) = (Arc::new(Progress::default()), state.join("scratch"));
        let means = recover::Means {
            catalog: &self.catalog,
            opener: &self.opener,
            bin_directory: self.bin_directory.as_deref(),
            path: &self.path,
            scratch_directory: &scratch_directory,
            progress: &progress,
        };
        // Retention must not take what is about to be read.
        let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(title))?;
        let stock = Stock::read_settled(&self.catalog, Some(&self.opener), wal::shipped(state))
            .await
            .map_err(Failure::of(title))?;
        let name = self.database.connection.database.clone();
        let planned = stock.plan(&self.catalog, wanted, self.choice(args)).await;
        let (plan, base) = planned.map_err(Failure::of(title))?;
        audit::note(&ledger, audit::KEY_USE, (Some(&name), Some(base.id.as_str())), "to recover").await?;
        let subject = |moment: &Moment| moment.recovered.base.to_string();
        let work = recorded(&ledger, JobKind::Recover, Some(&name), title, subject, async {
            let databases = [&self.database];
            let work = Box::pin(recover::databases_at(&means, &stock, &plan, &base, &databases, clock::now));
            shown(global, title, &progress, work).await.map_err(Failure::of(title))
        });
        let moment = work.await?;
        let recovered = moment.recovered.clone();
        (self.catalog, self.opener) = (moment.catalog.clone(), moment.opener.clone());
        self.moment = Some(moment);
        Ok(recovered)
    }

    /// What speaks against the restore, as far as it can be told before there is anything to restore.
    async fn what_speaks_against(&self, args: &RestoreArgs) -> Result<Vec<String>, JobError> {
        let connection = &self.database.connection;
        if args.tables.is_empty() {
            return plan::what_speaks_against(&destination(args, self), connection).await;
        }
        let into = args.into.as_ref().unwrap_or(&connection.database);
        session::close(session::connect(&connection.with_database(into)).await?).await?;
        Ok(Vec::new())
    }
}

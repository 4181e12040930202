//! What is asked for over HTTP: begun if there is room for it, refused with the reason if not.

use super::Daemon;
use super::errand::{Errand, Ordered};
use crate::http::{Answer, Order, Task};
use crate::jobs::due::Work;
use crate::ledger::JobKind;
use crate::ledger::lock::{LockName, StateLock};

impl Daemon {
    /// Begins what is ordered, or says why not.
    pub(super) fn take(&mut self, order: Order) {
        let work = Work { kind: order.task.kind(), database: Some(order.database) };
        let errand = Errand::Ordered(Ordered { work, task: order.task, by: order.by });
        let answer = self.answer_to(&errand);
        if answer == Answer::Begun {
            self.begin(errand);
        }
        // Who did not wait for the answer sees in the status what became of it.
        let _ = order.answer.send(answer);
    }

    fn answer_to(&self, errand: &Errand) -> Answer {
        let Errand::Ordered(Ordered { work, task, .. }) = errand else { return Answer::Busy };
        let is_same = |running: &Errand| match running {
            Errand::Ordered(other) => other.work == *work && other.task == *task,
            Errand::Work(other) => other == work && *task == Task::Snapshot,
            _ => false,
        };
        let running: Vec<&Errand> = self.running.values().filter(|errand| errand.work().is_some()).collect();
        if running.iter().any(|errand| is_same(errand)) {
            return Answer::Running;
        }
        if !self.may_begin(work) {
            let is_full = running.len() >= self.ground.host.settings.daemon.jobs;
            return if is_full { Answer::Full } else { Answer::Busy };
        }
        if self.is_locked(work) { Answer::Busy } else { Answer::Begun }
    }

    /// Whether another process holds what the work would need; it may still come to hold it before
    /// the work has it, and then the work fails.
    fn is_locked(&self, work: &Work) -> bool {
        let state = &self.ground.host.settings.state.directory;
        let repository = || StateLock::shared(state, &LockName::repository()).is_err();
        let database = |name: &String| StateLock::exclusive(state, &LockName::database(name)).is_err();
        repository() || (work.kind == JobKind::Snapshot && work.database.as_ref().is_some_and(database))
    }
}

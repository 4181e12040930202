//! The rows of the version table, as each step of Alembic changes them.
//!
//! Comes in: rows and a step. Goes out: rows, or what Alembic would stumble over.

use std::collections::BTreeSet;

use super::history::{History, Node, Way};
use super::target::Unclear;

/// The ids in the version table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows(BTreeSet<String>);

impl Rows {
    pub(super) fn new(current: &[String]) -> Self {
        Self(current.iter().cloned().collect())
    }

    pub(super) fn into_sorted(self) -> Vec<String> {
        self.0.into_iter().collect()
    }

    fn has(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// Takes rows away and puts others in.
    fn replace<'a>(
        &mut self,
        taken: impl IntoIterator<Item = &'a str>,
        put: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Unclear> {
        for id in taken {
            if !self.0.remove(id) {
                return Err(Unclear(format!("the version table has no row {id} to replace")));
            }
        }
        for id in put {
            if !self.0.insert(id.into()) {
                return Err(Unclear(format!("the version table has row {id} already")));
            }
        }
        Ok(())
    }

    /// What lies below the rows other than `excepted`.
    fn below_others<'a>(
        &self,
        history: &'a History,
        excepted: &[&str],
    ) -> Result<BTreeSet<&'a str>, Unclear> {
        let others: Vec<String> =
            self.0.iter().filter(|id| !excepted.contains(&id.as_str())).cloned().collect();
        Ok(history.ancestors(history.all(&others)?.into_iter().map(Node::id)))
    }

    /// After the revision was applied.
    pub(super) fn upgrade(&mut self, history: &History, node: &Node) -> Result<(), Unclear> {
        let down: Vec<&str> = node.nearest_down.iter().map(String::as_str).collect();
        let present: Vec<&str> = down.iter().copied().filter(|id| self.has(id)).collect();
        let replaced = match present.as_slice() {
            [] => Vec::new(),
            [one] => vec![*one],
            _ => {
                let needed = self.below_others(history, &down)?;
                down.into_iter().filter(|id| !needed.contains(id)).collect()
            }
        };
        self.replace(replaced, [node.id()])
    }

    /// After the revision was undone.
    pub(super) fn downgrade(&mut self, history: &History, node: &Node) -> Result<(), Unclear> {
        let down = node.nearest_down.iter().map(String::as_str);
        let needed: BTreeSet<&str> = if self.0.len() > 1 {
            self.below_others(history, &[node.id()])?
        } else {
            // Of what comes back, only what nothing else that comes back implies.
            let strictly_below = |id: &'_ str| {
                let mut below = history.related([id], Way::DownAndDependencies);
                below.retain(|other| *other != id);
                below.into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            let implied: BTreeSet<String> = down.clone().flat_map(strictly_below).collect();
            down.clone().filter(|id| implied.contains(*id)).collect()
        };
        self.replace([node.id()], down.filter(|id| !needed.contains(id)))
    }

    /// After `stamp` put `destination` in the place of `in_line`, the rows of the same line.
    pub(super) fn stamp(
        &mut self,
        history: &History,
        in_line: &[&str],
        destination: &Node,
    ) -> Result<(), Unclear> {
        let id = destination.id();
        let related = |way| history.related([id], way);
        let (above, below) = (related(Way::UpAndDependents), related(Way::DownAndDependencies));
        let has_any_of = |ids: &BTreeSet<&str>| in_line.iter().any(|row| ids.contains(row));
        // A destination before may have taken the place of them all.
        let is_row_gone = in_line.iter().any(|row| !self.has(row));
        let replaced = match in_line {
            line if line.contains(&id) => return Ok(()),
            _ if has_any_of(&above) && has_any_of(&below) => {
                return Err(Unclear(format!("the version table has rows above and below {id}")));
            }
            line if has_any_of(&above) => line,
            line if has_any_of(&below) && !is_row_gone => line,
            _ => &[],
        };
        self.replace(replaced.iter().copied(), [id])
    }

    /// After `stamp base` took these rows away.
    pub(super) fn remove(&mut self, rows: &[&str]) -> Result<(), Unclear> {
        self.replace(rows.iter().copied(), [])
    }
}

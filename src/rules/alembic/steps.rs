//! Which revisions a command runs, and in which order, as Alembic selects and sorts them.

use std::collections::BTreeSet;

use super::history::{History, Node, Way};
use super::target::{Line, Spot, Unclear};

/// A path down that is being walked, with all that lies below its point.
struct Path<'a> {
    at: &'a str,
    below: BTreeSet<&'a str>,
}

impl History {
    /// What `upgrade TARGET` runs, first one first.
    pub(super) fn upgrades(&self, target: &str, current: &[String]) -> Result<Vec<&Node>, Unclear> {
        let targets = ids(self.upgrade_targets(target, current)?);
        let rows = ids(self.all(current)?);
        self.refuse_overlap(&targets)?;
        self.refuse_overlap(&rows)?;
        let applied = self.ancestors(rows);
        let mut needed = self.ancestors(targets.iter().copied());
        needed.retain(|id| !applied.contains(id));
        let mut sorted = self.sorted(needed, &targets)?;
        sorted.reverse();
        Ok(sorted)
    }

    /// What `downgrade TARGET` undoes, first one first.
    pub(super) fn downgrades(&self, target: &str, current: &[String]) -> Result<Vec<&Node>, Unclear> {
        let (label, spot) = self.downgrade_target(target, current)?;
        let is_base = |node: &&Node| node.revision.down.is_empty();
        let mut roots: Vec<&str> = match spot {
            Spot::At(node) => node.next.iter().map(String::as_str).collect(),
            Spot::Base | Spot::Nowhere => self.nodes_in_order().filter(is_base).map(Node::id).collect(),
        };
        if let (Some(label), true) = (&label, roots.len() > 1) {
            let branch = self.branch(label)?;
            let line = self.related([branch.id()], Way::Down);
            roots.retain(|root| line.contains(root));
            if roots.is_empty() {
                return Err(Unclear("Not a valid downgrade target from current heads".into()));
            }
        }
        let rows = ids(self.all(current)?);
        let applied = self.ancestors(rows.iter().copied());
        let mut dropped = self.related(roots, Way::UpAndDependents);
        dropped.retain(|id| applied.contains(id));
        match spot {
            Spot::At(node) if dropped.is_empty() && !rows.contains(&node.id()) => Err(Unclear(format!(
                "Destination {target} is not a valid downgrade target from current head(s)"
            ))),
            _ => self.sorted(dropped, &rows),
        }
    }

    /// Alembic refuses revisions of which one has another below it.
    fn refuse_overlap(&self, requested: &[&str]) -> Result<(), Unclear> {
        for id in requested {
            let below = self.ancestors([*id]);
            let overlapping = requested.iter().find(|other| *other != id && below.contains(*other));
            if let Some(other) = overlapping {
                let text = format!("Requested revision {id} overlaps with other requested revisions {other}");
                return Err(Unclear(text));
            }
        }
        Ok(())
    }

    /// Sorts revisions so that each comes before what it follows. Branches are walked one after
    /// the other, in the order of their files, as far as no other depends on them.
    fn sorted<'a>(&'a self, mut left: BTreeSet<&'a str>, heads: &[&str]) -> Result<Vec<&'a Node>, Unclear> {
        let is_start = |node: &&Node| heads.contains(&node.id()) && left.contains(node.id());
        let starts = self.nodes_in_order().filter(is_start).map(Node::id);
        let mut paths: Vec<Path<'_>> = starts.map(|at| self.path(at)).collect();
        let (mut walked, mut sorted) = (0, Vec::new());
        while let Some(node) = paths.get(walked).and_then(|path| self.node(path.at)) {
            let is_above =
                |(number, path): &(usize, &Path<'_>)| *number != walked && path.below.contains(node.id());
            if let Some((number, _)) = paths.iter().enumerate().find(is_above) {
                walked = number;
                continue;
            }
            if left.remove(node.id()) {
                sorted.push(node);
            }
            walked = self.go_down(&mut paths, walked, node, &left);
        }
        if left.is_empty() {
            return Ok(sorted);
        }
        let left: Vec<&str> = left.into_iter().collect();
        Err(Unclear(format!("the version table has no row above {}", left.join(", "))))
    }

    fn path<'a>(&'a self, at: &'a str) -> Path<'a> {
        Path { at, below: self.ancestors([at]) }
    }

    /// Goes on below `node`, which path number `walked` has reached; returns the path to walk next.
    fn go_down<'a>(
        &'a self,
        paths: &mut Vec<Path<'a>>,
        walked: usize,
        node: &'a Node,
        left: &BTreeSet<&str>,
    ) -> usize {
        let is_walked = |id: &str| paths.iter().any(|path| path.at == id);
        let next = node.nearest_down.iter().map(String::as_str);
        let mut next = next.filter(|id| left.contains(id) && !is_walked(id)).collect::<Vec<_>>().into_iter();
        match (next.next(), paths.get_mut(walked)) {
            (Some(first), Some(path)) => {
                *path = self.path(first);
                paths.extend(next.map(|id| self.path(id)));
                walked
            }
            _ => {
                paths.remove(walked);
                walked.saturating_sub(1)
            }
        }
    }

    /// The revisions that `stamp` writes for one name; `-N` goes down from every head.
    pub(super) fn stamp_targets(&self, target: &str) -> Result<Vec<&Node>, Unclear> {
        let steps = target.rsplit_once('@').map_or(target, |(_, symbol)| symbol).parse::<i64>();
        match steps {
            Ok(steps) if steps < 0 && target.contains('@') => {
                Err(Unclear(format!("stamp {target} depends on which labels the heads inherit")))
            }
            Ok(steps) if steps < 0 => {
                let too_far = || Unclear(format!("{target} goes below the first revision"));
                let heads = self.effective_heads().into_iter().filter_map(|id| self.node(id));
                let found = heads.map(|head| match self.walk(Spot::At(head), steps, None)? {
                    Some(Spot::At(node)) => Ok(node),
                    _ => Err(too_far()),
                });
                found.collect()
            }
            _ => self.named(target),
        }
    }

    /// Those of `rows` that `stamp TARGET` replaces.
    pub(super) fn rows_in_line<'a>(
        &'a self,
        rows: &[&'a str],
        target: &str,
    ) -> Result<Vec<&'a str>, Unclear> {
        self.in_line_with(rows.to_vec(), target, Line::AndDependencies)
    }
}

fn ids(nodes: Vec<&Node>) -> Vec<&str> {
    nodes.into_iter().map(Node::id).collect()
}

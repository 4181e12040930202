//! The graph of revisions, as Alembic's `RevisionMap` builds it.
//!
//! Comes in: the revisions of a checkout, in the order of their files. Goes out: heads, relatives,
//! and whether the graph is one that Alembic would load. `target.rs` says what a name means in it.

use std::collections::{BTreeMap, BTreeSet};

use super::Revision;

/// All revisions of a checkout and how they follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Ids in the order of the files, which decides between branches.
    order: Vec<String>,
    nodes: BTreeMap<String, Node>,
    /// From a label to the revision that bears it.
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) revision: Revision,
    /// `down_revision` and `depends_on`, labels resolved.
    all_down: Vec<String>,
    /// The same without dependencies that an ancestor has already.
    pub(super) nearest_down: Vec<String>,
    pub(super) next: Vec<String>,
    all_next: Vec<String>,
}

impl Node {
    pub(super) fn id(&self) -> &str {
        &self.revision.id
    }
}

/// Which way to go from a revision, and whether `depends_on` is a way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Down,
    DownAndDependencies,
    Up,
    UpAndDependents,
}

/// Why revisions make no history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Two scripts have one id.
    #[error("join revisions: {id} is there more than once")]
    Repeated {
        /// The id.
        id: String,
    },
    /// A script names one that is not there.
    #[error("join revisions: {id}, which {named_by} follows, is not there")]
    Absent {
        /// The id, or the label.
        id: String,
        /// The script that names it.
        named_by: String,
    },
    /// A label that is an id too, or that two scripts bear.
    #[error("join revisions: label {label} of {id} is taken")]
    LabelTaken {
        /// The label.
        label: String,
        /// The second that bears it.
        id: String,
    },
    /// Revisions that follow themselves.
    #[error("join revisions: {} follow each other in a circle", ids.join(", "))]
    Circle {
        /// All of them, and what comes after them.
        ids: Vec<String>,
    },
}

impl History {
    /// Joins revisions; give them in the order in which Alembic reads their files.
    ///
    /// # Errors
    /// Every [`HistoryError`] that Alembic refuses to load, and repeated ids, of which it takes one.
    pub fn new(revisions: impl IntoIterator<Item = Revision>) -> Result<Self, HistoryError> {
        let mut history = Self { order: Vec::new(), nodes: BTreeMap::new(), labels: BTreeMap::new() };
        for revision in revisions {
            history.add(revision)?;
        }
        history.add_labels()?;
        for id in history.order.clone() {
            history.join(&id)?;
        }
        history.refuse_circles()?;
        for id in history.order.clone() {
            let nearest_down = history.nearest_down(&id);
            if let Some(node) = history.nodes.get_mut(&id) {
                node.nearest_down = nearest_down;
            }
        }
        Ok(history)
    }

    fn add(&mut self, revision: Revision) -> Result<(), HistoryError> {
        let id = revision.id.clone();
        let [all_down, nearest_down, next, all_next] = [const { Vec::new() }; 4];
        let node = Node { revision, all_down, nearest_down, next, all_next };
        self.order.push(id.clone());
        match self.nodes.insert(id.clone(), node) {
            None => Ok(()),
            Some(_) => Err(HistoryError::Repeated { id }),
        }
    }

    fn add_labels(&mut self) -> Result<(), HistoryError> {
        for node in self.order.iter().filter_map(|id| self.nodes.get(id)) {
            for label in &node.revision.labels {
                let (label, id) = (label.clone(), node.id().to_owned());
                let is_taken = self.nodes.contains_key(&label) || self.labels.contains_key(&label);
                if is_taken {
                    return Err(HistoryError::LabelTaken { label, id });
                }
                self.labels.insert(label, id);
            }
        }
        Ok(())
    }

    /// Resolves what the revision follows, and tells those that it follows.
    fn join(&mut self, id: &str) -> Result<(), HistoryError> {
        let Some(node) = self.nodes.get(id) else { return Ok(()) };
        let absent = |name: &String| HistoryError::Absent { id: name.clone(), named_by: id.into() };
        let down: Vec<String> = node.revision.down.clone();
        let dependencies = self.dependencies(node).map(|(name, found)| found.ok_or_else(|| absent(name)));
        let mut all_down = down.clone();
        for dependency in dependencies.collect::<Result<Vec<_>, _>>()? {
            if !all_down.contains(&dependency) {
                all_down.push(dependency);
            }
        }
        for below in &all_down {
            let node = self.nodes.get_mut(below).ok_or_else(|| absent(below))?;
            node.all_next.push(id.into());
            if down.contains(below) {
                node.next.push(id.into());
            }
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.all_down = all_down;
        }
        Ok(())
    }

    /// Each name in `depends_on` and the id that it means.
    fn dependencies<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (&'a String, Option<String>)> {
        let found = |name: &String| self.exactly(name).map(|node| node.id().to_owned());
        node.revision.depends_on.iter().map(move |name| (name, found(name)))
    }

    fn refuse_circles(&self) -> Result<(), HistoryError> {
        let mut left: BTreeSet<&str> = self.order.iter().map(String::as_str).collect();
        loop {
            let is_free = |id: &&&str| {
                let node = self.nodes.get(**id);
                node.is_some_and(|node| node.all_down.iter().all(|below| !left.contains(below.as_str())))
            };
            let free: Vec<&str> = left.iter().filter(is_free).copied().collect();
            if free.is_empty() {
                break;
            }
            left.retain(|id| !free.contains(id));
        }
        let ids: Vec<String> = left.into_iter().map(Into::into).collect();
        if ids.is_empty() { Ok(()) } else { Err(HistoryError::Circle { ids }) }
    }

    fn nearest_down(&self, id: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(id) else { return Vec::new() };
        let above = self.related([id], Way::Down);
        let elders = above.iter().filter(|other| **other != id).filter_map(|other| self.nodes.get(*other));
        let had: BTreeSet<String> =
            elders.flat_map(|elder| self.dependencies(elder)).filter_map(|(_, id)| id).collect();
        let is_near = |below: &&String| node.revision.down.contains(below) || !had.contains(*below);
        node.all_down.iter().filter(is_near).cloned().collect()
    }

    /// The revision with this full id.
    pub fn revision(&self, id: &str) -> Option<&Revision> {
        self.nodes.get(id).map(|node| &node.revision)
    }

    /// Every revision, in the order of their files.
    pub fn revisions(&self) -> impl Iterator<Item = &Revision> {
        self.order.iter().filter_map(|id| self.revision(id))
    }

    /// What no `down_revision` names, as `alembic heads` lists it.
    pub fn heads(&self) -> Vec<&str> {
        self.nodes_in_order().filter(|node| node.next.is_empty()).map(Node::id).collect()
    }

    /// What nothing follows or depends on: the rows of the version table after `upgrade heads`.
    pub fn effective_heads(&self) -> Vec<&str> {
        self.nodes_in_order().filter(|node| node.all_next.is_empty()).map(Node::id).collect()
    }

    /// These revisions and all that they follow or depend on; unknown ids are passed over.
    pub fn ancestors<'a>(&'a self, ids: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        self.related(ids, Way::DownAndDependencies)
    }

    pub(super) fn nodes_in_order(&self) -> impl Iterator<Item = &Node> {
        self.order.iter().filter_map(|id| self.nodes.get(id))
    }

    pub(super) fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The revision with this id or label.
    pub(super) fn exactly(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.labels.get(name).map_or(name, String::as_str))
    }

    /// Every id and every label.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().chain(self.labels.keys()).map(String::as_str)
    }

    pub(super) fn related<'a>(
        &'a self,
        ids: impl IntoIterator<Item = &'a str>,
        way: Way,
    ) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut left: Vec<&str> = ids.into_iter().collect();
        while let Some(node) = left.pop().and_then(|id| self.nodes.get(id)) {
            if found.insert(node.id()) {
                let next = match way {
                    Way::Down => &node.revision.down,
                    Way::DownAndDependencies => &node.all_down,
                    Way::Up => &node.next,
                    Way::UpAndDependents => &node.all_next,
                };
                left.extend(next.iter().map(String::as_str));
            }
        }
        found
    }
}

//! What the target of a command means: Alembic's ways to name a revision.
//!
//! Comes in: a target as it is written behind `alembic upgrade`, and the rows of the version table.
//! Goes out: revisions, or the reason why Alembic would refuse. The rules are those of
//! `alembic/script/revision.py` 1.20; where it takes the first row that the database happens to
//! give, the answer here is a refusal.

use super::history::{History, Node, Way};

/// Why it cannot be told what a command does; mostly because Alembic refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unclear(pub String);

/// A place that steps through the history lead to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spot<'a> {
    /// Not stepped from anywhere yet.
    Nowhere,
    At(&'a Node),
    /// Below every revision.
    Base,
}

/// `label@symbol+steps`
struct Relative<'a> {
    label: Option<&'a str>,
    symbol: Option<&'a str>,
    steps: i64,
    /// The steps as written.
    written: &'a str,
}

impl Relative<'_> {
    fn is_too_far(&self) -> Unclear {
        let written = self.written;
        Unclear(format!("Relative revision {written} didn't produce {} migrations", self.steps.abs()))
    }
}

fn walked_too_far() -> Unclear {
    Unclear("Walked too far".into())
}

impl History {
    /// The ids that `target` means: an id or its beginning of four characters or more, a label,
    /// `head`, `heads`, `base` (none), `current`, each with `label@` before or `+N`, `-N` behind.
    ///
    /// # Errors
    /// [`Unclear`] with what Alembic says.
    pub fn resolve(&self, target: &str, current: &[String]) -> Result<Vec<String>, Unclear> {
        let ids = |nodes: Vec<&Node>| nodes.into_iter().map(|node| node.id().to_owned()).collect();
        match relative(target) {
            _ if target == "current" => Ok(ids(self.all(current)?)),
            Some(by) if by.steps < 0 => match self.downgrade_target(target, current)? {
                (_, Spot::At(node)) => Ok(ids(vec![node])),
                (_, Spot::Base | Spot::Nowhere) => Ok(Vec::new()),
            },
            _ => Ok(ids(self.upgrade_targets(target, current)?)),
        }
    }

    /// The revisions of several names, one after the other.
    pub(super) fn all(&self, names: &[String]) -> Result<Vec<&Node>, Unclear> {
        let found: Vec<_> = names.iter().map(|name| self.named(name)).collect::<Result<_, _>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The revisions of a name without steps.
    pub(super) fn named(&self, name: &str) -> Result<Vec<&Node>, Unclear> {
        let (ids, label) = self.identified(name)?;
        ids.into_iter().map(|id| self.of_branch(id, label)).collect()
    }

    /// The one revision of a name without steps; none for `base`.
    fn one_named(&self, name: &str) -> Result<Option<&Node>, Unclear> {
        let found = self.named(name)?;
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(self.several_heads(name)),
        }
    }

    fn several_heads(&self, name: &str) -> Unclear {
        Unclear(format!(
            "Multiple head revisions are present for given argument '{name}'; please specify a specific target \
             revision, '<branchname>@{name}' to narrow to a specific head, or 'heads' for all heads"
        ))
    }

    /// The ids, perhaps partial, that a name stands for, and the label before them.
    fn identified<'a>(&'a self, name: &'a str) -> Result<(Vec<&'a str>, Option<&'a str>), Unclear> {
        let (label, symbol) = match name.split_once('@') {
            Some((label, symbol)) => (Some(label), symbol),
            None => (None, name),
        };
        let heads_of = |label: Option<&str>| match label {
            Some(label) => self.in_line_with(self.heads(), label, Line::Own),
            None => Ok(self.heads()),
        };
        let ids = match symbol {
            "heads" if label.is_none() => self.effective_heads(),
            "heads" => heads_of(label)?,
            "head" => match heads_of(label)? {
                several if several.len() > 1 => return Err(self.several_heads(name)),
                heads => heads,
            },
            "base" => Vec::new(),
            id => vec![id],
        };
        Ok((ids, label))
    }

    /// The revision of an id, which may be partial, if the branch has it.
    fn of_branch(&self, id: &str, label: Option<&str>) -> Result<&Node, Unclear> {
        let node = match self.exactly(id) {
            Some(node) => node,
            None => self.partly_named(id, label)?,
        };
        let Some(label) = label else { return Ok(node) };
        if self.shares_line(node, &[self.branch(label)?], Line::Own) {
            return Ok(node);
        }
        Err(Unclear(format!("Revision {} is not a member of branch '{label}'", node.id())))
    }

    fn partly_named(&self, id: &str, label: Option<&str>) -> Result<&Node, Unclear> {
        let mut found: Vec<&str> =
            self.names().filter(|name| name.chars().count() > 3 && name.starts_with(id)).collect();
        if let Some(label) = label {
            found = self.in_line_with(found, label, Line::Own)?;
        }
        match found.as_slice() {
            [one] => self.exactly(one).ok_or_else(|| not_there(id)),
            [] => Err(not_there(id)),
            several => {
                let several: Vec<_> = several.iter().take(3).map(|id| format!("'{id}'")).collect();
                Err(Unclear(format!("Multiple revisions start with '{id}': {}...", several.join(", "))))
            }
        }
    }

    /// The revision that stands for a branch: the one with the label, or any by its id.
    pub(super) fn branch(&self, label: &str) -> Result<&Node, Unclear> {
        match self.exactly(label) {
            Some(node) => Ok(node),
            None => self.of_branch(label, None).map_err(|_| Unclear(format!("No such branch: '{label}'"))),
        }
    }

    /// Those names whose revisions come before or after what `against` names; all, if it is `base`.
    pub(super) fn in_line_with<'a>(
        &'a self,
        names: Vec<&'a str>,
        against: &str,
        line: Line,
    ) -> Result<Vec<&'a str>, Unclear> {
        let (ids, label) = self.identified(against)?;
        if names.is_empty() {
            return Ok(names);
        }
        let against = label.into_iter().chain(ids).map(|id| self.of_branch(id, None));
        let against: Vec<&Node> = against.collect::<Result<_, _>>()?;
        let mut kept = Vec::new();
        for name in names {
            if against.is_empty() || self.shares_line(self.of_branch(name, None)?, &against, line) {
                kept.push(name);
            }
        }
        Ok(kept)
    }

    fn shares_line(&self, node: &Node, against: &[&Node], line: Line) -> bool {
        let (down, up) = match line {
            Line::Own => (Way::Down, Way::Up),
            Line::AndDependencies => (Way::DownAndDependencies, Way::UpAndDependents),
        };
        let (below, above) = (self.related([node.id()], down), self.related([node.id()], up));
        against.iter().any(|other| below.contains(other.id()) || above.contains(other.id()))
    }

    /// Goes `steps` up, or down if negative; `None` where the history ends before.
    pub(super) fn walk<'a>(
        &'a self,
        start: Spot<'a>,
        steps: i64,
        label: Option<&str>,
    ) -> Result<Option<Spot<'a>>, Unclear> {
        let mut spot = start;
        for _ in 0..steps.unsigned_abs() {
            let next = if steps > 0 { self.above(spot, label)? } else { self.below(spot) };
            match next.as_slice() {
                [] => return Ok(None),
                [one] => spot = *one,
                _ => return Err(Unclear("Ambiguous walk".into())),
            }
        }
        Ok(Some(spot))
    }

    fn above(&self, spot: Spot<'_>, label: Option<&str>) -> Result<Vec<Spot<'_>>, Unclear> {
        let mut ids: Vec<&str> = match spot {
            Spot::At(node) => self
                .node(node.id())
                .map(|node| node.next.iter().map(String::as_str).collect())
                .unwrap_or_default(),
            Spot::Nowhere | Spot::Base => {
                let is_base = |node: &&Node| node.revision.down.is_empty();
                self.nodes_in_order().filter(is_base).map(Node::id).collect()
            }
        };
        if let Some(label) = label {
            ids = self.in_line_with(ids, label, Line::Own)?;
        }
        Ok(ids.into_iter().filter_map(|id| self.node(id)).map(Spot::At).collect())
    }

    fn below<'a>(&'a self, spot: Spot<'a>) -> Vec<Spot<'a>> {
        let ids: Vec<&str> = match spot {
            Spot::Base => return Vec::new(),
            Spot::Nowhere => self.heads(),
            Spot::At(node) => node.revision.down.iter().map(String::as_str).collect(),
        };
        if ids.is_empty() {
            return vec![Spot::Base];
        }
        ids.into_iter().filter_map(|id| self.node(id)).map(Spot::At).collect()
    }

    /// What `upgrade TARGET` goes to.
    pub(super) fn upgrade_targets(&self, target: &str, current: &[String]) -> Result<Vec<&Node>, Unclear> {
        let Some(by) = relative(target) else { return self.named(target) };
        let start = match by.symbol {
            None if by.steps <= 0 => return Err(by.is_too_far()),
            None => self.start_of_upgrade(by.label, current)?,
            Some(symbol) if by.steps > 0 => self.spot_of(symbol)?,
            Some(symbol) => self.spot_of(&labelled(by.label, symbol))?,
        };
        match self.walk(start, by.steps, by.label)? {
            Some(Spot::At(node)) => Ok(vec![node]),
            _ => Err(by.is_too_far()),
        }
    }

    fn spot_of(&self, name: &str) -> Result<Spot<'_>, Unclear> {
        Ok(self.one_named(name)?.map_or(Spot::Nowhere, Spot::At))
    }

    /// Where `+N` starts: at the one current revision, or the one that is on the branch.
    fn start_of_upgrade(&self, label: Option<&str>, current: &[String]) -> Result<Spot<'_>, Unclear> {
        let rows = self.all(current)?;
        let mut starts: Vec<&str> = rows.iter().map(|node| node.id()).collect();
        if let (Some(label), false) = (label, starts.is_empty()) {
            let on_branch = self.in_line_with(starts.clone(), label, Line::Own)?;
            starts = if on_branch.is_empty() { self.tips_on(label, starts)? } else { on_branch };
        }
        match starts.as_slice() {
            [] => Ok(Spot::Nowhere),
            [one] => Ok(self.node(one).map_or(Spot::Nowhere, Spot::At)),
            _ => Err(Unclear("Ambiguous upgrade from multiple current revisions".into())),
        }
    }

    /// The newest revisions of a branch among what is applied.
    fn tips_on<'a>(&'a self, label: &str, current: Vec<&'a str>) -> Result<Vec<&'a str>, Unclear> {
        let applied = self.ancestors(current).into_iter().collect();
        let applied = self.in_line_with(applied, label, Line::Own)?;
        let below = applied.iter().filter_map(|id| self.node(id)).flat_map(|node| &node.nearest_down);
        let below: Vec<&String> = below.collect();
        Ok(applied.into_iter().filter(|id| !below.iter().any(|other| other == id)).collect())
    }

    /// What `downgrade TARGET` goes to, and the branch that it stays on.
    pub(super) fn downgrade_target(
        &self,
        target: &str,
        current: &[String],
    ) -> Result<(Option<String>, Spot<'_>), Unclear> {
        let Some(by) = relative(target) else {
            let (label, symbol) = match target.rsplit_once('@') {
                Some((label, symbol)) => (Some(label.to_owned()).filter(|label| !label.is_empty()), symbol),
                None => (None, target),
            };
            return Ok((label, self.one_named(symbol)?.map_or(Spot::Base, Spot::At)));
        };
        let label = by.label.map(str::to_owned);
        let (label, found) = match by.symbol {
            None if by.steps >= 0 => return Err(by.is_too_far()),
            Some(symbol) if by.steps >= 0 => {
                let found = self.walk(self.spot_of(symbol)?, by.steps, by.label)?;
                (label, found.ok_or_else(walked_too_far)?)
            }
            Some(symbol) => {
                let start = self.spot_of(&labelled(by.label, symbol))?;
                (label, self.walk(start, by.steps, None)?.ok_or_else(walked_too_far)?)
            }
            None => {
                let start = self.start_of_downgrade(&by, current)?;
                let label = label.or_else(|| Some(start.to_owned()));
                let start = self.spot_of(&labelled(label.as_deref(), start))?;
                (label, self.walk(start, by.steps, None)?.ok_or_else(|| by.is_too_far())?)
            }
        };
        match found {
            Spot::Nowhere => Err(walked_too_far()),
            spot => Ok((label, spot)),
        }
    }

    fn start_of_downgrade<'a>(
        &'a self,
        by: &Relative<'_>,
        current: &'a [String],
    ) -> Result<&'a str, Unclear> {
        let rows: Vec<&str> = current.iter().map(String::as_str).collect();
        let starts = match by.label {
            None => rows,
            Some(label) => match self.in_line_with(rows, label, Line::Own)? {
                none if none.is_empty() => self.applied_tips_on(label, current)?,
                found => found,
            },
        };
        match starts.as_slice() {
            [] => Err(by.is_too_far()),
            [one] => Ok(one),
            // Alembic takes the first row that the database happens to give.
            _ => Err(Unclear(format!("downgrade {} from multiple heads is ambiguous", by.written))),
        }
    }

    /// What is applied on a branch and has nothing of its own line applied above it.
    fn applied_tips_on<'a>(&'a self, label: &str, current: &'a [String]) -> Result<Vec<&'a str>, Unclear> {
        let rows = self.all(current)?;
        let applied = self.ancestors(rows.into_iter().map(Node::id));
        let is_tip = |id: &&str| self.related([*id], Way::Up).intersection(&applied).all(|other| other == id);
        let tips = applied.iter().copied().filter(is_tip).collect();
        self.in_line_with(tips, label, Line::Own)
    }
}

/// Which relatives count as of one line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line {
    Own,
    AndDependencies,
}

fn not_there(id: &str) -> Unclear {
    Unclear(format!("Can't locate revision identified by '{id}'"))
}

fn labelled(label: Option<&str>, symbol: &str) -> String {
    label.map_or_else(|| symbol.to_owned(), |label| format!("{label}@{symbol}"))
}

/// Reads `(?:(.+?)@)?(\w+)?([+-]\d+)` at the beginning of a target.
fn relative(target: &str) -> Option<Relative<'_>> {
    let behind_labels =
        target.match_indices('@').filter(|(at, _)| *at > 0).map(|(at, _)| target.split_at(at));
    let labelled = behind_labels.map(|(label, rest)| (Some(label), rest.get(1..).unwrap_or_default()));
    labelled.chain([(None, target)]).find_map(|(label, rest)| {
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (symbol, steps) = rest.split_at(length);
        let digits = steps.strip_prefix(['+', '-'])?;
        let count = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let written = steps.get(..=count)?;
        let steps = written.parse().ok()?;
        Some(Relative { label, symbol: Some(symbol).filter(|symbol| !symbol.is_empty()), steps, written })
    })
}

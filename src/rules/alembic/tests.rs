use proptest::prelude::*;
use rstest::rstest;
use serde::Deserialize;

use super::*;

/// What Alembic 1.20.1 itself did with histories and targets that were drawn by lot.
const ANSWERS: &str = include_str!("answers.json");

#[derive(Deserialize)]
struct Drawn {
    revisions: Vec<DrawnRevision>,
    heads: Vec<String>,
    effective_heads: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct DrawnRevision {
    id: String,
    down: Vec<String>,
    depends_on: Vec<String>,
    labels: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Case {
    action: String,
    targets: Vec<String>,
    current: Vec<String>,
    #[serde(default)]
    purge: bool,
    #[serde(default)]
    refused: bool,
    #[serde(default)]
    rows: Vec<String>,
    #[serde(default)]
    pending: Vec<String>,
}

fn revision(id: &str, down: &[&str]) -> Revision {
    let down = down.iter().map(|id| (*id).to_owned()).collect();
    let id = id.to_owned();
    Revision {
        id,
        down,
        depends_on: Vec::new(),
        labels: Vec::new(),
        doc: String::new(),
        breaking: None,
        upgrades_nothing: false,
        downgrades_nothing: false,
    }
}

/// a1 ← b1 ← c1 and a1 ← b2, with b2 labelled `side`.
fn branched() -> History {
    let mut side = revision("bbb2", &["aaa1"]);
    side.labels.push("side".into());
    let others = [revision("aaa1", &[]), revision("bbb1", &["aaa1"]), revision("ccc1", &["bbb1"])];
    History::new(others.into_iter().chain([side])).unwrap()
}

fn intent(action: Action) -> Intent {
    let section = "alembic".into();
    Intent { configs: Vec::new(), section, arguments: Vec::new(), action, is_offline: false }
}

fn texts(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn upgrade(history: &History, target: &str, current: &[&str]) -> Result<Expected, Unclear> {
    expected(&intent(Action::Upgrade(target.into())), history, &texts(current))
}

fn outcome(pending: &[&str], rows: &[&str]) -> Expected {
    Expected { rows: texts(rows), pending: texts(pending) }
}

#[test]
fn answers_are_those_of_alembic_itself() {
    let drawn: Vec<Drawn> = serde_json::from_str(ANSWERS).unwrap();
    assert!(drawn.len() > 10);
    for Drawn { revisions, heads, effective_heads, cases } in drawn {
        let revisions = revisions.into_iter().map(|drawn| {
            let DrawnRevision { id, down, depends_on, labels } = drawn;
            Revision {
                id,
                down,
                depends_on,
                labels,
                doc: String::new(),
                breaking: None,
                upgrades_nothing: false,
                downgrades_nothing: false,
            }
        });
        let history = History::new(revisions).unwrap();
        assert_eq!(history.heads(), heads);
        assert_eq!(history.effective_heads(), effective_heads);
        for case in cases {
            let action = match case.action.as_str() {
                "upgrade" => Action::Upgrade(case.targets[0].clone()),
                "downgrade" => Action::Downgrade(case.targets[0].clone()),
                _ => Action::Stamp { targets: case.targets.clone(), is_purging: case.purge },
            };
            let found = expected(&intent(action), &history, &case.current);
            let wanted = Expected { rows: case.rows.clone(), pending: case.pending.clone() };
            assert_eq!(found.clone().ok(), (!case.refused).then_some(wanted), "{case:?}: {found:?}");
        }
    }
}

#[test]
fn an_upgrade_runs_what_is_missing_below_its_target() {
    let history = branched();
    assert_eq!(upgrade(&history, "ccc1", &[]), Ok(outcome(&["aaa1", "bbb1", "ccc1"], &["ccc1"])));
    assert_eq!(upgrade(&history, "heads", &["bbb1"]), Ok(outcome(&["bbb2", "ccc1"], &["bbb2", "ccc1"])));
    assert_eq!(upgrade(&history, "+1", &["bbb1"]), Ok(outcome(&["ccc1"], &["ccc1"])));
    assert_eq!(upgrade(&history, "side@head", &["ccc1"]), Ok(outcome(&["bbb2"], &["bbb2", "ccc1"])));
    assert_eq!(upgrade(&history, "aaa1", &["ccc1"]), Ok(outcome(&[], &["ccc1"])));
}

#[test]
fn head_among_several_is_refused_as_alembic_says_it() {
    let refused = upgrade(&branched(), "head", &["aaa1"]).unwrap_err();
    assert!(
        refused.0.starts_with("Multiple head revisions are present for given argument 'head'"),
        "{refused}"
    );
}

#[test]
fn a_row_that_is_no_revision_of_the_checkout_is_refused() {
    let refused = upgrade(&branched(), "heads", &["gone"]).unwrap_err();
    assert_eq!(refused.0, "Can't locate revision identified by 'gone'");
}

#[test]
fn a_merge_leaves_one_row() {
    let history = History::new(branched().revisions().cloned().chain([revision("ddd1", &["ccc1", "bbb2"])]));
    let history = history.unwrap();
    let head = upgrade(&history, "head", &["aaa1"]).unwrap();
    assert_eq!(head, outcome(&["bbb2", "bbb1", "ccc1", "ddd1"], &["ddd1"]));
    let back = expected(&intent(Action::Downgrade("bbb2".into())), &history, &texts(&["ddd1"]));
    assert_eq!(back, Ok(outcome(&["ddd1"], &["bbb2", "ccc1"])));
}

#[test]
fn a_downgrade_by_steps_from_several_rows_is_not_guessed() {
    let action = Action::Downgrade("-1".into());
    assert!(expected(&intent(action), &branched(), &texts(&["bbb2", "ccc1"])).is_err());
}

#[test]
fn a_stamp_runs_nothing() {
    let stamp = |targets: &[&str], is_purging, current: &[&str]| {
        let action = Action::Stamp { targets: texts(targets), is_purging };
        expected(&intent(action), &branched(), &texts(current)).unwrap()
    };
    assert_eq!(stamp(&["ccc1"], false, &["aaa1"]), outcome(&[], &["ccc1"]));
    assert_eq!(stamp(&["heads"], false, &[]), outcome(&[], &["bbb2", "ccc1"]));
    assert_eq!(stamp(&["aaa1"], true, &["gone"]), outcome(&[], &["aaa1"]));
    assert_eq!(stamp(&["base"], false, &["bbb2", "ccc1"]), outcome(&[], &[]));
}

#[test]
fn a_stamp_between_two_rows_is_refused() {
    let action = Action::Stamp { targets: texts(&["bbb1"]), is_purging: false };
    assert!(expected(&intent(action), &branched(), &texts(&["aaa1", "ccc1"])).is_err());
}

#[test]
fn printed_sql_changes_nothing() {
    let offline = Intent { is_offline: true, ..intent(Action::Upgrade("base:head".into())) };
    assert_eq!(expected(&offline, &branched(), &texts(&["aaa1"])), Ok(outcome(&[], &["aaa1"])));
}

#[rstest]
#[case("bbb", Err(()))]
#[case("ccc1", Ok(["ccc1"].as_slice()))]
#[case("ccc", Ok(["ccc1"].as_slice()))]
#[case("side", Ok(["bbb2"].as_slice()))]
#[case("heads", Ok(["ccc1", "bbb2"].as_slice()))]
#[case("head", Err(()))]
#[case("side@head", Ok(["bbb2"].as_slice()))]
#[case("base", Ok([].as_slice()))]
#[case("current", Ok(["bbb1"].as_slice()))]
#[case("+1", Ok(["ccc1"].as_slice()))]
#[case("+2", Err(()))]
#[case("-1", Ok(["aaa1"].as_slice()))]
#[case("-2", Ok([].as_slice()))]
#[case("-3", Err(()))]
#[case("ccc1-2", Ok(["aaa1"].as_slice()))]
#[case("side@aaa1+1", Ok(["bbb2"].as_slice()))]
fn a_target_means_what_alembic_means_by_it(#[case] target: &str, #[case] meant: Result<&[&str], ()>) {
    let found = branched().resolve(target, &texts(&["bbb1"]));
    assert_eq!(found.clone().map_err(|_| ()), meant.map(texts), "{found:?}");
}

#[test]
fn revisions_that_make_no_history_are_named() {
    let refused = |revisions: Vec<Revision>| History::new(revisions).unwrap_err().to_string();
    let labelled = |id, label: &str| Revision { labels: vec![label.into()], ..revision(id, &[]) };
    assert_eq!(
        refused(vec![revision("a", &[]), revision("a", &[])]),
        "join revisions: a is there more than once"
    );
    assert_eq!(refused(vec![revision("a", &["b"])]), "join revisions: b, which a follows, is not there");
    assert_eq!(
        refused(vec![labelled("a", "x"), labelled("b", "x")]),
        "join revisions: label x of b is taken"
    );
    assert_eq!(
        refused(vec![revision("a", &["b"]), revision("b", &["a"]), revision("c", &[])]),
        "join revisions: a, b follow each other in a circle"
    );
    assert!(refused(vec![revision("a", &["a"])]).ends_with("circle"));
}

/// For each revision, which of those before it it follows.
fn chances() -> impl Strategy<Value = Vec<Vec<prop::sample::Index>>> {
    prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..12)
}

fn drawn(chances: &[Vec<prop::sample::Index>]) -> History {
    let revisions = chances.iter().enumerate().map(|(at, picks)| {
        let mut down: Vec<String> =
            picks.iter().filter(|_| at > 0).map(|pick| format!("r{:03}", pick.index(at))).collect();
        down.sort();
        down.dedup();
        Revision { down, ..revision(&format!("r{at:03}"), &[]) }
    });
    History::new(revisions).unwrap()
}

proptest! {
    #[test]
    fn an_upgrade_to_the_heads_runs_every_revision_once_after_what_it_follows(chances in chances()) {
        let history = drawn(&chances);
        let Expected { rows, pending } = upgrade(&history, "heads", &[]).unwrap();
        prop_assert_eq!(pending.len(), chances.len());
        for (at, id) in pending.iter().enumerate() {
            let down = &history.revision(id).unwrap().down;
            prop_assert!(down.iter().all(|below| pending[..at].contains(below)), "{:?}", pending);
        }
        prop_assert_eq!(rows, texts(&history.heads()));
    }

    #[test]
    fn what_is_pending_is_all_below_the_target_that_is_not_below_the_rows(
        chances in chances(), first: prop::sample::Index, second: prop::sample::Index,
    ) {
        let history = drawn(&chances);
        let id = |index: prop::sample::Index| format!("r{:03}", index.index(chances.len()));
        let halfway = upgrade(&history, &id(first), &[]).unwrap();
        let rows: Vec<&str> = halfway.rows.iter().map(String::as_str).collect();
        let rest = upgrade(&history, &id(second), &rows).unwrap();
        let applied = history.ancestors(rows);
        let (target, id) = (id(second), rest.pending.iter().map(String::as_str));
        let missing = history.ancestors([target.as_str()]);
        prop_assert_eq!(id.collect::<std::collections::BTreeSet<_>>(), &missing - &applied);
    }

    #[test]
    fn a_downgrade_to_base_undoes_all_that_was_run(chances in chances(), target: prop::sample::Index) {
        let history = drawn(&chances);
        let target = format!("r{:03}", target.index(chances.len()));
        let Expected { rows, pending } = upgrade(&history, &target, &[]).unwrap();
        let back = expected(&intent(Action::Downgrade("base".into())), &history, &rows).unwrap();
        prop_assert_eq!(back.rows, Vec::<String>::new());
        let sorted = |mut ids: Vec<String>| { ids.sort(); ids };
        prop_assert_eq!(sorted(back.pending), sorted(pending));
    }
}

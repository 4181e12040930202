use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn policy(keep_days: i64, min_verified: usize) -> Policy {
    Policy { keep: TimeDelta::days(keep_days), min_verified }
}

/// An unverified snapshot of `app`.
fn taken(days_ago: i64) -> Candidate {
    let taken_at = now() - TimeDelta::days(days_ago);
    Candidate {
        id: SnapshotId::new(taken_at, 0),
        database: "app".into(),
        taken_at,
        verified: None,
        has_failed: false,
        is_pinned: false,
    }
}

fn verified(days_ago: i64) -> Candidate {
    Candidate { verified: Some((Depth::Restored, now())), ..taken(days_ago) }
}

fn verified_to(depth: Depth, days_ago: i64) -> Candidate {
    Candidate { verified: Some((depth, now())), ..taken(days_ago) }
}

fn failed(days_ago: i64) -> Candidate {
    Candidate { has_failed: true, ..verified(days_ago) }
}

/// The reasons, in the order of `candidates`; `-` before those that go.
fn reasons(candidates: &[Candidate], policy: &Policy) -> Vec<String> {
    let plan = plan(candidates, policy, now());
    let reason = |candidate: &Candidate| {
        let is_it = |v: &&Verdict| (&v.database, &v.id) == (&candidate.database, &candidate.id);
        match &plan.verdicts.iter().find(is_it).unwrap().decision {
            Decision::Keep(reason) => reason.to_string(),
            Decision::Remove(reason) => format!("-{reason}"),
        }
    };
    candidates.iter().map(reason).collect()
}

#[test]
fn each_verdict_says_why() {
    let pinned = Candidate { is_pinned: true, ..taken(90) };
    let snapshots = [taken(-1), verified(2), taken(3), verified(40), verified(50), taken(60), pinned];
    let newest = snapshots[1].id.as_str();
    assert_eq!(
        reasons(&snapshots, &policy(30, 2)),
        [
            "dated in the future",
            "newest verified",
            "younger than 30 days",
            "one of the 2 newest verified",
            &format!("-older than 30 days, {newest} is newer and verified"),
            &format!("-older than 30 days, {newest} is newer and verified"),
            "pinned",
        ]
    );
}

#[test]
fn nothing_goes_while_nothing_newer_is_verified() {
    let snapshots = [taken(100), failed(90), taken(80)];
    assert_eq!(reasons(&snapshots, &policy(30, 3)), ["no newer verified snapshot exists"; 3]);
}

#[test]
fn newest_verified_snapshot_stays_past_keep_and_what_follows_it_stays_too() {
    let snapshots = [verified(100), taken(90), failed(80)];
    let stays = "no newer verified snapshot exists";
    assert_eq!(reasons(&snapshots, &policy(30, 0)), ["newest verified", stays, stays]);
}

#[test]
fn snapshot_exactly_keep_old_stays() {
    let mut snapshots = [taken(30), verified(1)];
    assert_eq!(reasons(&snapshots, &policy(30, 1))[0], "younger than 30 days");
    snapshots[0].taken_at -= TimeDelta::milliseconds(1);
    assert!(reasons(&snapshots, &policy(30, 1))[0].starts_with("-older"));
}

#[test]
fn failed_verification_takes_the_place_in_the_floor() {
    let snapshots = [failed(40), verified(41), verified(42), verified(43)];
    let floor = "one of the 2 newest verified";
    assert_eq!(
        reasons(&snapshots, &policy(30, 2))[..3],
        ["no newer verified snapshot exists", "newest verified", floor]
    );
    assert!(reasons(&snapshots, &policy(30, 2))[3].starts_with("-older"));
}

#[test]
fn failed_snapshot_goes_by_age_once_a_newer_one_is_verified() {
    let snapshots = [failed(40), failed(3), verified(1)];
    let said = reasons(&snapshots, &policy(30, 3));
    assert!(said[0].starts_with("-older"));
    assert_eq!(said[1], "younger than 30 days");
}

#[test]
fn newest_snapshot_of_the_deepest_depth_stays_past_keep() {
    let snapshots = [
        verified_to(Depth::Restored, 100),
        verified_to(Depth::Restored, 90),
        verified_to(Depth::Readable, 80),
        verified_to(Depth::Stored, 70),
        taken(60),
        verified_to(Depth::Stored, 1),
    ];
    let [second, newest] = [&snapshots[1], &snapshots[5]].map(|snapshot| snapshot.id.as_str());
    let older = |newer: &str| format!("-older than 30 days, {newer} is newer and verified");
    assert_eq!(
        reasons(&snapshots, &policy(30, 1)),
        [
            &older(second),
            "newest verified to depth restored",
            "newest verified to depth readable",
            &older(newest),
            &older(newest),
            "newest verified",
        ]
    );
}

#[test]
fn verified_snapshot_from_the_future_replaces_no_other() {
    let snapshots = [verified(-400), verified(100), taken(120)];
    let said = reasons(&snapshots, &policy(30, 1));
    assert_eq!(said[..2], ["dated in the future", "newest verified"]);
    let alone = [verified(-400), taken(100)];
    assert_eq!(reasons(&alone, &policy(30, 1))[1], "no newer verified snapshot exists");
}

#[test]
fn only_what_a_newer_verified_snapshot_replaces_expires() {
    let pinned = Candidate { is_pinned: true, ..taken(5) };
    let snapshots = [taken(60), verified(10), taken(9), pinned, verified(2), taken(1), taken(-1)];
    let expiries = expiries(&snapshots, &policy(30, 2), now());
    let expected =
        [&snapshots[0], &snapshots[2]].map(|it| (it.id.clone(), it.taken_at + TimeDelta::days(30)));
    assert_eq!(expiries, expected.into());
}

#[test]
fn databases_do_not_count_for_each_other() {
    let other = Candidate { database: "other".into(), ..taken(100) };
    assert_eq!(reasons(&[verified(1), other], &policy(30, 1))[1], "no newer verified snapshot exists");
}

#[test]
fn spans_read_as_they_are_set() {
    let text = |seconds| Span(TimeDelta::seconds(seconds)).to_string();
    let texts = [text(30 * DAY), text(DAY), text(36 * 3_600), text(90), text(120), text(0)];
    assert_eq!(texts, ["30 days", "1 day", "36 hours", "90 seconds", "2 minutes", "0 seconds"]);
}

prop_compose! {
    /// Few distinct days, so that ties and the exact age occur.
    fn a_candidate()(
        half_days in -6i64..120,
        noise in 0u32..1 << 20,
        database in prop_oneof![Just("app"), Just("other")],
        proof in prop_oneof![Just(None), Just(Some(false)), Just(Some(true))],
        depth in prop_oneof![Just(Depth::Stored), Just(Depth::Readable), Just(Depth::Restored)],
        is_pinned in prop::bool::weighted(0.1),
    ) -> Candidate {
        let taken_at = now() - TimeDelta::hours(half_days * 12);
        Candidate {
            id: SnapshotId::new(taken_at, noise),
            database: database.into(),
            taken_at,
            verified: proof.map(|_| (depth, now())),
            has_failed: proof == Some(false),
            is_pinned,
        }
    }
}

/// Snapshots with distinct ids.
fn a_catalog() -> impl Strategy<Value = Vec<Candidate>> {
    vec(a_candidate(), 0..40).prop_map(|mut candidates| {
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(candidate.id.clone()));
        candidates
    })
}

prop_compose! {
    fn a_policy()(keep in 0i64..60, min_verified in 0usize..6) -> Policy {
        policy(keep, min_verified)
    }
}

fn removed(candidates: &[Candidate], policy: &Policy) -> BTreeSet<SnapshotId> {
    plan(candidates, policy, now()).removals().map(|verdict| verdict.id.clone()).collect()
}

/// The verified snapshots of `database` up to now, the newest first.
fn proven<'a>(candidates: &'a [Candidate], database: &str) -> Vec<&'a Candidate> {
    let counts = |c: &&Candidate| {
        c.database == database && c.verified.is_some() && !c.has_failed && c.taken_at <= now()
    };
    let mut proven: Vec<_> = candidates.iter().filter(counts).collect();
    proven.sort_by_key(|c| std::cmp::Reverse((c.taken_at, c.id.clone())));
    proven
}

proptest! {
    #[test]
    fn every_snapshot_gets_one_verdict(catalog in a_catalog(), policy in a_policy()) {
        let ids: Vec<_> = plan(&catalog, &policy, now()).verdicts.into_iter().map(|v| v.id).collect();
        prop_assert_eq!(ids.len(), catalog.len());
        prop_assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), catalog.iter().map(|c| c.id.clone()).collect());
    }

    #[test]
    fn the_order_of_candidates_does_not_matter(
        (catalog, shuffled) in a_catalog().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle())),
        policy in a_policy(),
    ) {
        prop_assert_eq!(plan(&catalog, &policy, now()), plan(&shuffled, &policy, now()));
    }

    #[test]
    fn planning_what_remains_removes_nothing(catalog in a_catalog(), policy in a_policy()) {
        let gone = removed(&catalog, &policy);
        let rest: Vec<_> = catalog.into_iter().filter(|c| !gone.contains(&c.id)).collect();
        prop_assert_eq!(removed(&rest, &policy), BTreeSet::new());
    }

    #[test]
    fn an_interrupted_removal_ends_where_the_whole_one_does(
        catalog in a_catalog(), policy in a_policy(), done in vec(any::<bool>(), 40),
    ) {
        let gone = removed(&catalog, &policy);
        let early: BTreeSet<_> = gone.iter().zip(done).filter(|(_, done)| *done).map(|(id, _)| id.clone()).collect();
        let rest: Vec<_> = catalog.into_iter().filter(|c| !early.contains(&c.id)).collect();
        let late = removed(&rest, &policy);
        prop_assert_eq!(early.union(&late).cloned().collect::<BTreeSet<_>>(), gone);
    }

    #[test]
    fn the_newest_verified_and_the_floor_stay(catalog in a_catalog(), policy in a_policy()) {
        let gone = removed(&catalog, &policy);
        for database in ["app", "other"] {
            for kept in proven(&catalog, database).into_iter().take(policy.min_verified.max(1)) {
                prop_assert!(!gone.contains(&kept.id), "{kept:?}");
            }
        }
    }

    #[test]
    fn the_newest_of_the_deepest_depth_stays(catalog in a_catalog(), policy in a_policy()) {
        let gone = removed(&catalog, &policy);
        for database in ["app", "other"] {
            let proven = proven(&catalog, database);
            let deepest = proven.iter().filter_map(|c| c.verified_depth()).max();
            let newest = proven.iter().find(|c| c.verified_depth() == deepest);
            prop_assert!(newest.is_none_or(|newest| !gone.contains(&newest.id)), "{newest:?}");
        }
    }

    #[test]
    fn only_old_snapshots_go_and_leave_a_newer_one_verified_as_deeply(catalog in a_catalog(), policy in a_policy()) {
        let gone = removed(&catalog, &policy);
        for candidate in catalog.iter().filter(|c| gone.contains(&c.id)) {
            prop_assert!(now() - candidate.taken_at > policy.keep);
            let depth = if candidate.has_failed { None } else { candidate.verified_depth() };
            let replaces = |other: &&Candidate| {
                other.verified_depth() >= depth && other.order() > candidate.order() && !gone.contains(&other.id)
            };
            prop_assert!(proven(&catalog, &candidate.database).iter().any(replaces), "{candidate:?}");
        }
    }

    #[test]
    fn pinned_and_future_snapshots_stay(catalog in a_catalog(), policy in a_policy()) {
        let gone = removed(&catalog, &policy);
        for candidate in catalog.iter().filter(|c| c.is_pinned || c.taken_at > now()) {
            prop_assert!(!gone.contains(&candidate.id));
        }
    }

    #[test]
    fn future_snapshots_are_reported(mut catalog in a_catalog(), policy in a_policy()) {
        catalog.iter_mut().for_each(|c| c.is_pinned = false);
        let plan = plan(&catalog, &policy, now());
        let reported = plan.verdicts.iter().filter(|v| v.decision == Decision::Keep(KeepReason::DatedInFuture));
        prop_assert_eq!(reported.count(), catalog.iter().filter(|c| c.taken_at > now()).count());
    }

    #[test]
    fn raising_keep_or_the_floor_never_removes_more(
        catalog in a_catalog(), policy in a_policy(), more_days in 0i64..30, more_verified in 0usize..4,
    ) {
        let raised = Policy {
            keep: policy.keep + TimeDelta::days(more_days),
            min_verified: policy.min_verified + more_verified,
        };
        prop_assert!(removed(&catalog, &raised).is_subset(&removed(&catalog, &policy)));
    }

    #[test]
    fn failures_never_count(catalog in a_catalog(), policy in a_policy()) {
        let without: Vec<_> = catalog.iter().filter(|c| c.is_verified() || c.is_pinned).cloned().collect();
        let gone: BTreeSet<_> = removed(&catalog, &policy);
        let still: BTreeSet<_> = without.iter().filter(|c| gone.contains(&c.id)).map(|c| c.id.clone()).collect();
        prop_assert_eq!(removed(&without, &policy), still);
    }

    #[test]
    fn databases_are_planned_apart(catalog in a_catalog(), policy in a_policy()) {
        let (app, other): (Vec<_>, Vec<_>) = catalog.iter().cloned().partition(|c| c.database == "app");
        let apart: BTreeSet<_> = removed(&app, &policy).union(&removed(&other, &policy)).cloned().collect();
        prop_assert_eq!(removed(&catalog, &policy), apart);
    }

    #[test]
    fn a_referenced_or_young_chunk_stays(
        ages in vec((0i64..20, any::<bool>()), 0..40), grace in 0i64..20,
    ) {
        let names: Vec<_> = (0..ages.len()).map(|n| format!("{n:032x}")).collect();
        let stored: Vec<_> = names.iter().zip(&ages)
            .map(|(name, (age, _))| StoredChunk { name, modified_at: now() - TimeDelta::hours(*age) })
            .collect();
        let referenced: BTreeSet<_> =
            names.iter().zip(&ages).filter(|(_, (_, is_referenced))| *is_referenced).map(|(n, _)| n.as_str()).collect();
        let gone = unreferenced_chunks(&stored, &referenced, TimeDelta::hours(grace), now());
        for ((age, is_referenced), name) in ages.iter().zip(&names) {
            prop_assert_eq!(gone.contains(&name.as_str()), !is_referenced && *age > grace);
        }
    }

    #[test]
    fn a_folder_with_a_manifest_or_a_young_object_is_no_litter(
        objects in vec((0u32..6, 0usize..3, 0i64..20), 0..30), grace in 0i64..20,
    ) {
        let files = ["schema.dump.gz.age", "data.dump.gz.age", MANIFEST];
        let keys: Vec<_> = objects.iter().map(|(n, file, _)| key_in(&home(*n), files[*file])).collect();
        let stored: Vec<_> = keys.iter().zip(&objects)
            .map(|(key, (_, _, age))| StoredObject { key, modified_at: now() - TimeDelta::hours(*age) })
            .collect();
        let gone: BTreeSet<_> = litter(&stored, TimeDelta::hours(grace), now()).into_iter().collect();
        for (n, file, _) in &objects {
            let folder = || objects.iter().filter(|(other, _, _)| other == n);
            let stays = folder().any(|(_, file, age)| files[*file] == MANIFEST || *age <= grace);
            prop_assert_eq!(gone.contains(&key_in(&home(*n), files[*file])), !stays);
        }
    }
}

fn home(noise: u32) -> SnapshotHome {
    let id = SnapshotId::new(now(), noise);
    SnapshotHome { cluster: "prod".into(), database: "app".into(), id }
}

fn key_in(home: &SnapshotHome, file: &str) -> ObjectKey {
    home.key(file)
}

#[test]
fn replaced_chunk_is_told_from_its_replacement() {
    let stored =
        ["aa", "aa-k7q2mx"].map(|name| StoredChunk { name, modified_at: now() - TimeDelta::days(9) });
    let referenced = BTreeSet::from(["aa-k7q2mx"]);
    assert_eq!(unreferenced_chunks(&stored, &referenced, TimeDelta::days(1), now()), ["aa"]);
}

#[test]
fn objects_outside_of_snapshot_folders_are_never_litter() {
    let keys = [
        "belay.json",
        "prod/chunks/aa/aa.copy.gz.age",
        "prod/snapshots/app/notes.txt",
        "prod/snapshots/app/x/y",
    ]
    .map(|text| ObjectKey::new(text).unwrap());
    let stored = keys.each_ref().map(|key| StoredObject { key, modified_at: DateTime::UNIX_EPOCH });
    assert_eq!(litter(&stored, TimeDelta::zero(), now()), Vec::<&ObjectKey>::new());
}

#[test]
fn object_dated_in_the_future_keeps_its_folder() {
    let key = key_in(&home(1), "data.dump.gz.age");
    let stored = [StoredObject { key: &key, modified_at: now() + TimeDelta::days(1) }];
    assert_eq!(litter(&stored, TimeDelta::zero(), now()), Vec::<&ObjectKey>::new());
}

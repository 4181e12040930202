use proptest::prelude::*;

use super::scan::{Scan, UnknownRecord};
use super::summary::{GONE, Relation, RelationKind, in_words, summarize};
use super::*;

/// What pg_waldump 15.18 printed of a script against databases 16384 (relations 16390 with sequence
/// 16389, and 16398) and 16385; in it are catalogs (2619 is pg_statistic) and shared ones (1664/0).
const CAPTURED: &str = include_str!("pg_waldump_15.txt");
const APP: u32 = 16384;

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

fn scan(database_oid: u32, lines: &str) -> Result<Window, UnknownRecord> {
    let mut scan = Scan::new(database_oid);
    lines.lines().try_for_each(|line| scan.line(line))?;
    Ok(scan.finish())
}

/// `xid: relfilenode=rows …`, `!` for a marked one, `s` before a sequence.
fn briefly(window: &Window) -> Vec<String> {
    let brief = |commit: &Commit| {
        let mark = if commit.is_marked { "!" } else { "" };
        let rows = commit.rows.iter().map(|(relation, rows)| format!(" {relation}={rows}"));
        let sequences = commit.sequences.iter().map(|relation| format!(" s{relation}"));
        format!("{}{mark}:{}", commit.xid, rows.chain(sequences).collect::<String>())
    };
    window.commits.iter().map(brief).collect()
}

#[test]
fn captured_commits_are_counted_with_their_rows() {
    let window = scan(APP, CAPTURED).unwrap();
    let expected = [
        "730: 16390=1 s16389",
        "731: 16398=3",
        "732: 16398=4",
        "733: 16390=1",
        "734: 16390=1",
        "735: 16398=1",
        // With a subtransaction, without the one that was rolled back.
        "736: 16398=2",
        // Prepared; the one that was rolled back (743) is none, nor are 740, 744 and 745.
        "741: 16398=2",
        "746!: 16398=1",
        "749!: 16398=2",
        // ANALYZE.
        "753: 2619=3",
    ];
    assert_eq!(briefly(&window), expected);
    assert_eq!(window.commits[0].lsn, lsn("0/1D471D0"));
    let time = window.commits[0].committed_at.map(|time| time.to_rfc3339());
    assert_eq!(time.as_deref(), Some("2026-11-24T20:18:28.906272+00:00"));
}

#[test]
fn commits_without_writes_and_of_shared_catalogs_are_bare() {
    let window = scan(APP, CAPTURED).unwrap();
    let bare: Vec<_> = window.bare_commits.iter().map(|commit| (commit.xid, commit.is_marked)).collect();
    // Before: an unlogged table, a logical message, SELECT FOR UPDATE, CREATE ROLE. After: another
    // database's 757 is neither.
    assert_eq!(bare, [(751, false), (754, false), (755, false), (756, false)]);
}

#[test]
fn another_database_has_its_own_commits() {
    let window = scan(16385, CAPTURED).unwrap();
    assert_eq!(briefly(&window), ["757: 16386=1"]);
    assert!(window.bare_commits.iter().all(|commit| ![730, 755].contains(&commit.xid)));
}

#[test]
fn rows_are_read_in_the_form_of_each_version() {
    let commit = "rmgr: Transaction len (rec/tot): 34/34, tx: 7, lsn: 0/2, prev 0/1, desc: COMMIT 2026-11-24 20:18:28.914075 UTC";
    for (manager, description, rows) in [
        ("Heap", "INSERT off: 3, flags: 0x08", 1),
        ("Heap", "HOT_UPDATE off 1 xmax 7 flags 0x20 ; new off 2 xmax 0", 1),
        ("Heap", "UPDATE old_xmax: 7, old_off: 1, old_infobits: [], flags: 0x20, new_xmax: 0, new_off: 2", 1),
        ("Heap", "HOT_UPDATE+INIT old_xmax: 7, old_off: 1, old_infobits: [], flags: 0x00, new_xmax: 0", 1),
        ("Heap", "DELETE xmax: 7, off: 1, infobits: [KEYS_UPDATED], flags: 0x00", 1),
        ("Heap2", "MULTI_INSERT 4 tuples flags 0x02", 4),
        ("Heap2", "MULTI_INSERT+INIT ntuples: 61, flags: 0x02", 61),
        ("Heap2", "MULTI_INSERT ntuples: 2, flags: 0x02, offsets: [5, 6]", 2),
    ] {
        for block in
            ["rel 1663/16384/99 blk 0", "rel 1663/16384/99 blk 7 FPW", "rel 1663/16384/99 fork main blk 0"]
        {
            let record = format!(
                "rmgr: {manager} len (rec/tot): 59/59, tx: 7, lsn: 0/1, prev 0/0, desc: {description}, blkref #0: {block}, blkref #1: rel 1663/16384/98 blk 1"
            );
            let window = scan(APP, &format!("{record}\n{commit}")).unwrap();
            assert_eq!(briefly(&window), [format!("7: 99={rows}")], "{record}");
        }
    }
}

#[test]
fn records_that_change_no_row_are_no_writes() {
    for (manager, description) in [
        ("Heap", "INPLACE off: 4; inval msgs: catcache 55"),
        ("Heap", "LOCK xmax: 7, off: 1, infobits: [LOCK_ONLY, EXCL_LOCK], flags: 0x00"),
        ("Heap", "HEAP_CONFIRM off: 1"),
        ("Heap", "TRUNCATE flags: [CASCADE], nrelids: 1, relids: [16390]"),
        ("Heap2", "PRUNE_ON_ACCESS snapshotConflictHorizon: 7, isCatalogRel: F, nplans: 0"),
        ("Heap2", "FREEZE_PAGE cutoff xid 7 ntuples 3"),
        ("Heap2", "VACUUM nunused: 1, unused: [3]"),
        ("Heap2", "LOCK_UPDATED xmax: 7, off: 1, infobits: [], flags: 0x00"),
        ("Heap2", "NEW_CID rel: 1663/16384/1259, tid: 1/1, cmin: 0, cmax: 4294967295, combo: 4294967295"),
        ("XLOG", "FPI_FOR_HINT "),
        ("Btree", "INSERT_LEAF off: 2"),
        ("Generic", "Generic"),
    ] {
        let record = format!(
            "rmgr: {manager} len (rec/tot): 59/59, tx: 7, lsn: 0/1, prev 0/0, desc: {description}, blkref #0: rel 1663/16384/99 blk 0"
        );
        let commit = "rmgr: Transaction len (rec/tot): 34/34, tx: 7, lsn: 0/2, prev 0/1, desc: COMMIT 2026-11-24 20:18:28.914075 UTC";
        let window = scan(APP, &format!("{record}\n{commit}")).unwrap();
        assert!(window.commits.is_empty() && window.bare_commits.len() == 1, "{record}: {window:?}");
    }
}

#[test]
fn a_write_whose_form_is_unknown_is_refused() {
    for line in [
        "rmgr: Heap2 len (rec/tot): 1/1, tx: 7, lsn: 0/1, prev 0/0, desc: MULTI_INSERT flags 0x02, blkref #0: rel 1663/16384/99 blk 0",
        "rmgr: Heap len (rec/tot): 1/1, tx: 7, lsn: 0/1, prev 0/0, desc: INSERT off 1",
        "rmgr: Heap len (rec/tot): 1/1, xid: 7, lsn: 0/1, prev 0/0, desc: INSERT off 1, blkref #0: rel 1663/16384/99 blk 0",
        "rmgr: Transaction len (rec/tot): 1/1, tx: 0, lsn: 0/1, prev 0/0, desc: COMMIT_PREPARED 2026-11-24 20:18:28 UTC",
        "rmgr: Transaction len (rec/tot): 1/1, tx: 9, lsn: 0/1, prev 0/0, desc: COMMIT 2026-11-24 20:18:28 UTC; subxacts: a",
    ] {
        assert!(scan(APP, line).is_err(), "{line}");
    }
}

#[test]
fn marks_are_no_part_of_other_facts() {
    let commit = |rest: &str| {
        let line = format!(
            "rmgr: Transaction len (rec/tot): 1/1, tx: 9, lsn: 0/1, prev 0/0, desc: COMMIT 2026-11-24 20:18:28.9 UTC{rest}"
        );
        scan(APP, &line).unwrap().bare_commits[0].is_marked
    };
    assert!(commit("; inval msgs: catcache 63 relcache 16385; apply_feedback"));
    assert!(commit(
        "; rels: base/16384/16404; apply_feedback; sync; origin: node 1, lsn 0/0, at 2000-01-01 00:00:00 UTC"
    ));
    assert!(!commit("; subxacts: 10 11; sync"));
    assert!(!commit(""));
}

#[test]
fn positions_are_read_written_and_ordered_as_postgresql_does() {
    assert_eq!(lsn("16/B374D848").to_string(), "16/B374D848");
    assert_eq!(lsn("0/01D4CA38").to_string(), "0/1D4CA38");
    assert_eq!(lsn("FFFFFFFF/FFFFFFFF"), Lsn(u64::MAX));
    assert!(lsn("0/FFFFFFFF") < lsn("1/0"));
    assert_eq!(serde_json::to_string(&lsn("1/AB")).unwrap(), "\"1/AB\"");
    assert_eq!(serde_json::from_str::<Lsn>("\"1/ab\"").unwrap(), lsn("1/AB"));
    for text in ["", "1", "/", "1/", "+1/2", "1/2/3", "1/123456789", "g/0"] {
        assert!(text.parse::<Lsn>().is_err(), "{text}");
    }
}

#[test]
fn a_position_behind_a_pages_header_is_the_pages() {
    let before = |text: &str| lsn(text).before_page_header(16 << 20).to_string();
    assert_eq!(before("0/2000028"), "0/2000000");
    assert_eq!(before("0/2002018"), "0/2002000");
    for same in ["0/2000000", "0/2000018", "0/2002028", "0/2002030", "0/2003018"] {
        assert_eq!(before(same), same);
    }
}

proptest! {
    #[test]
    fn a_position_is_read_as_it_was_written(position: u64) {
        prop_assert_eq!(lsn(&Lsn(position).to_string()), Lsn(position));
    }
}

#[test]
fn transactions_are_told_apart_by_a_snapshot() {
    let visible: VisibleTransactions = "730:735:731,733".parse().unwrap();
    let seen: Vec<_> = (728..738).filter(|xid| visible.sees(*xid)).collect();
    assert_eq!(seen, [728, 729, 730, 732, 734]);
    assert_eq!(visible.in_progress().collect::<Vec<_>>(), [731, 733]);
    assert!("730:735:".parse::<VisibleTransactions>().unwrap().sees(731));
    for text in ["", "1:2", "1:2:3:4", "1:2:x", "a:2:"] {
        assert!(text.parse::<VisibleTransactions>().is_err(), "{text}");
    }
}

#[test]
fn a_snapshot_knows_transactions_across_the_turn_of_their_numbers() {
    // 2^32 - 2 to 2^32 + 5; the log says 4294967294 to 5.
    let visible: VisibleTransactions = "4294967294:4294967301:4294967294,4294967299".parse().unwrap();
    assert!(visible.sees(4_294_967_293) && visible.sees(4_294_967_295) && visible.sees(4));
    assert!(!visible.sees(4_294_967_294) && !visible.sees(3) && !visible.sees(5) && !visible.sees(1_000_000));
}

#[test]
fn straddlers_are_older_than_the_window_and_not_seen() {
    // Bare are 751, 754, 755 and 756.
    let window = scan(APP, CAPTURED).unwrap();
    let straddlers = |visible: &str, next| -> Vec<u32> {
        let visible: VisibleTransactions = visible.parse().unwrap();
        window.straddlers(&visible, next).map(|commit| commit.xid).collect()
    };
    assert_eq!(straddlers("730:757:733,754", 757), [754]);
    // The snapshot does not list what began after the last end before it.
    assert_eq!(straddlers("730:752:733", 755), [754]);
    assert_eq!(straddlers("730:752:733", 757), [754, 755, 756]);
    assert_eq!(straddlers("757:757:", 757), [] as [u32; 0]);
}

fn relations() -> BTreeMap<u32, Relation> {
    [
        (16390, "public.orders", RelationKind::Table),
        (16389, "public.orders_id_seq", RelationKind::Sequence),
        (16394, "pg_toast.pg_toast_16390", RelationKind::Toast),
        (1259, "pg_catalog.pg_class", RelationKind::Catalog),
        (2619, "pg_catalog.pg_statistic", RelationKind::Statistics),
    ]
    .map(|(relfilenode, name, kind)| (relfilenode, Relation { name: name.into(), kind }))
    .into()
}

fn wrote(rows: &[(u32, u64)], sequences: &[u32]) -> Window {
    let commit = Commit {
        xid: 7,
        lsn: lsn("0/1"),
        committed_at: None,
        is_marked: false,
        rows: rows.iter().copied().collect(),
        sequences: sequences.iter().copied().collect(),
    };
    Window { commits: vec![commit], bare_commits: Vec::new() }
}

fn told(window: &Window) -> String {
    in_words(&summarize(window, &relations()))
}

#[test]
fn captured_commits_are_told_in_words() {
    let window = scan(APP, CAPTURED).unwrap();
    // 16398 was truncated since, and 753 is an ANALYZE.
    let summaries = summarize(&window, &relations());
    assert_eq!(summaries.len(), 10);
    assert!(summaries.iter().all(|summary| summary.xid != 753));
    let words = "10 transactions (15 rows in a relation that is gone, 3 in public.orders, sequence public.orders_id_seq moved)";
    assert_eq!(in_words(&summaries), words);
}

#[test]
fn words_say_what_was_written_and_nothing_else() {
    assert_eq!(told(&Window::default()), "no transactions");
    assert_eq!(told(&wrote(&[(2619, 3)], &[])), "no transactions");
    assert_eq!(told(&wrote(&[(16390, 1), (16394, 9)], &[])), "1 transaction (1 row in public.orders)");
    assert_eq!(told(&wrote(&[(1259, 4), (2619, 3)], &[])), "1 transaction (changes of the schema)");
    assert_eq!(told(&wrote(&[], &[16389])), "1 transaction (sequence public.orders_id_seq moved)");
    assert_eq!(told(&wrote(&[], &[5, 16389])), "1 transaction (2 sequences moved)");
    assert_eq!(told(&wrote(&[(5, 2)], &[6])), format!("1 transaction (2 rows in {GONE}, 1 sequence moved)"));
    // Toast alone is not nothing.
    assert_eq!(told(&wrote(&[(16394, 9)], &[])), "1 transaction");
}

#[test]
fn words_name_the_tables_with_most_rows() {
    let relation = |number: u32| Relation { name: format!("t{number}"), kind: RelationKind::Table };
    let relations: BTreeMap<u32, Relation> = (1..=7).map(|number| (number, relation(number))).collect();
    let rows: Vec<(u32, u64)> = (1..=7).map(|number| (number, u64::from(number) * 10)).collect();
    let words = in_words(&summarize(&wrote(&rows, &[]), &relations));
    assert_eq!(
        words,
        "1 transaction (70 rows in t7, 60 in t6, 50 in t5, 40 in t4, 30 in t3, 30 in 2 other tables)"
    );
}

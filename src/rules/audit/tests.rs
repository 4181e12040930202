use proptest::prelude::*;

use super::*;

fn rows(events: &[&str]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for event in events {
        rows.push(Row::after(rows.last(), (*event).to_owned()));
    }
    rows
}

fn head_of(rows: &[Row]) -> Head {
    let last = rows.last().unwrap();
    Head {
        cluster: "prod".into(),
        chain: rows[0].hash,
        number: last.number,
        hash: last.hash,
        at: DateTime::UNIX_EPOCH,
    }
}

fn faults(rows: &[Row], heads: Vec<Head>, numbered: u64) -> Vec<Fault> {
    let mut inspection = Inspection::new(heads);
    rows.iter().cloned().for_each(|row| inspection.take(row));
    inspection.finish(numbered)
}

#[test]
fn a_log_that_nobody_touched_has_no_fault() {
    let log = rows(&["a", "b", "c"]);
    assert_eq!(faults(&log, vec![head_of(&log[..2]), head_of(&log)], 3), []);
    assert_eq!(faults(&[], Vec::new(), 0), []);
}

#[test]
fn a_chain_made_anew_does_not_fit_a_head() {
    let log = rows(&["a", "b", "c"]);
    let rewritten = rows(&["a", "B", "c"]);
    assert_eq!(faults(&rewritten, vec![head_of(&log)], 3), [Fault::Rewritten(head_of(&log))]);
    let replaced = rows(&["A", "b", "c"]);
    assert_eq!(faults(&replaced, vec![head_of(&log)], 3), [Fault::Replaced(head_of(&log))]);
}

#[test]
fn rows_that_a_head_knows_of_are_missed_at_the_end() {
    let log = rows(&["a", "b", "c"]);
    let missing = Fault::Missing { from: 2, until: 3 };
    assert_eq!(faults(&log[..1], vec![head_of(&log)], 1), [missing]);
}

proptest! {
    #[test]
    fn any_single_edit_of_the_table_is_found(
        events in proptest::collection::vec("[ -~]{0,20}", 1..12),
        chosen in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        bit in 0usize..256,
        edit in 0usize..7,
    ) {
        let log = rows(&events.iter().map(String::as_str).collect::<Vec<_>>());
        let (at, to) = (chosen.index(log.len()), other.index(log.len()));
        let mut edited = log.clone();
        let flipped = |digest: Digest256| {
            let mut bytes = *digest.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Digest256::from(bytes)
        };
        match edit {
            0 => edited[at].event.push('x'),
            1 => edited[at].previous = flipped(edited[at].previous),
            2 => edited[at].hash = flipped(edited[at].hash),
            3 => {
                edited.remove(at);
            }
            4 => {
                let event = edited[to].event.clone();
                edited[at].event = event;
            }
            5 => {
                // Two rows change places: each takes the other's number.
                edited.swap(at, to);
                let (a, b) = (edited[at].number, edited[to].number);
                edited[at].number = b;
                edited[to].number = a;
            }
            _ => {
                // One that was never noted, at the end.
                let mut forged = Row::after(edited.last(), "forged".into());
                forged.hash = flipped(forged.hash);
                edited.push(forged);
            }
        }
        prop_assume!(edited != log);
        let numbered = log.len() as u64;
        prop_assert!(!faults(&edited, Vec::new(), numbered).is_empty());
    }
}

//! Dumps as text that two databases can be compared by.

use std::collections::BTreeMap;

/// Removes the lines of a plain dump that tell of the run rather than of the database.
pub fn without_run(dump: &str) -> String {
    let of_the_run =
        ["\\restrict ", "\\unrestrict ", "-- Dumped from database version ", "-- Dumped by pg_dump version "];
    let lines = dump.split_inclusive('\n');
    lines.filter(|line| !of_the_run.iter().any(|start| line.starts_with(start))).collect()
}

/// Sorts the rows of each table of a plain dump.
///
/// Where rows differ in length a server need not keep their order, even in a restore of PostgreSQL's own.
pub fn with_rows_sorted(dump: &str) -> String {
    with_rows(dump, |_| true)
}

/// Gathers and sorts the rows that a plain dump loads through one table, partition by partition.
///
/// Which partition a row belongs into, a restore decides anew.
pub fn with_partitions_gathered(dump: &str) -> String {
    with_rows(dump, |parts| parts > 1)
}

/// Gathers what is copied into the same table where it is first, and sorts it if the number of its
/// parts says so.
fn with_rows(dump: &str, is_sorted: impl Fn(usize) -> bool) -> String {
    let mut copies: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    let mut into = None;
    for line in dump.split_inclusive('\n') {
        match into {
            Some(_) if line == "\\.\n" => into = None,
            Some(copy) => copies.entry(copy).or_default().1.push(line),
            None if is_copy(line) => {
                copies.entry(line).or_default().0 += 1;
                into = Some(line);
            }
            None => {}
        }
    }
    let mut gathered = String::with_capacity(dump.len());
    for line in dump.split_inclusive('\n') {
        match into {
            Some(_) if line == "\\.\n" => {
                gathered.push_str(line);
                into = None;
            }
            Some(_) => {}
            None => {
                gathered.push_str(line);
                if is_copy(line) {
                    let (parts, rows) = copies.get_mut(line).expect("every copy was seen");
                    if is_sorted(*parts) {
                        rows.sort_unstable();
                    }
                    gathered.extend(rows.drain(..));
                    into = Some(line);
                }
            }
        }
    }
    gathered
}

fn is_copy(line: &str) -> bool {
    line.starts_with("COPY ") && line.ends_with(" FROM stdin;\n")
}

/// Returns a query for the properties of `database` that lie outside of it.
pub fn properties_query(database: &str) -> String {
    let name = database.replace('\'', "''");
    format!(
        "SELECT 'owner', pg_get_userbyid(datdba), 'locale', pg_encoding_to_char(encoding), datcollate, datctype,
                to_jsonb(d) ->> 'datlocprovider', coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'),
                'limits', datconnlimit, datallowconn, datistemplate, 'comment', shobj_description(oid, 'pg_database')
           FROM pg_database d WHERE datname = '{name}';
         SELECT 'right', acl::text FROM pg_database, unnest(datacl) acl WHERE datname = '{name}' ORDER BY 2;
         SELECT 'setting', coalesce(rolname, '-'), setting
           FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) setting
          WHERE datname = '{name}' ORDER BY 2, 3;"
    )
}

#[test]
fn rows_are_sorted_within_their_table_only() {
    let dump = "SET x;\nCOPY a (b) FROM stdin;\n2\n1\n\\.\nz\ny\nCOPY c  FROM stdin;\n\\.\n";
    assert_eq!(
        with_rows_sorted(dump),
        "SET x;\nCOPY a (b) FROM stdin;\n1\n2\n\\.\nz\ny\nCOPY c  FROM stdin;\n\\.\n"
    );
}

#[test]
fn rows_of_partitions_are_gathered_only_where_they_share_a_root() {
    let dump = "COPY r (b) FROM stdin;\n2\n\\.\nx\nCOPY a (b) FROM stdin;\n2\n1\n\\.\nCOPY r (b) FROM stdin;\n1\n\\.\n";
    assert_eq!(
        with_partitions_gathered(dump),
        "COPY r (b) FROM stdin;\n1\n2\n\\.\nx\nCOPY a (b) FROM stdin;\n2\n1\n\\.\nCOPY r (b) FROM stdin;\n\\.\n"
    );
}

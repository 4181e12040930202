//! Dumps as text that two databases can be compared by.

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
    let mut sorted = String::with_capacity(dump.len());
    let mut rows: Option<Vec<&str>> = None;
    for line in dump.split_inclusive('\n') {
        match &mut rows {
            Some(held) if line == "\\.\n" => {
                held.sort_unstable();
                sorted.extend(held.drain(..));
                sorted.push_str(line);
                rows = None;
            }
            Some(held) => held.push(line),
            None => {
                sorted.push_str(line);
                if line.starts_with("COPY ") && line.ends_with(" FROM stdin;\n") {
                    rows = Some(Vec::new());
                }
            }
        }
    }
    sorted.extend(rows.unwrap_or_default());
    sorted
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

//! Where connections and passwords come from.

use super::*;

const CRONOS: [(&str, &str); 5] = [
    ("CRONOS_AI_DB_HOST", "db4"),
    ("CRONOS_AI_DB_PORT", "6543"),
    ("CRONOS_AI_DB_NAME", "cronos_ai"),
    ("CRONOS_AI_DB_USER", "cronos"),
    ("CRONOS_AI_DB_PASSWORD", "p@ss:w/rd"),
];

#[test]
fn env_prefix_reads_its_five_variables() {
    let connection = app("env_prefix = 'CRONOS_AI_DB'\nsslmode = 'require'\n", &CRONOS);
    assert_eq!((connection.host.as_str(), connection.port), ("db4", 6543));
    assert_eq!((connection.database.as_str(), connection.user.as_str()), ("cronos_ai", "cronos"));
    assert_eq!(password(&connection), Some("p@ss:w/rd"));
    assert_eq!(connection.sslmode, SslMode::Require);
}

#[test]
fn variable_that_env_prefix_needs_is_named() {
    for needed in ["CRONOS_AI_DB_HOST", "CRONOS_AI_DB_NAME", "CRONOS_AI_DB_USER"] {
        let others: Vec<_> = CRONOS.into_iter().filter(|(name, _)| *name != needed).collect();
        let refusal = refusal("[database.app]\nenv_prefix = 'CRONOS_AI_DB'\n", &others);
        let complaint =
            format!("database.app.env_prefix needs environment variable {needed}, which is not set");
        assert!(refusal.ends_with(&complaint), "{refusal}");
    }
    let bad = [&CRONOS[..], &[("CRONOS_AI_DB_PORT", "many")]].concat();
    let refusal = refusal("[database.app]\nenv_prefix = 'CRONOS_AI_DB'\n", &bad);
    assert!(refusal.contains("CRONOS_AI_DB_PORT needs a port"), "{refusal}");
}

#[rstest]
#[case(
    "postgresql://u%40x:p%3Aw@db:6543/my%20db?sslmode=verify-ca&sslrootcert=/ca&application_name=x",
    "db",
    6543,
    "my db",
    "u@x",
    Some("p:w"),
    SslMode::VerifyCa
)]
#[case("postgres:///reports?host=/tmp&port=5433", "/tmp", 5433, "reports", "postgres", None, SslMode::Prefer)]
#[case("postgresql://%2Ftmp/reports", "/tmp", 5432, "reports", "postgres", None, SslMode::Prefer)]
#[case("postgresql+psycopg2://me@[::1]:5433", "::1", 5433, "app", "me", None, SslMode::Prefer)]
#[case(
    "postgresql://me:a@b:c@db/reports?ssl=true",
    "db",
    5432,
    "reports",
    "me",
    Some("a@b:c"),
    SslMode::Require
)]
fn url_says_all_that_libpq_reads_from_it(
    #[case] url: &str,
    #[case] host: &str,
    #[case] port: u16,
    #[case] database: &str,
    #[case] user: &str,
    #[case] secret: Option<&str>,
    #[case] sslmode: SslMode,
) {
    let connection = app(&format!("url = '{url}'\n"), &[]);
    assert_eq!((connection.host.as_str(), connection.port), (host, port));
    assert_eq!((connection.database.as_str(), connection.user.as_str()), (database, user));
    assert_eq!(password(&connection), secret);
    assert_eq!(connection.sslmode, sslmode);
}

#[rstest]
#[case("mysql://u:hush@db/x")]
#[case("postgresql://u:hush@a,b/x")]
#[case("postgresql://u:hush@db:port/x")]
#[case("postgresql://u:hush@[::1/x")]
#[case("postgresql://u:hush@db/x?sslcert=/c")]
#[case("postgresql://u:hush@db/x?sslmode")]
#[case("postgresql://u:hush%FF@db/x")]
fn bad_url_is_refused_without_quoting_it(#[case] url: &str) {
    let refusal = refusal(&format!("[database.app]\nurl = '{url}'\n"), &[]);
    assert!(refusal.contains("database.app.url") && !refusal.contains("hush"), "{refusal}");
}

#[test]
fn two_ways_to_connect_are_refused() {
    let refusal =
        refusal("[database.app]\nhost = 'a'\n", &[("BELAY__DATABASE__APP__URL", "postgresql:///x")]);
    assert!(
        refusal.starts_with("read settings environment variable BELAY__DATABASE__APP__URL: "),
        "{refusal}"
    );
    assert!(refusal.contains("database.app.url and database.app.host (in "), "{refusal}");
}

#[test]
fn service_file_is_read_as_libpq_does() {
    let folder = Folder::with("");
    let file = folder.put(
        "service.conf",
        "# ours\n[other]\nhost=no\n\n[billing]\nhost=db3\nport=6000\ndbname=bill\nuser=b\n\
         password=a\\b\"c;d#e\nsslmode=require\nconnect_timeout=3\n",
    );
    let named = format!("service = 'billing'\nservice_file = '{}'\n", file.display());
    let by_variable = [("PGSERVICEFILE", file.to_str().unwrap())];
    for connection in [app(&named, &[]), app("service = 'billing'\n", &by_variable)] {
        assert_eq!((connection.host.as_str(), connection.port), ("db3", 6000));
        assert_eq!((connection.database.as_str(), connection.user.as_str()), ("bill", "b"));
        assert_eq!(password(&connection), Some("a\\b\"c;d#e"));
        assert_eq!(connection.sslmode, SslMode::Require);
    }
    let refusal = refusal("[database.app]\nservice = 'gone'\n", &by_variable);
    assert!(refusal.contains("names service \"gone\", which is not in "), "{refusal}");
}

#[test]
fn service_option_that_cannot_be_honoured_is_refused() {
    let folder = Folder::with("");
    let file = folder.put("service.conf", "[billing]\nhost=db3\nsslcert=/c\n");
    let named = format!("[database.app]\nservice = 'billing'\nservice_file = '{}'\n", file.display());
    let refusal = refusal(&named, &[]);
    assert!(refusal.contains("which has option sslcert, which is not supported"), "{refusal}");
}

#[test]
fn section_comes_before_cluster_before_libpq_before_defaults() {
    let folder = Folder::with(
        "[repository]\nurl = 'file:///srv'\n[cluster]\nname = 'prod'\nhost = 'of-cluster'\nuser = 'of-cluster'\n\
         jobs = 5\n[database.app]\nhost = 'of-section'\n",
    );
    let variables = [
        ("PGHOST", "of-libpq"),
        ("PGUSER", "of-libpq"),
        ("PGPORT", "7000"),
        ("PGPASSWORD", "of-libpq"),
        ("PGSSLMODE", ""),
    ];
    let settings = folder.load(&variables).unwrap();
    let app = &settings.databases["app"];
    assert_eq!(app.connection.host, "of-section");
    assert_eq!(app.connection.user, "of-cluster");
    assert_eq!(app.connection.port, 7000);
    assert_eq!(password(&app.connection), Some("of-libpq"));
    assert_eq!(app.connection.sslmode, SslMode::Prefer);
    assert_eq!(app.jobs, 5);
    assert_eq!(settings.cluster.connection.host, "of-cluster");
    assert_eq!(settings.cluster.connection.database, "postgres");
}

#[test]
fn cluster_url_never_names_the_database_of_a_section() {
    let settings = Folder::with(
        "[repository]\nurl = 'file:///srv'\n[cluster]\nname = 'prod'\nurl = 'postgresql://me@db/one'\n\
         [database.app]\n[database.other]\nname = 'two'\n",
    );
    let settings = settings.load(&[]).unwrap();
    assert_eq!(settings.databases["app"].connection.database, "app");
    assert_eq!(settings.databases["other"].connection.database, "two");
    assert_eq!(settings.databases["other"].connection.host, "db");
}

#[test]
fn service_of_libpq_comes_before_its_single_variables() {
    let folder = Folder::with("");
    let file = folder.put("service.conf", "[s]\nuser=of-service\ndbname=never\n");
    let variables =
        [("PGSERVICE", "s"), ("PGSERVICEFILE", file.to_str().unwrap()), ("PGUSER", "no"), ("PGPORT", "7000")];
    let connection = app("", &variables);
    assert_eq!((connection.user.as_str(), connection.port), ("of-service", 7000));
    assert_eq!(connection.database, "app");
}

#[test]
fn pgpass_gives_the_password_of_the_first_match() {
    let folder = Folder::with("");
    folder.put(
        ".pgpass",
        "# ours\nnonsense\nlocalhost:5432:app:postgres:by socket\ndb\\:1:5432:\\*:me:literal star\n\
         db\\:1:5432:*:me:a\\:b\\\\c:ignored\n*:*:*:postgres:last\n",
    );
    let home = [("HOME", folder.0.path().to_str().unwrap())];
    assert_eq!(password(&app("", &home)), Some("by socket"));
    assert_eq!(password(&app("host = 'db:1'\nuser = 'me'\n", &home)), Some("a:b\\c"));
    assert_eq!(password(&app("host = 'far'\n", &home)), Some("last"));
    assert_eq!(password(&app("user = 'nobody'\n", &home)), None);
    let given = [home[0], ("PGPASSWORD", "given")];
    assert_eq!(password(&app("", &given)), Some("given"));
}

#[test]
fn pgpassfile_comes_before_home_and_may_be_nothing() {
    let folder = Folder::with("");
    folder.put(".pgpass", "*:*:*:*:of home\n");
    let other = folder.put("other", "*:*:*:*:of variable\n");
    let home = ("HOME", folder.0.path().to_str().unwrap());
    assert_eq!(password(&app("", &[home, ("PGPASSFILE", other.to_str().unwrap())])), Some("of variable"));
    assert_eq!(password(&app("", &[home, ("PGPASSFILE", "/dev/null")])), None);
    assert_eq!(password(&app("", &[home, ("PGPASSFILE", "/no/such/file")])), None);
}

#[test]
fn database_without_a_section_has_the_clusters_defaults_and_its_own_pgpass_entry() {
    let folder =
        Folder::with(&format!("{SMALLEST}large_table = '1MiB'\n[database.app]\nname = 'app_db'\njobs = 9\n"));
    folder.put(".pgpass", "*:*:found:*:its own\n*:*:postgres:*:of postgres\n");
    let settings = folder.load(&[("HOME", folder.0.path().to_str().unwrap())]).unwrap();
    let found = settings.cluster_database("found");
    assert_eq!((found.key.as_str(), found.connection.database.as_str()), ("found", "found"));
    assert_eq!((found.large_table_bytes, found.jobs), (1 << 20, 2));
    assert_eq!(password(&found.connection), Some("its own"));
    assert_eq!(password(&settings.cluster.connection), Some("of postgres"));
    let listed = settings.cluster_database("app_db");
    assert_eq!((listed.key.as_str(), listed.jobs), ("app", 9));
}

#[test]
fn two_sections_never_mean_one_database() {
    let refusal = refusal("[database.a]\nname = 'app'\n[database.app]\n", &[]);
    assert!(refusal.ends_with("database.app means database \"app\", and so does database.a"), "{refusal}");
}

#[test]
fn password_file_is_one_line() {
    let folder = Folder::with("");
    let key = |path: &PathBuf| format!("password_file = '{}'\n", path.display());
    let good = folder.put_with_mode("good", " two words \n", 0o640);
    assert_eq!(password(&app(&key(&good), &[])), Some(" two words "));
    for text in ["", "\n", "one\ntwo\n"] {
        let bad = folder.put("bad", text);
        let refusal = refusal(&format!("[database.app]\n{}", key(&bad)), &[]);
        assert!(refusal.contains("database.app.password_file must name a file of one line"), "{refusal}");
    }
    let gone = refusal("[database.app]\npassword_file = '/no/such/file'\n", &[]);
    assert_eq!(gone, "read /no/such/file for database.app.password_file");
}

#[test]
fn secret_that_everybody_can_read_is_refused() {
    let folder = Folder::with(SMALLEST);
    let open = folder.put_with_mode("open", "*:*:*:*:hush\n[s]\npassword=hush\n", 0o644);
    let open_to_all = |refusal: String| {
        assert!(refusal.ends_with("the file is open to every user of this host"), "{refusal}");
    };
    open_to_all(refusal(&format!("[database.app]\npassword_file = '{}'\n", open.display()), &[]));
    open_to_all(refusal("", &[("PGPASSFILE", open.to_str().unwrap())]));
    let service = folder.put_with_mode("service", "[s]\npassword=hush\n", 0o644);
    open_to_all(refusal("", &[("PGSERVICEFILE", service.to_str().unwrap()), ("PGSERVICE", "s")]));
    let url = format!("{SMALLEST}[database.app]\nurl = 'postgresql://u:hush@db/app'\n");
    folder.put_with_mode("belay.toml", &url, 0o644);
    open_to_all(folder.load(&[]).unwrap_err().to_string());
}

#[test]
fn debug_hides_every_password() {
    let folder = Folder::with(&format!("{SMALLEST}[database.app]\nurl = 'postgresql://u:hush@db/app'\n"));
    folder.put(".pgpass", "*:*:*:*:hush\n");
    let settings =
        folder.load(&[("HOME", folder.0.path().to_str().unwrap()), ("PGPASSWORD", "hush")]).unwrap();
    assert_eq!(password(&settings.databases["app"].connection), Some("hush"));
    let shown = format!("{settings:?} {:?}", settings.cluster_database("other"));
    assert!(shown.contains("app") && !shown.contains("hush"), "{shown}");
}

#[rstest]
#[case("/run/postgresql", true)]
#[case("localhost", true)]
#[case("127.0.0.1", true)]
#[case("::1", true)]
#[case("db.example.com", false)]
#[case("10.0.0.1", false)]
fn socket_and_loopback_are_local(#[case] host: &str, #[case] expected: bool) {
    assert_eq!(app(&format!("host = '{host}'\n"), &[]).is_local(), expected);
}

#[test]
fn other_database_is_reached_the_same_way() {
    let connection = app("host = 'db'\nport = 6000\n", &[("PGPASSWORD", "same")]);
    let other = connection.with_database("other");
    assert_eq!((other.host.as_str(), other.port, other.database.as_str()), ("db", 6000, "other"));
    assert_eq!(password(&other), Some("same"));
}

//! What `[gate]` says, and what is refused.

use rstest::rstest;
use secrecy::ExposeSecret as _;

use super::*;
use crate::rules::template::Placeholder;
use crate::settings::tests::{Folder, SMALLEST, load, refusal};

fn gate(section: &str) -> GateSettings {
    load(section, &[]).unwrap().gate
}

#[test]
fn what_is_shown_as_a_default_is_the_default() {
    let gate = gate("");
    assert_eq!((gate.consistency, gate.sessions), (Consistency::Fenced, SessionPolicy::Refuse));
    assert_eq!((gate.fresh_within, gate.verify_depth), (TimeDelta::zero(), Depth::Restored));
    assert_eq!((gate.rehearse, gate.rehearse_cycle), (false, RehearsalCycle::Up));
    assert_eq!(gate.timeout, Duration::from_secs(6 * 3600));
    assert_eq!((gate.settle_timeout, gate.fence_timeout), (Duration::from_secs(60), Duration::from_secs(60)));
    assert_eq!(gate.lock_timeout, Duration::from_secs(30));
    assert_eq!((gate.check_timeout, gate.lease), (Duration::from_secs(300), Duration::from_secs(60)));
    assert_eq!((gate.on_failure, gate.keep_failed), (OnFailure::Restore, TimeDelta::days(7)));
    assert_eq!(gate.version_table, "alembic_version".parse().unwrap());
    assert_eq!(gate.version_column, "version_num");
    assert_eq!((gate.stamped, gate.allow_breaking), (Stamped::Accept, false));
    assert!(gate.role.is_none() && gate.disposable_slots.is_empty());
    assert_eq!(gate.local_copy, LocalCopy::None);
    assert!(gate.environment.is_empty() && gate.fences.is_empty() && gate.checks.is_empty());
}

#[test]
fn every_key_is_read() {
    let folder = Folder::with("");
    let password_file = folder.put("password", "hush\n");
    folder.put(
        "belay.toml",
        &format!(
            "{SMALLEST}[gate]\nconsistency = 'checked'\nsessions = 'end'\nfresh_within = '1h'\n\
             verify_depth = 'stored'\nrehearse = true\nrehearse_cycle = 'up-down-up'\n\
             rehearse_down = ['alembic', 'downgrade', 'base']\ntimeout = '1h'\nsettle_timeout = '2s'\n\
             fence_timeout = '3s'\nlock_timeout = '4s'\ncheck_timeout = '5s'\nlease = '10s'\non_failure = 'hold'\nkeep_failed = '1d'\n\
             version_table = 'ops.version'\nversion_column = 'rev'\nstamped = 'refuse'\n\
             allow_breaking = true\nrole = 'migrator'\nrole_password_file = '{}'\n\
             disposable_slots = ['s']\nlocal_copy = 'template'\n",
            password_file.display()
        ),
    );
    let gate = folder.load(&[]).unwrap().gate;
    assert_eq!((gate.consistency, gate.sessions), (Consistency::Checked, SessionPolicy::End));
    assert_eq!((gate.fresh_within, gate.verify_depth), (TimeDelta::hours(1), Depth::Stored));
    let down = ["alembic", "downgrade", "base"].map(String::from).to_vec();
    assert_eq!((gate.rehearse, gate.rehearse_cycle), (true, RehearsalCycle::UpDownUp { down }));
    let timeouts =
        [gate.timeout, gate.settle_timeout, gate.fence_timeout, gate.lock_timeout, gate.check_timeout];
    assert_eq!(gate.lease, Duration::from_secs(10));
    assert_eq!(timeouts, [3600, 2, 3, 4, 5].map(Duration::from_secs));
    assert_eq!((gate.on_failure, gate.keep_failed), (OnFailure::Hold, TimeDelta::days(1)));
    assert_eq!(gate.version_table, "ops.version".parse().unwrap());
    assert_eq!((gate.version_column.as_str(), gate.stamped), ("rev", Stamped::Refuse));
    assert!(gate.allow_breaking);
    let role = gate.role.unwrap();
    assert_eq!((role.name.as_str(), role.password.unwrap().expose_secret()), ("migrator", "hush"));
    assert_eq!((gate.disposable_slots, gate.local_copy), (vec!["s".to_owned()], LocalCopy::Template));
}

#[test]
fn fences_keep_their_order_and_their_kinds() {
    let gate = gate(
        "[[gate.fence]]\nkind = 'pgbouncer'\nhost = '/run'\nuser = 'admin'\n\
         [[gate.fence]]\nkind = 'kubectl-scale'\nname = 'pods'\ndeployments = ['a/b', 'c/d']\ncontext = 'prod'\n\
         [[gate.fence]]\nkind = 'role'\nroles = ['app']\n\
         [[gate.fence]]\nkind = 'command'\nraise = ['up', '']\nrelease = ['down']\n",
    );
    let names: Vec<_> = gate.fences.iter().map(|fence| fence.name.as_str()).collect();
    assert_eq!(names, ["pgbouncer", "pods", "role", "command"]);
    let deployment = |text: &str| text.parse::<Deployment>().unwrap();
    let kinds: Vec<_> = gate.fences.into_iter().map(|fence| fence.kind).collect();
    let expected = [
        FenceKind::Pgbouncer {
            host: "/run".into(),
            port: 6432,
            user: "admin".into(),
            password_file: None,
            databases: Vec::new(),
        },
        FenceKind::KubectlScale {
            deployments: vec![deployment("a/b"), deployment("c/d")],
            context: Some("prod".into()),
            kubectl: "kubectl".into(),
        },
        FenceKind::Role { roles: vec!["app".into()] },
        FenceKind::Command { raise: vec!["up".into(), String::new()], release: vec!["down".into()] },
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn checks_and_variables_are_read() {
    let gate = gate(
        "[gate.environment]\nCRONOS_URL = 'x://{user}@h'\nPLAIN = ''\n\
         [[gate.check]]\nname = 'rows'\nsql = 'SELECT 1'\nexpect = '>= before'\n\
         [[gate.check]]\nname = 'smoke'\ncommand = ['test', '-e', '/']\n",
    );
    let [rows, smoke] = gate.checks.as_slice() else { panic!("{:?}", gate.checks) };
    assert!(
        matches!(&rows.kind, CheckKind::Sql { sql, expect } if sql == "SELECT 1" && expect.holds("1", "2"))
    );
    assert_eq!(smoke.kind, CheckKind::Command(["test", "-e", "/"].map(String::from).to_vec()));
    let names: Vec<_> = gate.environment.keys().map(String::as_str).collect();
    assert_eq!(names, ["CRONOS_URL", "PLAIN"]);
    let fill = |_: Option<&str>, place| (place == Placeholder::User).then(|| "a b".to_owned());
    assert_eq!(gate.environment["CRONOS_URL"].fill(fill).unwrap(), "x://a%20b@h");
}

#[test]
fn environment_reaches_booleans_and_commands() {
    let variables = [
        ("BELAY__GATE__REHEARSE", "true"),
        ("BELAY__GATE__REHEARSE_CYCLE", "up-down-up"),
        ("BELAY__GATE__REHEARSE_DOWN", "alembic, downgrade, base"),
    ];
    let gate = load("", &variables).unwrap().gate;
    let down = ["alembic", "downgrade", "base"].map(String::from).to_vec();
    assert_eq!((gate.rehearse, gate.rehearse_cycle), (true, RehearsalCycle::UpDownUp { down }));
    assert!(
        refusal("", &[("BELAY__GATE__REHEARSE", "yes")]).ends_with("gate.rehearse must be true or false")
    );
}

#[rstest]
#[case("[gate]\nrehears = true\n", "unknown key gate.rehears (did you mean rehearse?)")]
#[case(
    "[[gate.fence]]\nkind = 'role'\nroles = ['a']\n[[gate.fence]]\nkind = 'role'\nrols = ['a']\nroles = ['b']\n",
    "unknown key gate.fence[2].rols (did you mean roles?)"
)]
#[case("[[gate.fence]]\nkind = 'role'\nroles = ['a']\nhost = 'h'\n", "unknown key gate.fence[1].host")]
#[case(
    "[[gate.check]]\nname = 'a'\nsql = 's'\nexpct = '= 0'\nexpect = '= 0'\n",
    "unknown key gate.check[1].expct (did you mean expect?)"
)]
#[case("[[gate.fences]]\nkind = 'role'\n", "unknown key gate.fences (did you mean fence?)")]
#[case("[gate.fence]\nkind = 'role'\n", "gate.fence must be sections [[gate.fence]], not a section")]
#[case("[gate]\nfence = ['role']\n", "gate.fence[1] must be a section, not text")]
#[case("[[gate.fence]]\nroles = ['a']\n", "gate.fence[1].kind is missing")]
#[case(
    "[[gate.fence]]\nkind = 'wall'\n",
    "gate.fence[1].kind must be one of \"kubectl-scale\", \"pgbouncer\", \"role\", \"command\", not \"wall\""
)]
#[case("[[gate.fence]]\nkind = 'role'\n", "gate.fence[1].roles is missing")]
#[case("[[gate.fence]]\nkind = 'role'\nroles = []\n", "gate.fence[1].roles must not be empty")]
#[case(
    "[[gate.fence]]\nkind = 'kubectl-scale'\ndeployments = ['--all/x']\n",
    "gate.fence[1].deployments must hold deployments as \"namespace/name\", not \"--all/x\""
)]
#[case("[[gate.fence]]\nkind = 'command'\nraise = ['a']\n", "gate.fence[1].release is missing")]
#[case(
    "[[gate.fence]]\nkind = 'command'\nraise = []\nrelease = ['a']\n",
    "gate.fence[1].raise must name a program first"
)]
#[case("[[gate.fence]]\nkind = 'pgbouncer'\nuser = 'a'\n", "gate.fence[1].host is missing")]
#[case(
    "[[gate.fence]]\nkind = 'pgbouncer'\nuser = 'a'\nhost = 'h'\npassword_file = '/no/such'\n",
    "read /no/such for gate.fence[1].password_file"
)]
#[case("[[gate.check]]\nsql = 's'\n", "gate.check[1].name is missing")]
#[case("[[gate.check]]\nname = 'a'\nsql = 's'\n", "gate.check[1].expect is missing")]
#[case("[[gate.check]]\nname = 'a'\nexpect = '= 0'\n", "gate.check[1].expect needs sql beside it")]
#[case("[[gate.check]]\nname = 'a'\n", "gate.check[1] needs sql and expect, or command")]
#[case(
    "[[gate.check]]\nname = 'a'\nsql = 's'\ncommand = ['c']\n",
    "gate.check[1].sql and command exclude each other"
)]
#[case(
    "[[gate.check]]\nname = 'a'\nsql = 's'\nexpect = 'same'\n",
    "gate.check[1].expect must be \"unchanged\""
)]
#[case(
    "[[gate.check]]\nname = 'a'\ncommand = ['c']\n[[gate.check]]\nname = 'a'\ncommand = ['c']\n",
    "gate.check[2].name is \"a\", and so is another check's"
)]
#[case(
    "[gate]\nconsistency = 'open'\n",
    "gate.consistency must be one of \"fenced\", \"checked\", \"unfenced\""
)]
#[case("[gate]\nrehearse = 'true'\n", "gate.rehearse must be true or false, not text")]
#[case("[gate]\nrehearse_cycle = 'up-down-up'\n", "gate.rehearse_down is missing")]
#[case("[gate]\nversion_table = 'a.'\n", "gate.version_table names no table")]
#[case("[gate]\nrole_password_file = '/a'\n", "gate.role_password_file needs role beside it")]
#[case(
    "[gate]\nrole = 'app'\n[[gate.fence]]\nkind = 'role'\nroles = ['app']\n",
    "gate has a fence that keeps out its own role \"app\""
)]
#[case("[gate.environment]\nURL = '{hots}'\n", "gate.environment.URL has the unknown place {hots}")]
#[case("[gate.environment]\nURL = '{'\n", "gate.environment.URL has a brace alone; write {{ or }} for")]
#[case(
    "[gate.environment]\nURL = '{nosuch.url}'\n",
    "gate.environment.URL has the place of a database that has no section: nosuch"
)]
#[case(
    "[[gate.check]]\nname = 'a'\ndatabase = 'nosuch'\ncommand = ['c']\n",
    "gate.check[1].database names no section: nosuch"
)]
#[case("[gate.environment]\n'A B' = ''\n", "gate.environment.A B must be called by letters, digits and _")]
#[case("[gate.environment]\nPORT = 5\n", "gate.environment.PORT must be text, not a whole number")]
fn what_cannot_be_meant_is_refused(#[case] more: &str, #[case] complaint: &str) {
    let refusal = refusal(more, &[]);
    assert!(refusal.contains(complaint), "{refusal}");
}

use rstest::rstest;

use super::*;

/// As Alembic up to 1.7 wrote it.
const OLD: &str = r#""""add a column

Revision ID: 27c6a30d7c24
Revises: 1975ea83b712
Create Date: 2011-11-08 11:40:27.089406

"""

# revision identifiers, used by Alembic.
revision = '27c6a30d7c24'
down_revision = '1975ea83b712'
branch_labels = None
depends_on = None

from alembic import op
import sqlalchemy as sa


def upgrade():
    revision = compute()
    op.add_column('account', sa.Column('last_transaction_date', sa.DateTime))
"#;

/// As Alembic from 1.13 on writes it; the async template has the same.
const NEW: &str = r#""""merge them

Revision ID: d4
Revises: b2, c3
Create Date: 2026-02-03 04:05:06.000007

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = 'd4'
down_revision: Union[str, Sequence[str], None] = ('b2', 'c3')
branch_labels: Union[str, Sequence[str], None] = ('ledger',)
depends_on: Union[str, Sequence[str], None] = 'a1'


def upgrade() -> None:
    """Upgrade schema."""
    pass
"#;

/// The multidb template.
const MULTIDB: &str = r#""""both engines

Revision ID: e5
Revises:

"""
from alembic import op

# revision identifiers, used by Alembic.
revision = "e5"
down_revision = None
branch_labels = None
depends_on = None


def upgrade(engine_name: str) -> None:
    globals()["upgrade_%s" % engine_name]()


def upgrade_engine1() -> None:
    pass
"#;

fn read(text: &str) -> Revision {
    parse_revision(text).unwrap().unwrap()
}

fn with(assignment: &str) -> Result<Option<Revision>, RevisionError> {
    parse_revision(&format!("revision = 'x1'\ndown_revision = None\n{assignment}\n"))
}

#[test]
fn a_script_of_an_old_template_is_read() {
    let revision = read(OLD);
    assert_eq!(
        (revision.id.as_str(), revision.down.as_slice()),
        ("27c6a30d7c24", ["1975ea83b712".into()].as_slice())
    );
    assert_eq!((revision.depends_on.len(), revision.labels.len()), (0, 0));
    assert_eq!(revision.message(), "add a column");
    assert!(revision.doc.ends_with("11:40:27.089406"), "{}", revision.doc);
}

#[test]
fn a_script_of_a_new_template_is_read() {
    let revision = read(NEW);
    assert_eq!(revision.down, ["b2", "c3"]);
    assert_eq!((revision.labels, revision.depends_on), (vec!["ledger".into()], vec!["a1".into()]));
}

#[test]
fn a_script_for_several_databases_is_read() {
    let revision = read(MULTIDB);
    assert_eq!((revision.id.as_str(), revision.down.len(), revision.message()), ("e5", 0, "both engines"));
}

#[rstest]
#[case("depends_on = 'a'", &["a"])]
#[case("depends_on = ('a')", &["a"])]
#[case("depends_on = ('a',)", &["a"])]
#[case("depends_on = 'a', \"b\"", &["a", "b"])]
#[case("depends_on = ['a', # first\n  'b',\n]", &["a", "b"])]
#[case("depends_on = (\n    'a'\n    'b'\n)", &["ab"])]
#[case("depends_on = ()", &[])]
#[case("depends_on = []", &[])]
#[case("depends_on = (None)", &[])]
#[case("depends_on: str | None = r'a'", &["a"])]
#[case("depends_on: Optional[Union[str, tuple[str, ...]]] = u'a'", &["a"])]
#[case("depends_on: str", &[])]
#[case("depends_on = 'b'; depends_on = 'a'", &["a"])]
#[case("depends_on = \\\n    'a'", &["a"])]
#[case("if depends_on == 'b': pass", &[])]
#[case("op.f(depends_on='b')", &[])]
#[case("class A:\n    depends_on = f()", &[])]
#[case("@decorated\ndef f():\n    depends_on = f()", &[])]
fn values_are_read_as_python_means_them(#[case] assignment: &str, #[case] depends_on: &[&str]) {
    assert_eq!(with(assignment).unwrap().unwrap().depends_on, depends_on, "{assignment}");
}

#[rstest]
#[case("depends_on = other")]
#[case("depends_on = 'a' + 'b'")]
#[case("depends_on = f'{a}'")]
#[case("depends_on = b'a'")]
#[case("depends_on = ('a', None)")]
#[case("depends_on = 1")]
#[case("depends_on = tuple(['a'])")]
#[case("depends_on += 'a'")]
#[case("depends_on = other = 'a'")]
#[case("other = depends_on = 'a'")]
#[case("depends_on, other = 'a', 'b'")]
#[case("from .names import depends_on")]
#[case("if IS_LARGE:\n    depends_on = 'a'")]
#[case("if IS_LARGE: depends_on = 'a'")]
#[case("for depends_on in f(): pass")]
#[case("del depends_on")]
fn values_that_only_python_knows_are_refused(#[case] assignment: &str) {
    let expected = RevisionError::NotPlain { line: 3, name: "depends_on" };
    let error = with(assignment).unwrap_err();
    assert!(
        error == expected || matches!(error, RevisionError::NotPlain { line: 4, name: "depends_on" }),
        "{assignment}: {error}"
    );
}

#[test]
fn a_module_without_a_revision_is_none() {
    assert_eq!(parse_revision("import os\nREVISION = 'a'\n"), Ok(None));
    assert_eq!(parse_revision(""), Ok(None));
    assert_eq!(parse_revision("def f():\n    revision = 'a'\n"), Ok(None));
}

#[test]
fn a_revision_that_alembic_would_refuse_is_refused() {
    let refused = |text| parse_revision(text).unwrap_err().to_string();
    assert_eq!(refused("revision = 'a'"), "read revision a: down_revision is not set");
    assert_eq!(
        refused("revision = 'a-b'\ndown_revision = None"),
        "read revision \"a-b\": an id holds none of @, -, + and :"
    );
    assert_eq!(
        refused("revision = None\ndown_revision = None"),
        "read line 1: revision is not plainly a text, None, or a list of texts"
    );
}

#[rstest]
#[case("'''drop it\n\nBREAKING CHANGE: the old\n  column goes\n\nRevises: a'''", Some("the old column goes"))]
#[case("r\"\"\"drop it\nBREAKING CHANGE:\nreaders break\n\"\"\"", Some("readers break"))]
#[case("'BREAKING CHANGE:'", Some(""))]
#[case("'''not a breaking change'''", None)]
#[case("x = 'BREAKING CHANGE: in no docstring'", None)]
#[case("'BREAKING CHANGE: in an expression' + x", None)]
fn a_breaking_change_is_what_the_docstring_says(#[case] first: &str, #[case] breaking: Option<&str>) {
    let revision = read(&format!("{first}\nrevision = 'a'\ndown_revision = None\n"));
    assert_eq!(revision.breaking.as_deref(), breaking);
}

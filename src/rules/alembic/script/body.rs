//! Whether a function of a script plainly does nothing.

use super::{Statement, Token};

/// Whether the module defines `name` once, plainly, and its body is `pass`, a docstring, `...` or
/// a bare `return`. What is not seen to do nothing may do something.
pub(super) fn does_nothing(statements: &[Statement], name: &str) -> bool {
    let is_named = |statement: &&Statement| statement.tokens.iter().any(|token| token.is_word(name));
    if statements.iter().filter(is_named).count() != 1 {
        return false;
    }
    let is_header = |statement: &Statement| {
        let mut words = statement.tokens.iter();
        !statement.is_indented
            && words.next().is_some_and(|first| first.is_word("def"))
            && words.next().is_some_and(|second| second.is_word(name))
    };
    let Some(at) = statements.iter().position(is_header) else { return false };
    let (before, from) = statements.split_at(at);
    let is_decorated = before.last().and_then(|last| last.tokens.first()).is_some_and(|it| it.is_mark("@"));
    let Some((header, after)) = from.split_first() else { return false };
    !is_decorated && has_idle_body(header, after)
}

fn has_idle_body(header: &Statement, after: &[Statement]) -> bool {
    match header.tokens.iter().rposition(|token| token.is_mark(":")).map(|at| at + 1) {
        // A block follows.
        Some(end) if end == header.tokens.len() => {
            let mut block = after.iter().take_while(|statement| statement.is_indented).peekable();
            block.peek().is_some() && block.all(|statement| is_nothing(&statement.tokens))
        }
        // The body stands in the line of its header, and nothing beside it.
        Some(start) => {
            is_nothing(header.tokens.get(start..).unwrap_or_default())
                && after.first().is_none_or(|next| next.line != header.line)
        }
        None => false,
    }
}

fn is_nothing(tokens: &[Token]) -> bool {
    match tokens {
        [Token::Text(_)] => true,
        [one] => one.is_word("pass") || one.is_word("return"),
        [first, second] => first.is_word("return") && second.is_word("None"),
        [_, _, _] => tokens.iter().all(|token| token.is_mark(".")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::statements;

    fn does_nothing(source: &str) -> bool {
        super::does_nothing(&statements(source).unwrap(), "upgrade")
    }

    #[test]
    fn an_idle_body_does_nothing() {
        for body in [
            "\n    pass\n",
            " pass\n",
            "\n    \"\"\"Merges them.\"\"\"\n",
            "\n    '''Merges them.'''\n    # nothing else\n    pass\n",
            "\n    ...\n",
            "\n    return\n",
            "\n    return None\n",
        ] {
            for header in
                ["def upgrade():", "def upgrade() -> None:", "def upgrade(engine: str = 'a') -> None:"]
            {
                let after = "\ndef downgrade():\n    op.drop_table('t')\n";
                assert!(
                    does_nothing(&format!("import sqlalchemy as sa\n\n{header}{body}{after}")),
                    "{body:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_plainly_idle_may_do_something() {
        for source in [
            "def upgrade():\n    op.add_column('a', b)\n",
            "def upgrade():\n    pass\n    op.add_column('a', b)\n",
            "def upgrade(): pass; op.add_column('a', b)\n",
            "def upgrade(): op.add_column('a', b)\n",
            "def upgrade():\n    if True:\n        pass\n",
            "def upgrade():\n    return op.execute('x')\n",
            "def upgrade():\n    f'{op.execute(1)}'\n",
            "@runs(something)\ndef upgrade():\n    pass\n",
            "def upgrade():\n    pass\nupgrade = other\n",
            "from elsewhere import upgrade\n",
            "if True:\n    def upgrade():\n        pass\n",
            "async def upgrade():\n    pass\n",
            "def upgrade():\n",
            "def downgrade():\n    pass\n",
        ] {
            assert!(!does_nothing(source), "{source:?}");
        }
    }
}

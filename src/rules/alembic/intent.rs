//! What a command line is about to do with Alembic.
//!
//! Comes in: the words of a command. Goes out: the options that say which checkout is meant, the
//! subcommand and its target; nothing for a command that is not Alembic's, or does not migrate.

/// A command that changes the version table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// `-c`, as often as it was given: an `alembic.ini`, a `pyproject.toml`, or one of each.
    pub configs: Vec<String>,
    /// `-n`: the section of `alembic.ini`.
    pub section: String,
    /// `-x`: what `env.py` is told.
    pub arguments: Vec<String>,
    /// What is to happen.
    pub action: Action,
    /// `--sql`: statements are printed, and the database stays as it is.
    pub is_offline: bool,
}

/// The subcommands of Alembic that migrate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `upgrade TARGET`
    Upgrade(String),
    /// `downgrade TARGET`
    Downgrade(String),
    /// `stamp TARGET…`
    Stamp {
        /// What is written into the version table.
        targets: Vec<String>,
        /// `--purge`: after all its rows were removed.
        is_purging: bool,
    },
}

impl Intent {
    /// Finds Alembic in the words of a command, be it `alembic`, a path to it, or behind
    /// `python -m`, `poetry run`, `uv run` and the like; `None` if it is not there, or does not
    /// migrate. Text for a shell is one word, and not looked into.
    pub fn of(command: &[String]) -> Option<Self> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let is_alembic = |word: &str| word.rsplit('/').next() == Some("alembic");
        // An earlier one may be the name of a package or of a service.
        let places = words.iter().enumerate().filter(|(_, word)| is_alembic(word)).map(|(at, _)| at + 1);
        places.filter_map(|start| words.get(start..)).find_map(of_arguments)
    }
}

/// Options before the subcommand.
const COMMON: &[Known] = &[
    Known { short: Some('c'), long: "config", takes_value: true },
    Known { short: Some('n'), long: "name", takes_value: true },
    Known { short: Some('x'), long: "", takes_value: true },
    Known { short: Some('q'), long: "quiet", takes_value: false },
    Known { short: None, long: "raiseerr", takes_value: false },
];

/// Options behind it.
const OWN: &[Known] = &[
    Known { short: None, long: "sql", takes_value: false },
    Known { short: None, long: "tag", takes_value: true },
    Known { short: None, long: "purge", takes_value: false },
];

struct Known {
    short: Option<char>,
    long: &'static str,
    takes_value: bool,
}

impl Known {
    fn name(&self) -> String {
        self.short.map_or_else(|| self.long.to_owned(), String::from)
    }
}

/// One step through the arguments.
enum Piece<'a> {
    End,
    /// An option by its short name, or the long one where it has none, and its value.
    Option(String, &'a str),
    Word(&'a str),
}

fn of_arguments(words: &[&str]) -> Option<Intent> {
    let mut words = words.iter().copied();
    let (mut configs, mut arguments, mut section) = (Vec::new(), Vec::new(), "alembic".to_owned());
    let command = loop {
        match piece(&mut words, COMMON)? {
            Piece::End => return None,
            Piece::Word(command) => break command,
            Piece::Option(name, value) => match name.as_str() {
                "c" => configs.push(value.to_owned()),
                "n" => section = value.to_owned(),
                "x" => arguments.push(value.to_owned()),
                _ => {}
            },
        }
    };
    let (mut targets, mut options) = (Vec::new(), Vec::new());
    loop {
        match piece(&mut words, OWN)? {
            Piece::End => break,
            Piece::Word(target) => targets.push(target.to_owned()),
            Piece::Option(name, _) => options.push(name),
        }
    }
    let has = |wanted: &str| options.iter().any(|name| name == wanted);
    let action = match (command, targets.as_slice()) {
        ("upgrade", [target]) if !has("purge") => Action::Upgrade(target.clone()),
        ("downgrade", [target]) if !has("purge") => Action::Downgrade(target.clone()),
        ("stamp", [_, ..]) => Action::Stamp { targets, is_purging: has("purge") },
        _ => return None,
    };
    Some(Intent { configs, section, arguments, action, is_offline: has("sql") })
}

/// Reads on as Python's argparse does; `None` for what Alembic would not take.
fn piece<'a>(words: &mut impl Iterator<Item = &'a str>, known: &[Known]) -> Option<Piece<'a>> {
    let Some(word) = words.next() else { return Some(Piece::End) };
    let is_number = word.get(1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if word == "--" {
        return Some(words.next().map_or(Piece::End, Piece::Word));
    }
    if !word.starts_with('-') || word == "-" || is_number {
        return Some(Piece::Word(word));
    }
    let (option, value) = match word.strip_prefix("--") {
        Some(long) => {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            (long_option(name, known)?, value)
        }
        None => {
            let name = word.chars().nth(1)?;
            let option = known.iter().find(|option| option.short == Some(name))?;
            let value = word.get(1 + name.len_utf8()..).filter(|value| !value.is_empty());
            (option, value.map(|value| value.strip_prefix('=').unwrap_or(value)))
        }
    };
    let value = match (option.takes_value, value) {
        (true, Some(value)) => value,
        (true, None) => words.next()?,
        (false, None) => "",
        (false, Some(_)) => return None,
    };
    Some(Piece::Option(option.name(), value))
}

/// A long option by its name, or by the beginning of only one.
fn long_option<'a>(name: &str, known: &'a [Known]) -> Option<&'a Known> {
    if let Some(option) = known.iter().find(|option| option.long == name && !name.is_empty()) {
        return Some(option);
    }
    let mut begun = known.iter().filter(|option| !name.is_empty() && option.long.starts_with(name));
    begun.next().filter(|_| begun.next().is_none())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn of(command: &str) -> Option<Intent> {
        Intent::of(&command.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn upgrade() -> Intent {
        let action = Action::Upgrade("head".into());
        let section = "alembic".into();
        Intent { configs: Vec::new(), section, arguments: Vec::new(), action, is_offline: false }
    }

    #[rstest]
    #[case("alembic upgrade head")]
    #[case("/srv/app/.venv/bin/alembic upgrade head")]
    #[case("python -m alembic upgrade head")]
    #[case("python3.12 -u -X dev -m alembic upgrade head")]
    #[case("poetry run alembic upgrade head")]
    #[case("uv run --with alembic alembic upgrade head")]
    #[case("env PYTHONPATH=. alembic --raiseerr -q upgrade -- head")]
    #[case("docker compose exec -T alembic alembic upgrade head")]
    #[case("alembic upgrade --tag x head")]
    fn an_upgrade_is_found_wherever_alembic_stands(#[case] command: &str) {
        assert_eq!(of(command), Some(upgrade()), "{command}");
    }

    #[rstest]
    #[case("alembic -c db/alembic.ini -n billing -x tenant=a upgrade head")]
    #[case("alembic -cdb/alembic.ini -nbilling -xtenant=a upgrade head")]
    #[case("alembic --config=db/alembic.ini --name billing -x tenant=a upgrade head")]
    #[case("alembic --conf db/alembic.ini --na=billing -x=tenant=a upgrade head")]
    fn options_that_say_which_checkout_are_kept(#[case] command: &str) {
        let expected = Intent {
            configs: vec!["db/alembic.ini".into()],
            section: "billing".into(),
            arguments: vec!["tenant=a".into()],
            ..upgrade()
        };
        assert_eq!(of(command), Some(expected), "{command}");
    }

    #[test]
    fn a_downgrade_may_be_by_a_negative_number() {
        assert_eq!(of("alembic downgrade -1").unwrap().action, Action::Downgrade("-1".into()));
        assert_eq!(of("alembic upgrade +2").unwrap().action, Action::Upgrade("+2".into()));
    }

    #[test]
    fn a_stamp_may_have_several_targets() {
        let Action::Stamp { targets, is_purging } = of("alembic stamp --purge a1 b1").unwrap().action else {
            panic!("it is a stamp");
        };
        assert_eq!((targets, is_purging), (vec!["a1".into(), "b1".into()], true));
    }

    #[test]
    fn sql_is_printed_and_not_run() {
        assert!(of("alembic upgrade head --sql").unwrap().is_offline);
    }

    #[rstest]
    #[case("alembic")]
    #[case("alembic current")]
    #[case("alembic revision -m upgrade head")]
    #[case("alembic --version")]
    #[case("alembic upgrade")]
    #[case("alembic upgrade a b")]
    #[case("alembic upgrade --purge head")]
    #[case("alembic upgrade --wrong head")]
    #[case("alembic upgrade head --sql=1")]
    #[case("alembic upgrade -c alembic.ini head")]
    #[case("alembic -c")]
    #[case("django-admin migrate")]
    #[case("sh -c alembic.sh upgrade head")]
    #[case("python manage.py upgrade head")]
    fn what_does_not_migrate_with_alembic_is_none(#[case] command: &str) {
        assert_eq!(of(command), None, "{command}");
    }
}

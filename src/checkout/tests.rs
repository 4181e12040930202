use tempfile::TempDir;

use super::*;

/// As `alembic init` writes it, shortened.
const INI: &str = "[alembic]\n# path to migration scripts\nscript_location = %(here)s/migrations\n\
                   prepend_sys_path = .\npath_separator = os\n\n[post_write_hooks]\n# hooks = black\n\n\
                   [formatter_generic]\nformat = %(levelname)-5.5s [%(name)s] %(message)s\n";

struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let world = Self::new();
        for (path, text) in files {
            world.write(path, text);
        }
        world
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn script(&self, path: &str, id: &str, down: &str) {
        self.write(path, &format!("\"\"\"make {id}\"\"\"\nrevision: str = '{id}'\ndown_revision = {down}\n"));
    }

    fn read(&self, command: &str) -> Result<Option<Checkout>, CheckoutError> {
        self.read_with(command, None)
    }

    fn read_with(&self, command: &str, variable: Option<&str>) -> Result<Option<Checkout>, CheckoutError> {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        Checkout::read(self.0.path(), &Intent::of(&words).unwrap(), variable)
    }

    fn ids(&self, command: &str) -> Vec<String> {
        let checkout = self.read(command).unwrap().unwrap();
        checkout.revisions.revisions().map(|revision| revision.id.clone()).collect()
    }

    fn refused(&self) -> String {
        let error = self.read("alembic upgrade head").unwrap_err();
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}").replace(self.0.path().to_str().unwrap(), "")
    }
}

#[test]
fn a_checkout_is_read_as_alembic_init_makes_it() {
    let world = World::with(&[("alembic.ini", INI), ("migrations/env.py", "raise SystemExit")]);
    world.script("migrations/versions/b1_second.py", "b1", "'a1'");
    world.script("migrations/versions/a1_first.py", "a1", "None");
    for other in ["__init__.py", ".#lock.py", "notes.txt", "__pycache__/x.py", "older/c1.py"] {
        world.write(&format!("migrations/versions/{other}"), "no revision");
    }
    let checkout = world.read("alembic upgrade head").unwrap().unwrap();
    assert_eq!(checkout.revisions.heads(), ["b1"]);
    assert_eq!(checkout.revisions.revision("a1").unwrap().doc, "make a1");
    let file = fs::canonicalize(world.0.path().join("migrations/versions/b1_second.py")).unwrap();
    assert_eq!(checkout.files.get("b1"), Some(&file));
    assert_eq!(checkout.files.len(), 2);
}

#[test]
fn a_folder_without_alembic_is_none() {
    let world = World::with(&[("pyproject.toml", "[tool.ruff]\nline-length = 80\n")]);
    assert_eq!(world.read("alembic upgrade head").unwrap(), None);
}

#[test]
fn a_named_configuration_is_read_and_its_folder_is_here() {
    let world = World::with(&[("db/other.ini", INI), ("db/migrations/env.py", "")]);
    world.script("db/migrations/versions/a1.py", "a1", "None");
    assert_eq!(world.ids("alembic -c db/other.ini upgrade head"), ["a1"]);
    let by_variable = world.read_with("alembic upgrade head", Some("db/other.ini")).unwrap();
    assert_eq!(by_variable.unwrap().revisions.heads(), ["a1"]);
    let missing = world.read("alembic -c no.ini upgrade head").unwrap_err();
    assert!(missing.to_string().ends_with("/no.ini"), "{missing}");
}

#[test]
fn a_location_without_here_is_below_the_working_directory() {
    let world = World::with(&[("db/alembic.ini", "[billing]\nscript_location: scripts\n")]);
    world.script("scripts/versions/a1.py", "a1", "None");
    assert_eq!(world.ids("alembic -c db/alembic.ini -n billing upgrade head"), ["a1"]);
}

#[test]
fn version_locations_are_split_as_the_separator_says() {
    for list in [
        "two %(here)s/one",
        "two, %(here)s/one",
        "two:%(here)s/one\npath_separator = os",
        "two;%(here)s/one\nversion_path_separator = ;",
        "\n  two\n  # not this one: three\n  %(base)s/one\npath_separator = newline\nbase = %(here)s",
        "two:%(here)s/one:%(here)s/two:missing\npath_separator = :",
    ] {
        let ini = format!("[alembic]\nscript_location = %(here)s\nversion_locations = {list}\n");
        let world = World::with(&[("alembic.ini", &ini)]);
        world.script("one/a1.py", "a1", "None");
        world.script("two/b1.py", "b1", "'a1'");
        world.script("versions/c1.py", "c1", "'a1'");
        assert_eq!(world.ids("alembic upgrade head"), ["b1", "a1"], "{list}");
    }
}

#[test]
fn folders_below_are_read_if_that_is_set() {
    let ini = format!("[DEFAULT]\nrecursive_version_locations = true\n{INI}");
    let world = World::with(&[("alembic.ini", &ini)]);
    world.script("migrations/versions/2026/b/b1.py", "b1", "'a1'");
    world.script("migrations/versions/2026/a/c1.py", "c1", "'b1'");
    world.script("migrations/versions/z1.py", "a1", "None");
    assert_eq!(world.ids("alembic upgrade head"), ["a1", "c1", "b1"]);
}

#[test]
fn a_pyproject_configures_alembic_too() {
    let toml = "[tool.alembic]\nscript_location = \"%(here)s/m\"\nversion_locations = [\"%(here)s/v%%\"]\n";
    let world = World::with(&[("pyproject.toml", toml), ("m/env.py", "")]);
    world.script("v%/a1.py", "a1", "None");
    assert_eq!(world.ids("alembic upgrade head"), ["a1"]);
    world.write("alembic.ini", "[alembic]\nversion_locations = other\n");
    world.script("other/b1.py", "b1", "None");
    assert_eq!(world.ids("alembic upgrade head"), ["b1"], "the INI goes before");
}

#[test]
fn a_package_is_looked_for_in_the_path_that_is_prepended() {
    let ini = "[alembic]\nscript_location = app.db:migrations\nprepend_sys_path = src\n";
    let world = World::with(&[("alembic.ini", ini)]);
    assert_eq!(
        world.refused(),
        "read /alembic.ini: script_location names app.db:migrations, a package that is not below "
    );
    world.script("src/app/db/migrations/versions/a1.py", "a1", "None");
    assert_eq!(world.ids("alembic upgrade head"), ["a1"]);
}

#[test]
fn what_cannot_be_read_is_named_with_its_file() {
    let refused = |ini: &str, script: Option<&str>| {
        let world = World::with(&[("alembic.ini", ini), ("migrations/env.py", "")]);
        if let Some(text) = script {
            world.write("migrations/versions/x.py", text);
        }
        world.refused()
    };
    let script = "/migrations/versions/x.py";
    assert_eq!(
        refused(INI, Some("x = 1")),
        format!("read revision script {script}: nothing in it sets revision")
    );
    assert_eq!(
        refused(INI, Some("\nrevision = f()")),
        format!(
            "read revision script {script}: read line 2: revision is not plainly a text, None, or a list of texts"
        )
    );
    assert_eq!(
        refused(INI, Some("revision = 'b'\ndown_revision = 'a'")),
        "read revision scripts of /alembic.ini: join revisions: a, which b follows, is not there"
    );
    assert_eq!(refused("[alembic]\n", None), "read /alembic.ini: script_location is missing");
    let unset = "[alembic]\nscript_location = %(root)s/x\n";
    assert!(refused(unset, None).ends_with("refers to %(root)s, which is not set"));
    let circle = "[alembic]\nscript_location = %(script_location)s\n";
    assert!(refused(circle, None).ends_with("script_location refers to itself"));
    let pipe = INI.replace("path_separator = os", "version_locations = a\npath_separator = pipe");
    assert_eq!(refused(&pipe, None), "read /alembic.ini: path_separator must be os, space, newline, : or ;");
    let gone = "[alembic]\nscript_location = nowhere\n";
    assert!(refused(gone, None).starts_with("read /nowhere: No such file"));
    assert_eq!(refused("[alembic]\nurl\n", None), "parse /alembic.ini: line 3 is no option and no section");
}

#[test]
fn a_script_that_is_no_text_is_named() {
    let world = World::with(&[("alembic.ini", INI)]);
    world.script("migrations/versions/a1.py", "a1", "None");
    let path = world.0.path().join("migrations/versions/b1.py");
    fs::write(path, b"# caf\xe9\nrevision = 'b1'\n").unwrap();
    assert!(world.refused().starts_with("read /migrations/versions/b1.py: "), "{}", world.refused());
}

#[test]
fn bytecode_without_its_source_is_no_silent_gap() {
    let ini = INI.replace("[alembic]\n", "[alembic]\nsourceless = true\n");
    let world = World::with(&[("alembic.ini", &ini)]);
    world.script("migrations/versions/a1.py", "a1", "None");
    world.write("migrations/versions/__pycache__/a1.cpython-312.pyc", "");
    assert_eq!(world.ids("alembic upgrade head"), ["a1"]);
    world.write("migrations/versions/b1.pyc", "");
    assert_eq!(world.refused(), "read revision script /migrations/versions/b1.pyc: its source is not there");
}

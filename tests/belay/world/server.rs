//! Where PostgreSQL's programs of each major lie.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALLED: &str = "/usr/lib/postgresql";
/// The programs that look for their share directory from where they lie.
const RELOCATED: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// The programs of one major version: the server's own, and clients no older than it.
#[derive(Clone, Debug)]
pub struct Server {
    /// 12 to 18.
    pub major: u32,
    /// The directory of `postgres`, `initdb`, `psql`, `pg_dump` and the others.
    pub programs: PathBuf,
}

impl Server {
    /// Returns PostgreSQL 15, or the newest that is installed where there is no 15.
    pub fn usual() -> Server {
        if let Some(server) = Server::find(15) {
            return server;
        }
        let newest = (12..=18).rev().find_map(Server::find);
        newest.expect("no PostgreSQL server is installed; scripts/test installs one")
    }

    /// Returns the server of `major`; a test that asks for one that is absent fails.
    pub fn of(major: u32) -> Server {
        Server::find(major).unwrap_or_else(|| {
            panic!("PostgreSQL {major} is absent: run scripts/test --all-versions, or name the directory of its programs in BELAY_TEST_PG_{major}")
        })
    }

    #[allow(clippy::disallowed_methods, reason = "the directories of test servers are no settings of belay")]
    fn find(major: u32) -> Option<Server> {
        let named = std::env::var(format!("BELAY_TEST_PG_{major}")).ok().map(PathBuf::from);
        let programs = named.unwrap_or_else(|| format!("{INSTALLED}/{major}/bin").into());
        programs.join("initdb").exists().then_some(Server { major, programs })
    }

    /// Returns the path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Returns what tells this build from every other, as `postgres --version` prints it.
    pub fn build(&self) -> String {
        let output = Command::new(self.program("postgres")).arg("--version").output();
        let output = output.expect("run postgres --version");
        String::from_utf8(output.stdout).expect("a version is text").trim().to_owned()
    }

    /// Copies the server to `root`, an empty directory, with the tests' own extension installed.
    ///
    /// A server finds its share directory from where its program lies, so that a copy of three
    /// programs and of the names of the share directory is enough.
    pub fn with_menagerie(&self, root: &Path) -> Server {
        let programs = self.programs.canonicalize().expect("the directory of programs exists");
        let (base, bin, lib, share) = layout(&programs);
        let at = |part: &Path| {
            let path = root.join(part);
            std::fs::create_dir_all(path.parent().expect("a part of the tree has a parent"))
                .expect("make the tree");
            path
        };
        symlink(base.join(&lib), at(&lib)).expect("link the libraries");
        let (bin, share) = (at(&bin), at(&share));
        link_entries(&programs, &bin, &RELOCATED);
        for program in RELOCATED {
            std::fs::copy(programs.join(program), bin.join(program)).expect("copy a program");
        }
        let original = base.join(share.strip_prefix(root).expect("the share directory lies under the root"));
        link_entries(&original, &share, &["extension"]);
        let extension = share.join("extension");
        link_entries(&original.join("extension"), &extension, &[]);
        let control = "comment = 'has configuration tables'\ndefault_version = '1.0'\nrelocatable = false\n";
        std::fs::write(extension.join("zoo_menagerie.control"), control).expect("install the extension");
        let script = include_str!("../zoo/menagerie.sql");
        std::fs::write(extension.join("zoo_menagerie--1.0.sql"), script).expect("install the extension");
        Server { major: self.major, programs: bin }
    }
}

/// Returns the installation's root, and under it the directories of programs, libraries and shared files.
fn layout(programs: &Path) -> (PathBuf, PathBuf, PathBuf, PathBuf) {
    let parts: Vec<&OsStr> = programs.iter().collect();
    if let [root @ .., lib, postgresql, major, bin] = parts.as_slice()
        && (*lib, *postgresql) == (OsStr::new("lib"), OsStr::new("postgresql"))
    {
        let own = Path::new(lib).join(postgresql).join(major);
        let share = Path::new("share").join(postgresql).join(major);
        return (root.iter().collect(), own.join(bin), own.join("lib"), share);
    }
    let root = programs.parent().expect("a directory of programs has a parent");
    let share =
        ["share/postgresql", "share"].into_iter().find(|share| root.join(share).join("extension").is_dir());
    let share = share.expect("an installation has a share directory");
    (root.to_owned(), "bin".into(), "lib".into(), share.into())
}

/// Makes `to` a directory with a link to each entry of `from` that is not among `but`.
fn link_entries(from: &Path, to: &Path, but: &[&str]) {
    std::fs::create_dir_all(to).expect("make a directory of the tree");
    for entry in from.read_dir().expect("list a directory of the installation") {
        let entry = entry.expect("list a directory of the installation");
        if !but.iter().any(|name| entry.file_name() == *name) {
            symlink(entry.path(), to.join(entry.file_name())).expect("link an entry");
        }
    }
}

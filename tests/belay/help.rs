//! What the program says of itself is a golden file: a change of it is a change of the interface.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use assert_cmd::Command;

/// Standard output of `belay` with these arguments, at a width that does not depend on a terminal.
fn said(arguments: &[&str]) -> String {
    let mut belay = Command::new(env!("CARGO_BIN_EXE_belay"));
    let output = belay.env_clear().env("COLUMNS", "100").args(arguments).output().unwrap();
    assert!(output.status.success(), "belay {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_is_the_golden_file() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/belay/help.txt");
    let said = said(&["--help"]);
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    let advice = "if the change is meant: belay --help > tests/belay/help.txt, with COLUMNS=100";
    assert_eq!(said, expected, "{advice}");
}

#[test]
fn completions_and_manual_need_no_settings() {
    assert!(said(&["--config", "/nowhere.toml", "completions", "bash"]).contains("snapshot"));
    assert!(said(&["--config", "/nowhere.toml", "man"]).contains("EXIT STATUS"));
}

#[test]
fn the_manual_has_a_page_for_every_verb() {
    let directory = tempfile::TempDir::new().unwrap();
    said(&["man", directory.path().to_str().unwrap()]);
    let pages = std::fs::read_dir(directory.path()).unwrap().count();
    let help = said(&["--help"]);
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A long description goes on in a line that begins further right.
    let verbs = commands.filter(|line| !line.starts_with("   ")).count();
    // One for the program, one for each verb but `help`, two for the verbs of `key`, three each for those of
    // `wal`, `runs`, `audit`, `token` and `gate`.
    assert_eq!(pages, 1 + (verbs - 1) + 2 + 5 * 3);
}

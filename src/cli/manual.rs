//! `belay man` and `belay completions`: made from the command line itself, so they never lag.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

use super::Cli;
use super::report::{ExitCode, Failure, Report};

const SOURCE: &str = concat!("belay ", env!("CARGO_PKG_VERSION"));

/// Options of `belay completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `belay man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write belay.1 and a page for every verb into this directory; without it, print belay.1
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints the completions of a shell.
///
/// # Errors
/// None as yet.
pub fn completions(args: &CompletionsArgs) -> Result<Report, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "belay", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let body = json!({ "shell": args.shell.to_string(), "script": script });
    Ok(Report::new("completions", script, &body))
}

/// Prints the manual, or writes its pages.
///
/// # Errors
/// [`Failure`] when a page cannot be written.
pub fn man(args: &ManArgs) -> Result<Report, Failure> {
    let failed =
        |error: std::io::Error| Failure::new("write the manual", ExitCode::Failed, error.to_string());
    let pages = pages().map_err(failed)?;
    let Some(directory) = &args.directory else {
        let text = pages.into_iter().next().map(|(_, page)| page).unwrap_or_default();
        let body = json!({ "page": text });
        return Ok(Report::new("man", text, &body));
    };
    write_pages(directory, &pages).map_err(failed)?;
    let files: Vec<_> = pages.iter().map(|(name, _)| directory.join(name)).collect();
    let text: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    Ok(Report::new("man", text, &json!({ "files": files })))
}

fn write_pages(directory: &Path, pages: &[(String, String)]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    pages.iter().try_for_each(|(name, page)| std::fs::write(directory.join(name), page))
}

/// Every page by its file's name, the main one first.
fn pages() -> std::io::Result<Vec<(String, String)>> {
    // The exit codes have a section of their own.
    let mut root = Cli::command().after_help("").disable_help_subcommand(true);
    root.build();
    let mut pages = vec![("belay.1".to_owned(), main_page(root.clone())?)];
    add_pages(&root, &mut pages)?;
    Ok(pages)
}

fn add_pages(parent: &Command, pages: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for verb in parent.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_display_name().unwrap_or(verb.get_name()).to_owned();
        let mut page = Vec::new();
        Man::new(verb.clone()).title(name.to_uppercase()).source(SOURCE).render(&mut page)?;
        pages.push((format!("{name}.1"), String::from_utf8_lossy(&page).into_owned()));
        add_pages(verb, pages)?;
    }
    Ok(())
}

fn main_page(root: Command) -> std::io::Result<String> {
    let man = Man::new(root).title("BELAY");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    page.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for code in ExitCode::ALL {
        page.extend_from_slice(format!(".TP\n\\fB{}\\fR\n{}\n", code as u8, code.meaning()).as_bytes());
    }
    man.render_version_section(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page() {
        let pages = pages().unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "belay.1");
        for wanted in ["belay-snapshot.1", "belay-restore.1", "belay-key-drill.1", "belay-man.1"] {
            assert!(names.contains(&wanted), "{wanted} is not among {names:?}");
        }
    }

    #[test]
    fn the_main_page_names_every_exit_code() {
        let pages = pages().unwrap();
        assert!(ExitCode::ALL.iter().all(|code| pages[0].1.contains(code.meaning())));
    }

    #[test]
    fn every_shell_gets_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(completions(&CompletionsArgs { shell }).unwrap().text.contains("retain"), "{shell}");
        }
    }
}

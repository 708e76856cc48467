//! What is generated from the clap definitions is committed, and this holds the one to the other.
//!
//! `UPDATE_GENERATED=1 cargo test --test it generated` writes it anew.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use clap_mangen::Man;

/// The commands that have man pages, each with its section. A new command is a line.
fn commands() -> Vec<(clap::Command, &'static str)> {
    vec![(payd::cli::command(), "1"), (payd::daemon::command(), "8")]
}

#[test]
fn man_pages_are_those_of_the_definitions() {
    for (command, section) in commands() {
        let name = command.get_name().to_owned();
        let mut pages = BTreeMap::new();
        let mut command = command.disable_help_subcommand(true);
        command.build();
        page(&command, section, &mut pages);
        let ours = |file: &str| {
            let stem = file.strip_suffix(&format!(".{section}")).unwrap_or("");
            stem == name || stem.starts_with(&format!("{name}-"))
        };
        hold("man", &pages, ours);
    }
}

#[test]
fn man_pages_are_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    for entry in fs::read_dir(folder).unwrap() {
        let page = entry.unwrap().path();
        let lint = std::process::Command::new("mandoc")
            .args(["-T", "lint", "-W", "error"])
            .arg(&page)
            .output();
        let lint = match lint {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                #[expect(clippy::print_stderr)]
                {
                    eprintln!("skipped: there is no mandoc here; .ci/run installs it");
                }
                return;
            }
            lint => lint.unwrap(),
        };
        let said = String::from_utf8_lossy(&lint.stdout).into_owned();
        assert!(lint.status.success(), "{}: {said}", page.display());
    }
}

/// payd.toml(5) is the sample, which another test holds to the settings.
#[test]
fn the_manual_of_the_settings_is_the_sample() {
    let sample = include_str!("../../packaging/payd.toml");
    let mut page = format!(
        ".TH payd.toml 5 \"\" \"payd {}\" \"payd manual\"\n\
         .SH NAME\npayd.toml \\- the settings of payd\n\
         .SH DESCRIPTION\npayd works without any settings.\n\
         A setting comes from, in this order: a flag, the environment, the settings file, the default.\n\
         The file is the one that\n.B \\-\\-config\nnames, else\n.IR ~/.config/payd/payd.toml ,\nelse\n\
         .IR /etc/payd/payd.toml .\n\
         Below is one with every setting at its default, each in a comment.\n\
         .SH FILE\n.nf\n",
        env!("CARGO_PKG_VERSION")
    );
    for line in sample.lines() {
        // A full stop or an apostrophe at the start of a line would be a request to roff.
        let guard = if line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        page.push_str(&format!(
            "{guard}{}\n",
            line.replace('\\', "\\e").replace('-', "\\-")
        ));
    }
    page.push_str(".fi\n.SH SEE ALSO\n.BR payd (8),\n.BR payctl (1)\n");
    let pages = BTreeMap::from([("payd.toml.5".to_owned(), page.into_bytes())]);
    hold("man", &pages, |file| file.ends_with(".5"));
}

fn page(command: &clap::Command, section: &str, pages: &mut BTreeMap<String, Vec<u8>>) {
    // clap_mangen takes section 1 unless told.
    let man = Man::new(command.clone())
        .section(section)
        .source(concat!("payd ", env!("CARGO_PKG_VERSION")))
        .manual("payd manual");
    let mut content = Vec::new();
    man.render(&mut content).unwrap();
    pages.insert(man.get_filename(), content);
    for command in command.get_subcommands() {
        page(command, section, pages);
    }
}

#[test]
fn completions_are_those_of_the_definitions() {
    let mut scripts = BTreeMap::new();
    for (shell, file) in [
        ("bash", "payctl.bash"),
        ("zsh", "_payctl"),
        ("fish", "payctl.fish"),
    ] {
        let script = payd::cli::completion_script(shell).unwrap();
        scripts.insert(file.to_owned(), script);
    }
    // payd has nothing to complete that only it knows, so its scripts need not ask it.
    for (shell, file) in [
        (Shell::Bash, "payd.bash"),
        (Shell::Zsh, "_payd"),
        (Shell::Fish, "payd.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut payd::daemon::command(), "payd", &mut script);
        scripts.insert(file.to_owned(), script);
    }
    hold("completions", &scripts, |_| true);
}

/// Compares what is generated with what lies in a folder, or writes it there. `ours` says which
/// files of the folder must be among it.
fn hold(folder: &str, generated: &BTreeMap<String, Vec<u8>>, ours: impl Fn(&str) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let update = env::var_os("UPDATE_GENERATED").is_some();
    if update {
        fs::create_dir_all(&folder).unwrap();
    }
    let mut stale: Vec<PathBuf> = Vec::new();
    for (name, content) in generated {
        let path = folder.join(name);
        if fs::read(&path).ok().as_ref() == Some(content) {
            continue;
        }
        if update {
            fs::write(&path, content).unwrap();
        } else {
            stale.push(path);
        }
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !ours(&name) || generated.contains_key(&name) {
            continue;
        }
        if update {
            fs::remove_file(&path).unwrap();
        } else {
            stale.push(path);
        }
    }
    assert!(
        stale.is_empty(),
        "not as generated: {stale:?}; UPDATE_GENERATED=1 cargo test --test it generated"
    );
}

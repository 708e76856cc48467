//! Completion as the shells themselves do it: with ids of the running payd, colons and all, and at the first try.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::daemon::Daemon;
use crate::support::faults::notice;

/// A payd with ids to offer, one of which has a colon, and a shell that finds payctl; `None`, with a notice, where
/// there is no such shell.
fn shell(name: &str) -> Option<(Daemon, Command)> {
    let there = Command::new(name)
        .args(["-c", "true"])
        .stdin(Stdio::null())
        .output();
    if there.is_err() {
        notice(&format!("there is no {name} here"));
        return None;
    }
    let daemon = Daemon::start();
    for id in ["inv-1", "shop:7", "shop:8"] {
        let body = format!(r#"{{"id":"{id}","amount":1000}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
    }
    let payctl = Path::new(env!("CARGO_BIN_EXE_payctl"));
    let path = format!(
        "{}:{}",
        payctl.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new(name);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("PATH", path)
        .env("HOME", daemon.directory())
        .env("TERM", "xterm")
        .env(
            "PAYD_HOST",
            format!("unix://{}", daemon.directory().join("payd.sock").display()),
        )
        .stdin(Stdio::null());
    Some((daemon, command))
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_ids_with_colons() {
    let Some((_daemon, mut bash)) = shell("bash") else {
        return;
    };
    // As readline has it: words are broken at colons, and the one that is completed is what follows the last.
    let script = r#"
        source completions/payctl.bash
        function=$(complete -p payctl)
        function=${function##*-F }; function=${function%% *}
        try() {
            COMP_LINE=$1; COMP_POINT=${#1}; shift
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
            COMPREPLY=()
            local current=${COMP_WORDS[COMP_CWORD]}
            if [ "$current" = : ]; then current=; fi
            "$function" payctl "$current" "${COMP_WORDS[COMP_CWORD - 1]}" 2>&1
            echo "$COMP_LINE => ${COMPREPLY[*]}"
        }
        compopt() { :; }
        try 'payctl pay inv' payctl pay inv
        try 'payctl pay sh' payctl pay sh
        try 'payctl pay shop:' payctl pay shop :
        try 'payctl pay shop:7' payctl pay shop : 7
        try 'payctl --host unix:///nowhere pay inv' payctl --host unix : ///nowhere pay inv
        try 'payctl invo' payctl invo
        try 'payctl pay ' payctl pay ''
    "#;
    let lines = said(bash.args(["--norc", "-c", script]));
    let lines: Vec<_> = lines
        .lines()
        .filter_map(|line| {
            let (typed, offered) = line.split_once(" => ")?;
            let mut offered: Vec<_> = offered.split_whitespace().collect();
            offered.sort_unstable();
            Some((typed, offered.join(" ")))
        })
        .collect();
    let expected = [
        ("payctl pay inv", "inv-1"),
        ("payctl pay sh", "shop:7 shop:8"),
        ("payctl pay shop:", "7 8"),
        ("payctl pay shop:7", "7"),
        ("payctl --host unix:///nowhere pay inv", ""),
        ("payctl invo", "invoice"),
        ("payctl pay ", "inv-1 shop:7 shop:8"),
    ];
    let expected = expected.map(|(typed, offered)| (typed, offered.to_owned()));
    assert_eq!(lines[..6], expected[..6]);
    // Options come with it where nothing is typed.
    assert!(lines[6].1.contains("shop:7"), "{:?}", lines[6]);
}

#[test]
fn fish_completes_ids_and_commands() {
    let Some((_daemon, mut fish)) = shell("fish") else {
        return;
    };
    let script = "source completions/payctl.fish; source completions/payd.fish; \
        complete -C 'payctl pay shop:'; complete -C 'payctl explain inv'; complete -C 'payd resto'";
    let offered = said(fish.args(["--no-config", "-c", script]));
    let mut offered: Vec<_> = offered
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    offered.sort_unstable();
    assert_eq!(offered, ["inv-1", "restore", "shop:7", "shop:8"]);
}

#[test]
fn zsh_completes_at_the_first_try() {
    let Some((_daemon, zsh)) = shell("zsh") else {
        return;
    };
    // An interactive zsh of its own on a terminal; each line is waited for, however long it takes.
    let script = r#"
        zmodload zsh/zpty
        zpty -b z zsh -f -i
        zpty -w z "PS1='%% '; fpath=(completions \$fpath); autoload -Uz compinit; compinit -u -D; print re''ady"
        zpty -r -m z seen '*ready*'
        for typed in 'payctl pay in' 'payctl pay shop:7' 'payd resto' 'payctl pay shop:'; do
            zpty -w -n z $'\x15'"$typed"$'\t'
            case $typed in
                *in) wanted='*inv-1*';;
                *7) wanted='*shop:7* *';;
                *resto) wanted='*restore*';;
                *) zpty -w -n z $'\t'; wanted='*shop:7*shop:8*';;
            esac
            zpty -r -m z seen "$wanted" && print -r -- "completed: $typed"
        done
        zpty -d z
    "#;
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(zsh.get_program());
    limited.args(["-f", "-c", script]);
    limited.env_clear();
    limited.envs(
        zsh.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    limited
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    let lines = said(&mut limited);
    assert_eq!(lines.matches("completed: ").count(), 4, "{lines}");
}

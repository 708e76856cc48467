//! Arrows point down only: what a layer may import is a table, and this holds the sources to it.

use std::fs;
use std::path::{Path, PathBuf};

/// Layer, and the layers of ours that it may name. The composition root may name all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &["domain"]),
    ("api", &["api", "domain"]),
    (
        "application",
        &["application", "api", "domain", "failpoints"],
    ),
    ("failpoints", &["failpoints"]),
    ("trust", &["trust"]),
    (
        "infrastructure",
        &[
            "infrastructure",
            "application",
            "api",
            "domain",
            "failpoints",
            "trust",
        ],
    ),
    ("http", &["http", "application", "api", "domain"]),
    ("config", &["config", "domain"]),
    ("client", &["client", "trust", "api", "domain"]),
    ("cli", &["cli", "client", "api", "domain"]),
    (
        "daemon",
        &[
            "daemon",
            "failpoints",
            "config",
            "http",
            "infrastructure",
            "application",
            "api",
            "domain",
        ],
    ),
];

/// What the domain may use of others' code, besides the plain parts of std: values, no I/O.
const DOMAIN_CRATES: &[&str] = &["iso_currency", "jiff", "sha2", "thiserror", "uuid"];

/// What makes a value depend on more than the arguments.
const NOT_PURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::io",
    "std::thread",
    "std::process",
    "SystemTime",
    "Instant",
    "jiff::Timestamp::now",
    "Zoned::now",
    "async ",
    "tokio",
    "tracing",
    "now_v7",
    "new_v4",
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut found: Vec<_> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .collect();
    found.retain(|file| file.extension().is_some_and(|it| it == "rs"));
    found
}

fn layer(name: &str) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<_> = [src.join(name), src.join(format!("{name}.rs"))]
        .iter()
        .flat_map(|it| sources(it))
        .collect();
    assert!(
        !files.is_empty(),
        "the layer {name} is gone: say so in the table"
    );
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read_to_string(file).unwrap()))
        .collect()
}

/// Without comments, which may name anything.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

#[test]
fn no_layer_imports_from_above() {
    for (name, may_use) in MAY_USE {
        for (file, source) in layer(name) {
            for line in code(&source) {
                for path in line.split("crate::").skip(1) {
                    let used: String = path
                        .chars()
                        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                        .collect();
                    let ours = MAY_USE.iter().any(|(layer, _)| *layer == used);
                    assert!(
                        !ours || may_use.contains(&used.as_str()),
                        "{} uses {used}: {line}",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_module_of_the_library_is_in_the_table() {
    let lib = include_str!("../../src/lib.rs");
    for module in lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(
            MAY_USE.iter().any(|(layer, _)| *layer == module),
            "{module} is in no row of the table"
        );
    }
}

#[test]
fn the_domain_is_pure() {
    for (file, source) in layer("domain") {
        // Tests may do as they like.
        let rules = source.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code(rules) {
            for word in NOT_PURE {
                assert!(
                    !line.contains(word),
                    "{} is not pure: {line}",
                    file.display()
                );
            }
            let Some(path) = line.trim_start().strip_prefix("use ") else {
                continue;
            };
            let first: String = path
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let fine = ["std", "super", "crate", "self"].contains(&first.as_str())
                || DOMAIN_CRATES.contains(&first.as_str())
                || path.starts_with(|c: char| c.is_uppercase())
                || [
                    "aggregate",
                    "command",
                    "decide",
                    "event",
                    "failure",
                    "id",
                    "invoice",
                    "money",
                    "payment",
                    "retry",
                    "time",
                ]
                .contains(&first.as_str());
            assert!(fine, "{} uses {first}: {line}", file.display());
        }
    }
}

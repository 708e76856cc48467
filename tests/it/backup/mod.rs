//! Backup, restore, verify: from outside, under load, by hand and in the wrong hands.

mod file;
mod ledger;
mod load;
mod restored;
mod tokens;

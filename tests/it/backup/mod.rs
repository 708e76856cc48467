//! Backup, restore, verify: from outside, under load, by hand and in the wrong hands.

mod ledger;
mod restored;

//! The tokens' table: what the API would never have kept is not payd's.

use std::collections::HashSet;

use crate::application::tokens::{ID_LEN, LIVE_MAX, Scopes, is_word};

/// Characters of a name.
const NAME_MAX: usize = 64;

/// A token as it lies in the store: anything that a row may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its key.
    pub n: i64,
    /// Its name in the token itself.
    pub id: String,
    /// Whom events and logs name.
    pub name: String,
    /// The digest of the token.
    pub digest: Vec<u8>,
    /// A bit for each scope.
    pub scopes: i64,
    /// In milliseconds, as all times of a row.
    pub created_at: i64,
    /// From when on it is no good any more.
    pub expires_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
    /// By whom.
    pub revoked_by: Option<String>,
}

/// What a table of tokens is checked with, row by row.
#[derive(Debug, Default)]
pub(super) struct Table {
    ids: HashSet<String>,
    live: HashSet<String>,
}

impl Table {
    /// What is wrong with the next one.
    pub(super) fn next(&mut self, row: &TokenRow) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut say = |bad: bool, what: &str| {
            if bad {
                wrong.push(what.to_owned());
            }
        };
        let id = row.id.len() == ID_LEN && is_word(&row.id);
        say(!id, "its id is not eight letters and digits");
        say(
            !self.ids.insert(row.id.clone()),
            "another token has the same id",
        );
        let length = row.name.chars().count();
        say(
            !(1..=NAME_MAX).contains(&length) || row.name.contains(char::is_control),
            "its name is not one of 1 to 64 characters",
        );
        say(
            row.digest.len() != 32,
            "its digest is not 32 bytes: nobody can show this token",
        );
        let known = u32::try_from(row.scopes)
            .ok()
            .filter(|bits| *bits != 0 && Scopes::from_bits(*bits).bits() == *bits);
        say(
            known.is_none(),
            "its scopes are not among those that payd has",
        );
        say(!is_time(row.created_at), "the time it was made is none");
        say(
            row.expires_at.is_some_and(|at| !is_time(at)),
            "the time it expires is none",
        );
        say(
            row.revoked_at.is_some_and(|at| !is_time(at)),
            "the time it was revoked is none",
        );
        say(
            row.revoked_at.is_some() != row.revoked_by.is_some(),
            "it is half revoked: the time and who did it go together",
        );
        if row.revoked_at.is_none() {
            say(
                !self.live.insert(row.name.clone()),
                "another token that is not revoked has the same name",
            );
        }
        wrong
    }

    /// What is wrong with all of them.
    pub(super) fn end(&self) -> Option<String> {
        let live = self.live.len();
        (live > LIVE_MAX).then(|| format!("{live} are not revoked; payd keeps {LIVE_MAX} at most"))
    }
}

/// From 1970 to the end of what can be written as a time.
fn is_time(millis: i64) -> bool {
    millis >= 0 && jiff::Timestamp::from_millisecond(millis).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> TokenRow {
        TokenRow {
            n: 1,
            id: "abcdEF12".to_owned(),
            name: "shop".to_owned(),
            digest: vec![7; 32],
            scopes: 1,
            created_at: 1,
            expires_at: Some(2),
            revoked_at: None,
            revoked_by: None,
        }
    }

    #[test]
    fn what_the_api_would_never_have_kept_is_found() {
        type Change = fn(&mut TokenRow);
        let table: [(&str, Change); 12] = [
            ("eight", |it| it.id = "short".into()),
            ("eight", |it| it.id = "abcd-F12".into()),
            ("name", |it| it.name = String::new()),
            ("name", |it| it.name = "a\u{1b}[2J".into()),
            ("digest", |it| it.digest = vec![7; 31]),
            ("scopes", |it| it.scopes = 0),
            ("scopes", |it| it.scopes = 1 << 20),
            ("scopes", |it| it.scopes = -1),
            ("made", |it| it.created_at = -1),
            ("expires", |it| it.expires_at = Some(i64::MAX)),
            ("revoked", |it| it.revoked_at = Some(i64::MIN)),
            ("half revoked", |it| it.revoked_by = Some("uid:0".into())),
        ];
        assert_eq!(Table::default().next(&row()), [""; 0]);
        for (says, change) in table {
            let mut bad = row();
            change(&mut bad);
            let found = Table::default().next(&bad).join("; ");
            assert!(found.contains(says), "{bad:?}: {found}");
        }
        let mut rows = Table::default();
        rows.next(&row());
        let twice = rows.next(&row());
        assert_eq!(twice.len(), 2, "id and name: {twice:?}");
        let mut revoked = row();
        revoked.id = "abcdEF13".to_owned();
        revoked.revoked_at = Some(1);
        revoked.revoked_by = Some("uid:0".to_owned());
        assert_eq!(rows.next(&revoked), [""; 0], "its name is free again");
    }
}

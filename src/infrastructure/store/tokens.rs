//! The table of tokens.

use rusqlite::{Connection, Row};

use crate::application::ports::StoreError;
use crate::application::{Scopes, Token};
use crate::domain::Timestamp;

use super::error::sort;

/// All, revoked ones too, oldest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<Token>, StoreError> {
    connection
        .prepare_cached(
            "SELECT id, name, digest, scopes, created_at, created_by, expires_at, revoked_at, revoked_by \
             FROM tokens ORDER BY n",
        )
        .and_then(|mut statement| statement.query_map([], token)?.collect())
        .map_err(sort)
}

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let name: String = row.get(1)?;
    let revoked_at: Option<i64> = row.get(7)?;
    let revoked_by: Option<String> = row.get(8)?;
    let at = |millis: i64| Timestamp::from_millis(millis);
    Ok(Token {
        id: row.get(0)?,
        name: name.into(),
        digest: row.get(2)?,
        scopes: Scopes::from_bits(row.get(3)?),
        created_at: at(row.get(4)?),
        created_by: row.get(5)?,
        expires_at: row.get::<_, Option<i64>>(6)?.map(at),
        revoked: revoked_at.map(at).zip(revoked_by),
    })
}

/// Keeps one.
pub(super) fn add(connection: &Connection, token: &Token) -> Result<(), StoreError> {
    let values = (
        &token.id,
        &*token.name,
        token.digest.as_slice(),
        token.scopes.bits(),
        token.created_at.as_millis(),
        &token.created_by,
        token.expires_at.map(Timestamp::as_millis),
        token.revoked.as_ref().map(|(at, _)| at.as_millis()),
        token.revoked.as_ref().map(|(_, by)| by),
    );
    connection
        .prepare_cached(
            "INSERT INTO tokens (id, name, digest, scopes, created_at, created_by, expires_at, revoked_at, revoked_by) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .and_then(|mut statement| statement.execute(values))
        .map(|_| ())
        .map_err(sort)
}

/// Revokes one.
pub(super) fn revoke(
    connection: &Connection,
    id: &str,
    at: Timestamp,
    by: &str,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE tokens SET revoked_at = ?2, revoked_by = ?3 WHERE id = ?1 AND revoked_at IS NULL",
        )
        .and_then(|mut statement| statement.execute((id, at.as_millis(), by)))
        .map(|_| ())
        .map_err(sort)
}

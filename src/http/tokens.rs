//! `/admin/tokens`: make, list and revoke what others show on TCP.
//!
//! The token itself is in one answer and nowhere else: an answer that is kept under an idempotency key
//! has null in its place.

use std::borrow::Cow;

use axum::response::Response;

use super::call::Call;
use super::headers::Media;
use super::idempotency::{self, Given, fingerprint, written};
use super::json::Object;
use super::parse;
use super::problem::{Reject, both};
use super::reply::json;
use crate::api::{self, Code, Scope};
use crate::application::request::{Action, Idempotency, Outcome, Reply};
use crate::application::{self, ADMIN, LIVE_MAX, Scopes, Secret, TokenRefusal, TokenRequest};
use crate::domain::Timestamp;

/// A name is short enough for every log line.
const NAME_LEN_MAX: usize = 64;

/// Whom events name already, and who is no token.
const RESERVED: [&str; 4] = [ADMIN, "nobody", "payd", "tcp"];

/// The view of a token.
fn view(token: &application::Token) -> api::Token<'static> {
    let text = |time: Timestamp| Cow::<'static, str>::Owned(time.to_string());
    let revoked = token.revoked.as_ref();
    api::Token {
        id: token.id.clone().into(),
        name: token.name.to_string().into(),
        scopes: token
            .scopes
            .each()
            .map(|scope| scope.as_str().into())
            .collect(),
        created_at: text(token.created_at),
        created_by: token.created_by.clone().into(),
        expires_at: token.expires_at.map(text),
        revoked_at: revoked.map(|(at, _)| text(*at)),
        revoked_by: revoked.map(|(_, by)| by.clone().into()),
    }
}

/// `GET /admin/tokens`.
pub(super) async fn list(call: Call) -> Result<Response, Reject> {
    call.no_query()?;
    let tokens = call.app().engine().tokens().all();
    let tokens = tokens.iter().map(|token| view(token)).collect();
    Ok(json(&api::TokenPage { tokens }))
}

/// What a token is to be.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: Option<String>,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}

fn wanted(body: &[u8], wall: Timestamp) -> Result<Wanted, Reject> {
    let mut object = Object::read(body, &["name", "scopes", "expires_at"])?;
    let name = object.parsed("name", |text| name(text).map(|()| text.to_owned()));
    let scopes = object.required_list("scopes", |text| {
        Scope::parse(text).ok_or_else(|| {
            let known: Vec<_> = Scope::ALL.iter().map(|it| it.as_str()).collect();
            format!("must be of {}", known.join(", "))
        })
    });
    let expires_at = object.parsed("expires_at", |text| {
        let at = Timestamp::parse(text).map_err(|error| error.to_string())?;
        if at <= wall {
            return Err("is in the past: the token would never be good".to_owned());
        }
        Ok(at)
    });
    object.finish(|| {
        Some(Wanted {
            name,
            scopes: Scopes::of(&scopes),
            expires_at,
        })
    })
}

/// Names stand where uids and payd itself stand: they must not be taken for one of those.
fn name(text: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.len() > NAME_LEN_MAX || !text.bytes().all(fits) {
        return Err(format!("must be 1 to {NAME_LEN_MAX} of A-Z a-z 0-9 . _ -"));
    }
    if RESERVED.contains(&text) {
        return Err("is the name of another actor; choose another".to_owned());
    }
    Ok(())
}

/// What was refused, and what to do about it.
fn not_made(refusal: TokenRefusal) -> Reject {
    match refusal {
        TokenRefusal::NameTaken => Reject::field(
            "name",
            "is taken by another token; choose another, or revoke that one first",
        ),
        TokenRefusal::TooMany => Reject::field(
            "",
            format!(
                "there are {LIVE_MAX} tokens that are not revoked; revoke some that nobody needs"
            ),
        ),
        TokenRefusal::NotFound => Reject::new(
            Code::NotFound,
            "No token has this name or id. GET /admin/tokens lists all there are.",
        ),
    }
}

/// `POST /admin/tokens`.
pub(super) async fn create(mut call: Call) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), wanted) = both(said, wanted(&read.bytes, call.app().wall()))?;
    let secret = Secret::new(call.app().random());
    let action = Action::AddToken(TokenRequest {
        id: secret.id().to_owned(),
        name: wanted
            .name
            .unwrap_or_else(|| format!("token-{}", secret.id())),
        digest: secret.digest(),
        scopes: wanted.scopes,
        expires_at: wanted.expires_at,
    });
    let idempotency = key.map(|key| {
        Idempotency::new(
            &call.caller.actor,
            key,
            fingerprint(&call, read.media, &read.bytes),
            Box::new(|result| match result {
                Ok(Reply::Token(token)) => token.as_ref().as_ref().ok().map(|token| {
                    let known = view(token);
                    written(201, None, &api::NewToken { known, token: None })
                }),
                _ => None,
            }),
        )
    });
    let caller = call.caller.clone();
    match call.app().submit(caller, action, idempotency).await? {
        Outcome::Fresh(Ok(Reply::Token(token)), _) => {
            let token = (*token).map_err(not_made)?;
            tracing::info!(
                actor = %call.caller.actor, token = %token.name, id = token.id,
                scopes = ?token.scopes.each().collect::<Vec<_>>(), "a token was made"
            );
            let known = view(&token);
            let token = Some(secret.reveal().into());
            let answer = written(201, None, &api::NewToken { known, token });
            let replayed = false;
            Ok(Given { answer, replayed }.into_response(Media::Json))
        }
        Outcome::Replayed(answer) => {
            let replayed = true;
            Ok(Given { answer, replayed }.into_response(Media::Json))
        }
        Outcome::KeyReused => Err(Reject::key_reused()),
        Outcome::Fresh(_, _) => Err(Reject::internal("a token came to something else")),
    }
}

/// `POST /admin/tokens/{name}/revoke`: good for nothing from here on. The name, or the id.
pub(super) async fn revoke(mut call: Call) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), ()) = both(said, parse::nothing(&read.bytes))?;
    let name = call
        .token_name()
        .ok_or_else(|| not_made(TokenRefusal::NotFound))?;
    let given = idempotency::submit(
        &call,
        (key, read.media, &read.bytes),
        Action::RevokeToken(name),
        |result| match result {
            Ok(Reply::Token(token)) => match token.as_ref() {
                Ok(token) => written(200, None, &view(token)),
                Err(refusal) => {
                    let reject = not_made(*refusal);
                    written(reject.problem().status, None, reject.problem())
                }
            },
            Ok(_) => written(200, None, &()),
            Err(refusal) => idempotency::refused(*refusal),
        },
    );
    let given = given.await?;
    if given.answer.status == 200 && !given.replayed {
        tracing::info!(actor = %call.caller.actor, token = call.token_name(), "a token was revoked");
    }
    Ok(given.into_response(Media::Json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_wanted_with_scopes_and_a_name_of_its_own() {
        let now = Timestamp::from_millis(1_000);
        let good = wanted(
            br#"{"name":"shop-1","scopes":["pay","read"],"expires_at":"1970-01-01T00:00:02Z"}"#,
            now,
        );
        let good = good.unwrap();
        assert_eq!(good.name.as_deref(), Some("shop-1"));
        assert_eq!(good.scopes, Scopes::of(&[Scope::Read, Scope::Pay]));
        assert_eq!(good.expires_at, Some(Timestamp::from_millis(2_000)));
        for (body, field) in [
            ("{}", "scopes"),
            (r#"{"scopes":[]}"#, "scopes"),
            (r#"{"scopes":"read"}"#, "scopes"),
            (r#"{"scopes":["root"]}"#, "scopes"),
            (r#"{"scopes":[1]}"#, "scopes"),
            (
                r#"{"scopes":["read"],"expires_at":"1970-01-01T00:00:01Z"}"#,
                "expires_at",
            ),
            (r#"{"scopes":["read"],"name":"uid:0"}"#, "name"),
            (r#"{"scopes":["read"],"name":"payd"}"#, "name"),
            (r#"{"scopes":["read"],"name":"admin"}"#, "name"),
            (r#"{"scopes":["read"],"name":""}"#, "name"),
            (r#"{"scopes":["read"],"role":"x"}"#, "role"),
        ] {
            let reject = wanted(body.as_bytes(), now).unwrap_err();
            let fields: Vec<_> = reject
                .problem()
                .errors
                .iter()
                .map(|it| &*it.field)
                .collect();
            assert_eq!(fields, [field], "{body}");
        }
    }
}

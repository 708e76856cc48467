//! Who may: the token that a request carries, what it is good for, how often, and what is said to
//! those who have none. On the Unix socket the file's permissions have decided already.
//!
//! It never logs or repeats what was presented, and refuses before a body is read.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONNECTION, HeaderValue, WWW_AUTHENTICATE};

use super::call::Call;
use super::context::{Peer, Shared, tell};
use super::problem::Reject;
use crate::api::{Code, Scope};
use crate::application::{Token, Tokens, Unproven};
use crate::domain::Timestamp;

/// Who somebody without a token is, to logs.
const NOBODY: &str = "nobody";

/// Who everybody on TCP is where no token is asked for.
const ANYBODY: &str = "tcp";

/// What a request has shown of who it is from.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// It may open the Unix socket: it may do everything.
    Socket,
    /// No token is asked for on TCP: it may do everything.
    NotAsked,
    /// A token that was good when the request came.
    Token(Arc<Token>),
    /// Nothing, on TCP.
    Nothing(Unproven),
}

impl Proof {
    /// Reads what a request carries.
    pub(super) fn of(
        peer: &Peer,
        headers: &HeaderMap,
        asks_token: bool,
        (tokens, wall): (&Tokens, Timestamp),
    ) -> Self {
        match peer {
            Peer::Unix { .. } => Self::Socket,
            Peer::Tcp { .. } if !asks_token => Self::NotAsked,
            Peer::Tcp { .. } => bearer(headers)
                .and_then(|presented| tokens.prove(presented, wall))
                .map_or_else(Self::Nothing, Self::Token),
        }
    }

    /// As events and logs name it.
    pub(super) fn actor(&self, peer: &Peer) -> Arc<str> {
        match (self, peer) {
            (Self::Token(token), _) => Arc::clone(&token.name),
            (_, Peer::Unix { actor, .. }) => Arc::clone(actor),
            (Self::NotAsked, _) => ANYBODY.into(),
            (Self::Socket | Self::Nothing(_), _) => NOBODY.into(),
        }
    }

    /// Until when it holds by the wall clock, where that is said.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Token(token) => token.expires_at,
            Self::Socket | Self::NotAsked | Self::Nothing(_) => None,
        }
    }

    /// Whether it still holds: for answers that take long, such as event streams.
    pub(super) fn holds(&self, tokens: &Tokens, wall: Timestamp) -> bool {
        match self {
            Self::Socket | Self::NotAsked => true,
            Self::Token(token) => tokens
                .find(&token.id)
                .is_some_and(|token| token.standing(wall).is_ok()),
            Self::Nothing(_) => false,
        }
    }
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1), given once.
fn bearer(headers: &HeaderMap) -> Result<&str, Unproven> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Unproven::Missing)?;
    if values.next().is_some() {
        return Err(Unproven::NotOne);
    }
    let value = value.to_str().map_err(|_| Unproven::NotOne)?;
    let (scheme, token) = value.split_once(' ').ok_or(Unproven::NotOne)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unproven::NotOne);
    }
    Ok(token.trim())
}

/// Why a request is not let in.
pub(super) enum Turned {
    /// Its token is not good for this, or not now.
    Away(Reject),
    /// It has shown nothing of who it is from; where it came from.
    Unproven(Unproven, Option<IpAddr>),
}

/// Lets a request in to a route that asks for `scope`, or not.
pub(super) fn admit(call: &Call, scope: Scope) -> Result<(), Turned> {
    let token = match &call.proof {
        Proof::Socket | Proof::NotAsked => return Ok(()),
        Proof::Token(token) => token,
        Proof::Nothing(why) => return Err(Turned::Unproven(*why, call.remote)),
    };
    if let Some(rates) = &call.shared.rates {
        rates.take(&token.id).map_err(|wait| {
            let detail = "This token has made as many requests as server.rate allows. Send it again \
                          after Retry-After.";
            Turned::Away(Reject::new(Code::RateLimited, detail).after(wait))
        })?;
    }
    if token.scopes.allow(scope) {
        return Ok(());
    }
    let scope = scope.as_str();
    let detail = format!(
        "This token is not good for it: the route asks for the scope {scope}. `payctl token create \
         --scope {scope}` makes one that is; or use the Unix socket."
    );
    let challenge =
        format!("Bearer realm=\"payd\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let reject = Reject::new(Code::Forbidden, detail);
    Err(Turned::Away(challenged(reject, &challenge)))
}

impl Turned {
    /// What is said to it, in its time.
    pub(super) async fn answer(self, shared: &Shared) -> Reject {
        match self {
            Self::Away(reject) => reject,
            Self::Unproven(why, remote) => unproven(shared, why, remote).await,
        }
    }
}

async fn unproven(shared: &Shared, why: Unproven, remote: Option<IpAddr>) -> Reject {
    if shared.failures_complaint.is_due(shared.app.now()) {
        tell(|| {
            tracing::warn!(
                peer = remote.map(tracing::field::display),
                ?why,
                "a request without a valid token was turned away"
            );
        });
    }
    let slowed = match remote {
        Some(remote) => shared.failures.slow(remote).await,
        None => true,
    };
    // Neither is told apart by who guesses: one that is good is let in, however many are not.
    let reject = if slowed {
        challenged(
            Reject::new(Code::Unauthenticated, detail(why)),
            challenge(why),
        )
    } else {
        Reject::new(
            Code::RateLimited,
            "Too many requests came without a valid token. Send a good one; it is let in at once.",
        )
    };
    // Whoever tries again opens a connection for it.
    reject.header(CONNECTION, HeaderValue::from_static("close"))
}

fn challenged(reject: Reject, challenge: &str) -> Reject {
    match HeaderValue::from_str(challenge) {
        Ok(challenge) => reject.header(WWW_AUTHENTICATE, challenge),
        Err(_) => reject,
    }
}

/// RFC 6750, section 3.1: no error code where no token was given.
const fn challenge(why: Unproven) -> &'static str {
    match why {
        Unproven::Missing => "Bearer realm=\"payd\"",
        _ => "Bearer realm=\"payd\", error=\"invalid_token\"",
    }
}

const fn detail(why: Unproven) -> &'static str {
    match why {
        Unproven::Missing => {
            "Over TCP every request needs a token: send Authorization: Bearer and one that `payctl \
             token create` made, or the admin's in the file `token` in payd's data directory. On the \
             Unix socket none is needed."
        }
        Unproven::NotOne => {
            "Authorization is not `Bearer` and a whole token of payd's: it was cut off or mistyped, or \
             is for something else. Send it once, as `payctl token create` printed it."
        }
        Unproven::Unknown => {
            "payd does not know this token: it is of another payd, or of a time before a restore. \
             `payctl token create` makes one."
        }
        Unproven::Expired => "This token has expired. `payctl token create` makes another.",
        Unproven::Revoked => "This token was revoked. `payctl token create` makes another.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_one_word_given_once() {
        for (values, want) in [
            (vec![], Err(Unproven::Missing)),
            (vec!["Bearer abc"], Ok("abc")),
            (vec!["bearer  abc "], Ok("abc")),
            (vec!["Basic abc"], Err(Unproven::NotOne)),
            (vec!["abc"], Err(Unproven::NotOne)),
            (vec!["Bearer abc", "Bearer abc"], Err(Unproven::NotOne)),
            (vec!["Bearer \u{e4}"], Err(Unproven::NotOne)),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append(AUTHORIZATION, value);
            }
            assert_eq!(bearer(&headers), want, "{values:?}");
        }
    }
}

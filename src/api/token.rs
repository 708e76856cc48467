//! Bearer tokens as the API shows them. What they are worth is never in here but in the one answer
//! that made them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

macro_rules! scopes {
    ($($variant:ident $name:literal $what:literal;)*) => {
        /// What a token is good for. Each route asks for one of these; `admin` is good for all.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Scope { $(#[doc = $what] $variant,)* }

        impl Scope {
            /// All of them. Positions in it are stored: it only grows at its end.
            pub const ALL: &'static [Scope] = &[$(Scope::$variant,)*];

            /// The scope on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Scope::$variant => $name,)* }
            }

            /// What it is good for, in a few words.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Scope::$variant => $what,)* }
            }

            /// Reads a scope.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($name => Some(Scope::$variant),)* _ => None }
            }
        }
    };
}

scopes! {
    Read "read" "See invoices, payments, events and the description of the API";
    Create "create" "Make invoices";
    Pay "pay" "Pay and cancel invoices";
    Admin "admin" "Everything, with /admin and the resolving of payments";
    Metrics "metrics" "Read the metrics";
}

/// A token, without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token<'a> {
    /// The part of the token after `payd_`: it tells tokens apart, and is no secret.
    pub id: Cow<'a, str>,
    /// Whom events and logs name as the actor.
    pub name: Cow<'a, str>,
    /// What it is good for.
    pub scopes: Vec<Cow<'a, str>>,
    /// RFC 3339.
    pub created_at: Cow<'a, str>,
    /// Who made it.
    pub created_by: Cow<'a, str>,
    /// From when on it is no good any more. RFC 3339.
    pub expires_at: Option<Cow<'a, str>>,
    /// When it was revoked. RFC 3339.
    pub revoked_at: Option<Cow<'a, str>>,
    /// Who revoked it.
    pub revoked_by: Option<Cow<'a, str>>,
}

/// The answer to `POST /admin/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken<'a> {
    /// What is known of it from here on.
    #[serde(flatten)]
    pub known: Token<'a>,
    /// The token itself, this once. `null` where the answer is given again: payd does not keep it.
    pub token: Option<Cow<'a, str>>,
}

/// All tokens, revoked ones too, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPage<'a> {
    /// Oldest first.
    pub tokens: Vec<Token<'a>>,
}

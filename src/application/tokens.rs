//! Bearer tokens: what they look like, which are good, and for what.
//!
//! A token is `payd_`, eight characters that name it, `_`, and 43 random characters with six that
//! check the rest. It is random enough (256 bits) that one plain SHA-256 keeps it: slow hashes are for
//! what people make up. Prefix and check follow GitHub's tokens, so that scanners of leaked secrets
//! find them, and a token that was cut off in copying is told from one that is not known.
//! Source: <https://github.blog/engineering/behind-githubs-new-authentication-token-formats/>.
//!
//! It never keeps a token, only its digest, and never says which part of one was wrong.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::ports::{Random, Store, StoreError};
use crate::api::Scope;
use crate::domain::Timestamp;

/// Who the token in the data directory's file is. No other token may have this name.
pub const ADMIN: &str = "admin";

/// Tokens that are good at a time. Each is an integration or a person; thousands are a mistake.
pub const LIVE_MAX: usize = 1000;

const PREFIX: &str = "payd_";
pub(super) const ID_LEN: usize = 8;
/// 62^43 is just more than 2^256.
const RANDOM_LEN: usize = 43;
const CHECK_LEN: usize = 6;
const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + 1 + RANDOM_LEN + CHECK_LEN;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A whole token. It shows itself to nobody by accident: it has no `Display`, and its `Debug` says
/// nothing.
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A new one.
    #[must_use]
    pub fn new(random: &dyn Random) -> Self {
        let mut text = String::with_capacity(TOKEN_LEN);
        text.push_str(PREFIX);
        push_random(&mut text, ID_LEN, random);
        text.push('_');
        push_random(&mut text, RANDOM_LEN, random);
        let check = check(&text);
        text.extend(check.map(char::from));
        Self(text)
    }

    /// Reads one; `None` where it is none, or not whole.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        shape(text)
            .filter(|_| is_whole(text))
            .map(|_| Self(text.to_owned()))
    }

    /// Its name: no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ID_LEN]
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.0)
    }

    /// The token itself, for the one answer or file that it goes to.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The name in what looks like a token.
fn shape(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(PREFIX)?;
    let (id, random) = rest.split_once('_')?;
    let looks_so = text.len() == TOKEN_LEN && id.len() == ID_LEN && is_word(id) && is_word(random);
    looks_so.then_some(id)
}

/// Whether what looks like a token ends as it should: the characters that check it are those of the others.
fn is_whole(text: &str) -> bool {
    text.split_at_checked(TOKEN_LEN - CHECK_LEN)
        .is_some_and(|(body, end)| check(body) == end.as_bytes())
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether it has letters and digits only.
pub(super) fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn push_random(text: &mut String, count: usize, random: &dyn Random) {
    let end = text.len() + count;
    let mut bytes = [0; 64];
    while text.len() < end {
        random.fill(&mut bytes);
        // Six bits each; what is beyond the alphabet is left out, so that all are equally likely.
        let indexes = bytes.iter().map(|byte| usize::from(byte & 0x3f));
        for character in indexes.filter_map(|index| ALPHABET.get(index)) {
            if text.len() < end {
                text.push(char::from(*character));
            }
        }
    }
}

/// Six characters over what stands before them.
fn check(body: &str) -> [u8; CHECK_LEN] {
    let digest = digest(body);
    std::array::from_fn(|place| ALPHABET[usize::from(digest[place]) % ALPHABET.len()])
}

/// Some of the scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// These.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Self {
        scopes
            .iter()
            .fold(Self(0), |all, scope| Self(all.0 | bit(*scope)))
    }

    /// Whether they are good for a route that asks for `scope`.
    #[must_use]
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (bit(scope) | bit(Scope::Admin)) != 0
    }

    /// Each of them.
    pub fn each(self) -> impl Iterator<Item = Scope> {
        let all = Scope::ALL.iter().copied();
        all.filter(move |scope| self.0 & bit(*scope) != 0)
    }

    /// As they are stored.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// As they were stored. What this payd does not know is worth nothing.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        let known = Self::of(Scope::ALL);
        Self(bits & known.0)
    }
}

const fn bit(scope: Scope) -> u32 {
    1 << scope as u32
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name in the token itself.
    pub id: String,
    /// Whom events and logs name.
    pub name: Arc<str>,
    /// SHA-256 of all of it.
    pub digest: [u8; 32],
    /// What it is good for.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// From when on it is no good any more, by the wall clock.
    pub expires_at: Option<Timestamp>,
    /// When and by whom it was revoked.
    pub revoked: Option<(Timestamp, String)>,
}

impl Token {
    /// Whether it is good at this time of the wall clock.
    ///
    /// # Errors
    /// Where it is not, with why.
    pub fn standing(&self, wall: Timestamp) -> Result<(), Unproven> {
        if self.revoked.is_some() {
            return Err(Unproven::Revoked);
        }
        match self.expires_at {
            Some(at) if at <= wall => Err(Unproven::Expired),
            _ => Ok(()),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        self.revoked.is_none() && *self.name == *name
    }
}

/// Why a request's token proves nothing. Only who has the whole token learns more than `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// There is none.
    Missing,
    /// It is no token of payd's, or was cut off.
    NotOne,
    /// payd does not know it.
    Unknown,
    /// It was good until it expired.
    Expired,
    /// It was good until it was revoked.
    Revoked,
}

/// A token to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Its name in the token itself.
    pub id: String,
    /// Whom events and logs are to name.
    pub name: String,
    /// SHA-256 of all of it.
    pub digest: [u8; 32],
    /// What it is to be good for.
    pub scopes: Scopes,
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// Why a token was not made or revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRefusal {
    /// Another one has the name, and is not revoked.
    NameTaken,
    /// There are [`LIVE_MAX`].
    TooMany,
    /// None has this name or id.
    NotFound,
}

/// Those that may be found by their names in tokens: read with every request, replaced when one is
/// made or revoked, before who asked for that is answered.
#[derive(Debug, Default)]
pub struct Tokens {
    known: RwLock<Known>,
    /// Rings when they are replaced, for those who go on for long.
    replaced: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    all: Vec<Arc<Token>>,
    by_id: HashMap<String, Arc<Token>>,
}

impl Tokens {
    /// These, oldest first.
    #[must_use]
    pub fn new(tokens: Vec<Token>) -> Self {
        let these = Self::default();
        these.replace(tokens);
        these
    }

    /// From here on these, oldest first.
    pub fn replace(&self, tokens: Vec<Token>) {
        let all: Vec<_> = tokens.into_iter().map(Arc::new).collect();
        let by_id = all
            .iter()
            .map(|it| (it.id.clone(), Arc::clone(it)))
            .collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known { all, by_id };
        self.replaced.send_replace(());
    }

    /// Tells when they are replaced, from here on.
    #[must_use]
    pub fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// All, revoked ones too, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Token>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.all.clone()
    }

    /// The one with this id, whatever it is good for.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Token>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.get(id).map(Arc::clone)
    }

    /// Whose token this is, where it is good at this time of the wall clock.
    ///
    /// # Errors
    /// Where it proves nothing, with why.
    pub fn prove(&self, presented: &str, wall: Timestamp) -> Result<Arc<Token>, Unproven> {
        let id = shape(presented).ok_or(Unproven::NotOne)?;
        let found = self.find(id);
        // The id is no secret; the digest is compared in the same time wherever it differs, and also
        // where there is nothing to compare it with.
        let kept = found.as_ref().map_or([0; 32], |token| token.digest);
        let same = bool::from(kept.ct_eq(&digest(presented)));
        match found.filter(|_| same) {
            Some(token) => token.standing(wall).map(|()| token),
            None if is_whole(presented) => Err(Unproven::Unknown),
            None => Err(Unproven::NotOne),
        }
    }
}

/// Keeps a token. What is kept then is the caller's to publish.
pub(super) fn add<S: Store>(
    store: &mut S,
    request: &TokenRequest,
    (now, actor): (Timestamp, &str),
) -> Result<Result<Token, TokenRefusal>, StoreError> {
    let all = store.tokens()?;
    if all.iter().any(|token| token.is_named(&request.name)) {
        return Ok(Err(TokenRefusal::NameTaken));
    }
    let live = all.iter().filter(|token| token.revoked.is_none()).count();
    if live >= LIVE_MAX {
        return Ok(Err(TokenRefusal::TooMany));
    }
    let token = Token {
        id: request.id.clone(),
        name: request.name.as_str().into(),
        digest: request.digest,
        scopes: request.scopes,
        created_at: now,
        created_by: actor.to_owned(),
        expires_at: request.expires_at,
        revoked: None,
    };
    store.add_token(&token)?;
    Ok(Ok(token))
}

/// Revokes the token of this name or id. One that is revoked already stays as it is.
pub(super) fn revoke<S: Store>(
    store: &mut S,
    name_or_id: &str,
    (now, actor): (Timestamp, &str),
) -> Result<Result<Token, TokenRefusal>, StoreError> {
    let all = store.tokens()?;
    let live = all.iter().find(|token| token.is_named(name_or_id));
    let by_id = || all.iter().find(|token| token.id == name_or_id);
    let newest = || all.iter().rev().find(|token| *token.name == *name_or_id);
    let Some(token) = live.or_else(by_id).or_else(newest) else {
        return Ok(Err(TokenRefusal::NotFound));
    };
    let mut token = token.clone();
    if token.revoked.is_none() {
        store.revoke_token(&token.id, now, actor)?;
        token.revoked = Some((now, actor.to_owned()));
    }
    Ok(Ok(token))
}

/// What the token in the data directory's file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It was known.
    Known,
    /// It was known, and is not good any more.
    NotGood(Unproven),
    /// It is good from here on, for everything.
    New,
}

/// Sees that the token in the data directory's file is good. The file says which it is: so a crash
/// between the file and the database mends itself, and a backup that does not know it does no harm.
/// The one that the file held before is revoked. One that an operator revoked stays so.
///
/// # Errors
/// Where the store fails; then nothing has changed.
pub fn adopt<S: Store>(
    store: &mut S,
    secret: &Secret,
    now: Timestamp,
) -> Result<Adopted, StoreError> {
    let all = store.tokens()?;
    let digest = secret.digest();
    if let Some(token) = all.iter().find(|token| token.id == secret.id()) {
        let same = bool::from(token.digest.ct_eq(&digest));
        let standing = if same {
            token.standing(now)
        } else {
            Err(Unproven::Unknown)
        };
        return Ok(standing.map_or_else(Adopted::NotGood, |()| Adopted::Known));
    }
    store.begin()?;
    let adopted = (|| {
        for old in all.iter().filter(|token| token.is_named(ADMIN)) {
            store.revoke_token(&old.id, now, PAYD)?;
        }
        store.add_token(&Token {
            id: secret.id().to_owned(),
            name: ADMIN.into(),
            digest,
            scopes: Scopes::of(&[Scope::Admin]),
            created_at: now,
            created_by: PAYD.to_owned(),
            expires_at: None,
            revoked: None,
        })?;
        store.commit()
    })();
    if adopted.is_err() {
        store.rollback();
    }
    adopted.map(|()| Adopted::New)
}

/// payd as the actor of what it does by itself.
const PAYD: &str = "payd";

#[cfg(test)]
mod tests {
    use super::*;

    /// As random as a test wants it.
    struct Counting(std::sync::Mutex<Sha256>);

    impl Counting {
        fn from(seed: &str) -> Self {
            Self(std::sync::Mutex::new(Sha256::new_with_prefix(seed)))
        }
    }

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            let mut state = self.0.lock().unwrap();
            for byte in bytes {
                state.update([1]);
                *byte = state.clone().finalize()[0];
            }
        }
    }

    fn secret(seed: &str) -> Secret {
        Secret::new(&Counting::from(seed))
    }

    fn kept(secret: &Secret) -> Token {
        Token {
            id: secret.id().to_owned(),
            name: "shop".into(),
            digest: secret.digest(),
            scopes: Scopes::of(&[Scope::Read]),
            created_at: Timestamp::from_millis(0),
            created_by: "uid:0".to_owned(),
            expires_at: None,
            revoked: None,
        }
    }

    #[test]
    fn a_token_is_read_back_and_nothing_else_is_one() {
        let secret = secret("a");
        let text = secret.reveal();
        assert_eq!(text.len(), TOKEN_LEN);
        assert_eq!(Secret::parse(text).unwrap().digest(), secret.digest());
        assert!(!format!("{secret:?}").contains(&text[5..]));
        for place in 0..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[place] = if wrong[place] == b'x' { b'y' } else { b'x' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(Secret::parse(&wrong).is_none(), "{wrong}");
            assert!(Secret::parse(&text[..place]).is_none());
        }
        for wrong in [
            "",
            "payd_",
            "payd__",
            &format!("{text}x"),
            &format!(" {text}"),
            "ä",
        ] {
            assert!(Secret::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn every_character_is_about_as_likely_as_any() {
        let random = Counting::from("b");
        let mut text = String::new();
        push_random(&mut text, 62_000, &random);
        for character in ALPHABET {
            let count = text.bytes().filter(|byte| byte == character).count();
            assert!((800..1200).contains(&count), "{character}: {count}");
        }
    }

    #[test]
    fn only_the_whole_token_proves_and_only_its_owner_learns_why_not() {
        let (good, other) = (secret("c"), secret("d"));
        let tokens = Tokens::new(vec![kept(&good)]);
        let now = Timestamp::from_millis(1000);
        assert_eq!(&*tokens.prove(good.reveal(), now).unwrap().name, "shop");
        assert_eq!(
            tokens.prove(other.reveal(), now).unwrap_err(),
            Unproven::Unknown
        );
        // The good one and another, mistyped.
        for text in [good.reveal(), other.reveal()] {
            let end = if text.ends_with('x') { "y" } else { "x" };
            let wrong = [&text[..TOKEN_LEN - 1], end].concat();
            assert_eq!(tokens.prove(&wrong, now).unwrap_err(), Unproven::NotOne);
        }
        assert_eq!(tokens.prove("", now).unwrap_err(), Unproven::NotOne);
        // The right id with another secret behind it.
        let mut forged = format!("payd_{}_{}", good.id(), &other.reveal()[14..57]);
        forged.extend(check(&forged).map(char::from));
        assert_eq!(tokens.prove(&forged, now).unwrap_err(), Unproven::Unknown);

        let expired = Token {
            expires_at: Some(now),
            ..kept(&good)
        };
        tokens.replace(vec![expired]);
        let before = Timestamp::from_millis(999);
        assert!(tokens.prove(good.reveal(), before).is_ok());
        assert_eq!(
            tokens.prove(good.reveal(), now).unwrap_err(),
            Unproven::Expired
        );
        assert_eq!(tokens.prove(&forged, now).unwrap_err(), Unproven::Unknown);
        let revoked = Some((now, "uid:0".to_owned()));
        tokens.replace(vec![Token {
            revoked,
            ..kept(&good)
        }]);
        assert_eq!(
            tokens.prove(good.reveal(), before).unwrap_err(),
            Unproven::Revoked
        );
        tokens.replace(vec![]);
        assert_eq!(
            tokens.prove(good.reveal(), now).unwrap_err(),
            Unproven::Unknown
        );
    }

    #[test]
    fn scopes_are_stored_and_admin_is_all() {
        for scope in Scope::ALL {
            let one = Scopes::of(&[*scope]);
            assert_eq!(Scopes::from_bits(one.bits()), one);
            assert_eq!(one.each().collect::<Vec<_>>(), [*scope]);
            for other in Scope::ALL {
                let may = scope == other || *scope == Scope::Admin;
                assert_eq!(one.allow(*other), may, "{scope:?} for {other:?}");
            }
        }
        assert!(!Scopes::from_bits(u32::MAX << 5).allow(Scope::Read));
    }
}

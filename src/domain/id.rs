//! Ids: parsed once at the edge, correct ever after.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::Money;

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, too long, or with a character that does not belong.
    #[error("must be 1 to 64 of A-Z a-z 0-9 . _ : -")]
    Invoice,
    /// `.` and `..` would be eaten by URL normalisation (RFC 3986, section 5.2.4).
    #[error("must not be . or .., which mean something else in a URL")]
    Dots,
    /// Not `pay_` and a UUID.
    #[error("must be pay_ and a UUID")]
    Payment,
    /// Not a UUID.
    #[error("must be a UUID")]
    Store,
}

/// An invoice's id: 1 to 64 of `A-Z a-z 0-9 . _ : -`, given by the client or made here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvoiceId(Arc<str>);

impl InvoiceId {
    /// The longest id, in bytes.
    pub const LEN_MAX: usize = 64;

    /// Reads an id.
    ///
    /// # Errors
    /// Where it has another form.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(IdError::Invoice);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
        {
            return Err(IdError::Invoice);
        }
        if matches!(text, "." | "..") {
            return Err(IdError::Dots);
        }
        Ok(Self(text.into()))
    }

    /// An id made here: `inv_` and a UUIDv7.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(named("inv_", uuid, &mut [0; NAMED_LEN]).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InvoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InvoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a store, made at its first start. It is part of every gateway key, so a restored
/// backup keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(Uuid);

impl StoreId {
    /// From the UUID made at the first start.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Reads what [`fmt::Display`] wrote.
    ///
    /// # Errors
    /// Where it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| IdError::Store)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The digest that both of a payment's names at the gateway come from: SHA-256 over store id,
/// invoice id, attempt, amount and currency, each ended by a line feed (none of them holds one).
fn identity(store: StoreId, invoice: &InvoiceId, attempt: u32, money: Money) -> [u8; 32] {
    let text = format!(
        "{store}\n{invoice}\n{attempt}\n{}\n{}\n",
        money.amount.minor_units(),
        money.currency
    );
    Sha256::digest(text.as_bytes()).into()
}

/// `inv_` or `pay_`, and a UUID.
const NAMED_LEN: usize = 4 + Hyphenated::LENGTH;

/// The text of such an id. By hand: a payment is written down with some dozen of these.
fn named<'b>(prefix: &str, uuid: Uuid, buffer: &'b mut [u8; NAMED_LEN]) -> &'b str {
    let (start, rest) = buffer.split_at_mut(prefix.len());
    start.copy_from_slice(prefix.as_bytes());
    uuid.hyphenated().encode_lower(rest);
    // Prefix and digits are ASCII.
    std::str::from_utf8(buffer).unwrap_or_default()
}

/// What an attempt is called: its payment's id, and the key that it carries to the gateway. The same for
/// the same arguments, always.
#[must_use]
pub fn names(
    store: StoreId,
    invoice: &InvoiceId,
    attempt: u32,
    money: Money,
) -> (PaymentId, GatewayKey) {
    let digest = identity(store, invoice, attempt, money);
    (
        PaymentId::of(&digest, store, invoice),
        GatewayKey::of(&digest),
    )
}

/// A payment's id: `pay_` and a UUIDv7.
///
/// It travels to the gateway in the request body, and invariant 6 wants that body unchanged even
/// when an invoice is paid again after the restore of an older backup. So its 74 random bits are
/// bits of the payment's identity, and its time is that of the store's birth, or of the invoice's
/// own id where payd made that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentId(Uuid);

impl PaymentId {
    fn of(digest: &[u8; 32], store: StoreId, invoice: &InvoiceId) -> Self {
        let born = invoice
            .as_str()
            .strip_prefix("inv_")
            .and_then(|id| Uuid::try_parse(id).ok())
            .filter(|id| id.get_version_num() == 7)
            .unwrap_or(store.0);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&born.as_bytes()[..6]);
        // The key shows the digest's first 20 bytes; these are others, so neither tells the other.
        bytes[6..].copy_from_slice(&digest[22..]);
        Self(
            uuid::Builder::from_bytes(bytes)
                .with_version(uuid::Version::SortRand)
                .with_variant(uuid::Variant::RFC4122)
                .into_uuid(),
        )
    }

    /// Reads `pay_` and a UUID.
    ///
    /// # Errors
    /// Where it has another form.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let id = text
            .strip_prefix("pay_")
            .filter(|id| id.len() == 36)
            .ok_or(IdError::Payment)?;
        Uuid::try_parse(id).map(Self).map_err(|_| IdError::Payment)
    }

    /// The 16 bytes that the store keeps.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From the 16 bytes that the store keeps.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(named("pay_", self.0, &mut [0; NAMED_LEN]))
    }
}

/// The idempotency key that a payment carries to its gateway, the same on every send.
///
/// Invariant 6: a digest, never random, so that what is paid again after a restore meets the
/// charge that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayKey(Arc<str>);

impl GatewayKey {
    /// `payd_` and 40 hexadecimal digits, 160 bits.
    fn of(digest: &[u8; 32]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut key = String::with_capacity(45);
        key.push_str("payd_");
        for byte in &digest[..20] {
            key.push(char::from(HEX[usize::from(byte >> 4)]));
            key.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Self(key.into())
    }

    /// A key that the store or the log kept. It stays what it was when the payment was requested,
    /// whatever [`names`] would say today.
    #[must_use]
    pub fn from_stored(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Amount, Currency};

    #[test]
    fn invoice_ids_are_what_urls_and_shells_can_carry() {
        let long = "x".repeat(65);
        let rows = [
            ("inv-123", true),
            ("a", true),
            ("A.b_c:d-9", true),
            ("...", true),
            (&long[1..], true),
            ("", false),
            (long.as_str(), false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("ä", false),
            ("a\n", false),
        ];
        for (text, ok) in rows {
            assert_eq!(InvoiceId::parse(text).is_ok(), ok, "{text:?}");
        }
    }

    #[test]
    fn names_at_the_gateway_depend_on_every_part_and_nothing_else() {
        let store = StoreId::from_uuid(Uuid::from_u128(7));
        let invoice = InvoiceId::parse("inv-1").unwrap();
        let money = |amount, currency| Money {
            amount: Amount::new(amount).unwrap(),
            currency: Currency::parse(currency).unwrap(),
        };
        let key_of = |store, invoice: &_, attempt, money| names(store, invoice, attempt, money).1;
        let id_of = |store, invoice: &_, attempt, money| names(store, invoice, attempt, money).0;
        let usd = money(100, "USD");
        let key = key_of(store, &invoice, 1, usd);
        assert_eq!(key, key_of(store, &invoice, 1, usd));
        assert_eq!(
            key.as_str(),
            "payd_46aedcaacc0cdf4e3ad0a000a42a3e3ec0679936",
            "a key must never change between versions"
        );
        let others = [
            key_of(StoreId::from_uuid(Uuid::from_u128(8)), &invoice, 1, usd),
            key_of(store, &InvoiceId::parse("inv-11").unwrap(), 1, usd),
            key_of(store, &invoice, 2, usd),
            key_of(store, &invoice, 1, money(101, "USD")),
            key_of(store, &invoice, 1, money(100, "EUR")),
        ];
        for other in &others {
            assert_ne!(&key, other);
        }
        let id = id_of(store, &invoice, 1, usd);
        assert_eq!(id, id_of(store, &invoice, 1, usd));
        assert_eq!(
            id.to_string(),
            "pay_00000000-0000-7456-b95f-0f98f55249f9",
            "nor may an id: the gateway would see another request under the same key"
        );
        assert_ne!(id, id_of(store, &invoice, 2, usd));
        assert_eq!(PaymentId::parse(&id.to_string()), Ok(id));
        assert_eq!(id.to_string(), format!("pay_{}", id.0));
        let made = InvoiceId::from_uuid(id.0);
        assert_eq!(made.as_str(), format!("inv_{}", id.0));
        assert_eq!(id.0.get_version_num(), 7);
    }
}

//! Money: whole minor units in an ISO 4217 currency. No floats, and no arithmetic that is not checked.

use std::fmt;

/// An amount in minor units, 1 to 2^53−1.
///
/// The upper end is the largest integer that every JSON reader keeps exactly (RFC 8259, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

/// The number is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be between 1 and {} minor units", Amount::MAX)]
pub struct AmountError;

impl Amount {
    /// 2^53−1.
    pub const MAX: u64 = (1 << 53) - 1;

    /// From minor units.
    ///
    /// # Errors
    /// Where it is zero or above [`Amount::MAX`].
    pub const fn new(minor_units: u64) -> Result<Self, AmountError> {
        if minor_units == 0 || minor_units > Self::MAX {
            return Err(AmountError);
        }
        Ok(Self(minor_units))
    }

    /// Minor units.
    #[must_use]
    pub const fn minor_units(self) -> u64 {
        self.0
    }
}

/// An ISO 4217 currency that has minor units, or none at all as the yen: one that money can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// The text is not the code of a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an ISO 4217 currency code, such as USD or EUR, in capitals")]
pub struct UnknownCurrency;

impl Currency {
    /// What an invoice is in that names no currency.
    pub const DEFAULT: Self = Self(iso_currency::Currency::USD);

    /// Reads a code of three capitals.
    ///
    /// # Errors
    /// Where ISO 4217 has no such currency, or no minor unit for it (gold, the test code).
    pub fn parse(code: &str) -> Result<Self, UnknownCurrency> {
        iso_currency::Currency::from_code(code)
            .filter(|c| c.exponent().is_some())
            .map(Self)
            .ok_or(UnknownCurrency)
    }

    /// The code, such as `USD`.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_end_where_json_integers_do() {
        for (minor_units, ok) in [
            (0, false),
            (1, true),
            ((1 << 53) - 1, true),
            (1 << 53, false),
            (u64::MAX, false),
        ] {
            assert_eq!(Amount::new(minor_units).is_ok(), ok, "{minor_units}");
        }
    }

    #[test]
    fn currencies_are_those_of_iso_4217() {
        for (code, ok) in [
            ("USD", true),
            ("JPY", true),
            ("KWD", true),
            ("usd", false),
            ("XYZ", false),
            ("XXX", false),
            ("", false),
        ] {
            assert_eq!(Currency::parse(code).is_ok(), ok, "{code}");
        }
    }
}

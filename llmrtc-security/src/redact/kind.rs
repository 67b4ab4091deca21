//! What a stretch of text gives away.

use std::{fmt, sync::Arc};

/// Kinds of personal data and credentials. The wire name is snake case (`bank_account`), the tag upper case (`[BANK_ACCOUNT]`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Payment card number.
    Card,
    /// Card verification value. No mode keeps any of it (PCI DSS 3.3.1).
    Cvv,
    /// Expiry date of a payment card.
    CardExpiry,
    /// PIN or one-time code.
    Pin,
    /// Telephone number.
    Phone,
    /// E-mail address.
    Email,
    /// Host name.
    Domain,
    /// Web address.
    Url,
    /// International bank account number.
    Iban,
    /// Bank identifier code.
    Bic,
    /// National bank account, routing or sort code.
    BankAccount,
    /// United States social security or taxpayer number.
    Ssn,
    /// National identity, tax, health or insurance number of any other country.
    NationalId,
    /// Passport number.
    Passport,
    /// Driving licence number.
    DrivingLicence,
    /// IPv4 or IPv6 address.
    Ip,
    /// Hardware address.
    Mac,
    /// Date of birth.
    BirthDate,
    /// Postal code.
    Postcode,
    /// Street address.
    Address,
    /// Name of a person.
    Name,
    /// User name, handle or login.
    Username,
    /// Password.
    Password,
    /// API key, token, private key.
    Secret,
    /// A long number whose meaning nobody said: membership, order, reference, or a part of something else.
    Number,
    /// What an operator's own recogniser finds, by its configured name.
    Custom(Arc<str>),
}

/// Every kind but `Custom`, for tables and switches.
pub const KINDS: &[Kind] = &[
    Kind::Card,
    Kind::Cvv,
    Kind::CardExpiry,
    Kind::Pin,
    Kind::Phone,
    Kind::Email,
    Kind::Domain,
    Kind::Url,
    Kind::Iban,
    Kind::Bic,
    Kind::BankAccount,
    Kind::Ssn,
    Kind::NationalId,
    Kind::Passport,
    Kind::DrivingLicence,
    Kind::Ip,
    Kind::Mac,
    Kind::BirthDate,
    Kind::Postcode,
    Kind::Address,
    Kind::Name,
    Kind::Username,
    Kind::Password,
    Kind::Secret,
    Kind::Number,
];

impl Kind {
    /// The wire name, such as `bank_account`.
    pub fn name(&self) -> &str {
        match self {
            Self::Card => "card",
            Self::Cvv => "cvv",
            Self::CardExpiry => "card_expiry",
            Self::Pin => "pin",
            Self::Phone => "phone",
            Self::Email => "email",
            Self::Domain => "domain",
            Self::Url => "url",
            Self::Iban => "iban",
            Self::Bic => "bic",
            Self::BankAccount => "bank_account",
            Self::Ssn => "ssn",
            Self::NationalId => "national_id",
            Self::Passport => "passport",
            Self::DrivingLicence => "driving_licence",
            Self::Ip => "ip",
            Self::Mac => "mac",
            Self::BirthDate => "birth_date",
            Self::Postcode => "postcode",
            Self::Address => "address",
            Self::Name => "name",
            Self::Username => "username",
            Self::Password => "password",
            Self::Secret => "secret",
            Self::Number => "number",
            Self::Custom(name) => name,
        }
    }

    /// The kind of a wire name; `None` for a name that no built-in kind has.
    pub fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.name() == name).cloned()
    }

    /// Appends the tag, such as `[BANK_ACCOUNT]`.
    pub fn write_tag(&self, out: &mut String) {
        out.push('[');
        out.extend(self.name().chars().flat_map(char::to_uppercase));
        out.push(']');
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

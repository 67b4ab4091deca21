//! Whose record, of what kind, and what comes back.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use llmrtc_core::{id::SessionId, redact::Pii};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Class, VaultError};
use crate::auth::{Principal, PrincipalKind};

/// Longest name of a user or tenant. Mail addresses end at 254.
const MAX_NAME_BYTES: usize = 512;
/// Stands for callers and services among the users; no user's name may begin like this.
const ANONYMOUS: &str = "anonymous:";
const SERVICE: &str = "service:";

/// Whose data: the unit of encryption, of legal holds and of erasure. May be a mail address, so it prints as its length.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    tenant: Option<Arc<str>>,
    user: Arc<str>,
}

impl Subject {
    /// A user by name.
    ///
    /// # Errors
    /// When a name is empty, longer than 512 bytes or has control characters.
    pub fn new(tenant: Option<&str>, user: &str) -> Result<Self, VaultError> {
        let good = |name: &str| {
            !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
        };
        if !good(user) || !tenant.is_none_or(good) {
            return Err(VaultError::InvalidSubject);
        }
        Ok(Self {
            tenant: tenant.map(Into::into),
            user: user.into(),
        })
    }

    /// All callers of a server in open mode.
    pub fn anonymous() -> Self {
        Self {
            tenant: None,
            user: ANONYMOUS.into(),
        }
    }

    /// Whose customer, where there are tenants.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Who, unique within the tenant.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The tenant's column, empty where there is none.
    pub(super) fn tenant_column(&self) -> &str {
        self.tenant().unwrap_or_default()
    }

    /// From the columns of a row.
    pub(super) fn from_columns(tenant: &str, user: &str) -> Result<Self, VaultError> {
        Self::new(Some(tenant).filter(|tenant| !tenant.is_empty()), user)
    }
}

impl TryFrom<&Principal> for Subject {
    type Error = VaultError;

    /// Services and anonymous callers get names that no user can have.
    fn try_from(principal: &Principal) -> Result<Self, VaultError> {
        let tenant = principal.tenant.as_deref();
        match principal.kind {
            PrincipalKind::Anonymous => Ok(Self::anonymous()),
            PrincipalKind::Service => {
                Self::new(tenant, &format!("{SERVICE}{}", principal.subject))
            }
            PrincipalKind::User => {
                let taken = |prefix| principal.subject.starts_with(prefix);
                if taken(ANONYMOUS) || taken(SERVICE) {
                    return Err(VaultError::InvalidSubject);
                }
                Self::new(tenant, &principal.subject)
            }
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("tenant", &self.tenant)
            .field("user", &Pii(&self.user))
            .finish()
    }
}

/// Names a record. Later records of one node have larger ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub(super) u128);

impl RecordId {
    pub(super) fn parse(text: &str) -> Result<Self, VaultError> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| VaultError::Corrupt("record id"))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

/// Something to keep. Wiped from memory when it has been sealed.
pub struct NewRecord {
    /// Whose.
    pub subject: Subject,
    /// In which conversation.
    pub session: SessionId,
    /// Of what kind.
    pub class: Class,
    /// What: JSON in UTF-8, except for audio. At most 16 MiB.
    pub content: Zeroizing<Vec<u8>>,
}

impl NewRecord {
    /// A record of JSON.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn json(
        subject: Subject,
        session: SessionId,
        class: Class,
        value: &impl Serialize,
    ) -> Result<Self, VaultError> {
        let content = serde_json::to_vec(value).map_err(VaultError::Content)?;
        Ok(Self {
            subject,
            session,
            class,
            content: Zeroizing::new(content),
        })
    }
}

impl fmt::Debug for NewRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRecord")
            .field("session", &self.session)
            .field("class", &self.class)
            .field("bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// A record that came back.
pub struct Record {
    /// Its name.
    pub id: RecordId,
    /// In which conversation.
    pub session: SessionId,
    /// Of what kind.
    pub class: Class,
    /// When it was stored.
    pub at: SystemTime,
    /// What was sealed, or why it cannot be read: the user was erased, or the row was changed. One bad row does not
    /// hide the others.
    pub content: Result<Zeroizing<Vec<u8>>, VaultError>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("class", &self.class)
            .field("readable", &self.content.is_ok())
            .finish_non_exhaustive()
    }
}

impl Record {
    /// The record as one JSON object without line breaks: `id`, `session`, `class`, `at`, and `content` (JSON or text),
    /// `base64` (anything else) or `error`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut line = serde_json::json!({
            "id": self.id.to_string(),
            "session": self.session.to_string(),
            "class": self.class,
            "at": humantime::format_rfc3339_millis(self.at).to_string(),
        });
        let (key, value) = match &self.content {
            Ok(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if self.class != Class::Audio => (
                    "content",
                    serde_json::from_str(text).unwrap_or_else(|_| text.into()),
                ),
                _ => ("base64", STANDARD.encode(bytes.as_slice()).into()),
            },
            Err(error) => ("error", error.to_string().into()),
        };
        line[key] = value;
        line
    }
}

/// A conversation of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub session: SessionId,
    /// When its first record was stored.
    #[serde(serialize_with = "as_rfc3339")]
    pub first: SystemTime,
    /// When its last record was stored.
    #[serde(serialize_with = "as_rfc3339")]
    pub last: SystemTime,
    /// How many records have not expired.
    pub records: u64,
}

fn as_text<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn as_rfc3339<S: serde::Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*at))
}

/// Milliseconds since 1970, which is how the tables keep time.
pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time from a table. What lies beyond the calendar is shown as its end (year 9999).
pub(super) fn system_time(millis: i64) -> SystemTime {
    const END: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0).min(END))
}

pub(super) fn session_id(text: &str) -> Result<SessionId, VaultError> {
    u128::from_str_radix(text, 16)
        .map(SessionId::from_u128)
        .map_err(|_| VaultError::Corrupt("session id"))
}

pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_checked_and_never_confused() {
        for (tenant, user) in [
            (None, ""),
            (Some(""), "ada"),
            (None, "a\nb"),
            (Some("a\u{1f}b"), "c"),
            (None, &*"x".repeat(513)),
        ] {
            assert!(Subject::new(tenant, user).is_err(), "{tenant:?} {user}");
        }
        for (tenant, user) in [(None, "ada"), (Some("acme"), "ada@example.org")] {
            let subject = Subject::new(tenant, user).unwrap();
            let read = Subject::from_columns(subject.tenant_column(), subject.user());
            assert_eq!(read.unwrap(), subject);
        }
        let of = |principal: Principal| Subject::try_from(&principal);
        let service = Principal {
            kind: PrincipalKind::Service,
            ..Principal::user("ada", None)
        };
        let subjects = [
            of(Principal::anonymous()).unwrap(),
            of(service).unwrap(),
            of(Principal::user("ada", None)).unwrap(),
            of(Principal::user("anonymous", None)).unwrap(),
        ];
        for (index, subject) in subjects.iter().enumerate() {
            assert!(!subjects[..index].contains(subject));
        }
        for taken in ["service:ada", "anonymous:"] {
            assert!(of(Principal::user(taken, None)).is_err());
        }
        let shown = format!("{:?}", Subject::new(None, "ada@example.org").unwrap());
        assert!(!shown.contains("ada"), "{shown}");
    }
}

//! What an operator may decide about storage (E3).

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use llmrtc_core::{duration, redact::Secret};
use serde::Deserialize;
use validator::{Validate, ValidationError};

use super::Class;
use crate::crypto::keyring::{Keyring, KeyringError, LocalKeyring};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Ten years: beyond that a mistake is likelier than a law.
const LONGEST: Duration = Duration::from_secs(3_660 * 24 * 60 * 60);

/// Where conversations are kept, under which keys, and for how long.
#[derive(Clone, Debug, Default, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "vault_is_consistent"))]
pub struct VaultConfig {
    /// Whether conversations are kept at all. Off: nothing is stored that nobody asked for.
    pub enabled: bool,
    /// `sqlite:///path/to/file` or `postgres://…`; absent means a file in the server's data folder. May hold a
    /// password, hence a secret.
    pub url: Option<Secret>,
    /// Where the users' keys are kept. Absent means `<file>.keys` beside an SQLite file, and the same database for
    /// PostgreSQL. Erasure reaches backups of `url` only as far as they do not include this store.
    pub keys_url: Option<Secret>,
    /// File with the master keys, made by `llmrtc keys generate`.
    pub keyring_file: Option<PathBuf>,
    /// The content of such a file, for containers without a disk.
    pub keyring: Option<Secret>,
    /// How long what is kept.
    #[validate(nested)]
    pub retention: RetentionConfig,
}

/// The keyring in the data folder, where nothing else is configured.
const KEYRING: &str = "keyring.json";

impl VaultConfig {
    /// The master keys: of the secret, of the file, else of `keyring.json` in the server's data folder, which is made
    /// if it is missing. A configured file that is missing is an error: new keys would not open old records.
    ///
    /// # Errors
    /// When they cannot be read or made.
    pub fn open_keyring(
        &self,
        data_folder: &Path,
        now: SystemTime,
    ) -> Result<LocalKeyring, KeyringError> {
        match (&self.keyring, &self.keyring_file) {
            (Some(json), _) => LocalKeyring::from_secret(json),
            (None, Some(path)) => LocalKeyring::open(path),
            (None, None) => {
                let path = data_folder.join(KEYRING);
                if !path.exists() {
                    Keyring::create(&path, now)?;
                }
                LocalKeyring::open(&path)
            }
        }
    }
}

fn vault_is_consistent(vault: &VaultConfig) -> Result<(), ValidationError> {
    if vault.keyring.is_some() && vault.keyring_file.is_some() {
        return Err(ValidationError::new("inconsistent")
            .with_message("keyring and keyring_file are both set: decide for one".into()));
    }
    Ok(())
}

/// How long what is kept. Enforced when it is read and by the sweeper.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "retention_is_consistent"))]
pub struct RetentionConfig {
    /// What was said.
    #[serde(with = "duration")]
    pub transcript: Duration,
    /// Recordings.
    #[serde(with = "duration")]
    pub audio: Duration,
    /// What tools answered.
    #[serde(with = "duration")]
    pub tool_result: Duration,
    /// The audit log. It is kept elsewhere; the number stands here so that all are in one place.
    #[serde(with = "duration")]
    pub audit: Duration,
    /// How often the sweeper runs.
    #[serde(with = "duration")]
    pub sweep_interval: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            // The customary month.
            transcript: DAY * 30,
            audio: DAY * 30,
            tool_result: DAY * 30,
            // A year, so that an incident found late can still be traced.
            audit: DAY * 365,
            // Expired rows are invisible anyway; an hour bounds how long they occupy the disk.
            sweep_interval: Duration::from_secs(60 * 60),
        }
    }
}

impl RetentionConfig {
    /// How long records of a class are kept.
    pub fn of(&self, class: Class) -> Duration {
        match class {
            Class::Transcript => self.transcript,
            Class::Audio => self.audio,
            Class::ToolResult => self.tool_result,
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn of_mut(&mut self, class: Class) -> &mut Duration {
        match class {
            Class::Transcript => &mut self.transcript,
            Class::Audio => &mut self.audio,
            Class::ToolResult => &mut self.tool_result,
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn longest(&self) -> Duration {
        self.transcript.max(self.audio).max(self.tool_result)
    }
}

fn retention_is_consistent(retention: &RetentionConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    let kept = [
        retention.transcript,
        retention.audio,
        retention.tool_result,
        retention.audit,
    ];
    if kept.iter().any(|kept| kept.is_zero() || *kept > LONGEST) {
        return problem("retention must be longer than zero and at most ten years");
    }
    if !(Duration::from_secs(10)..=DAY).contains(&retention.sweep_interval) {
        return problem("sweep_interval must be between 10s and 1day");
    }
    Ok(())
}

#[cfg(test)]
mod e3_configuration {
    use super::*;

    #[test]
    fn defaults_are_the_customary_month_and_a_year_of_audit() {
        let config: VaultConfig = serde_json::from_str("{}").unwrap();
        config.validate().unwrap();
        for class in Class::ALL {
            assert_eq!(config.retention.of(class), DAY * 30);
        }
        assert_eq!(config.retention.audit, DAY * 365);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |json: &str, expected: &str| {
            let text = match serde_json::from_str::<VaultConfig>(json) {
                Ok(config) => config.validate().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(text.contains(expected), "{text}, expected: {expected}");
        };
        check(r#"{"retention":{"audio":"0s"}}"#, "longer than zero");
        check(r#"{"retention":{"transcript":"20years"}}"#, "ten years");
        check(r#"{"retention":{"sweep_interval":"1s"}}"#, "between 10s");
        check(r#"{"retention":{"transcripts":"1day"}}"#, "unknown field");
        check(r#"{"keyring":"{}","keyring_file":"k"}"#, "both set");
    }

    #[test]
    fn a_missing_keyring_is_made_only_where_nothing_was_configured() {
        let folder = tempfile::TempDir::new().unwrap();
        let open = |config: &VaultConfig| {
            let keys = config.open_keyring(folder.path(), SystemTime::UNIX_EPOCH)?;
            Ok::<_, KeyringError>(keys.keys().active())
        };
        let mut config = VaultConfig::default();
        let made = open(&config).unwrap();
        assert_eq!(open(&config).unwrap(), made, "the second start finds it");
        config.keyring_file = Some(folder.path().join("elsewhere.json"));
        assert!(open(&config).is_err());
        config.keyring_file = Some(folder.path().join(KEYRING));
        assert_eq!(open(&config).unwrap(), made);
        let json = Keyring::load(&folder.path().join(KEYRING))
            .unwrap()
            .to_json();
        config.keyring = Some(json);
        assert_eq!(open(&config).unwrap(), made);
    }

    #[test]
    fn a_password_in_the_url_does_not_print() {
        let json = r#"{"url":"postgres://u:hunter2@db/x","keyring":"hunter2"}"#;
        let config: VaultConfig = serde_json::from_str(json).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

//! What the operator can set.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use validator::{Validate, ValidationError};

use crate::protocol::AttachmentPolicy;

/// Limits and switches of a connection.
///
/// # Defaults
/// Those of [`Default`], each named at its field. They leave the stock client several times the room it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// Copy what goes to the data channel to the WebSocket too, for tools that tap it. Never audio. Default: on.
    pub mirror: bool,
    /// Accept `https:` addresses as attachments besides inline images. Default: off.
    pub allow_attachment_urls: bool,
    /// How long a client may stay without an offer or audio. Default: 60 s.
    #[serde(with = "llmrtc_core::duration")]
    #[validate(custom(function = "positive"))]
    pub first_use: Duration,
    /// Longest connection. Default: 4 h.
    #[serde(with = "llmrtc_core::duration")]
    #[validate(custom(function = "positive"))]
    pub max_duration: Duration,
    /// Longest silence of a client that has not yet sent a `ping`; a slow connect takes 48 s. Default: 90 s.
    #[serde(with = "llmrtc_core::duration")]
    #[validate(custom(function = "positive"))]
    pub idle_before_ping: Duration,
    /// Longest silence afterwards; the client pings every 15 s. Default: 45 s.
    #[serde(with = "llmrtc_core::duration")]
    #[validate(custom(function = "positive"))]
    pub idle: Duration,
    /// Messages per second, on both channels together, WebSocket pings included. Default: 100.
    #[validate(range(min = 1, max = 100_000))]
    pub messages_per_second: u32,
    /// Utterances per second. Default: 2.
    #[validate(range(min = 1, max = 1000))]
    pub audio_per_second: u32,
    /// Utterances per minute. Default: 30.
    #[validate(range(min = 1, max = 60_000))]
    pub audio_per_minute: u32,
    /// Offers per ten seconds. Default: 5.
    #[validate(range(min = 1, max = 1000))]
    pub offers_per_ten_seconds: u32,
    /// A client that leaves more than this unread, in bytes, for longer than `slow_client_grace` is disconnected.
    /// Default: 4 MiB.
    #[validate(range(min = 65_536))]
    pub slow_client_bytes: usize,
    /// See `slow_client_bytes`. Default: 10 s.
    #[serde(with = "llmrtc_core::duration")]
    #[validate(custom(function = "positive"))]
    pub slow_client_grace: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            mirror: true,
            allow_attachment_urls: false,
            first_use: Duration::from_secs(60),
            max_duration: Duration::from_secs(4 * 60 * 60),
            idle_before_ping: Duration::from_secs(90),
            idle: Duration::from_secs(45),
            messages_per_second: 100,
            audio_per_second: 2,
            audio_per_minute: 30,
            offers_per_ten_seconds: 5,
            slow_client_bytes: 4 * 1024 * 1024,
            slow_client_grace: Duration::from_secs(10),
        }
    }
}

impl ConnectionConfig {
    pub(super) fn attachment_policy(&self) -> AttachmentPolicy {
        AttachmentPolicy {
            allow_urls: self.allow_attachment_urls,
        }
    }
}

fn positive(duration: &Duration) -> Result<(), ValidationError> {
    if duration.is_zero() {
        return Err(
            ValidationError::new("positive").with_message("must be longer than zero".into())
        );
    }
    Ok(())
}

use std::time::Duration;

/// A boxed cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where in a call a deadline or a connection gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// TCP, TLS or WebSocket upgrade.
    Connect,
    /// Request sent, nothing received yet.
    FirstEvent,
    /// Between two events of a stream.
    Idle,
    /// The whole call.
    Total,
}

/// The nature of a provider failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The adapter was configured wrongly (operator).
    Config,
    /// Credentials rejected (operator).
    Authentication,
    /// Authenticated, but not allowed (operator).
    Permission,
    /// No credit or quota left (operator).
    Billing,
    /// Too many requests (vendor).
    RateLimited,
    /// The vendor is overloaded or down (vendor).
    Unavailable,
    /// The vendor refused the request as malformed (us).
    InvalidRequest,
    /// Unknown model, voice or deployment (operator).
    NotFound,
    /// The context window is exhausted (us).
    ContextOverflow,
    /// A vendor's filter refused the content (caller).
    ContentFiltered,
    /// A deadline passed (vendor).
    Timeout(Phase),
    /// No connection (vendor or network).
    Connect,
    /// The connection ended early (vendor or network).
    Disconnected,
    /// The answer did not follow the vendor's protocol (vendor).
    Protocol,
    /// A size cap was hit before anything was sent, or while receiving (us or vendor).
    TooLarge,
    /// The input could not be decoded (caller).
    InvalidInput,
    /// The provider cannot do this (us).
    Unsupported,
    /// The call was cancelled (us).
    Cancelled,
    /// Anything else.
    Other,
}

/// Whether the same call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Trying again cannot help.
    Never,
    /// Worth another attempt, after at least this long if the vendor said so.
    After(Option<Duration>),
}

/// A failed provider call.
///
/// The message is for operators. It is at most 300 characters, free of control characters and of secrets; vendor
/// bodies stay out of it. Clients see a code and a sentence of ours instead.
#[derive(Debug, thiserror::Error)]
#[error("{provider}: {message}")]
pub struct ProviderError {
    kind: ErrorKind,
    provider: String,
    message: String,
    retry_after: Option<Duration>,
    retryable: Option<bool>,
    #[source]
    source: Option<BoxError>,
}

impl ProviderError {
    /// A failure of `provider`. The message is cut to 300 characters and control characters are dropped.
    pub fn new(kind: ErrorKind, provider: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = message
            .as_ref()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        let provider = provider.into();
        Self {
            kind,
            provider,
            message,
            retry_after: None,
            retryable: None,
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the vendor's wish for how long to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Overrides the classification, where the vendor says it explicitly (`x-should-retry`).
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = Some(retryable);
        self
    }

    /// The same failure without its cause, for whoever looks at it beside its owner.
    #[must_use]
    pub fn restated(&self) -> Self {
        Self {
            kind: self.kind,
            provider: self.provider.clone(),
            message: self.message.clone(),
            retry_after: self.retry_after,
            retryable: self.retryable,
            source: None,
        }
    }

    /// The nature of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// How long the vendor asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same call may be tried again, before any event was delivered.
    pub fn retry(&self) -> Retry {
        let worth_it = self.retryable.unwrap_or(match self.kind {
            ErrorKind::RateLimited
            | ErrorKind::Unavailable
            | ErrorKind::Timeout(_)
            | ErrorKind::Connect
            | ErrorKind::Disconnected
            | ErrorKind::Protocol => true,
            ErrorKind::Config
            | ErrorKind::Authentication
            | ErrorKind::Permission
            | ErrorKind::Billing
            | ErrorKind::InvalidRequest
            | ErrorKind::NotFound
            | ErrorKind::ContextOverflow
            | ErrorKind::ContentFiltered
            | ErrorKind::TooLarge
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
            | ErrorKind::Cancelled
            | ErrorKind::Other => false,
        });
        if worth_it {
            Retry::After(self.retry_after)
        } else {
            Retry::Never
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classification_is_a_table() {
        let retried = [
            ErrorKind::RateLimited,
            ErrorKind::Unavailable,
            ErrorKind::Timeout(Phase::FirstEvent),
            ErrorKind::Connect,
            ErrorKind::Disconnected,
            ErrorKind::Protocol,
        ];
        for kind in retried {
            assert_eq!(
                ProviderError::new(kind, "p", "m").retry(),
                Retry::After(None),
                "{kind:?}"
            );
        }
        for kind in [
            ErrorKind::Authentication,
            ErrorKind::InvalidRequest,
            ErrorKind::NotFound,
        ] {
            assert_eq!(
                ProviderError::new(kind, "p", "m").retry(),
                Retry::Never,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn the_vendor_has_the_last_word_on_retries() {
        let error = ProviderError::new(ErrorKind::Unavailable, "p", "m").with_retryable(false);
        assert_eq!(error.retry(), Retry::Never);
    }

    #[test]
    fn messages_are_short_and_printable() {
        let error = ProviderError::new(
            ErrorKind::Other,
            "p",
            format!("a\r\n\u{1b}[31m{}", "x".repeat(500)),
        );
        let text = error.to_string();
        assert!(
            text.chars().count() <= 304 && !text.chars().any(char::is_control),
            "{text}"
        );
    }
}

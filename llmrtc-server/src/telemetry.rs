//! Log lines: to standard error, for people or for machines. What people say appears only as its length, unless the
//! operator turned capture on (`log.capture`); that is decided where the line is written, by `Pii`.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// Libraries that log every packet at `debug`. Naming them in `log.level` overrides this.
const QUIET: &str =
    "webrtc=warn,rtc=warn,rtc_ice=warn,rtc_sctp=warn,rtc_dtls=warn,hyper=info,h2=info,rustls=info";

/// Logging that could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter does not parse; validated configurations do.
    #[error("log filter is not valid")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Somebody else installed a subscriber already.
    #[error("logging is already set up")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Installs the process-wide subscriber.
///
/// # Errors
/// When the filter does not parse, or a subscriber is installed already.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = filter(&config.level).map_err(TelemetryError::Filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Human => {
            let ansi = std::io::stderr().is_terminal();
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false);
            registry.with(layer.with_writer(std::io::stderr)).try_init()
        }
    }
    .map_err(TelemetryError::AlreadySet)
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(format!("{QUIET},{level}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_has_the_last_word_about_levels() {
        let shows = |level: &str| filter(level).unwrap().to_string();
        let default = shows("info");
        assert!(
            default.contains("webrtc=warn") && default.contains("info"),
            "{default}"
        );
        let loud = shows("debug,webrtc=trace");
        assert!(
            loud.contains("webrtc=trace") && !loud.contains("webrtc=warn"),
            "{loud}"
        );
        assert!(filter("info,llmrtc=loud").is_err());
    }
}

//! Every span and metric name, and where the numbers go.
//!
//! [`METRICS`] is the catalogue: unit, help, label keys and histogram bounds of every name. Label values come from
//! small closed sets; ids are never labels (MT1). A sink that leaves the process lives in the server crate.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Span of one turn, the root of its trace.
pub const SPAN_TURN: &str = "turn";
/// Span of one transcription.
pub const SPAN_STT: &str = "stt";
/// Span of one request to the language model.
pub const SPAN_LLM: &str = "llm";
/// Span of one tool call.
pub const SPAN_TOOL: &str = "tool";
/// Span of the synthesis of one segment.
pub const SPAN_TTS: &str = "tts";
/// Span from the first to the last sample of an answer.
pub const SPAN_PLAYOUT: &str = "playout";

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of durations, fed by [`MetricsSink::timing`].
    Timing,
    /// A distribution of plain numbers, fed by [`MetricsSink::histogram`].
    Histogram,
}

/// What the exported number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Seconds: our own timings.
    Seconds,
    /// Milliseconds: timings whose names the reference implementation chose.
    Milliseconds,
}

/// One metric of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricDef {
    /// The name, dots included.
    pub name: &'static str,
    /// What it counts.
    pub kind: MetricKind,
    /// The unit of the exported number and of `bounds`.
    pub unit: Unit,
    /// One sentence for dashboards.
    pub help: &'static str,
    /// The keys of its labels, complete.
    pub labels: &'static [&'static str],
    /// Upper bounds of histogram buckets in `unit`, ascending; empty for counters and gauges.
    pub bounds: &'static [f64],
}

impl MetricDef {
    /// A duration as the exported number.
    pub fn export(&self, value: Duration) -> f64 {
        match self.unit {
            Unit::Milliseconds => value.as_secs_f64() * 1_000.0,
            Unit::Seconds | Unit::Count => value.as_secs_f64(),
        }
    }
}

/// Milliseconds to two seconds: the response target is 400 ms, a person notices 200 ms either way.
const RESPONSE_BOUNDS: &[f64] = &[
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0,
];
/// Barge-in: 120 ms to know, 220 ms to be silent.
const BARGE_IN_BOUNDS: &[f64] = &[
    0.02, 0.05, 0.08, 0.12, 0.16, 0.22, 0.3, 0.4, 0.55, 0.75, 1.0, 2.0,
];
/// One event of one vendor: from a local model to its deadline.
const STAGE_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0, 15.0,
];
/// Whole calls, in milliseconds.
const CALL_BOUNDS_MS: &[f64] = &[
    10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 700.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0, 15_000.0,
    30_000.0, 60_000.0, 180_000.0,
];
/// Sessions, in milliseconds: seconds to four hours.
const SESSION_BOUNDS_MS: &[f64] = &[
    1e3, 5e3, 15e3, 30e3, 60e3, 120e3, 300e3, 600e3, 1_200e3, 1_800e3, 3_600e3, 7_200e3, 14_400e3,
];
/// Turns of one session.
const TURN_COUNT_BOUNDS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

macro_rules! catalogue {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $kind:ident, $unit:ident,
        [$($label:literal),*], $bounds:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            $(#[$doc])*
            pub const $constant: &str = $name;
        )*

        /// The catalogue of every metric.
        pub const METRICS: &[MetricDef] = &[
            $(MetricDef {
                name: $constant,
                kind: MetricKind::$kind,
                unit: Unit::$unit,
                help: $help,
                labels: &[$($label),*],
                bounds: $bounds,
            },)*
        ];
    };
}

catalogue! {
    TURN_RESPONSE = "llmrtc.turn.response", Timing, Seconds, ["mode"], RESPONSE_BOUNDS,
        "From the caller's last voiced sample to the first audible sample of the answer.";
    TURN_BARGE_IN = "llmrtc.turn.barge_in", Timing, Seconds, [], BARGE_IN_BOUNDS,
        "From the caller's first voiced sample to the last frame of the interrupted answer.";
    TURN_OUTCOMES = "llmrtc.turn.outcomes", Counter, Count, ["outcome", "mode"], &[],
        "Turns, by how they ended.";
    BARGE_IN_RESUMED = "llmrtc.barge_in.resumed", Counter, Count, [], &[],
        "Answers that went on because the interruption was noise.";
    STT_FINAL = "llmrtc.stt.final", Timing, Seconds, ["provider", "mode"], STAGE_BOUNDS,
        "From the request (live: the end of speech) to the final transcript.";
    LLM_FIRST_CHUNK = "llmrtc.llm.first_chunk", Timing, Seconds, ["provider", "model"], STAGE_BOUNDS,
        "From the request to the first text of the response.";
    TTS_FIRST_AUDIO = "llmrtc.tts.first_audio", Timing, Seconds, ["provider", "model"], STAGE_BOUNDS,
        "From the request to the first audio of a segment.";
    TTS_UNDERRUNS = "llmrtc.tts.underruns", Counter, Count, [], &[],
        "Times that playout ran dry in the middle of a segment.";
    RETRIES = "llmrtc.retries", Counter, Count, ["component"], &[],
        "Provider calls that were tried again.";
    GUARDRAIL_BLOCKS = "llmrtc.guardrail.blocks", Counter, Count, ["guardrail"], &[],
        "Turns that a guardrail stopped.";
    QUEUE_DROPPED = "llmrtc.queue.dropped", Counter, Count, ["queue"], &[],
        "Frames or events lost to a full queue.";
    HOOKS_DROPPED = "llmrtc.hooks.dropped", Counter, Count, ["observer"], &[],
        "Events that an observer was too slow for.";

    STT_DURATION = "llmrtc.stt.duration_ms", Timing, Milliseconds, ["provider", "model", "mode"], CALL_BOUNDS_MS,
        "Duration of transcription.";
    LLM_TTFT = "llmrtc.llm.ttft_ms", Timing, Milliseconds, ["provider", "model", "round"], CALL_BOUNDS_MS,
        "From the request to the first text of the response.";
    LLM_DURATION = "llmrtc.llm.duration_ms", Timing, Milliseconds, ["provider", "model", "round", "stop_reason"], CALL_BOUNDS_MS,
        "Duration of a response, playout excluded.";
    LLM_TOKENS = "llmrtc.llm.tokens", Counter, Count, ["provider", "model", "kind"], &[],
        "Tokens as the vendor reports them.";
    TTS_DURATION = "llmrtc.tts.duration_ms", Timing, Milliseconds, ["provider", "model"], CALL_BOUNDS_MS,
        "From the first segment sent to synthesis to the last audio received.";
    TURN_DURATION = "llmrtc.turn.duration_ms", Timing, Milliseconds, ["outcome", "mode"], CALL_BOUNDS_MS,
        "Duration of a turn, playout included.";
    SESSION_DURATION = "llmrtc.session.duration_ms", Timing, Milliseconds, [], SESSION_BOUNDS_MS,
        "Duration of a connection.";
    SESSIONS_ACTIVE = "llmrtc.sessions.active", Gauge, Count, [], &[],
        "Sessions, connected or waiting for their client.";
    SESSION_TURNS = "llmrtc.session.turns", Histogram, Count, [], TURN_COUNT_BOUNDS,
        "Turns of a connection.";
    ERRORS = "llmrtc.errors", Counter, Count, ["component", "code", "provider"], &[],
        "Failures.";
    CONNECTIONS_ACTIVE = "llmrtc.connections.active", Gauge, Count, ["transport"], &[],
        "Open connections.";
    RECONNECTIONS = "llmrtc.reconnections", Counter, Count, ["result"], &[],
        "Attempts to resume a session.";
    TOOL_DURATION = "llmrtc.tool.duration_ms", Timing, Milliseconds, ["tool"], CALL_BOUNDS_MS,
        "Duration of a tool call.";
    TOOL_CALLS = "llmrtc.tool.calls", Counter, Count, ["tool", "category"], &[],
        "Tool calls.";
    TOOL_ERRORS = "llmrtc.tool.errors", Counter, Count, ["tool", "category"], &[],
        "Tool calls that failed.";
}

/// Looks a metric up by its name.
pub fn definition(name: &str) -> Option<&'static MetricDef> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// Labels of one observation.
pub type Tags<'a> = &'a [(&'static str, &'a str)];

/// Where numbers go. Implementations must neither block nor panic; they are called on the hot path.
pub trait MetricsSink: Send + Sync + 'static {
    /// Adds to a counter.
    fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>);
    /// Records a duration. The unit of the exported number is [`MetricDef::unit`].
    fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>);
    /// Sets a gauge.
    fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>);
    /// Records a plain number in a distribution.
    fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>);
}

/// A handle to the sink. Cloning is cheap, and a handle without a sink costs one comparison.
#[derive(Clone, Default)]
pub struct Metrics(Option<Arc<dyn MetricsSink>>);

impl Metrics {
    /// Numbers go to `sink`.
    pub fn new(sink: Arc<dyn MetricsSink>) -> Self {
        Self(Some(sink))
    }

    /// Numbers go nowhere.
    pub const fn noop() -> Self {
        Self(None)
    }

    /// Whether anybody listens; saves the preparation of costly labels.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Adds to a counter.
    pub fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>) {
        if let Some(sink) = &self.0 {
            sink.increment(name, value, tags);
        }
    }

    /// Records a duration.
    pub fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>) {
        if let Some(sink) = &self.0 {
            sink.timing(name, value, tags);
        }
    }

    /// Sets a gauge.
    pub fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        if let Some(sink) = &self.0 {
            sink.gauge(name, value, tags);
        }
    }

    /// Records a plain number in a distribution.
    pub fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        if let Some(sink) = &self.0 {
            sink.histogram(name, value, tags);
        }
    }

    /// Counts what a full queue lost.
    pub fn queue_dropped(&self, queue: &'static str, count: u64) {
        self.increment(QUEUE_DROPPED, count, &[("queue", queue)]);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_enabled() {
            "Metrics"
        } else {
            "Metrics(noop)"
        })
    }
}

/// Hands every number to several sinks, in order.
#[derive(Default)]
pub struct Fanout(Vec<Arc<dyn MetricsSink>>);

impl Fanout {
    /// Joins the sinks.
    pub fn new(sinks: Vec<Arc<dyn MetricsSink>>) -> Self {
        Self(sinks)
    }
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fanout({} sinks)", self.0.len())
    }
}

impl MetricsSink for Fanout {
    fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>) {
        self.0
            .iter()
            .for_each(|sink| sink.increment(name, value, tags));
    }

    fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>) {
        self.0
            .iter()
            .for_each(|sink| sink.timing(name, value, tags));
    }

    fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.0.iter().for_each(|sink| sink.gauge(name, value, tags));
    }

    fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.0
            .iter()
            .for_each(|sink| sink.histogram(name, value, tags));
    }
}

/// Writes every number as a log line at `debug`, target `llmrtc::metrics`. For development.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingMetrics;

/// Labels as `{provider=mock mode=live}`.
struct ShowTags<'a>(Tags<'a>);

impl fmt::Display for ShowTags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            // Escaped, because a label may quote a name from a configuration file.
            write!(f, "{space}{key}={}", value.escape_debug())?;
        }
        f.write_str("}")
    }
}

impl MetricsSink for TracingMetrics {
    fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>) {
        let tags = ShowTags(tags);
        tracing::debug!(target: "llmrtc::metrics", "[metric] {name} +{value} {tags}");
    }

    fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>) {
        let tags = ShowTags(tags);
        let ms = value.as_secs_f64() * 1_000.0;
        tracing::debug!(target: "llmrtc::metrics", "[metric] {name} {ms:.1}ms {tags}");
    }

    fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        let tags = ShowTags(tags);
        tracing::debug!(target: "llmrtc::metrics", "[metric] {name} = {value} {tags}");
    }

    fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        let tags = ShowTags(tags);
        tracing::debug!(target: "llmrtc::metrics", "[metric] {name} ~ {value} {tags}");
    }
}

/// The value of one recorded observation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MetricValue {
    /// Added to a counter.
    Increment(u64),
    /// A duration.
    Timing(Duration),
    /// A gauge's new value.
    Gauge(f64),
    /// A number in a distribution.
    Histogram(f64),
}

/// One recorded observation.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRecord {
    /// The metric.
    pub name: &'static str,
    /// What was recorded.
    pub value: MetricValue,
    /// The labels.
    pub tags: Vec<(&'static str, String)>,
}

impl MetricRecord {
    /// The value of a label.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.as_str())
    }
}

/// Keeps every observation, for tests. It grows without a bound: not for servers.
#[derive(Debug, Default)]
pub struct InMemoryMetrics(Mutex<Vec<MetricRecord>>);

impl InMemoryMetrics {
    /// An empty record.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Everything recorded so far, oldest first.
    pub fn records(&self) -> Vec<MetricRecord> {
        self.lock().clone()
    }

    /// Everything recorded under a name, oldest first.
    pub fn of(&self, name: &str) -> Vec<MetricRecord> {
        self.lock()
            .iter()
            .filter(|record| record.name == name)
            .cloned()
            .collect()
    }

    /// The latest observation of a name.
    pub fn latest(&self, name: &str) -> Option<MetricRecord> {
        self.of(name).pop()
    }

    /// The sum of a counter over all its labels.
    pub fn count(&self, name: &str) -> u64 {
        self.of(name)
            .iter()
            .map(|record| match record.value {
                MetricValue::Increment(value) => value,
                _ => 0,
            })
            .sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<MetricRecord>> {
        // A panic elsewhere cannot leave a half-pushed record.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, name: &'static str, value: MetricValue, tags: Tags<'_>) {
        let tags = tags
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        self.lock().push(MetricRecord { name, value, tags });
    }
}

impl MetricsSink for InMemoryMetrics {
    fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>) {
        self.push(name, MetricValue::Increment(value), tags);
    }

    fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>) {
        self.push(name, MetricValue::Timing(value), tags);
    }

    fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.push(name, MetricValue::Gauge(value), tags);
    }

    fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.push(name, MetricValue::Histogram(value), tags);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_catalogue_is_consistent() {
        let mut names = HashSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.starts_with("llmrtc."), "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(
                metric.bounds.windows(2).all(|pair| pair[0] < pair[1]),
                "{name}"
            );
            let distribution = matches!(metric.kind, MetricKind::Timing | MetricKind::Histogram);
            assert_eq!(distribution, !metric.bounds.is_empty(), "{name}");
            assert_eq!(
                metric.kind == MetricKind::Timing,
                metric.unit != Unit::Count,
                "{name}"
            );
            assert_eq!(
                name.ends_with("_ms"),
                metric.unit == Unit::Milliseconds,
                "{name}"
            );
            assert!(
                !metric
                    .labels
                    .iter()
                    .any(|label| label.ends_with("id") || label.contains("session")),
                "{name}: ids are never labels"
            );
        }
    }

    #[test]
    fn durations_are_exported_in_the_unit_of_the_metric() {
        let value = Duration::from_millis(250);
        assert_eq!(definition(TURN_RESPONSE).unwrap().export(value), 0.25);
        assert_eq!(definition(TURN_DURATION).unwrap().export(value), 250.0);
        assert_eq!(definition("llmrtc.unknown"), None);
    }

    #[test]
    fn every_sink_behind_a_fanout_hears_everything() {
        let (one, two) = (InMemoryMetrics::new(), InMemoryMetrics::new());
        let metrics = Metrics::new(Arc::new(Fanout::new(vec![one.clone(), two.clone()])));
        metrics.increment(ERRORS, 2, &[("component", "stt")]);
        metrics.increment(ERRORS, 3, &[("component", "llm")]);
        metrics.timing(STT_DURATION, Duration::from_millis(7), &[]);
        metrics.gauge(SESSIONS_ACTIVE, 4.0, &[]);
        metrics.histogram(SESSION_TURNS, 9.0, &[]);
        metrics.queue_dropped("capture", 1);
        assert_eq!(one.records(), two.records());
        assert_eq!(one.count(ERRORS), 5);
        assert_eq!(one.latest(ERRORS).unwrap().tag("component"), Some("llm"));
        assert_eq!(
            one.latest(SESSIONS_ACTIVE).unwrap().value,
            MetricValue::Gauge(4.0)
        );
        assert_eq!(
            one.latest(QUEUE_DROPPED).unwrap().tag("queue"),
            Some("capture")
        );
        one.clear();
        assert!(one.records().is_empty());
    }

    #[test]
    fn labels_cannot_forge_a_log_line() {
        let shown = ShowTags(&[("provider", "a\nb"), ("mode", "live")]).to_string();
        assert_eq!(shown, "{provider=a\\nb mode=live}");
    }

    #[test]
    fn a_handle_without_a_sink_is_silent() {
        let metrics = Metrics::noop();
        assert!(!metrics.is_enabled());
        metrics.increment(ERRORS, 1, &[]);
    }
}

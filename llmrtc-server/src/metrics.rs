//! Numbers for Prometheus, in its text format 0.0.4.
//!
//! Families, labels and bucket bounds are those of the catalogue in `llmrtc_core::telemetry`. Recording takes a read
//! lock and a few atomic additions; only the first observation of a new label combination takes the write lock.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use llmrtc_core::telemetry::{METRICS, MetricDef, MetricKind, MetricsSink, Tags, Unit};

use crate::security::Security;

/// Label combinations per metric. Values come from small closed sets; should one not, everything beyond this is counted
/// under `other`, and the memory stays bounded.
const MAX_SERIES: usize = 128;
/// Longest label value in characters.
const MAX_LABEL_CHARS: usize = 64;

/// Collects numbers until Prometheus asks for them.
#[derive(Debug)]
pub struct PrometheusMetrics {
    families: HashMap<&'static str, Family>,
    /// Shown as well: what protects the server counts for itself.
    security: OnceLock<Weak<Security>>,
}

#[derive(Debug)]
struct Family {
    definition: &'static MetricDef,
    series: RwLock<Vec<Arc<Series>>>,
}

/// One label combination. Counters and gauges use `value`; distributions use all.
#[derive(Debug)]
struct Series {
    /// In the order of the definition's labels.
    labels: Vec<String>,
    /// A counter's count, or the bits of a gauge or of a distribution's sum.
    value: AtomicU64,
    /// One per bound, and one for everything above.
    buckets: Vec<AtomicU64>,
}

impl Default for PrometheusMetrics {
    fn default() -> Self {
        let family = |definition: &'static MetricDef| {
            (
                definition.name,
                Family {
                    definition,
                    series: RwLock::default(),
                },
            )
        };
        Self {
            families: METRICS.iter().map(family).collect(),
            security: OnceLock::new(),
        }
    }
}

impl MetricsSink for PrometheusMetrics {
    fn increment(&self, name: &'static str, value: u64, tags: Tags<'_>) {
        self.record(name, &[MetricKind::Counter], tags, |series, _| {
            series.value.fetch_add(value, Ordering::Relaxed);
        });
    }

    fn timing(&self, name: &'static str, value: Duration, tags: Tags<'_>) {
        self.record(name, &[MetricKind::Timing], tags, |series, definition| {
            series.observe(definition.export(value), definition.bounds);
        });
    }

    fn gauge(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.record(name, &[MetricKind::Gauge], tags, |series, _| {
            series.value.store(value.to_bits(), Ordering::Relaxed);
        });
    }

    fn histogram(&self, name: &'static str, value: f64, tags: Tags<'_>) {
        self.record(
            name,
            &[MetricKind::Histogram, MetricKind::Timing],
            tags,
            |series, definition| {
                series.observe(value, definition.bounds);
            },
        );
    }
}

impl PrometheusMetrics {
    /// Shows the numbers of `security` as well, for as long as it lives. The first call counts.
    pub(crate) fn show(&self, security: &Arc<Security>) {
        let _ = self.security.set(Arc::downgrade(security));
    }

    /// Names outside the catalogue, and calls that do not fit the kind, are ignored: a sink must not fail its caller.
    fn record(
        &self,
        name: &'static str,
        kinds: &[MetricKind],
        tags: Tags<'_>,
        record: impl FnOnce(&Series, &MetricDef),
    ) {
        if let Some(family) = self.families.get(name)
            && kinds.contains(&family.definition.kind)
        {
            record(&family.series(tags), family.definition);
        }
    }

    /// All numbers as text, with those of the process.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        for definition in METRICS {
            if let Some(family) = self.families.get(definition.name) {
                family.render(&mut text);
            }
        }
        if let Some(security) = self.security.get().and_then(Weak::upgrade) {
            security.render(&mut text);
        }
        render_process(&mut text);
        text
    }
}

impl Family {
    fn series(&self, tags: Tags<'_>) -> Arc<Series> {
        let labels = self.definition.labels;
        let value = |label: &str| {
            tags.iter()
                .find(|(key, _)| *key == label)
                .map_or("", |(_, value)| *value)
        };
        let matches = |series: &Series| {
            labels
                .iter()
                .zip(&series.labels)
                .all(|(label, known)| cut(value(label)) == known)
        };
        let find = |all: &[Arc<Series>]| all.iter().find(|series| matches(series)).cloned();

        if let Some(series) = find(&self.series.read().unwrap_or_else(PoisonError::into_inner)) {
            return series;
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = find(&all) {
            return series;
        }
        if all.len() > MAX_SERIES {
            // The one that collects the rest is the last.
            return Arc::clone(&all[MAX_SERIES]);
        }
        let overflow = all.len() == MAX_SERIES;
        let name = |label: &&str| {
            if overflow {
                "other".to_owned()
            } else {
                cut(value(label)).to_owned()
            }
        };
        let buckets = match self.definition.kind {
            MetricKind::Timing | MetricKind::Histogram => self.definition.bounds.len() + 1,
            MetricKind::Counter | MetricKind::Gauge => 0,
        };
        let series = Arc::new(Series {
            labels: labels.iter().map(name).collect(),
            value: AtomicU64::new(0),
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
        });
        all.push(Arc::clone(&series));
        series
    }

    fn render(&self, text: &mut String) {
        let series = self
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if series.is_empty() {
            return;
        }
        let definition = self.definition;
        let name = exported_name(definition);
        let kind = match definition.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Timing | MetricKind::Histogram => "histogram",
        };
        let help = definition.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for series in series {
            let value = series.value.load(Ordering::Relaxed);
            match definition.kind {
                MetricKind::Counter => sample(text, &name, "", definition, &series, None, value),
                MetricKind::Gauge => sample(
                    text,
                    &name,
                    "",
                    definition,
                    &series,
                    None,
                    f64::from_bits(value),
                ),
                MetricKind::Timing | MetricKind::Histogram => {
                    let mut count = 0;
                    let bounds = definition
                        .bounds
                        .iter()
                        .map(ToString::to_string)
                        .chain(["+Inf".to_owned()]);
                    for (bound, bucket) in bounds.zip(&series.buckets) {
                        count += bucket.load(Ordering::Relaxed);
                        sample(
                            text,
                            &name,
                            "_bucket",
                            definition,
                            &series,
                            Some(&bound),
                            count,
                        );
                    }
                    sample(
                        text,
                        &name,
                        "_sum",
                        definition,
                        &series,
                        None,
                        f64::from_bits(value),
                    );
                    sample(text, &name, "_count", definition, &series, None, count);
                }
            }
        }
    }
}

impl Series {
    fn observe(&self, value: f64, bounds: &[f64]) {
        if !value.is_finite() {
            return;
        }
        let index = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
            let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
            // The closure never gives up, so neither does the update.
            let _ = self
                .value
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}

/// `llmrtc.turn.response` in seconds is `llmrtc_turn_response_seconds`; counters end in `_total`. Names that carry
/// their unit already keep it.
fn exported_name(definition: &MetricDef) -> String {
    let name = definition.name.replace('.', "_");
    match (definition.kind, definition.unit) {
        (MetricKind::Counter, _) => format!("{name}_total"),
        (_, Unit::Seconds) => format!("{name}_seconds"),
        _ => name,
    }
}

fn sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    definition: &MetricDef,
    series: &Series,
    bound: Option<&str>,
    value: impl std::fmt::Display,
) {
    let labels = definition
        .labels
        .iter()
        .copied()
        .zip(series.labels.iter().map(String::as_str));
    let labels = labels.chain(bound.map(|bound| ("le", bound)));
    text.push_str(name);
    text.push_str(suffix);
    for (index, (label, value)) in labels.enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        let _ = write!(text, "{label}=\"");
        for char in value.chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !definition.labels.is_empty() || bound.is_some() {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

fn cut(value: &str) -> &str {
    value
        .char_indices()
        .nth(MAX_LABEL_CHARS)
        .map_or(value, |(end, _)| &value[..end])
}

/// Memory and processor time under the names that every Prometheus client uses. Nothing where the system does not say.
fn render_process(text: &mut String) {
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    if let Some(bytes) = resident_bytes() {
        metric(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            bytes,
        );
    }
    if let Some(seconds) = cpu_seconds() {
        metric(
            "process_cpu_seconds_total",
            "counter",
            "User and system time.",
            seconds,
        );
    }
    if let Some(count) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        metric(
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            count as f64,
        );
    }
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    /// `USER_HZ`, which Linux fixes at 100 for every program.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may contain anything; utime and stime are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use llmrtc_core::telemetry::{
        CONNECTIONS_ACTIVE, ERRORS, SESSION_TURNS, SESSIONS_ACTIVE, STT_DURATION, STT_FINAL,
        TURN_BARGE_IN,
    };

    use super::*;

    fn lines(metrics: &PrometheusMetrics, prefix: &str) -> Vec<String> {
        metrics
            .render()
            .lines()
            .filter(|line| line.starts_with(prefix))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn counters_and_gauges_carry_their_labels_escaped() {
        let metrics = PrometheusMetrics::default();
        let tags = [
            ("code", "a\"b\\c\nd"),
            ("component", "stt"),
            ("unknown", "x"),
        ];
        metrics.increment(ERRORS, 2, &tags);
        metrics.increment(ERRORS, 1, &tags);
        metrics.gauge(SESSIONS_ACTIVE, 3.0, &[]);
        metrics.gauge(CONNECTIONS_ACTIVE, 1.5, &[("transport", "websocket")]);
        let expected = r#"llmrtc_errors_total{component="stt",code="a\"b\\c\nd",provider=""} 3"#;
        assert_eq!(lines(&metrics, "llmrtc_errors_total"), [expected]);
        assert_eq!(
            lines(&metrics, "llmrtc_sessions_active"),
            ["llmrtc_sessions_active 3"]
        );
        assert_eq!(
            lines(&metrics, "llmrtc_connections"),
            [r#"llmrtc_connections_active{transport="websocket"} 1.5"#]
        );
        assert_eq!(
            lines(&metrics, "# ")
                .iter()
                .filter(|line| line.contains("llmrtc_errors_total"))
                .collect::<Vec<_>>(),
            [
                "# HELP llmrtc_errors_total Failures.",
                "# TYPE llmrtc_errors_total counter"
            ]
        );
    }

    #[test]
    fn distributions_count_up_to_each_bound_in_the_unit_of_their_name() {
        let metrics = PrometheusMetrics::default();
        for ms in [20, 21, 5_000] {
            metrics.timing(TURN_BARGE_IN, Duration::from_millis(ms), &[]);
        }
        let text = lines(&metrics, "llmrtc_turn_barge_in_seconds");
        assert_eq!(
            text[0],
            r#"llmrtc_turn_barge_in_seconds_bucket{le="0.02"} 1"#
        );
        assert_eq!(
            text[1],
            r#"llmrtc_turn_barge_in_seconds_bucket{le="0.05"} 2"#
        );
        assert_eq!(
            text[12],
            r#"llmrtc_turn_barge_in_seconds_bucket{le="+Inf"} 3"#
        );
        assert_eq!(text[13], "llmrtc_turn_barge_in_seconds_sum 5.041");
        assert_eq!(text[14], "llmrtc_turn_barge_in_seconds_count 3");
        metrics.timing(
            STT_DURATION,
            Duration::from_millis(40),
            &[("provider", "echo")],
        );
        let text = lines(&metrics, "llmrtc_stt_duration_ms_sum");
        assert_eq!(
            text,
            [r#"llmrtc_stt_duration_ms_sum{provider="echo",model="",mode=""} 40"#]
        );
        metrics.histogram(SESSION_TURNS, 0.0, &[]);
        metrics.histogram(SESSION_TURNS, f64::NAN, &[]);
        assert_eq!(
            lines(&metrics, "llmrtc_session_turns_bucket")[0],
            r#"llmrtc_session_turns_bucket{le="0"} 1"#
        );
        assert_eq!(
            lines(&metrics, "llmrtc_session_turns_count"),
            ["llmrtc_session_turns_count 1"]
        );
    }

    #[test]
    fn label_values_do_not_grow_without_bound() {
        let metrics = PrometheusMetrics::default();
        for number in 0..1_000 {
            metrics.increment(ERRORS, 1, &[("code", &number.to_string())]);
        }
        let text = lines(&metrics, "llmrtc_errors_total");
        assert_eq!(text.len(), MAX_SERIES + 1);
        let rest = 1_000 - MAX_SERIES;
        let other = format!(
            r#"llmrtc_errors_total{{component="other",code="other",provider="other"}} {rest}"#
        );
        assert_eq!(text[MAX_SERIES], other);
        let metrics = PrometheusMetrics::default();
        for tail in ["x", "y"] {
            metrics.increment(ERRORS, 1, &[("code", &("ä".repeat(64) + tail))]);
        }
        assert_eq!(lines(&metrics, "llmrtc_errors_total").len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        let metrics = PrometheusMetrics::default();
        metrics.increment("llmrtc.no.such.metric", 1, &[]);
        metrics.gauge(ERRORS, 1.0, &[]);
        metrics.timing(SESSIONS_ACTIVE, Duration::ZERO, &[]);
        assert!(!metrics.render().contains("llmrtc_"));
    }

    #[test]
    fn nothing_is_lost_when_many_record_at_once() {
        let metrics = PrometheusMetrics::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        metrics.timing(
                            STT_FINAL,
                            Duration::from_millis(500),
                            &[("provider", "echo")],
                        );
                    }
                });
            }
        });
        let labels = r#"{provider="echo",mode=""}"#;
        assert_eq!(
            lines(&metrics, "llmrtc_stt_final_seconds_sum"),
            [format!("llmrtc_stt_final_seconds_sum{labels} 2000")]
        );
        assert_eq!(
            lines(&metrics, "llmrtc_stt_final_seconds_count"),
            [format!("llmrtc_stt_final_seconds_count{labels} 4000")]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_reports_itself() {
        let metrics = PrometheusMetrics::default();
        let value = |name: &str| -> f64 {
            lines(&metrics, name)[0]
                .rsplit_once(' ')
                .unwrap()
                .1
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_open_fds") >= 3.0);
    }
}

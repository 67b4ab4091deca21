//! How the parts that protect the server are doing, in the text format of Prometheus. Alert on whatever grows of
//! `dropped`, `refused`, `lost` and `failures`.

use std::fmt::Write;

use super::Security;

impl Security {
    /// Appends the numbers of the audit log, the vault and the places to `text`.
    pub(crate) fn render(&self, text: &mut String) {
        let audit = self.audit.stats();
        let by_class = |outcome: &'static str, counts: &[(llmrtc_security::audit::Class, u64)]| {
            let line = |(class, count): &(llmrtc_security::audit::Class, u64)| {
                let labels = format!("outcome=\"{outcome}\",class=\"{}\"", class.name());
                (labels, *count as f64)
            };
            counts.iter().map(line).collect::<Vec<_>>()
        };
        let mut events = vec![(
            "outcome=\"written\",class=\"all\"".to_owned(),
            audit.written as f64,
        )];
        events.extend(by_class("dropped", &audit.dropped));
        events.extend(by_class("refused", &audit.refused));
        family(
            text,
            (
                "llmrtc_audit_events_total",
                "counter",
                "Events of the audit log.",
            ),
            &events,
        );
        family(
            text,
            (
                "llmrtc_audit_sink_failures_total",
                "counter",
                "Failures of sinks of the audit log.",
            ),
            &[(String::new(), audit.sink_failures as f64)],
        );
        family(
            text,
            (
                "llmrtc_audit_failing",
                "gauge",
                "Whether a sink of the audit log fails now.",
            ),
            &[(String::new(), f64::from(u8::from(audit.failing)))],
        );
        if let Some(archive) = &self.archive {
            let vault = archive.stats();
            let outcomes = [
                ("stored", vault.stored),
                ("refused", vault.refused),
                ("lost", vault.lost),
            ];
            let lines =
                outcomes.map(|(outcome, count)| (format!("outcome=\"{outcome}\""), count as f64));
            family(
                text,
                (
                    "llmrtc_vault_records_total",
                    "counter",
                    "Records of conversations.",
                ),
                &lines,
            );
            family(
                text,
                (
                    "llmrtc_vault_queue",
                    "gauge",
                    "Records that wait to be stored.",
                ),
                &[(String::new(), vault.queued as f64)],
            );
            family(
                text,
                (
                    "llmrtc_vault_failures_total",
                    "counter",
                    "Failed attempts to store records.",
                ),
                &[(String::new(), vault.failures as f64)],
            );
        }
        let free = [
            ("session", self.capacity.free_sessions()),
            ("setup", self.capacity.free_setups()),
        ];
        let lines = free.map(|(place, count)| (format!("place=\"{place}\""), count as f64));
        family(
            text,
            (
                "llmrtc_places_free",
                "gauge",
                "Places that are free (limits.admission).",
            ),
            &lines,
        );
    }
}

/// One family: its name, type and help, and a value for each set of labels.
fn family(text: &mut String, (name, kind, help): (&str, &str, &str), lines: &[(String, f64)]) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in lines {
        let _ = match labels.as_str() {
            "" => writeln!(text, "{name} {value}"),
            labels => writeln!(text, "{name}{{{labels}}} {value}"),
        };
    }
}

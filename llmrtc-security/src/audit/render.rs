//! Events as OCSF-shaped JSON. What the schema has a place for goes there, the rest under `unmapped`.
//!
//! The writer knows two things last: the sequence number, whose place is kept open, and the chain, which is why
//! `unmapped` comes last and is left open too (see [`chain`](super::chain)).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    event::{Action, AuditEvent, Class, Description},
    text::JsonLine,
};

/// The version of the schema.
const OCSF: &str = "1.5.0";

/// A record that lacks its number and its place in the chain.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    /// `{…,"sequence":},…,"unmapped":{…`
    pub(super) bytes: Vec<u8>,
    /// Where the sequence number goes.
    pub(super) sequence_at: usize,
}

/// News of the log about itself.
#[derive(Clone, Debug)]
pub(super) enum LogNews<'a> {
    /// Records follow. Begins every file and every run.
    Opened(Opened<'a>),
    /// A signed head.
    Head {
        /// `interval`, `rotate`, `rekey` or `close`.
        reason: &'static str,
    },
    /// Events that could not be recorded.
    Lost {
        /// By class, in the order of [`Class::ALL`]: dropped for want of space.
        dropped: [u64; Class::ALL.len()],
        /// By class: the action was refused because it could not be recorded.
        refused: [u64; Class::ALL.len()],
    },
}

/// What an opening says.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened<'a> {
    /// `start`, `rotate`, `rekey` or `reopen`.
    pub(super) reason: &'static str,
    /// Version of the server.
    pub(super) version: &'a str,
    /// The torn end of an earlier run that lies before this record: how many bytes, and their SHA-256.
    pub(super) torn: Option<(u64, [u8; 32])>,
    /// The log ended before its last signed head, which had this number: somebody cut it.
    pub(super) behind: Option<u64>,
}

/// What every record says about its log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The node, unique among those with the same keys.
    pub(super) node: &'a str,
    /// The epoch of the keys.
    pub(super) epoch: u32,
    /// The name of the public key.
    pub(super) key: &'a str,
}

pub(super) fn news(news: &LogNews<'_>, origin: Origin<'_>, now: SystemTime) -> Rendered {
    let (code, activity, name, severity) = match news {
        LogNews::Opened(opened) => {
            let severity = if opened.behind.is_some() {
                5
            } else if opened.torn.is_some() {
                3
            } else {
                1
            };
            ("log_opened", 6, None, severity)
        }
        LogNews::Head { .. } => ("log_head", 99, Some("Sign"), 1),
        LogNews::Lost { .. } => ("log_lost", 99, Some("Lose"), 4),
    };
    let description = Description {
        code,
        class: 1008,
        activity,
        severity,
        success: None,
        policy: Class::System,
    };
    let mut line = JsonLine::new();
    classify(&mut line, &description, now);
    if let Some(name) = name {
        line.text("activity_name", name);
    }
    line.text("log_name", "audit");
    let sequence_at = metadata(&mut line, code, origin.node, None, None);
    line.open("unmapped");
    match news {
        LogNews::Opened(opened) => {
            line.text("reason", opened.reason);
            line.text("node", origin.node);
            line.number("epoch", origin.epoch.into());
            line.text("key", origin.key);
            line.text("server_version", opened.version);
            if let Some((bytes, hash)) = opened.torn {
                line.number("torn_bytes", bytes);
                line.text("torn_sha256", &super::chain::encode(&hash));
            }
            if let Some(head) = opened.behind {
                line.number("behind_head", head);
            }
        }
        LogNews::Head { reason } => {
            line.text("reason", reason);
            line.text("node", origin.node);
            line.number("epoch", origin.epoch.into());
            line.text("key", origin.key);
        }
        LogNews::Lost { dropped, refused } => {
            for (key, counts) in [("dropped", dropped), ("refused", refused)] {
                let named = Class::ALL
                    .iter()
                    .zip(counts)
                    .filter(|(_, count)| **count > 0);
                line.counts(
                    key,
                    "more",
                    named.map(|(class, count)| (class.name(), *count)),
                );
            }
        }
    }
    Rendered {
        bytes: line.into_bytes(),
        sequence_at,
    }
}

pub(super) fn event(event: &AuditEvent, node: &str, now: SystemTime) -> Rendered {
    let description = event.action.describe();
    let mut line = JsonLine::new();
    classify(&mut line, &description, now);
    outcome(&mut line, event, &description);
    who(&mut line, event, &description);
    subject_matter(&mut line, &event.action);
    let tenant = event.user.as_ref().and_then(|user| user.tenant.as_deref());
    let trace = event.trace.as_deref();
    let sequence_at = metadata(&mut line, description.code, node, tenant, trace);
    line.open("unmapped");
    if let Some(turn) = event.turn {
        line.number("turn", turn.0);
    }
    details(&mut line, &event.action);
    Rendered {
        bytes: line.into_bytes(),
        sequence_at,
    }
}

fn classify(line: &mut JsonLine, description: &Description, now: SystemTime) {
    // Before 1970 the clock is not set; then all times are equally wrong.
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    line.number("time", millis(since));
    line.text(
        "time_dt",
        &humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string(),
    );
    line.number("category_uid", description.class / 1000);
    line.number("class_uid", description.class);
    line.number("activity_id", description.activity);
    line.number("type_uid", description.class * 100 + description.activity);
    line.number("severity_id", description.severity);
}

fn outcome(line: &mut JsonLine, event: &AuditEvent, description: &Description) {
    let status = match description.success {
        Some(true) => 1,
        Some(false) => 2,
        None => 0,
    };
    line.number("status_id", status);
    let detail = match &event.action {
        Action::Disconnected { reason, .. }
        | Action::AuthFailed { reason, .. }
        | Action::ResumeRefused { reason }
        | Action::SessionEvicted { reason } => Some(*reason),
        Action::RateLimited { limit, .. } => Some(*limit),
        Action::ToolCalled {
            reason, outcome, ..
        } => Some(reason.unwrap_or_else(|| outcome.name())),
        Action::Failed { code, .. } => Some(*code),
        _ => None,
    };
    if let Some(detail) = detail {
        line.text("status_detail", detail);
    }
    if description.activity == 99 {
        line.text(
            "activity_name",
            match &event.action {
                Action::SessionResumed | Action::ResumeRefused { .. } | Action::ResumeReplayed => {
                    "Resume"
                }
                Action::AdminActed { operation, .. } => operation,
                Action::KeyRefused { .. } => "Refuse",
                _ => "Execute",
            },
        );
    }
}

fn who(line: &mut JsonLine, event: &AuditEvent, description: &Description) {
    // Classes of identity management name the user directly, the others through the actor.
    let direct = matches!(description.class, 3002 | 3003);
    let session = |line: &mut JsonLine| {
        if let Some(session) = event.session {
            line.open("session");
            line.text("uid", &session.to_string());
            line.close();
        }
    };
    let user = |line: &mut JsonLine| {
        if let Some(user) = &event.user {
            line.open("user");
            line.text("uid", &user.subject);
            line.close();
        }
    };
    if direct {
        user(line);
        session(line);
    } else if event.user.is_some() || event.session.is_some() {
        line.open("actor");
        user(line);
        session(line);
        line.close();
    }
    if let Some(ip) = event.ip {
        line.open("src_endpoint");
        line.text("ip", &ip.to_string());
        line.close();
    }
}

/// What the schema has objects for.
fn subject_matter(line: &mut JsonLine, action: &Action) {
    let object = |line: &mut JsonLine, key, kind: &str, uid: Option<&str>| {
        line.open(key);
        line.text("type", kind);
        if let Some(uid) = uid {
            line.text("uid", uid);
        }
        line.close();
    };
    match action {
        Action::Disconnected { lasted, .. } => line.number("duration", millis(*lasted)),
        Action::ToolCalled { tool, latency, .. } => {
            line.number("duration", millis(*latency));
            line.open("api");
            line.text("operation", tool.as_str());
            line.close();
        }
        Action::AdminActed { operation, .. } => {
            line.open("api");
            line.text("operation", operation);
            line.close();
        }
        Action::KeyRotated { purpose, key, .. } | Action::KeyRefused { purpose, key, .. } => {
            object(line, "entity", purpose, Some(key));
        }
        Action::ConfigChanged { .. } => object(line, "entity", "config", None),
        Action::InjectionJudged { source, .. } => {
            line.open("finding_info");
            line.text("title", "prompt injection");
            line.text("uid", source);
            line.close();
        }
        Action::Redacted { sink, .. } => {
            line.open("finding_info");
            line.text("title", "personal data");
            line.text("uid", sink);
            line.close();
        }
        Action::Failed {
            message: Some(message),
            ..
        } => line.text("message", message),
        _ => {}
    }
}

/// What is ours alone.
fn details(line: &mut JsonLine, action: &Action) {
    match action {
        Action::ServerStarted { address, exposure } => {
            line.text("address", address);
            line.text("exposure", exposure);
        }
        Action::Connected {
            origin: Some(origin),
        } => line.text("origin", origin),
        Action::AuthSucceeded { method } | Action::AuthFailed { method, .. } => {
            line.text("method", method)
        }
        Action::TicketMinted { valid_for } => line.number("valid_for_ms", millis(*valid_for)),
        Action::RateLimited { retry_after, .. } => {
            line.number("retry_after_ms", millis(*retry_after))
        }
        Action::ToolCalled {
            call,
            args,
            decision,
            outcome,
            ..
        } => {
            if let Some(call) = call {
                line.text("call", call.as_str());
            }
            line.open("args_hash");
            line.number("epoch", args.epoch.into());
            line.text("value", &args.to_string());
            line.close();
            line.text("decision", decision.name());
            line.text("outcome", outcome.name());
        }
        Action::InjectionJudged {
            verdict,
            score,
            rules,
            ..
        } => {
            line.text("verdict", verdict);
            line.score("score", *score);
            line.list("rules", "more_rules", rules.iter().map(|rule| &**rule));
        }
        Action::Redacted { counts, .. } => {
            let counts = counts.iter().map(|(name, count)| (&**name, *count));
            line.counts("counts", "other_counts", counts);
        }
        Action::KeyRotated {
            fingerprint: Some(fingerprint),
            ..
        } => line.text("fingerprint", fingerprint),
        Action::KeyRefused {
            fingerprint,
            fallback,
            ..
        } => {
            line.text("fingerprint", fingerprint);
            if let Some(fallback) = fallback {
                line.text("fallback", fallback);
            }
        }
        Action::ConfigChanged { settings } => {
            line.list(
                "settings",
                "more_settings",
                settings.iter().map(|path| &**path),
            );
        }
        Action::RetentionSwept { records } => line.number("records", *records),
        Action::DataExported { target, records } | Action::DataErased { target, records } => {
            line.text("target", target);
            line.number("records", *records);
        }
        Action::AdminActed {
            target: Some(target),
            ..
        } => line.text("target", target),
        Action::Failed { correlation, .. } => line.text("correlation", correlation),
        _ => {}
    }
}

/// Returns where the sequence number goes.
fn metadata(
    line: &mut JsonLine,
    code: &str,
    node: &str,
    tenant: Option<&str>,
    trace: Option<&str>,
) -> usize {
    line.open("metadata");
    line.text("version", OCSF);
    line.open("product");
    line.text("name", "LLMRTC");
    line.text("vendor_name", "LLMRTC");
    line.close();
    line.text("log_name", node);
    line.text("event_code", code);
    if let Some(tenant) = tenant {
        line.text("tenant_uid", tenant);
    }
    if let Some(trace) = trace {
        line.text("correlation_uid", trace);
    }
    line.key("sequence");
    let at = line.len();
    line.close();
    at
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

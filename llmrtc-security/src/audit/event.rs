//! What is recorded (G1): who did what, from where, when, and how it ended.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use llmrtc_core::{
    id::{CallId, SessionId, ToolName, TurnId},
    redact::Pii,
};

use super::args::ArgsHash;
use crate::auth::Principal;

/// One thing that happened. Reason codes are short constants such as `"expired"`; content never belongs into an event.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    pub(super) action: Action,
    pub(super) user: Option<User>,
    pub(super) session: Option<SessionId>,
    pub(super) turn: Option<TurnId>,
    pub(super) ip: Option<IpAddr>,
    pub(super) trace: Option<Arc<str>>,
}

/// Who acted.
#[derive(Clone, PartialEq)]
pub(super) struct User {
    pub(super) subject: Arc<str>,
    pub(super) tenant: Option<Arc<str>>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("subject", &Pii(&self.subject))
            .field("tenant", &self.tenant)
            .finish()
    }
}

impl AuditEvent {
    /// Something that the server did by itself, until [`by`](Self::by) names somebody.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            user: None,
            session: None,
            turn: None,
            ip: None,
            trace: None,
        }
    }

    /// Who acted.
    #[must_use]
    pub fn by(self, principal: &Principal) -> Self {
        self.by_subject(principal.subject.clone(), principal.tenant.clone())
    }

    /// Who acted, or claimed to be somebody whose claim was refused.
    #[must_use]
    pub fn by_subject(mut self, subject: impl Into<Arc<str>>, tenant: Option<Arc<str>>) -> Self {
        self.user = Some(User {
            subject: subject.into(),
            tenant,
        });
        self
    }

    /// In which session.
    #[must_use]
    pub fn session(mut self, id: SessionId) -> Self {
        self.session = Some(id);
        self
    }

    /// In which turn.
    #[must_use]
    pub fn turn(mut self, id: TurnId) -> Self {
        self.turn = Some(id);
        self
    }

    /// From where. IPv4 addresses mapped into IPv6 are recorded as IPv4.
    #[must_use]
    pub fn from(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip.to_canonical());
        self
    }

    /// The trace in which it happened, as hexadecimal.
    #[must_use]
    pub fn trace(mut self, id: impl Into<Arc<str>>) -> Self {
        self.trace = Some(id.into());
        self
    }

    /// Which failure policy applies to it.
    pub fn class(&self) -> Class {
        self.action.describe().policy
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// The server accepts connections.
    ServerStarted {
        /// Where.
        address: Arc<str>,
        /// Who can reach it, such as `"loopback"` or `"open_to_network"`.
        exposure: &'static str,
    },
    /// The server does not accept connections any more.
    ServerStopped,
    /// A client connected.
    Connected {
        /// The page that opened the socket; absent for clients that are no browsers.
        origin: Option<Arc<str>>,
    },
    /// A connection ended.
    Disconnected {
        /// Why.
        reason: &'static str,
        /// How long it lasted.
        lasted: Duration,
    },
    /// Credentials were accepted.
    AuthSucceeded {
        /// `"jwt"`, `"ticket"`, `"api_key"`, `"mtls"` or `"open"`.
        method: &'static str,
    },
    /// Credentials were refused.
    AuthFailed {
        /// As in [`AuthSucceeded`](Self::AuthSucceeded).
        method: &'static str,
        /// Why, in a precision that the client never sees.
        reason: &'static str,
    },
    /// Somebody was given a ticket.
    TicketMinted {
        /// For how long it is good.
        valid_for: Duration,
    },
    /// A ticket was spent.
    TicketRedeemed,
    /// A session was continued on another connection.
    SessionResumed,
    /// A continuation was refused.
    ResumeRefused {
        /// Why.
        reason: &'static str,
    },
    /// A resume token was shown a second time: one of two holders is a thief.
    ResumeReplayed,
    /// A limit was hit.
    RateLimited {
        /// Which.
        limit: &'static str,
        /// When another attempt makes sense.
        retry_after: Duration,
    },
    /// The server ended a session.
    SessionEvicted {
        /// Why.
        reason: &'static str,
    },
    /// The model asked for a tool.
    ToolCalled {
        /// The tool.
        tool: ToolName,
        /// The vendor's id of the call.
        call: Option<CallId>,
        /// Its arguments, hashed.
        args: ArgsHash,
        /// Whether it was allowed to run.
        decision: Decision,
        /// Why it was denied.
        reason: Option<&'static str>,
        /// How it ended.
        outcome: ToolOutcome,
        /// From the decision to the end.
        latency: Duration,
    },
    /// Text was judged for prompt injection.
    InjectionJudged {
        /// Whose text: `"user"`, `"tool_result"`, `"page"`, `"image"`.
        source: &'static str,
        /// `"allow"`, `"flag"` or `"block"`.
        verdict: &'static str,
        /// How sure, 0 to 1.
        score: f32,
        /// The rules that fired.
        rules: Vec<Arc<str>>,
    },
    /// Personal data was taken out of text.
    Redacted {
        /// On its way where: `"log"`, `"vendor"`, `"storage"`.
        sink: &'static str,
        /// How many of each type.
        counts: Vec<(Arc<str>, u64)>,
    },
    /// A key was made or replaced; another one is used from now on.
    KeyRotated {
        /// What it is for: `"vendor"`, `"vault"`, `"tls"` or `"issuer"`.
        purpose: &'static str,
        /// Its name: a variable, a setting, an id.
        key: Arc<str>,
        /// Tells the new value from others, and nothing about it.
        fingerprint: Option<Arc<str>>,
    },
    /// The far side refused a key.
    KeyRefused {
        /// As in [`KeyRotated`](Self::KeyRotated).
        purpose: &'static str,
        /// As in [`KeyRotated`](Self::KeyRotated).
        key: Arc<str>,
        /// Of the refused value.
        fingerprint: Arc<str>,
        /// Of the value that is used instead, if there is one.
        fallback: Option<Arc<str>>,
    },
    /// Settings, or the files that they name, changed in the running server.
    ConfigChanged {
        /// Their paths, without values.
        settings: Vec<Arc<str>>,
    },
    /// The retention policy was applied.
    RetentionSwept {
        /// How many records were deleted.
        records: u64,
    },
    /// Stored data is handed out.
    DataExported {
        /// Whose or which.
        target: Arc<str>,
        /// How many records there were when it began.
        records: u64,
    },
    /// Stored data was destroyed.
    DataErased {
        /// Whose or which.
        target: Arc<str>,
        /// How many records.
        records: u64,
    },
    /// An operator did something.
    AdminActed {
        /// What.
        operation: &'static str,
        /// To whom or what.
        target: Option<Arc<str>>,
        /// Whether it was done. Nothing when it begins: recorded before what must not happen unrecorded.
        done: Option<bool>,
    },
    /// Something failed.
    Failed {
        /// The code that the client was given.
        code: &'static str,
        /// The reference that the client was given.
        correlation: Arc<str>,
        /// What happened. Recorded only through a scrubber ([`AuditOptions::scrub`](super::AuditOptions)).
        message: Option<Arc<str>>,
    },
}

/// Whether a tool may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It may.
    Allowed,
    /// It may not.
    Denied,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolOutcome {
    /// With a result.
    Succeeded,
    /// With an error.
    Failed,
    /// Not in time.
    TimedOut,
    /// The caller spoke or left.
    Cancelled,
    /// It did not begin.
    NotRun,
    /// It begins now: recorded before a tool that must not run unrecorded.
    Started,
}

/// Groups of events with one failure policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Authentication, tickets, resumption.
    Auth,
    /// Tool calls.
    Tool,
    /// Keys, secrets, settings, stored data, operators.
    Admin,
    /// Connections, limits, evictions.
    Session,
    /// Screening: injection and redaction.
    Guard,
    /// Errors, and the log's own news.
    System,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Auth,
        Self::Tool,
        Self::Admin,
        Self::Session,
        Self::Guard,
        Self::System,
    ];

    /// The label in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Tool => "tool",
            Self::Admin => "admin",
            Self::Session => "session",
            Self::Guard => "guard",
            Self::System => "system",
        }
    }
}

/// Where an action stands in the Open Cybersecurity Schema Framework, and with us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    /// Our name of it, as `metadata.event_code`.
    pub(super) code: &'static str,
    /// OCSF class; the category is its thousands.
    pub(super) class: u64,
    /// OCSF activity within the class; 99 is one that the schema does not know.
    pub(super) activity: u64,
    /// 1 informational, 2 low, 3 medium, 4 high, 5 critical.
    pub(super) severity: u64,
    /// Whether it succeeded; `None` for news without an outcome.
    pub(super) success: Option<bool>,
    pub(super) policy: Class,
}

const OTHER: u64 = 99;

impl Action {
    /// # Source
    /// OCSF 1.5, <https://schema.ocsf.io/1.5.0/>: Event Log Activity 1008, Detection Finding 2004, Data Security Finding
    /// 2006, Authentication 3002, Authorize Session 3003, Entity Management 3004, Network Activity 4001, Application
    /// Lifecycle 6002, API Activity 6003, Datastore Activity 6005, Application Error 6008.
    pub(super) fn describe(&self) -> Description {
        use Class::{Admin, Auth, Guard, Session, System, Tool};
        let (ok, bad) = (Some(true), Some(false));
        let (code, class, activity, severity, success, policy) = match self {
            Self::ServerStarted { exposure, .. } => {
                let severity = if *exposure == "open_to_network" { 3 } else { 1 };
                ("server_started", 6002, 3, severity, ok, System)
            }
            Self::ServerStopped => ("server_stopped", 6002, 4, 1, ok, System),
            Self::Connected { .. } => ("connected", 4001, 1, 1, ok, Session),
            Self::Disconnected { .. } => ("disconnected", 4001, 2, 1, ok, Session),
            Self::AuthSucceeded { .. } => ("auth_succeeded", 3002, 1, 1, ok, Auth),
            Self::AuthFailed { .. } => ("auth_failed", 3002, 1, 3, bad, Auth),
            Self::TicketMinted { .. } => ("ticket_minted", 3002, 3, 1, ok, Auth),
            Self::TicketRedeemed => ("ticket_redeemed", 3002, 4, 1, ok, Auth),
            Self::SessionResumed => ("session_resumed", 3003, OTHER, 1, ok, Auth),
            Self::ResumeRefused { .. } => ("resume_refused", 3003, OTHER, 3, bad, Auth),
            Self::ResumeReplayed => ("resume_replayed", 3003, OTHER, 4, bad, Auth),
            Self::RateLimited { .. } => ("rate_limited", 4001, 5, 2, bad, Session),
            Self::SessionEvicted { .. } => ("session_evicted", 3002, 2, 2, ok, Session),
            Self::ToolCalled {
                decision, outcome, ..
            } => {
                let severity = if *decision == Decision::Denied { 3 } else { 1 };
                let success = match outcome {
                    ToolOutcome::Succeeded => ok,
                    ToolOutcome::Started => None,
                    _ => bad,
                };
                ("tool_called", 6003, OTHER, severity, success, Tool)
            }
            Self::InjectionJudged { verdict, .. } => {
                let severity = if *verdict == "allow" { 1 } else { 3 };
                ("injection_judged", 2004, 1, severity, None, Guard)
            }
            Self::Redacted { .. } => ("redacted", 2006, 1, 1, ok, Guard),
            Self::KeyRotated { .. } => ("key_rotated", 3004, 3, 2, ok, Admin),
            Self::KeyRefused { .. } => ("key_refused", 3004, OTHER, 4, bad, Admin),
            Self::ConfigChanged { .. } => ("config_changed", 3004, 3, 2, ok, Admin),
            Self::RetentionSwept { .. } => ("retention_swept", 6005, 7, 1, ok, Admin),
            Self::DataExported { .. } => ("data_exported", 6005, 1, 2, ok, Admin),
            Self::DataErased { .. } => ("data_erased", 6005, 7, 2, ok, Admin),
            Self::AdminActed { done, .. } => ("admin_acted", 6003, OTHER, 2, *done, Admin),
            Self::Failed { .. } => ("failed", 6008, 1, 3, bad, System),
        };
        Description {
            code,
            class,
            activity,
            severity,
            success,
            policy,
        }
    }
}

impl Decision {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

impl ToolOutcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::NotRun => "not_run",
            Self::Started => "started",
        }
    }
}

//! The tools of one session: what the caller was granted, within rates, checked, recorded.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::{
    id::{SessionId, ToolName},
    provider::CallContext,
    tool::ToolRunner,
};
use llmrtc_security::{
    audit::{Action, ArgsHash, AuditEvent, Decision as Allowed, ToolOutcome},
    auth::{Principal, grants::Allowed as Granted},
    limit::{config::Scope, policy::Subject},
    tool::{ArgumentCheck, Decision, GuardedTools, Taint, ToolAudit, ToolGrants, ToolHooks},
};
use serde_json::{Map, Value};

use super::privacy::Privacy;
use crate::security::Security;

/// Compiled checks of arguments, shared by all sessions.
pub(crate) type Checks = HashMap<ToolName, Arc<dyn ArgumentCheck>>;

/// Puts the tools behind the rules of this session.
pub(super) fn guard(
    tools: Arc<dyn ToolRunner>,
    checks: &Checks,
    security: &Arc<Security>,
    session_id: SessionId,
    caller: &Principal,
    address: IpAddr,
    taint: Arc<Taint>,
    privacy: &Arc<Privacy>,
) -> Arc<dyn ToolRunner> {
    let grants = match &caller.grants.tools {
        Granted::All => ToolGrants::All,
        Granted::Only(names) => {
            let names = names.iter().map(|name| ToolName::new(Arc::clone(name)));
            ToolGrants::Only(names.collect())
        }
    };
    let hooks = Hooks {
        security: Arc::clone(security),
        session_id,
        caller: caller.clone(),
        address,
        privacy: Arc::clone(privacy),
    };
    let guarded = GuardedTools::new(tools, Arc::clone(&security.tools))
        .with_grants(grants)
        .with_taint(taint)
        .with_hooks(Arc::new(hooks))
        .with_checks(checks.clone());
    Arc::new(guarded)
}

struct Hooks {
    security: Arc<Security>,
    session_id: SessionId,
    caller: Principal,
    address: IpAddr,
    privacy: Arc<Privacy>,
}

#[async_trait]
impl ToolHooks for Hooks {
    async fn admit(&self, _: &ToolName, _: &CallContext) -> Result<(), Duration> {
        let subject = Subject::address(self.address)
            .principal(&self.caller)
            .session(self.session_id)
            .class(self.caller.grants.rate_class.as_deref());
        let now = self.security.now();
        let admitted = self
            .security
            .limits
            .check(Scope::ToolCall, &subject, 1, now)
            .await;
        match admitted {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.retry_after().unwrap_or_default()),
        }
    }

    fn restore(&self, arguments: Map<String, Value>) -> Option<Map<String, Value>> {
        Some(self.privacy.restore(arguments))
    }

    fn hash(&self, arguments: &Map<String, Value>) -> Option<String> {
        let hash = self
            .security
            .audit
            .args_hash(&Value::Object(arguments.clone()));
        Some(format!("{}:{hash}", hash.epoch))
    }

    fn audit(&self, call: ToolAudit) {
        let decision = match call.decision {
            Decision::Allowed | Decision::Confirmed => Allowed::Allowed,
            _ => Allowed::Denied,
        };
        let outcome = match call.outcome {
            _ if decision == Allowed::Denied => ToolOutcome::NotRun,
            "ok" => ToolOutcome::Succeeded,
            "timeout" => ToolOutcome::TimedOut,
            "cancelled" => ToolOutcome::Cancelled,
            _ => ToolOutcome::Failed,
        };
        let hash = call.arguments_hash.as_deref().and_then(read_hash);
        let event = Action::ToolCalled {
            tool: call.tool,
            call: Some(call.call_id),
            args: hash.unwrap_or_else(|| self.security.audit.args_hash(&Value::Null)),
            decision,
            reason: (decision == Allowed::Denied).then(|| call.decision.name()),
            outcome,
            latency: call.latency,
        };
        let event = AuditEvent::new(event)
            .by(&self.caller)
            .session(self.session_id);
        self.security
            .note(event.turn(call.turn_id).from(self.address));
    }
}

/// Reads what [`Hooks::hash`] wrote.
fn read_hash(text: &str) -> Option<ArgsHash> {
    let (epoch, hex) = text.split_once(':')?;
    let mut mac = [0; 32];
    for (index, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(ArgsHash {
        epoch: epoch.parse().ok()?,
        mac,
    })
}

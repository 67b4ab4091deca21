//! The tools of a session behind their policies (F1, F2.4, B9, H6, T10, T29, T31).

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use llmrtc_core::{
    id::{CallId, SessionId, ToolName, TurnId},
    message::ToolCall,
    provider::{CallContext, ToolDefinition},
    tool::{FailureCategory, ToolFailure, ToolRunner, model_text},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::{OnTaint, Taint, ToolGrants, ToolPolicy, ToolsConfig, strict};

/// Most calls remembered to recognise a repetition. A turn has far fewer.
const MAX_REMEMBERED: usize = 256;

/// Checks arguments against what the tool declared. [`ToolSchema`](super::schema::ToolSchema) is the usual one.
pub trait ArgumentCheck: Send + Sync + 'static {
    /// Whether the arguments are valid.
    ///
    /// # Errors
    /// What is wrong with them, without any of their values.
    fn check(&self, arguments: &Map<String, Value>) -> Result<(), Vec<Violation>>;
}

/// One thing that is wrong with arguments. Has no value of them, so it may go to the model and into records.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// JSON pointer into the arguments; names that the schema does not know are `*`.
    pub path: String,
    /// The schema's keyword, such as `format`.
    pub rule: String,
    /// What the schema wants there.
    pub expected: Option<Value>,
}

/// What the surroundings know and decide about calls. All methods have defaults.
#[async_trait]
pub trait ToolHooks: Send + Sync + 'static {
    /// Whether another call of the tool is within its rate.
    ///
    /// # Errors
    /// How long to wait.
    async fn admit(&self, _: &ToolName, _: &CallContext) -> Result<(), Duration> {
        Ok(())
    }

    /// Asks the person whether a call with consequences may run. Without an answer it must not: `false`.
    async fn confirm(&self, _: &ToolCall, _: &CallContext) -> bool {
        false
    }

    /// Puts back what redaction took out, so that the tool gets the number and the model never had it. `None` when a
    /// token is unknown: the call is refused.
    fn restore(&self, arguments: Map<String, Value>) -> Option<Map<String, Value>> {
        Some(arguments)
    }

    /// A keyed hash of the arguments for the audit record; the arguments themselves must not be in it.
    fn hash(&self, _: &Map<String, Value>) -> Option<String> {
        None
    }

    /// A call has ended, one way or another.
    fn audit(&self, _: ToolAudit) {}
}

/// Hooks that decide nothing: no rate, nobody to ask, no tokens, no record.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl ToolHooks for NoHooks {}

/// The record of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolAudit {
    /// The tool wanted.
    pub tool: ToolName,
    /// The call.
    pub call_id: CallId,
    /// The session.
    pub session_id: SessionId,
    /// The turn.
    pub turn_id: TurnId,
    /// From [`ToolHooks::hash`].
    pub arguments_hash: Option<String>,
    /// What was decided.
    pub decision: Decision,
    /// `ok`, or the name of the failure's category; `cancelled` when the caller went on before.
    pub outcome: &'static str,
    /// From the request to the end.
    pub latency: Duration,
}

/// What was decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// Not yet: the call ended before.
    Pending,
    /// It ran.
    Allowed,
    /// It ran because the person agreed.
    Confirmed,
    /// There is no such tool, or it is not granted: the answer is the same.
    NotGranted,
    /// The arguments did not parse or violate the schema or a rule of [`strict`].
    InvalidArguments,
    /// An argument is not on its list.
    ArgumentNotAllowed,
    /// A redaction token is unknown.
    UnknownToken,
    /// The conversation is tainted.
    Tainted,
    /// An argument repeats third-party text, and the tool sends.
    DerivedFromTaint,
    /// Beyond its rate.
    RateLimited,
    /// It ran before in this turn.
    Repeated,
}

impl Decision {
    /// The name in audit records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Allowed => "allowed",
            Self::Confirmed => "confirmed",
            Self::NotGranted => "not-granted",
            Self::InvalidArguments => "invalid-arguments",
            Self::ArgumentNotAllowed => "argument-not-allowed",
            Self::UnknownToken => "unknown-token",
            Self::Tainted => "tainted",
            Self::DerivedFromTaint => "derived-from-taint",
            Self::RateLimited => "rate-limited",
            Self::Repeated => "repeated",
        }
    }
}

/// Tools behind their policies. One per session, since grants and taint are the session's.
pub struct GuardedTools {
    inner: Arc<dyn ToolRunner>,
    config: Arc<ToolsConfig>,
    grants: ToolGrants,
    taint: Arc<Taint>,
    checks: HashMap<ToolName, Arc<dyn ArgumentCheck>>,
    hooks: Arc<dyn ToolHooks>,
    turn: Mutex<Turn>,
}

impl fmt::Debug for GuardedTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedTools")
            .field("grants", &self.grants)
            .field("tainted", &self.taint.is_tainted())
            .finish_non_exhaustive()
    }
}

/// What is remembered for the length of a turn.
#[derive(Default)]
struct Turn {
    id: TurnId,
    /// Failed attempts by tool.
    repairs: HashMap<ToolName, u32>,
    /// Calls of tools that must not run twice. Without a result: still running, or cancelled half-way.
    ran: Vec<Ran>,
}

struct Ran {
    call_id: CallId,
    tool: ToolName,
    arguments: Map<String, Value>,
    result: Option<Result<Value, ToolFailure>>,
}

impl GuardedTools {
    /// Puts tools behind a configuration. Everything else is optional: all tools are granted, no schema is checked, and
    /// nobody can confirm, so that in a tainted conversation calls with consequences are refused.
    pub fn new(inner: Arc<dyn ToolRunner>, config: Arc<ToolsConfig>) -> Self {
        Self {
            inner,
            config,
            grants: ToolGrants::All,
            taint: Arc::new(Taint::new()),
            checks: HashMap::new(),
            hooks: Arc::new(NoHooks),
            turn: Mutex::default(),
        }
    }

    /// Limits the tools to those that the caller was granted.
    #[must_use]
    pub fn with_grants(mut self, grants: ToolGrants) -> Self {
        self.grants = grants;
        self
    }

    /// Shares the taint of the conversation with whoever else adds to its context.
    #[must_use]
    pub fn with_taint(mut self, taint: Arc<Taint>) -> Self {
        self.taint = taint;
        self
    }

    /// Connects rates, confirmation, redaction and audit.
    #[must_use]
    pub fn with_hooks(mut self, hooks: Arc<dyn ToolHooks>) -> Self {
        self.hooks = hooks;
        self
    }

    /// Checks the arguments of a tool.
    #[must_use]
    pub fn with_check(mut self, tool: ToolName, check: Arc<dyn ArgumentCheck>) -> Self {
        self.checks.insert(tool, check);
        self
    }

    /// Compiles the schemas of all tools on offer. Once per process is enough: see [`compile`](Self::compile).
    ///
    /// # Errors
    /// The first tool whose schema cannot be used.
    #[cfg(feature = "schema")]
    pub fn with_schemas(mut self) -> Result<Self, (ToolName, super::schema::SchemaError)> {
        self.checks
            .extend(Self::compile(&self.inner.definitions())?);
        Ok(self)
    }

    /// Compiles the schemas of tools, to be shared by sessions through [`with_checks`](Self::with_checks).
    ///
    /// # Errors
    /// The first tool whose schema cannot be used.
    #[cfg(feature = "schema")]
    pub fn compile(
        definitions: &[ToolDefinition],
    ) -> Result<HashMap<ToolName, Arc<dyn ArgumentCheck>>, (ToolName, super::schema::SchemaError)>
    {
        let compiled = definitions.iter().map(|tool| {
            let schema = super::schema::ToolSchema::compile(&tool.parameters);
            let schema = schema.map_err(|error| (tool.name.clone(), error))?;
            Ok((
                tool.name.clone(),
                Arc::new(schema) as Arc<dyn ArgumentCheck>,
            ))
        });
        compiled.collect()
    }

    /// Adds checks that were compiled before.
    #[must_use]
    pub fn with_checks(mut self, checks: HashMap<ToolName, Arc<dyn ArgumentCheck>>) -> Self {
        self.checks.extend(checks);
        self
    }

    /// The taint of the conversation.
    pub fn taint(&self) -> &Arc<Taint> {
        &self.taint
    }

    fn is_on_offer(&self, tool: &ToolName) -> bool {
        self.grants.allow(tool)
            && self
                .inner
                .definitions()
                .iter()
                .any(|offered| offered.name == *tool)
    }

    /// What is remembered of this turn; what was of an earlier one is forgotten.
    fn turn(&self, id: TurnId) -> MutexGuard<'_, Turn> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.id != id {
            *turn = Turn {
                id,
                ..Turn::default()
            };
        }
        turn
    }

    /// The failure of arguments, as the model can use it to repair them, while it may.
    fn invalid(&self, call: &ToolCall, cx: &CallContext, violations: &Value) -> ToolFailure {
        let mut turn = self.turn(cx.turn_id);
        let attempts = turn.repairs.entry(call.name.clone()).or_default();
        *attempts += 1;
        let left = self.config.max_repairs.saturating_sub(*attempts - 1);
        let message = if left > 0 {
            json!({ "violations": violations, "attempts_left": left }).to_string()
        } else {
            "the arguments are still invalid; answer without this tool".to_owned()
        };
        ToolFailure::new(FailureCategory::InvalidArguments, message)
    }

    async fn decide(
        &self,
        call: &ToolCall,
        cx: &CallContext,
        record: &mut Record<'_>,
    ) -> Result<ToolCall, ToolFailure> {
        let denied = |message: &str| ToolFailure::new(FailureCategory::Denied, message);
        // The same answer for what is unknown and what is not granted: nobody learns which tools others have.
        if !self.is_on_offer(&call.name) {
            record.decision = Decision::NotGranted;
            return Err(ToolFailure::new(
                FailureCategory::NotAllowed,
                "there is no such tool on offer",
            ));
        }
        let policy = self.config.policy(&call.name);
        if self
            .turn(cx.turn_id)
            .repairs
            .get(&call.name)
            .is_some_and(|attempts| *attempts > self.config.max_repairs)
        {
            record.decision = Decision::InvalidArguments;
            return Err(self.invalid(call, cx, &Value::Null));
        }
        if call.parse_error.is_some() {
            record.decision = Decision::InvalidArguments;
            return Err(self.invalid(call, cx, &json!([{"rule": "json", "path": ""}])));
        }
        // Derived is judged on what the model wrote, before tokens turn into what they stand for.
        let derived = policy.egress
            && call
                .arguments
                .values()
                .any(|argument| self.taint.is_derived(argument));
        let Some(arguments) = self.hooks.restore(call.arguments.clone()) else {
            record.decision = Decision::UnknownToken;
            return Err(denied(
                "an argument refers to something that is not known here",
            ));
        };
        record.arguments_hash = self.hooks.hash(&arguments);
        let arguments = match strict::admit_arguments(arguments) {
            Ok(arguments) => arguments,
            Err(problem) => {
                record.decision = Decision::InvalidArguments;
                return Err(self.invalid(
                    call,
                    cx,
                    &json!([{"rule": problem.to_string(), "path": ""}]),
                ));
            }
        };
        if let Some(Err(violations)) = self
            .checks
            .get(&call.name)
            .map(|check| check.check(&arguments))
        {
            record.decision = Decision::InvalidArguments;
            let told = violations
                .iter()
                .map(|violation| json!({"path": violation.path, "rule": violation.rule, "expected": violation.expected}));
            return Err(self.invalid(call, cx, &told.collect()));
        }
        let refused = |(name, rule): (&String, &super::ArgumentRule)| {
            arguments.get(name).is_some_and(|value| !rule.allows(value))
        };
        if policy.arguments.iter().any(refused) {
            record.decision = Decision::ArgumentNotAllowed;
            return Err(denied("an argument has a value that is not allowed"));
        }
        let call = ToolCall {
            arguments,
            ..call.clone()
        };
        record.decision = self
            .contain(&call, cx, policy, derived)
            .await
            .map_err(|decision| {
                record.decision = decision;
                denied("this needs the consent of the person, who did not give it")
            })?;
        if let Err(wait) = self.hooks.admit(&call.name, cx).await {
            record.decision = Decision::RateLimited;
            let message = format!(
                "called too often; possible again in {} s",
                wait.as_secs_f64().ceil()
            );
            return Err(denied(&message));
        }
        Ok(call)
    }

    /// Whether third parties may be behind a call with consequences.
    async fn contain(
        &self,
        call: &ToolCall,
        cx: &CallContext,
        policy: &ToolPolicy,
        derived: bool,
    ) -> Result<Decision, Decision> {
        if derived {
            return Err(Decision::DerivedFromTaint);
        }
        if !(policy.sensitive || policy.egress) || !self.taint.is_tainted() {
            return Ok(Decision::Allowed);
        }
        match policy.on_taint {
            OnTaint::Refuse => Err(Decision::Tainted),
            OnTaint::Confirm if self.hooks.confirm(call, cx).await => Ok(Decision::Confirmed),
            OnTaint::Confirm => Err(Decision::Tainted),
        }
    }

    /// Remembers a call that must not run twice.
    ///
    /// # Errors
    /// What it returned, or that it has not, if it ran before.
    fn begin_once(
        &self,
        call: &ToolCall,
        cx: &CallContext,
    ) -> Result<(), Result<Value, ToolFailure>> {
        let mut turn = self.turn(cx.turn_id);
        let same = |ran: &&Ran| {
            ran.tool == call.name
                && (ran.call_id == call.call_id || ran.arguments == call.arguments)
        };
        if let Some(ran) = turn.ran.iter().find(same) {
            return Err(ran.result.clone().unwrap_or_else(|| {
                let message = "this very call was started before, and its outcome is not known";
                Err(ToolFailure::new(FailureCategory::Denied, message))
            }));
        }
        if turn.ran.len() == MAX_REMEMBERED {
            let message = "too many calls in one turn";
            return Err(Err(ToolFailure::new(FailureCategory::Skipped, message)));
        }
        turn.ran.push(Ran {
            call_id: call.call_id.clone(),
            tool: call.name.clone(),
            arguments: call.arguments.clone(),
            result: None,
        });
        Ok(())
    }

    fn end_once(&self, call: &ToolCall, cx: &CallContext, result: &Result<Value, ToolFailure>) {
        let mut turn = self.turn(cx.turn_id);
        let ran = turn
            .ran
            .iter_mut()
            .find(|ran| ran.tool == call.name && ran.call_id == call.call_id);
        if let Some(ran) = ran {
            ran.result = Some(result.clone());
        }
    }

    /// Runs a call that was allowed: within its time, and a panic is its own affair.
    async fn run_isolated(
        &self,
        call: &ToolCall,
        cx: &CallContext,
        limit: Duration,
    ) -> Result<Value, ToolFailure> {
        let run = AssertUnwindSafe(self.inner.run(call, cx)).catch_unwind();
        match timeout(limit, run).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ToolFailure::new(
                FailureCategory::Handler,
                "the tool failed",
            )),
            Err(_) => {
                let message = format!("the tool took longer than {} s", limit.as_secs_f64());
                Err(ToolFailure::new(FailureCategory::Timeout, message))
            }
        }
    }
}

#[async_trait]
impl ToolRunner for GuardedTools {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        let all = self.inner.definitions();
        if all.iter().all(|tool| self.grants.allow(&tool.name)) {
            return all;
        }
        all.iter()
            .filter(|tool| self.grants.allow(&tool.name))
            .cloned()
            .collect()
    }

    /// # Cancel safety
    /// Dropping the future drops the tool's and is audited as cancelled. A tool that must not run twice then counts as
    /// having run, because nobody knows how far it came.
    async fn run(&self, call: &ToolCall, cx: &CallContext) -> Result<Value, ToolFailure> {
        let mut record = Record::new(self.hooks.as_ref(), call, cx);
        let result = self.run_recorded(call, cx, &mut record).await;
        record.outcome = match &result {
            Ok(_) => "ok",
            Err(failure) => failure.category.name(),
        };
        result
    }
}

impl GuardedTools {
    async fn run_recorded(
        &self,
        call: &ToolCall,
        cx: &CallContext,
        record: &mut Record<'_>,
    ) -> Result<Value, ToolFailure> {
        let call = self.decide(call, cx, record).await?;
        let policy = self.config.policy(&call.name);
        if policy.once
            && let Err(before) = self.begin_once(&call, cx)
        {
            record.decision = Decision::Repeated;
            return before;
        }
        let result = self.run_isolated(&call, cx, policy.timeout).await;
        if policy.third_party {
            // Also a failure's words are a third party's.
            self.taint.add(&model_text(&result));
        }
        if policy.once {
            self.end_once(&call, cx, &result);
        }
        result
    }
}

/// Reports a call when it ends, also by being dropped.
struct Record<'h> {
    hooks: &'h dyn ToolHooks,
    call: &'h ToolCall,
    cx: &'h CallContext,
    started: Instant,
    decision: Decision,
    arguments_hash: Option<String>,
    outcome: &'static str,
}

impl<'h> Record<'h> {
    fn new(hooks: &'h dyn ToolHooks, call: &'h ToolCall, cx: &'h CallContext) -> Self {
        Self {
            hooks,
            call,
            cx,
            started: Instant::now(),
            decision: Decision::Pending,
            arguments_hash: None,
            outcome: FailureCategory::Cancelled.name(),
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.hooks.audit(ToolAudit {
            tool: self.call.name.clone(),
            call_id: self.call.call_id.clone(),
            session_id: self.cx.session_id,
            turn_id: self.cx.turn_id,
            arguments_hash: self.arguments_hash.take(),
            decision: self.decision,
            outcome: self.outcome,
            latency: self.started.elapsed(),
        });
    }
}

#[cfg(test)]
mod tests;

//! What may stop or change a turn: awaited, bounded in time, with a stated policy for its own failures.
//!
//! An observation ([`crate::hooks`]) must not delay a turn; a veto must. Guardrails form a chain: edits accumulate in
//! order, the first refusal wins (GR1).
//!
//! | Check | When | Stops |
//! | --- | --- | --- |
//! | [`check_input`](Guardrail::check_input) | a transcript or a typed text is final | before history and model |
//! | [`check_request`](Guardrail::check_request) | before each model request | before anything leaves for the vendor |
//! | [`response_filter`](Guardrail::response_filter) | on each piece of the answer | before client, history and voice see it |
//! | [`check_segment`](Guardrail::check_segment) | before a sentence is synthesised | before it is heard (GR3) |
//! | [`check_response`](Guardrail::check_response) | the model has finished | what is queued is dropped (GR4) |
//! | [`check_tool_call`](Guardrail::check_tool_call) | before a tool runs | the model is told why |
//! | [`check_tool_result`](Guardrail::check_tool_result) | before the model sees a result | nothing, it may edit |

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    message::ToolCall,
    provider::{CallContext, LlmRequest, LlmResult},
    tool::{FailureCategory, ToolFailure},
};

/// How long a check may take (GR2): a caller notices no less, and a classifier needs no more.
pub const CHECK_TIMEOUT: Duration = Duration::from_millis(800);

/// What a check of a text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Allow,
    /// With this in its place.
    Replace(String),
    /// Not at all.
    Refuse(Refusal),
}

/// A veto.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by {by}")]
pub struct Refusal {
    /// Which guardrail.
    pub by: Arc<str>,
    /// What is said to the caller in place of what was refused; absent for silence.
    pub say: Option<Arc<str>>,
}

/// What counts when a guardrail fails or takes too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Refuse.
    #[default]
    Close,
    /// Go on as if it had allowed.
    Open,
}

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the guardrail failed")]
pub struct GuardrailError(#[source] pub crate::provider::BoxError);

/// Result of a check.
pub type Checked<T> = Result<T, GuardrailError>;

/// Checks one session. Every check defaults to allowing; each has [`CHECK_TIMEOUT`].
#[async_trait]
#[expect(unused_variables, reason = "the defaults allow what they are shown")]
pub trait Guardrail: Send + Sync + 'static {
    /// Names it in outcomes, metrics and logs.
    fn name(&self) -> &'static str;

    /// What its own failure means.
    fn on_failure(&self) -> OnFailure {
        OnFailure::Close
    }

    /// What the caller said or typed, once it is final.
    async fn check_input(&self, text: &str, cx: &CallContext) -> Checked<Verdict> {
        Ok(Verdict::Allow)
    }

    /// A request on its way to the model; may be edited. Called for each round of a turn and for each retry.
    async fn check_request(
        &self,
        request: &mut LlmRequest,
        cx: &CallContext,
    ) -> Checked<Option<Refusal>> {
        Ok(None)
    }

    /// A filter for the text of one response, made when the request is sent.
    fn response_filter(&self, cx: &CallContext) -> Option<Box<dyn ResponseFilter>> {
        None
    }

    /// A sentence on its way to synthesis, with what was said before it in this turn.
    async fn check_segment(&self, text: &str, so_far: &str, cx: &CallContext) -> Checked<Verdict> {
        Ok(Verdict::Allow)
    }

    /// A complete response.
    async fn check_response(
        &self,
        result: &LlmResult,
        cx: &CallContext,
    ) -> Checked<Option<Refusal>> {
        Ok(None)
    }

    /// A call on its way to its tool; may be edited. An error is what the model is told.
    async fn check_tool_call(
        &self,
        call: &mut ToolCall,
        cx: &CallContext,
    ) -> Checked<Result<(), ToolFailure>> {
        Ok(Ok(()))
    }

    /// A result on its way to the model; may be edited.
    async fn check_tool_result(
        &self,
        call: &ToolCall,
        result: &mut Value,
        cx: &CallContext,
    ) -> Checked<()> {
        Ok(())
    }
}

/// Rewrites the text of one response as it streams. May hold text back until it is sure; must not read a clock.
pub trait ResponseFilter: Send {
    /// Takes a piece and gives what may be passed on now, possibly nothing.
    ///
    /// # Errors
    /// The response ends here.
    fn push(&mut self, delta: &str) -> Result<String, Refusal>;

    /// The response is complete: gives what was held back.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    fn finish(&mut self) -> Result<String, Refusal>;
}

/// The guardrails of a session, in order. Cloning shares them.
#[derive(Clone, Default)]
pub struct Guardrails {
    chain: Arc<[Arc<dyn Guardrail>]>,
}

impl std::fmt::Debug for Guardrails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.chain.iter().map(|guardrail| guardrail.name()))
            .finish()
    }
}

impl FromIterator<Arc<dyn Guardrail>> for Guardrails {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Guardrail>>>(iter: I) -> Self {
        Self {
            chain: iter.into_iter().collect(),
        }
    }
}

impl Guardrails {
    /// Whether there are none, so that nothing needs to wait for them.
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// The text as all of them leave it.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn input(&self, text: Arc<str>, cx: &CallContext) -> Result<Arc<str>, Refusal> {
        let mut text = text;
        for guardrail in self.chain.iter() {
            match bounded(
                &**guardrail,
                guardrail.check_input(&text, cx),
                Verdict::Allow,
            )
            .await?
            {
                Verdict::Allow => {}
                Verdict::Replace(edited) => text = edited.into(),
                Verdict::Refuse(refusal) => return Err(refusal),
            }
        }
        Ok(text)
    }

    /// Lets all of them edit the request.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn request(&self, request: &mut LlmRequest, cx: &CallContext) -> Result<(), Refusal> {
        for guardrail in self.chain.iter() {
            let check = guardrail.check_request(request, cx);
            if let Some(refusal) = bounded(&**guardrail, check, None).await? {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// A filter that passes text through all of theirs.
    pub fn response_filter(&self, cx: &CallContext) -> ChainFilter {
        let filters = self.chain.iter();
        ChainFilter(
            filters
                .filter_map(|rail| rail.response_filter(cx))
                .collect(),
        )
    }

    /// The sentence as all of them leave it.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn segment(
        &self,
        text: String,
        so_far: &str,
        cx: &CallContext,
    ) -> Result<String, Refusal> {
        let mut text = text;
        for guardrail in self.chain.iter() {
            let check = guardrail.check_segment(&text, so_far, cx);
            match bounded(&**guardrail, check, Verdict::Allow).await? {
                Verdict::Allow => {}
                Verdict::Replace(edited) => text = edited,
                Verdict::Refuse(refusal) => return Err(refusal),
            }
        }
        Ok(text)
    }

    /// Whether the response stands.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn response(&self, result: &LlmResult, cx: &CallContext) -> Result<(), Refusal> {
        for guardrail in self.chain.iter() {
            let check = guardrail.check_response(result, cx);
            if let Some(refusal) = bounded(&**guardrail, check, None).await? {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Lets all of them edit the call.
    ///
    /// # Errors
    /// The first denial, as the model is told.
    pub async fn tool_call(
        &self,
        call: &mut ToolCall,
        cx: &CallContext,
    ) -> Result<(), ToolFailure> {
        for guardrail in self.chain.iter() {
            let check = guardrail.check_tool_call(call, cx);
            bounded(&**guardrail, check, Ok(()))
                .await
                .map_err(denied)??;
        }
        Ok(())
    }

    /// Lets all of them edit the result.
    ///
    /// # Errors
    /// When one that fails closed failed: the model must not see the result.
    pub async fn tool_result(
        &self,
        call: &ToolCall,
        result: &mut Value,
        cx: &CallContext,
    ) -> Result<(), ToolFailure> {
        for guardrail in self.chain.iter() {
            let check = guardrail.check_tool_result(call, result, cx);
            bounded(&**guardrail, check, ()).await.map_err(denied)?;
        }
        Ok(())
    }
}

fn denied(_: Refusal) -> ToolFailure {
    ToolFailure::new(FailureCategory::Denied, "a policy could not be checked")
}

/// Runs a check within its time. A failing, panicking or late one counts as its policy says.
async fn bounded<T>(
    guardrail: &dyn Guardrail,
    check: impl Future<Output = Checked<T>>,
    allowed: T,
) -> Result<T, Refusal> {
    let check = AssertUnwindSafe(check).catch_unwind();
    let why = match timeout(CHECK_TIMEOUT, check).await {
        Ok(Ok(Ok(verdict))) => return Ok(verdict),
        Ok(Ok(Err(error))) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(guardrail = guardrail.name(), error, "guardrail failed");
            return policy(guardrail, allowed);
        }
        Ok(Err(_)) => "panicked",
        Err(_) => "took too long",
    };
    tracing::error!(guardrail = guardrail.name(), why, "guardrail failed");
    policy(guardrail, allowed)
}

fn policy<T>(guardrail: &dyn Guardrail, allowed: T) -> Result<T, Refusal> {
    match guardrail.on_failure() {
        OnFailure::Open => Ok(allowed),
        OnFailure::Close => Err(Refusal {
            by: guardrail.name().into(),
            say: None,
        }),
    }
}

/// Filters of several guardrails in a row.
pub struct ChainFilter(Vec<Box<dyn ResponseFilter>>);

impl std::fmt::Debug for ChainFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainFilter({})", self.0.len())
    }
}

impl ChainFilter {
    /// Whether text passes as it is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ResponseFilter for ChainFilter {
    fn push(&mut self, delta: &str) -> Result<String, Refusal> {
        let mut text = delta.to_owned();
        for filter in &mut self.0 {
            if text.is_empty() {
                break;
            }
            text = filter.push(&text)?;
        }
        Ok(text)
    }

    fn finish(&mut self) -> Result<String, Refusal> {
        let mut text = String::new();
        for filter in &mut self.0 {
            // What an earlier filter held back goes through the later ones before they end.
            if !text.is_empty() {
                text = filter.push(&text)?;
            }
            text.push_str(&filter.finish()?);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rail {
        name: &'static str,
        policy: OnFailure,
        input: fn(&str) -> Checked<Verdict>,
    }

    #[async_trait]
    impl Guardrail for Rail {
        fn name(&self) -> &'static str {
            self.name
        }

        fn on_failure(&self) -> OnFailure {
            self.policy
        }

        async fn check_input(&self, text: &str, _: &CallContext) -> Checked<Verdict> {
            if text == "wait" {
                std::future::pending::<()>().await;
            }
            (self.input)(text)
        }

        fn response_filter(&self, _: &CallContext) -> Option<Box<dyn ResponseFilter>> {
            Some(Box::new(Pairs(self.name, String::new())))
        }
    }

    /// Passes two characters at a time, with a mark.
    struct Pairs(&'static str, String);

    impl ResponseFilter for Pairs {
        fn push(&mut self, delta: &str) -> Result<String, Refusal> {
            self.1.push_str(delta);
            let whole = self.1.len() & !1;
            Ok(self.1.drain(..whole).collect())
        }

        fn finish(&mut self) -> Result<String, Refusal> {
            Ok(std::mem::take(&mut self.1) + self.0)
        }
    }

    fn rail(
        name: &'static str,
        policy: OnFailure,
        input: fn(&str) -> Checked<Verdict>,
    ) -> Arc<dyn Guardrail> {
        Arc::new(Rail {
            name,
            policy,
            input,
        })
    }

    fn refusal(by: &str) -> Refusal {
        Refusal {
            by: by.into(),
            say: None,
        }
    }

    #[tokio::test]
    async fn edits_accumulate_and_the_first_refusal_wins() {
        let shout: fn(&str) -> Checked<Verdict> = |text| Ok(Verdict::Replace(text.to_uppercase()));
        let stop: fn(&str) -> Checked<Verdict> = |text| {
            Ok(if text.contains("BAD") {
                Verdict::Refuse(refusal("stop"))
            } else {
                Verdict::Replace(format!("{text}!"))
            })
        };
        let never: fn(&str) -> Checked<Verdict> = |text| {
            assert!(!text.contains("BAD"), "asked after a refusal");
            Ok(Verdict::Allow)
        };
        let chain: Guardrails = [
            rail("shout", OnFailure::Close, shout),
            rail("stop", OnFailure::Close, stop),
            rail("never", OnFailure::Close, never),
        ]
        .into_iter()
        .collect();
        let cx = CallContext::detached();
        assert_eq!(&*chain.input("good".into(), &cx).await.unwrap(), "GOOD!");
        assert_eq!(chain.input("bad".into(), &cx).await, Err(refusal("stop")));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_panics_and_delays_count_as_the_policy_says() {
        let check: fn(&str) -> Checked<Verdict> = |text| match text {
            "panic" => panic!("on purpose"),
            _ => Err(GuardrailError("broken".into())),
        };
        let cx = CallContext::detached();
        for text in ["error", "panic", "wait"] {
            let closed: Guardrails = [rail("rail", OnFailure::Close, check)]
                .into_iter()
                .collect();
            assert_eq!(
                closed.input(text.into(), &cx).await,
                Err(refusal("rail")),
                "{text}"
            );
            let open: Guardrails = [rail("rail", OnFailure::Open, check)].into_iter().collect();
            assert_eq!(&*open.input(text.into(), &cx).await.unwrap(), text);
        }
    }

    #[test]
    fn filters_in_a_row_lose_nothing() {
        let allow: fn(&str) -> Checked<Verdict> = |_| Ok(Verdict::Allow);
        let chain: Guardrails = [
            rail("a", OnFailure::Close, allow),
            rail("b", OnFailure::Close, allow),
        ]
        .into_iter()
        .collect();
        let mut filter = chain.response_filter(&CallContext::detached());
        let mut text = String::new();
        for delta in ["x", "yz", "uvw", ""] {
            text += &filter.push(delta).unwrap();
        }
        assert_eq!(text, "xyzuvw");
        assert_eq!(filter.push("q").unwrap(), "");
        assert_eq!(filter.finish().unwrap(), "qab");
    }
}

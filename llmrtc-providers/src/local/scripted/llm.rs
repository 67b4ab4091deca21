use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    id::CallId,
    message::{Message, ToolCall},
    provider::{
        CallContext, ErrorKind, LlmCapabilities, LlmChunk, LlmProvider, LlmRequest, LlmStream,
        ProviderError, StopReason, ToolChoice, Usage,
    },
};

use super::{
    RulesError,
    rules::{Action, Rules, fill},
};
use crate::echo::words;

/// The name used as a metric label.
const NAME: &str = "rules-llm";

/// A language model that answers by rules; see the [module](super) for how they are written.
///
/// Equal requests get equal answers, word by word. Dropping the stream ends it.
#[derive(Clone, Debug)]
pub struct RulesLlm {
    rules: Arc<Rules>,
}

impl RulesLlm {
    /// Reads rules from a file.
    ///
    /// # Errors
    /// [`RulesError::Read`], or everything that is wrong with the rules.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RulesError> {
        let path = path.as_ref();
        let source = std::fs::read_to_string(path).map_err(|source| RulesError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&source)
    }

    /// Reads rules.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn parse(source: &str) -> Result<Self, RulesError> {
        let rules = Arc::new(Rules::parse(source)?);
        Ok(Self { rules })
    }

    fn answer(&self, request: &LlmRequest) -> (Answer, Duration) {
        let said = request
            .messages
            .iter()
            .rev()
            .find_map(|message| match message {
                Message::User { text, .. } => Some(text.trim()),
                _ => None,
            });
        let result = match request.messages.last() {
            Some(Message::Tool { content, name, .. }) => Some((name, content)),
            _ => None,
        };
        for rule in &self.rules.rules {
            let Some(captures) = rule.pattern.captures(said.unwrap_or_default()) else {
                continue;
            };
            let answer = match (&rule.action, result) {
                // Behind a result only the rule that asked for it has anything to say.
                (Action::Reply(_), Some(_)) => continue,
                (Action::Reply(reply), None) => Answer::Text(reply.fill(&captures, "")),
                (Action::Call { tool, after, .. }, Some((name, content))) if tool == name => {
                    Answer::Text(match after {
                        Some(after) => after.fill(&captures, content),
                        None => content.to_string(),
                    })
                }
                (
                    Action::Call {
                        tool, arguments, ..
                    },
                    None,
                ) if offered(request, tool.as_str()) => {
                    let arguments = arguments
                        .iter()
                        .map(|(key, value)| (key.clone(), fill(value, &captures, &rule.pattern)))
                        .collect();
                    Answer::Call(ToolCall {
                        // Unique within the conversation, which only grows, and the same every time.
                        call_id: CallId::from(format!("rules-{}", request.messages.len())),
                        name: tool.clone(),
                        arguments,
                        parse_error: None,
                    })
                }
                (Action::Call { .. }, _) => continue,
            };
            return (answer, rule.delay);
        }
        let text = match result {
            Some((_, content)) => content.to_string(),
            None => self.rules.default.clone(),
        };
        (Answer::Text(text), Duration::ZERO)
    }
}

enum Answer {
    Text(String),
    Call(ToolCall),
}

/// Whether a tool is there and may be called.
fn offered(request: &LlmRequest, tool: &str) -> bool {
    let allowed = match &request.tool_choice {
        ToolChoice::None => false,
        ToolChoice::Named(name) => name.as_str() == tool,
        _ => true,
    };
    allowed
        && request
            .tools
            .iter()
            .any(|offer| offer.name.as_str() == tool)
}

#[async_trait]
impl LlmProvider for RulesLlm {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> LlmCapabilities {
        LlmCapabilities {
            parallel_tools: false,
            forced_tool_choice: false,
            ..LlmCapabilities::default()
        }
    }

    /// Starts a response.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a call is demanded and no rule makes one.
    async fn stream(
        &self,
        request: LlmRequest,
        _cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let (answer, delay) = self.answer(&request);
        let (chunks, reason) = match answer {
            Answer::Text(_)
                if matches!(
                    request.tool_choice,
                    ToolChoice::Required | ToolChoice::Named(_)
                ) =>
            {
                let message =
                    "a tool call is demanded and no rule makes one; add a rule with `tool`";
                return Err(ProviderError::new(ErrorKind::Unsupported, NAME, message));
            }
            Answer::Text(text) => (
                words(&text).into_iter().map(LlmChunk::Text).collect(),
                StopReason::EndTurn,
            ),
            Answer::Call(call) => {
                let begun = LlmChunk::ToolCallBegun {
                    index: 0,
                    call_id: call.call_id.clone(),
                    name: call.name.clone(),
                };
                (vec![begun, LlmChunk::ToolCall(call)], StopReason::ToolUse)
            }
        };
        let heard = request.messages.iter().map(|m| words(m.text()).len());
        let usage = LlmChunk::Usage(Usage {
            input: Some(heard.sum::<usize>() as u64),
            output: Some(chunks.len() as u64),
            ..Usage::default()
        });
        let later = self.rules.word_delay;
        let body =
            stream::iter(chunks.into_iter().enumerate()).then(move |(at, chunk)| async move {
                let wait = if at == 0 { delay } else { later };
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(chunk)
            });
        let tail = stream::iter([Ok(usage), Ok(LlmChunk::End(reason))]);
        Ok(body.chain(tail).boxed())
    }
}

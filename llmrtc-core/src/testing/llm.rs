use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value};

use super::{
    Ledger, Script,
    script::{Played, Player, Scripts, exhausted, lock},
};
use crate::{
    message::ToolCall,
    provider::{
        CallContext, LlmCapabilities, LlmChunk, LlmProvider, LlmRequest, LlmStream, ProviderError,
        StopReason,
    },
};

impl Script<LlmChunk> {
    /// A normal answer, delivered word by word.
    pub fn answer(text: &str) -> Self {
        Self::new()
            .say(text)
            .item(LlmChunk::End(StopReason::EndTurn))
    }

    /// Calls of tools by name, then the end of the response. Ids are `call-1`, `call-2`, ….
    pub fn tools<'a>(calls: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let mut script = Self::new();
        for (index, (name, arguments)) in calls.into_iter().enumerate() {
            script = script.item(LlmChunk::ToolCall(ToolCall {
                call_id: format!("call-{}", index + 1).into(),
                name: name.into(),
                arguments: match arguments {
                    Value::Object(arguments) => arguments,
                    _ => Map::new(),
                },
                parse_error: None,
            }));
        }
        script.item(LlmChunk::End(StopReason::ToolUse))
    }

    /// Text, word by word: each chunk but the first begins with its space.
    #[must_use]
    pub fn say(mut self, text: &str) -> Self {
        let mut rest = text;
        while !rest.is_empty() {
            // A chunk is the white space before a word and the word.
            let word = rest
                .find(|c: char| !c.is_whitespace())
                .unwrap_or(rest.len());
            let end = rest[word..]
                .find(char::is_whitespace)
                .map_or(rest.len(), |end| word + end);
            self = self.item(LlmChunk::Text(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        self
    }
}

/// A language model that follows scripts, one per request.
#[derive(Clone, Debug)]
pub struct ScriptedLlm {
    name: Arc<str>,
    capabilities: LlmCapabilities,
    scripts: Arc<Mutex<Scripts<Script<LlmChunk>>>>,
    requests: Arc<Mutex<Vec<LlmRequest>>>,
    ledger: Ledger,
}

impl ScriptedLlm {
    /// Without a script: every request fails.
    pub fn new() -> Self {
        Self {
            name: "scripted-llm".into(),
            capabilities: LlmCapabilities::default(),
            scripts: Arc::new(Mutex::new(Scripts::new())),
            requests: Arc::default(),
            ledger: Ledger::default(),
        }
    }

    /// Every request is answered with this text.
    pub fn saying(text: &str) -> Self {
        Self::new().always(Script::answer(text))
    }

    /// The next request without a script of its own follows this one.
    #[must_use]
    pub fn then(self, script: Script<LlmChunk>) -> Self {
        lock(&self.scripts).then(script);
        self
    }

    /// All further requests follow this one.
    #[must_use]
    pub fn always(self, script: Script<LlmChunk>) -> Self {
        lock(&self.scripts).always(script);
        self
    }

    /// Sets what the model offers.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: LlmCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<LlmRequest> {
        lock(&self.requests).clone()
    }

    /// What became of them.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Default for ScriptedLlm {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl LlmProvider for ScriptedLlm {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> LlmCapabilities {
        self.capabilities
    }

    async fn stream(
        &self,
        request: LlmRequest,
        _cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let call = self.ledger.start();
        lock(&self.requests).push(request);
        let script = lock(&self.scripts).next();
        let script = script.ok_or_else(|| exhausted(&self.name))?;
        let player = Player::open(Arc::clone(&self.name), script, call).await?;
        let chunks = stream::unfold(Some(player), |player| async {
            let mut player = player?;
            match player.next().await {
                Played::Item(chunk) => Some((Ok(chunk), Some(player))),
                Played::Failed(error) => Some((Err(error), None)),
                Played::InputEnd | Played::End => None,
            }
        });
        Ok(chunks.boxed())
    }
}

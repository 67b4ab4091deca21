use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    id::CallId,
    message::{Message, ToolCall},
    provider::{
        CallContext, LlmCapabilities, LlmChunk, LlmProvider, LlmRequest, LlmStream, ProviderError,
        StopReason, Usage,
    },
};

use super::{EchoConfig, pause};

/// Longest count, so that nobody is counted to death.
const COUNT_LIMIT: u32 = 30;
/// Long enough to interrupt.
const STORY: &str = "Once upon a time, a lighthouse stood at the end of a very long pier. Every evening its keeper \
    climbed the stairs and lit the lamp. One night a thick fog came in, and no ship could see the light. So the \
    keeper took her old brass horn and played the only song she knew. Out on the water a captain heard it, turned \
    his ship around, and came home safely. And ever since, the people there play music when the fog is thick.";

/// A language model that answers with what it was told.
///
/// Some sentences get a special answer: a greeting, `tell me a story`, `count to twelve` (in digits), `say …`, and
/// `call …` with the name of a tool on offer.
#[derive(Clone, Debug, Default)]
pub struct EchoLlm {
    config: EchoConfig,
}

impl EchoLlm {
    /// Uses the delays and the reply template of `config`.
    pub fn new(config: EchoConfig) -> Self {
        Self { config }
    }

    fn answer(&self, request: &LlmRequest) -> Answer {
        if let Some(Message::Tool { name, content, .. }) = request.messages.last() {
            return Answer::Text(format!("The tool {name} answered: {content}"));
        }
        let mut heard = request
            .messages
            .iter()
            .rev()
            .filter_map(|message| match message {
                Message::User { text, .. } => Some(text.trim()),
                _ => None,
            });
        let Some(text) = heard.next() else {
            return Answer::Text("Hello! I am listening.".to_owned());
        };
        let turns = heard.count();
        if let Some(template) = &self.config.reply {
            let reply = template
                .replace("{turns}", &turns.to_string())
                .replace("{text}", text);
            return Answer::Text(reply);
        }
        let plain = simplify(text);
        if let Some(name) = plain.strip_prefix("call ")
            && let Some(tool) = request
                .tools
                .iter()
                .find(|tool| name == simplify(tool.name.as_str()))
        {
            return Answer::Call(ToolCall {
                call_id: CallId::from(format!("echo-{}", request.messages.len())),
                name: tool.name.clone(),
                arguments: Default::default(),
                parse_error: None,
            });
        }
        if let Some(words) = plain.strip_prefix("say ") {
            // The caller's own spelling, not the simplified one.
            let start = text.len()
                - text
                    .trim_start_matches(|c: char| !c.is_alphanumeric())
                    .len();
            let said = text.get(start + "say ".len()..).unwrap_or(words);
            return Answer::Text(said.trim().to_owned());
        }
        if plain.contains("tell me a story") {
            return Answer::Text(STORY.to_owned());
        }
        if let Some(limit) = plain
            .strip_prefix("count to ")
            .and_then(|n| n.parse::<u32>().ok())
        {
            let numbers: Vec<String> = (1..=limit.clamp(1, COUNT_LIMIT))
                .map(|n| n.to_string())
                .collect();
            return Answer::Text(format!("{}.", numbers.join(", ")));
        }
        if matches!(
            plain.as_str(),
            "hi" | "hello" | "hello there" | "hey" | "good morning"
        ) {
            return Answer::Text(
                "Hello! I am the built-in echo. Set a provider's key, and a real model answers instead.".to_owned(),
            );
        }
        let end = if text.ends_with(['.', '!', '?', '…']) {
            ""
        } else {
            "."
        };
        let memory = match turns {
            0 => "This is the first thing you have said to me.".to_owned(),
            1 => "I also remember one thing you said before.".to_owned(),
            n => format!("I also remember {n} things you said before."),
        };
        Answer::Text(format!("You said: {text}{end} {memory}"))
    }
}

enum Answer {
    Text(String),
    Call(ToolCall),
}

/// Lower case, without punctuation around it.
fn simplify(text: &str) -> String {
    text.trim_matches(|c: char| !c.is_alphanumeric())
        .to_lowercase()
}

/// Words with the white space that follows them, so that nothing is lost when they are joined.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_inclusive(char::is_whitespace)
        .map(str::to_owned)
        .collect()
}

#[async_trait]
impl LlmProvider for EchoLlm {
    fn name(&self) -> &str {
        "echo-llm"
    }

    fn capabilities(&self) -> LlmCapabilities {
        LlmCapabilities {
            parallel_tools: false,
            forced_tool_choice: false,
            ..LlmCapabilities::default()
        }
    }

    async fn stream(
        &self,
        request: LlmRequest,
        _cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let heard: usize = request
            .messages
            .iter()
            .map(|message| words(message.text()).len())
            .sum();
        let (chunks, reason) = match self.answer(&request) {
            Answer::Text(text) => {
                let chunks: Vec<_> = words(&text).into_iter().map(LlmChunk::Text).collect();
                (chunks, StopReason::EndTurn)
            }
            Answer::Call(call) => {
                let begun = LlmChunk::ToolCallBegun {
                    index: 0,
                    call_id: call.call_id.clone(),
                    name: call.name.clone(),
                };
                (vec![begun, LlmChunk::ToolCall(call)], StopReason::ToolUse)
            }
        };
        let usage = LlmChunk::Usage(Usage {
            input: Some(heard as u64),
            output: Some(chunks.len() as u64),
            ..Usage::default()
        });
        let first = self.config.first_word_delay;
        let later = self.config.word_delay;
        let body =
            stream::iter(chunks.into_iter().enumerate()).then(move |(at, chunk)| async move {
                pause(if at == 0 { first } else { later }).await;
                Ok(chunk)
            });
        let tail = stream::iter([Ok(usage), Ok(LlmChunk::End(reason))]);
        Ok(body.chain(tail).boxed())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use llmrtc_core::provider::{LlmResult, ToolDefinition};

    use super::*;

    async fn ask(llm: &EchoLlm, messages: Vec<Message>) -> LlmResult {
        let request = LlmRequest {
            messages,
            tools: Arc::from([ToolDefinition {
                name: "clock".into(),
                description: "tells the time".into(),
                parameters: Default::default(),
            }]),
            ..LlmRequest::default()
        };
        llm.complete(request, &CallContext::detached())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn answers_as_a_table() {
        let llm = EchoLlm::default();
        let table = [
            (
                "The sky is blue",
                "You said: The sky is blue. This is the first thing you have said to me.",
            ),
            (
                "Really?",
                "You said: Really? This is the first thing you have said to me.",
            ),
            ("Count to 3!", "1, 2, 3."),
            ("Say Grüß Gott!", "Grüß Gott!"),
            ("Tell me a story, please.", STORY),
        ];
        for (text, answer) in table {
            let result = ask(&llm, vec![Message::system("s"), Message::user(text)]).await;
            assert_eq!(result.text, answer);
            assert_eq!(result.stop_reason, Some(StopReason::EndTurn));
            assert!(result.usage.output.unwrap() > 0);
        }
        assert!(
            ask(&llm, vec![Message::user("Hello!")])
                .await
                .text
                .starts_with("Hello!")
        );
        assert!(!ask(&llm, vec![]).await.text.is_empty());
    }

    #[tokio::test]
    async fn history_is_visible_in_the_answer() {
        let messages = vec![
            Message::user("a"),
            Message::assistant("b"),
            Message::user("c"),
            Message::user("d"),
        ];
        let text = ask(&EchoLlm::default(), messages).await.text;
        assert_eq!(
            text,
            "You said: d. I also remember 2 things you said before."
        );
    }

    #[tokio::test]
    async fn a_tool_on_offer_is_called_and_its_result_reported() {
        let result = ask(&EchoLlm::default(), vec![Message::user("call clock")]).await;
        assert_eq!(result.tool_calls[0].name.as_str(), "clock");
        assert_eq!(result.stop_reason, Some(StopReason::ToolUse));
        let answered = Message::Tool {
            call_id: result.tool_calls[0].call_id.clone(),
            name: "clock".into(),
            content: "noon".into(),
            is_error: false,
        };
        let text = ask(
            &EchoLlm::default(),
            vec![Message::user("call clock"), answered],
        )
        .await
        .text;
        assert_eq!(text, "The tool clock answered: noon");
        let unknown = ask(&EchoLlm::default(), vec![Message::user("call home")]).await;
        assert!(unknown.tool_calls.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_and_template_are_the_operators() {
        let llm = EchoLlm::new(EchoConfig {
            first_word_delay: Duration::from_millis(300),
            word_delay: Duration::from_millis(50),
            reply: Some("{turns} {text} end".to_owned()),
            ..EchoConfig::default()
        });
        let begin = tokio::time::Instant::now();
        let result = ask(&llm, vec![Message::user("{turns}")]).await;
        assert_eq!(result.text, "0 {turns} end");
        assert_eq!(begin.elapsed(), Duration::from_millis(400));
    }
}

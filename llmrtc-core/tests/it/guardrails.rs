//! Guardrails in a running turn (GR1–GR6).

use async_trait::async_trait;
use llmrtc_core::{
    guardrail::{Checked, Guardrail, Refusal, ResponseFilter, Verdict},
    message::{Message, ToolCall},
    provider::{CallContext, LlmRequest, LlmResult},
    testing::{Script, ScriptedLlm},
    tool::{FailureCategory, ToolFailure},
};
use serde_json::{Value, json};

use crate::{harness::Cast, tools::Toolbox};

/// Refuses what contains `bad` at the place it is set for, and hides `secret`.
struct Rail(&'static str);

impl Rail {
    fn refuses(&self, place: &str, text: &str) -> Option<Refusal> {
        (self.0 == place && text.contains("bad")).then(|| Refusal {
            by: "rail".into(),
            say: Some("I cannot do that.".into()),
        })
    }
}

#[async_trait]
impl Guardrail for Rail {
    fn name(&self) -> &'static str {
        "rail"
    }

    async fn check_input(&self, text: &str, _: &CallContext) -> Checked<Verdict> {
        Ok(match self.refuses("input", text) {
            Some(refusal) => Verdict::Refuse(refusal),
            None => Verdict::Replace(text.replace("secret", "[hidden]")),
        })
    }

    async fn check_request(
        &self,
        request: &mut LlmRequest,
        _: &CallContext,
    ) -> Checked<Option<Refusal>> {
        for message in &mut request.messages {
            if let Message::User { text, .. } = message {
                if let Some(refusal) = self.refuses("request", text) {
                    return Ok(Some(refusal));
                }
                *text = text.replace("Q", "Question").into();
            }
        }
        Ok(None)
    }

    fn response_filter(&self, _: &CallContext) -> Option<Box<dyn ResponseFilter>> {
        Some(Box::new(Words {
            refuses: self.0 == "filter",
            held: String::new(),
        }))
    }

    async fn check_segment(&self, text: &str, _: &str, _: &CallContext) -> Checked<Verdict> {
        Ok(match self.refuses("segment", text) {
            Some(refusal) => Verdict::Refuse(refusal),
            None => Verdict::Allow,
        })
    }

    async fn check_response(
        &self,
        result: &LlmResult,
        _: &CallContext,
    ) -> Checked<Option<Refusal>> {
        Ok(self.refuses("response", &result.text))
    }

    async fn check_tool_call(
        &self,
        call: &mut ToolCall,
        _: &CallContext,
    ) -> Checked<Result<(), ToolFailure>> {
        Ok(if self.0 == "tool" && call.name.as_str() == "slow" {
            Err(ToolFailure::new(FailureCategory::Denied, "not today"))
        } else {
            Ok(())
        })
    }

    async fn check_tool_result(
        &self,
        _: &ToolCall,
        result: &mut Value,
        _: &CallContext,
    ) -> Checked<()> {
        result["checked"] = json!(true);
        Ok(())
    }
}

/// Passes whole words.
struct Words {
    refuses: bool,
    held: String,
}

impl ResponseFilter for Words {
    fn push(&mut self, delta: &str) -> Result<String, Refusal> {
        self.held.push_str(delta);
        let end = self.held.rfind(' ').map_or(0, |space| space + 1);
        let text: String = self.held.drain(..end).collect();
        if self.refuses && text.contains("bad") {
            return Err(Refusal {
                by: "rail".into(),
                say: None,
            });
        }
        Ok(text.replace("secret", "[hidden]"))
    }

    fn finish(&mut self) -> Result<String, Refusal> {
        Ok(std::mem::take(&mut self.held).replace("secret", "[hidden]"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_utterance_is_answered_with_the_guardrails_words_and_forgotten() {
    let mut call = Cast::new("a bad question", "An answer.")
        .guardrail(Rail("input"))
        .call();
    call.say();
    call.until("blocked").await;
    assert_eq!(
        call.words(),
        [
            "speech-start",
            "speech-end",
            "delta",
            "llm:I cannot do that.",
            "tts-start",
            "tts-complete",
            "blocked",
        ]
    );
    assert!(call.cast.llm.requests().is_empty());
    assert!(call.end().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_text_keeps_its_place_among_the_others() {
    let mut call = Cast::new("", "An answer.").guardrail(Rail("input")).call();
    call.text("a bad text");
    call.until("blocked").await;
    call.text("my secret is good");
    call.until("completed").await;
    assert_eq!(
        call.end(),
        ["user:my [hidden] is good", "assistant:An answer."]
    );
}

#[tokio::test(start_paused = true)]
async fn requests_are_edited_for_the_vendor_only() {
    let mut call = Cast::new("", "An answer.").guardrail(Rail("none")).call();
    call.text("Q");
    call.until("completed").await;
    assert_eq!(call.request(), ["system:Be brief.", "user:Question"]);
    assert_eq!(call.end(), ["user:Q", "assistant:An answer."]);

    let mut call = Cast::new("", "An answer.")
        .guardrail(Rail("request"))
        .call();
    call.text("bad");
    call.until("blocked").await;
    // The guardrail's words are a turn of their own.
    call.until("completed").await;
    assert!(call.cast.llm.requests().is_empty());
    assert!(call.end().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_filtered_answer_is_all_that_anybody_sees() {
    let script = Script::new()
        .say("The sec")
        .say("ret is out")
        .say(". A secret");
    let script = script.item(llmrtc_core::provider::LlmChunk::End(
        llmrtc_core::provider::StopReason::EndTurn,
    ));
    let mut call = Cast::new("", "")
        .answers(script)
        .guardrail(Rail("none"))
        .call();
    call.text("Q");
    call.until("completed").await;
    assert!(
        call.words()
            .contains(&"llm:The [hidden] is out. A [hidden]"),
        "{:?}",
        call.words()
    );
    assert_eq!(
        call.end(),
        ["user:Q", "assistant:The [hidden] is out. A [hidden]"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_stopped_is_replaced_and_what_was_heard_is_kept() {
    for place in ["segment", "response", "filter"] {
        let answer =
            "The first sentence is fine. The second one is a bad one. And a third follows.";
        let mut call = Cast::new("", answer).guardrail(Rail(place)).call();
        call.text("Q");
        call.until("blocked").await;
        if place != "filter" {
            call.until("llm:I cannot do that.").await;
            call.until("completed").await;
        }
        let spoken = call.end();
        assert!(
            spoken.iter().all(|line| !line.contains("bad")),
            "{place}: {spoken:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_can_interrupt_a_refusal() {
    let mut call = Cast::new("a bad question", "")
        .guardrail(Rail("input"))
        .call();
    call.say();
    call.until("tts-start").await;
    call.speak();
    call.until("interrupted").await;
    assert!(call.end().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tools_are_checked_before_and_after() {
    let llm = ScriptedLlm::new()
        .then(Script::tools([("slow", json!({})), ("quick", json!({}))]))
        .always(Script::answer("Done."));
    let mut call = Cast::new("", "")
        .llm(llm)
        .tools(Toolbox)
        .guardrail(Rail("tool"))
        .call();
    call.text("Q");
    call.until("completed").await;
    let request = call.request();
    assert!(
        request.contains(&r#"tool:{"checked":true,"ran":"quick"}"#.to_owned()),
        "{request:?}"
    );
    assert!(
        request
            .iter()
            .any(|line| line.starts_with("tool!:") && line.contains("not today")),
        "{request:?}"
    );
}

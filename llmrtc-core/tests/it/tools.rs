//! Tool rounds inside a turn (O5, B5, §3.4).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::{
    message::ToolCall,
    provider::{CallContext, LlmChunk, StopReason, ToolChoice, ToolDefinition},
    testing::{Script, ScriptedLlm},
    tool::{ToolFailure, ToolRunner},
};
use serde_json::{Value, json};

use crate::harness::Cast;

/// `quick` answers at once, `slow` after a second, `stuck` never, `broken` panics.
pub(crate) struct Toolbox;

#[async_trait]
impl ToolRunner for Toolbox {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        Arc::from([ToolDefinition {
            name: "quick".into(),
            description: "Quick.".into(),
            parameters: json!({"type": "object"}),
        }])
    }

    async fn run(&self, call: &ToolCall, cx: &CallContext) -> Result<Value, ToolFailure> {
        match call.name.as_str() {
            "slow" => tokio::time::sleep(Duration::from_secs(1)).await,
            "stuck" => cx.cancel.cancelled().await,
            "broken" => panic!("a bug in a tool"),
            _ => {}
        }
        Ok(json!({"ran": call.name.as_str()}))
    }
}

fn cast(first: Script<LlmChunk>) -> Cast {
    let llm = ScriptedLlm::new()
        .then(first)
        .always(Script::answer("Done."));
    Cast::new("Q", "").llm(llm).tools(Toolbox)
}

#[tokio::test(start_paused = true)]
async fn calls_run_side_by_side_and_results_keep_the_order_of_the_request() {
    let mut call = cast(Script::tools([("slow", json!({})), ("quick", json!({}))])).call();
    call.text("Q");
    call.until("completed").await;
    assert_eq!(
        call.words(),
        [
            "transcript:Q",
            "tool:slow",
            "tool:quick",
            "tool-ok:quick",
            "tool-ok:slow",
            "delta",
            "llm:Done.",
            "tts-start",
            "tts-complete",
            "completed",
        ]
    );
    assert_eq!(
        call.request(),
        [
            "system:Be brief.",
            "user:Q",
            "assistant: (slow, quick)",
            r#"tool:{"ran":"slow"}"#,
            r#"tool:{"ran":"quick"}"#,
        ]
    );
    assert_eq!(call.cast.llm.requests()[0].tools.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn words_before_a_call_are_spoken_while_it_runs() {
    let first = Script::new()
        .say("Let me have a look at that.")
        .item(LlmChunk::ToolCall(ToolCall {
            call_id: "c1".into(),
            name: "slow".into(),
            arguments: Default::default(),
            parse_error: None,
        }));
    let mut call = cast(first.item(LlmChunk::End(StopReason::ToolUse))).call();
    call.text("Q");
    call.until("completed").await;
    assert!(call.at("tts-start") < call.at("tool-ok:slow"));
    assert_eq!(
        call.cast.tts.texts(),
        ["Let me have a look at that.", "Done."]
    );
    let history = call.end();
    assert_eq!(history[1], "assistant:Let me have a look at that. (slow)");
    assert_eq!(history[3], "assistant:Done.");
}

#[tokio::test(start_paused = true)]
async fn malformed_arguments_never_run() {
    let bad = Script::new()
        .item(LlmChunk::ToolCall(ToolCall {
            call_id: "c1".into(),
            name: "quick".into(),
            arguments: Default::default(),
            parse_error: Some("expected `,` at column 9".into()),
        }))
        .item(LlmChunk::End(StopReason::ToolUse));
    let mut call = cast(bad).call();
    call.text("Q");
    call.until("completed").await;
    assert!(call.words().contains(&"tool-malformed_arguments:quick"));
    assert!(call.request()[3].contains("expected `,` at column 9"));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_tool_and_a_stuck_one_do_not_end_the_turn() {
    let mut call = cast(Script::tools([("broken", json!({})), ("stuck", json!({}))])).call();
    call.text("Q");
    call.until("completed").await;
    assert!(call.words().contains(&"tool-handler:broken"));
    assert!(call.words().contains(&"tool-timeout:stuck"));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_tool_is_cancelled_and_remembered() {
    let mut call = cast(Script::tools([("quick", json!({})), ("stuck", json!({}))])).call();
    call.say();
    call.until("tool-ok:quick").await;
    call.until("tool:stuck").await;
    call.speak();
    call.until("speech-start").await;
    assert!(call.words().contains(&"tool-cancelled:stuck"));
    let history = call.end();
    assert_eq!(history[1], "assistant: (quick, stuck)");
    assert_eq!(history[2], r#"tool:{"ran":"quick"}"#);
    assert!(history[3].starts_with("tool!:") && history[3].contains("cancelled"));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_only_calls_tools_is_made_to_answer() {
    let llm = ScriptedLlm::new()
        .then(Script::tools([("quick", json!({}))]))
        .then(Script::tools([("quick", json!({}))]))
        .always(Script::answer("Enough."));
    let mut call = Cast::new("Q", "")
        .llm(llm)
        .tools(Toolbox)
        .config(|config| config.max_tool_rounds = 2)
        .call();
    call.text("Q");
    call.until("completed").await;
    let choices: Vec<_> = call
        .cast
        .llm
        .requests()
        .into_iter()
        .map(|request| request.tool_choice)
        .collect();
    assert_eq!(
        choices,
        [ToolChoice::Auto, ToolChoice::Auto, ToolChoice::None]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_tool_that_nobody_offered_is_answered_at_once() {
    let llm = ScriptedLlm::new()
        .then(Script::tools([("imagined", json!({}))]))
        .always(Script::answer("Done."));
    let mut call = Cast::new("Q", "").llm(llm).call();
    call.text("Q");
    call.until("completed").await;
    assert!(
        call.words().contains(&"tool-not_found:imagined"),
        "{:?}",
        call.words()
    );
}

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use llmrtc_core::{
    message::Message,
    provider::{
        CallContext, ErrorKind, LlmProvider, LlmRequest, LlmResult, StopReason, ToolChoice,
        ToolDefinition,
    },
    testing::conformance::{self, ANSWER, Behaviour, ProviderFixture},
};

use super::*;

const RULES: &str = r#"
default = "Pardon?"

[[rule]]
pattern = '\bmy name is (?<name>\w+)'
reply = "Hello ${name}, that is $$5. {braces} stay."

[[rule]]
pattern = 'weather in ([\w ]+)'
tool = "weather"
arguments = { city = "$1", days = 2, deep = [{ again = "in $1" }] }
after_tool = "In $1 it is {result.sky.0}, {result.degrees} degrees."

[[rule]]
pattern = 'weather'
reply = "Where?"

[[rule]]
pattern = 'time'
tool = "clock"
"#;

fn request(messages: Vec<Message>) -> LlmRequest {
    let tools = ["weather", "clock"].map(|name| ToolDefinition {
        name: name.into(),
        description: String::new(),
        parameters: Default::default(),
    });
    LlmRequest {
        messages,
        tools: Arc::from(tools),
        ..LlmRequest::default()
    }
}

async fn ask(request: LlmRequest) -> LlmResult {
    let llm = RulesLlm::parse(RULES).unwrap();
    llm.complete(request, &CallContext::detached())
        .await
        .unwrap()
}

async fn check(said: &str, answer: &str) {
    let result = ask(request(vec![Message::system("s"), Message::user(said)])).await;
    assert_eq!(result.text, answer);
    assert_eq!(result.stop_reason, Some(StopReason::EndTurn));
}

#[tokio::test]
async fn the_first_rule_that_applies_answers() {
    check(
        "Hi, MY NAME IS Ada.",
        "Hello Ada, that is $5. {braces} stay.",
    )
    .await;
    check("The weather?", "Where?").await;
    check("Something else", "Pardon?").await;
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_read_out() {
    let mut messages = vec![Message::user("How is the weather in New York?")];
    let result = ask(request(messages.clone())).await;
    assert_eq!(result.stop_reason, Some(StopReason::ToolUse));
    let call = &result.tool_calls[0];
    let arguments = serde_json::json!({
        "city": "New York", "days": 2, "deep": [{ "again": "in New York" }]
    });
    assert_eq!(serde_json::Value::from(call.arguments.clone()), arguments);
    messages.push(Message::Tool {
        call_id: call.call_id.clone(),
        name: call.name.clone(),
        content: r#"{"sky":["clear"],"degrees":21.5}"#.into(),
        is_error: false,
    });
    let result = ask(request(messages)).await;
    assert_eq!(result.text, "In New York it is clear, 21.5 degrees.");
}

#[tokio::test]
async fn a_result_without_a_template_is_read_out_as_it_is() {
    let clock = Message::Tool {
        call_id: "1".into(),
        name: "clock".into(),
        content: "noon".into(),
        is_error: false,
    };
    let result = ask(request(vec![Message::user("What time is it?"), clock])).await;
    assert_eq!(result.text, "noon");
}

#[tokio::test]
async fn a_tool_that_is_not_offered_is_not_called() {
    let messages = vec![Message::user("weather in Oslo")];
    let without = LlmRequest {
        messages,
        ..LlmRequest::default()
    };
    assert_eq!(ask(without.clone()).await.text, "Where?");
    let mut forbidden = request(without.messages.clone());
    forbidden.tool_choice = ToolChoice::None;
    assert_eq!(ask(forbidden).await.text, "Where?");
    let mut demanded = request(vec![Message::user("hello")]);
    demanded.tool_choice = ToolChoice::Required;
    let llm = RulesLlm::parse(RULES).unwrap();
    let error = llm.complete(demanded, &CallContext::detached()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn all_problems_are_told_at_once_with_their_lines() {
    let source = r#"speed = 3
[[rule]]
pattern = "a("
reply = "x"

[[rule]]
pattern = "b"
reply = "$1 {result}"
tool = "t"

[[rule]]
pattern = "c"
reply = "$2 and ${who}"

[[rule]]
tool = "no spaces"
after_tool = 7
delay_ms = -1
colour = "red"

[[rule]]
pattern = "(x)"
tool = "t"
arguments = { a = "$1", b = "$2" }

[[rule]]
pattern = "d"
reply = "{result}"
"#;
    let RulesError::Invalid(problems) = RulesLlm::parse(source).unwrap_err() else {
        panic!("the rules could be read");
    };
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    line 1: `default` is missing: what to say when no rule applies
    line 1: `speed` is unknown
    line 2 (rule 1): `pattern` is no regular expression: unclosed group
    line 6 (rule 2): a rule has either `reply` or `tool`
    line 11 (rule 3): `reply`: the pattern captures no `2`
    line 15 (rule 4): `pattern` is missing
    line 15 (rule 4): `delay_ms` must be a number from 0 to 60000
    line 15 (rule 4): `after_tool` must be text, not integer
    line 15 (rule 4): `tool` must be 1 to 64 letters, digits, `_` and `-`
    line 15 (rule 4): `colour` is unknown
    line 21 (rule 5): argument `b`: the pattern captures no `2`
    line 26 (rule 6): `reply`: `{result}` exists only in `after_tool`
    ");
}

#[test]
fn a_slip_in_the_notation_has_its_line() {
    let error = RulesLlm::parse("default = \"x\"\n[[rule]]\npattern = nothing\n").unwrap_err();
    assert!(error.to_string().contains("line 3: "), "{error}");
    let error = RulesLlm::load("/does/not/exist.toml").unwrap_err();
    assert!(matches!(error, RulesError::Read { .. }));
}

#[tokio::test(start_paused = true)]
async fn delays_are_the_rules() {
    let source = "default = \"a b c\"\nword_delay_ms = 10\n[[rule]]\npattern = \"q\"\nreply = \"x\"\ndelay_ms = 500";
    let llm = RulesLlm::parse(source).unwrap();
    for (said, wait) in [("q", 500), ("other", 20)] {
        let begin = tokio::time::Instant::now();
        let request = request(vec![Message::user(said)]);
        llm.complete(request, &CallContext::detached())
            .await
            .unwrap();
        assert_eq!(begin.elapsed(), Duration::from_millis(wait));
    }
}

#[tokio::test(start_paused = true)]
async fn the_example_is_valid() {
    let llm = RulesLlm::parse(EXAMPLE).unwrap();
    let request = request(vec![Message::user("Hi, my name is Ada.")]);
    let result = llm
        .complete(request, &CallContext::detached())
        .await
        .unwrap();
    assert_eq!(result.text, "Nice to meet you, Ada.");
}

struct Fixture(RulesLlm);

#[async_trait]
impl ProviderFixture<dyn LlmProvider> for Fixture {
    async fn start(behaviour: Behaviour) -> Self {
        // Longer than a check waits.
        let (first, later) = match behaviour {
            Behaviour::Silent => (60_000, 0),
            Behaviour::Stall => (0, 60_000),
            _ => (0, 0),
        };
        let rules = format!(
            "default = \"-\"\nword_delay_ms = {later}\n\
             [[rule]]\npattern = \"\"\nreply = \"{ANSWER}\"\ndelay_ms = {first}"
        );
        Self(RulesLlm::parse(&rules).unwrap())
    }

    fn provider(&self) -> Arc<dyn LlmProvider> {
        Arc::new(self.0.clone())
    }

    async fn received(&self) {}

    async fn cancelled(&self) {}
}

// There is nothing behind the rules that could refuse or break off.
#[tokio::test]
async fn it_conforms() {
    conformance::llm::text_arrives_in_order_and_ends_once::<Fixture>().await;
    conformance::llm::complete_is_the_folded_stream::<Fixture>().await;
    conformance::llm::dropping_the_request_cancels_it::<Fixture>().await;
    conformance::llm::dropping_the_stream_cancels_it::<Fixture>().await;
}

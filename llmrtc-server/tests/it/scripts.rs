//! The conversations of `tests/scripts`, held by `llmrtc call` as anybody would.
//!
//! The caller has this machine's voice. It meets a recogniser that knows what there is to hear and a model that answers by
//! rules, so that what is tested is everything around them: when a turn ends, what interrupts it, what was expected.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    audio::Utterance,
    message::Message,
    provider::{
        CallContext, LlmChunk, LlmProvider, LlmRequest, LlmStream, ProviderError, StopReason,
        SttConfig, SttProvider, SttResult,
    },
};
use llmrtc_providers::echo::voice::LETTER;
use llmrtc_server::{client::voice::caller_voice, config::Config};
use regex::{Regex, RegexBuilder};

use crate::{
    harness::{Site, providers, voice},
    terminal::call,
};

/// What an utterance has around its words.
const AROUND: Duration = Duration::from_millis(450);

#[tokio::test]
async fn the_capital_of_france_is_asked_for_and_heard() {
    perform("capital-of-france", "", &["What is the capital of France?"]).await;
}

#[tokio::test]
async fn another_question_interrupts_a_story() {
    let lines = [
        "Please tell me a story.",
        "Stop, what is the capital of France?",
    ];
    perform("barge-in", "", &lines).await;
}

#[tokio::test]
async fn a_pause_inside_a_sentence_does_not_end_it() {
    // Patience stands in for the model that hears when a sentence is complete.
    let patient = "media.endpoint.silence = \"1500ms\"";
    let lines = [
        "I would like to know the capital of",
        "France, please.",
        "I would like to know the capital of, well, France, please.",
    ];
    perform("pause-in-a-sentence", patient, &lines).await;
}

#[tokio::test]
async fn a_backchannel_lets_a_story_go_on() {
    // Synthesised voices are slower than people.
    let needed = "media.vad.backchannel = \"600ms\"";
    let lines = ["Please tell me a story.", "Yeah."];
    perform("backchannel", needed, &lines).await;
}

#[test]
fn no_script_is_forgotten() {
    let mut scripts: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    scripts.sort();
    let expected = [
        "answers.toml",
        "backchannel.toml",
        "barge-in.toml",
        "capital-of-france.toml",
        "pause-in-a-sentence.toml",
    ];
    assert_eq!(scripts, expected, "each has a test here");
}

/// Performs a script with a server that is set up like this. `lines`: what there may be to hear.
async fn perform(name: &str, settings: &str, lines: &[&'static str]) {
    let Ok(config) = toml::from_str::<Config>(settings) else {
        return skip(name, &format!("this version has no {settings}"));
    };
    let mouth = async {
        let voice = caller_voice()?;
        anyhow::Ok(voice.init().await?)
    };
    if let Err(error) = mouth.await {
        return skip(name, &format!("no voice for the caller: {error:#}"));
    }
    let people = providers(Ears(lines.to_vec()), Rules::read(), voice());
    let site = Site::start(config, Some(people)).await;
    let (url, file) = (site.url(), folder().join(format!("{name}.toml")));
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        url.as_str(),
        "--script",
        file.to_str().unwrap(),
        "--json",
        "--events",
    ];
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[expect(clippy::print_stdout, reason = "whoever runs the tests should know")]
fn skip(name: &str, reason: &str) {
    println!("skipped {name}: {reason}");
}

fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts").into()
}

/// Hears the line that takes about as long as what was said.
struct Ears(Vec<&'static str>);

#[async_trait]
impl SttProvider for Ears {
    fn name(&self) -> &str {
        "ears"
    }

    async fn transcribe(
        &self,
        audio: Utterance,
        _: &SttConfig,
        _: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        let said = audio.duration().unwrap_or_default().saturating_sub(AROUND);
        let distance = |line: &&&str| said.abs_diff(LETTER * line.len() as u32);
        let text = self.0.iter().min_by_key(distance).copied();
        Ok(SttResult {
            text: text.unwrap_or_default().to_owned(),
            is_final: true,
            ..SttResult::default()
        })
    }
}

/// Answers by the rules of `answers.toml`.
struct Rules {
    rules: Vec<(Regex, String)>,
    default: String,
}

impl Rules {
    fn read() -> Self {
        let file = std::fs::read_to_string(folder().join("answers.toml")).unwrap();
        let table: toml::Table = file.parse().unwrap();
        let text = |table: &toml::Table, key| table[key].as_str().unwrap().to_owned();
        let rules = table["rule"].as_array().unwrap().iter().map(|rule| {
            let rule = rule.as_table().unwrap();
            let mut pattern = RegexBuilder::new(rule["pattern"].as_str().unwrap());
            let pattern = pattern.case_insensitive(true).build().unwrap();
            (pattern, text(rule, "reply"))
        });
        Self {
            rules: rules.collect(),
            default: text(&table, "default"),
        }
    }
}

#[async_trait]
impl LlmProvider for Rules {
    fn name(&self) -> &str {
        "rules"
    }

    async fn stream(
        &self,
        request: LlmRequest,
        _: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let asked = request
            .messages
            .iter()
            .rev()
            .find_map(|message| match message {
                Message::User { text, .. } => Some(&**text),
                _ => None,
            });
        let asked = asked.unwrap_or_default();
        let rule = self
            .rules
            .iter()
            .find(|(pattern, _)| pattern.is_match(asked));
        let reply = rule.map_or(&self.default, |(_, reply)| reply);
        let chunks = [
            LlmChunk::Text(reply.clone()),
            LlmChunk::End(StopReason::EndTurn),
        ];
        Ok(stream::iter(chunks.map(Ok)).boxed())
    }
}

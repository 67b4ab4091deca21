//! Conversations as anybody could have them, from the caller's mouth to the caller's ears: `llmrtc call` speaks with this
//! machine's voice, the server recognises it, answers, and speaks with another voice, all by models in the two processes.
//!
//! Without the models (`LLMRTC_MODEL_DIR`, which the test command sets) or a voice these tests say that they are skipped.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    provider::{CallContext, SttConfig, SttProvider},
};
use llmrtc_media::{codec::wav::WavReader, resample::Resampler};
use llmrtc_providers::local::{moonshine::Moonshine, pool::InferencePool, runtime::Runtime};
use llmrtc_server::{client::voice::caller_voice, config::Config};
use serde_json::Value;
use tempfile::TempDir;

use crate::{harness::Site, terminal::call};

/// What the server has instead of a language model, so that its answers are known.
const RULES: &str = "answers.toml";

#[tokio::test]
async fn the_capital_of_france_is_asked_for_and_heard() {
    perform("capital-of-france").await;
}

#[tokio::test]
async fn another_question_interrupts_a_story() {
    perform("barge-in").await;
}

#[tokio::test]
async fn a_pause_inside_a_sentence_does_not_end_it() {
    perform("pause-in-a-sentence").await;
}

#[tokio::test]
async fn a_backchannel_lets_a_story_go_on() {
    perform("backchannel").await;
}

/// Nothing is scripted here but the question: recognition, model and voices are those that a newcomer meets.
#[tokio::test]
async fn a_whole_conversation_needs_no_key_and_no_other_server() {
    let Some(models) = models() else { return };
    let site = Site::start(config(&models, "embedded"), None).await;
    let directory = TempDir::new().unwrap();
    let reply = directory.path().join("reply.wav");
    let arguments = [
        site.url().to_string(),
        "--say".to_owned(),
        "What is the capital of France?".to_owned(),
        "--reply".to_owned(),
        reply.to_str().unwrap().to_owned(),
        "--json".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, out, err) = call(directory.path(), &arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let summary: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let transcript = summary["transcript"].as_str().unwrap().to_lowercase();
    assert!(transcript.contains("capital of france"), "{summary}");
    let said = summary["reply"].as_str().unwrap();
    assert!(said.contains("Paris"), "{summary}");

    // The voice says what the model wrote, and whoever listens understands most of it.
    let heard = understood(&models, &reply).await;
    let (said, heard) = (words(said), words(&heard));
    let missed = said.iter().filter(|word| !heard.contains(word)).count();
    assert!(missed * 2 <= said.len(), "{said:?} was heard as {heard:?}");
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
        RULES,
        "backchannel.toml",
        "barge-in.toml",
        "capital-of-france.toml",
        "pause-in-a-sentence.toml",
    ];
    assert_eq!(scripts, expected, "each has a test here");
}

/// Performs a script with a server that has models in its process and answers by rules.
async fn perform(name: &str) {
    let Some(models) = models() else { return };
    let site = Site::start(config(&models, "scripted"), None).await;
    let (url, file) = (site.url(), folder().join(format!("{name}.toml")));
    let directory = TempDir::new().unwrap();
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

/// The folder of the models, if these tests can be run.
#[expect(clippy::print_stdout, reason = "what is skipped has to be seen")]
fn models() -> Option<PathBuf> {
    let skipped = |reason: &str| {
        println!("skipped: {reason}");
        None
    };
    let folder = std::env::var_os("LLMRTC_MODEL_DIR").map(PathBuf::from);
    let Some(folder) = folder.filter(|folder| folder.join("moonshine-tiny-en").exists()) else {
        return skipped("LLMRTC_MODEL_DIR has no models; `cargo xtask test` fetches them");
    };
    match caller_voice() {
        Ok(_) => Some(folder),
        Err(error) => skipped(&format!("{error:#}")),
    }
}

fn config(models: &Path, llm: &str) -> Config {
    let mut config = Config::default();
    config.media.endpoint.policy = llmrtc_media::config::PolicyKind::Semantic;
    for (variable, value) in [
        ("LLMRTC_MODEL_DIR", models.to_str().unwrap()),
        ("LLM_PROVIDER", llm),
        ("STT_PROVIDER", "embedded"),
        ("TTS_PROVIDER", "embedded"),
        ("SCRIPTED_RULES", folder().join(RULES).to_str().unwrap()),
    ] {
        config.providers.set(variable, value);
    }
    config
}

fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts").into()
}

/// What recognition makes of a recording.
async fn understood(models: &Path, recording: &Path) -> String {
    let wav = std::fs::read(recording).unwrap();
    let audio = WavReader::new(Bytes::from(wav)).unwrap().read_all();
    let mut resampler = Resampler::new(audio.rate(), SampleRate::HZ_16000);
    let mut samples = Vec::new();
    resampler.process(audio.samples(), &mut samples);
    let library = models.join("onnxruntime/libonnxruntime.so.1");
    let runtime = Runtime::load(&library).unwrap();
    let pool = InferencePool::new(None).unwrap();
    let stt = Moonshine::load(&runtime, &models.join("moonshine-tiny-en"), pool).unwrap();
    let utterance = Utterance::Pcm(PcmChunk::new(samples, SampleRate::HZ_16000));
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    stt.transcribe(utterance, &config, &cx).await.unwrap().text
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

//! The scripted parts pass the suites they are used to test others with.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::{
    Ledger, Script, ScriptedLlm, ScriptedSink, ScriptedStt, ScriptedTts, Speech,
    conformance::{ANSWER, Behaviour, ProviderFixture, SinkFixture},
};
use crate::{
    audio::{PcmChunk, SampleRate, Utterance},
    playout::AudioSink,
    provider::{
        CallContext, ErrorKind, LlmProvider, LlmRequest, SttConfig, SttProvider, TtsConfig,
        TtsProvider,
    },
};

struct Llm(ScriptedLlm);
struct Stt(ScriptedStt);
struct Tts(ScriptedTts);
struct OneShotTts(ScriptedTts);

async fn received(ledger: &Ledger) {
    ledger.until(|counts| counts.started > 0).await;
}

async fn cancelled(ledger: &Ledger) {
    ledger.until(|counts| counts.dropped > 0).await;
}

macro_rules! fixture {
    ($fixture:ident, $provider:path, |$behaviour:ident| $script:expr) => {
        #[async_trait]
        impl ProviderFixture<dyn $provider> for $fixture {
            async fn start($behaviour: Behaviour) -> Self {
                Self($script)
            }

            fn provider(&self) -> Arc<dyn $provider> {
                Arc::new(self.0.clone())
            }

            async fn received(&self) {
                received(self.0.ledger()).await;
            }

            async fn cancelled(&self) {
                cancelled(self.0.ledger()).await;
            }
        }
    };
}

fixture!(Llm, LlmProvider, |behaviour| ScriptedLlm::new().always(
    match behaviour {
        Behaviour::Answer => Script::answer(ANSWER),
        Behaviour::Silent => Script::silent(),
        Behaviour::Stall => Script::new().say("Hello").hang(),
        Behaviour::Break => Script::new().say("Hello").fail(ErrorKind::Disconnected),
        Behaviour::Refuse(kind) => Script::refuse(kind),
    }
));

fixture!(Stt, SttProvider, |behaviour| ScriptedStt::new()
    .live()
    .always(match behaviour {
        Behaviour::Answer => Script::new()
            .interim("Hello")
            .finally("Hello there.")
            .input_end()
            .finally("How are you?"),
        Behaviour::Silent => Script::silent(),
        Behaviour::Stall => Script::new().interim("Hello").hang(),
        Behaviour::Break => Script::new().interim("Hello").fail(ErrorKind::Disconnected),
        Behaviour::Refuse(kind) => Script::refuse(kind),
    }));

fn speech(behaviour: Behaviour) -> Speech {
    match behaviour {
        Behaviour::Answer => Speech::normal().odd_pieces(),
        Behaviour::Silent => Speech::silent(),
        Behaviour::Stall => Speech::normal().hangs_after(1),
        Behaviour::Break => Speech::normal().fails_after(1, ErrorKind::Disconnected),
        Behaviour::Refuse(kind) => Speech::refuse(kind),
    }
}

fixture!(Tts, TtsProvider, |behaviour| ScriptedTts::new()
    .always(speech(behaviour)));
fixture!(OneShotTts, TtsProvider, |behaviour| {
    ScriptedTts::new().one_shot().always(speech(behaviour))
});

crate::llm_provider_conformance!(scripted_llm: Llm, start_paused = true);
crate::stt_provider_conformance!(scripted_stt: Stt, start_paused = true);
crate::tts_provider_conformance!(scripted_tts: Tts, start_paused = true);
crate::tts_provider_conformance!(scripted_one_shot_tts: OneShotTts, start_paused = true);

struct Sink(Arc<ScriptedSink>);

#[async_trait]
impl SinkFixture for Sink {
    async fn start() -> Self {
        Self(Arc::new(ScriptedSink::new()))
    }

    fn sink(&self) -> Arc<dyn AudioSink> {
        self.0.clone()
    }
}

crate::audio_sink_conformance!(scripted_sink: Sink, start_paused = true);

#[test]
fn text_is_cut_before_words_and_loses_nothing() {
    for text in ["", "one", " two  words ", "line\nbreak, and more.\n"] {
        let script = Script::new().say(text);
        let pieces: Vec<_> = script
            .steps
            .iter()
            .map(|step| match step {
                super::script::Step::Item(crate::provider::LlmChunk::Text(text)) => text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }
    assert_eq!(Script::new().say("a b c").steps.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn scripts_are_used_in_order_and_everything_is_recorded() {
    let llm = ScriptedLlm::new()
        .then(Script::answer("one"))
        .then(Script::refuse(ErrorKind::Unavailable))
        .always(Script::answer("rest"));
    let cx = CallContext::detached();
    let mut texts = Vec::new();
    for _ in 0..4 {
        let result = llm.complete(LlmRequest::default(), &cx).await;
        texts.push(result.map(|result| result.text).unwrap_or_default());
    }
    assert_eq!(texts, ["one", "", "rest", "rest"]);
    assert_eq!(llm.requests().len(), 4);
    let counts = llm.ledger().counts();
    assert_eq!((counts.started, counts.failed, counts.active()), (4, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn live_transcription_waits_for_the_end_of_the_frames() {
    let stt = ScriptedStt::hearing("hello").live();
    let frame = PcmChunk::new(vec![0; 320], SampleRate::HZ_16000);
    let (speak, frames) = tokio::sync::mpsc::channel(8);
    let frames = stream::unfold(frames, |mut frames| async {
        frames.recv().await.map(|frame| (frame, frames))
    });
    let live = stt.streaming().expect("live");
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let results = live.transcribe_stream(frames.boxed(), &config, &cx).await;
    let mut results = results.expect("stream");
    for _ in 0..3 {
        speak.send(frame.clone()).await.expect("the stream is open");
    }
    let early = tokio::time::timeout(std::time::Duration::from_secs(1), results.next()).await;
    assert!(early.is_err(), "the caller is still speaking");
    drop(speak);
    let result = results.next().await.expect("a result").expect("no failure");
    assert_eq!((result.text.as_str(), result.is_final), ("hello", true));
    assert!(results.next().await.is_none());
    assert_eq!(stt.frames().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn transcription_and_synthesis_record_what_they_were_asked() {
    let stt = ScriptedStt::hearing("hello");
    let cx = CallContext::detached();
    let audio = Utterance::Pcm(PcmChunk::new(vec![7; 160], SampleRate::HZ_16000));
    let config = SttConfig {
        language: Some("de".into()),
        ..SttConfig::default()
    };
    stt.transcribe(audio.clone(), &config, &cx)
        .await
        .expect("transcript");
    assert_eq!(stt.utterances(), [audio]);
    assert_eq!(stt.configs(), [config]);

    let tts = ScriptedTts::new();
    let spoken = tts
        .speak("four", &TtsConfig::default(), &cx)
        .await
        .expect("audio");
    assert_eq!(spoken.audio.data, ScriptedTts::audio_of("four").to_wav());
    assert_eq!(tts.texts(), ["four"]);
    let duration = ScriptedTts::audio_of("four").duration();
    assert_eq!(duration, std::time::Duration::from_millis(200));
    assert_ne!(ScriptedTts::audio_of("four"), ScriptedTts::audio_of("five"));
}

//! Checks of [`TtsProvider`]. Those of the streaming capability pass without it.

use futures_util::StreamExt;

use super::{
    ANSWER, Behaviour, ProviderFixture, REFUSALS, check_dropping_cancels, check_refusal, soon,
};
use crate::{
    audio::AudioFormat,
    provider::{CallContext, TtsConfig, TtsProvider},
};

type Tts = dyn TtsProvider;

/// One-shot synthesis gives audio that says what it is.
pub async fn a_text_becomes_audio<F: ProviderFixture<Tts>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    assert!(!provider.name().is_empty());
    soon("init", provider.init()).await.expect("init");
    soon("second init", provider.init())
        .await
        .expect("idempotent");
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    let result = soon("the audio", provider.speak(ANSWER, &config, &cx)).await;
    let audio = result.expect("speak").audio;
    assert!(!audio.data.is_empty());
    match audio.format {
        AudioFormat::Pcm => {
            assert!(audio.rate.is_some(), "headerless audio needs its rate");
            assert!(audio.data.len().is_multiple_of(2), "half a sample");
        }
        format => assert_eq!(AudioFormat::sniff(&audio.data), Some(format)),
    }
}

/// Streamed synthesis gives whole samples in the end.
pub async fn a_text_becomes_streamed_audio<F: ProviderFixture<Tts>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    let Some(streaming) = provider.streaming() else {
        return;
    };
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    let pieces = streaming.speak_stream(ANSWER, &config, &cx);
    let pieces = soon("the stream", pieces).await.expect("stream");
    let pieces: Vec<_> = soon("the end", pieces.collect()).await;
    let bytes: usize = pieces
        .into_iter()
        .map(|piece| piece.expect("no failure").len())
        .sum();
    assert!(bytes > 0 && bytes.is_multiple_of(2), "{bytes} bytes");
}

/// A request whose future is dropped ends at the backend.
pub async fn dropping_the_request_cancels_it<F: ProviderFixture<Tts>>() {
    let fixture = F::start(Behaviour::Silent).await;
    let provider = fixture.provider();
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    check_dropping_cancels(&fixture, provider.speak(ANSWER, &config, &cx)).await;
}

/// A stream that is dropped ends at the backend.
pub async fn dropping_the_stream_cancels_it<F: ProviderFixture<Tts>>() {
    let fixture = F::start(Behaviour::Stall).await;
    let provider = fixture.provider();
    let Some(streaming) = provider.streaming() else {
        return;
    };
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    let pieces = streaming.speak_stream(ANSWER, &config, &cx);
    let mut pieces = soon("the stream", pieces).await.expect("stream");
    let first = soon("the first piece", pieces.next()).await;
    first.expect("a piece").expect("no failure");
    drop(pieces);
    soon("the cancellation", fixture.cancelled()).await;
}

/// Refusals have the right kind, one-shot and streaming.
pub async fn refusals_are_classified<F: ProviderFixture<Tts>>() {
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    for kind in REFUSALS {
        let fixture = F::start(Behaviour::Refuse(kind)).await;
        let provider = fixture.provider();
        let call = provider.speak(ANSWER, &config, &cx);
        check_refusal(kind, soon("the refusal", call).await);
        if let Some(streaming) = provider.streaming() {
            let call = async {
                match streaming.speak_stream(ANSWER, &config, &cx).await {
                    Ok(mut pieces) => pieces.next().await.transpose(),
                    Err(error) => Err(error),
                }
            };
            check_refusal(kind, soon("the refusal", call).await);
        }
    }
}

/// Audio that breaks off ends with a failure.
pub async fn a_broken_stream_is_an_error<F: ProviderFixture<Tts>>() {
    let fixture = F::start(Behaviour::Break).await;
    let provider = fixture.provider();
    let Some(streaming) = provider.streaming() else {
        return;
    };
    let (config, cx) = (TtsConfig::default(), CallContext::detached());
    let pieces = streaming.speak_stream(ANSWER, &config, &cx);
    let pieces = soon("the stream", pieces).await.expect("stream");
    let pieces: Vec<_> = soon("the end", pieces.collect()).await;
    assert!(
        pieces.iter().any(Result::is_err),
        "a broken stream went unnoticed"
    );
}

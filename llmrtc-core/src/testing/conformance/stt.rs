//! Checks of [`SttProvider`]. Those of the live capability pass without it.

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{
    ANSWER, Behaviour, ProviderFixture, REFUSALS, check_dropping_cancels, check_refusal, soon,
};
use crate::{
    audio::{PcmChunk, SampleRate, Utterance},
    provider::{CallContext, SttConfig, SttProvider},
};

type Stt = dyn SttProvider;

/// Half a second of audio in frames of 20 ms.
fn frames(rate: SampleRate) -> Vec<PcmChunk> {
    let samples = rate.hz() as usize / 50;
    vec![PcmChunk::new(vec![1_000; samples], rate); 25]
}

fn spoken(rate: SampleRate) -> BoxStream<'static, PcmChunk> {
    stream::iter(frames(rate)).boxed()
}

/// Speech that does not come to an end.
fn unending(rate: SampleRate) -> BoxStream<'static, PcmChunk> {
    spoken(rate).chain(stream::pending()).boxed()
}

fn utterance() -> Utterance {
    let rate = SampleRate::HZ_16000;
    Utterance::Pcm(PcmChunk::new(vec![1_000; 8_000], rate))
}

/// Buffered transcription gives one final result.
pub async fn an_utterance_becomes_one_final_transcript<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    assert!(!provider.name().is_empty());
    soon("init", provider.init()).await.expect("init");
    soon("second init", provider.init())
        .await
        .expect("idempotent");
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let result = soon(
        "the transcript",
        provider.transcribe(utterance(), &config, &cx),
    )
    .await;
    let result = result.expect("transcribe");
    assert_eq!(result.text, ANSWER);
    assert!(result.is_final);
}

/// A request whose future is dropped ends at the backend.
pub async fn dropping_the_request_cancels_it<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Silent).await;
    let provider = fixture.provider();
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let call = provider.transcribe(utterance(), &config, &cx);
    check_dropping_cancels(&fixture, call).await;
}

/// Refusals have the right kind.
pub async fn refusals_are_classified<F: ProviderFixture<Stt>>() {
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    for kind in REFUSALS {
        let fixture = F::start(Behaviour::Refuse(kind)).await;
        let provider = fixture.provider();
        let call = provider.transcribe(utterance(), &config, &cx);
        check_refusal(kind, soon("the refusal", call).await);
    }
}

/// Live transcription gives finals that make up the transcript, and then ends.
pub async fn live_frames_become_final_transcripts<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    let Some(live) = provider.streaming() else {
        return;
    };
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let results = live.transcribe_stream(spoken(live.input_rate()), &config, &cx);
    let results = soon("the stream", results).await.expect("stream");
    let results: Vec<_> = soon("the end", results.collect()).await;
    let finals: Vec<String> = results
        .into_iter()
        .map(|result| result.expect("no failure"))
        .filter(|result| result.is_final)
        .map(|result| result.text.trim().to_owned())
        .collect();
    assert_eq!(finals.join(" "), ANSWER);
}

/// No frames: a clean end without a result.
pub async fn no_frames_are_no_transcript<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    let Some(live) = provider.streaming() else {
        return;
    };
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let results = live.transcribe_stream(stream::empty().boxed(), &config, &cx);
    let results = soon("the stream", results).await.expect("stream");
    let results: Vec<_> = soon("the end", results.collect()).await;
    assert!(results.is_empty(), "{} results", results.len());
}

/// A connection that closes before the final result is an error, never an empty transcript.
pub async fn a_broken_live_connection_is_an_error<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Break).await;
    let provider = fixture.provider();
    let Some(live) = provider.streaming() else {
        return;
    };
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let results = live.transcribe_stream(spoken(live.input_rate()), &config, &cx);
    let failed = match soon("the stream", results).await {
        Err(_) => true,
        Ok(results) => {
            let results: Vec<_> = soon("the end", results.collect()).await;
            results.iter().any(Result::is_err)
        }
    };
    assert!(failed, "a broken connection went unnoticed");
}

/// A live stream that is dropped ends at the backend.
pub async fn dropping_the_live_stream_cancels_it<F: ProviderFixture<Stt>>() {
    let fixture = F::start(Behaviour::Silent).await;
    let provider = fixture.provider();
    let Some(live) = provider.streaming() else {
        return;
    };
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let call = async {
        match live
            .transcribe_stream(unending(live.input_rate()), &config, &cx)
            .await
        {
            Ok(mut results) => drop(results.next().await),
            Err(error) => panic!("{error}"),
        }
    };
    check_dropping_cancels(&fixture, call).await;
}

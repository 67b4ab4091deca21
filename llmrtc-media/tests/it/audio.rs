use std::sync::Arc;

use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    id::TurnId,
    playout::{AudioSink, OutputControl},
    speech::{EndReason, SpeechEvent},
};
use llmrtc_media::{
    peer::{PeerEvent, PeerEvents},
    pipeline::ReceivedFrame,
};
use tokio::{sync::mpsc, time::timeout};

use crate::call::{Call, DEADLINE, factory, loopback, next, sendable};

/// 3.65 s of speech, 16 kHz.
fn speech() -> PcmChunk {
    let wav = include_bytes!("../fixtures/speech.wav");
    PcmChunk::from_le_bytes(&wav[44..], SampleRate::HZ_16000)
}

/// Writes speech into a sink, once, and keeps the output open.
async fn play(sink: &Arc<dyn AudioSink>, turn: u64) -> Arc<dyn OutputControl> {
    let (notify, _news) = mpsc::channel(8);
    let mut output = sink.open(TurnId(turn), notify);
    output
        .writer
        .write(0, speech())
        .await
        .expect("the output is open");
    output
        .writer
        .end_segment(0)
        .await
        .expect("the output is open");
    output.control.finish();
    output.control
}

async fn heard<T>(
    events: &mut PeerEvents,
    what: &str,
    mut pick: impl FnMut(SpeechEvent) -> Option<T>,
) -> T {
    next(events, what, |event| match event {
        PeerEvent::Speech(speech) => pick(speech),
        _ => None,
    })
    .await
}

async fn ended(events: &mut PeerEvents) -> (Utterance, EndReason) {
    heard(events, "the end of an utterance", |event| match event {
        SpeechEvent::Ended {
            utterance, reason, ..
        } => Some((utterance, reason)),
        _ => None,
    })
    .await
}

/// Waits for half a second of audible frames.
async fn audible(frames: &mut mpsc::Receiver<ReceivedFrame>) {
    let loud = async {
        let mut loud = 0;
        while loud < 25 {
            let frame = frames.recv().await.expect("frames go on");
            assert_eq!(frame.pcm.rate(), SampleRate::HZ_48000);
            let peak = frame.pcm.samples().iter().map(|s| s.unsigned_abs()).max();
            loud += u32::from(peak.unwrap_or_default() > 1_000);
        }
    };
    timeout(DEADLINE, loud).await.expect("speech arrives");
}

async fn call_with_microphone() -> (llmrtc_media::peer::PeerFactory, Call) {
    let factory = factory(loopback());
    let mut call = Call::connect(&factory).await;
    call.share_microphone().await;
    sendable(&mut call.caller_events, true).await;
    sendable(&mut call.peer_events, true).await;
    (factory, call)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speech_becomes_speech_events() {
    let (_factory, mut call) = call_with_microphone().await;
    let _playing = play(&call.caller.microphone(), 1).await;
    heard(&mut call.peer_events, "an onset", |event| {
        matches!(event, SpeechEvent::Onset { .. }).then_some(())
    })
    .await;
    heard(&mut call.peer_events, "its confirmation", |event| {
        matches!(event, SpeechEvent::Confirmed).then_some(())
    })
    .await;
    let (utterance, reason) = ended(&mut call.peer_events).await;
    assert_eq!(reason, EndReason::Endpoint);
    let Utterance::Pcm(pcm) = utterance else {
        panic!("microphone audio is PCM");
    };
    assert_eq!(pcm.rate(), SampleRate::HZ_16000);
    assert!(pcm.duration().as_millis() > 1_000, "{:?}", pcm.duration());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_the_sink_is_heard() {
    let (_factory, mut call) = call_with_microphone().await;
    let _playing = play(&call.peer.sink(), 1).await;
    audible(&mut call.frames).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_section_takes_over_the_microphone_and_speech_goes_on() {
    let (_factory, mut call) = call_with_microphone().await;
    call.share_microphone().await;
    call.share_microphone().await;
    let _speaking = play(&call.caller.microphone(), 1).await;
    let _answering = play(&call.peer.sink(), 1).await;
    let (_, reason) = ended(&mut call.peer_events).await;
    assert_eq!(reason, EndReason::Endpoint);
    audible(&mut call.frames).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_microphone_taken_away_ends_the_utterance_at_once() {
    let (_factory, mut call) = call_with_microphone().await;
    let _speaking = play(&call.caller.microphone(), 1).await;
    heard(&mut call.peer_events, "confirmed speech", |event| {
        matches!(event, SpeechEvent::Confirmed).then_some(())
    })
    .await;
    let offer = call.caller.remove_microphone().await.unwrap();
    call.exchange(&offer).await;
    let (_, reason) = ended(&mut call.peer_events).await;
    assert_eq!(reason, EndReason::SourceRemoved);

    // And a microphone shared after that is heard again.
    call.share_microphone().await;
    let _speaking = play(&call.caller.microphone(), 2).await;
    let (_, reason) = ended(&mut call.peer_events).await;
    assert_eq!(reason, EndReason::Endpoint);
}

use std::num::NonZeroUsize;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::*;
use crate::local::{
    runtime::tests::{model_dir, runtime},
    testing::speech,
};

fn real() -> Option<SmartTurn> {
    let models = model_dir()?;
    let path = models.join("smart-turn/smart-turn-v3.2-cpu.onnx");
    let pool = InferencePool::new(NonZeroUsize::new(1)).unwrap();
    Some(SmartTurn::load(&runtime(&models), &path, pool).unwrap())
}

/// The first `seconds` of the recording and 200 ms of silence.
fn until(seconds: f32) -> Vec<i16> {
    let mut audio = speech();
    audio.truncate((seconds * 16_000.0) as usize);
    audio.resize(audio.len() + 3_200, 0);
    audio
}

/// Expected values: the same model behind Pipecat's front end.
#[tokio::test]
async fn whole_and_broken_sentences_are_told_apart() {
    let Some(turn) = real() else { return };
    for (seconds, expected) in [
        (0.5, 0.019),
        (1.2, 0.040),
        (2.2, 0.009),
        (2.4, 0.008),
        (2.6, 0.008),
        (2.8, 0.029),
        (3.4, 0.949),
        (3.65, 0.977),
    ] {
        let probability = turn.probability(until(seconds)).await.unwrap();
        // The integer arithmetic of the model differs a little between processors and versions of the library.
        assert!(
            (probability - expected).abs() < 0.05,
            "{seconds} s: {probability} instead of {expected}"
        );
    }
}

#[tokio::test]
async fn any_audio_has_a_probability() {
    let Some(turn) = real() else { return };
    let clipped = speech().iter().map(|s| s.saturating_mul(30)).collect();
    let shifted = speech().iter().map(|s| s.saturating_add(9_000)).collect();
    for audio in [
        vec![],
        vec![0; 50_000],
        vec![i16::MIN; 200_000],
        clipped,
        shifted,
    ] {
        let probability = turn.probability(audio).await.unwrap();
        assert!((0.0..=1.0).contains(&probability), "{probability}");
    }
}

#[tokio::test]
async fn callers_share_a_thread_and_media_threads_need_not_wait() {
    let Some(turn) = real() else { return };
    let done = turn.probability(until(3.65));
    let broken = turn.probability(until(2.4));
    let answers = join_all([done, broken]).await;
    let (sender, receiver) = oneshot::channel();
    turn.submit(move |turn| {
        let _ = sender.send(turn.evaluate(&until(2.4)));
    })
    .unwrap();
    let submitted = receiver.await.unwrap().unwrap();
    assert!(*answers[0].as_ref().unwrap() > 0.5);
    assert_eq!(*answers[1].as_ref().unwrap(), submitted);
}

#[test]
fn another_model_is_refused() {
    let Some(models) = model_dir() else { return };
    let pool = InferencePool::new(NonZeroUsize::new(1)).unwrap();
    let path = models.join("silero/silero_vad_op18_ifless.onnx");
    let error = SmartTurn::load(&runtime(&models), &path, pool).unwrap_err();
    assert!(matches!(error, RuntimeError::Model { .. }), "{error:?}");
}

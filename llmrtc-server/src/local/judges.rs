//! Models as the media threads want them.

use std::sync::Arc;

use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    provider::{CallContext, SttConfig, SttProvider},
    tasks::Tasks,
};
use llmrtc_media::{
    ears::wants_floor,
    endpoint::{Judgement, TurnJudge},
    pipeline::DetectorFactory,
    vad::VoiceDetector,
};
use llmrtc_providers::local::{
    moonshine::Moonshine,
    silero::{FRAME_SAMPLES, Silero, SileroDetector},
    turn::SmartTurn,
};

/// Whether the caller is done, by what the end of the turn sounds like.
pub(super) struct Turn(pub(super) SmartTurn);

impl TurnJudge for Turn {
    fn judge(&self, audio: Arc<[i16]>, judgement: Judgement) {
        // When too much waits the job is dropped, and the judgement with it, which says that there will be none.
        let _ = self.0.submit(move |model| {
            if !judgement.is_void()
                && let Ok(probability) = model.evaluate(&audio)
            {
                judgement.deliver(probability);
            }
        });
    }
}

/// Whether a short word over the assistant's speech wants the floor, by what the word is.
pub(super) struct Floor {
    stt: Moonshine,
    runtime: tokio::runtime::Handle,
    tasks: Tasks,
}

impl Floor {
    /// Recognises on the runtime that this is called on.
    pub(super) fn new(stt: Moonshine) -> Self {
        Self {
            stt,
            runtime: tokio::runtime::Handle::current(),
            tasks: Tasks::root("floor"),
        }
    }
}

impl TurnJudge for Floor {
    fn judge(&self, audio: Arc<[i16]>, judgement: Judgement) {
        let stt = self.stt.clone();
        let _entered = self.runtime.enter();
        self.tasks
            .spawn("floor", |_| async move {
                let utterance = Utterance::Pcm(PcmChunk::new(audio, SampleRate::HZ_16000));
                let (config, cx) = (SttConfig::default(), CallContext::detached());
                if judgement.is_void() {
                    return;
                }
                if let Ok(heard) = stt.transcribe(utterance, &config, &cx).await {
                    judgement.deliver(f32::from(u8::from(wants_floor(&heard.text))));
                }
            })
            .detach();
    }
}

/// Silero for the media threads: a detector for each call.
pub fn detectors(model: Silero) -> DetectorFactory {
    Arc::new(move || Box::new(Detector(model.detector())))
}

struct Detector(SileroDetector);

impl VoiceDetector for Detector {
    fn frame_samples(&self) -> usize {
        FRAME_SAMPLES
    }

    fn score(&mut self, frame: &[i16]) -> f32 {
        let frame: Option<&[i16; FRAME_SAMPLES]> = frame.try_into().ok();
        let score = frame.and_then(|frame| self.0.score(frame).ok());
        // A frame that cannot be scored is no voice; the next one may be.
        score.unwrap_or(0.0)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

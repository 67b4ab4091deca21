//! The models, where they are installed.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use llmrtc_core::{
    audio::{PcmChunk, Utterance},
    provider::{CallContext, SttConfig, SttProvider},
};
use llmrtc_media::ears::wants_floor;
use llmrtc_providers::local::{
    moonshine::Moonshine, pool::InferencePool, runtime::Runtime, silero::Silero, turn::SmartTurn,
};
use llmrtc_server::local::judges::detectors;

use crate::{
    listener::{Minds, Writer, remembering},
    voice::RATE,
};

/// What is below `models`, laid out as `<package>/<file>`. Each model may be missing; without the folder all are.
pub(crate) fn load(models: Option<&Path>) -> anyhow::Result<Minds> {
    let Some(folder) = models else {
        return Ok(Minds::default());
    };
    let runtime = Runtime::load(&folder.join("onnxruntime/libonnxruntime.so.1"))?;
    let pool = InferencePool::new(None)?;
    let there = |path: &str| Some(folder.join(path)).filter(|path| path.exists());
    let mut minds = Minds::default();
    if let Some(path) = there("smart-turn/smart-turn-v3.2-cpu.onnx") {
        let model = SmartTurn::load(&runtime, &path, pool.clone())?;
        minds.turn = Some(remembering(Arc::new(move |audio: &[i16]| {
            model.evaluate(audio).ok()
        })));
    }
    if let Some(path) = there("moonshine-tiny-en") {
        let writer = remembering(writer(Moonshine::load(&runtime, &path, pool)?)?);
        minds.text = Some(Arc::clone(&writer));
        minds.floor = Some(Arc::new(move |audio: &[i16]| {
            writer(audio).map(|text| f32::from(u8::from(wants_floor(&text))))
        }));
    }
    if let Some(path) = there("silero/silero_vad_op18_ifless.onnx") {
        let silero = Silero::load(&runtime, &path)?;
        minds.silero = Some(detectors(silero));
    }
    Ok(minds)
}

fn writer(stt: Moonshine) -> anyhow::Result<Writer> {
    let waiter = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .context("starting a runtime")?;
    Ok(Arc::new(move |audio: &[i16]| {
        let utterance = Utterance::Pcm(PcmChunk::new(audio, RATE));
        let (config, cx) = (SttConfig::default(), CallContext::detached());
        let result = waiter.block_on(stt.transcribe(utterance, &config, &cx));
        result.ok().map(|result| result.text)
    }))
}

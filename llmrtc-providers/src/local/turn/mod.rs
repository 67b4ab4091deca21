//! The end-of-turn model, smart-turn.
//!
//! Silence tells that a caller has paused, not that they are done: people stop in the middle of a sentence to think. This
//! model hears from melody and pace which of the two it is. It is asked when a pause has begun, and a turn that sounds
//! complete can be answered at once.

use std::{fmt, path::Path, sync::Arc};

use ort::{
    session::Session,
    value::{TensorRef, ValueType},
};

use self::features::{BANDS, FRAMES, LogMel};
use super::{
    pool::{InferencePool, Priority},
    runtime::{Model, Runtime, RuntimeError, has_ports},
};

mod features;
#[cfg(test)]
mod tests;

const INPUT: &str = "input_features";
/// The name lies: the graph ends in a sigmoid.
const OUTPUT: &str = "logits";

/// Tells from speech whether the speaker has finished. Clones share the model.
///
/// For smart-turn v3.2, which hears 23 languages. The model decides with 0.5 as threshold; it is not calibrated, so that
/// a probability of 0.7 says no more than "rather complete".
///
/// Whoever can wait uses [`probability`](Self::probability). A media thread cannot; it uses [`submit`](Self::submit).
///
/// # Source
/// Pipecat, *Smart Turn v3*, <https://github.com/pipecat-ai/smart-turn>. Its front end is that of A. Radford et al.,
/// *Robust Speech Recognition via Large-Scale Weak Supervision*, 2022, <https://arxiv.org/abs/2212.04356>.
#[derive(Clone)]
pub struct SmartTurn(Arc<Inner>);

struct Inner {
    model: Model,
    front: LogMel,
    pool: InferencePool,
}

impl SmartTurn {
    /// Loads the model file. Blocks for about a tenth of a second.
    ///
    /// # Errors
    /// [`RuntimeError`] when the file is missing, damaged or another model.
    pub fn load(runtime: &Runtime, path: &Path, pool: InferencePool) -> Result<Self, RuntimeError> {
        let model = Model::load(runtime, path, is_ours)?;
        let front = LogMel::new();
        Ok(Self(Arc::new(Inner { model, front, pool })))
    }

    /// The probability, 0–1, that the turn is complete at the end of `audio`.
    ///
    /// `audio`: mono, 16 kHz, any length, ending with the first 200 ms or so of the pause. The last 8 s are heard. Ask
    /// only about speech: what the model says of silence means nothing.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws a question that has not been begun.
    ///
    /// # Errors
    /// [`RuntimeError::Pool`] when too much waits; [`RuntimeError::Run`] when the model fails.
    pub async fn probability(&self, audio: impl Into<Arc<[i16]>>) -> Result<f32, RuntimeError> {
        let (this, audio) = (self.clone(), audio.into());
        let job = move || this.evaluate(&audio);
        self.0.pool.run(Priority::Turn, job).await?
    }

    /// Returns at once, and runs `job` before everything else on an inference thread, where it may
    /// [`evaluate`](Self::evaluate). It should look first whether the answer is still wanted: of the questions of a
    /// busy machine, all but the newest of each caller are about the past.
    ///
    /// # Errors
    /// [`RuntimeError::Pool`] when too much waits; `job` is dropped then.
    pub fn submit(&self, job: impl FnOnce(&Self) + Send + 'static) -> Result<(), RuntimeError> {
        let this = self.clone();
        let job = move || job(&this);
        Ok(self.0.pool.submit(Priority::Turn, Box::new(job))?)
    }

    /// As [`probability`](Self::probability), on this thread, which it blocks for tens of milliseconds.
    ///
    /// # Errors
    /// [`RuntimeError::Run`] when the model fails.
    pub fn evaluate(&self, audio: &[i16]) -> Result<f32, RuntimeError> {
        let Inner { model, front, .. } = &*self.0;
        let features = front.of(audio);
        model.with(|session| {
            let input = TensorRef::from_array_view(([1, BANDS, FRAMES], &features[..]))?;
            let outputs = session.run(ort::inputs! { INPUT => input })?;
            let output = outputs
                .get(OUTPUT)
                .ok_or_else(|| ort::Error::new("no logits"))?;
            let probability = output.try_extract_tensor::<f32>()?.1.first().copied();
            probability
                .filter(|probability| probability.is_finite())
                .ok_or_else(|| ort::Error::new("the probability is no number"))
        })
    }
}

impl fmt::Debug for SmartTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { model, pool, .. } = &*self.0;
        f.debug_struct("SmartTurn")
            .field("model", model)
            .field("pool", pool)
            .finish_non_exhaustive()
    }
}

/// Whether it is a model of this family with the features we compute.
fn is_ours(session: &Session) -> Result<(), &'static str> {
    has_ports(session, &[INPUT], &[OUTPUT])?;
    let fits = session.inputs().iter().any(|input| match input.dtype() {
        ValueType::Tensor { shape, .. } => shape.ends_with(&[BANDS as i64, FRAMES as i64]),
        _ => false,
    });
    fits.then_some(()).ok_or("it wants other features")
}

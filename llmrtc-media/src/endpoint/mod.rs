//! When is the caller done? A policy, because no single rule suits dictation, banter and phone numbers.

mod judge;
mod semantic;
mod silence;

use std::{sync::Arc, time::Duration};

pub use self::{
    judge::{Judgement, LONGEST_JUDGED, Pending, TurnJudge},
    semantic::SemanticPolicy,
    silence::SilencePolicy,
};
use crate::{
    config::{EndpointConfig, PolicyKind},
    pipeline::PolicyFactory,
};

/// A moment of silence within an utterance.
#[derive(Clone, Copy)]
pub struct Pause<'a> {
    /// The utterance so far: mono, 16 kHz, with padding, up to now.
    pub audio: &'a [i16],
    /// Silence since the last voiced frame.
    pub silence: Duration,
    /// What live transcription has made of it so far, where there is any.
    pub transcript: Option<&'a str>,
}

impl std::fmt::Debug for Pause<'_> {
    /// Sizes only: the rest is what somebody said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pause({} samples, silent for {:?})",
            self.audio.len(),
            self.silence
        )
    }
}

/// What a policy says to a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The caller is done.
    End,
    /// The caller is not done. Holds for at most [`LONGEST_HOLD`].
    Hold,
    /// No opinion (yet): the [`SilencePolicy`] decides.
    Default,
}

/// No policy keeps an utterance open in silence for longer.
pub const LONGEST_HOLD: Duration = Duration::from_secs(3);

/// Decides when an utterance ends. One per call, used on its media thread, so it must not block.
///
/// It is asked again for every silent frame, every 16 ms. A policy whose judgement takes time (a model, a service) starts
/// it when the pause has lasted as long as it wants, says [`Verdict::Default`] or [`Verdict::Hold`] meanwhile, and
/// returns the judgement once it is there: a late judgement costs no more than one frame.
pub trait EndpointPolicy: Send {
    /// Judges the pause as it is now.
    fn assess(&mut self, pause: &Pause<'_>) -> Verdict;

    /// The pause is over: the caller goes on, or the utterance has ended. Pending judgements are void.
    fn resumed(&mut self) {}
}

/// Makes the configured policy of each call. Without a judge it is the [`SilencePolicy`], whatever is configured: a call that
/// waits half a second is better than no call.
pub fn policy_factory(config: &EndpointConfig, judge: Option<Arc<dyn TurnJudge>>) -> PolicyFactory {
    let config = config.clone();
    match judge.filter(|_| config.policy != PolicyKind::Silence) {
        Some(judge) => Arc::new(move || {
            let judge = Arc::clone(&judge);
            Box::new(SemanticPolicy::new(&config.semantic, judge))
        }),
        None => Arc::new(move || Box::new(SilencePolicy::new(&config))),
    }
}

//! How loud sounds are beside the voice and the room, where a detector's score does not tell.

use std::time::Duration;

use crate::{config::VadConfig, vad::gate::GateState};

/// Root mean square amplitude.
pub(super) fn rms(frame: &[i16]) -> f32 {
    let power: f32 = frame.iter().map(|sample| f32::from(*sample).powi(2)).sum();
    (power / frame.len().max(1) as f32).sqrt()
}

/// What an average over `time` keeps of its value in a frame.
fn kept(frame: Duration, time: Duration) -> f32 {
    (-frame.as_secs_f32() / time.as_secs_f32()).exp()
}

/// Follows how loud the voice is: up at once, down by half in about 0.7 s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loudness {
    rms: f32,
    decay: f32,
}

impl Loudness {
    const DECAY: Duration = Duration::from_millis(1_060);
    /// 18 dB below the voice is the room, unless the detector is sure.
    const QUIET: f32 = 1.0 / 8.0;
    /// Detectors with memory rate the first silence after a voice as voice, though not as sure as this.
    pub(super) const SURE: f32 = 0.8;

    pub(super) fn new(frame: Duration) -> Self {
        Self {
            rms: 0.0,
            decay: kept(frame, Self::DECAY),
        }
    }

    /// Whether a frame is too quiet to be part of the voice before it.
    pub(super) fn is_quiet(&mut self, rms: f32) -> bool {
        self.rms = rms.max(self.rms * self.decay);
        rms < self.rms * Self::QUIET
    }
}

/// Follows the power of the caller's voice and of the room, to tell the caller from others who speak in the background.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    /// Least ratio of power to the room's.
    above_room: f32,
    /// Least ratio of power to the voice's.
    of_voice: f32,
    /// Mean power of the caller's speech; `None` before the first.
    voice: Option<f32>,
    /// Mean power of what is not the caller's speech.
    room: f32,
    keep_voice: f32,
    keep_room: f32,
}

impl Levels {
    /// Callers move and turn, so what counts is how they spoke during the last seconds of speech.
    const VOICE: Duration = Duration::from_secs(2);
    /// Long enough to bridge the pauses of people speaking in the background.
    const ROOM: Duration = Duration::from_millis(700);

    pub(super) fn new(config: &VadConfig, frame: Duration) -> Self {
        Self {
            above_room: 10f32.powf(config.interrupt_above_room_db / 10.0),
            of_voice: 10f32.powf(-config.interrupt_below_voice_db / 10.0),
            voice: None,
            room: 0.0,
            keep_voice: kept(frame, Self::VOICE),
            keep_room: kept(frame, Self::ROOM),
        }
    }

    /// Whether a sound is loud enough to be the caller interrupting.
    pub(super) fn is_near(&self, rms: f32) -> bool {
        let power = rms * rms;
        let over_voice = self
            .voice
            .is_none_or(|voice| power >= voice * self.of_voice);
        over_voice && power >= self.room * self.above_room
    }

    /// Learns from a frame that was heard in `state`.
    pub(super) fn follow(&mut self, rms: f32, score: f32, state: GateState) {
        let power = rms * rms;
        let mix = |old: f32, keep: f32| keep * old + (1.0 - keep) * power;
        match state {
            GateState::Quiet => self.room = mix(self.room, self.keep_room),
            // Unvoiced sounds and gaps say nothing about how loud somebody speaks.
            GateState::Speaking if score >= Loudness::SURE => {
                self.voice = Some(self.voice.map_or(power, |old| mix(old, self.keep_voice)));
            }
            _ => {}
        }
    }
}

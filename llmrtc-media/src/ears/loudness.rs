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
    /// Least ratio of power to the room's that interrupts.
    above_room: f32,
    /// Least ratio of power to the voice's that interrupts.
    of_voice: f32,
    /// Most ratio of power to the background's that is background.
    of_background: f32,
    /// Most ratio of power to the voice's that can be background.
    below_voice: f32,
    /// Mean power of the caller's speech; `None` before the first.
    voice: Option<f32>,
    /// Mean power of what is not the caller's speech.
    room: f32,
    /// The most power of the last moments: syllables are short.
    recent: f32,
    /// What is there between the words too: follows the mean of some frames down at once and up slowly.
    background: Option<f32>,
    mean: f32,
    keep_voice: f32,
    keep_louder: f32,
    keep_room: f32,
    keep_recent: f32,
    keep_mean: f32,
    rise: f32,
}

impl Levels {
    /// Callers move and turn, so what counts is how they spoke during the last seconds of speech.
    const VOICE: Duration = Duration::from_secs(2);
    /// When the one who was followed turns out to be the background, the caller is louder.
    const LOUDER: Duration = Duration::from_millis(400);
    /// Long enough to bridge the pauses of people speaking in the background.
    const ROOM: Duration = Duration::from_millis(700);
    /// Falls by 10 dB in 100 ms: between two syllables, not between two words.
    const RECENT: Duration = Duration::from_millis(43);
    /// Smooths what is compared with the background, no more than that the gap before a plosive is seen.
    const MEAN: Duration = Duration::from_millis(13);
    /// The background may have become louder while it was not heard: 3 dB a second.
    const RISE: Duration = Duration::from_millis(1_450);

    pub(super) fn new(config: &VadConfig, frame: Duration) -> Self {
        let ratio = |db: f32| 10f32.powf(db / 10.0);
        Self {
            above_room: ratio(config.interrupt_above_room_db),
            of_voice: ratio(-config.interrupt_below_voice_db),
            of_background: ratio(config.silence_above_room_db),
            below_voice: ratio(-config.silence_below_voice_db),
            voice: None,
            room: 0.0,
            recent: 0.0,
            background: None,
            mean: 0.0,
            keep_voice: kept(frame, Self::VOICE),
            keep_louder: kept(frame, Self::LOUDER),
            keep_room: kept(frame, Self::ROOM),
            keep_recent: kept(frame, Self::RECENT),
            keep_mean: kept(frame, Self::MEAN),
            rise: kept(frame, Self::RISE).recip(),
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

    /// Whether only the background is left of what was speech, whatever a detector makes of it: other people's voices are
    /// voices too.
    pub(super) fn is_background(&self) -> bool {
        let (Some(voice), Some(background)) = (self.voice, self.background) else {
            return false;
        };
        self.recent < background * self.of_background && self.recent < voice * self.below_voice
    }

    /// Learns from a frame that was heard in `state`. Call before [`is_background`](Self::is_background).
    pub(super) fn follow(&mut self, rms: f32, score: f32, state: GateState) {
        let power = rms * rms;
        let mix = |old: f32, keep: f32| keep * old + (1.0 - keep) * power;
        self.recent = power.max(self.recent * self.keep_recent);
        self.mean = mix(self.mean, self.keep_mean);
        let risen = self.background.map(|background| background * self.rise);
        self.background = Some(risen.map_or(self.mean, |risen| risen.min(self.mean)));
        match state {
            GateState::Quiet => self.room = mix(self.room, self.keep_room),
            // Unvoiced sounds and gaps say nothing about how loud somebody speaks.
            GateState::Speaking if score >= Loudness::SURE && !self.is_background() => {
                self.voice = Some(self.voice.map_or(power, |old| {
                    let louder = power > old;
                    mix(
                        old,
                        if louder {
                            self.keep_louder
                        } else {
                            self.keep_voice
                        },
                    )
                }));
            }
            // Should it be the caller after all, who has turned away, they are heard again in a second or two.
            GateState::Speaking | GateState::Stopping if self.is_background() => {
                self.voice = self.voice.map(|voice| voice / self.rise);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(16);

    fn levels() -> Levels {
        Levels::new(&VadConfig::default(), FRAME)
    }

    /// Words of 200 ms with gaps of 80 ms in which the room is heard.
    fn talk(levels: &mut Levels, voice: f32, room: f32) {
        for n in 0..200 {
            let rms = if n % 17 < 12 { voice } else { room };
            levels.follow(rms, 0.9, GateState::Speaking);
        }
    }

    #[test]
    fn what_is_left_after_a_voice_is_background() {
        let mut levels = levels();
        assert!(!levels.is_background());
        talk(&mut levels, 2_000.0, 500.0);
        levels.follow(2_000.0, 0.9, GateState::Speaking);
        assert!(!levels.is_background());
        // A frame is not enough, a tenth of a second is; and it stays so.
        levels.follow(500.0, 0.9, GateState::Speaking);
        assert!(!levels.is_background());
        for n in 0..60 {
            levels.follow(500.0, 0.9, GateState::Speaking);
            assert!(n < 8 || levels.is_background(), "after {n} frames");
        }
        levels.follow(2_000.0, 0.9, GateState::Speaking);
        assert!(!levels.is_background());
        // A caller who goes on in a lower voice is heard again.
        for _ in 0..200 {
            levels.follow(500.0, 0.9, GateState::Speaking);
        }
        assert!(!levels.is_background());
    }

    #[test]
    fn soft_speech_in_a_quiet_room_is_speech() {
        let mut levels = levels();
        talk(&mut levels, 2_000.0, 10.0);
        for n in 0..200 {
            let sounds = n % 17 < 12;
            let rms = if sounds { 500.0 } else { 10.0 };
            levels.follow(rms, 0.9, GateState::Speaking);
            assert!(!sounds || !levels.is_background(), "in frame {n}");
        }
    }

    #[test]
    fn the_caller_interrupts_and_the_room_does_not() {
        let mut levels = levels();
        talk(&mut levels, 2_000.0, 100.0);
        for _ in 0..100 {
            levels.follow(300.0, 0.9, GateState::Quiet);
        }
        assert!(levels.is_near(1_500.0));
        assert!(!levels.is_near(300.0), "no louder than the room");
        for _ in 0..400 {
            levels.follow(1.0, 0.0, GateState::Quiet);
        }
        assert!(!levels.is_near(200.0), "20 dB softer than the caller");
    }
}

//! What an operator may tune about hearing and speaking. Defaults are constants of experience, each with its reason.

use std::time::Duration;

use llmrtc_core::duration;
use serde::Deserialize;
use validator::{Validate, ValidationError};

use crate::{endpoint::LONGEST_HOLD, peer::PeerConfig};

/// The media section of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// Media threads; absent means one per core, at most four. A call needs less than a fiftieth of one.
    #[validate(range(min = 1, max = 256))]
    pub threads: Option<usize>,
    /// When a sound counts as a voice.
    #[validate(nested)]
    pub vad: VadConfig,
    /// When the caller counts as done.
    #[validate(nested)]
    pub endpoint: EndpointConfig,
    /// How speech is sent.
    #[validate(nested)]
    pub playout: PlayoutConfig,
    /// Addresses, ports and limits of peers.
    #[validate(nested)]
    pub peer: PeerConfig,
}

/// When a sound counts as a voice. Durations are rounded up to whole detector frames (16 ms, Silero 32 ms).
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "vad_is_consistent"))]
pub struct VadConfig {
    /// What scores the frames.
    pub detector: DetectorKind,
    /// Detector score from which a frame is voiced.
    #[validate(range(min = 0.05, max = 0.99))]
    pub threshold: f32,
    /// Score below which speech falls silent. The distance to `threshold` keeps a wavering score from flapping.
    #[validate(range(min = 0.01, max = 0.99))]
    pub release_threshold: f32,
    /// Score from which a frame counts towards an interruption, while the assistant is audible.
    #[validate(range(min = 0.05, max = 0.99))]
    pub interrupt_threshold: f32,
    /// Voice needed to confirm speech while the assistant is silent.
    #[serde(with = "duration")]
    pub confirm: Duration,
    /// The stretch in which `confirm` has to come together; after that the onset was a misfire.
    #[serde(with = "duration")]
    pub confirm_within: Duration,
    /// Voice needed to confirm speech while the assistant is audible. A wrong confirmation costs an answer.
    #[serde(with = "duration")]
    pub interrupt: Duration,
    /// The stretch in which `interrupt` has to come together. Output is held meanwhile, so at most 250 ms.
    #[serde(with = "duration")]
    pub interrupt_within: Duration,
    /// Voice over an answer that goes on is an "mm-hm" until it has lasted this long: the answer is held, and continues
    /// when the voice stops before. Zero: every confirmed voice ends the answer. At most 1 s.
    #[serde(with = "duration")]
    pub backchannel: Duration,
    /// The silence after which such a voice has stopped.
    #[serde(with = "duration")]
    pub backchannel_silence: Duration,
    /// How much louder than the room before it a sound must be to interrupt, in dB.
    #[validate(range(min = 0.0, max = 30.0))]
    pub interrupt_above_room_db: f32,
    /// How much softer than the caller's voice so far a sound may be to interrupt, in dB.
    #[validate(range(min = 0.0, max = 60.0))]
    pub interrupt_below_voice_db: f32,
}

/// A voice detector by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DetectorKind {
    /// The small network inside the binary, 16 ms frames.
    #[default]
    Earshot,
    /// Silero, 32 ms frames; a model that has to be installed. Without it, `earshot`.
    Silero,
    /// Loud is voice: for tests.
    Energy,
}

impl Default for VadConfig {
    fn default() -> Self {
        Self {
            detector: DetectorKind::Earshot,
            // Where the default detector was trained to divide. Noise bursts and clicks of any loudness stay below 0.45.
            threshold: 0.5,
            // The score decays over 100 ms after the last sound. Lower, and every answer waits for that decay.
            release_threshold: 0.45,
            // Speech scores 0.7 and more from its first frame; humming, breath and leftover echo do not.
            interrupt_threshold: 0.65,
            confirm: Duration::from_millis(96),
            confirm_within: Duration::from_millis(160),
            // With 20 ms packets and 16 ms frames the server knows 120 ms after the first sound. The strictness is in the
            // score, because more time would leave the assistant talking over the caller.
            interrupt: Duration::from_millis(80),
            interrupt_within: Duration::from_millis(160),
            // docs/turn-taking.md has the figures: "yeah", "okay" and "mm-hm" voice 150–380 ms, and whoever wants the floor
            // has spoken for longer within half a second.
            backchannel: Duration::from_millis(368),
            // Longer than the gap of "uh-huh"; the caller hears the answer pause for that much more.
            backchannel_silence: Duration::from_millis(208),
            // Twice the room: background voices and music that were there before do not interrupt.
            interrupt_above_room_db: 6.0,
            // A telephone in the next room is softer than that, the same caller turning away is not.
            interrupt_below_voice_db: 15.0,
        }
    }
}

fn vad_is_consistent(vad: &VadConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    if vad.release_threshold > vad.threshold || vad.threshold > vad.interrupt_threshold {
        return problem("release_threshold, threshold and interrupt_threshold must not decrease");
    }
    if vad.confirm.is_zero() || vad.interrupt.is_zero() {
        return problem("confirm and interrupt must be longer than zero");
    }
    if vad.confirm > vad.confirm_within || vad.interrupt > vad.interrupt_within {
        return problem("confirm and interrupt must fit into their windows");
    }
    if vad.confirm_within.max(vad.interrupt_within) > Duration::from_millis(500) {
        return problem("confirm_within and interrupt_within must not exceed 500ms");
    }
    if vad.backchannel > Duration::from_secs(1) {
        return problem("backchannel must not exceed 1s");
    }
    let silence = Duration::from_millis(50)..=Duration::from_millis(500);
    if !silence.contains(&vad.backchannel_silence) {
        return problem("backchannel_silence must be between 50ms and 500ms");
    }
    Ok(())
}

/// When the caller counts as done, and what of the audio is kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "endpoint_is_consistent"))]
pub struct EndpointConfig {
    /// What decides.
    pub policy: PolicyKind,
    /// How the semantic policy does.
    #[validate(nested)]
    pub semantic: SemanticConfig,
    /// Silence after the last voiced frame that ends an utterance, 200 ms–3 s.
    #[serde(with = "duration")]
    pub silence: Duration,
    /// Silence that ends it when the partial transcript looks unfinished; at most 3 s. Zero: no such exception.
    #[serde(with = "duration")]
    pub extended_silence: Duration,
    /// Silence after which transcription may start speculatively.
    #[serde(with = "duration")]
    pub pause: Duration,
    /// Audio kept from before the first voiced frame, at most 2 s: detectors miss soft beginnings.
    #[serde(with = "duration")]
    pub pre_speech_pad: Duration,
    /// Silence kept after the last voiced frame: enough for a final consonant, too little to hallucinate on.
    #[serde(with = "duration")]
    pub tail: Duration,
    /// Longest utterance, 5 s–10 min; then it is ended by force.
    #[serde(with = "duration")]
    pub max_utterance: Duration,
    /// A gap between packets from which the caller counts as silent.
    #[serde(with = "duration")]
    pub gap_is_silence: Duration,
    /// A gap that ends an utterance whatever the policy says.
    #[serde(with = "duration")]
    pub gap_is_loss: Duration,
}

/// An endpointing policy by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PolicyKind {
    /// `semantic` where its model is installed, otherwise `silence`.
    #[default]
    Auto,
    /// A fixed silence ends a turn.
    Silence,
    /// A turn that sounds complete ends after a short silence, one that does not is held. Without the model, `silence`.
    Semantic,
}

/// How the semantic policy decides. Where its model gives no answer in time, the silences of [`EndpointConfig`] count.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "semantic_is_consistent"))]
pub struct SemanticConfig {
    /// Silence after which the turn is judged, 50 ms–1 s.
    #[serde(with = "duration")]
    pub judge_after: Duration,
    /// How soon an incomplete turn is judged again, 100 ms–2 s. An answer that takes longer is not waited for.
    #[serde(with = "duration")]
    pub judge_every: Duration,
    /// Probability from which a turn counts as complete.
    #[validate(range(min = 0.05, max = 0.99))]
    pub threshold: f32,
    /// Silence that ends an incomplete turn, at most 3 s.
    #[serde(with = "duration")]
    pub hold: Duration,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self {
            // The detector's score outlives the voice by 60–90 ms, so the model hears some 200 ms of silence, as it was
            // trained to, and its answer is there before a quarter of a second of counted silence.
            judge_after: Duration::from_millis(144),
            // Twice the time an answer takes on a busy machine.
            judge_every: Duration::from_millis(304),
            threshold: 0.5,
            // Thinking about the next digit takes one to two seconds.
            hold: Duration::from_secs(2),
        }
    }
}

fn semantic_is_consistent(semantic: &SemanticConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    let ms = Duration::from_millis;
    if !(ms(50)..=ms(1_000)).contains(&semantic.judge_after) {
        return problem("judge_after must be between 50ms and 1s");
    }
    if !(ms(100)..=ms(2_000)).contains(&semantic.judge_every) {
        return problem("judge_every must be between 100ms and 2s");
    }
    if semantic.hold < semantic.judge_after || semantic.hold > LONGEST_HOLD {
        return problem("hold must not be shorter than judge_after nor exceed 3s");
    }
    Ok(())
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            policy: PolicyKind::Auto,
            semantic: SemanticConfig::default(),
            // The detector's score outlives the voice by 60–90 ms, so a pause of half a second never ends a turn, and the
            // end is known within 600 ms of the last sound.
            silence: Duration::from_millis(500),
            extended_silence: Duration::from_millis(1_200),
            pause: Duration::from_millis(200),
            pre_speech_pad: Duration::from_millis(320),
            tail: Duration::from_millis(150),
            max_utterance: Duration::from_secs(60),
            gap_is_silence: Duration::from_millis(200),
            gap_is_loss: Duration::from_secs(1),
        }
    }
}

fn endpoint_is_consistent(endpoint: &EndpointConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    let ms = Duration::from_millis;
    if !(ms(200)..=ms(3_000)).contains(&endpoint.silence) {
        return problem("silence must be between 200ms and 3s");
    }
    if endpoint.extended_silence > ms(3_000) {
        return problem("extended_silence must not exceed 3s");
    }
    if !(ms(5_000)..=ms(600_000)).contains(&endpoint.max_utterance) {
        return problem("max_utterance must be between 5s and 10m");
    }
    if endpoint.pre_speech_pad > ms(2_000) || endpoint.tail > endpoint.silence {
        return problem("pre_speech_pad must not exceed 2s, nor tail the silence");
    }
    if endpoint.pause.is_zero() || endpoint.pause > endpoint.silence {
        return problem("pause must be longer than zero and not exceed silence");
    }
    if endpoint.gap_is_silence.is_zero() || endpoint.gap_is_silence > endpoint.gap_is_loss {
        return problem("gap_is_silence must be longer than zero and not exceed gap_is_loss");
    }
    Ok(())
}

/// How speech is sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct PlayoutConfig {
    /// Opus bit rate in bits per second.
    #[validate(range(min = 8_000, max = 128_000))]
    pub bitrate_bps: u32,
    /// Opus encoder complexity.
    #[validate(range(max = 10))]
    pub complexity: u8,
    /// Packet loss that in-band error correction prepares for; 0 spends no bits on it.
    #[validate(range(max = 50))]
    pub expected_loss_percent: u8,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        Self {
            // Clear superwideband speech with room for error correction.
            bitrate_bps: 32_000,
            // 0.7 % of a core while talking. 10 takes more than twice that for a difference few hear in speech.
            complexity: 5,
            // The least for which the encoder adds copies of lost frames at this bit rate: a recovered frame correlates
            // 0.99 with the original, a concealed one 0.85.
            expected_loss_percent: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(MediaConfig::default().validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_found() {
        let ms = Duration::from_millis;
        let vad = |change: fn(&mut VadConfig)| {
            let mut vad = VadConfig::default();
            change(&mut vad);
            MediaConfig {
                vad,
                ..MediaConfig::default()
            }
        };
        let endpoint = |change: fn(&mut EndpointConfig)| {
            let mut endpoint = EndpointConfig::default();
            change(&mut endpoint);
            MediaConfig {
                endpoint,
                ..MediaConfig::default()
            }
        };
        let playout = PlayoutConfig {
            bitrate_bps: 1_000,
            ..PlayoutConfig::default()
        };
        let table = [
            vad(|vad| vad.release_threshold = 0.9),
            vad(|vad| vad.interrupt_threshold = 0.2),
            vad(|vad| vad.confirm = Duration::ZERO),
            vad(|vad| vad.interrupt = Duration::from_millis(300)),
            vad(|vad| vad.confirm_within = Duration::from_secs(2)),
            vad(|vad| vad.backchannel = Duration::from_secs(2)),
            vad(|vad| vad.backchannel_silence = Duration::ZERO),
            vad(|vad| vad.interrupt_above_room_db = -1.0),
            endpoint(|endpoint| endpoint.semantic.threshold = 1.0),
            endpoint(|endpoint| endpoint.semantic.judge_after = Duration::ZERO),
            endpoint(|endpoint| endpoint.semantic.judge_every = Duration::from_secs(3)),
            endpoint(|endpoint| endpoint.semantic.hold = Duration::from_secs(4)),
            endpoint(|endpoint| endpoint.silence = Duration::from_millis(20)),
            endpoint(|endpoint| endpoint.tail = Duration::from_secs(1)),
            endpoint(|endpoint| endpoint.max_utterance = Duration::from_secs(1)),
            endpoint(|endpoint| endpoint.gap_is_silence = Duration::from_secs(5)),
            endpoint(|endpoint| endpoint.pause = Duration::from_millis(501)),
            MediaConfig {
                playout,
                ..MediaConfig::default()
            },
            MediaConfig {
                threads: Some(0),
                ..MediaConfig::default()
            },
        ];
        for config in table {
            assert!(config.validate().is_err(), "{config:?}");
        }
        let slow = endpoint(|endpoint| endpoint.silence = Duration::from_secs(3));
        assert_eq!(
            (slow.endpoint.silence, slow.validate()),
            (ms(3_000), Ok(()))
        );
    }
}

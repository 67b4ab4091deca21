use std::time::Duration;

use async_trait::async_trait;
use llmrtc_core::{
    audio::{PcmChunk, Utterance},
    provider::{CallContext, ProviderError, SttConfig, SttProvider, SttResult},
};

use super::{EchoConfig, pause};

/// Root mean square of a 20 ms frame that counts as voice: −44 dB below full scale, well above a quiet room.
const VOICE_RMS: f64 = 200.0;
const FRAME: Duration = Duration::from_millis(20);

/// Speech to text that hears how long somebody spoke, not what.
#[derive(Clone, Debug, Default)]
pub struct EchoStt {
    config: EchoConfig,
}

impl EchoStt {
    /// Uses the delay and the fixed transcript of `config`.
    pub fn new(config: EchoConfig) -> Self {
        Self { config }
    }
}

/// From the first to the last frame with a voice in it.
fn voiced(pcm: &PcmChunk) -> Duration {
    let frame = pcm.rate().samples_in(FRAME);
    let loud = |samples: &[i16]| {
        let energy: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        (energy / samples.len() as f64).sqrt() >= VOICE_RMS
    };
    let mut frames = pcm
        .samples()
        .chunks(frame)
        .enumerate()
        .filter(|(_, frame)| loud(frame));
    let Some((first, _)) = frames.next() else {
        return Duration::ZERO;
    };
    let last = frames.next_back().map_or(first, |(last, _)| last);
    FRAME * (last - first + 1) as u32
}

#[async_trait]
impl SttProvider for EchoStt {
    fn name(&self) -> &str {
        "echo-stt"
    }

    /// Silence gives empty text. Encoded audio is not decoded, only weighed.
    async fn transcribe(
        &self,
        audio: Utterance,
        _config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        pause(self.config.transcript_delay).await;
        let text = match &audio {
            Utterance::Pcm(pcm) => match voiced(pcm) {
                Duration::ZERO => None,
                heard => Some(format!(
                    "I heard {:.1} seconds of speech.",
                    heard.as_secs_f64()
                )),
            },
            _ if audio.size_bytes() == 0 => None,
            _ => Some(format!(
                "I heard a recording of {} bytes.",
                audio.size_bytes()
            )),
        };
        let text = match (text, &self.config.transcript) {
            (Some(_), Some(fixed)) => fixed.clone(),
            (text, _) => text.unwrap_or_default(),
        };
        Ok(SttResult {
            text,
            is_final: true,
            ..SttResult::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_core::audio::SampleRate;

    use super::*;

    async fn hear(stt: &EchoStt, samples: Vec<i16>) -> String {
        let audio = Utterance::Pcm(PcmChunk::new(samples, SampleRate::HZ_16000));
        let result = stt
            .transcribe(audio, &SttConfig::default(), &CallContext::detached())
            .await;
        result.unwrap().text
    }

    /// One second of quiet noise around a tone of this many milliseconds.
    fn padded_tone(ms: usize) -> Vec<i16> {
        let quiet = (0..8000).map(|n| (n % 7) as i16 - 3);
        let tone = (0..16 * ms)
            .map(|n| (f64::from(n as u32) * 0.2).sin() * 8000.0)
            .map(|s| s as i16);
        quiet.clone().chain(tone).chain(quiet).collect()
    }

    #[tokio::test]
    async fn speech_is_measured_and_silence_is_empty() {
        let stt = EchoStt::default();
        assert_eq!(
            hear(&stt, padded_tone(3600)).await,
            "I heard 3.6 seconds of speech."
        );
        assert_eq!(hear(&stt, padded_tone(0)).await, "");
        assert_eq!(hear(&stt, Vec::new()).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fixed_transcript_still_needs_a_voice() {
        let stt = EchoStt::new(EchoConfig {
            transcript: Some("Hello.".to_owned()),
            transcript_delay: Duration::from_millis(80),
            ..EchoConfig::default()
        });
        let begin = tokio::time::Instant::now();
        assert_eq!(hear(&stt, padded_tone(500)).await, "Hello.");
        assert_eq!(begin.elapsed(), Duration::from_millis(80));
        assert_eq!(hear(&stt, padded_tone(0)).await, "");
    }
}

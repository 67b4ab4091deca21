//! What can be heard, and when: the measure behind every latency figure.

use std::time::{Duration, Instant};

use llmrtc_core::audio::PcmChunk;
use llmrtc_media::pipeline::ReceivedFrame;

/// Louder than this is audible: −46 dBFS, far above comfort noise and far below speech.
const AUDIBLE_RMS: f64 = 164.0;
/// The resolution of [`last_voice`] and of [`onset_within`].
const WINDOW: Duration = Duration::from_millis(5);

/// Where the last audible sample of a recording is, to 5 ms: the true end of speech.
pub fn last_voice(recording: &PcmChunk) -> Duration {
    let window = recording.rate().samples_in(WINDOW).max(1);
    let last = recording.samples().chunks(window).rposition(is_audible);
    recording
        .rate()
        .duration_of(last.map_or(0, |last| (last + 1) * window))
}

/// Where the first audible sample of a recording is, to 5 ms.
pub fn first_voice(recording: &PcmChunk) -> Duration {
    let window = recording.rate().samples_in(WINDOW).max(1);
    let first = recording.samples().chunks(window).position(is_audible);
    recording.rate().duration_of(first.unwrap_or(0) * window)
}

fn is_audible(samples: &[i16]) -> bool {
    let energy: f64 = samples
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum();
    !samples.is_empty() && (energy / samples.len() as f64).sqrt() > AUDIBLE_RMS
}

/// Follows the received voice frame by frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    audible_since: Option<Instant>,
    last_audible: Option<Instant>,
}

impl Meter {
    /// Takes a frame and returns the moment at which silence turned audible, if it did in this frame.
    ///
    /// Sound after less than `gap` of silence is the same voice.
    pub fn hear(&mut self, frame: &ReceivedFrame, gap: Duration) -> Option<Instant> {
        let onset = onset_within(&frame.pcm)?;
        let at = frame.at + onset;
        let continues = self
            .last_audible
            .is_some_and(|last| at.saturating_duration_since(last) < gap);
        self.last_audible = Some(frame.at + frame.pcm.duration());
        if continues {
            return None;
        }
        self.audible_since = Some(at);
        Some(at)
    }

    /// When the voice was last heard: the end of the last frame with something audible in it.
    pub fn last_audible(&self) -> Option<Instant> {
        self.last_audible
    }
}

fn onset_within(pcm: &PcmChunk) -> Option<Duration> {
    let window = pcm.rate().samples_in(WINDOW).max(1);
    let first = pcm.samples().chunks(window).position(is_audible)?;
    Some(pcm.rate().duration_of(first * window))
}

#[cfg(test)]
mod tests {
    use llmrtc_core::audio::SampleRate;

    use super::*;

    fn tone(ms: u64, level: i16) -> Vec<i16> {
        let samples = SampleRate::HZ_48000.samples_in(Duration::from_millis(ms));
        (0..samples)
            .map(|n| if n % 96 < 48 { level } else { -level })
            .collect()
    }

    #[test]
    fn the_voice_of_a_recording_is_found_between_its_silences() {
        let samples = [tone(100, 10), tone(200, 3_000), tone(300, 10)].concat();
        let recording = PcmChunk::new(samples, SampleRate::HZ_48000);
        assert_eq!(first_voice(&recording), Duration::from_millis(100));
        assert_eq!(last_voice(&recording), Duration::from_millis(300));
    }

    #[test]
    fn a_voice_begins_once_until_it_pauses() {
        let start = tokio::time::Instant::now().into_std();
        let gap = Duration::from_millis(100);
        let mut meter = Meter::default();
        let mut hear = |ms: u64, level| {
            let pcm = PcmChunk::new(tone(20, level), SampleRate::HZ_48000);
            let at = start + Duration::from_millis(ms);
            meter.hear(
                &ReceivedFrame {
                    pcm,
                    at,
                    concealed: false,
                },
                gap,
            )
        };
        assert_eq!(hear(0, 10), None);
        assert_eq!(hear(20, 2_000), Some(start + Duration::from_millis(20)));
        assert_eq!(hear(40, 2_000), None);
        assert_eq!(hear(60, 10), None);
        assert_eq!(hear(100, 2_000), None);
        assert_eq!(hear(300, 2_000), Some(start + Duration::from_millis(300)));
    }
}

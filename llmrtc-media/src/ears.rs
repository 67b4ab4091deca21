//! The ears: 16 kHz audio in, [`SpeechEvent`]s out. Composes detector, gate and endpointing; pure but for the detector.
//!
//! Audio time is the only time: events carry the instants at which the audio was captured, and silence is counted in
//! frames. The clock matters where no audio comes: a gap between packets is silence, and a long one is a lost source.

mod loudness;
mod words;

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate, Utterance},
    speech::{EndReason, SpeechEvent},
};

use self::loudness::{Levels, Loudness};
pub use self::words::wants_floor;
use crate::{
    config::{EndpointConfig, VadConfig},
    endpoint::{
        EndpointPolicy, Judgement, LONGEST_HOLD, Pause, Pending, SilencePolicy, TurnJudge, Verdict,
    },
    vad::{
        VoiceDetector,
        gate::{Floor, Gate, GateChange, GateState},
    },
};

/// Everything the ears hear is at this rate.
const RATE: SampleRate = SampleRate::HZ_16000;

/// Room for audio is made in steps of this length. One is enough while nobody speaks.
const ROOM: Duration = Duration::from_millis(500);

/// Silence in which a short voice over the assistant's is taken for finished and given to the judge: most pauses within
/// words are shorter.
const WORD_ENDS: Duration = Duration::from_millis(96);

/// Partial transcripts longer than this keep their end: only the last words matter for endpointing.
const MAX_TRANSCRIPT_BYTES: usize = 1_024;

/// Listens to one caller.
pub struct Ears {
    endpoint: EndpointConfig,
    live: bool,
    detector: Box<dyn VoiceDetector>,
    loudness: Loudness,
    levels: Levels,
    gate: Gate,
    /// Who knows what a short voice over the assistant's wants.
    floor_judge: Option<Arc<dyn TurnJudge>>,
    /// What it was asked about the current one.
    doubt: Option<Pending>,
    policy: Box<dyn EndpointPolicy>,
    silence_policy: SilencePolicy,
    /// Length of a detector frame.
    frame: Duration,
    frame_samples: usize,
    /// While quiet the latest audio, for padding; otherwise the utterance from its padding on. The last samples may
    /// not fill a frame yet.
    audio: Vec<i16>,
    /// How many samples of `audio` were scored.
    scored: usize,
    /// End of the last voiced frame in `audio`.
    voice_end: usize,
    /// How many samples of `audio` went out as [`SpeechEvent::Audio`].
    sent: usize,
    /// Whether `Paused` was reported and not taken back.
    paused: bool,
    /// Capture time of `voice_end`.
    last_voice: Option<Instant>,
    /// Capture time of the end of `audio`, silence filled into gaps included; `None` before the first.
    heard_until: Option<Instant>,
    /// Capture time of the last sample that came from the source.
    source_until: Option<Instant>,
    transcript: Option<String>,
    events: VecDeque<SpeechEvent>,
}

impl Ears {
    /// Ears that have heard nothing. `live` asks for [`SpeechEvent::Audio`].
    pub fn new(
        vad: &VadConfig,
        endpoint: &EndpointConfig,
        live: bool,
        detector: Box<dyn VoiceDetector>,
        policy: Box<dyn EndpointPolicy>,
    ) -> Self {
        let frame_samples = detector.frame_samples().max(1);
        let frame = RATE.duration_of(frame_samples);
        Self {
            endpoint: endpoint.clone(),
            live,
            detector,
            loudness: Loudness::new(frame),
            levels: Levels::new(vad, frame),
            floor_judge: None,
            doubt: None,
            gate: Gate::new(vad, frame),
            policy,
            silence_policy: SilencePolicy::new(endpoint),
            frame,
            frame_samples,
            audio: Vec::new(),
            scored: 0,
            voice_end: 0,
            sent: 0,
            paused: false,
            last_voice: None,
            heard_until: None,
            source_until: None,
            transcript: None,
            events: VecDeque::new(),
        }
    }

    /// With a judge of short words spoken over the assistant's speech: yes means that they want the floor. Without one they
    /// do not, unless live transcription says otherwise.
    pub fn with_floor_judge(mut self, judge: Option<Arc<dyn TurnJudge>>) -> Self {
        self.floor_judge = judge;
        self
    }

    /// The next event. Call until `None` after every other call.
    pub fn next_event(&mut self) -> Option<SpeechEvent> {
        self.events.pop_front()
    }

    /// Hears `pcm`, 16 kHz mono, whose last sample was captured at `captured`.
    pub fn push(&mut self, pcm: &[i16], captured: Instant, floor: Floor) {
        if let Some(begun) = captured.checked_sub(RATE.duration_of(pcm.len())) {
            self.fill_gap(begun, floor);
        }
        self.source_until = later(self.source_until, captured);
        self.heard_until = later(self.heard_until, captured);
        self.make_room(pcm.len());
        self.audio.extend_from_slice(pcm);
        self.hear(captured, floor, |detector, frame| detector.score(frame));
    }

    /// Counts a gap between packets as silence, and ends the utterance when it gets too long. Call at
    /// [`deadline`](Self::deadline).
    pub fn tick(&mut self, now: Instant, floor: Floor) {
        if self.gate.state() == GateState::Quiet {
            return;
        }
        let gap = self
            .source_until
            .map(|until| now.saturating_duration_since(until));
        if gap.is_some_and(|gap| gap >= self.endpoint.gap_is_loss) {
            self.end(EndReason::SourceLost);
        } else {
            self.fill_gap(now, floor);
        }
    }

    /// When [`tick`](Self::tick) has something to do, if nothing is pushed before.
    pub fn deadline(&self) -> Option<Instant> {
        if self.gate.state() == GateState::Quiet {
            return None;
        }
        let gap_begins = self.source_until? + self.endpoint.gap_is_silence;
        Some(gap_begins.max(self.heard_until? + self.frame))
    }

    /// The microphone is gone: an open utterance ends now.
    pub fn source_removed(&mut self) {
        self.end(EndReason::SourceRemoved);
    }

    /// What live transcription has made of the utterance so far; helps the endpointing policy.
    pub fn partial_transcript(&mut self, text: &str) {
        if self.gate.state() == GateState::Quiet {
            return;
        }
        let mut from = text.len().saturating_sub(MAX_TRANSCRIPT_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        self.transcript = Some(text[from..].to_owned());
    }

    /// Puts silence where the source left a gap up to `until`, if the gap is long enough to count.
    fn fill_gap(&mut self, until: Instant, floor: Floor) {
        let (Some(source), Some(heard)) = (self.source_until, self.heard_until) else {
            return;
        };
        if until.saturating_duration_since(source) < self.endpoint.gap_is_silence {
            return;
        }
        if self.gate.state() == GateState::Quiet {
            // Nothing to continue; what comes next is no neighbour of what came before.
            self.audio.clear();
            self.scored = 0;
            return;
        }
        let missing = until.saturating_duration_since(heard).min(LONGEST_HOLD);
        let samples = RATE.samples_in(missing);
        self.make_room(samples);
        self.audio.resize(self.audio.len() + samples, 0);
        self.heard_until = later(self.heard_until, until);
        // Invented silence needs no detector.
        self.hear(until, floor, |_, _| 0.0);
    }

    /// Scores the whole frames in `audio`, whose end was captured at `captured`.
    fn hear(
        &mut self,
        captured: Instant,
        floor: Floor,
        score: impl Fn(&mut dyn VoiceDetector, &[i16]) -> f32,
    ) {
        while self.audio.len() - self.scored >= self.frame_samples {
            let end = self.scored + self.frame_samples;
            let frame = &self.audio[self.scored..end];
            let mut score = score(&mut *self.detector, frame);
            let state = self.gate.state();
            let speaking = !matches!(state, GateState::Quiet | GateState::Starting);
            let rms = loudness::rms(frame);
            let fades = self.loudness.is_quiet(rms) && speaking && score < Loudness::SURE;
            let claims = matches!(state, GateState::Quiet | GateState::Starting);
            let distant = claims && floor.is_audible() && !self.levels.is_near(rms);
            self.levels.follow(rms, score, state);
            let background = speaking && self.levels.is_background();
            if fades || distant || background {
                score = 0.0;
            }
            self.scored = end;
            let ahead = RATE.duration_of(self.audio.len() - end);
            self.take_frame(
                score,
                captured.checked_sub(ahead).unwrap_or(captured),
                floor,
            );
        }
        self.send_live();
        self.forget();
    }

    /// Takes the score of the frame that ends at `scored` and was captured until `at`.
    fn take_frame(&mut self, score: f32, at: Instant, floor: Floor) {
        let change = self.gate.push(score, floor);
        self.apply(change, at);
        let state = self.gate.state();
        if state != GateState::Quiet && self.gate.silent_frames() == 0 {
            self.voice_end = self.scored;
            self.last_voice = Some(at);
        }
        if state == GateState::Doubtful {
            self.consider_doubt(at);
        }
        if self.gate.state() == GateState::Stopping {
            self.consider_ending();
        }
        let speaking = matches!(self.gate.state(), GateState::Speaking | GateState::Stopping);
        if speaking && RATE.duration_of(self.scored) >= self.endpoint.max_utterance {
            self.end(EndReason::TooLong);
        }
    }

    fn apply(&mut self, change: Option<GateChange>, at: Instant) {
        match change {
            Some(GateChange::Onset) => {
                let begun = self.scored - self.frame_samples;
                self.drop_audio(
                    begun.saturating_sub(RATE.samples_in(self.endpoint.pre_speech_pad)),
                );
                self.sent = 0;
                self.paused = false;
                self.transcript = None;
                self.doubt = None;
                let at = at.checked_sub(self.frame).unwrap_or(at);
                self.events.push_back(SpeechEvent::Onset { at });
            }
            Some(GateChange::Misfire) => self.events.push_back(SpeechEvent::Misfire),
            Some(GateChange::Confirmed) => self.events.push_back(SpeechEvent::Confirmed),
            Some(GateChange::Voice) => {
                self.policy.resumed();
                if std::mem::take(&mut self.paused) {
                    self.events.push_back(SpeechEvent::Resumed);
                }
            }
            Some(GateChange::Doubt | GateChange::Silence) | None => {}
        }
    }

    /// A voice over the assistant's, too short so far to want the floor. Its words may want it all the same.
    fn consider_doubt(&mut self, at: Instant) {
        let change = match self.transcript.as_deref() {
            Some(text) if wants_floor(text) => self.gate.confirm(),
            _ => None,
        };
        if change.is_some() {
            return self.apply(change, at);
        }
        let silence = self.frame * self.gate.silent_frames();
        if silence < WORD_ENDS {
            // It goes on: what was asked about its beginning no longer matters.
            self.doubt = None;
        } else if let Some(doubt) = &self.doubt {
            let change = match doubt.answer() {
                Some(Some(wants_floor)) if wants_floor >= 0.5 => self.gate.confirm(),
                Some(Some(_)) => self.gate.dismiss(),
                Some(None) | None => None,
            };
            self.apply(change, at);
        } else if let Some(judge) = &self.floor_judge {
            let (judgement, pending) = Judgement::new();
            self.doubt = Some(pending);
            self.gate.await_words();
            judge.judge(self.audio[..self.scored].into(), judgement);
        }
    }

    fn consider_ending(&mut self) {
        let silence = RATE.duration_of(self.scored - self.voice_end);
        if !self.paused && silence >= self.endpoint.pause {
            self.paused = true;
            let utterance = self.utterance();
            self.events.push_back(SpeechEvent::Paused { utterance });
        }
        let pause = Pause {
            audio: &self.audio[..self.scored],
            silence,
            transcript: self.transcript.as_deref(),
        };
        let verdict = match self.policy.assess(&pause) {
            Verdict::Default => self.silence_policy.assess(&pause),
            own => own,
        };
        if verdict == Verdict::End || silence >= LONGEST_HOLD {
            self.end(EndReason::Endpoint);
        }
    }

    /// Closes whatever is open: an utterance with `reason`, an onset as noise.
    fn end(&mut self, reason: EndReason) {
        match (self.gate.state(), self.last_voice) {
            (GateState::Speaking | GateState::Stopping, Some(last_voice)) => {
                self.send_live();
                let utterance = self.utterance();
                self.events.push_back(SpeechEvent::Ended {
                    utterance,
                    last_voice,
                    reason,
                });
            }
            (GateState::Starting | GateState::Doubtful, _) => {
                self.events.push_back(SpeechEvent::Misfire)
            }
            _ => return,
        }
        self.gate.end();
        self.policy.resumed();
        self.transcript = None;
        // What was handed over must not come again as the padding of the next utterance.
        self.drop_audio(self.utterance_end());
        self.forget();
        self.audio.shrink_to(RATE.samples_in(ROOM));
    }

    fn utterance(&self) -> Utterance {
        Utterance::Pcm(PcmChunk::new(&self.audio[..self.utterance_end()], RATE))
    }

    fn utterance_end(&self) -> usize {
        (self.voice_end + RATE.samples_in(self.endpoint.tail)).min(self.scored)
    }

    fn send_live(&mut self) {
        if self.live && self.gate.state() != GateState::Quiet && self.sent < self.audio.len() {
            let news = PcmChunk::new(&self.audio[self.sent..], RATE);
            self.sent = self.audio.len();
            self.events.push_back(SpeechEvent::Audio(news));
        }
    }

    /// While quiet, keeps little more than padding needs; in steps, since it moves the rest.
    fn forget(&mut self) {
        let spare = self.scored.saturating_sub(self.padding_samples());
        if self.gate.state() == GateState::Quiet && spare >= self.padding_samples() / 4 {
            self.drop_audio(spare);
        }
    }

    /// Makes room for `samples` more. In steps of [`ROOM`]: doubling would reserve up to as much again as an utterance
    /// needs, in every call at once.
    fn make_room(&mut self, samples: usize) {
        if self.audio.capacity() - self.audio.len() < samples {
            self.audio.reserve_exact(samples.max(RATE.samples_in(ROOM)));
        }
    }

    fn padding_samples(&self) -> usize {
        RATE.samples_in(self.endpoint.pre_speech_pad) + self.frame_samples
    }

    /// Drops the first `samples`, which have been scored.
    fn drop_audio(&mut self, samples: usize) {
        self.audio.drain(..samples);
        self.scored -= samples;
        self.voice_end = self.voice_end.saturating_sub(samples);
        self.sent = self.sent.saturating_sub(samples);
    }
}

fn later(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.max(b)))
}

impl fmt::Debug for Ears {
    /// State only: the rest is somebody's voice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ears({:?})", self.gate.state())
    }
}

#[cfg(test)]
mod tests;

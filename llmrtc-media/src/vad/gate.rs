//! The voice gate: scores in, beginnings and ends of speech out. No audio, no clock.
//!
//! | State | Frame | Next | Change |
//! | --- | --- | --- | --- |
//! | quiet | voiced | starting | `Onset` |
//! | starting | enough voiced frames in the window | speaking, or doubtful while the assistant goes on speaking | `Confirmed`, or `Doubt` |
//! | starting | can no longer become enough | quiet | `Misfire` |
//! | doubtful | voice longer than a backchannel, or [`Gate::confirm`] | speaking | `Confirmed` |
//! | doubtful | silent for a while, or [`Gate::dismiss`] | quiet | `Misfire` |
//! | speaking | below the release threshold | stopping | `Silence` |
//! | stopping | voiced | speaking | `Voice` |
//! | stopping | [`Gate::end`] | quiet | |
//!
//! A single voiced frame never ends an answer: while the assistant is audible a frame must score higher to count, the voice
//! must come together within a window that coughs and clicks do not fill, and it must last longer than an "mm-hm".

use std::time::Duration;

use crate::config::VadConfig;

/// A doubtful voice that stutters along is noise after this many times the length of a backchannel.
const LONGEST_DOUBT: u32 = 3;

/// The longest silence in which words are waited for that would tell what a short voice wanted.
const WORDS_WITHIN: Duration = Duration::from_millis(500);

/// How long an answer that goes on is held for a first evidence, at most: a short first syllable ("it was…") is followed by
/// the rest of the word before that. Confirming it only begins a doubt, so the longer window costs no answer.
const HELD: Duration = Duration::from_millis(240);

/// Whose turn it is to speak, as the caller hears it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Floor {
    /// The assistant is silent.
    #[default]
    Free,
    /// The assistant speaks its last words, or has just spoken them: whatever the caller says is a reply.
    Closing,
    /// The assistant speaks and goes on: a short word may just say that the caller listens.
    Taken,
}

impl Floor {
    /// Whether the caller hears the assistant.
    pub fn is_audible(self) -> bool {
        self != Self::Free
    }
}

/// Where the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateState {
    /// Nobody speaks.
    Quiet,
    /// There was a voiced frame; it may yet be noise.
    Starting,
    /// A voice over the assistant's, too short so far to want the floor.
    Doubtful,
    /// Speech.
    Speaking,
    /// Speech that has fallen silent.
    Stopping,
}

/// What a frame changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateChange {
    /// First voiced frame.
    Onset,
    /// The onset is a voice, and may be a backchannel.
    Doubt,
    /// The onset was noise or a backchannel.
    Misfire,
    /// The onset was speech.
    Confirmed,
    /// Speech fell silent.
    Silence,
    /// Speech went on.
    Voice,
}

/// How much voice within how many frames confirms an onset.
#[derive(Clone, Copy, Debug)]
struct Confirmation {
    threshold: f32,
    needed: u32,
    window: u32,
    /// Voiced frames that are more than a backchannel; zero where there is none.
    backchannel: u32,
}

/// Whole frames that last at least `duration`.
fn frames(duration: Duration, frame: Duration) -> u32 {
    duration.as_nanos().div_ceil(frame.as_nanos()) as u32
}

impl Confirmation {
    fn new(threshold: f32, voice: Duration, within: Duration, frame: Duration) -> Self {
        let window = frames(within, frame).max(1);
        Self {
            threshold,
            needed: frames(voice, frame).clamp(1, window),
            window,
            backchannel: 0,
        }
    }
}

/// The gate. One per call.
#[derive(Clone, Debug)]
pub struct Gate {
    free: Confirmation,
    closing: Confirmation,
    taken: Confirmation,
    release: f32,
    /// Silent frames after which a doubtful voice has stopped.
    stopped: u32,
    /// The same while words are on their way.
    stopped_at_last: u32,
    state: GateState,
    /// The rules of the current onset; they do not change in the middle of it when output is held.
    rules: Confirmation,
    /// Frames since the onset, its own included.
    since_onset: u32,
    /// How many of them were voiced.
    voiced: u32,
    /// Frames since the last voiced one.
    silent: u32,
    /// Words will tell what a doubtful voice wants.
    awaits_words: bool,
}

impl Gate {
    /// A quiet gate for detector frames of length `frame`.
    pub fn new(config: &VadConfig, frame: Duration) -> Self {
        let free = Confirmation::new(
            config.threshold,
            config.confirm,
            config.confirm_within,
            frame,
        );
        let closing = Confirmation::new(
            config.interrupt_threshold,
            config.interrupt,
            config.interrupt_within,
            frame,
        );
        let stopped = frames(config.backchannel_silence, frame).max(1);
        Self {
            free,
            closing,
            taken: Confirmation {
                backchannel: frames(config.backchannel, frame),
                window: frames(config.interrupt_within.max(HELD), frame),
                ..closing
            },
            release: config.release_threshold,
            stopped,
            stopped_at_last: frames(WORDS_WITHIN, frame).max(stopped),
            state: GateState::Quiet,
            rules: free,
            since_onset: 0,
            voiced: 0,
            silent: 0,
            awaits_words: false,
        }
    }

    /// Where the gate stands.
    pub fn state(&self) -> GateState {
        self.state
    }

    /// Frames since the last voiced one.
    pub fn silent_frames(&self) -> u32 {
        self.silent
    }

    /// Takes the score of the next frame.
    pub fn push(&mut self, score: f32, floor: Floor) -> Option<GateChange> {
        if self.state == GateState::Quiet {
            self.rules = match floor {
                Floor::Free => self.free,
                Floor::Closing => self.closing,
                Floor::Taken => self.taken,
            };
        }
        let voiced = match self.state {
            GateState::Quiet | GateState::Starting => score >= self.rules.threshold,
            GateState::Speaking => score >= self.release,
            GateState::Doubtful | GateState::Stopping => score >= self.free.threshold,
        };
        self.silent = if voiced {
            0
        } else {
            self.silent.saturating_add(1)
        };
        match (self.state, voiced) {
            (GateState::Quiet, true) => {
                self.state = GateState::Starting;
                (self.since_onset, self.voiced) = (1, 1);
                Some(GateChange::Onset)
            }
            (GateState::Starting, _) => {
                self.since_onset += 1;
                self.voiced += u32::from(voiced);
                self.decide()
            }
            (GateState::Doubtful, _) => {
                self.since_onset += 1;
                self.voiced += u32::from(voiced);
                self.doubt()
            }
            (GateState::Speaking, false) => {
                self.state = GateState::Stopping;
                Some(GateChange::Silence)
            }
            (GateState::Stopping, true) => {
                self.state = GateState::Speaking;
                Some(GateChange::Voice)
            }
            (GateState::Quiet, false)
            | (GateState::Speaking, true)
            | (GateState::Stopping, false) => None,
        }
    }

    fn decide(&mut self) -> Option<GateChange> {
        let Confirmation {
            needed,
            window,
            backchannel,
            ..
        } = self.rules;
        if self.voiced >= needed {
            if self.voiced < backchannel {
                self.state = GateState::Doubtful;
                self.awaits_words = false;
                return Some(GateChange::Doubt);
            }
            self.state = GateState::Speaking;
            return Some(GateChange::Confirmed);
        }
        let remaining = window.saturating_sub(self.since_onset);
        if self.voiced + remaining < needed {
            self.state = GateState::Quiet;
            return Some(GateChange::Misfire);
        }
        None
    }

    fn doubt(&mut self) -> Option<GateChange> {
        let stopped = if self.awaits_words {
            self.stopped_at_last
        } else {
            self.stopped
        };
        if self.voiced >= self.rules.backchannel {
            self.state = GateState::Speaking;
            return Some(GateChange::Confirmed);
        }
        let stutters = self.since_onset >= LONGEST_DOUBT * self.rules.backchannel;
        if self.silent >= stopped || stutters {
            return self.dismiss();
        }
        None
    }

    /// Words are on their way that will tell what a doubtful voice wants: its end is waited for longer.
    pub fn await_words(&mut self) {
        self.awaits_words = true;
    }

    /// A doubtful voice wants the floor, as its words show.
    pub fn confirm(&mut self) -> Option<GateChange> {
        if self.state != GateState::Doubtful {
            return None;
        }
        self.state = if self.silent == 0 {
            GateState::Speaking
        } else {
            GateState::Stopping
        };
        Some(GateChange::Confirmed)
    }

    /// A doubtful voice does not want the floor.
    pub fn dismiss(&mut self) -> Option<GateChange> {
        if self.state != GateState::Doubtful {
            return None;
        }
        self.state = GateState::Quiet;
        Some(GateChange::Misfire)
    }

    /// Ends the utterance, whatever the state.
    pub fn end(&mut self) {
        self.state = GateState::Quiet;
    }
}

#[cfg(test)]
mod tests {
    use super::{GateChange::*, *};

    const FRAME: Duration = Duration::from_millis(16);

    /// Runs a script of scores: `v` clearly voiced, `m` between release and threshold, `.` silent.
    fn run(script: &str, floor: Floor) -> Vec<(usize, GateChange)> {
        let mut gate = Gate::new(&VadConfig::default(), FRAME);
        script
            .chars()
            .enumerate()
            .filter_map(|(at, frame)| {
                let score = match frame {
                    'v' => 0.95,
                    'm' => 0.5 * (gate.release + gate.free.threshold),
                    _ => 0.0,
                };
                gate.push(score, floor).map(|change| (at, change))
            })
            .collect()
    }

    #[test]
    fn transitions() {
        use Floor::*;
        let table: [(&str, Floor, &[_]); 7] = [
            ("......", Free, &[]),
            // 96 ms of voice.
            (".vvvvvv", Free, &[(1, Onset), (6, Confirmed)]),
            // 96 ms of voice in 160 ms.
            ("v.vv.vvv", Free, &[(0, Onset), (7, Confirmed)]),
            // A click: with five silent frames six voiced ones no longer fit into ten.
            ("v......", Free, &[(0, Onset), (5, Misfire)]),
            // Between the thresholds an onset does not begin, but speech goes on.
            ("mmmm", Free, &[]),
            (
                "vvvvvvmmmm.m.v",
                Free,
                &[(0, Onset), (5, Confirmed), (10, Silence), (13, Voice)],
            ),
            // Replying takes 80 ms in 160 ms; what comes too late begins anew.
            (
                "vv......vvvvv",
                Closing,
                &[(0, Onset), (7, Misfire), (8, Onset), (12, Confirmed)],
            ),
        ];
        for (script, floor, expected) in table {
            assert_eq!(run(script, floor), expected, "{script}");
        }
    }

    /// Voiced and silent frames of a backchannel at the configured limits.
    fn limits() -> (usize, usize) {
        let config = VadConfig::default();
        let count = |duration| frames(duration, FRAME) as usize;
        (count(config.backchannel), count(config.backchannel_silence))
    }

    #[test]
    fn a_short_voice_does_not_take_the_floor() {
        let (voice, silence) = limits();
        let short = "v".repeat(voice - 1) + &".".repeat(silence);
        assert_eq!(
            run(&short, Floor::Taken),
            [(0, Onset), (4, Doubt), (voice + silence - 2, Misfire)]
        );
        // The same sound is a reply when the assistant is done.
        assert_eq!(
            run(&short, Floor::Closing)[..2],
            [(0, Onset), (4, Confirmed)]
        );
        let long = "v".repeat(voice);
        assert_eq!(
            run(&long, Floor::Taken),
            [(0, Onset), (4, Doubt), (voice - 1, Confirmed)]
        );
        // A gap that is shorter than the end of a voice does not matter.
        let halves = "v".repeat(voice / 2) + &".".repeat(silence - 1) + &"v".repeat(voice);
        let confirmed = voice + silence - 2;
        assert_eq!(
            run(&halves, Floor::Taken),
            [(0, Onset), (4, Doubt), (confirmed, Confirmed)]
        );
    }

    #[test]
    fn words_decide_a_doubt() {
        let (voice, silence) = limits();
        let doubtful = || {
            let mut gate = Gate::new(&VadConfig::default(), FRAME);
            for _ in 0..voice - 1 {
                gate.push(1.0, Floor::Taken);
            }
            gate
        };
        let mut gate = doubtful();
        assert_eq!(gate.confirm(), Some(Confirmed));
        assert_eq!(gate.state(), GateState::Speaking);
        assert_eq!((gate.confirm(), gate.dismiss()), (None, None));

        let mut gate = doubtful();
        gate.push(0.0, Floor::Taken);
        assert_eq!(gate.confirm(), Some(Confirmed));
        assert_eq!(gate.state(), GateState::Stopping);

        let mut gate = doubtful();
        assert_eq!(gate.dismiss(), Some(Misfire));
        assert_eq!(gate.state(), GateState::Quiet);

        // Words that are on their way are waited for, but not for ever.
        let mut gate = doubtful();
        gate.await_words();
        assert!((0..silence).all(|_| gate.push(0.0, Floor::Taken).is_none()));
        assert!((0..100).any(|_| gate.push(0.0, Floor::Taken) == Some(Misfire)));
    }

    #[test]
    fn interrupting_takes_surer_frames() {
        let config = VadConfig::default();
        let mut gate = Gate::new(&config, FRAME);
        let unsure = (config.threshold + config.interrupt_threshold) / 2.0;
        assert!((0..50).all(|_| gate.push(unsure, Floor::Taken).is_none()));
        assert_eq!(gate.push(unsure, Floor::Free), Some(Onset));
    }

    #[test]
    fn an_onset_is_decided_within_its_window() {
        for floor in [Floor::Free, Floor::Closing, Floor::Taken] {
            for bits in 0u32..1 << 14 {
                let mut gate = Gate::new(&VadConfig::default(), FRAME);
                assert_eq!(gate.push(1.0, floor), Some(Onset));
                let decided =
                    (0..14).any(|bit| gate.push((bits >> bit & 1) as f32, floor).is_some());
                assert!(decided, "{bits:b} left the gate starting for over 240 ms");
            }
        }
    }

    #[test]
    fn a_doubt_is_decided_whatever_comes() {
        for period in 2..20 {
            let mut gate = Gate::new(&VadConfig::default(), FRAME);
            for _ in 0..5 {
                gate.push(1.0, Floor::Taken);
            }
            assert_eq!(gate.state(), GateState::Doubtful);
            let decided = (0..120).any(|n| {
                let score = if n % period == 0 { 1.0 } else { 0.0 };
                gate.push(score, Floor::Taken).is_some()
            });
            assert!(decided, "undecided with every {period}. frame voiced");
        }
    }

    #[test]
    fn long_frames_take_as_long() {
        let mut gate = Gate::new(&VadConfig::default(), 2 * FRAME);
        let changes: Vec<_> = (0..20)
            .filter_map(|at| gate.push(1.0, Floor::Taken).map(|change| (at, change)))
            .collect();
        let confirmed = frames(VadConfig::default().backchannel, 2 * FRAME) as usize - 1;
        assert_eq!(changes, [(0, Onset), (2, Doubt), (confirmed, Confirmed)]);
    }

    #[test]
    fn ending_closes_the_gate() {
        let mut gate = Gate::new(&VadConfig::default(), FRAME);
        for _ in 0..6 {
            gate.push(1.0, Floor::Free);
        }
        assert_eq!(gate.state(), GateState::Speaking);
        gate.end();
        assert_eq!(gate.push(1.0, Floor::Free), Some(Onset));
    }
}

//! The four-state voice gate: scores in, beginnings and ends of speech out. No audio, no clock.
//!
//! | State | Frame | Next | Change |
//! | --- | --- | --- | --- |
//! | quiet | voiced | starting | `Onset` |
//! | starting | enough voiced frames in the window | speaking | `Confirmed` |
//! | starting | can no longer become enough | quiet | `Misfire` |
//! | speaking | below the release threshold | stopping | `Silence` |
//! | stopping | voiced | speaking | `Voice` |
//! | stopping | [`Gate::end`] | quiet | |
//!
//! A single voiced frame never ends an answer: while the assistant is audible a frame must score higher to count, and
//! the voice must come together within a window that coughs and clicks do not fill.

use std::time::Duration;

use crate::config::VadConfig;

/// Where the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateState {
    /// Nobody speaks.
    Quiet,
    /// There was a voiced frame; it may yet be noise.
    Starting,
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
    /// The onset was noise.
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
}

impl Confirmation {
    fn new(threshold: f32, voice: Duration, within: Duration, frame: Duration) -> Self {
        let frames = |duration: Duration| duration.as_nanos().div_ceil(frame.as_nanos()) as u32;
        let window = frames(within).max(1);
        Self {
            threshold,
            needed: frames(voice).clamp(1, window),
            window,
        }
    }
}

/// The gate. One per call.
#[derive(Clone, Debug)]
pub struct Gate {
    idle: Confirmation,
    audible: Confirmation,
    release: f32,
    state: GateState,
    /// The rules of the current onset; they do not change in the middle of it when output is held.
    rules: Confirmation,
    /// Frames since the onset, its own included.
    since_onset: u32,
    /// How many of them were voiced.
    voiced: u32,
    /// Frames since the last voiced one.
    silent: u32,
}

impl Gate {
    /// A quiet gate for detector frames of length `frame`.
    pub fn new(config: &VadConfig, frame: Duration) -> Self {
        let idle = Confirmation::new(
            config.threshold,
            config.confirm,
            config.confirm_within,
            frame,
        );
        Self {
            idle,
            audible: Confirmation::new(
                config.interrupt_threshold,
                config.interrupt,
                config.interrupt_within,
                frame,
            ),
            release: config.release_threshold,
            state: GateState::Quiet,
            rules: idle,
            since_onset: 0,
            voiced: 0,
            silent: 0,
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

    /// Takes the score of the next frame. `audible`: whether the caller hears the assistant.
    pub fn push(&mut self, score: f32, audible: bool) -> Option<GateChange> {
        if self.state == GateState::Quiet {
            self.rules = if audible { self.audible } else { self.idle };
        }
        let voiced = match self.state {
            GateState::Quiet | GateState::Starting => score >= self.rules.threshold,
            GateState::Speaking => score >= self.release,
            GateState::Stopping => score >= self.idle.threshold,
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
        let Confirmation { needed, window, .. } = self.rules;
        if self.voiced >= needed {
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
    fn run(script: &str, audible: bool) -> Vec<(usize, GateChange)> {
        let mut gate = Gate::new(&VadConfig::default(), FRAME);
        script
            .chars()
            .enumerate()
            .filter_map(|(at, frame)| {
                let score = match frame {
                    'v' => 0.95,
                    'm' => 0.5 * (gate.release + gate.idle.threshold),
                    _ => 0.0,
                };
                gate.push(score, audible).map(|change| (at, change))
            })
            .collect()
    }

    #[test]
    fn transitions() {
        let table: [(&str, bool, &[_]); 7] = [
            ("......", false, &[]),
            // 96 ms of voice.
            (".vvvvvv", false, &[(1, Onset), (6, Confirmed)]),
            // 96 ms of voice in 160 ms.
            ("v.vv.vvv", false, &[(0, Onset), (7, Confirmed)]),
            // A click: with five silent frames six voiced ones no longer fit into ten.
            ("v......", false, &[(0, Onset), (5, Misfire)]),
            // Between the thresholds an onset does not begin, but speech goes on.
            ("mmmm", false, &[]),
            (
                "vvvvvvmmmm.m.v",
                false,
                &[(0, Onset), (5, Confirmed), (10, Silence), (13, Voice)],
            ),
            // Interrupting takes 80 ms in 160 ms; what comes too late begins anew.
            (
                "vv......vvvvv",
                true,
                &[(0, Onset), (7, Misfire), (8, Onset), (12, Confirmed)],
            ),
        ];
        for (script, audible, expected) in table {
            assert_eq!(run(script, audible), expected, "{script}");
        }
    }

    #[test]
    fn interrupting_takes_surer_frames() {
        let config = VadConfig::default();
        let mut gate = Gate::new(&config, FRAME);
        let unsure = (config.threshold + config.interrupt_threshold) / 2.0;
        assert!((0..50).all(|_| gate.push(unsure, true).is_none()));
        assert_eq!(gate.push(unsure, false), Some(Onset));
    }

    #[test]
    fn an_onset_is_decided_within_its_window() {
        for audible in [false, true] {
            for bits in 0u32..1 << 14 {
                let mut gate = Gate::new(&VadConfig::default(), FRAME);
                assert_eq!(gate.push(1.0, audible), Some(Onset));
                let decided =
                    (0..14).any(|bit| gate.push((bits >> bit & 1) as f32, audible).is_some());
                assert!(decided, "{bits:b} left the gate starting for over 240 ms");
            }
        }
    }

    #[test]
    fn ending_closes_the_gate() {
        let mut gate = Gate::new(&VadConfig::default(), FRAME);
        for _ in 0..6 {
            gate.push(1.0, false);
        }
        assert_eq!(gate.state(), GateState::Speaking);
        gate.end();
        assert_eq!(gate.push(1.0, false), Some(Onset));
    }
}

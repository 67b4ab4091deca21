//! From the words of an answer to its sound.

use std::time::Duration;

use super::{Action, DRAIN_GRACE, Machine, Moment};
use crate::{
    playout::{PlayoutEvent, SegmentIndex},
    provider::ProviderError,
    turn::{Component, TurnEvent, sentence::SpokenSpan},
};

impl Machine {
    /// Hands waiting segments to synthesis and notices when there is nothing left to do.
    pub(super) fn pump(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let turn = active.turn;
        while active.in_flight < self.config.tts_lookahead
            && let Some(segment) = active.waiting.pop_front()
        {
            if !active.output_open {
                active.output_open = true;
                out.push(Action::OpenOutput { turn });
                if active.held {
                    out.push(Action::Hold { turn });
                }
            }
            active.timing.tts_request.get_or_insert(at.now);
            active.in_flight += 1;
            let index = active.spans.len() as SegmentIndex;
            active.spans.push(SpokenSpan {
                span: segment.span,
                audio: Duration::ZERO,
                complete: false,
            });
            out.push(Action::Synthesise {
                turn,
                index,
                text: segment.text,
            });
        }
        let spoken_out = active.text_done && active.in_flight == 0 && active.waiting.is_empty();
        if !spoken_out || active.drained_by.is_some() {
            return;
        }
        let audio = active.audio();
        if !audio.is_zero() {
            active.drained_by = Some(at.now + audio + DRAIN_GRACE);
            out.push(Action::FinishOutput { turn });
        } else if let Some(error) = active.lost.take() {
            // One lost sentence is a stumble; all there was is a failed turn (TT2).
            self.fail_provider(Component::Tts, error, at, out);
        } else {
            self.complete(at, out);
        }
    }

    pub(super) fn audio_queued(
        &mut self,
        segment: SegmentIndex,
        audio: Duration,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(span) = active.spans.get_mut(segment as usize) else {
            return;
        };
        span.audio += audio;
        active.playing_until = Some(active.playing_until.unwrap_or(at.now).max(at.now) + audio);
        active.timing.tts_first_audio.get_or_insert(at.now);
        if !active.speaking {
            active.speaking = true;
            out.push(Action::Emit(TurnEvent::SpeechStarted { turn: active.turn }));
        }
    }

    pub(super) fn segment_done(
        &mut self,
        segment: SegmentIndex,
        result: Result<(), ProviderError>,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some(span) = active.spans.get_mut(segment as usize) {
            span.complete = true;
        }
        active.in_flight = active.in_flight.saturating_sub(1);
        match result {
            Ok(()) => active.failures = 0,
            Err(error) => {
                active.failures += 1;
                if active.failures >= 2 {
                    self.fail_provider(Component::Tts, error, at, out);
                    return;
                }
                active.lost = Some(error);
            }
        }
        self.pump(at, out);
    }

    pub(super) fn playout(&mut self, event: PlayoutEvent, at: Moment, out: &mut Vec<Action>) {
        let Some(active) = &mut self.active else {
            return;
        };
        match event {
            PlayoutEvent::Started { at, .. } => {
                active.timing.first_audio.get_or_insert(at);
            }
            PlayoutEvent::Drained { .. } if active.drained_by.is_some() => self.complete(at, out),
            PlayoutEvent::Drained { .. } | PlayoutEvent::Underrun { .. } => {}
        }
    }

    pub(super) fn release(&mut self, at: Moment, out: &mut Vec<Action>) {
        if let Some(active) = &mut self.active
            && active.held
        {
            active.held = false;
            if active.drained_by.is_some() {
                active.drained_by = Some(at.now + active.audio() + DRAIN_GRACE);
            }
            if active.output_open {
                out.push(Action::Release { turn: active.turn });
            }
        }
    }
}

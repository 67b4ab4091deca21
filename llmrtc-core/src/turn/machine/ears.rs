//! What the caller is doing.

use std::time::Instant;

use super::{
    Action, Machine, Moment, SttJob,
    transcripts::{Transcribing, TranscriptResult},
};
use crate::{
    id::TurnId,
    speech::SpeechEvent,
    turn::{TurnEvent, TurnTiming},
};

/// The voice, as far as it is known.
#[derive(Debug)]
pub(super) enum Ears {
    Quiet,
    /// Perhaps speaking.
    Onset {
        since: Instant,
        live: Option<SttJob>,
    },
    /// Speaking.
    Speaking {
        turn: TurnId,
        since: Instant,
        live: Option<SttJob>,
        /// Transcription begun in a pause.
        speculative: Option<Speculation>,
    },
}

#[derive(Debug)]
pub(super) struct Speculation {
    pub(super) job: SttJob,
    pub(super) result: Option<TranscriptResult>,
}

impl Machine {
    pub(super) fn speech(&mut self, event: SpeechEvent, at: Moment, out: &mut Vec<Action>) {
        match (std::mem::replace(&mut self.ears, Ears::Quiet), event) {
            (Ears::Quiet, SpeechEvent::Onset { at: since }) => {
                if let Some(active) = &mut self.active
                    && !active.held
                {
                    active.held = true;
                    if active.output_open {
                        out.push(Action::Hold { turn: active.turn });
                    }
                }
                let live = self.live.then(|| self.new_job());
                if let Some(job) = live {
                    out.push(Action::OpenLive {
                        job,
                        turn: self.last_turn.next(),
                    });
                }
                self.ears = Ears::Onset { since, live };
            }
            (Ears::Onset { live, .. }, SpeechEvent::Misfire) => {
                if let Some(job) = live {
                    out.push(Action::DropTranscription { job });
                }
                self.release(at, out);
                self.next_queued(at, out);
            }
            (Ears::Onset { since, live }, SpeechEvent::Confirmed) => {
                self.interrupt(at, out);
                let turn = self.new_turn(out);
                out.push(Action::Emit(TurnEvent::UserSpeechStarted));
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative: None,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live: None,
                    speculative,
                },
                SpeechEvent::Paused { utterance },
            ) if self.config.speculative_stt => {
                if let Some(stale) = speculative {
                    out.push(Action::DropTranscription { job: stale.job });
                }
                let job = self.new_job();
                out.push(Action::Transcribe {
                    job,
                    turn,
                    utterance,
                });
                let speculative = Some(Speculation { job, result: None });
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live: None,
                    speculative,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative,
                },
                SpeechEvent::Resumed,
            ) => {
                if let Some(stale) = speculative {
                    out.push(Action::DropTranscription { job: stale.job });
                }
                self.ears = Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative: None,
                };
            }
            (
                Ears::Speaking {
                    turn,
                    since,
                    live,
                    speculative,
                },
                SpeechEvent::Ended {
                    utterance,
                    last_voice,
                    ..
                },
            ) => {
                out.push(Action::Emit(TurnEvent::UserSpeechEnded));
                let mut result = None;
                let mut replay = None;
                let job = match (live, speculative) {
                    (Some(job), _) => {
                        out.push(Action::FinishLive { job });
                        replay = Some(utterance);
                        job
                    }
                    // What failed in the pause is tried again with the whole utterance.
                    (None, Some(early)) if !matches!(early.result, Some(Err(_))) => {
                        result = early.result;
                        early.job
                    }
                    (None, _) => {
                        let job = self.new_job();
                        out.push(Action::Transcribe {
                            job,
                            turn,
                            utterance,
                        });
                        job
                    }
                };
                let timing = TurnTiming {
                    last_voice: Some(last_voice),
                    decided: Some(at.now),
                    ..TurnTiming::default()
                };
                let entry = Transcribing {
                    turn,
                    job,
                    since: Some(since),
                    timing,
                    replay,
                    attachments: Vec::new(),
                    result,
                };
                self.enqueue(entry, at, out);
                self.settle_transcripts(at, out);
            }
            // Everything else is live audio for the driver, or does not change who is speaking.
            (ears, _) => self.ears = ears,
        }
    }
}

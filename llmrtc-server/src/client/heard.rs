//! What the caller noticed: during the call, and since the step in progress began.

use std::time::{Duration, Instant};

use llmrtc_media::pipeline::ReceivedFrame;
use llmrtc_signal::protocol::ServerMessage;

use super::meter::Meter;

/// Silence that separates one spoken answer from the next.
const ANSWER_GAP: Duration = Duration::from_millis(600);
/// The same after an answer was cut: what is heard then is a new one.
const CUT_GAP: Duration = Duration::from_millis(120);

/// What was noticed.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// An utterance has begun that was not transcribed yet.
    listening: bool,
    /// A question was transcribed whose answer is not audible yet. Utterances may be merged into one question, so they
    /// cannot be counted against answers.
    asked: bool,
    /// Answers that are audible.
    open: u32,
    /// An answer was cut, and nothing was heard since.
    cut: bool,
    meter: Meter,
    pub(super) step: Since,
}

/// What was noticed since the caller began this step.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Whether the caller says something in this step. If so, what the server says before the transcript belongs to the
    /// answer of the step before.
    speaks: bool,
    /// When the line began to play.
    pub(super) began: Option<Instant>,
    /// When its first and its last voiced samples were sent.
    pub(super) voice: Option<(Instant, Instant)>,
    pub(super) transcripts: Vec<String>,
    answers: Vec<String>,
    /// The answer that is being written.
    writing: String,
    /// When an answer became audible after the line.
    pub(super) audible: Option<Instant>,
    /// From the end of speech to then.
    pub(super) response: Option<Duration>,
    /// An answer was cut.
    pub(super) interrupted: bool,
    /// When the answer that was cut was last heard.
    last_of_cut: Option<Instant>,
    /// An answer came to its end.
    pub(super) complete: bool,
    /// Something came to its end: an answer, a failure, or an utterance without words.
    ended: bool,
    /// Codes of the errors that the server reported.
    pub(super) errors: Vec<String>,
}

impl Heard {
    /// Begins a step and returns what was noticed in the one before.
    pub(super) fn begin(&mut self, speaks: bool) -> Since {
        let next = Since {
            speaks,
            ..Since::default()
        };
        std::mem::replace(&mut self.step, next)
    }

    pub(super) fn message(&mut self, message: &ServerMessage) {
        let step = &mut self.step;
        match message {
            ServerMessage::SpeechStart => self.listening = true,
            ServerMessage::Transcript {
                text,
                is_final: true,
            } => {
                self.listening = false;
                if text.is_empty() {
                    step.ended = true;
                } else {
                    self.asked = true;
                    step.transcripts.push(text.clone());
                }
            }
            ServerMessage::LlmChunk { content, .. } if step.answers_this() => {
                step.writing.push_str(content);
            }
            ServerMessage::Llm { text } if step.answers_this() => {
                step.writing.clear();
                step.answers.push(text.clone());
            }
            ServerMessage::TtsStart => {
                self.asked = false;
                self.open += 1;
            }
            ServerMessage::TtsComplete => {
                self.open = self.open.saturating_sub(1);
                step.ended = true;
                step.complete = true;
            }
            ServerMessage::TtsCancelled => {
                self.open = self.open.saturating_sub(1);
                self.cut = true;
                step.ended = true;
                step.interrupted = true;
            }
            ServerMessage::Error { code, .. } => {
                self.listening = false;
                self.asked = false;
                step.ended = true;
                step.errors.push(code.to_string());
            }
            _ => {}
        }
    }

    /// Takes a frame and says whether an answer became audible in it.
    pub(super) fn frame(&mut self, frame: &ReceivedFrame) -> bool {
        let last = self.meter.last_audible();
        let gap = if self.cut { CUT_GAP } else { ANSWER_GAP };
        let onset = self.meter.hear(frame, gap);
        if !self.step.speaks && self.step.audible.is_none() && self.meter.last_audible() != last {
            // Who only listens may have come in the middle of an answer.
            self.step.audible = Some(onset.unwrap_or(frame.at));
        }
        let Some(at) = onset else {
            return false;
        };
        let cut = std::mem::take(&mut self.cut);
        let step = &mut self.step;
        if cut {
            step.last_of_cut = last;
        }
        match step.voice {
            Some((_, end)) if at > end && step.response.is_none() => {
                step.response = Some(at - end);
                step.audible = Some(at);
            }
            _ => {}
        }
        true
    }

    /// When the server's voice was last heard.
    pub(super) fn last_audible(&self) -> Option<Instant> {
        self.meter.last_audible()
    }

    /// An answer is being spoken.
    pub(super) fn is_talking(&self) -> bool {
        // The sound may be here before the message that it begins.
        self.open > 0 || !(self.step.complete || self.step.interrupted)
    }

    /// Everything that was asked has been answered, or has failed.
    pub(super) fn is_settled(&self) -> bool {
        !self.listening && !self.asked && self.open == 0 && self.step.ended
    }

    /// From the first voiced sample of an interruption to the last audible one of the answer that it cut.
    pub(super) fn yielded_in(&self) -> Option<Duration> {
        let (began, _) = self.step.voice.filter(|_| self.step.interrupted)?;
        let last = self.step.last_of_cut.or(self.last_audible())?;
        Some(last.saturating_duration_since(began))
    }
}

impl Since {
    fn answers_this(&self) -> bool {
        !self.speaks || !self.transcripts.is_empty()
    }

    pub(super) fn transcript(&self) -> String {
        self.transcripts.join(" ")
    }

    /// The answers, with what is there of the one that is being written.
    pub(super) fn reply(&self) -> String {
        let unfinished = self.writing.trim();
        let answers = self.answers.iter().map(String::as_str);
        let parts: Vec<_> = answers
            .chain((!unfinished.is_empty()).then_some(unfinished))
            .collect();
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_signal::protocol::ErrorCode;

    use super::*;

    fn transcript(text: &str) -> ServerMessage {
        ServerMessage::Transcript {
            text: text.to_owned(),
            is_final: true,
        }
    }

    /// Whether the caller hangs up after each of the messages.
    fn settled<const N: usize>(messages: [ServerMessage; N]) -> [bool; N] {
        let mut heard = Heard::default();
        messages.map(|message| {
            heard.message(&message);
            heard.is_settled()
        })
    }

    #[test]
    fn the_caller_stays_until_everything_is_answered() {
        use ServerMessage::{SpeechEnd, SpeechStart, TtsCancelled, TtsComplete, TtsStart};

        let error = || ServerMessage::error(ErrorCode::LlmError);
        // One question.
        assert_eq!(
            settled([
                SpeechStart,
                SpeechEnd,
                transcript("a"),
                TtsStart,
                TtsComplete
            ]),
            [false, false, false, false, true]
        );
        // Two utterances that became one question.
        assert_eq!(
            settled([
                SpeechStart,
                SpeechEnd,
                transcript("a"),
                SpeechStart,
                SpeechEnd,
                transcript("b"),
                TtsStart,
                TtsComplete,
            ])[6..],
            [false, true]
        );
        // Two questions.
        assert_eq!(
            settled([
                SpeechStart,
                transcript("a"),
                TtsStart,
                SpeechStart,
                TtsCancelled,
                transcript("b"),
                TtsStart,
                TtsComplete,
            ])[4..],
            [false, false, false, true]
        );
        // Nothing was said, a question failed, an answer broke off.
        assert_eq!(
            settled([SpeechStart, SpeechEnd, transcript("")]),
            [false, false, true]
        );
        assert_eq!(
            settled([SpeechStart, transcript("a"), error()]),
            [false, false, true]
        );
        assert_eq!(settled([SpeechStart, error()]), [false, true]);
        assert_eq!(
            settled([transcript("a"), TtsStart, error(), TtsCancelled]),
            [false, false, false, true]
        );
        // A cough does not end the wait for an answer.
        assert_eq!(
            settled([
                transcript("a"),
                SpeechStart,
                transcript(""),
                TtsStart,
                TtsComplete
            ]),
            [false, false, false, false, true]
        );
    }
}

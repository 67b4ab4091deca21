//! What a conversation is about to collect, and identifiers that callers say over several turns.
//!
//! A card number comes in pieces: "four one one one", "mm-hm", "one one one one", "go on", … The state remembers what was asked
//! for or announced until the agent asks for something else or enough digits came, so that every piece is taken out.
//! Where nobody announced anything, the digits of the last few turns are kept until they join to a valid card number;
//! then the earlier turns' places are reported, to be taken out afterwards.
//!
//! Kept between turns: digits and byte offsets of at most [`TURNS`] turns, wiped when they leave. No text.

use std::{collections::VecDeque, fmt};

use zeroize::Zeroize;

use super::{
    context::Asked,
    detector::Lang,
    kind::Kind,
    spoken::{self, DigitGroup},
};

/// User turns whose digits are remembered.
pub const TURNS: usize = 8;
/// Digits remembered of one turn.
const TURN_DIGITS: usize = 24;
/// Digits after which a card number is taken to be whole: the most common length, of those ISO/IEC 7812-1 allows.
const CARD_DIGITS: usize = 16;
/// Turns without a digit after which nothing is being collected any more.
const PATIENCE: u8 = 3;

/// The turn of a user, counted by whoever feeds the state. Later reports of the same turn replace earlier ones.
pub type TurnNumber = u64;

/// A place in an earlier turn that turned out to be part of an identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierSpan {
    /// The turn.
    pub turn: TurnNumber,
    /// First byte in the turn's text as it was last reported.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
    /// What it is part of.
    pub kind: Kind,
}

/// What one session's conversation is about to collect.
#[derive(Clone, Default)]
pub struct DialogueState {
    /// What the agent last asked for, or the caller announced, and has not got yet.
    expects: Asked,
    /// Turns of the user since then without a digit.
    idle: u8,
    /// Digits since then.
    collected: usize,
    turns: VecDeque<Turn>,
}

/// The digits of one user turn.
#[derive(Clone)]
struct Turn {
    number: TurnNumber,
    /// Digits as ASCII.
    digits: Vec<u8>,
    /// For each run of digits: bytes of the text, and the digits it holds.
    runs: Vec<DigitGroup>,
    /// The state before this turn, to which a revision goes back.
    before: (Asked, u8, usize),
    /// Whether its places were reported already.
    reported: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.digits.zeroize();
    }
}

impl fmt::Debug for DialogueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialogueState")
            .field("expects", &self.expects)
            .field("turns", &self.turns.len())
            .finish_non_exhaustive()
    }
}

impl DialogueState {
    /// What the next user turn is expected to hold.
    pub(crate) fn expects(&self) -> Asked {
        self.expects
    }

    /// What the agent said, whole. Asking for something new ends what was being collected; "mm-hm" and "go on" do not.
    pub fn heard_agent(&mut self, text: &str, lang: Option<Lang>) {
        let lang = lang.unwrap_or_else(|| spoken::language(text, None));
        let asked = Asked::by(text, lang);
        // "and the next four digits" asks for more of the same.
        let more = asked == Asked::NUMBER && self.expects.any(Asked::DIGITS);
        if !asked.is_empty() && asked != self.expects && !more {
            self.expects = asked;
            self.collected = 0;
            self.idle = 0;
        }
    }

    /// What the user said in turn `turn`, so far. Again with the same number: the recogniser revised it.
    ///
    /// Returns places in *earlier* turns that are part of a card number which this turn completes. Those of this turn
    /// are found by the detector, to which the state is shown.
    pub fn heard_user(
        &mut self,
        turn: TurnNumber,
        text: &str,
        lang: Option<Lang>,
    ) -> Vec<EarlierSpan> {
        if self.turns.back().is_some_and(|last| last.number == turn)
            && let Some(revised) = self.turns.pop_back()
        {
            (self.expects, self.idle, self.collected) = revised.before;
        }
        let before = (self.expects, self.idle, self.collected);
        let lang = lang.unwrap_or_else(|| spoken::language(text, None));
        let (announced, groups, mut digits) = spoken::digit_groups(text, lang);
        if announced.any(Asked::DIGITS) && announced != self.expects {
            self.expects = announced;
            self.collected = 0;
            self.idle = 0;
        }
        if digits.is_empty() {
            self.idle = self.idle.saturating_add(1);
        } else {
            self.idle = 0;
            self.collected += digits.len();
        }
        if self.idle >= PATIENCE || self.is_complete() {
            self.expects = Asked::NOTHING;
        }
        if digits.len() > TURN_DIGITS {
            digits.zeroize();
            digits.clear();
        }
        self.turns.push_back(Turn {
            number: turn,
            digits,
            runs: groups,
            before,
            reported: false,
        });
        if self.turns.len() > TURNS {
            self.turns.pop_front();
        }
        self.joined()
    }

    /// Whether as many digits came as a card has; other things are complete when the agent asks for the next.
    fn is_complete(&self) -> bool {
        self.expects.any(Asked::CARD) && self.collected >= CARD_DIGITS
    }

    /// The turns whose digits join to a valid card number that ends in the last turn.
    fn joined(&mut self) -> Vec<EarlierSpan> {
        let mut joined = Vec::new();
        let mut found = None;
        for at in (0..self.turns.len()).rev() {
            let mut longer = Vec::with_capacity(self.turns[at].digits.len() + joined.len());
            longer.extend_from_slice(&self.turns[at].digits);
            longer.extend_from_slice(&joined);
            joined.zeroize();
            joined = longer;
            if joined.len() > 19 {
                break;
            }
            let last = at + 1 == self.turns.len();
            if !last && joined.len() >= 13 && spoken::luhn(&joined) && is_issued(&joined) {
                found = Some(at);
            }
        }
        joined.zeroize();
        let Some(first) = found else {
            return Vec::new();
        };
        let last = self.turns.len() - 1;
        let mut spans = Vec::new();
        for turn in self
            .turns
            .range_mut(first..last)
            .filter(|turn| !turn.reported)
        {
            turn.reported = true;
            spans.extend(turn.runs.iter().map(|run| EarlierSpan {
                turn: turn.number,
                start: run.start,
                end: run.end,
                kind: Kind::Card,
            }));
        }
        spans
    }

    /// Places in turn `turn` that complete a card number begun in earlier turns, whatever the detector makes of them.
    pub fn completes(&self, turn: TurnNumber) -> Vec<EarlierSpan> {
        let Some(last) = self.turns.back().filter(|last| last.number == turn) else {
            return Vec::new();
        };
        if !self.turns.iter().any(|turn| turn.reported) {
            return Vec::new();
        }
        last.runs
            .iter()
            .map(|run| EarlierSpan {
                turn,
                start: run.start,
                end: run.end,
                kind: Kind::Card,
            })
            .collect()
    }
}

/// Whether a number begins as those of the card networks do: 2–6 (ISO/IEC 7812-1).
fn is_issued(digits: &[u8]) -> bool {
    matches!(digits.first(), Some(b'2'..=b'6'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::{
        detector::{Context, Detector, Span},
        spoken::SpokenDetector,
    };

    /// Plays a dialogue; every user turn must lose exactly the given words.
    #[track_caller]
    fn play(lines: &[(&str, &str, &[&str])]) {
        let mut state = DialogueState::default();
        let mut previous: Option<&str> = None;
        for (turn, (who, text, gone)) in (0..).zip(lines) {
            if *who == "agent" {
                state.heard_agent(text, Some(Lang::En));
                previous = Some(text);
                continue;
            }
            let mut spans: Vec<Span> = Vec::new();
            let context = Context {
                previous,
                lang: Some(Lang::En),
                dialogue: Some(&state),
            };
            SpokenDetector::default().detect(text, &context, &mut spans);
            let taken: Vec<&str> = spans
                .iter()
                .map(|span| &text[span.start..span.end])
                .collect();
            assert_eq!(&taken, gone, "{text:?}");
            state.heard_user(turn, text, Some(Lang::En));
        }
    }

    #[test]
    fn e1_a_card_over_three_turns_loses_every_piece() {
        play(&[
            ("agent", "what's your card number please", &[]),
            ("user", "sure it's four one one one", &["four one one one"]),
            ("agent", "mm-hm", &[]),
            ("user", "eleven eleven eleven", &["eleven eleven eleven"]),
            ("agent", "go on", &[]),
            ("user", "eleven eleven one one", &["eleven eleven one one"]),
            ("agent", "thanks how many people", &[]),
        ]);
    }

    #[test]
    fn e1_asking_for_the_next_digits_goes_on() {
        play(&[
            ("agent", "what's your card number please", &[]),
            ("user", "four one one one", &["four one one one"]),
            ("agent", "and the next four digits", &[]),
            ("user", "three four", &["three four"]),
            ("agent", "go on", &[]),
            ("user", "um seven", &["seven"]),
        ]);
    }

    #[test]
    fn e1_an_announced_card_is_collected_too() {
        play(&[
            ("agent", "how can i help", &[]),
            (
                "user",
                "my card number is five five five five",
                &["five five five five"],
            ),
            ("agent", "okay", &[]),
            ("user", "three four", &["three four"]),
            ("agent", "yes", &[]),
            ("user", "ten forty five", &["ten forty five"]),
        ]);
    }

    #[test]
    fn e1_the_next_question_ends_the_collection() {
        play(&[
            ("agent", "what's your card number please", &[]),
            ("user", "four one one one", &["four one one one"]),
            ("agent", "and what time should we book the table", &[]),
            ("user", "seven thirty", &["seven thirty"]),
        ]);
    }

    #[test]
    fn e1_pieces_that_join_to_a_card_are_reported_afterwards() {
        let mut state = DialogueState::default();
        assert!(
            state
                .heard_user(1, "take down four one one one", Some(Lang::En))
                .is_empty()
        );
        assert!(
            state
                .heard_user(2, "then eleven eleven eleven eleven", Some(Lang::En))
                .is_empty()
        );
        let spans = state.heard_user(3, "and one one one one", Some(Lang::En));
        let places: Vec<_> = spans
            .iter()
            .map(|span| (span.turn, span.start, span.end))
            .collect();
        assert_eq!(places, [(1, 10, 26), (2, 5, 32)]);
        assert_eq!(state.completes(3).len(), 1);
    }

    #[test]
    fn e1_a_revision_replaces_what_the_turn_said() {
        let mut state = DialogueState::default();
        state.heard_user(1, "four one one one eleven eleven", Some(Lang::En));
        state.heard_user(2, "eleven eleven eleven", Some(Lang::En));
        state.heard_user(2, "eleven of them", Some(Lang::En));
        assert!(state.heard_user(3, "one one", Some(Lang::En)).is_empty());
    }

    #[test]
    fn memory_stays_bounded_and_unprinted() {
        let mut state = DialogueState::default();
        for turn in 0..100 {
            state.heard_user(turn, &"one two three ".repeat(40), Some(Lang::En));
        }
        assert_eq!(state.turns.len(), TURNS);
        assert!(
            state
                .turns
                .iter()
                .all(|turn| turn.digits.len() <= TURN_DIGITS)
        );
        assert!(!format!("{state:?}").contains('1'));
    }
}

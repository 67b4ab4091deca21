use std::{fmt, sync::Arc, time::Duration};

use llmrtc_core::audio::SampleRate;

use super::{
    EndpointPolicy, Judgement, LONGEST_JUDGED, Pause, Pending, TurnJudge, Verdict,
    silence::looks_unfinished,
};
use crate::config::SemanticConfig;

/// Ends a turn that sounds complete after a short pause, and holds one that does not. Whether it does is for a
/// [`TurnJudge`] to say; while none answers, the silence policy decides.
///
/// | Pause | Verdict |
/// | --- | --- |
/// | not yet judged, judged too late, or not judged at all | `Default` |
/// | judged complete | `End` |
/// | judged complete, but the live transcript looks unfinished | `Default` |
/// | judged incomplete, shorter than `hold` | `Hold`; judged again after `judge_every` |
/// | judged incomplete, `hold` long | `End` |
pub struct SemanticPolicy {
    config: SemanticConfig,
    judge: Arc<dyn TurnJudge>,
    /// What was asked and not yet answered, and how long the pause was then.
    asked: Option<(Pending, Duration)>,
    /// The newest judgement of this pause.
    complete: Option<bool>,
    /// How long the pause must be for the next question.
    next: Duration,
}

impl SemanticPolicy {
    /// A policy that has asked nothing yet.
    pub fn new(config: &SemanticConfig, judge: Arc<dyn TurnJudge>) -> Self {
        Self {
            next: config.judge_after,
            config: config.clone(),
            judge,
            asked: None,
            complete: None,
        }
    }

    /// Takes the answer, or gives it up when the next question is due.
    fn hear(&mut self, silence: Duration) {
        let Some((pending, since)) = &self.asked else {
            return;
        };
        match pending.answer() {
            Some(answer) => {
                self.complete = answer.map(|probability| probability >= self.config.threshold);
            }
            None if silence >= *since + self.config.judge_every => self.complete = None,
            None => return,
        }
        self.asked = None;
    }

    fn ask(&mut self, pause: &Pause<'_>) {
        let most = SampleRate::HZ_16000.samples_in(LONGEST_JUDGED);
        let audio = &pause.audio[pause.audio.len().saturating_sub(most)..];
        let (judgement, pending) = Judgement::new();
        self.asked = Some((pending, pause.silence));
        self.next = pause.silence + self.config.judge_every;
        self.judge.judge(audio.into(), judgement);
    }
}

impl EndpointPolicy for SemanticPolicy {
    fn assess(&mut self, pause: &Pause<'_>) -> Verdict {
        self.hear(pause.silence);
        if self.asked.is_none() && self.complete != Some(true) && pause.silence >= self.next {
            self.ask(pause);
            // A judge that answers on the spot is heard on the spot.
            self.hear(pause.silence);
        }
        match self.complete {
            Some(true) if pause.transcript.is_some_and(looks_unfinished) => Verdict::Default,
            Some(true) => Verdict::End,
            Some(false) if pause.silence >= self.config.hold => Verdict::End,
            Some(false) => Verdict::Hold,
            None => Verdict::Default,
        }
    }

    fn resumed(&mut self) {
        (self.asked, self.complete) = (None, None);
        self.next = self.config.judge_after;
    }
}

impl fmt::Debug for SemanticPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemanticPolicy")
            .field("complete", &self.complete)
            .field("asked", &self.asked.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the questions, so that a test answers when it likes.
    #[derive(Default)]
    struct Scripted(Mutex<Vec<(usize, Judgement)>>);

    impl TurnJudge for Scripted {
        fn judge(&self, audio: Arc<[i16]>, judgement: Judgement) {
            self.0.lock().unwrap().push((audio.len(), judgement));
        }
    }

    impl Scripted {
        fn take(&self) -> Vec<(usize, Judgement)> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    struct Case {
        judge: Arc<Scripted>,
        policy: SemanticPolicy,
        config: SemanticConfig,
        audio: Vec<i16>,
    }

    impl Case {
        fn new() -> Self {
            let judge = Arc::new(Scripted::default());
            let config = SemanticConfig::default();
            let policy = SemanticPolicy::new(&config, Arc::clone(&judge) as _);
            let audio = vec![0; 16_000 * 20];
            Self {
                judge,
                policy,
                config,
                audio,
            }
        }

        fn at(&mut self, silence: Duration, transcript: Option<&str>) -> Verdict {
            self.policy.assess(&Pause {
                audio: &self.audio,
                silence,
                transcript,
            })
        }
    }

    const MOMENT: Duration = Duration::from_millis(16);

    #[test]
    fn a_complete_turn_ends_as_soon_as_it_is_judged() {
        let mut case = Case::new();
        let after = case.config.judge_after;
        assert_eq!(case.at(after - MOMENT, None), Verdict::Default);
        assert!(case.judge.take().is_empty());
        assert_eq!(case.at(after, None), Verdict::Default);
        let (samples, judgement) = case.judge.take().pop().unwrap();
        assert_eq!(samples, 8 * 16_000);
        assert_eq!(case.at(after + MOMENT, None), Verdict::Default);
        judgement.deliver(case.config.threshold);
        assert_eq!(case.at(after + 2 * MOMENT, None), Verdict::End);
        assert!(case.judge.take().is_empty());
    }

    #[test]
    fn an_incomplete_turn_is_held_judged_again_and_ends_at_last() {
        let mut case = Case::new();
        let SemanticConfig {
            judge_after,
            judge_every,
            hold,
            ..
        } = case.config;
        case.at(judge_after, None);
        case.judge.take().pop().unwrap().1.deliver(0.0);
        assert_eq!(case.at(judge_after + MOMENT, None), Verdict::Hold);
        assert!(case.judge.take().is_empty());
        assert_eq!(case.at(judge_after + judge_every, None), Verdict::Hold);
        let again = case.judge.take().pop().unwrap().1;
        // Until the second answer the first one counts.
        assert_eq!(
            case.at(judge_after + judge_every + MOMENT, None),
            Verdict::Hold
        );
        again.deliver(0.0);
        assert_eq!(case.at(hold - MOMENT, None), Verdict::Hold);
        case.judge.take().pop().unwrap().1.deliver(0.0);
        assert_eq!(case.at(hold, None), Verdict::End);
    }

    #[test]
    fn failures_and_late_answers_leave_it_to_silence() {
        let mut case = Case::new();
        let (after, every) = (case.config.judge_after, case.config.judge_every);
        case.at(after, None);
        drop(case.judge.take());
        assert_eq!(case.at(after + MOMENT, None), Verdict::Default);
        // Asked again, and given up when the next question is due.
        assert_eq!(case.at(after + every, None), Verdict::Default);
        let late = case.judge.take().pop().unwrap().1;
        assert_eq!(case.at(after + 2 * every, None), Verdict::Default);
        assert!(late.is_void());
        late.deliver(1.0);
        assert_eq!(case.at(after + 2 * every + MOMENT, None), Verdict::Default);
    }

    #[test]
    fn going_on_makes_judgements_void() {
        let mut case = Case::new();
        let after = case.config.judge_after;
        case.at(after, None);
        let stale = case.judge.take().pop().unwrap().1;
        case.policy.resumed();
        assert!(stale.is_void());
        stale.deliver(1.0);
        assert_eq!(case.at(after - MOMENT, None), Verdict::Default);
        assert_eq!(case.at(after, None), Verdict::Default);
        assert_eq!(case.judge.take().len(), 1);
    }

    #[test]
    fn an_unfinished_transcript_is_not_cut_off() {
        let mut case = Case::new();
        let after = case.config.judge_after;
        case.at(after, None);
        case.judge.take().pop().unwrap().1.deliver(1.0);
        assert_eq!(case.at(after + MOMENT, Some("and then")), Verdict::Default);
        assert_eq!(case.at(after + MOMENT, Some("what then?")), Verdict::End);
    }

    #[test]
    fn a_judge_on_the_spot_is_heard_on_the_spot() {
        struct Sure;
        impl TurnJudge for Sure {
            fn judge(&self, _: Arc<[i16]>, judgement: Judgement) {
                judgement.deliver(1.0);
            }
        }
        let mut case = Case::new();
        case.policy = SemanticPolicy::new(&case.config, Arc::new(Sure));
        assert_eq!(case.at(case.config.judge_after, None), Verdict::End);
    }
}

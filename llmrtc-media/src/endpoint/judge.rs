use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

/// The most audio a judge gets: what the end of a turn sounds like shows in its last seconds.
pub const LONGEST_JUDGED: Duration = Duration::from_secs(8);

/// Judges audio somewhere else: a model on a thread of its own, or a service. Two questions are asked this way, each of
/// a judge of its own: is the caller done, and does a short word over the assistant's speech want the floor.
pub trait TurnJudge: Send + Sync {
    /// Judges `audio`, mono, 16 kHz, at most [`LONGEST_JUDGED`] of it, which ends now with the silence so far. Called on a
    /// media thread, so it must return at once; the judgement follows from wherever it is made. A judge with too much to
    /// do drops `judgement`, older ones first.
    fn judge(&self, audio: Arc<[i16]>, judgement: Judgement);
}

/// What a judge owes. Dropped without a word it says that there will be none.
pub struct Judgement(Weak<OnceLock<Option<f32>>>);

impl Judgement {
    /// A judgement to be made, and the place where it arrives.
    pub fn new() -> (Self, Pending) {
        let place = Arc::new(OnceLock::new());
        (Self(Arc::downgrade(&place)), Pending(place))
    }

    /// Delivers the probability, 0–1, that the answer is yes. Anything that is no number counts as failure.
    pub fn deliver(self, probability: f32) {
        let probability = Some(probability.clamp(0.0, 1.0)).filter(|p| !p.is_nan());
        self.settle(probability);
    }

    /// Whether nobody waits any more: the caller went on speaking. Work on it can be saved.
    pub fn is_void(&self) -> bool {
        self.0.strong_count() == 0
    }

    fn settle(&self, answer: Option<f32>) {
        if let Some(place) = self.0.upgrade() {
            // The first answer counts; dropping after delivery comes second.
            let _ = place.set(answer);
        }
    }
}

impl Drop for Judgement {
    fn drop(&mut self) {
        self.settle(None);
    }
}

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_void() {
            "Judgement(void)"
        } else {
            "Judgement(awaited)"
        })
    }
}

/// Where a [`Judgement`] arrives. Dropped, it makes the judgement void.
#[derive(Debug)]
pub struct Pending(Arc<OnceLock<Option<f32>>>);

impl Pending {
    /// The answer, once it is there: a probability, or `None` for a failure.
    pub fn answer(&self) -> Option<Option<f32>> {
        self.0.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_delivered_failed_or_void() {
        let (judgement, pending) = Judgement::new();
        assert_eq!(pending.answer(), None);
        judgement.deliver(0.25);
        assert_eq!(pending.answer(), Some(Some(0.25)));

        let (judgement, pending) = Judgement::new();
        drop(judgement);
        assert_eq!(pending.answer(), Some(None));

        let (judgement, pending) = Judgement::new();
        judgement.deliver(f32::NAN);
        assert_eq!(pending.answer(), Some(None));

        let (judgement, pending) = Judgement::new();
        judgement.deliver(7.0);
        assert_eq!(pending.answer(), Some(Some(1.0)));

        let (judgement, pending) = Judgement::new();
        assert!(!judgement.is_void());
        drop(pending);
        assert!(judgement.is_void());
        judgement.deliver(0.5);
    }
}

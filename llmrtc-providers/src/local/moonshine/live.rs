use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, Fuse},
};
use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    provider::{ErrorKind, ProviderError, SttResult},
};

use super::{
    Engine, NAME,
    agreement::Agreement,
    audio::{LONGEST, Levels, quietest},
    network::Heard,
    result,
};
use crate::local::pool::Priority;

const RATE: SampleRate = SampleRate::HZ_16000;
/// A hypothesis is made for so much new audio: 400 ms.
const HYPOTHESIS_EVERY: usize = 6_400;
/// After a hypothesis, that many times as long passes before the next: a session that listens takes at most a quarter
/// of a thread, and less audio is heard twice when threads are scarce.
const REST: u32 = 3;
/// How often the end of the audio is checked for a pause: 100 ms.
const LOOK_EVERY: usize = 1_600;
/// So much quiet says that a word has ended: 160 ms. A hypothesis that ends in it has heard all that was said.
const WORD_END: usize = 2_560;
/// A segment this long, 6 s, is final in the next pause.
const SEGMENT: usize = 96_000;
/// So much quiet ends a segment: 400 ms.
const SEGMENT_END: usize = 6_400;
/// The most audio of one call, 30 min: whoever speaks longer has forgotten to hang up.
const MOST: usize = 30 * 60 * 16_000;

type Recognition = BoxFuture<'static, Result<(usize, Heard), ProviderError>>;

/// One utterance that is recognised while it is spoken.
pub(super) struct Live {
    engine: Engine,
    frames: Fuse<BoxStream<'static, PcmChunk>>,
    /// The audio of the current segment. Shared with a hypothesis that waits, so that it hears the newest when it begins.
    segment: Arc<Mutex<Vec<i16>>>,
    /// How loud it is.
    levels: Levels,
    /// Segments that are complete, oldest first, with their text where a hypothesis had heard all of it.
    complete: VecDeque<(Vec<i16>, Option<Heard>)>,
    work: Option<Work>,
    /// The newest hypothesis and how many samples of the segment it has heard.
    hypothesis: Option<(usize, Heard)>,
    agreement: Agreement,
    /// How long the segment must be for the next hypothesis.
    next_at: usize,
    /// How long the segment was when its end was looked at, and how much of it was quiet.
    looked: (usize, usize),
    /// Samples of all segments.
    total: usize,
    ended: bool,
    answered: bool,
}

struct Work {
    kind: Kind,
    since: Instant,
    recognition: Recognition,
}

enum Kind {
    /// What is understood so far. Holds how many samples it hears, 0 until it begins.
    Hypothesis(Arc<AtomicUsize>),
    /// The text of a complete segment.
    Segment,
}

impl Live {
    pub(super) fn new(engine: Engine, frames: BoxStream<'static, PcmChunk>) -> Self {
        Self {
            engine,
            frames: frames.fuse(),
            segment: Arc::default(),
            levels: Levels::default(),
            complete: VecDeque::new(),
            work: None,
            hypothesis: None,
            agreement: Agreement::default(),
            next_at: HYPOTHESIS_EVERY,
            looked: (0, 0),
            total: 0,
            ended: false,
            answered: false,
        }
    }

    /// The next result; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<SttResult, ProviderError>> {
        loop {
            if self.ended && !self.is_worth_waiting() {
                self.complete_segment(usize::MAX);
            }
            if let Some(heard) = self.take_known() {
                if heard.text.is_empty() {
                    continue;
                }
                self.answered = true;
                return Some(Ok(result(heard, true)));
            }
            if self.work.is_none() {
                self.work = self.begin();
            }
            if self.work.is_none() && self.ended {
                // Silence has an answer too: whoever waits for the transcript must not wait for ever.
                let silent = self.total > 0 && !std::mem::replace(&mut self.answered, true);
                return silent.then(|| Ok(result(Heard::default(), true)));
            }
            tokio::select! {
                biased;
                done = recognition(&mut self.work) => {
                    let work = self.work.take()?;
                    match self.finish(work, done) {
                        Ok(Some(interim)) => return Some(Ok(interim)),
                        Ok(None) => {}
                        Err(error) => return Some(Err(error)),
                    }
                }
                frame = self.frames.next(), if !self.ended => match frame {
                    Some(frame) => if let Err(error) = self.push(&frame) {
                        return Some(Err(error));
                    }
                    None => self.ended = true,
                }
            }
        }
    }

    fn push(&mut self, frame: &PcmChunk) -> Result<(), ProviderError> {
        if frame.rate() != RATE {
            let message = format!("frames have {} Hz instead of 16000", frame.rate().hz());
            return Err(ProviderError::new(ErrorKind::InvalidInput, NAME, message));
        }
        self.total += frame.samples().len();
        if self.total > MOST {
            let message = "an utterance of more than 30 minutes: end the turn earlier";
            return Err(ProviderError::new(ErrorKind::TooLarge, NAME, message));
        }
        self.segment().extend_from_slice(frame.samples());
        self.levels.push(frame.samples());
        loop {
            let (length, cut) = {
                let segment = self.segment();
                let long = segment.get(..LONGEST).map(quietest);
                (segment.len(), long)
            };
            if let Some(cut) = cut {
                self.complete_segment(cut);
                continue;
            }
            if length - self.looked.0 >= LOOK_EVERY {
                let quiet = self.levels.quiet_tail();
                self.looked = (length, quiet);
                if length >= SEGMENT && (SEGMENT_END..length).contains(&quiet) {
                    self.complete_segment(length);
                }
            }
            return Ok(());
        }
    }

    /// Makes the first `samples` of the segment a complete one.
    fn complete_segment(&mut self, samples: usize) {
        let known = self.known();
        let audio: Vec<i16> = {
            let mut segment = lock(&self.segment);
            let end = samples.min(segment.len());
            let audio = segment.drain(..end).collect();
            self.levels = Levels::of(&segment);
            audio
        };
        if audio.is_empty() {
            return;
        }
        // What a hypothesis says of a longer piece is not the text of this one.
        let known = known.filter(|_| self.segment().is_empty());
        self.complete.push_back((audio, known));
        if matches!(
            self.work,
            Some(Work {
                kind: Kind::Hypothesis(_),
                ..
            })
        ) {
            self.work = None;
        }
        self.hypothesis = None;
        self.agreement = Agreement::default();
        self.next_at = HYPOTHESIS_EVERY;
        self.looked = (0, 0);
    }

    /// The text of the segment, if the newest hypothesis ended in the quiet that has lasted since.
    fn known(&self) -> Option<Heard> {
        let (heard_samples, heard) = self.hypothesis.as_ref()?;
        self.covers(*heard_samples).then(|| heard.clone())
    }

    /// Whether nothing was said after the first `samples`.
    fn covers(&self, samples: usize) -> bool {
        let length = self.segment().len();
        length - samples.min(length) + WORD_END <= self.levels.quiet_tail()
    }

    /// Whether the hypothesis in work will be the final text, so that to begin anew would only take longer.
    fn is_worth_waiting(&self) -> bool {
        match &self.work {
            Some(Work {
                kind: Kind::Hypothesis(hears),
                ..
            }) => {
                let samples = hears.load(Ordering::Relaxed);
                samples > 0 && self.covers(samples)
            }
            _ => false,
        }
    }

    /// The oldest complete segment, if its text is known and it is its turn.
    fn take_known(&mut self) -> Option<Heard> {
        if self.work.is_some() {
            return None;
        }
        let known = self.complete.front_mut()?.1.take()?;
        self.complete.pop_front();
        Some(known)
    }

    /// The next recognition, if one is due.
    fn begin(&mut self) -> Option<Work> {
        let since = Instant::now();
        if let Some((audio, _)) = self.complete.pop_front() {
            // While the caller speaks on, nobody waits for it in silence.
            let priority = if self.ended {
                Priority::Transcript
            } else {
                Priority::Partial
            };
            return Some(Work {
                kind: Kind::Segment,
                since,
                recognition: self.engine.recognise(priority, move || audio),
            });
        }
        if !self.is_hypothesis_due() {
            return None;
        }
        let hears = Arc::new(AtomicUsize::new(0));
        let (segment, heard) = (Arc::clone(&self.segment), Arc::clone(&hears));
        let newest = move || {
            let audio = lock(&segment).clone();
            heard.store(audio.len(), Ordering::Relaxed);
            audio
        };
        Some(Work {
            kind: Kind::Hypothesis(hears),
            since,
            recognition: self.engine.recognise(Priority::Partial, newest),
        })
    }

    fn is_hypothesis_due(&self) -> bool {
        if self.ended {
            return false;
        }
        let length = self.segment().len();
        let heard = self.hypothesis.as_ref().map_or(0, |(samples, _)| *samples);
        let (looked, quiet) = self.looked;
        let word_ended = quiet >= WORD_END && quiet < looked && heard < looked - quiet + WORD_END;
        length >= self.next_at || word_ended
    }

    /// Takes the result of a recognition; returns an interim result, or keeps the final one as known.
    fn finish(
        &mut self,
        work: Work,
        done: Result<(usize, Heard), ProviderError>,
    ) -> Result<Option<SttResult>, ProviderError> {
        match work.kind {
            Kind::Segment => {
                let (_, heard) = done?;
                self.complete.push_front((Vec::new(), Some(heard)));
                Ok(None)
            }
            Kind::Hypothesis(_) => {
                let length = self.segment().len();
                let rest =
                    RATE.samples_in(work.since.elapsed().saturating_mul(REST).min(LONG_REST));
                self.next_at = length + rest;
                let (samples, heard) = match done {
                    Ok(done) => done,
                    // The final recognition will fail again if it must; until then the caller misses only interim text.
                    Err(error) => {
                        tracing::debug!(%error, "no interim transcript");
                        self.next_at += HYPOTHESIS_EVERY;
                        return Ok(None);
                    }
                };
                self.next_at = self.next_at.max(samples + HYPOTHESIS_EVERY);
                let stable = self.agreement.update(&heard.text);
                let confidence = heard.confidence;
                self.hypothesis = Some((samples, heard));
                Ok(stable.map(|text| result(Heard { text, confidence }, false)))
            }
        }
    }

    fn segment(&self) -> MutexGuard<'_, Vec<i16>> {
        lock(&self.segment)
    }
}

/// However slow a recognition was, the next is tried after this.
const LONG_REST: Duration = Duration::from_secs(4);

fn lock(segment: &Mutex<Vec<i16>>) -> MutexGuard<'_, Vec<i16>> {
    segment.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Completes with the work; never, if there is none.
async fn recognition(work: &mut Option<Work>) -> Result<(usize, Heard), ProviderError> {
    match work {
        Some(work) => (&mut work.recognition).await,
        None => std::future::pending().await,
    }
}

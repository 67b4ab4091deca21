//! What a turn has written and not yet played.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    playout::{Played, SegmentIndex},
};

use super::RATE;
use crate::{
    codec::opus::FRAME_SAMPLES,
    resample::{Filter, Resampler},
};

/// Audio as it was written, at its own rate and without a copy; only the next frame is resampled. Synthesis comes at
/// 24 kHz and much faster than it is played, so this halves what a speaking session holds.
///
/// *Invariant.* A whole frame is ready, or all there is.
#[derive(Default)]
pub(super) struct Queue {
    /// Not yet resampled, oldest first. An open one can only be the last.
    streams: VecDeque<Stream>,
    /// How long the audio in `streams` lasts.
    waiting: Duration,
    /// Resampled, and of which segments it is.
    ready: Vec<i16>,
    runs: VecDeque<Run>,
}

/// Audio of one segment and one rate, which shares the state of a filter.
struct Stream {
    segment: SegmentIndex,
    resampler: Resampler,
    chunks: VecDeque<PcmChunk>,
    /// How many samples of the first chunk were resampled.
    taken: usize,
    /// Nothing follows: the resampler can let go of its tail.
    ended: bool,
}

struct Run {
    segment: SegmentIndex,
    samples: usize,
}

impl Queue {
    /// Appends audio. `filter` is one from its rate to 48 kHz.
    pub(super) fn write(&mut self, segment: SegmentIndex, audio: PcmChunk, filter: &Arc<Filter>) {
        debug_assert_eq!((audio.rate(), RATE), (filter.from(), filter.to()));
        if audio.is_empty() {
            return;
        }
        let joins = self.streams.back().is_some_and(|stream| {
            let same = stream.segment == segment && stream.resampler.from() == filter.from();
            same && !stream.ended
        });
        if !joins {
            self.end_stream();
            self.streams.push_back(Stream {
                segment,
                resampler: Resampler::with(Arc::clone(filter)),
                chunks: VecDeque::new(),
                taken: 0,
                ended: false,
            });
        }
        if let Some(stream) = self.streams.back_mut() {
            self.waiting += audio.duration();
            stream.chunks.push_back(audio);
        }
        self.prepare();
    }

    /// Says that the segment has all its audio.
    pub(super) fn end_segment(&mut self) {
        self.end_stream();
        self.prepare();
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.streams.back_mut() {
            stream.ended = true;
        }
    }

    /// How much can be played now: at least a frame, or all there is but for what an open segment's filter holds back.
    pub(super) fn ready_samples(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing of an open segment is queued: what is ready is the end of something.
    pub(super) fn is_complete(&self) -> bool {
        self.streams.is_empty()
    }

    /// How long the queued audio lasts.
    pub(super) fn duration(&self) -> Duration {
        self.waiting + RATE.duration_of(self.ready.len())
    }

    /// Copies the next samples, up to a frame, without playing them; returns how many there were.
    pub(super) fn peek(&self, out: &mut [i16]) -> usize {
        let samples = self.ready.len().min(out.len());
        out[..samples].copy_from_slice(&self.ready[..samples]);
        samples
    }

    /// Plays `samples`, which are ready, and moves the play head past them.
    pub(super) fn advance(&mut self, samples: usize, played: &mut Played) {
        self.ready.drain(..samples);
        let mut rest = samples;
        while let Some(run) = self.runs.front_mut().filter(|_| rest > 0) {
            let step = rest.min(run.samples);
            if played.segment != run.segment {
                *played = Played {
                    segment: run.segment,
                    within: Duration::ZERO,
                };
            }
            played.within += RATE.duration_of(step);
            rest -= step;
            run.samples -= step;
            if run.samples == 0 {
                self.runs.pop_front();
            }
        }
        self.prepare();
    }

    /// Resamples what the next frame needs.
    fn prepare(&mut self) {
        while self.ready.len() < FRAME_SAMPLES {
            let Some(stream) = self.streams.front_mut() else {
                return;
            };
            let (segment, before) = (stream.segment, self.ready.len());
            if let Some(chunk) = stream.chunks.front() {
                let rest = &chunk.samples()[stream.taken..];
                let wanted = samples_for(FRAME_SAMPLES - before, chunk.rate()).min(rest.len());
                stream.resampler.process(&rest[..wanted], &mut self.ready);

                // Of differences from the chunk's beginning, so that rounding does not add up.
                let until = |taken| chunk.rate().duration_of(taken);
                self.waiting -= until(stream.taken + wanted) - until(stream.taken);
                stream.taken += wanted;
                if wanted == rest.len() {
                    stream.taken = 0;
                    stream.chunks.pop_front();
                }
            } else if stream.ended {
                stream.resampler.flush(&mut self.ready);
                self.streams.pop_front();
            } else {
                return;
            }
            self.credit(segment, self.ready.len() - before);
        }
    }

    fn credit(&mut self, segment: SegmentIndex, samples: usize) {
        match self.runs.back_mut() {
            Some(run) if run.segment == segment => run.samples += samples,
            _ if samples > 0 => self.runs.push_back(Run { segment, samples }),
            _ => {}
        }
    }

    /// Bytes of audio held, resampled or not.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let chunks = self.streams.iter().flat_map(|stream| &stream.chunks);
        let waiting: usize = chunks.map(|chunk| chunk.samples().len()).sum();
        (waiting + self.ready.capacity()) * size_of::<i16>()
    }
}

/// How many samples at `rate` last as long as `samples` at 48 kHz; one at least.
fn samples_for(samples: usize, rate: SampleRate) -> usize {
    let (rate, ours) = (u64::from(rate.hz()), u64::from(RATE.hz()));
    (samples as u64 * rate).div_ceil(ours).max(1) as usize
}

#[cfg(test)]
mod tests;

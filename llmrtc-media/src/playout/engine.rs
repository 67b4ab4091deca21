use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use llmrtc_core::{
    audio::PcmChunk,
    id::TurnId,
    playout::{OUTPUT_QUEUE, OutputClosed, Played, PlayoutEvent, SegmentIndex},
};
use tokio::sync::mpsc;

use super::{RATE, queue::Queue};
use crate::{
    codec::opus::{FRAME, FRAME_SAMPLES},
    resample::Filter,
    vad::gate::Floor,
};

/// How far sending may run ahead of the media clock, and how far behind it may catch up. Beyond, the clock is re-anchored:
/// a burst would be played sped up by the receiver.
const SEND_AHEAD: Duration = Duration::from_millis(40);

/// Fades of hold, release and underrun. 5 ms are inaudible as such and enough to avoid a click.
const FADE_SAMPLES: usize = 240;

/// The fade of a cancel: the end of speech may be a little softer than a pause in it.
const CANCEL_FADE_SAMPLES: usize = 480;

/// Silent frames sent after speech: the encoder needs ten to stop, and the receiver hears a clean end.
const HANGOVER_FRAMES: u32 = 12;

/// Between turns a packet this often keeps jitter buffers and address translations warm.
const COMFORT_INTERVAL: Duration = Duration::from_millis(400);

/// How long after the last sample the caller still hears it: the receiver's jitter buffer and the room.
const ECHO_TAIL: Duration = Duration::from_millis(200);

/// Listeners answer before the last word is out. What they say with no more than this left to hear is a reply.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A piece longer than the whole queue is let in when no more than this is left, so that it neither waits for ever nor
/// comes too late.
const OVERSIZE_MARGIN: Duration = Duration::from_secs(1);

/// Names one opening of the output. Keys of closed turns are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TurnKey(u64);

/// What goes with a frame's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// 48 kHz media clock of its first sample; advances with wall time, starting from zero.
    pub timestamp: u32,
    /// Whether a talk spurt begins here.
    pub marker: bool,
}

/// The playout of one call: at most one turn at a time, and comfort noise between turns. Pure: `now` comes in, frames
/// go out.
#[derive(Debug, Default)]
pub struct Playout {
    /// Whether the peer takes audio.
    sending: bool,
    /// No turn will ever be played again.
    closed: bool,
    keys: u64,
    turn: Option<Turn>,
    clock: Option<MediaClock>,
    /// Faded end of a cancelled turn, for the next frame.
    farewell: Vec<i16>,
    /// Silent frames since the last audible one.
    silent_frames: u32,
    /// When the last audible frame was sent.
    last_audible: Option<Instant>,
    /// When the last frame of any kind was sent.
    last_sent: Option<Instant>,
}

/// Where the next frame lies in time.
#[derive(Clone, Copy, Debug)]
struct MediaClock {
    /// The instant of its first sample.
    at: Instant,
    timestamp: u32,
    /// How far ahead of `at` frames are being sent: a frame that found the output idle did not wait for its place.
    lead: Duration,
}

impl MediaClock {
    fn due(&self) -> Instant {
        self.at.checked_sub(self.lead).unwrap_or(self.at)
    }

    /// Moves forward to `now`; never back, since timestamps must not repeat.
    fn anchor(&mut self, now: Instant) {
        let behind = now.saturating_duration_since(self.at);
        self.timestamp = self.timestamp.wrapping_add(RATE.samples_in(behind) as u32);
        self.at += behind;
        self.lead = self.at.saturating_duration_since(now);
    }

    fn advance(&mut self) -> u32 {
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(FRAME_SAMPLES as u32);
        self.at += FRAME;
        timestamp
    }
}

/// One turn's output.
struct Turn {
    key: TurnKey,
    id: TurnId,
    notify: mpsc::Sender<PlayoutEvent>,
    queue: Queue,
    /// Everything was written.
    finished: bool,
    held: bool,
    /// Whether the last frame was of this turn: what follows joins on or must fade in.
    flowing: bool,
    started: bool,
    /// How far playout came, shared with the control handle, which outlives the turn.
    played: Arc<Mutex<Played>>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queued = self.queue.duration();
        write!(f, "Turn({:?}, {queued:?} queued)", self.id)
    }
}

impl Turn {
    /// Whether a frame can be made: a whole one, or the rest of what will come.
    fn is_ready(&self) -> bool {
        let samples = self.queue.ready_samples();
        let whole = samples >= FRAME_SAMPLES;
        let rest = samples > 0 && (self.finished || self.queue.is_complete());
        !self.held && (whole || rest)
    }

    fn is_drained(&self) -> bool {
        self.finished && self.queue.ready_samples() == 0
    }

    /// A full channel loses news: the listener has fallen behind and will ask `played`.
    fn tell(&self, event: PlayoutEvent) {
        let _ = self.notify.try_send(event);
    }
}

impl Playout {
    /// A silent output that does not send yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Switches sending. While off, nothing leaves and a turn stands still.
    pub fn set_sending(&mut self, on: bool) {
        self.sending = on && !self.closed;
    }

    /// Whether the caller hears the assistant at `now`: while it speaks, while it is held in mid-speech, and shortly
    /// after.
    pub fn is_audible(&self, now: Instant) -> bool {
        let held = self
            .turn
            .as_ref()
            .is_some_and(|turn| turn.held && turn.started && !turn.is_drained());
        let echo = self
            .last_audible
            .is_some_and(|at| now < at + FRAME + ECHO_TAIL);
        held || echo
    }

    /// Whose turn it is to speak at `now`.
    pub fn floor(&self, now: Instant) -> Floor {
        let goes_on = |turn: &Turn| !turn.finished || turn.queue.duration() > LAST_WORDS;
        if !self.is_audible(now) {
            Floor::Free
        } else if self.turn.as_ref().is_some_and(goes_on) {
            Floor::Taken
        } else {
            Floor::Closing
        }
    }

    /// Opens the output of `turn`, cancelling what is still open. The second value follows playout, even after the turn
    /// is closed.
    pub fn open(
        &mut self,
        turn: TurnId,
        notify: mpsc::Sender<PlayoutEvent>,
    ) -> (TurnKey, Arc<Mutex<Played>>) {
        self.stop();
        self.keys += 1;
        let key = TurnKey(self.keys);
        let played = Arc::new(Mutex::new(Played::default()));
        if !self.closed {
            self.turn = Some(Turn {
                key,
                id: turn,
                notify,
                queue: Queue::default(),
                finished: false,
                held: false,
                flowing: false,
                started: false,
                played: Arc::clone(&played),
            });
        }
        (key, played)
    }

    /// Closes the output for good: nothing is sent any more, and writers learn it.
    pub fn close(&mut self) {
        self.turn = None;
        self.closed = true;
        self.sending = false;
    }

    fn turn(&mut self, key: TurnKey) -> Result<&mut Turn, OutputClosed> {
        self.turn
            .as_mut()
            .filter(|turn| turn.key == key)
            .ok_or(OutputClosed)
    }

    /// Whether `audio` more fits into the queue of the turn.
    ///
    /// # Errors
    /// [`OutputClosed`] when the turn is over.
    pub fn has_room(&mut self, key: TurnKey, audio: Duration) -> Result<bool, OutputClosed> {
        let queued = self.turn(key)?.queue.duration();
        Ok(queued + audio <= OUTPUT_QUEUE || queued <= OVERSIZE_MARGIN)
    }

    /// Queues audio of any rate; `filter` is one from that rate to 48 kHz.
    ///
    /// # Errors
    /// [`OutputClosed`] when the turn is over.
    pub fn write(
        &mut self,
        key: TurnKey,
        segment: SegmentIndex,
        audio: PcmChunk,
        filter: &Arc<Filter>,
    ) -> Result<(), OutputClosed> {
        self.turn(key)?.queue.write(segment, audio, filter);
        Ok(())
    }

    /// Says that the newest segment has all its audio.
    ///
    /// # Errors
    /// [`OutputClosed`] when the turn is over.
    pub fn end_segment(&mut self, key: TurnKey) -> Result<(), OutputClosed> {
        self.turn(key)?.queue.end_segment();
        Ok(())
    }

    /// Says that everything was written. Late calls do nothing.
    pub fn finish(&mut self, key: TurnKey) {
        if let Ok(turn) = self.turn(key) {
            turn.queue.end_segment();
            turn.finished = true;
        }
    }

    /// Pauses or continues the turn. Late calls do nothing.
    pub fn set_held(&mut self, key: TurnKey, held: bool) {
        if let Ok(turn) = self.turn(key) {
            turn.held = held;
        }
    }

    /// Ends the turn with a fade. Late calls do nothing.
    pub fn cancel(&mut self, key: TurnKey) {
        if self.turn(key).is_ok() {
            self.stop();
        }
    }

    fn stop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        if turn.flowing {
            let mut tail = vec![0; CANCEL_FADE_SAMPLES];
            let samples = turn.queue.peek(&mut tail);
            fade_out(&mut tail, samples, CANCEL_FADE_SAMPLES);
            self.farewell = tail;
        }
    }

    /// The next frame, if one is due. Call until `None`, and again at [`deadline`](Self::deadline).
    pub fn next_frame(&mut self, now: Instant, pcm: &mut [i16; FRAME_SAMPLES]) -> Option<Frame> {
        self.announce_end(now);
        if !self.sending {
            return None;
        }
        if now < self.frame_due(now) {
            return None;
        }
        let ready = self.turn.as_ref().is_some_and(Turn::is_ready);
        let flowing =
            self.turn.as_ref().is_some_and(|turn| turn.flowing) || !self.farewell.is_empty();
        let clock = self.clock.get_or_insert(MediaClock {
            at: now,
            timestamp: 0,
            lead: Duration::ZERO,
        });
        let joins_on = flowing || self.silent_frames < HANGOVER_FRAMES;
        let behind = now.saturating_duration_since(clock.due());
        if !joins_on || behind > SEND_AHEAD || (ready && !flowing) {
            clock.anchor(now);
        }

        pcm.fill(0);
        let audible = self.compose(now, ready, pcm);
        let clock = self.clock.as_mut()?;
        let frame = Frame {
            timestamp: clock.advance(),
            marker: audible && !flowing,
        };
        self.last_sent = Some(now);
        if audible {
            self.silent_frames = 0;
            self.last_audible = Some(now);
        } else {
            self.silent_frames = self.silent_frames.saturating_add(1);
        }
        Some(frame)
    }

    /// Fills `pcm` with what is to be heard; false when that is nothing.
    fn compose(&mut self, now: Instant, ready: bool, pcm: &mut [i16; FRAME_SAMPLES]) -> bool {
        if !self.farewell.is_empty() {
            // A new turn waits for one frame: the end of the old one is still in the air.
            let farewell = std::mem::take(&mut self.farewell);
            pcm[..farewell.len()].copy_from_slice(&farewell);
            return true;
        }
        let Some(turn) = &mut self.turn else {
            return false;
        };
        if ready {
            let samples = turn.queue.peek(pcm);
            let mut played = turn.played.lock().unwrap_or_else(PoisonError::into_inner);
            turn.queue.advance(samples, &mut played);
            drop(played);
            if !turn.started {
                turn.started = true;
                turn.tell(PlayoutEvent::Started {
                    turn: turn.id,
                    at: now,
                });
            } else if !turn.flowing {
                fade_in(pcm);
            }
            turn.flowing = true;
            return true;
        }
        if !std::mem::take(&mut turn.flowing) {
            return false;
        }
        // Speech stops here for a while: soften the edge with samples that will be played again, in full, later.
        let samples = turn.queue.peek(&mut pcm[..FADE_SAMPLES]);
        fade_out(pcm, samples, FADE_SAMPLES);
        if !turn.held && !turn.finished && !turn.queue.is_complete() {
            turn.tell(PlayoutEvent::Underrun { turn: turn.id });
        }
        samples > 0
    }

    /// When [`next_frame`](Self::next_frame) has something to do.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let frame = self.sending.then(|| self.frame_due(now));
        let end = self.end_due(now);
        frame.into_iter().chain(end).min()
    }

    fn frame_due(&self, now: Instant) -> Instant {
        let Some(clock) = &self.clock else { return now };
        let turn = self.turn.as_ref();
        if turn.is_some_and(|turn| turn.flowing) || !self.farewell.is_empty() {
            return clock.due();
        }
        if turn.is_some_and(Turn::is_ready) {
            // Speech in an idle output leaves at once, as far as the receiver's patience goes.
            return clock.at.checked_sub(SEND_AHEAD).unwrap_or(now);
        }
        if self.silent_frames < HANGOVER_FRAMES {
            return clock.due();
        }
        self.last_sent.map_or(now, |at| at + COMFORT_INTERVAL)
    }

    /// When the turn is to be reported as drained, if all of it was sent.
    fn end_due(&self, now: Instant) -> Option<Instant> {
        let turn = self.turn.as_ref().filter(|turn| turn.is_drained())?;
        Some(match self.last_audible {
            Some(at) if turn.started => at + FRAME,
            _ => now,
        })
    }

    fn announce_end(&mut self, now: Instant) {
        if self.end_due(now).is_some_and(|due| due <= now)
            && let Some(turn) = self.turn.take()
        {
            turn.tell(PlayoutEvent::Drained {
                turn: turn.id,
                at: now,
            });
        }
    }
}

/// Lets the first `samples` fall linearly to zero by sample `length` and silences the rest.
fn fade_out(pcm: &mut [i16], samples: usize, length: usize) {
    for (at, sample) in pcm.iter_mut().enumerate() {
        let gain = length.saturating_sub(at + 1) as i32;
        *sample = if at < samples {
            (i32::from(*sample) * gain / length as i32) as i16
        } else {
            0
        };
    }
}

fn fade_in(pcm: &mut [i16]) {
    for (at, sample) in pcm.iter_mut().take(FADE_SAMPLES).enumerate() {
        *sample = (i32::from(*sample) * at as i32 / FADE_SAMPLES as i32) as i16;
    }
}

#[cfg(test)]
mod tests;

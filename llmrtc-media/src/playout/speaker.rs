use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use llmrtc_core::{
    audio::PcmChunk,
    id::TurnId,
    playout::{
        AudioSink, AudioWriter, OutputClosed, OutputControl, Played, PlayoutEvent, SegmentIndex,
        TurnOutput,
    },
};
use tokio::sync::{Notify, mpsc};

use super::{
    RATE,
    engine::{Frame, Playout, TurnKey},
};
use crate::{codec::opus::FRAME_SAMPLES, resample::Filter, vad::gate::Floor};

/// A [`Playout`] shared by the tasks that write and control turns and the thread that sends. Clones share it.
#[derive(Clone)]
pub struct Speaker(Arc<Shared>);

struct Shared {
    playout: Mutex<Playout>,
    /// Writers waiting for room; also told when their turn ends.
    room: Notify,
    /// Tells the media thread that there may be something to send.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    /// A panic elsewhere leaves at worst a wrong frame behind, no broken invariant.
    fn playout(&self) -> MutexGuard<'_, Playout> {
        self.playout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Speaker {
    /// `wake` is called, possibly often, when [`deadline`](Self::deadline) may have moved forward. It must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            playout: Mutex::new(Playout::new()),
            room: Notify::new(),
            wake: Box::new(wake),
        }))
    }

    /// See [`Playout::set_sending`].
    pub fn set_sending(&self, on: bool) {
        self.0.playout().set_sending(on);
        (self.0.wake)();
    }

    /// See [`Playout::is_audible`].
    pub fn is_audible(&self, now: Instant) -> bool {
        self.0.playout().is_audible(now)
    }

    /// See [`Playout::floor`].
    pub fn floor(&self, now: Instant) -> Floor {
        self.0.playout().floor(now)
    }

    /// See [`Playout::next_frame`].
    pub fn next_frame(&self, now: Instant, pcm: &mut [i16; FRAME_SAMPLES]) -> Option<Frame> {
        let frame = self.0.playout().next_frame(now, pcm);
        if frame.is_some() {
            self.0.room.notify_waiters();
        }
        frame
    }

    /// See [`Playout::deadline`].
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.0.playout().deadline(now)
    }

    /// Ends the output for good: present and future writers get [`OutputClosed`].
    pub fn close(&self) {
        self.0.playout().close();
        self.0.room.notify_waiters();
    }
}

impl AudioSink for Speaker {
    fn open(&self, turn: TurnId, notify: mpsc::Sender<PlayoutEvent>) -> TurnOutput {
        let (key, played) = self.0.playout().open(turn, notify);
        self.0.room.notify_waiters();
        TurnOutput {
            writer: Box::new(Writer {
                shared: Arc::clone(&self.0),
                key,
                filter: None,
                open: None,
            }),
            control: Arc::new(Control {
                shared: Arc::clone(&self.0),
                key,
                played,
            }),
        }
    }
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Speaker").field(&*self.0.playout()).finish()
    }
}

struct Writer {
    shared: Arc<Shared>,
    key: TurnKey,
    /// For the rate of the newest audio. Designed here: media threads have no time for it.
    filter: Option<Arc<Filter>>,
    /// The segment that has not ended.
    open: Option<SegmentIndex>,
}

#[async_trait]
impl AudioWriter for Writer {
    async fn write(&mut self, segment: SegmentIndex, audio: PcmChunk) -> Result<(), OutputClosed> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // Registered before looking, so that room made in between is not missed.
            room.as_mut().enable();
            if self.shared.playout().has_room(self.key, audio.duration())? {
                break;
            }
            room.await;
        }
        // From here on nothing waits: the piece is queued whole.
        let filter = match &self.filter {
            Some(filter) if filter.from() == audio.rate() => filter,
            _ => self
                .filter
                .insert(Arc::new(Filter::new(audio.rate(), RATE))),
        };
        self.shared
            .playout()
            .write(self.key, segment, audio, filter)?;
        self.open = Some(segment);
        (self.shared.wake)();
        Ok(())
    }

    async fn end_segment(&mut self, segment: SegmentIndex) -> Result<(), OutputClosed> {
        if self.open == Some(segment) {
            self.open = None;
            self.shared.playout().end_segment(self.key)?;
        }
        (self.shared.wake)();
        Ok(())
    }
}

struct Control {
    shared: Arc<Shared>,
    key: TurnKey,
    played: Arc<Mutex<Played>>,
}

impl OutputControl for Control {
    fn hold(&self) {
        self.shared.playout().set_held(self.key, true);
    }

    fn release(&self) {
        self.shared.playout().set_held(self.key, false);
        (self.shared.wake)();
    }

    fn finish(&self) {
        self.shared.playout().finish(self.key);
        (self.shared.wake)();
    }

    fn cancel(&self) -> Played {
        self.shared.playout().cancel(self.key);
        self.shared.room.notify_waiters();
        self.played()
    }

    fn played(&self) -> Played {
        *self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

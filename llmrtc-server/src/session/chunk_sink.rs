//! Speech as `tts-chunk` messages, for clients that have no audio track to play it on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    clock::Clock,
    id::TurnId,
    playout::{
        AudioSink, AudioWriter, OutputClosed, OutputControl, Played, PlayoutEvent, SegmentIndex,
        TurnOutput,
    },
    tasks::Tasks,
};
use tokio::sync::{mpsc, watch};

/// How far ahead of real time chunks are sent: enough for a slow network, little enough to be taken back.
const SEND_AHEAD: Duration = Duration::from_secs(2);
/// Most samples of a chunk, 32 KiB: fits every data channel once base64-encoded.
const CHUNK_SAMPLES: usize = 16 * 1024;
/// Pieces between synthesis and the pacer. Full: synthesis waits.
const PIECE_QUEUE: usize = 16;

/// An [`AudioSink`] that paces chunks and assumes that the client plays them at once.
pub(crate) struct ChunkSink {
    out: mpsc::Sender<(TurnId, PcmChunk)>,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<Arc<Output>>>,
}

impl ChunkSink {
    pub(crate) fn new(
        out: mpsc::Sender<(TurnId, PcmChunk)>,
        tasks: &Tasks,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            out,
            tasks: tasks.child("tts-chunks"),
            clock,
            current: Mutex::new(None),
        }
    }
}

impl AudioSink for ChunkSink {
    fn open(&self, turn: TurnId, notify: mpsc::Sender<PlayoutEvent>) -> TurnOutput {
        let (pieces_in, pieces) = mpsc::channel(PIECE_QUEUE);
        let output = Arc::new(Output {
            clock: Arc::clone(&self.clock),
            progress: Mutex::default(),
            state: watch::Sender::new(State::default()),
        });
        let previous = lock(&self.current).replace(Arc::clone(&output));
        if let Some(previous) = previous {
            previous.cancel();
        }
        let pacer = pace(turn, Arc::clone(&output), self.out.clone(), pieces, notify);
        self.tasks.spawn("tts-chunk-pacer", |_| pacer).detach();
        TurnOutput {
            writer: Box::new(Writer { pieces: pieces_in }),
            control: output,
        }
    }
}

struct Writer {
    pieces: mpsc::Sender<(SegmentIndex, PcmChunk)>,
}

#[async_trait]
impl AudioWriter for Writer {
    async fn write(&mut self, segment: SegmentIndex, audio: PcmChunk) -> Result<(), OutputClosed> {
        self.pieces
            .send((segment, audio))
            .await
            .map_err(|_| OutputClosed)
    }

    async fn end_segment(&mut self, _segment: SegmentIndex) -> Result<(), OutputClosed> {
        // Nothing is held back: chunks keep the provider's rate, so there is no filter to flush.
        if self.pieces.is_closed() {
            Err(OutputClosed)
        } else {
            Ok(())
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq)]
struct State {
    held: bool,
    finished: bool,
    cancelled: bool,
}

struct Output {
    clock: Arc<dyn Clock>,
    progress: Mutex<Progress>,
    state: watch::Sender<State>,
}

/// What was sent, and since when it is being played.
#[derive(Default)]
struct Progress {
    started: Option<Instant>,
    sent: Duration,
    /// Where each segment begins.
    segments: Vec<(SegmentIndex, Duration)>,
    /// Playout stops counting here once cancelled.
    stopped: Option<Duration>,
}

impl Progress {
    /// How much the client has played, if it plays what it has.
    fn played(&self, now: Instant) -> Duration {
        let elapsed = self.started.map_or(Duration::ZERO, |started| {
            now.saturating_duration_since(started)
        });
        self.stopped.unwrap_or(elapsed).min(self.sent)
    }

    fn head(&self, now: Instant) -> Played {
        let played = self.played(now);
        match self
            .segments
            .iter()
            .rev()
            .find(|(_, begin)| *begin <= played)
        {
            Some((segment, begin)) => Played {
                segment: *segment,
                within: played - *begin,
            },
            None => Played::default(),
        }
    }

    /// Accounts for a chunk about to be sent. After a gap, the clock starts anew.
    fn send(&mut self, segment: SegmentIndex, audio: Duration, now: Instant) {
        let played_out = now.checked_sub(self.sent).unwrap_or(now);
        match &mut self.started {
            Some(started) => *started = (*started).max(played_out),
            None => self.started = Some(now),
        }
        if self
            .segments
            .last()
            .is_none_or(|(last, _)| *last != segment)
        {
            self.segments.push((segment, self.sent));
        }
        self.sent += audio;
    }
}

impl Output {
    async fn reached(&self, condition: impl FnMut(&State) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(condition).await;
    }
}

impl OutputControl for Output {
    fn hold(&self) {
        // The client has up to two seconds already; what is not sent yet is held back.
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.held, true));
    }

    fn release(&self) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.held, false));
    }

    fn finish(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.finished, true));
    }

    fn cancel(&self) -> Played {
        let now = self.clock.now();
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.cancelled, true));
        let mut progress = lock(&self.progress);
        let played = progress.played(now);
        progress.stopped.get_or_insert(played);
        progress.head(now)
    }

    fn played(&self) -> Played {
        lock(&self.progress).head(self.clock.now())
    }
}

async fn pace(
    turn: TurnId,
    output: Arc<Output>,
    out: mpsc::Sender<(TurnId, PcmChunk)>,
    mut pieces: mpsc::Receiver<(SegmentIndex, PcmChunk)>,
    notify: mpsc::Sender<PlayoutEvent>,
) {
    loop {
        let piece = tokio::select! {
            biased;
            () = output.reached(|state| state.cancelled) => return,
            piece = pieces.recv() => piece,
            () = output.reached(|state| state.finished) => pieces.try_recv().ok(),
        };
        let Some((segment, audio)) = piece else { break };
        for chunk in split(&audio) {
            let ready = async {
                output.reached(|state| !state.held).await;
                let now = output.clock.now();
                let ahead = {
                    let progress = lock(&output.progress);
                    progress.sent - progress.played(now)
                };
                tokio::time::sleep(ahead.saturating_sub(SEND_AHEAD)).await;
            };
            tokio::select! {
                biased;
                () = output.reached(|state| state.cancelled) => return,
                () = ready => {}
            }
            let now = output.clock.now();
            let first = {
                let mut progress = lock(&output.progress);
                let first = progress.started.is_none();
                progress.send(segment, chunk.duration(), now);
                first
            };
            tokio::select! {
                biased;
                () = output.reached(|state| state.cancelled) => return,
                sent = out.send((turn, chunk)) => if sent.is_err() { return },
            }
            if first {
                let _ = notify.send(PlayoutEvent::Started { turn, at: now }).await;
            }
        }
    }
    let drained = async {
        output.reached(|state| state.finished).await;
        let rest = {
            let progress = lock(&output.progress);
            progress.sent - progress.played(output.clock.now())
        };
        tokio::time::sleep(rest).await;
    };
    tokio::select! {
        biased;
        () = output.reached(|state| state.cancelled) => {}
        () = drained => {
            let _ = notify.send(PlayoutEvent::Drained { turn, at: output.clock.now() }).await;
        }
    }
}

fn split(audio: &PcmChunk) -> Vec<PcmChunk> {
    let rate: SampleRate = audio.rate();
    audio
        .samples()
        .chunks(CHUNK_SAMPLES)
        .map(|part| PcmChunk::new(part, rate))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder panics between two valid states.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

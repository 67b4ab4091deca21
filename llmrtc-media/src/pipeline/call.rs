use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    speech::SpeechEvent,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{PacketOut, PipelineMode, PipelineStats, ReceivedFrame, RtpIn, RtpOut, Senses, lock};
use crate::{
    codec::opus::{self, FRAME_SAMPLES},
    config::MediaConfig,
    ears::Ears,
    jitter::{Arrival, JitterBuffer},
    playout::Speaker,
    vad::gate::Floor,
};

/// Network → media thread. 50 packets are a second of audio. Full: the oldest packet is dropped; stale audio has no value.
const INPUT_QUEUE: usize = 50;

/// Media thread → session, beyond what its channel takes. Full: live audio goes first, the oldest of it; ten seconds.
const EVENT_BACKLOG: usize = 500;

/// How soon a full channel is tried again.
const EVENT_RETRY: Duration = Duration::from_millis(20);

/// What a handle asks of its call.
#[derive(Debug)]
pub(super) enum Input {
    Packet(RtpIn),
    SourceChanged,
    SourceRemoved,
    Transcript(String),
}

/// What the handle and the media thread share.
pub(super) struct Link {
    thread: Thread,
    input: Mutex<VecDeque<Input>>,
    /// There is something to look at.
    pending: Arc<AtomicBool>,
    closed: AtomicBool,
    stats: Mutex<PipelineStats>,
    pub(super) speaker: Speaker,
}

impl Link {
    pub(super) fn new(thread: Thread) -> Arc<Self> {
        let pending = Arc::new(AtomicBool::new(true));
        let speaker = Speaker::new({
            let (pending, thread) = (Arc::clone(&pending), thread.clone());
            move || {
                pending.store(true, Ordering::Release);
                thread.unpark();
            }
        });
        Arc::new(Self {
            thread,
            input: Mutex::default(),
            pending,
            closed: AtomicBool::new(false),
            stats: Mutex::default(),
            speaker,
        })
    }

    pub(super) fn input(&self, input: Input) {
        let mut queue = lock(&self.input);
        if queue.len() >= INPUT_QUEUE {
            lock(&self.stats).overflowed += 1;
            let oldest = queue
                .iter()
                .position(|input| matches!(input, Input::Packet(_)));
            // Without packets the queue is full of orders nobody reads: the first of them can go.
            queue.remove(oldest.unwrap_or(0));
        }
        queue.push_back(input);
        drop(queue);
        self.wake();
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, PipelineStats> {
        lock(&self.stats)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.speaker.close();
        self.wake();
    }

    fn wake(&self) {
        self.pending.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// One call on its media thread.
pub(super) struct Call {
    config: MediaConfig,
    link: Arc<Link>,
    out: Arc<dyn PacketOut>,
    inputs: VecDeque<Input>,
    jitter: JitterBuffer,
    /// Made for the first packet: a call that only speaks needs none.
    decoder: Option<opus::Decoder>,
    /// Made for the first frame: a call that only listens needs none.
    encoder: Option<opus::Encoder>,
    listener: Listener,
    deadline: Option<Instant>,
}

/// Who gets what was decoded.
enum Listener {
    Ears {
        ears: Box<Ears>,
        events: mpsc::Sender<SpeechEvent>,
        backlog: VecDeque<SpeechEvent>,
    },
    Recorder(mpsc::Sender<ReceivedFrame>),
    /// The receiver is gone.
    Nobody,
}

impl Listener {
    fn rate(&self) -> SampleRate {
        match self {
            Self::Ears { .. } | Self::Nobody => SampleRate::HZ_16000,
            Self::Recorder(_) => SampleRate::HZ_48000,
        }
    }
}

impl Call {
    pub(super) fn new(
        config: &MediaConfig,
        mode: PipelineMode,
        out: Arc<dyn PacketOut>,
        link: Arc<Link>,
        senses: &Senses,
    ) -> Self {
        let listener = match mode {
            PipelineMode::Listen { events, live } => Listener::Ears {
                ears: Box::new(
                    Ears::new(
                        &config.vad,
                        &config.endpoint,
                        live,
                        (senses.detector)(),
                        (senses.policy)(),
                    )
                    .with_floor_judge(senses.floor_judge.clone()),
                ),
                events,
                backlog: VecDeque::new(),
            },
            PipelineMode::Record { frames } => Listener::Recorder(frames),
        };
        Self {
            config: config.clone(),
            link,
            out,
            inputs: VecDeque::new(),
            jitter: JitterBuffer::new(),
            decoder: None,
            encoder: None,
            listener,
            deadline: None,
        }
    }

    /// When the call wants to be stepped without being woken.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due. False: the call is over and can be dropped.
    pub(super) fn step(&mut self) -> bool {
        let woken = self.link.pending.swap(false, Ordering::AcqRel);
        let now = Instant::now();
        if !woken && self.deadline.is_none_or(|at| at > now) {
            return true;
        }
        if self.link.closed.load(Ordering::Acquire) {
            return false;
        }
        if catch_unwind(AssertUnwindSafe(|| self.run(now))).is_err() {
            tracing::error!("media pipeline panicked and was closed");
            self.link.close();
            return false;
        }
        true
    }

    fn run(&mut self, now: Instant) {
        self.speak(now);
        std::mem::swap(&mut self.inputs, &mut *lock(&self.link.input));
        let floor = self.link.speaker.floor(now);
        while let Some(input) = self.inputs.pop_front() {
            self.take(input, now, floor);
        }
        self.listen(now, floor);
        if let Listener::Ears { ears, .. } = &mut self.listener
            && ears.deadline().is_some_and(|at| at <= now)
        {
            ears.tick(now, floor);
        }
        let backlogged = self.report();

        let ears = match &self.listener {
            Listener::Ears { ears, .. } => ears.deadline(),
            _ => None,
        };
        let retry = backlogged.then(|| now + EVENT_RETRY);
        self.deadline = [
            self.jitter.deadline(),
            ears,
            self.link.speaker.deadline(now),
            retry,
        ]
        .into_iter()
        .flatten()
        .min();
    }

    fn take(&mut self, input: Input, now: Instant, floor: Floor) {
        match input {
            Input::Packet(packet) => {
                self.link.stats().received += 1;
                self.jitter.push(packet);
            }
            Input::SourceChanged => {
                self.listen(now, floor);
                self.jitter.reset();
                if let Some(decoder) = &mut self.decoder {
                    decoder.reset();
                }
            }
            Input::SourceRemoved => {
                self.listen(now, floor);
                if let Listener::Ears { ears, .. } = &mut self.listener {
                    ears.source_removed();
                }
            }
            Input::Transcript(text) => {
                if let Listener::Ears { ears, .. } = &mut self.listener {
                    ears.partial_transcript(&text);
                }
            }
        }
    }

    /// Decodes what the jitter buffer lets go.
    fn listen(&mut self, now: Instant, floor: Floor) {
        while let Some(arrival) = self.jitter.pop(now) {
            if matches!(self.listener, Listener::Nobody) {
                continue;
            }
            let rate = self.listener.rate();
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                none => match opus::Decoder::new(rate) {
                    Ok(decoder) => none.insert(decoder),
                    Err(error) => {
                        tracing::error!(%error, "no Opus decoder");
                        self.listener = Listener::Nobody;
                        return;
                    }
                },
            };
            let silence;
            let (pcm, captured, concealed) = match &arrival {
                Arrival::Packet { payload, captured } => match decoder.decode(payload) {
                    Ok(pcm) => (pcm, *captured, false),
                    Err(_) => {
                        lock(&self.link.stats).undecodable += 1;
                        let pcm = match decoder.conceal(opus::FRAME) {
                            Ok(pcm) => pcm,
                            Err(_) => continue,
                        };
                        (pcm, *captured, true)
                    }
                },
                Arrival::Lost {
                    duration,
                    next,
                    captured,
                } => {
                    let made_up = match next {
                        Some(next) => decoder.recover(next, *duration),
                        None => decoder.conceal(*duration),
                    };
                    let pcm = match made_up {
                        Ok(pcm) => pcm,
                        Err(_) => {
                            silence = vec![0; rate.samples_in(*duration)];
                            &silence
                        }
                    };
                    (pcm, *captured, true)
                }
            };
            match &mut self.listener {
                Listener::Ears { ears, .. } => ears.push(pcm, captured, floor),
                Listener::Recorder(frames) => {
                    let frame = ReceivedFrame {
                        pcm: PcmChunk::new(pcm, rate),
                        at: captured,
                        concealed,
                    };
                    match frames.try_send(frame) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => lock(&self.link.stats).overflowed += 1,
                        Err(TrySendError::Closed(_)) => self.listener = Listener::Nobody,
                    }
                }
                Listener::Nobody => {}
            }
        }
    }

    /// Sends speech events on; true while some wait for room.
    fn report(&mut self) -> bool {
        let jitter = self.jitter.stats();
        {
            let mut stats = self.link.stats();
            (stats.lost, stats.late) = (jitter.lost, jitter.late);
        }
        let Listener::Ears {
            ears,
            events,
            backlog,
        } = &mut self.listener
        else {
            return false;
        };
        backlog.extend(std::iter::from_fn(|| ears.next_event()));
        while let Some(event) = backlog.pop_front() {
            match events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    backlog.push_front(event);
                    break;
                }
                Err(TrySendError::Closed(_)) => {
                    self.listener = Listener::Nobody;
                    return false;
                }
            }
        }
        while backlog.len() > EVENT_BACKLOG {
            lock(&self.link.stats).overflowed += 1;
            let audio = backlog
                .iter()
                .position(|event| matches!(event, SpeechEvent::Audio(_)));
            if let Some(audio) = audio {
                backlog.remove(audio);
            } else {
                tracing::warn!("speech events are not read; the caller is no longer heard");
                self.listener = Listener::Nobody;
                return false;
            }
        }
        !backlog.is_empty()
    }

    /// Sends the frames that are due.
    fn speak(&mut self, now: Instant) {
        let mut pcm = [0; FRAME_SAMPLES];
        while let Some(frame) = self.link.speaker.next_frame(now, &mut pcm) {
            let encoder = match &mut self.encoder {
                Some(encoder) => encoder,
                none => match opus::Encoder::new(&self.config.playout) {
                    Ok(encoder) => none.insert(encoder),
                    Err(error) => {
                        tracing::error!(%error, "no Opus encoder; nothing can be sent");
                        self.link.speaker.close();
                        return;
                    }
                },
            };
            match encoder.encode(&pcm) {
                Ok(payload) => {
                    self.link.stats().sent += 1;
                    self.out.send(RtpOut {
                        payload,
                        timestamp: frame.timestamp,
                        marker: frame.marker,
                    });
                }
                Err(error) => tracing::warn!(%error, "frame not sent"),
            }
        }
    }
}

impl Drop for Call {
    /// However a call ends, nobody waits for it.
    fn drop(&mut self) {
        self.link.close();
    }
}

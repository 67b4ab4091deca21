//! Everything between RTP payloads on one side and speech events and an audio sink on the other.
//!
//! A pipeline lives on one of a few media threads: jitter buffer, decoder, ears, playout and encoder of a call are used by
//! that thread alone, so frames cannot overtake each other and a slow task on the runtime delays no audio. A thread sleeps
//! until a packet arrives or a frame is due; there is no common tick, so the work of many calls spreads by itself. A panic
//! ends the pipeline it happened in and no other.

mod call;
mod worker;

use std::{
    fmt, io,
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use llmrtc_core::{audio::PcmChunk, playout::AudioSink, speech::SpeechEvent};
use tokio::sync::mpsc;

use self::{
    call::{Call, Input, Link},
    worker::Worker,
};
use crate::{
    config::MediaConfig,
    endpoint::{self, EndpointPolicy, TurnJudge},
    vad::{self, VoiceDetector},
};

/// Makes the voice detector of each call.
pub type DetectorFactory = Arc<dyn Fn() -> Box<dyn VoiceDetector> + Send + Sync>;

/// Makes the endpointing policy of each call.
pub type PolicyFactory = Arc<dyn Fn() -> Box<dyn EndpointPolicy> + Send + Sync>;

/// Threads when the configuration leaves it open: one per core, but a call is so cheap that four serve a thousand.
const MAX_DEFAULT_THREADS: usize = 4;

/// The media threads of the process. Clones share them; they end with the last clone and the last pipeline.
#[derive(Clone)]
pub struct MediaThreads(Arc<Threads>);

struct Threads {
    workers: Vec<Worker>,
    config: MediaConfig,
    senses: Senses,
}

/// What every call hears and judges with.
struct Senses {
    detector: DetectorFactory,
    policy: PolicyFactory,
    floor_judge: Option<Arc<dyn TurnJudge>>,
}

/// Models that this crate does not bring. What is missing is done without.
#[derive(Clone, Default)]
pub struct Models {
    /// Makes Silero detectors, for [`DetectorKind::Silero`](crate::config::DetectorKind::Silero).
    pub silero: Option<DetectorFactory>,
    /// Whether the caller is done, for [`PolicyKind::Semantic`](crate::config::PolicyKind::Semantic).
    pub turn: Option<Arc<dyn TurnJudge>>,
    /// Whether a short word over the assistant's speech wants the floor. A recogniser and
    /// [`wants_floor`](crate::ears::wants_floor) make one.
    pub floor: Option<Arc<dyn TurnJudge>>,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models")
            .field("silero", &self.silero.is_some())
            .field("turn", &self.turn.is_some())
            .field("floor", &self.floor.is_some())
            .finish()
    }
}

impl MediaThreads {
    /// Starts the threads with what needs no models.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(config: &MediaConfig) -> io::Result<Self> {
        Self::start_with_models(config, Models::default())
    }

    /// Starts the threads with the configured detector and policy, as far as `models` has what they need.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start_with_models(config: &MediaConfig, models: Models) -> io::Result<Self> {
        let senses = Senses {
            detector: vad::detector_factory(config.vad.detector, models.silero),
            policy: endpoint::policy_factory(&config.endpoint, models.turn),
            floor_judge: models.floor,
        };
        Self::start_threads(config, senses)
    }

    /// Starts the threads with a detector or endpointing policy of one's own.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start_with(
        config: &MediaConfig,
        detector: DetectorFactory,
        policy: PolicyFactory,
    ) -> io::Result<Self> {
        let senses = Senses {
            detector,
            policy,
            floor_judge: None,
        };
        Self::start_threads(config, senses)
    }

    fn start_threads(config: &MediaConfig, senses: Senses) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = config
            .threads
            .unwrap_or(cores.min(MAX_DEFAULT_THREADS))
            .max(1);
        let workers = (0..threads).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Threads {
            workers,
            config: config.clone(),
            senses,
        })))
    }

    /// Adds a pipeline to the least loaded thread. It never moves to another.
    pub fn pipeline(&self, mode: PipelineMode, out: Arc<dyn PacketOut>) -> Pipeline {
        let Threads {
            workers,
            config,
            senses,
        } = &*self.0;
        let worker = workers
            .iter()
            .min_by_key(|worker| worker.load())
            .expect("there is at least one thread");
        let link = Link::new(worker.waker());
        worker.add(Call::new(config, mode, out, Arc::clone(&link), senses));
        Pipeline {
            link,
            _threads: self.clone(),
        }
    }
}

impl fmt::Debug for MediaThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0.workers).finish()
    }
}

/// What a pipeline does with received packets.
#[derive(Debug)]
#[non_exhaustive]
pub enum PipelineMode {
    /// Decode to 16 kHz and listen for speech (server).
    Listen {
        /// Where speech events go. Closed: the pipeline goes deaf.
        events: mpsc::Sender<SpeechEvent>,
        /// Whether [`SpeechEvent::Audio`] is wanted.
        live: bool,
    },
    /// Decode to 48 kHz (client).
    Record {
        /// Where received audio goes. Full: the newest frame is lost.
        frames: mpsc::Sender<ReceivedFrame>,
    },
}

/// One decoded packet of a recording pipeline.
#[derive(Clone, Debug)]
pub struct ReceivedFrame {
    /// Mono, 48 kHz, usually 20 ms.
    pub pcm: PcmChunk,
    /// When its last sample was captured, network delay included: the instant it could be heard at the earliest.
    pub at: Instant,
    /// Whether the decoder made it up for a lost packet.
    pub concealed: bool,
}

/// A received RTP packet.
#[derive(Clone, Debug)]
pub struct RtpIn {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// The Opus packet.
    pub payload: Bytes,
    /// When it arrived.
    pub arrived: Instant,
}

/// A packet to send.
#[derive(Clone, Debug)]
pub struct RtpOut {
    /// The Opus packet, 20 ms.
    pub payload: Bytes,
    /// 48 kHz media clock; advances with wall time across silences. Starts at zero: the sender adds its random offset.
    pub timestamp: u32,
    /// Set on the first packet of a talk spurt.
    pub marker: bool,
}

/// Where a pipeline's packets go. Called on a media thread, so it must not block.
pub trait PacketOut: Send + Sync {
    /// Sends one packet or drops it.
    fn send(&self, packet: RtpOut);
}

/// Handle of a pipeline. Dropping it stops the pipeline: its events end and its output closes.
pub struct Pipeline {
    link: Arc<Link>,
    _threads: MediaThreads,
}

impl Pipeline {
    /// Hands over a received packet. Never blocks; a full queue drops its oldest packet.
    pub fn packet(&self, packet: RtpIn) {
        self.link.input(Input::Packet(packet));
    }

    /// The microphone was replaced: the next packet starts a new stream. The utterance goes on.
    pub fn source_changed(&self) {
        self.link.input(Input::SourceChanged);
    }

    /// The microphone is gone: an open utterance ends now.
    pub fn source_removed(&self) {
        self.link.input(Input::SourceRemoved);
    }

    /// What live transcription has made of the utterance so far; helps the endpointing policy.
    pub fn partial_transcript(&self, text: &str) {
        self.link.input(Input::Transcript(text.to_owned()));
    }

    /// The paced output of this pipeline.
    pub fn sink(&self) -> Arc<dyn AudioSink> {
        Arc::new(self.link.speaker.clone())
    }

    /// Switches sending on or off; pipelines start with it off. While off nothing is sent and playout stands still.
    pub fn set_sending(&self, on: bool) {
        self.link.speaker.set_sending(on);
    }

    /// Whether the caller hears the assistant now.
    pub fn is_audible(&self) -> bool {
        self.link.speaker.is_audible(Instant::now())
    }

    /// Counters since the start.
    pub fn stats(&self) -> PipelineStats {
        *self.link.stats()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pipeline").field(&self.stats()).finish()
    }
}

/// Counters of one pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipelineStats {
    /// Packets taken from the network.
    pub received: u64,
    /// Packets, frames or events lost to a full queue.
    pub overflowed: u64,
    /// Packets that came after their place was given up, or twice.
    pub late: u64,
    /// Packets that were given up.
    pub lost: u64,
    /// Packets that were not Opus.
    pub undecodable: u64,
    /// Packets sent.
    pub sent: u64,
}

/// What a lock guards here stays valid when a holder panics.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! Ears of the server, in audio time: faster than real time, with judges that take as long as they would.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use llmrtc_core::{audio::Utterance, speech::SpeechEvent};
use llmrtc_media::{
    config::MediaConfig,
    ears::Ears,
    endpoint::{self, Judgement, TurnJudge},
    pipeline::{DetectorFactory, Models},
    vad::{self, gate::Floor},
};

use crate::voice::{RATE, samples};

/// Makes something of audio: 16 kHz, mono.
pub(crate) type Listener<T> = dyn Fn(&[i16]) -> Option<T> + Send + Sync;

/// A model: probability, or nothing where it fails.
pub(crate) type Model = Arc<Listener<f32>>;

/// A recogniser: text, or nothing where it fails.
pub(crate) type Writer = Arc<Listener<String>>;

/// What may be asked, and how long an answer takes.
#[derive(Clone, Default)]
pub(crate) struct Minds {
    pub(crate) turn: Option<Model>,
    pub(crate) floor: Option<Model>,
    pub(crate) silero: Option<DetectorFactory>,
    /// Live transcription, asked in every pause.
    pub(crate) text: Option<Writer>,
}

/// An answer takes this long: the most that a decision of the local model may, on one thread.
pub(crate) const TURN_LATENCY: Duration = Duration::from_millis(60);
/// The same for recognising a word.
pub(crate) const FLOOR_LATENCY: Duration = Duration::from_millis(120);

/// The same for recognising all that was said: live transcription has heard most of it before.
const TEXT_LATENCY: Duration = Duration::from_millis(120);

/// One length of a packet.
const PACKET: Duration = Duration::from_millis(20);

/// Runs each model once for each piece of audio: policies and thresholds share the answers.
pub(crate) fn remembering<T: Clone + Send + 'static>(model: Arc<Listener<T>>) -> Arc<Listener<T>> {
    let known: Mutex<HashMap<u64, Option<T>>> = Mutex::new(HashMap::new());
    Arc::new(move |audio| {
        let mut hasher = DefaultHasher::new();
        audio.hash(&mut hasher);
        let key = hasher.finish();
        let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known().get(&key) {
            return answer.clone();
        }
        let answer = model(audio);
        known().insert(key, answer.clone());
        answer
    })
}

#[derive(Default)]
struct Post {
    now: Duration,
    due: Vec<(Duration, Judgement, Option<f32>)>,
}

/// Answers after a fixed time of audio.
struct Timed {
    model: Model,
    latency: Duration,
    post: Arc<Mutex<Post>>,
}

impl TurnJudge for Timed {
    fn judge(&self, audio: Arc<[i16]>, judgement: Judgement) {
        let answer = (self.model)(&audio);
        let mut post = self.post.lock().unwrap_or_else(PoisonError::into_inner);
        let at = post.now + self.latency;
        post.due.push((at, judgement, answer));
    }
}

fn deliver(post: &Mutex<Post>, now: Duration) {
    let mut post = post.lock().unwrap_or_else(PoisonError::into_inner);
    post.now = now;
    let (due, later) = std::mem::take(&mut post.due)
        .into_iter()
        .partition(|(at, ..)| *at <= now);
    post.due = later;
    let due: Vec<(Duration, Judgement, Option<f32>)> = due;
    for (_, judgement, answer) in due {
        if let Some(probability) = answer {
            judgement.deliver(probability);
        }
    }
}

/// Plays `audio` to fresh ears. From `assistant` on the assistant speaks, until somebody takes the floor. Returns what they
/// reported and when, by the audio's clock.
pub(crate) fn listen(
    audio: &[i16],
    assistant: Option<Duration>,
    config: &MediaConfig,
    minds: &Minds,
) -> Vec<(Duration, SpeechEvent)> {
    let post = Arc::new(Mutex::new(Post::default()));
    let judge = |model: &Option<Model>, latency| -> Option<Arc<dyn TurnJudge>> {
        let model = Arc::clone(model.as_ref()?);
        let post = Arc::clone(&post);
        Some(Arc::new(Timed {
            model,
            latency,
            post,
        }))
    };
    let models = Models {
        silero: minds.silero.clone(),
        turn: judge(&minds.turn, TURN_LATENCY),
        floor: judge(&minds.floor, FLOOR_LATENCY),
    };
    let detector = vad::detector_factory(config.vad.detector, models.silero);
    let policy = endpoint::policy_factory(&config.endpoint, models.turn);
    let mut ears = Ears::new(&config.vad, &config.endpoint, false, detector(), policy())
        .with_floor_judge(models.floor);
    // An origin for the audio's clock; nothing waits for it.
    let start = Instant::now();
    let mut events = Vec::new();
    let mut now = Duration::ZERO;
    let mut interrupted = false;
    let mut written: Option<(Duration, String)> = None;
    for packet in audio.chunks(samples(PACKET)) {
        now += RATE.duration_of(packet.len());
        deliver(&post, now);
        if written.as_ref().is_some_and(|(at, _)| *at <= now)
            && let Some((_, text)) = written.take()
        {
            ears.partial_transcript(&text);
        }
        let floor = match assistant {
            Some(since) if now >= since && !interrupted => Floor::Taken,
            _ => Floor::Free,
        };
        ears.push(packet, start + now, floor);
        while let Some(event) = ears.next_event() {
            let over = assistant.is_some_and(|since| now >= since);
            interrupted |= over && matches!(event, SpeechEvent::Confirmed);
            match (&event, &minds.text) {
                (
                    SpeechEvent::Paused {
                        utterance: Utterance::Pcm(pcm),
                    },
                    Some(writer),
                ) => {
                    written = writer(pcm.samples()).map(|text| (now + TEXT_LATENCY, text));
                }
                (SpeechEvent::Resumed, _) => written = None,
                _ => {}
            }
            events.push((now, event));
        }
    }
    events
}

use super::*;
use crate::{
    codec::wav::WavReader,
    resample::Resampler,
    vad::{EarshotDetector, EnergyDetector},
};

const PACKET: usize = 320;

/// Ears with a scripted world: packets of 20 ms in real-time order.
struct World {
    ears: Ears,
    start: Instant,
    now: Instant,
    floor: Floor,
    log: Vec<(Duration, SpeechEvent)>,
}

impl World {
    fn new(detector: Box<dyn VoiceDetector>, live: bool) -> Self {
        Self::with(detector, live, EndpointConfig::default())
    }

    fn with(detector: Box<dyn VoiceDetector>, live: bool, endpoint: EndpointConfig) -> Self {
        let policy = Box::new(SilencePolicy::new(&endpoint));
        let start = Instant::now();
        Self {
            ears: Ears::new(&VadConfig::default(), &endpoint, live, detector, policy),
            start,
            now: start,
            floor: Floor::Free,
            log: Vec::new(),
        }
    }

    fn energy() -> Self {
        Self::new(Box::new(EnergyDetector::default()), false)
    }

    fn earshot() -> Self {
        Self::new(Box::new(EarshotDetector::new()), false)
    }

    fn hear(&mut self, pcm: &[i16]) {
        for packet in pcm.chunks(PACKET) {
            self.now += RATE.duration_of(packet.len());
            self.ears.push(packet, self.now, self.floor);
            self.collect();
        }
    }

    fn tone(&mut self, ms: u64) {
        let samples = RATE.samples_in(Duration::from_millis(ms));
        let tone: Vec<i16> = (0..samples)
            .map(|n| if n / 8 % 2 == 0 { 6_000 } else { -6_000 })
            .collect();
        self.hear(&tone);
    }

    fn silence(&mut self, ms: u64) {
        self.hear(&vec![0; RATE.samples_in(Duration::from_millis(ms))]);
    }

    /// Time passes without packets.
    fn gap(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while let Some(at) = self.ears.deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.ears.tick(self.now, self.floor);
            self.collect();
        }
        self.now = until;
    }

    fn collect(&mut self) {
        while let Some(event) = self.ears.next_event() {
            self.log.push((self.now - self.start, event));
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.log
            .iter()
            .map(|(_, event)| match event {
                SpeechEvent::Onset { .. } => "onset",
                SpeechEvent::Misfire => "misfire",
                SpeechEvent::Confirmed => "confirmed",
                SpeechEvent::Audio(_) => "audio",
                SpeechEvent::Paused { .. } => "paused",
                SpeechEvent::Resumed => "resumed",
                SpeechEvent::Ended { .. } => "ended",
                _ => "other",
            })
            .collect()
    }

    fn when(&self, name: &str) -> Duration {
        let at = self.names().iter().position(|other| *other == name);
        self.log[at.unwrap_or_else(|| panic!("no {name} in {:?}", self.names()))].0
    }

    fn ended(&self) -> (Duration, Instant, EndReason) {
        self.log
            .iter()
            .rev()
            .find_map(|(_, event)| match event {
                SpeechEvent::Ended {
                    utterance,
                    last_voice,
                    reason,
                } => Some((utterance.duration().unwrap(), *last_voice, *reason)),
                _ => None,
            })
            .expect("an utterance ended")
    }
}

fn speech() -> Vec<i16> {
    let file = include_bytes!("../../tests/fixtures/speech.wav");
    WavReader::new(bytes::Bytes::from_static(file))
        .unwrap()
        .read_all()
        .samples()
        .to_vec()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Uniform noise from a fixed seed (xorshift).
fn noise(amplitude: f32, duration: Duration) -> Vec<i16> {
    let mut seed = 0x2545_F491u32;
    (0..RATE.samples_in(duration))
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            ((seed as f32 / u32::MAX as f32 - 0.5) * 2.0 * amplitude) as i16
        })
        .collect()
}

#[test]
fn speech_is_one_utterance() {
    let mut world = World::earshot();
    world.hear(&noise(20.0, ms(1_000)));
    world.hear(&speech());
    world.hear(&noise(20.0, ms(1_500)));
    let names: Vec<_> = world
        .names()
        .into_iter()
        .filter(|name| !["paused", "resumed"].contains(name))
        .collect();
    assert_eq!(names, ["onset", "confirmed", "ended"]);
    // The reading begins 0.2 s into the file and ends 0.1 s before its end, at 3.56 s.
    let (duration, last_voice, reason) = world.ended();
    let last_voice = last_voice - world.start;
    assert_eq!(reason, EndReason::Endpoint);
    assert!(
        (ms(4_500)..ms(4_700)).contains(&last_voice),
        "last voice at {last_voice:?}"
    );
    assert!(
        (ms(3_700)..ms(4_000)).contains(&duration),
        "utterance of {duration:?}"
    );
    assert!(
        world.when("ended") <= ms(4_560 + 620),
        "ended at {:?}",
        world.when("ended")
    );
}

#[test]
fn an_interruption_is_held_at_once_and_decided_soon() {
    for (floor, limit) in [(Floor::Closing, 130), (Floor::Taken, 700)] {
        let mut world = World::earshot();
        world.floor = floor;
        world.hear(&noise(20.0, ms(1_000)));
        world.hear(&speech());
        // 1.2 s is where the first vowel begins.
        let onset = world.when("onset");
        let confirmed = world.when("confirmed");
        assert!(onset <= ms(1_200 + 60), "held at {onset:?}");
        assert!(confirmed <= ms(1_200 + limit), "{floor:?}: {confirmed:?}");
    }
}

/// Answers every question with the same probability.
struct Always(f32);

impl TurnJudge for Always {
    fn judge(&self, _: Arc<[i16]>, judgement: Judgement) {
        judgement.deliver(self.0);
    }
}

fn judged(wants_floor: f32) -> World {
    let mut world = World::energy();
    world.ears.floor_judge = Some(Arc::new(Always(wants_floor)));
    world
}

#[test]
fn a_backchannel_is_a_misfire_while_the_assistant_goes_on() {
    let mut world = World::energy();
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(250);
    world.silence(500);
    assert_eq!(world.names(), ["onset", "misfire"]);
    // The voice, the silence after it and a packet.
    assert!(world.when("misfire") <= ms(750 + 350));
    world.log.clear();
    world.floor = Floor::Closing;
    world.tone(250);
    world.silence(1_000);
    assert_eq!(world.names(), ["onset", "confirmed", "paused", "ended"]);
}

#[test]
fn words_tell_what_a_short_voice_wants() {
    let mut world = World::energy();
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(150);
    world.ears.partial_transcript("Mm-hm");
    world.tone(50);
    assert_eq!(world.names(), ["onset"]);
    world.ears.partial_transcript("Stop");
    world.tone(50);
    assert_eq!(world.names(), ["onset", "confirmed"]);

    let mut world = judged(1.0);
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(250);
    world.silence(1_000);
    assert_eq!(world.names(), ["onset", "confirmed", "paused", "ended"]);
    assert!(world.when("confirmed") <= ms(750 + 140));
    // All of it is there to be transcribed.
    assert!(world.ended().0 >= ms(320 + 250));

    let mut world = judged(0.0);
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(250);
    world.silence(1_000);
    assert_eq!(world.names(), ["onset", "misfire"]);
    assert!(world.when("misfire") <= ms(750 + 140));
}

#[test]
fn an_old_transcript_says_nothing_about_the_next_voice() {
    let mut world = World::energy();
    world.floor = Floor::Taken;
    world.tone(600);
    world.ears.partial_transcript("Stop");
    world.silence(1_000);
    world.log.clear();
    world.tone(250);
    world.silence(500);
    assert_eq!(world.names(), ["onset", "misfire"]);
}

#[test]
fn voices_in_the_background_do_not_interrupt() {
    // The caller speaks, then others do, 20 dB softer.
    let mut world = World::earshot();
    world.silence(500);
    world.hear(&speech());
    world.silence(1_500);
    world.log.clear();
    world.floor = Floor::Taken;
    let soft: Vec<i16> = speech().iter().map(|sample| sample / 10).collect();
    world.hear(&soft);
    world.silence(500);
    assert!(!world.names().contains(&"confirmed"), "{:?}", world.names());
    // The caller does.
    world.hear(&speech());
    assert!(world.names().contains(&"confirmed"));
}

/// Keeps questions until the test answers them.
#[derive(Default)]
struct Slow(std::sync::Mutex<Vec<Judgement>>);

impl TurnJudge for Slow {
    fn judge(&self, _: Arc<[i16]>, judgement: Judgement) {
        self.0.lock().unwrap().push(judgement);
    }
}

impl Slow {
    fn newest(&self) -> Judgement {
        self.0.lock().unwrap().pop().expect("a question")
    }
}

fn semantic(judge: Arc<dyn TurnJudge>) -> World {
    let mut world = World::energy();
    let factory = crate::endpoint::policy_factory(&EndpointConfig::default(), Some(judge));
    world.ears.policy = factory();
    world
}

#[test]
fn a_turn_judged_complete_ends_early_and_one_judged_incomplete_is_held() {
    let semantic_config = EndpointConfig::default().semantic;
    let mut world = semantic(Arc::new(Always(1.0)));
    world.tone(400);
    world.silence(600);
    let end = world.when("ended");
    let judged = ms(400) + semantic_config.judge_after;
    assert!((judged..=judged + ms(40)).contains(&end), "{end:?}");

    let mut world = semantic(Arc::new(Always(0.0)));
    world.tone(400);
    world.silence(1_500);
    assert!(!world.names().contains(&"ended"), "{:?}", world.names());
    world.tone(200);
    world.silence(semantic_config.hold.as_millis() as u64 + 40);
    assert_eq!(world.ended().2, EndReason::Endpoint);
}

#[test]
fn a_judge_that_fails_or_is_late_leaves_it_to_silence() {
    struct Failing;
    impl TurnJudge for Failing {
        fn judge(&self, _: Arc<[i16]>, _: Judgement) {}
    }
    let silence = EndpointConfig::default().silence;
    let judges: [Arc<dyn TurnJudge>; 2] = [Arc::new(Failing), Arc::new(Slow::default())];
    for judge in judges {
        let mut world = semantic(judge);
        world.tone(400);
        world.silence(1_000);
        let end = world.when("ended");
        let expected = ms(400) + silence;
        assert!((expected..=expected + ms(40)).contains(&end), "{end:?}");
    }
}

#[test]
fn a_judgement_of_a_pause_that_is_over_is_void() {
    let judge = Arc::new(Slow::default());
    let mut world = semantic(Arc::clone(&judge) as _);
    world.tone(400);
    world.silence(280);
    let stale = judge.newest();
    assert!(!stale.is_void());
    world.tone(300);
    assert!(stale.is_void());
    stale.deliver(1.0);
    world.silence(280);
    assert!(!world.names().contains(&"ended"), "{:?}", world.names());
    judge.newest().deliver(1.0);
    world.silence(40);
    assert_eq!(world.ended().2, EndReason::Endpoint);
}

#[test]
fn what_a_word_wanted_is_not_asked_twice_nor_of_what_went_on() {
    let judge = Arc::new(Slow::default());
    let mut world = World::energy();
    world.ears.floor_judge = Some(Arc::clone(&judge) as _);
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(150);
    world.silence(130);
    let stale = judge.newest();
    assert!(judge.0.lock().unwrap().is_empty());
    // The voice goes on: the judgement of its beginning is void, and its end is judged anew.
    world.tone(100);
    assert!(stale.is_void());
    world.silence(130);
    drop(judge.newest());
    // A judge that fails is a listener who does not want the floor.
    world.silence(600);
    assert_eq!(world.names(), ["onset", "misfire"]);
}

#[test]
fn a_lost_source_is_a_misfire_while_in_doubt() {
    let mut world = World::energy();
    world.floor = Floor::Taken;
    world.silence(500);
    world.tone(250);
    world.ears.source_removed();
    world.collect();
    assert_eq!(world.names(), ["onset", "misfire"]);
}

/// The energy detector with Silero's frames.
struct LongFrames(EnergyDetector);

impl VoiceDetector for LongFrames {
    fn frame_samples(&self) -> usize {
        512
    }
    fn score(&mut self, frame: &[i16]) -> f32 {
        assert_eq!(frame.len(), 512);
        self.0.score(frame)
    }
    fn reset(&mut self) {}
}

#[test]
fn frames_of_32_ms_are_heard_as_well() {
    let mut world = World::new(Box::new(LongFrames(EnergyDetector::default())), true);
    world.silence(500);
    world.tone(400);
    world.silence(1_000);
    let names: Vec<_> = world
        .names()
        .into_iter()
        .filter(|name| *name != "audio")
        .collect();
    assert_eq!(names, ["onset", "confirmed", "paused", "ended"]);
    let end = world.when("ended");
    assert!((ms(1_390)..=ms(1_480)).contains(&end), "{end:?}");
    let (duration, last_voice, _) = world.ended();
    let last_voice = last_voice - world.start;
    assert!((ms(900)..=ms(932)).contains(&last_voice), "{last_voice:?}");
    assert!((ms(850)..=ms(940)).contains(&duration), "{duration:?}");

    world.log.clear();
    world.floor = Floor::Taken;
    world.tone(250);
    world.silence(600);
    world.tone(600);
    let names: Vec<_> = world
        .names()
        .into_iter()
        .filter(|name| *name != "audio")
        .collect();
    assert_eq!(names, ["onset", "misfire", "onset", "confirmed"]);
    world.gap(900);
    assert_eq!(world.ended().2, EndReason::Endpoint);
}

#[test]
fn resampled_speech_is_heard_the_same() {
    let mut up = Resampler::new(RATE, SampleRate::HZ_48000);
    let mut down = Resampler::new(SampleRate::HZ_48000, RATE);
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    up.process(&speech(), &mut wide);
    up.flush(&mut wide);
    down.process(&wide, &mut narrow);
    down.flush(&mut narrow);
    let mut world = World::earshot();
    world.silence(500);
    world.hear(&narrow);
    world.silence(1_500);
    assert_eq!(
        world
            .names()
            .iter()
            .filter(|name| **name == "ended")
            .count(),
        1
    );
}

#[test]
fn bursts_of_noise_do_not_confirm() {
    for amplitude in [500.0, 3_000.0, 12_000.0] {
        for floor in [Floor::Free, Floor::Taken] {
            let mut world = World::earshot();
            world.floor = floor;
            world.silence(500);
            for _ in 0..5 {
                world.hear(&noise(amplitude, ms(100)));
                world.silence(400);
            }
            assert!(
                !world.names().contains(&"confirmed"),
                "{amplitude}: {:?}",
                world.names()
            );
        }
    }
}

/// A cough as a source-filter model: a burst of breath noise through three wide resonances, rising in 5 ms and dying
/// away over `duration`. `damping` is the radius of the resonances' poles.
fn cough(amplitude: f32, duration: Duration, damping: f32) -> Vec<i16> {
    let breath = noise(1_000.0, duration);
    let length = breath.len() as f32;
    let mut state = [[0.0f32; 2]; 3];
    breath
        .iter()
        .enumerate()
        .map(|(n, sample)| {
            let x = f32::from(*sample) / 1_000.0;
            let sound: f32 = [550.0f32, 1_500.0, 2_700.0]
                .iter()
                .zip(&mut state)
                .map(|(formant, [near, far])| {
                    let angle = std::f32::consts::TAU * formant / 16_000.0;
                    let y = 0.3 * x + 2.0 * damping * angle.cos() * *near - damping.powi(2) * *far;
                    (*far, *near) = (*near, y);
                    y
                })
                .sum();
            let envelope = (n as f32 / 80.0).min(1.0) * (-2.5 * n as f32 / length).exp();
            (0.4 * amplitude * envelope * sound) as i16
        })
        .collect()
}

#[test]
fn a_cough_does_not_interrupt() {
    for amplitude in [800.0, 3_000.0, 10_000.0] {
        for duration in [120, 200, 300] {
            for damping in [0.75, 0.85] {
                let mut world = World::earshot();
                world.floor = Floor::Taken;
                world.hear(&noise(25.0, ms(1_000)));
                world.hear(&cough(amplitude, ms(duration), damping));
                world.hear(&noise(25.0, ms(1_000)));
                let names = world.names();
                assert!(
                    !names.contains(&"confirmed"),
                    "{amplitude}, {duration} ms: {names:?}"
                );
            }
        }
    }
}

#[test]
fn a_short_sound_is_a_misfire() {
    let mut world = World::energy();
    world.silence(500);
    world.tone(64);
    world.silence(1_000);
    assert_eq!(world.names(), ["onset", "misfire"]);
    assert!(world.when("misfire") - world.when("onset") <= ms(180));
}

#[test]
fn pauses_are_reported_and_taken_back() {
    let mut world = World::energy();
    world.silence(500);
    world.tone(400);
    world.silence(300);
    world.tone(200);
    world.silence(1_000);
    assert_eq!(
        world.names(),
        ["onset", "confirmed", "paused", "resumed", "paused", "ended"]
    );
    let [
        (_, SpeechEvent::Paused { utterance: paused }),
        (_, SpeechEvent::Ended { utterance, .. }),
    ] = &world.log[4..]
    else {
        panic!("{:?}", world.names());
    };
    assert_eq!(
        paused, utterance,
        "speculative transcription must work on the final audio"
    );
    // 320 ms padding, 400 + 300 + 200 ms, 150 ms tail; each edge is up to a frame off.
    let duration = utterance.duration().unwrap();
    assert!((ms(1_340)..ms(1_410)).contains(&duration), "{duration:?}");
}

#[test]
fn events_carry_capture_times() {
    let mut world = World::energy();
    world.silence(500);
    world.tone(400);
    world.silence(1_000);
    let Some((_, SpeechEvent::Onset { at })) = world.log.first() else {
        panic!()
    };
    let onset = *at - world.start;
    let (_, last_voice, _) = world.ended();
    let last_voice = last_voice - world.start;
    assert!((ms(484)..=ms(500)).contains(&onset), "{onset:?}");
    assert!((ms(900)..=ms(916)).contains(&last_voice), "{last_voice:?}");
}

#[test]
fn live_audio_begins_with_the_padding_and_has_no_gaps() {
    let mut world = World::new(Box::new(EnergyDetector::default()), true);
    world.silence(1_000);
    world.tone(400);
    world.silence(1_000);
    let names = world.names();
    assert_eq!(
        (names[0], names[1], names.last()),
        ("onset", "audio", Some(&"ended"))
    );
    let live: usize = world
        .log
        .iter()
        .map(|(_, event)| match event {
            SpeechEvent::Audio(pcm) => pcm.samples().len(),
            _ => 0,
        })
        .sum();
    // Padding, voice and the silence until the end.
    let duration = RATE.duration_of(live);
    assert!((ms(1_210)..ms(1_260)).contains(&duration), "{duration:?}");
}

#[test]
fn a_gap_is_silence() {
    let mut world = World::energy();
    world.tone(400);
    world.gap(900);
    assert_eq!(world.names(), ["onset", "confirmed", "paused", "ended"]);
    assert_eq!(world.ended().2, EndReason::Endpoint);
    assert!(world.when("ended") <= ms(400 + 530));
}

#[test]
fn a_short_gap_is_not_silence() {
    let mut world = World::energy();
    world.tone(400);
    world.gap(150);
    world.tone(200);
    assert_eq!(world.names(), ["onset", "confirmed"]);
}

#[test]
fn a_lost_source_ends_what_a_policy_would_hold() {
    struct Hold;
    impl EndpointPolicy for Hold {
        fn assess(&mut self, _: &Pause<'_>) -> Verdict {
            Verdict::Hold
        }
    }
    let mut world = World::energy();
    world.ears.policy = Box::new(Hold);
    world.tone(400);
    world.gap(3_000);
    assert_eq!(world.ended().2, EndReason::SourceLost);
    assert!(
        world.when("ended") <= ms(400 + 1_020),
        "{:?}",
        world.when("ended")
    );
    // With packets the same policy holds, but not for ever.
    world.log.clear();
    world.tone(400);
    world.silence(3_200);
    assert_eq!(world.ended().2, EndReason::Endpoint);
}

#[test]
fn a_late_judgement_ends_early() {
    /// Judges after a while, as a model on another thread would.
    struct Late(Duration);
    impl EndpointPolicy for Late {
        fn assess(&mut self, pause: &Pause<'_>) -> Verdict {
            if pause.silence >= self.0 {
                Verdict::End
            } else {
                Verdict::Default
            }
        }
    }
    let mut world = World::energy();
    world.ears.policy = Box::new(Late(ms(250)));
    world.tone(400);
    world.silence(800);
    assert!(
        world.when("ended") <= ms(400 + 290),
        "{:?}",
        world.when("ended")
    );
}

#[test]
fn an_unfinished_transcript_gets_more_time() {
    let mut world = World::energy();
    world.tone(400);
    world.ears.partial_transcript("I would like to");
    world.silence(1_000);
    assert!(!world.names().contains(&"ended"));
    world.silence(400);
    assert_eq!(world.ended().2, EndReason::Endpoint);
}

#[test]
fn endless_sound_is_cut_into_utterances_without_overlap() {
    let endpoint = EndpointConfig {
        max_utterance: ms(5_000),
        ..EndpointConfig::default()
    };
    let mut world = World::with(Box::new(EnergyDetector::default()), false, endpoint);
    world.tone(16_000);
    let lengths: Vec<Duration> = world
        .log
        .iter()
        .filter_map(|(_, event)| match event {
            SpeechEvent::Ended {
                utterance,
                reason: EndReason::TooLong,
                ..
            } => utterance.duration(),
            _ => None,
        })
        .collect();
    assert_eq!(lengths.len(), 3);
    assert!(
        lengths.iter().sum::<Duration>() <= ms(15_100),
        "{lengths:?}"
    );
}

#[test]
fn a_removed_source_ends_at_once_and_an_onset_becomes_a_misfire() {
    let mut world = World::energy();
    world.tone(400);
    world.ears.source_removed();
    world.collect();
    assert_eq!(world.ended().2, EndReason::SourceRemoved);
    let mut world = World::energy();
    world.tone(40);
    world.ears.source_removed();
    world.collect();
    world.ears.source_removed();
    world.collect();
    assert_eq!(world.names(), ["onset", "misfire"]);
}

#[test]
fn quiet_keeps_little() {
    let mut world = World::energy();
    world.silence(60_000);
    assert!(world.ears.audio.len() < 2 * world.ears.padding_samples());
    world.tone(30_000);
    world.silence(2_000);
    assert_eq!(world.ears.audio.capacity(), RATE.samples_in(ROOM));
}

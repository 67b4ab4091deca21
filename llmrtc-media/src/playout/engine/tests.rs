use proptest::prelude::*;

use super::*;

/// One sent frame.
#[derive(Clone, Debug)]
struct Sent {
    ms: u64,
    timestamp: u32,
    marker: bool,
    pcm: Vec<i16>,
}

impl Sent {
    fn is_silent(&self) -> bool {
        self.pcm.iter().all(|sample| *sample == 0)
    }
}

/// A playout on a clock of whole milliseconds.
struct Stage {
    playout: Playout,
    start: Instant,
    ms: u64,
    sent: Vec<Sent>,
    notify: mpsc::Sender<PlayoutEvent>,
    news: mpsc::Receiver<PlayoutEvent>,
}

impl Stage {
    fn new() -> Self {
        let (notify, news) = mpsc::channel(64);
        let mut stage = Self {
            playout: Playout::new(),
            start: Instant::now(),
            ms: 0,
            sent: Vec::new(),
            notify,
            news,
        };
        stage.playout.set_sending(true);
        stage
    }

    /// A stage that has been silent long enough to send comfort noise only.
    fn idle() -> Self {
        let mut stage = Self::new();
        stage.run(1_003);
        stage.sent.clear();
        stage
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// Steps the playout for `ms`, only when its deadline says so.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
            self.ms += 1;
        }
    }

    fn step(&mut self) {
        let now = self.now();
        let mut pcm = [0; FRAME_SAMPLES];
        while self.playout.deadline(now).is_some_and(|at| at <= now) {
            match self.playout.next_frame(now, &mut pcm) {
                Some(frame) => {
                    self.sent.push(Sent {
                        ms: self.ms,
                        timestamp: frame.timestamp,
                        marker: frame.marker,
                        pcm: pcm.to_vec(),
                    });
                }
                None => break,
            }
        }
    }

    fn open(&mut self, turn: u64) -> (TurnKey, Arc<Mutex<Played>>) {
        self.playout.open(TurnId(turn), self.notify.clone())
    }

    fn news(&mut self) -> Vec<PlayoutEvent> {
        std::iter::from_fn(|| self.news.try_recv().ok()).collect()
    }

    fn audible(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| !sent.is_silent()).collect()
    }
}

impl Playout {
    /// Writes samples that need no resampling.
    fn push(
        &mut self,
        key: TurnKey,
        segment: SegmentIndex,
        samples: Vec<i16>,
    ) -> Result<(), OutputClosed> {
        let filter = Arc::new(Filter::new(RATE, RATE));
        self.write(key, segment, PcmChunk::new(samples, RATE), &filter)
    }
}

/// `ms` of a steady level, so that every change of level is a fade.
fn level(ms: u64) -> Vec<i16> {
    vec![10_000; RATE.samples_in(Duration::from_millis(ms))]
}

fn played(segment: SegmentIndex, ms: u64) -> Played {
    Played {
        segment,
        within: Duration::from_millis(ms),
    }
}

#[test]
fn speech_in_an_idle_output_leaves_at_once_and_then_on_time() {
    let mut stage = Stage::idle();
    let (key, progress) = stage.open(1);
    stage.run(7);
    stage.playout.push(key, 0, level(200)).unwrap();
    let began = stage.ms;
    stage.run(400);
    let audible = stage.audible();
    let times: Vec<u64> = audible.iter().map(|sent| sent.ms - began).collect();
    assert_eq!(times, [0, 20, 40, 60, 80, 100, 120, 140, 160, 180]);
    let markers: Vec<bool> = audible.iter().map(|sent| sent.marker).collect();
    assert!(markers[0] && !markers[1..].contains(&true));
    assert_eq!(*progress.lock().unwrap(), played(0, 200));
}

#[test]
fn speech_right_after_silence_does_not_wait_for_its_place() {
    let mut stage = Stage::new();
    // The dense silence at the beginning has a frame every 20 ms: 0, 20, 40 …
    stage.run(43);
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(100)).unwrap();
    stage.run(100);
    let first = stage.audible()[0].clone();
    assert_eq!(first.ms, 43);
    let before = stage.sent.iter().rfind(|sent| sent.ms < 43).unwrap();
    assert_eq!(
        first.timestamp,
        before.timestamp + 960,
        "timestamps neither repeat nor skip"
    );
}

#[test]
fn the_media_clock_follows_wall_time() {
    let mut stage = Stage::idle();
    let begun = stage.sent.len();
    stage.run(2_000);
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(100)).unwrap();
    stage.run(3_000);
    for pair in stage.sent[begun..].windows(2) {
        let wall = (pair[1].ms - pair[0].ms) as i64 * 48;
        let media = i64::from(pair[1].timestamp.wrapping_sub(pair[0].timestamp));
        assert!(
            media > 0 && (media - wall).abs() <= 40 * 48,
            "{wall} wall, {media} media"
        );
    }
}

#[test]
fn between_turns_comfort_noise_keeps_the_path_warm() {
    let mut stage = Stage::idle();
    stage.run(4_000);
    assert!(stage.sent.iter().all(Sent::is_silent));
    assert!(
        (9..=11).contains(&stage.sent.len()),
        "{} packets in 4 s",
        stage.sent.len()
    );
    assert!(
        stage
            .sent
            .windows(2)
            .all(|pair| pair[1].ms - pair[0].ms <= 400)
    );
}

#[test]
fn a_turn_reports_its_start_and_its_end() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(5);
    stage.playout.push(key, 0, level(100)).unwrap();
    stage.playout.finish(key);
    let began = stage.now();
    stage.run(300);
    let turn = TurnId(5);
    assert_eq!(
        stage.news(),
        [
            PlayoutEvent::Started { turn, at: began },
            // The last of five frames leaves after 80 ms and takes 20 ms to be heard.
            PlayoutEvent::Drained {
                turn,
                at: began + Duration::from_millis(100)
            },
        ]
    );
    assert_eq!(stage.playout.push(key, 1, level(20)), Err(OutputClosed));
}

#[test]
fn a_turn_without_audio_drains_at_once() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(5);
    stage.playout.finish(key);
    stage.run(1);
    assert!(matches!(stage.news()[..], [PlayoutEvent::Drained { .. }]));
}

#[test]
fn hold_fades_out_and_release_continues_from_the_same_sample() {
    let mut stage = Stage::idle();
    let (key, progress) = stage.open(1);
    let ramp: Vec<i16> = (0..9_600).map(|n| 5_000 + n as i16).collect();
    stage.playout.push(key, 0, ramp.clone()).unwrap();
    stage.playout.finish(key);
    stage.run(70);
    stage.playout.set_held(key, true);
    let at_hold = *progress.lock().unwrap();
    stage.sent.clear();
    stage.run(230);
    assert_eq!(
        *progress.lock().unwrap(),
        at_hold,
        "holding keeps the position"
    );
    assert!(
        stage.playout.is_audible(stage.now()),
        "a held answer still counts as audible"
    );
    let fade = &stage.sent[0].pcm;
    assert!(fade[0] > 8_000 && fade[FADE_SAMPLES..].iter().all(|sample| *sample == 0));
    assert!(stage.sent[1..].iter().all(Sent::is_silent));
    assert!(
        stage
            .sent
            .windows(2)
            .all(|pair| pair[1].ms - pair[0].ms == 20),
        "packets go on"
    );

    stage.playout.set_held(key, false);
    stage.sent.clear();
    let released = stage.ms;
    stage.run(300);
    let resumed = stage.audible();
    assert_eq!(resumed[0].ms, released);
    let position = RATE.samples_in(at_hold.within);
    assert_eq!(resumed[0].pcm[0], 0, "it fades in");
    assert_eq!(
        resumed[0].pcm[FADE_SAMPLES..],
        ramp[position + FADE_SAMPLES..position + FRAME_SAMPLES]
    );
    assert_eq!(*progress.lock().unwrap(), played(0, 200));
    assert!(matches!(
        stage.news()[..],
        [PlayoutEvent::Started { .. }, PlayoutEvent::Drained { .. }]
    ));
}

#[test]
fn the_floor_is_taken_until_the_last_words() {
    let mut stage = Stage::idle();
    let floor = |stage: &Stage| stage.playout.floor(stage.now());
    assert_eq!(floor(&stage), Floor::Free);
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(3_000)).unwrap();
    assert_eq!(floor(&stage), Floor::Free, "nothing of it was heard yet");
    stage.run(100);
    assert_eq!(floor(&stage), Floor::Taken);
    // A hold is no end, however long it lasts.
    stage.playout.set_held(key, true);
    stage.run(900);
    assert_eq!(floor(&stage), Floor::Taken);
    stage.playout.set_held(key, false);
    // A second is left to hear, and more may come.
    stage.run(2_000);
    assert_eq!(floor(&stage), Floor::Taken);
    stage.playout.finish(key);
    assert_eq!(floor(&stage), Floor::Closing);
    // It is all out, but still in the air.
    stage.run(1_000);
    assert_eq!(floor(&stage), Floor::Closing);
    stage.run(300);
    assert_eq!(floor(&stage), Floor::Free);
}

#[test]
fn a_cancelled_answer_gives_the_floor_away() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(3_000)).unwrap();
    stage.run(500);
    stage.playout.cancel(key);
    assert_eq!(stage.playout.floor(stage.now()), Floor::Closing);
    stage.run(300);
    assert_eq!(stage.playout.floor(stage.now()), Floor::Free);
}

#[test]
fn cancel_fades_within_ten_milliseconds_and_tells_how_far_it_came() {
    let mut stage = Stage::idle();
    let (key, progress) = stage.open(1);
    stage.playout.push(key, 0, level(50)).unwrap();
    stage.playout.push(key, 1, level(500)).unwrap();
    stage.run(75);
    stage.playout.cancel(key);
    assert_eq!(*progress.lock().unwrap(), played(1, 30));
    stage.sent.clear();
    stage.run(500);
    let audible = stage.audible();
    assert_eq!(audible.len(), 1);
    let fade = &audible[0].pcm;
    assert!(fade.windows(2).all(|pair| pair[1] <= pair[0]));
    assert!(
        fade[CANCEL_FADE_SAMPLES..]
            .iter()
            .all(|sample| *sample == 0)
    );
    assert_eq!(stage.playout.push(key, 1, level(20)), Err(OutputClosed));
    assert!(
        !stage
            .news()
            .iter()
            .any(|news| matches!(news, PlayoutEvent::Drained { .. }))
    );
}

#[test]
fn cancel_while_held_is_silent() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(500)).unwrap();
    stage.run(75);
    stage.playout.set_held(key, true);
    stage.run(60);
    stage.playout.cancel(key);
    stage.sent.clear();
    stage.run(200);
    assert!(stage.audible().is_empty());
}

#[test]
fn a_new_turn_replaces_the_old_one() {
    let mut stage = Stage::idle();
    let (old, old_progress) = stage.open(1);
    stage.playout.push(old, 0, level(500)).unwrap();
    stage.run(45);
    let (new, _) = stage.open(2);
    assert_eq!(stage.playout.push(old, 0, level(20)), Err(OutputClosed));
    stage.playout.push(new, 0, vec![-5_000; 9_600]).unwrap();
    stage.playout.cancel(old);
    stage.playout.finish(new);
    stage.sent.clear();
    stage.run(400);
    assert_eq!(*old_progress.lock().unwrap(), played(0, 60));
    let audible = stage.audible();
    assert!(audible[0].pcm[0] > 0 && audible[1].pcm[0] == -5_000);
    assert!(audible[1].ms <= audible[0].ms + 20);
    let turns: Vec<TurnId> = stage.news().iter().map(PlayoutEvent::turn).collect();
    assert_eq!(turns, [TurnId(1), TurnId(2), TurnId(2)]);
}

#[test]
fn an_underrun_is_told_once_and_speech_resumes_without_a_burst() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(50)).unwrap();
    stage.run(450);
    let underruns = stage
        .news()
        .iter()
        .filter(|news| matches!(news, PlayoutEvent::Underrun { .. }))
        .count();
    assert_eq!(underruns, 1);
    stage.playout.push(key, 0, level(150)).unwrap();
    stage.playout.end_segment(key).unwrap();
    stage.sent.clear();
    let resumed = stage.ms;
    stage.run(300);
    let audible = stage.audible();
    // 10 of the first 50 ms did not fill a frame and were kept.
    let times: Vec<u64> = audible.iter().map(|sent| sent.ms - resumed).collect();
    assert_eq!(times, [0, 20, 40, 60, 80, 100, 120, 140]);
    assert!(
        stage.news().is_empty(),
        "a segment that ended does not run dry"
    );
}

#[test]
fn a_late_thread_catches_up_a_little_and_re_anchors_after_more() {
    for (stall, most) in [(35, 2), (400, 1)] {
        let mut stage = Stage::idle();
        let (key, _) = stage.open(1);
        stage.playout.push(key, 0, level(2_000)).unwrap();
        stage.run(41);
        stage.ms += stall;
        stage.sent.clear();
        stage.step();
        assert!(
            stage.sent.len() <= most,
            "{} frames at once after {stall} ms",
            stage.sent.len()
        );
    }
}

#[test]
fn segments_join_without_a_gap() {
    let mut stage = Stage::idle();
    let (key, progress) = stage.open(1);
    stage.playout.push(key, 0, level(30)).unwrap();
    stage.playout.end_segment(key).unwrap();
    stage.playout.push(key, 1, level(30)).unwrap();
    stage.run(19);
    assert_eq!(*progress.lock().unwrap(), played(0, 20));
    stage.run(20);
    assert_eq!(*progress.lock().unwrap(), played(1, 10));
    stage.playout.end_segment(key).unwrap();
    stage.run(40);
    let samples: usize = stage
        .audible()
        .iter()
        .map(|sent| sent.pcm.iter().filter(|s| **s != 0).count())
        .sum();
    assert_eq!(samples, 60 * 48);
    assert_eq!(*progress.lock().unwrap(), played(1, 30));
}

#[test]
fn nothing_leaves_while_sending_is_off() {
    let mut stage = Stage::idle();
    let (key, progress) = stage.open(1);
    stage.playout.push(key, 0, level(100)).unwrap();
    stage.playout.set_sending(false);
    stage.run(300);
    assert!(stage.sent.is_empty());
    stage.playout.set_sending(true);
    stage.run(300);
    assert_eq!(*progress.lock().unwrap(), played(0, 100));
}

#[test]
fn the_queue_holds_what_core_allows() {
    let mut stage = Stage::idle();
    let (key, _) = stage.open(1);
    stage.playout.push(key, 0, level(1_500)).unwrap();
    let rest = OUTPUT_QUEUE - Duration::from_millis(1_500);
    assert_eq!(stage.playout.has_room(key, rest), Ok(true));
    assert_eq!(stage.playout.has_room(key, rest + FRAME), Ok(false));
    assert_eq!(stage.playout.has_room(TurnKey(77), rest), Err(OutputClosed));
    stage.run(1_000);
    assert_eq!(
        stage.playout.has_room(key, 20 * OUTPUT_QUEUE),
        Ok(true),
        "an oversized piece gets in"
    );
}

proptest! {
    /// Whatever happens to a turn, its samples are played in order, each once, but for fades and held time.
    #[test]
    fn samples_are_neither_lost_nor_repeated(
        pieces in proptest::collection::vec(1usize..3_000, 1..20),
        holds in proptest::collection::vec((1u64..60, 1u64..60), 0..6),
    ) {
        let mut stage = Stage::idle();
        let (key, progress) = stage.open(1);
        let total: usize = pieces.iter().sum();
        for samples in &pieces {
            stage.playout.push(key, 0, vec![1_000; *samples]).unwrap();
        }
        stage.playout.finish(key);
        for (run, hold) in holds {
            stage.run(run);
            stage.playout.set_held(key, true);
            stage.run(hold);
            stage.playout.set_held(key, false);
        }
        stage.run(total as u64 / 48 + 100);
        let drained = stage.news().iter().any(|news| matches!(news, PlayoutEvent::Drained { .. }));
        prop_assert!(drained);
        let heard = progress.lock().unwrap().within;
        let exact = RATE.duration_of(total);
        prop_assert!(exact - heard < Duration::from_micros(1), "{:?} of {:?}", heard, exact);
    }
}

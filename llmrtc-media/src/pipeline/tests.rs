use std::{sync::Mutex, time::Duration};

use llmrtc_core::{
    audio::SampleRate,
    id::TurnId,
    playout::{Played, PlayoutEvent},
    speech::EndReason,
};
use tokio::time::timeout;

use super::*;
use crate::{
    codec::{
        opus::{Encoder, FRAME_SAMPLES},
        wav::WavReader,
    },
    config::PlayoutConfig,
    endpoint::SilencePolicy,
    resample::Resampler,
    vad::EarshotDetector,
};

/// Generous: the machine that runs the tests may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Collects packets with the time they left.
#[derive(Default)]
struct Wire(Mutex<Vec<(Instant, RtpOut)>>);

impl PacketOut for Wire {
    fn send(&self, packet: RtpOut) {
        lock(&self.0).push((Instant::now(), packet));
    }
}

/// The speech fixture as Opus packets, between half a second and 1.5 s of silence.
fn speech_packets() -> Vec<Bytes> {
    let file = include_bytes!("../../tests/fixtures/speech.wav");
    let speech = WavReader::new(Bytes::from_static(file)).unwrap().read_all();
    let mut resampler = Resampler::new(speech.rate(), SampleRate::HZ_48000);
    let mut wide = vec![0; 24_000];
    resampler.process(speech.samples(), &mut wide);
    resampler.flush(&mut wide);
    wide.resize(wide.len() + 72_000, 0);
    let mut encoder = Encoder::new(&PlayoutConfig::default()).unwrap();
    wide.chunks_exact(FRAME_SAMPLES)
        .map(|frame| encoder.encode(frame).unwrap())
        .collect()
}

fn threads() -> MediaThreads {
    MediaThreads::start(&MediaConfig::default()).unwrap()
}

fn listen(threads: &MediaThreads, capacity: usize) -> (Pipeline, mpsc::Receiver<SpeechEvent>) {
    let (events, receiver) = mpsc::channel(capacity);
    let mode = PipelineMode::Listen {
        events,
        live: false,
    };
    (threads.pipeline(mode, Arc::new(Wire::default())), receiver)
}

/// Feeds packets as fast as the queue takes them, arrival times as in real time.
async fn feed(pipeline: &Pipeline, packets: &[Bytes], first: u16) {
    let start = Instant::now();
    for (n, payload) in packets.iter().enumerate() {
        let n = n as u16;
        pipeline.packet(RtpIn {
            sequence: first.wrapping_add(n),
            timestamp: u32::from(n) * 960,
            payload: payload.clone(),
            arrived: start + Duration::from_millis(20) * u32::from(n),
        });
        while pipeline.stats().received <= u64::from(n) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn packets_become_one_utterance() {
    let threads = threads();
    let (pipeline, mut events) = listen(&threads, 64);
    feed(&pipeline, &speech_packets(), 65_500).await;
    let (mut names, mut last) = (Vec::new(), None);
    while last.is_none() {
        match timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            SpeechEvent::Onset { .. } => names.push("onset"),
            SpeechEvent::Misfire => names.push("misfire"),
            SpeechEvent::Confirmed => names.push("confirmed"),
            SpeechEvent::Ended {
                utterance, reason, ..
            } => {
                last = Some((utterance.duration().unwrap(), reason));
            }
            _ => {}
        }
    }
    assert_eq!(names, ["onset", "confirmed"]);
    let (duration, reason) = last.unwrap();
    assert_eq!(reason, EndReason::Endpoint);
    assert!(
        (3_600..4_100).contains(&duration.as_millis()),
        "{duration:?}"
    );
    assert_eq!(pipeline.stats().undecodable, 0);
}

#[tokio::test]
async fn a_removed_source_ends_the_utterance_and_a_dropped_pipeline_the_events() {
    let threads = threads();
    let (pipeline, mut events) = listen(&threads, 64);
    feed(&pipeline, &speech_packets()[..100], 1).await;
    pipeline.source_removed();
    loop {
        let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if let SpeechEvent::Ended { reason, .. } = event {
            assert_eq!(reason, EndReason::SourceRemoved);
            break;
        }
    }
    let sink = pipeline.sink();
    drop(pipeline);
    while timeout(PATIENCE, events.recv()).await.unwrap().is_some() {}
    let (notify, _news) = mpsc::channel(4);
    let mut output = sink.open(TurnId(1), notify);
    let audio = PcmChunk::new(vec![0i16; 480], SampleRate::HZ_24000);
    assert!(output.writer.write(0, audio).await.is_err());
}

#[tokio::test]
async fn a_slow_listener_loses_no_event() {
    let threads = threads();
    let (pipeline, mut events) = listen(&threads, 1);
    feed(&pipeline, &speech_packets(), 1).await;
    let mut onset = false;
    loop {
        match timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            SpeechEvent::Onset { .. } => onset = true,
            SpeechEvent::Ended { .. } => break,
            _ => {}
        }
    }
    assert!(onset);
}

#[tokio::test]
async fn garbage_is_counted_and_hurts_nobody() {
    let threads = threads();
    let (pipeline, _events) = listen(&threads, 64);
    let garbage: Vec<Bytes> = (0..60u8)
        .map(|n| Bytes::from(vec![n.wrapping_mul(37); usize::from(n % 7)]))
        .collect();
    feed(&pipeline, &garbage, 1).await;
    feed(&pipeline, &speech_packets()[..5], 61).await;
    let stats = pipeline.stats();
    assert!(stats.undecodable > 0 && stats.received >= 60, "{stats:?}");
}

#[tokio::test]
async fn a_recorder_gets_48_khz_frames_with_losses_concealed() {
    let threads = threads();
    let (frames, mut received) = mpsc::channel(1_000);
    let mode = PipelineMode::Record { frames };
    let pipeline = threads.pipeline(mode, Arc::new(Wire::default()));
    let packets = speech_packets();
    let start = Instant::now();
    for (n, payload) in packets
        .iter()
        .enumerate()
        .take(200)
        .filter(|(n, _)| n % 10 != 5)
    {
        let n = n as u32;
        pipeline.packet(RtpIn {
            sequence: n as u16,
            timestamp: n * 960,
            payload: payload.clone(),
            arrived: start + Duration::from_millis(20) * n,
        });
        while pipeline.stats().received + u64::from(n / 10) < u64::from(n) {
            tokio::task::yield_now().await;
        }
    }
    let mut concealed = 0;
    for n in 0..200u32 {
        let frame = timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
        assert_eq!(
            (frame.pcm.rate(), frame.pcm.samples().len()),
            (SampleRate::HZ_48000, 960)
        );
        assert_eq!(frame.concealed, n % 10 == 5, "frame {n}");
        concealed += u32::from(frame.concealed);
    }
    assert_eq!(concealed, 20);
}

#[tokio::test]
async fn speech_is_paced_and_its_end_reported() {
    let threads = threads();
    let (events, _receiver) = mpsc::channel(4);
    let wire = Arc::new(Wire::default());
    let mode = PipelineMode::Listen {
        events,
        live: false,
    };
    let pipeline = threads.pipeline(mode, Arc::clone(&wire) as Arc<dyn PacketOut>);
    pipeline.set_sending(true);
    let (notify, mut news) = mpsc::channel(16);
    let mut output = pipeline.sink().open(TurnId(3), notify);
    // 300 ms at 24 kHz, in odd pieces.
    let tone: Vec<i16> = (0..7_200)
        .map(|n| ((f64::from(n) * 0.1).sin() * 8_000.0) as i16)
        .collect();
    for piece in tone.chunks(777) {
        output
            .writer
            .write(0, PcmChunk::new(piece, SampleRate::HZ_24000))
            .await
            .unwrap();
    }
    output.writer.end_segment(0).await.unwrap();
    output.control.finish();
    let started = timeout(PATIENCE, news.recv()).await.unwrap().unwrap();
    let PlayoutEvent::Started { at: started, .. } = started else {
        panic!("{started:?}")
    };
    let drained = loop {
        match timeout(PATIENCE, news.recv()).await.unwrap().unwrap() {
            PlayoutEvent::Drained { at, .. } => break at,
            other => assert!(matches!(other, PlayoutEvent::Underrun { .. }), "{other:?}"),
        }
    };
    assert_eq!(
        output.control.played(),
        Played {
            segment: 0,
            within: Duration::from_millis(300)
        }
    );
    // Never ahead of the 40 ms that may be caught up; how far behind is the machine's business.
    assert!(drained - started >= Duration::from_millis(300 - 40));
    let sent = lock(&wire.0).clone();
    assert!(
        sent.iter()
            .filter(|(_, packet)| packet.payload.len() > 10)
            .count()
            >= 15
    );
    assert!(
        sent.windows(2)
            .all(|pair| pair[1].1.timestamp.wrapping_sub(pair[0].1.timestamp) >= 960)
    );
}

/// Counts its questions and says yes.
#[derive(Default)]
struct Yes(std::sync::atomic::AtomicUsize);

impl TurnJudge for Yes {
    fn judge(&self, audio: Arc<[i16]>, judgement: crate::endpoint::Judgement) {
        assert!(!audio.is_empty());
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        judgement.deliver(1.0);
    }
}

#[tokio::test]
async fn the_judge_of_the_process_ends_the_turns_of_a_call() {
    for (policy, asked) in [
        (crate::config::PolicyKind::Auto, true),
        (crate::config::PolicyKind::Silence, false),
    ] {
        let mut config = MediaConfig::default();
        config.endpoint.policy = policy;
        let judge = Arc::new(Yes::default());
        let models = Models {
            turn: Some(Arc::clone(&judge) as _),
            ..Models::default()
        };
        let threads = MediaThreads::start_with_models(&config, models).unwrap();
        let (pipeline, mut events) = listen(&threads, 64);
        feed(&pipeline, &speech_packets(), 0).await;
        loop {
            let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
            if matches!(event, SpeechEvent::Ended { .. }) {
                break;
            }
        }
        let count = judge.0.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(count > 0, asked, "{policy:?}");
    }
}

#[tokio::test]
async fn over_an_answer_a_short_voice_is_doubted_and_dismissed() {
    let threads = threads();
    let (pipeline, mut events) = listen(&threads, 64);
    pipeline.set_sending(true);
    let (notify, _news) = mpsc::channel(16);
    let mut output = pipeline.sink().open(TurnId(1), notify);
    let answer: Vec<i16> = (0..48_000).map(|n| (n % 50) * 200).collect();
    let answer = PcmChunk::new(answer, SampleRate::HZ_24000);
    output.writer.write(0, answer).await.unwrap();
    let audible = async {
        while !pipeline.is_audible() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, audible).await.unwrap();
    // As the conversation does it: an onset holds the answer, a misfire lets it go on.
    let held = output.control.played();
    output.control.hold();
    // The first word of the fixture and nothing more.
    let mut packets = speech_packets();
    let quiet = packets[0].clone();
    packets.truncate(46);
    packets.resize(46 + 40, quiet);
    feed(&pipeline, &packets, 0).await;
    let onset = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(onset, SpeechEvent::Onset { .. }), "{onset:?}");
    let next = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(next, SpeechEvent::Misfire), "{next:?}");
    assert!(pipeline.is_audible(), "a held answer keeps the floor");
    output.control.release();
    let goes_on = async {
        while output.control.played() <= held {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, goes_on).await.unwrap();
}

#[tokio::test]
async fn a_full_output_makes_the_writer_wait_and_a_cancel_frees_it() {
    let threads = threads();
    let (events, _receiver) = mpsc::channel(4);
    let mode = PipelineMode::Listen {
        events,
        live: false,
    };
    // Not sending: nothing drains the queue.
    let pipeline = threads.pipeline(mode, Arc::new(Wire::default()));
    let (notify, _news) = mpsc::channel(16);
    let mut output = pipeline.sink().open(TurnId(3), notify);
    let control = Arc::clone(&output.control);
    let writing = async {
        let second = PcmChunk::new(vec![100i16; 24_000], SampleRate::HZ_24000);
        let mut written = 0;
        while output.writer.write(0, second.clone()).await.is_ok() {
            written += 1;
            assert!(written <= 2);
        }
        written
    };
    let cancelling = async {
        // Runs when the writer has to wait for the first time.
        assert_eq!(control.cancel(), Played::default());
    };
    let (written, ()) = timeout(PATIENCE, async {
        tokio::join!(biased; writing, cancelling)
    })
    .await
    .unwrap();
    assert_eq!(written, 2);
}

#[tokio::test]
async fn a_panic_ends_one_pipeline_and_no_other() {
    struct Bomb;
    impl VoiceDetector for Bomb {
        fn frame_samples(&self) -> usize {
            256
        }
        fn score(&mut self, _: &[i16]) -> f32 {
            panic!("detector failed")
        }
        fn reset(&mut self) {}
    }
    let config = MediaConfig {
        threads: Some(1),
        ..MediaConfig::default()
    };
    let count = std::sync::atomic::AtomicUsize::new(0);
    let threads = MediaThreads::start_with(
        &config,
        Arc::new(
            move || match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Box::new(Bomb),
                _ => Box::new(EarshotDetector::new()),
            },
        ),
        Arc::new(|| Box::new(SilencePolicy::new(&MediaConfig::default().endpoint))),
    )
    .unwrap();
    let (doomed, mut doomed_events) = listen(&threads, 64);
    let (healthy, mut events) = listen(&threads, 64);
    let packets = speech_packets();
    for n in 0..5u16 {
        doomed.packet(RtpIn {
            sequence: n,
            timestamp: u32::from(n) * 960,
            payload: packets[0].clone(),
            arrived: Instant::now(),
        });
    }
    assert!(
        timeout(PATIENCE, doomed_events.recv())
            .await
            .unwrap()
            .is_none()
    );
    feed(&healthy, &packets, 1).await;
    let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, SpeechEvent::Onset { .. }));
}

#[tokio::test]
async fn load_is_spread_and_given_back() {
    let config = MediaConfig {
        threads: Some(2),
        ..MediaConfig::default()
    };
    let threads = MediaThreads::start(&config).unwrap();
    let calls: Vec<_> = (0..10).map(|_| listen(&threads, 4)).collect();
    let loads = |threads: &MediaThreads| -> Vec<usize> {
        threads.0.workers.iter().map(Worker::load).collect()
    };
    assert_eq!(loads(&threads), [5, 5]);
    for (pipeline, mut events) in calls {
        drop(pipeline);
        assert!(timeout(PATIENCE, events.recv()).await.unwrap().is_none());
    }
    timeout(PATIENCE, async {
        while loads(&threads) != [0, 0] {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

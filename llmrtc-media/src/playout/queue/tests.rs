use proptest::prelude::*;

use super::*;

fn rate(hz: u32) -> SampleRate {
    SampleRate::try_from(hz).unwrap()
}

fn filter(rate: SampleRate) -> Arc<Filter> {
    Arc::new(Filter::new(rate, RATE))
}

/// What a segment sounds like when it is resampled in one go.
fn whole(samples: &[i16], filter: &Arc<Filter>) -> Vec<i16> {
    let mut resampler = Resampler::with(Arc::clone(filter));
    let mut output = Vec::new();
    resampler.process(samples, &mut output);
    resampler.flush(&mut output);
    output
}

/// Plays one frame, or what is left.
fn play(queue: &mut Queue, heard: &mut Vec<i16>, played: &mut Played) -> usize {
    let mut pcm = [0; FRAME_SAMPLES];
    let samples = queue.peek(&mut pcm);
    heard.extend_from_slice(&pcm[..samples]);
    queue.advance(samples, played);
    samples
}

#[test]
fn audio_waits_at_the_rate_it_came_in() {
    let provider = SampleRate::HZ_24000;
    let filter = filter(provider);
    let chunks: Vec<PcmChunk> = (0..100)
        .map(|n| PcmChunk::new(vec![n; 2_400], provider))
        .collect();
    let mut queue = Queue::default();
    for chunk in &chunks {
        queue.write(0, chunk.clone(), &filter);
    }
    let ten_seconds = 10 * 24_000 * size_of::<i16>();
    let frames = 4 * FRAME_SAMPLES * size_of::<i16>();
    assert!(
        (ten_seconds - frames..ten_seconds + frames).contains(&queue.bytes()),
        "{} bytes held for 10 s",
        queue.bytes()
    );
    let waiting = &queue.streams[0].chunks;
    assert!(
        waiting
            .iter()
            .zip(&chunks)
            .all(|(held, written)| std::ptr::eq(held.samples(), written.samples())),
        "chunks are shared, not copied"
    );
    assert!(queue.duration() <= Duration::from_secs(10));
    assert!(queue.duration() > Duration::from_millis(9_998));
}

#[test]
fn an_open_segment_keeps_its_tail_until_it_ends() {
    let provider = SampleRate::HZ_24000;
    let mut queue = Queue::default();
    queue.write(
        0,
        PcmChunk::new(vec![1_000; 240], provider),
        &filter(provider),
    );
    assert!(queue.ready_samples() < 480 && !queue.is_complete());
    queue.end_segment();
    assert_eq!(queue.ready_samples(), 480);
    assert!(queue.is_complete());
    assert_eq!(queue.duration(), Duration::from_millis(10));
}

proptest! {
    // Each case designs filters, which takes its time without optimisation.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However audio is cut and whenever it is played, it sounds like its segments, and the play head is exact.
    #[test]
    fn segments_sound_as_if_resampled_whole(
        segments in proptest::collection::vec(
            (
                proptest::sample::select(&[8_000u32, 22_050, 24_000, 44_100, 48_000, 96_000][..]),
                proptest::collection::vec(any::<i16>(), 1..6_000),
                any::<bool>(),
            ),
            1..6,
        ),
        cuts in proptest::collection::vec((1usize..3_000, any::<bool>()), 1..12),
    ) {
        let mut queue = Queue::default();
        let (mut heard, mut played) = (Vec::new(), Played::default());
        let (mut expected, mut last) = (Vec::new(), 0);
        let mut cuts = cuts.iter().cycle();
        for (index, (hz, samples, told)) in segments.iter().enumerate() {
            let filter = filter(rate(*hz));
            let mut rest = &samples[..];
            while let Some((cut, plays)) = cuts.next().filter(|_| !rest.is_empty()) {
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                queue.write(index as u32, PcmChunk::new(head, rate(*hz)), &filter);
                rest = tail;
                if *plays && queue.ready_samples() >= FRAME_SAMPLES {
                    play(&mut queue, &mut heard, &mut played);
                }
            }
            // The next segment ends this one anyway.
            if *told {
                queue.end_segment();
            }
            let sound = whole(samples, &filter);
            last = sound.len();
            expected.extend(sound);
        }
        queue.end_segment();
        while play(&mut queue, &mut heard, &mut played) > 0 {}
        prop_assert!(queue.is_complete() && queue.duration().is_zero());
        prop_assert_eq!(heard, expected);
        prop_assert_eq!(played.segment as usize, segments.len() - 1);
        let off = RATE.duration_of(last).abs_diff(played.within);
        prop_assert!(off < Duration::from_micros(1), "{:?} of {last} samples", played.within);
    }
}

use proptest::prelude::*;

use super::*;
use crate::{codec::wav::WavReader, resample::Resampler};

fn speech_48k() -> Vec<i16> {
    let file = include_bytes!("../../../tests/fixtures/speech.wav");
    let speech = WavReader::new(Bytes::from_static(file)).unwrap().read_all();
    let mut resampler = Resampler::new(speech.rate(), SampleRate::HZ_48000);
    let mut wide = Vec::new();
    resampler.process(speech.samples(), &mut wide);
    resampler.flush(&mut wide);
    wide
}

fn encode(pcm: &[i16]) -> Vec<Bytes> {
    let mut encoder = Encoder::new(&PlayoutConfig::default()).unwrap();
    pcm.chunks_exact(FRAME_SAMPLES)
        .map(|frame| encoder.encode(frame).unwrap())
        .collect()
}

/// Highest normalised correlation over delays of up to 20 ms, and that delay in samples.
fn similarity(a: &[i16], b: &[i16], max_delay: usize) -> (f64, usize) {
    let length = a.len().min(b.len()) - max_delay;
    let energy = |x: &[i16]| x.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>();
    (0..max_delay)
        .map(|delay| {
            let (a, b) = (&a[..length], &b[delay..delay + length]);
            let product: f64 = a
                .iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            (product / (energy(a) * energy(b)).sqrt(), delay)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

#[test]
fn speech_survives_the_round_trip_at_both_rates() {
    let wide = speech_48k();
    let packets = encode(&wide);
    let bytes: usize = packets.iter().map(Bytes::len).sum();
    let bits_per_second = bytes * 8 * 50 / packets.len();
    assert!(
        (24_000..40_000).contains(&bits_per_second),
        "{bits_per_second} bit/s"
    );
    for rate in [SampleRate::HZ_16000, SampleRate::HZ_48000] {
        let mut resampler = Resampler::new(SampleRate::HZ_48000, rate);
        let mut original = Vec::new();
        resampler.process(&wide, &mut original);
        let mut decoder = Decoder::new(rate).unwrap();
        let decoded: Vec<i16> = packets
            .iter()
            .flat_map(|packet| decoder.decode(packet).unwrap().to_vec())
            .collect();
        assert_eq!(decoded.len(), packets.len() * rate.samples_in(FRAME));
        let (similar, delay) = similarity(&original, &decoded, rate.samples_in(FRAME));
        assert!(similar > 0.9, "{similar:.3} at {} Hz", rate.hz());
        assert!(rate.duration_of(delay) < Duration::from_millis(10));
    }
}

#[test]
fn silence_shrinks_to_comfort_noise() {
    let sizes: Vec<usize> = encode(&vec![0; 40 * FRAME_SAMPLES])
        .iter()
        .map(Bytes::len)
        .collect();
    assert!(
        sizes[12..]
            .iter()
            .filter(|size| **size <= DTX_BYTES)
            .count()
            > 20,
        "{sizes:?}"
    );
}

#[test]
fn losses_are_recovered_or_concealed() {
    let wide = speech_48k();
    let packets = encode(&wide);
    let decode = |recover: bool| -> Vec<i16> {
        let mut decoder = Decoder::new(SampleRate::HZ_16000).unwrap();
        let mut pcm = Vec::new();
        for (n, packet) in packets.iter().enumerate() {
            // Every seventh packet is lost.
            let lost = n % 7 == 3;
            let decoded = match (lost, recover, packets.get(n + 1)) {
                (false, _, _) => decoder.decode(packet),
                (true, true, Some(next)) => decoder.recover(next, FRAME),
                (true, _, _) => decoder.conceal(FRAME),
            };
            pcm.extend_from_slice(decoded.unwrap());
        }
        pcm
    };
    let mut decoder = Decoder::new(SampleRate::HZ_16000).unwrap();
    let clean: Vec<i16> = packets
        .iter()
        .flat_map(|packet| decoder.decode(packet).unwrap().to_vec())
        .collect();
    let (concealed, recovered) = (decode(false), decode(true));
    assert_eq!(
        (concealed.len(), recovered.len()),
        (clean.len(), clean.len())
    );
    let (concealed, _) = similarity(&clean, &concealed, 1);
    let (recovered, _) = similarity(&clean, &recovered, 1);
    assert!(concealed > 0.8, "{concealed:.3}");
    assert!(
        recovered > concealed,
        "{recovered:.3} with the copy, {concealed:.3} without"
    );
}

#[test]
fn durations_are_read_from_the_first_bytes() {
    let ms = |ms| Some(Duration::from_millis(ms));
    let table: &[(&[u8], Option<Duration>)] = &[
        (&[], None),
        (&[0x78], ms(20)),
        (&[0x08], ms(20)),
        (&[0x18, 0], ms(60)),
        (&[0x79, 0], ms(40)),
        (&[0x7B, 3], ms(60)),
        (&[0x7B], None),
        (&[0x7B, 0], None),
        (&[0x1B, 3], None),
    ];
    for (packet, expected) in table {
        assert_eq!(packet_duration(packet), *expected, "{packet:?}");
    }
}

#[test]
fn odd_requests_are_refused_or_rounded() {
    assert!(Decoder::new(SampleRate::try_from(44_100).unwrap()).is_err());
    let mut encoder = Encoder::new(&PlayoutConfig::default()).unwrap();
    assert!(encoder.encode(&[0; 959]).is_err());
    let mut decoder = Decoder::new(SampleRate::HZ_16000).unwrap();
    assert!(decoder.decode(&[]).is_err());
    assert_eq!(
        decoder.conceal(Duration::from_micros(3_100)).unwrap().len(),
        40
    );
    assert_eq!(
        decoder.conceal(Duration::from_secs(9)).unwrap().len(),
        1_920
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_packet_panics(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..12),
    ) {
        let mut decoder = Decoder::new(SampleRate::HZ_16000).unwrap();
        for packet in packets {
            match decoder.decode(&packet) {
                Ok(pcm) => prop_assert!(pcm.len() <= 1_920),
                Err(error) => prop_assert!(!matches!(error, OpusError::Internal), "{error}"),
            }
            let recovered = decoder.recover(&packet, FRAME).map(<[i16]>::len);
            prop_assert!(recovered.is_err() || recovered.is_ok_and(|samples| samples == 320));
        }
    }
}

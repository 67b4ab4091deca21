//! Band-limited sample rate conversion without seams.

use std::{fmt, sync::Arc};

use llmrtc_core::audio::SampleRate;

/// Filter length in samples of the lower of the two rates. 48 leave everything below 0.84 × Nyquist untouched and put
/// images and aliases 75 dB down.
const TAPS: usize = 48;

/// Kaiser window shape for a stop band of about 75 dB.
const KAISER_BETA: f64 = 7.3;

/// Centre of the transition band as a fraction of the lower rate's Nyquist frequency.
const CUTOFF: f64 = 0.92;

/// More filter phases than this are not tabulated: rates without a common measure use the nearest phase, whose timing
/// error of 1/2048 sample stays below 16-bit speech noise.
const MAX_PHASES: u64 = 1_024;

/// What converts one rate to another, without the state of a stream. Between rates without a common measure it takes
/// milliseconds to design and hundreds of kilobytes to keep, so streams share it.
pub struct Filter {
    from: SampleRate,
    to: SampleRate,
    /// Reduced ratio: `up` output samples last as long as `down` input samples.
    up: u64,
    down: u64,
    /// Phases × taps, phase-major. Empty when the rates are equal.
    table: Vec<f32>,
    phases: u64,
    taps: usize,
}

impl Filter {
    /// Designs the filter.
    pub fn new(from: SampleRate, to: SampleRate) -> Self {
        let (source, target) = (u64::from(from.hz()), u64::from(to.hz()));
        let measure = gcd(source, target);
        let (up, down) = (target / measure, source / measure);
        let (phases, taps, table) = if up == down {
            (1, 0, Vec::new())
        } else {
            let stretch = (down as f64 / up as f64).max(1.0);
            let taps = ((TAPS as f64 * stretch).ceil() as usize).next_multiple_of(8);
            let phases = up.min(MAX_PHASES);
            (phases, taps, coefficients(phases, taps, stretch))
        };
        Self {
            from,
            to,
            up,
            down,
            table,
            phases,
            taps,
        }
    }

    /// The rate of the input.
    pub fn from(&self) -> SampleRate {
        self.from
    }

    /// The rate of the output.
    pub fn to(&self) -> SampleRate {
        self.to
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} → {} Hz)", self.from.hz(), self.to.hz())
    }
}

/// Resamples mono PCM, keeping filter state between calls so that a stream has no seams.
///
/// Output is aligned with the input: filtering adds no offset, it only holds back the newest samples (24 of the lower
/// rate) until their neighbours arrive. A stream of `n` samples yields `⌈n × target / source⌉` in all.
///
/// # Source
/// J. O. Smith, *Digital Audio Resampling*, <https://ccrma.stanford.edu/~jos/resample/>.
#[derive(Debug)]
pub struct Resampler {
    filter: Arc<Filter>,
    /// Input not yet out of the filter's reach; starts with `taps / 2 - 1` zeros at the beginning of a stream.
    window: Vec<f32>,
    /// Where the next output lies: `whole` samples into `window` (of the filter's first tap), plus `fraction / up`.
    whole: usize,
    fraction: u64,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// A resampler at the beginning of a stream, with a filter of its own.
    pub fn new(from: SampleRate, to: SampleRate) -> Self {
        Self::with(Arc::new(Filter::new(from, to)))
    }

    /// A resampler at the beginning of a stream.
    pub fn with(filter: Arc<Filter>) -> Self {
        let mut resampler = Self {
            filter,
            window: Vec::new(),
            whole: 0,
            fraction: 0,
            taken: 0,
            given: 0,
        };
        resampler.reset();
        resampler
    }

    /// The rate of the input.
    pub fn from(&self) -> SampleRate {
        self.filter.from
    }

    /// The rate of the output.
    pub fn to(&self) -> SampleRate {
        self.filter.to
    }

    /// Appends to `output` whatever `input` completes.
    pub fn process(&mut self, input: &[i16], output: &mut Vec<i16>) {
        if self.filter.taps == 0 {
            output.extend_from_slice(input);
            return;
        }
        self.taken += input.len() as u64;
        self.window
            .extend(input.iter().map(|sample| f32::from(*sample)));
        self.filter_available(output, u64::MAX);
    }

    /// Appends the held-back end of the stream to `output` and starts a new one.
    pub fn flush(&mut self, output: &mut Vec<i16>) {
        if self.filter.taps != 0 {
            let total = (self.taken * self.filter.up).div_ceil(self.filter.down);
            let padded = self.window.len() + self.filter.taps;
            self.window.resize(padded, 0.0);
            self.filter_available(output, total);
        }
        self.reset();
    }

    /// Starts a new stream, dropping what was held back.
    pub fn reset(&mut self) {
        self.window.clear();
        self.window
            .resize((self.filter.taps / 2).saturating_sub(1), 0.0);
        (self.whole, self.fraction, self.taken, self.given) = (0, 0, 0, 0);
    }

    fn filter_available(&mut self, output: &mut Vec<i16>, limit: u64) {
        let &Filter {
            up,
            down,
            phases,
            taps,
            ref table,
            ..
        } = &*self.filter;
        while self.given < limit {
            let Some(window) = self.window.get(self.whole..self.whole + taps) else {
                break;
            };
            let phase = (self.fraction * phases / up) as usize;
            let coefficients = &table[phase * taps..][..taps];
            output.push(dot(window, coefficients).round().clamp(-32_768.0, 32_767.0) as i16);
            self.given += 1;
            self.fraction += down;
            self.whole += (self.fraction / up) as usize;
            self.fraction %= up;
        }
        let spent = self.whole.min(self.window.len());
        self.window.drain(..spent);
        self.whole -= spent;
    }
}

/// Eight partial sums let the compiler use vector registers, which float addition in order would forbid.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Kaiser-windowed sinc, one row of taps for each fraction of an input sample, every row with unit gain at zero
/// frequency so that phases do not modulate the signal.
fn coefficients(phases: u64, taps: usize, stretch: f64) -> Vec<f32> {
    let cutoff = CUTOFF / stretch;
    let centre = (taps / 2 - 1) as f64;
    let half = (taps / 2) as f64;
    let scale = 1.0 / bessel_i0(KAISER_BETA);
    let mut table = Vec::with_capacity(phases as usize * taps);
    for phase in 0..phases {
        let fraction = phase as f64 / phases as f64;
        let row: Vec<f64> = (0..taps)
            .map(|tap| {
                let distance = tap as f64 - centre - fraction;
                let edge = (1.0 - (distance / half).powi(2)).max(0.0);
                sinc(distance * cutoff) * bessel_i0(KAISER_BETA * edge.sqrt()) * scale
            })
            .collect();
        let gain: f64 = row.iter().sum();
        table.extend(row.iter().map(|tap| (tap / gain) as f32));
    }
    table
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x.abs() < 1e-9 { 1.0 } else { x.sin() / x }
}

/// Modified Bessel function of the first kind, order zero, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-12 {
        term *= quarter / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATES: [u32; 9] = [
        8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 22_257,
    ];

    fn rate(hz: u32) -> SampleRate {
        SampleRate::try_from(hz).unwrap()
    }

    fn tone(hz: f64, rate: SampleRate, samples: usize) -> Vec<i16> {
        (0..samples)
            .map(|n| {
                let phase = 2.0 * std::f64::consts::PI * hz * n as f64 / f64::from(rate.hz());
                (phase.sin() * 16_000.0) as i16
            })
            .collect()
    }

    fn convert(from: SampleRate, to: SampleRate, input: &[i16]) -> Vec<i16> {
        let mut resampler = Resampler::new(from, to);
        let mut output = Vec::new();
        resampler.process(input, &mut output);
        resampler.flush(&mut output);
        output
    }

    /// Energy of the difference to the ideal tone, relative to the tone, in decibels; edges left out.
    fn error_db(output: &[i16], hz: f64, rate: SampleRate) -> f64 {
        let ideal = tone(hz, rate, output.len());
        let inner = 500..output.len() - 500;
        let (mut error, mut power) = (0.0, 0.0);
        for n in inner {
            error += (f64::from(output[n]) - f64::from(ideal[n])).powi(2);
            power += f64::from(ideal[n]).powi(2);
        }
        10.0 * (error / power).log10()
    }

    #[test]
    fn tones_survive_in_place_and_in_phase() {
        for from in RATES {
            for to in [16_000, 48_000] {
                let (from, to) = (rate(from), rate(to));
                let output = convert(from, to, &tone(1_000.0, from, from.hz() as usize / 2));
                let error = error_db(&output, 1_000.0, to);
                assert!(error < -55.0, "{} → {}: {error:.1} dB", from.hz(), to.hz());
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_removed() {
        let (from, to) = (rate(48_000), rate(16_000));
        let output = convert(from, to, &tone(9_500.0, from, 48_000));
        let loudest = output
            .iter()
            .map(|sample| sample.unsigned_abs())
            .max()
            .unwrap();
        // The beginning and the end of the tone are clicks of their own.
        let inner = output[200..output.len() - 200]
            .iter()
            .map(|s| s.unsigned_abs())
            .max()
            .unwrap();
        assert!(
            inner < 16,
            "alias at {inner} of 16000, {loudest} at the edges"
        );
    }

    #[test]
    fn extremes_saturate() {
        let square: Vec<i16> = (0..4_800)
            .map(|n| if n / 24 % 2 == 0 { i16::MAX } else { i16::MIN })
            .collect();
        let output = convert(rate(24_000), rate(48_000), &square);
        assert!(output.contains(&i16::MAX) && output.contains(&i16::MIN));
    }

    #[test]
    fn flushing_starts_a_new_stream() {
        let mut resampler = Resampler::new(rate(24_000), rate(48_000));
        let input = tone(440.0, rate(24_000), 1_000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        resampler.process(&input, &mut first);
        resampler.flush(&mut first);
        resampler.process(&input, &mut second);
        resampler.flush(&mut second);
        assert_eq!(first, second);
    }

    proptest! {
        // Each case designs a filter, which takes its time without optimisation.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_sound_like_the_whole(
            from in proptest::sample::select(&RATES[..]),
            to in proptest::sample::select(&[16_000u32, 48_000][..]),
            input in proptest::collection::vec(any::<i16>(), 0..3_000),
            cuts in proptest::collection::vec(1usize..700, 1..12),
        ) {
            let (from, to) = (rate(from), rate(to));
            let whole = convert(from, to, &input);
            let mut resampler = Resampler::new(from, to);
            let (mut pieces, mut rest) = (Vec::new(), &input[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                resampler.process(head, &mut pieces);
                rest = tail;
            }
            resampler.flush(&mut pieces);
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn duration_is_kept(
            from in 8_000u32..192_000,
            to in proptest::sample::select(&[16_000u32, 48_000][..]),
            samples in 0usize..4_000,
        ) {
            let output = convert(rate(from), rate(to), &vec![100; samples]);
            let exact = (samples as u64 * u64::from(to)).div_ceil(u64::from(from));
            prop_assert_eq!(output.len() as u64, exact);
        }
    }
}

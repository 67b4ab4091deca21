//! The arithmetic: products of matrices and vectors in eight-bit integers, and the few vector operations around them.
//!
//! Weights are not decoded to floats. Instead the vector is rounded to eight bits in blocks of 32 with a scale each,
//! products are summed in integers, and only sums of blocks become floats. With `w = s·q + o` and `x = t·a`:
//! `Σ w·x = s·t·Σ q·a + o·t·Σ a`, of which the last sum does not depend on the row.
//!
//! On x86-64 with AVX2 the blocks are multiplied by the instructions made for it, found at run time; elsewhere by
//! plain loops over fixed-size arrays, which the compiler turns into what the machine has.

use super::weights::{Block4, Block8, COLUMNS, Data, Matrix, ROWS};

/// Vectors that share one pass over the weights. More do not fit into registers.
const SHARED: usize = 4;

/// 32 values of a vector, rounded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounded {
    /// Four values each, first value lowest.
    quads: [i32; 8],
    scale: f32,
    /// `scale` times the sum of all values.
    sum: f32,
}

/// Vectors of equal length in both forms.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    length: usize,
    exact: Vec<f32>,
    rounded: Vec<Rounded>,
}

impl Vectors {
    /// Takes vectors of `length` that lie behind each other.
    pub(super) fn new(cpu: Cpu, exact: Vec<f32>, length: usize) -> Self {
        let rounded = cpu.run(Round(&exact));
        Self {
            length,
            exact,
            rounded,
        }
    }

    fn count(&self) -> usize {
        self.exact.len() / self.length
    }

    fn rounded(&self, at: usize) -> &[Rounded] {
        let blocks = self.length / COLUMNS;
        &self.rounded[at * blocks..][..blocks]
    }
}

/// What this machine can do, found once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    #[cfg(target_arch = "x86_64")]
    v3: Option<pulp::x86::V3>,
}

/// Work that gains from wide registers. `run` must be `#[inline(always)]`, as must be all it calls: only what is
/// compiled into the caller uses the caller's instructions.
trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

impl Cpu {
    pub(super) fn detect() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            v3: pulp::x86::V3::try_new(),
        }
    }

    /// The plain loops, for comparison.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            v3: None,
        }
    }

    #[inline]
    fn run<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = self.v3 {
            return v3.vectorize(
                #[inline(always)]
                || work.run(),
            );
        }
        work.run()
    }

    /// Multiplies every vector by `matrix`. The results lie behind each other.
    pub(super) fn multiply(self, matrix: &Matrix, vectors: &Vectors) -> Vec<f32> {
        debug_assert_eq!(matrix.columns, vectors.length);
        let count = vectors.count();
        let mut out = vec![0.0; count * matrix.rows];
        let mut at = 0;
        while at < count {
            let outs = &mut out[at * matrix.rows..];
            at += match count - at {
                1 => self.share::<1>(matrix, vectors, at, outs),
                2 => self.share::<2>(matrix, vectors, at, outs),
                3 => self.share::<3>(matrix, vectors, at, outs),
                _ => self.share::<SHARED>(matrix, vectors, at, outs),
            };
        }
        out
    }

    fn share<const N: usize>(
        self,
        matrix: &Matrix,
        vectors: &Vectors,
        at: usize,
        out: &mut [f32],
    ) -> usize {
        let rows = matrix.rows;
        match &matrix.data {
            Data::F32(weights) => self.run(Exact {
                weights,
                vectors: &vectors.exact[at * vectors.length..][..N * vectors.length],
                length: vectors.length,
                rows,
                out,
            }),
            Data::Q4(blocks) => self.panels(
                blocks,
                std::array::from_fn::<_, N, _>(|i| vectors.rounded(at + i)),
                rows,
                out,
            ),
            Data::Q8(blocks) => self.panels(
                blocks,
                std::array::from_fn::<_, N, _>(|i| vectors.rounded(at + i)),
                rows,
                out,
            ),
        }
        N
    }

    fn panels<B: Block, const N: usize>(
        self,
        blocks: &[B],
        vectors: [&[Rounded]; N],
        rows: usize,
        out: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = self.v3 {
            return v3.vectorize(
                #[inline(always)]
                || {
                    each_panel(
                        blocks,
                        vectors,
                        rows,
                        out,
                        #[inline(always)]
                        |panel, vectors| B::panel_v3(v3, panel, vectors),
                    );
                },
            );
        }
        each_panel(blocks, vectors, rows, out, B::panel);
    }

    /// Scaled dot products of `query` with `keys`, which lie `stride` apart in half precision.
    pub(super) fn scores(
        self,
        query: &[f32],
        keys: &[u16],
        stride: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        self.run(Scores {
            query,
            keys,
            stride,
            scale,
            out,
        });
    }

    /// Adds `values`, which lie `stride` apart in half precision, to `out`, each times its weight.
    pub(super) fn blend(self, weights: &[f32], values: &[u16], stride: usize, out: &mut [f32]) {
        self.run(Blend {
            weights,
            values,
            stride,
            out,
        });
    }
}

#[inline(always)]
fn each_panel<'a, B, const N: usize>(
    blocks: &'a [B],
    vectors: [&'a [Rounded]; N],
    rows: usize,
    out: &mut [f32],
    panel: impl Fn(&'a [B], [&'a [Rounded]; N]) -> [[f32; ROWS]; N],
) {
    let per_panel = vectors[0].len();
    for (at, blocks) in blocks.chunks_exact(per_panel).enumerate() {
        let sums = panel(blocks, vectors);
        let first = at * ROWS;
        let height = ROWS.min(rows - first);
        for (vector, sums) in sums.iter().enumerate() {
            out[vector * rows + first..][..height].copy_from_slice(&sums[..height]);
        }
    }
}

/// A layout of weights: multiplies one panel by up to [`SHARED`] vectors.
trait Block: Sized {
    fn panel<const N: usize>(blocks: &[Self], vectors: [&[Rounded]; N]) -> [[f32; ROWS]; N];

    #[cfg(target_arch = "x86_64")]
    fn panel_v3<const N: usize>(
        v3: pulp::x86::V3,
        blocks: &[Self],
        vectors: [&[Rounded]; N],
    ) -> [[f32; ROWS]; N];
}

impl Block for Block4 {
    #[inline(always)]
    fn panel<const N: usize>(blocks: &[Self], vectors: [&[Rounded]; N]) -> [[f32; ROWS]; N] {
        let mut out = [[0.0; ROWS]; N];
        for (at, block) in blocks.iter().enumerate() {
            for (out, vector) in out.iter_mut().zip(vectors) {
                let vector = &vector[at];
                let mut sums = [0i32; ROWS];
                for (g, quad) in block.quads.iter().enumerate() {
                    let low = vector.quads[g].to_le_bytes();
                    let high = vector.quads[g + 4].to_le_bytes();
                    for (sum, four) in sums.iter_mut().zip(quad.as_chunks::<4>().0) {
                        for k in 0..4 {
                            *sum += i32::from(four[k] & 15) * i32::from(low[k] as i8)
                                + i32::from(four[k] >> 4) * i32::from(high[k] as i8);
                        }
                    }
                }
                for (lane, out) in out.iter_mut().enumerate() {
                    *out += block.scale[lane] * vector.scale * sums[lane] as f32
                        + block.offset[lane] * vector.sum;
                }
            }
        }
        out
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn panel_v3<const N: usize>(
        v3: pulp::x86::V3,
        blocks: &[Self],
        vectors: [&[Rounded]; N],
    ) -> [[f32; ROWS]; N] {
        let (avx, avx2, fma) = (v3.avx, v3.avx2, v3.fma);
        let (low, ones) = (avx._mm256_set1_epi8(15), avx._mm256_set1_epi16(1));
        let mut out = [avx._mm256_setzero_ps(); N];
        for (at, block) in blocks.iter().enumerate() {
            // Eight products of pairs, each at most 2·15·127, fit into sixteen bits.
            let mut sums = [avx._mm256_setzero_si256(); N];
            for g in 0..4 {
                let both = pulp::cast(block.quads[g]);
                let first = avx2._mm256_and_si256(both, low);
                let second = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(both), low);
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    let quads = &vector[at].quads;
                    for (weights, quad) in [(first, quads[g]), (second, quads[g + 4])] {
                        let pairs = avx2._mm256_maddubs_epi16(weights, avx._mm256_set1_epi32(quad));
                        *sum = avx2._mm256_add_epi16(*sum, pairs);
                    }
                }
            }
            let (scale, offset) = (pulp::cast(block.scale), pulp::cast(block.offset));
            for ((out, sum), vector) in out.iter_mut().zip(sums).zip(vectors) {
                let vector = &vector[at];
                let sum = avx._mm256_cvtepi32_ps(avx2._mm256_madd_epi16(sum, ones));
                let factor = avx._mm256_mul_ps(scale, avx._mm256_set1_ps(vector.scale));
                *out = fma._mm256_fmadd_ps(factor, sum, *out);
                *out = fma._mm256_fmadd_ps(offset, avx._mm256_set1_ps(vector.sum), *out);
            }
        }
        out.map(pulp::cast)
    }
}

impl Block for Block8 {
    #[inline(always)]
    fn panel<const N: usize>(blocks: &[Self], vectors: [&[Rounded]; N]) -> [[f32; ROWS]; N] {
        let mut out = [[0.0; ROWS]; N];
        for (at, block) in blocks.iter().enumerate() {
            for (out, vector) in out.iter_mut().zip(vectors) {
                let vector = &vector[at];
                for half in 0..2 {
                    let mut sums = [0i32; ROWS];
                    for g in half * 4..half * 4 + 4 {
                        let values = vector.quads[g].to_le_bytes();
                        for (sum, four) in sums.iter_mut().zip(block.quads[g].as_chunks::<4>().0) {
                            for k in 0..4 {
                                *sum += i32::from(four[k]) * i32::from(values[k] as i8);
                            }
                        }
                    }
                    for (lane, out) in out.iter_mut().enumerate() {
                        *out += block.scale[half][lane] * vector.scale * sums[lane] as f32;
                    }
                }
            }
        }
        out
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn panel_v3<const N: usize>(
        v3: pulp::x86::V3,
        blocks: &[Self],
        vectors: [&[Rounded]; N],
    ) -> [[f32; ROWS]; N] {
        let (avx, avx2, fma) = (v3.avx, v3.avx2, v3.fma);
        let ones = avx._mm256_set1_epi16(1);
        let mut out = [avx._mm256_setzero_ps(); N];
        for (at, block) in blocks.iter().enumerate() {
            for half in 0..2 {
                let mut sums = [avx._mm256_setzero_si256(); N];
                for g in half * 4..half * 4 + 4 {
                    // The instruction wants one side unsigned: the sign of the weight moves to the value.
                    let weights = pulp::cast(block.quads[g]);
                    let size = avx2._mm256_abs_epi8(weights);
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        let value = avx._mm256_set1_epi32(vector[at].quads[g]);
                        let value = avx2._mm256_sign_epi8(value, weights);
                        let pairs = avx2._mm256_maddubs_epi16(size, value);
                        *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_madd_epi16(pairs, ones));
                    }
                }
                let scale = pulp::cast(block.scale[half]);
                for ((out, sum), vector) in out.iter_mut().zip(sums).zip(vectors) {
                    let factor = avx._mm256_mul_ps(scale, avx._mm256_set1_ps(vector[at].scale));
                    *out = fma._mm256_fmadd_ps(factor, avx._mm256_cvtepi32_ps(sum), *out);
                }
            }
        }
        out.map(pulp::cast)
    }
}

struct Round<'a>(&'a [f32]);

impl Work for Round<'_> {
    type Output = Vec<Rounded>;

    #[inline(always)]
    fn run(self) -> Vec<Rounded> {
        self.0.as_chunks().0.iter().map(round).collect()
    }
}

#[inline(always)]
fn round(values: &[f32; COLUMNS]) -> Rounded {
    let mut top = 0.0f32;
    for value in values {
        top = top.max(value.abs());
    }
    let scale = top / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut bytes = [0u8; COLUMNS];
    let mut sum = 0i32;
    for (byte, value) in bytes.iter_mut().zip(values) {
        // Adding and taking away 1.5·2²³ rounds to the nearest integer without a call.
        let rounded = (value * inverse + 12_582_912.0) - 12_582_912.0;
        let rounded = rounded as i32;
        sum += rounded;
        *byte = rounded as i8 as u8;
    }
    let mut quads = [0; 8];
    for (quad, four) in quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *quad = i32::from_le_bytes(*four);
    }
    Rounded {
        quads,
        scale,
        sum: scale * sum as f32,
    }
}

/// Sums of products in lanes, because the order of a float sum is not the compiler's to change.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

struct Exact<'a> {
    weights: &'a [f32],
    vectors: &'a [f32],
    length: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl Work for Exact<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (row, weights) in self.weights.chunks_exact(self.length).enumerate() {
            for (at, vector) in self.vectors.chunks_exact(self.length).enumerate() {
                self.out[at * self.rows + row] = dot(weights, vector);
            }
        }
    }
}

struct Scores<'a> {
    query: &'a [f32],
    keys: &'a [u16],
    stride: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl Work for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (query, rest) = self.query.as_chunks::<16>();
        for (out, key) in self.out.iter_mut().zip(self.keys.chunks(self.stride)) {
            let key = &key[..self.query.len()];
            let (key, key_rest) = key.as_chunks::<16>();
            let mut lanes = [0.0f32; 16];
            for (q, k) in query.iter().zip(key) {
                for lane in 0..16 {
                    lanes[lane] += q[lane] * super::weights::widen(k[lane]);
                }
            }
            let mut sum: f32 = lanes.iter().sum();
            for (q, k) in rest.iter().zip(key_rest) {
                sum += q * super::weights::widen(*k);
            }
            *out = sum * self.scale;
        }
    }
}

struct Blend<'a> {
    weights: &'a [f32],
    values: &'a [u16],
    stride: usize,
    out: &'a mut [f32],
}

impl Work for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (weight, value) in self.weights.iter().zip(self.values.chunks(self.stride)) {
            for (out, value) in self.out.iter_mut().zip(value) {
                *out += weight * super::weights::widen(*value);
            }
        }
    }
}

/// Root mean square normalisation: `x / √(mean(x²) + ε) · weight`.
pub(super) fn normalise(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks_exact(weight.len()) {
        let mean = dot(x, x) / x.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        out.extend(x.iter().zip(weight).map(|(x, w)| x * scale * w));
    }
    out
}

/// `gate·σ(gate)·up`, into `gate`.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// Makes weights of scores: positive, sum one.
pub(super) fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - top).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::{
        super::{file::Contents, testing::Writer, weights::Loader},
        *,
    };

    /// Numbers without a pattern, in -1..1.
    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(count)
        .collect()
    }

    fn matrix(kind: u32, block: (usize, usize), rows: usize, columns: usize) -> Matrix {
        let (values, bytes) = block;
        let mut data: Vec<u8> = noise(rows * columns / values * bytes, 3)
            .iter()
            .map(|x| (x * 127.0) as i8 as u8)
            .collect();
        for block in data.chunks_exact_mut(bytes) {
            // A scale of a thirty-second, and of a quarter for what is added.
            block[..2].copy_from_slice(&0x2800u16.to_le_bytes());
            if kind == 3 {
                block[2..4].copy_from_slice(&0x3400u16.to_le_bytes());
            }
        }
        let file = Writer::default()
            .raw("t", &[columns as u64, rows as u64], kind, &data)
            .build();
        let mut source = Cursor::new(file);
        let contents = Contents::read(&mut source).unwrap();
        let (contents, source) = (&contents, &mut source);
        Loader { contents, source }
            .matrix("t", rows, columns)
            .unwrap()
    }

    /// All ways of multiplying agree with each other, and with the exact product as far as eight bits allow.
    fn check(matrix: &Matrix) {
        for count in 1..=9 {
            let exact = noise(count * matrix.columns, 7);
            let cpu = Cpu::detect();
            let fast = cpu.multiply(matrix, &Vectors::new(cpu, exact.clone(), matrix.columns));
            let cpu = Cpu::plain();
            let plain = cpu.multiply(matrix, &Vectors::new(cpu, exact.clone(), matrix.columns));
            let mut row = vec![0.0; matrix.columns];
            for at in 0..matrix.rows {
                matrix.row(at, &mut row);
                for (n, vector) in exact.chunks_exact(matrix.columns).enumerate() {
                    let expected = dot(&row, vector);
                    let (fast, plain) = (fast[n * matrix.rows + at], plain[n * matrix.rows + at]);
                    assert!((fast - plain).abs() < 1e-3, "{fast} {plain}");
                    let size = dot(&row, &row).sqrt();
                    assert!(
                        (fast - expected).abs() < size * 0.06,
                        "{fast} {expected} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_agree() {
        check(&matrix(2, (32, 18), 8, 64));
        check(&matrix(3, (32, 20), 19, 96));
        check(&matrix(8, (32, 34), 19, 96));
        check(&matrix(6, (32, 22), 16, 32));
    }

    #[test]
    fn products_with_extreme_values_do_not_overflow() {
        let mut blocks = vec![u8::MAX; 18];
        blocks[..2].copy_from_slice(&0x3C00u16.to_le_bytes());
        let file = Writer::default()
            .raw("t", &[32, 8], 2, &blocks.repeat(8))
            .build();
        let mut source = Cursor::new(file);
        let contents = Contents::read(&mut source).unwrap();
        let (contents, source) = (&contents, &mut source);
        let matrix = Loader { contents, source }.matrix("t", 8, 32).unwrap();
        let cpu = Cpu::detect();
        let out = cpu.multiply(&matrix, &Vectors::new(cpu, vec![-127.0; 32], 32));
        assert_eq!(out, [-127.0 * 7.0 * 32.0; 8]);
    }

    #[test]
    fn attention_in_half_precision_is_close() {
        let (query, key) = (noise(20, 1), noise(3 * 24, 2));
        let halves: Vec<u16> = key
            .iter()
            .map(|x| super::super::weights::narrow(*x))
            .collect();
        let mut scores = [0.0; 3];
        let mut mixed = [0.0; 20];
        let cpu = Cpu::detect();
        cpu.scores(&query, &halves, 24, 0.5, &mut scores);
        cpu.blend(&[1.0, 0.0, 2.0], &halves, 24, &mut mixed);
        for (at, score) in scores.iter().enumerate() {
            let expected = 0.5 * dot(&query, &key[at * 24..][..20]);
            assert!((score - expected).abs() < 1e-2);
        }
        for (at, mixed) in mixed.iter().enumerate() {
            assert!((mixed - key[at] - 2.0 * key[48 + at]).abs() < 1e-2);
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let rounded = round(&[0.0; COLUMNS]);
        assert_eq!(
            (rounded.scale, rounded.sum, rounded.quads),
            (0.0, 0.0, [0; 8])
        );
        let mut scores = [1000.0, 1000.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.5, 0.5]);
    }
}

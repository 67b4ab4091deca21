//! Tensors as they are multiplied: a handful of GGML formats, repacked at load time into three layouts.
//!
//! A quantised matrix is cut into panels of eight rows, a panel into blocks of 32 columns. In a block the eight rows
//! lie beside each other four columns at a time, so that one 256-bit register holds four columns of eight rows, the
//! products of eight rows land in eight lanes, and nothing is ever summed across lanes.
//!
//! Source of the formats: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use std::io::{Read, Seek, SeekFrom};

use super::{
    GgufError,
    file::{Contents, Tensor},
};

/// Rows of a panel.
pub(super) const ROWS: usize = 8;
/// Columns of a block.
pub(super) const COLUMNS: usize = 32;
/// For messages.
pub(super) const FORMATS: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K";

/// Four-bit weights, `scale × q + offset`.
#[derive(Clone, Debug)]
#[repr(C, align(32))]
pub(super) struct Block4 {
    pub(super) scale: [f32; ROWS],
    pub(super) offset: [f32; ROWS],
    /// `quads[g]`: of each row the columns `4g..4g+4` in the low halves and `16+4g..20+4g` in the high halves.
    pub(super) quads: [[u8; 4 * ROWS]; 4],
}

/// Eight-bit weights, `scale × q`, with a scale for either half of the columns.
#[derive(Clone, Debug)]
#[repr(C, align(32))]
pub(super) struct Block8 {
    pub(super) scale: [[f32; ROWS]; 2],
    /// `quads[g]`: of each row the columns `4g..4g+4`.
    pub(super) quads: [[i8; 4 * ROWS]; 8],
}

/// A matrix of `rows × columns`; a product with it maps `columns` values to `rows`.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Q4(Vec<Block4>),
    Q8(Vec<Block8>),
    F32(Vec<f32>),
}

impl Matrix {
    /// Blocks of one panel.
    pub(super) fn blocks(&self) -> usize {
        self.columns / COLUMNS
    }

    /// One row in full precision, as embeddings are looked up.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / ROWS * self.blocks(), row % ROWS);
        match &self.data {
            Data::F32(values) => {
                out.copy_from_slice(&values[row * self.columns..][..self.columns]);
            }
            Data::Q4(blocks) => {
                for (block, out) in blocks[panel..].iter().zip(out.chunks_exact_mut(COLUMNS)) {
                    for (column, out) in out.iter_mut().enumerate() {
                        let byte = block.quads[column % 16 / 4][lane * 4 + column % 4];
                        let q = if column < 16 { byte & 15 } else { byte >> 4 };
                        *out = block.scale[lane] * f32::from(q) + block.offset[lane];
                    }
                }
            }
            Data::Q8(blocks) => {
                for (block, out) in blocks[panel..].iter().zip(out.chunks_exact_mut(COLUMNS)) {
                    for (column, out) in out.iter_mut().enumerate() {
                        let q = block.quads[column / 4][lane * 4 + column % 4];
                        *out = block.scale[column / 16][lane] * f32::from(q);
                    }
                }
            }
        }
    }
}

/// The GGML types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4K,
    Q6K,
}

impl Format {
    fn of(name: &str, tensor: &Tensor) -> Result<Self, GgufError> {
        Ok(match tensor.kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::BF16,
            other => {
                return Err(GgufError::TensorType {
                    tensor: name.to_owned(),
                    kind: kind_name(other),
                });
            }
        })
    }

    /// Values and bytes of one block of the file.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }
}

fn kind_name(kind: u32) -> String {
    let name = match kind {
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("number {other}"),
    };
    name.to_owned()
}

/// Reads tensors one after the other, so that a model is in memory once.
pub(super) struct Loader<'a, R> {
    pub(super) contents: &'a Contents,
    pub(super) source: &'a mut R,
}

impl<R: Read + Seek> Loader<'_, R> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.contents.tensors.contains_key(name)
    }

    /// A matrix of this shape.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, GgufError> {
        let (format, bytes) = self.bytes(name, &[columns, rows])?;
        let data = match format {
            Format::F32 | Format::F16 | Format::BF16 => Data::F32(floats(format, &bytes)),
            Format::Q4_0 | Format::Q4_1 | Format::Q4K => {
                Data::Q4(pack4(format, &bytes, rows, columns))
            }
            Format::Q5_0 | Format::Q8_0 | Format::Q6K => {
                Data::Q8(pack8(format, &bytes, rows, columns))
            }
        };
        Ok(Matrix {
            rows,
            columns,
            data,
        })
    }

    /// A vector of this length in full precision.
    pub(super) fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, GgufError> {
        match self.bytes(name, &[length])? {
            (format @ (Format::F32 | Format::F16 | Format::BF16), bytes) => {
                Ok(floats(format, &bytes))
            }
            _ => Err(GgufError::Malformed(format!("{name} is quantised"))),
        }
    }

    fn bytes(&mut self, name: &str, shape: &[usize]) -> Result<(Format, Vec<u8>), GgufError> {
        let tensor = self
            .contents
            .tensors
            .get(name)
            .ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
        let same = tensor.shape.len() >= shape.len()
            && tensor
                .shape
                .iter()
                .enumerate()
                .all(|(at, n)| *n == shape.get(at).copied().unwrap_or(1) as u64);
        if !same {
            return Err(GgufError::Malformed(format!("{name} has another shape")));
        }
        let format = Format::of(name, tensor)?;
        let (values, bytes) = format.block();
        if !shape[0].is_multiple_of(values) {
            return Err(GgufError::Malformed(format!("{name} has another shape")));
        }
        let length = shape
            .iter()
            .try_fold(1usize, |product, n| product.checked_mul(*n))
            .and_then(|count| (count / values).checked_mul(bytes))
            .ok_or_else(|| GgufError::Malformed(format!("{name} has another shape")))?;
        let end = tensor.position.checked_add(length as u64);
        if end.is_none_or(|end| end > self.contents.bytes) {
            return Err(GgufError::Truncated);
        }
        let mut buffer = vec![0; length];
        self.source
            .seek(SeekFrom::Start(tensor.position))
            .and_then(|_| self.source.read_exact(&mut buffer))
            .map_err(|_| GgufError::Truncated)?;
        Ok((format, buffer))
    }
}

fn floats(format: Format, bytes: &[u8]) -> Vec<f32> {
    match format {
        Format::F16 => bytes.as_chunks().0.iter().map(|b| f16(*b)).collect(),
        Format::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|[a, b]| f32::from_le_bytes([0, 0, *a, *b]))
            .collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
    }
}

/// IEEE half precision.
fn f16(bytes: [u8; 2]) -> f32 {
    widen(u16::from_le_bytes(bytes))
}

/// Half precision to single. Exact for zero, subnormal and normal numbers; infinities become 65536 and above.
///
/// Moving the exponent field and multiplying by 2¹¹² instead of looking at cases lets a loop of it vectorise.
#[inline(always)]
pub(super) fn widen(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7FFF) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | (u32::from(half & 0x8000) << 16))
}

/// Single precision to half, rounded to even, limited to ±65504. The inverse of [`widen`].
#[inline(always)]
pub(super) fn narrow(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    // Scaling down by 2¹¹² makes the hardware round what is subnormal in half precision.
    let small = value.abs().min(65504.0) * f32::from_bits(0x0780_0000);
    let bits = small.to_bits();
    let rounded = bits + 0xFFF + (bits >> 13 & 1);
    sign | (rounded >> 13) as u16
}

fn pack4(format: Format, bytes: &[u8], rows: usize, columns: usize) -> Vec<Block4> {
    let empty = Block4 {
        scale: [0.0; ROWS],
        offset: [0.0; ROWS],
        quads: [[0; 4 * ROWS]; 4],
    };
    let per_row = columns / COLUMNS;
    let mut packed = vec![empty; rows.div_ceil(ROWS) * per_row];
    let mut put = |index: usize, scale: f32, offset: f32, nibbles: [u8; 16]| {
        let (row, column) = (index / per_row, index % per_row);
        let (block, lane) = (&mut packed[row / ROWS * per_row + column], row % ROWS);
        (block.scale[lane], block.offset[lane]) = (scale, offset);
        for (quad, four) in block.quads.iter_mut().zip(nibbles.as_chunks::<4>().0) {
            quad[lane * 4..][..4].copy_from_slice(four);
        }
    };
    match format {
        Format::Q4_0 => {
            for (index, block) in bytes.as_chunks::<18>().0.iter().enumerate() {
                let scale = f16([block[0], block[1]]);
                put(
                    index,
                    scale,
                    -8.0 * scale,
                    std::array::from_fn(|i| block[2 + i]),
                );
            }
        }
        Format::Q4_1 => {
            for (index, block) in bytes.as_chunks::<20>().0.iter().enumerate() {
                let (scale, offset) = (f16([block[0], block[1]]), f16([block[2], block[3]]));
                put(index, scale, offset, std::array::from_fn(|i| block[4 + i]));
            }
        }
        // Q4_K: eight groups of 32 with scales and minima of six bits.
        _ => {
            for (index, block) in bytes.as_chunks::<144>().0.iter().enumerate() {
                let (d, dmin) = (f16([block[0], block[1]]), f16([block[2], block[3]]));
                let (scales, quants) = (&block[4..16], &block[16..]);
                for group in 0..8 {
                    let (scale, min) = if group < 4 {
                        (scales[group] & 63, scales[group + 4] & 63)
                    } else {
                        let low = scales[group + 4];
                        (
                            low & 15 | scales[group - 4] >> 6 << 4,
                            low >> 4 | scales[group] >> 6 << 4,
                        )
                    };
                    // 64 values share 32 bytes: even groups are the low halves.
                    let source = &quants[group / 2 * 32..][..32];
                    let value = |at: usize| source[at] >> (group % 2 * 4) & 15;
                    let nibbles = std::array::from_fn(|at| value(at) | value(at + 16) << 4);
                    put(
                        index * 8 + group,
                        d * f32::from(scale),
                        -dmin * f32::from(min),
                        nibbles,
                    );
                }
            }
        }
    }
    packed
}

fn pack8(format: Format, bytes: &[u8], rows: usize, columns: usize) -> Vec<Block8> {
    let empty = Block8 {
        scale: [[0.0; ROWS]; 2],
        quads: [[0; 4 * ROWS]; 8],
    };
    let per_row = columns / COLUMNS;
    let mut packed = vec![empty; rows.div_ceil(ROWS) * per_row];
    let mut put = |index: usize, scale: [f32; 2], values: [i8; 32]| {
        let (row, column) = (index / per_row, index % per_row);
        let (block, lane) = (&mut packed[row / ROWS * per_row + column], row % ROWS);
        for half in 0..2 {
            block.scale[half][lane] = scale[half];
        }
        for (quad, four) in block.quads.iter_mut().zip(values.as_chunks::<4>().0) {
            quad[lane * 4..][..4].copy_from_slice(four);
        }
    };
    match format {
        Format::Q8_0 => {
            for (index, block) in bytes.as_chunks::<34>().0.iter().enumerate() {
                let scale = f16([block[0], block[1]]);
                put(
                    index,
                    [scale; 2],
                    std::array::from_fn(|i| block[2 + i] as i8),
                );
            }
        }
        Format::Q5_0 => {
            for (index, block) in bytes.as_chunks::<22>().0.iter().enumerate() {
                let scale = f16([block[0], block[1]]);
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                let value = |i: usize| {
                    let low = block[6 + i % 16] >> (i / 16 * 4) & 15;
                    (low | ((high >> i & 1) as u8) << 4) as i8 - 16
                };
                put(index, [scale; 2], std::array::from_fn(value));
            }
        }
        // Q6_K: sixteen groups of 16; 128 values share 64 bytes of low and 32 bytes of high bits.
        _ => {
            for (index, block) in bytes.as_chunks::<210>().0.iter().enumerate() {
                let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
                let d = f16([block[208], block[209]]);
                for part in 0..8 {
                    let (half, quarter) = (part / 4, part % 4);
                    let value = |i: usize| {
                        let low = low[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                        let high = high[half * 32 + i] >> (quarter * 2) & 3;
                        (low | high << 4) as i8 - 32
                    };
                    let scale = |i: usize| d * f32::from(scales[part * 2 + i] as i8);
                    put(
                        index * 8 + part,
                        std::array::from_fn(scale),
                        std::array::from_fn(value),
                    );
                }
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Writer, *};

    #[test]
    fn half_precision_goes_there_and_back() {
        for half in 0..0x7C00u16 {
            assert_eq!(narrow(widen(half)), half);
            assert_eq!(narrow(widen(half | 0x8000)), half | 0x8000);
        }
        for (half, value) in [(0x3C00, 1.0), (0xC000, -2.0), (0x0001, 5.960_464_5e-8)] {
            assert_eq!(widen(half), value);
        }
        assert_eq!(widen(narrow(1e9)), 65504.0);
        assert_eq!(narrow(1.0 + 1.0 / 2048.0), 0x3C00, "ties go to even");
    }

    /// The place of a half-precision scale in a block, the values of some columns, and the sum of all, each times its
    /// number counted from one. The expected numbers are those of GGML's own Python package.
    fn check(kind: u32, bytes: usize, scales: &[usize], some: [f32; 4], sum: f64) {
        let mut block: Vec<u8> = (0..bytes).map(|i| ((i * 37 + 11) % 256) as u8).collect();
        for (scale, at) in [0.5, 0.75].into_iter().zip(scales) {
            block[*at..][..2].copy_from_slice(&narrow(scale).to_le_bytes());
        }
        let columns = if bytes > 100 { 256 } else { 32 };
        // Twelve rows: a whole panel and a part of one.
        let file = Writer::default()
            .raw("t", &[columns, 12], kind, &block.repeat(12))
            .build();
        let mut source = std::io::Cursor::new(file);
        let contents = Contents::read(&mut source).unwrap();
        let (contents, source) = (&contents, &mut source);
        let columns = columns as usize;
        let matrix = Loader { contents, source }
            .matrix("t", 12, columns)
            .unwrap();
        let mut row = vec![0.0; columns];
        for at in [0, 7, 11] {
            matrix.row(at, &mut row);
            assert_eq!(
                [row[0], row[5], row[21], row[columns - 1]],
                some,
                "type {kind}"
            );
            let weighted = row
                .iter()
                .zip(1..)
                .map(|(v, n)| f64::from(*v) * f64::from(n));
            assert_eq!(weighted.sum::<f64>(), sum, "type {kind}");
        }
    }

    #[test]
    fn blocks_mean_what_they_mean_to_ggml() {
        check(2, 18, &[0], [-1.5, 3.0, -4.0, 0.0], -259.0);
        check(3, 20, &[0, 2], [8.25, 4.75, 3.25, 6.75], 2387.5);
        check(6, 22, &[0], [4.5, -7.0, -3.0, 0.5], 56.0);
        check(8, 34, &[0], [42.5, 7.0, 47.0, -24.0], -4040.0);
        check(12, 144, &[0, 2], [132.25, 23.75, 23.75, 6.75], 3_310_708.0);
        check(14, 210, &[208], [-715.5, 742.0, 224.0, -30.0], 392_210.0);
    }

    #[test]
    fn unreadable_tensors_are_named() {
        let file = Writer::default().raw("t", &[256, 1], 10, &[0; 84]).build();
        let mut source = std::io::Cursor::new(file);
        let contents = Contents::read(&mut source).unwrap();
        let (contents, source) = (&contents, &mut source);
        let mut loader = Loader { contents, source };
        let error = loader.matrix("t", 1, 256).unwrap_err().to_string();
        assert!(
            error.contains("t has type Q2_K") && error.contains("Q4_1"),
            "{error}"
        );
        let error = loader.matrix("u", 1, 256).unwrap_err();
        assert!(matches!(error, GgufError::Missing(_)));
        let error = loader.matrix("t", 2, 256).unwrap_err();
        assert!(matches!(error, GgufError::Malformed(_)));
    }
}

//! The GGUF container: metadata and the places of the tensors.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    collections::HashMap,
    io::{BufRead, Seek, SeekFrom},
};

use super::GgufError;

/// Deepest nesting of arrays that is read.
const MAX_DEPTH: usize = 4;
/// Longest string but one: chat templates are a few kilobytes.
const MAX_STRING_BYTES: u64 = 1 << 20;
/// More than any vocabulary has.
const MAX_ARRAY: u64 = 1 << 22;
/// More than any model has.
const MAX_ENTRIES: u64 = 1 << 16;
/// What the format allows.
const MAX_DIMENSIONS: u32 = 4;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Any integer; none in use needs more than 63 bits.
    Int(i64),
    Float(f64),
    /// None in use matters.
    Bool,
    Text(String),
    Array(Vec<Value>),
}

/// Where a tensor lies and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    /// Fastest dimension first, as GGML counts.
    pub(super) shape: Vec<u64>,
    /// GGML's number of the type.
    pub(super) kind: u32,
    /// From the start of the file.
    pub(super) position: u64,
}

/// The table of contents of a model file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Tensor>,
    /// Length of the whole file.
    pub(super) bytes: u64,
}

impl Contents {
    /// Reads the front of a file. Total: whatever the bytes are, it ends, allocates no more than in proportion to
    /// what was really there, and returns an error instead of guessing.
    pub(super) fn read(source: &mut (impl BufRead + Seek)) -> Result<Self, GgufError> {
        let bytes = source
            .seek(SeekFrom::End(0))
            .and_then(|end| source.rewind().map(|()| end))
            .map_err(|_| GgufError::Truncated)?;
        let mut reader = Reader {
            source,
            at: 0,
            bytes,
        };
        let magic: [u8; 4] = reader.array().map_err(|_| GgufError::NotGguf)?;
        if &magic != b"GGUF" {
            return Err(GgufError::NotGguf);
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.count(MAX_ENTRIES, "number of tensors")?;
        let entry_count = reader.count(MAX_ENTRIES, "number of metadata entries")?;
        let mut contents = Self {
            bytes,
            ..Self::default()
        };
        for _ in 0..entry_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            contents.metadata.insert(key, value);
        }
        let mut found = Vec::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let dimensions = reader.u32()?;
            if dimensions > MAX_DIMENSIONS {
                return Err(malformed("tensor with too many dimensions"));
            }
            let shape = (0..dimensions)
                .map(|_| reader.u64())
                .collect::<Result<Vec<_>, _>>()?;
            let kind = reader.u32()?;
            let offset = reader.u64()?;
            found.push((name, shape, kind, offset));
        }
        let alignment = match contents.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Int(n)) if (1..=1 << 20).contains(n) => *n as u64,
            Some(_) => return Err(malformed("alignment")),
        };
        let data = reader
            .at
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| malformed("alignment"))?;
        for (name, shape, kind, offset) in found {
            let position = data
                .checked_add(offset)
                .ok_or_else(|| malformed("tensor position"))?;
            contents.tensors.insert(
                name,
                Tensor {
                    shape,
                    kind,
                    position,
                },
            );
        }
        Ok(contents)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn float(&self, key: &str) -> Option<f32> {
        match self.metadata.get(key)? {
            Value::Float(x) => Some(*x as f32),
            Value::Int(n) => Some(*n as f32),
            _ => None,
        }
    }

    pub(super) fn array(&self, key: &str) -> Option<&[Value]> {
        match self.metadata.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }
}

fn malformed(what: &str) -> GgufError {
    GgufError::Malformed(format!("impossible {what}"))
}

/// Little-endian values, with a count of what is left in the file.
struct Reader<'a, R> {
    source: &'a mut R,
    at: u64,
    bytes: u64,
}

impl<R: BufRead> Reader<'_, R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut buffer = [0; N];
        self.source
            .read_exact(&mut buffer)
            .map_err(|_| GgufError::Truncated)?;
        self.at += N as u64;
        Ok(buffer)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, limit: u64, what: &str) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count > limit {
            return Err(malformed(what));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.count(MAX_STRING_BYTES, "length of a string")?;
        if length > self.bytes.saturating_sub(self.at) {
            return Err(GgufError::Truncated);
        }
        let mut text = vec![0; length as usize];
        self.source
            .read_exact(&mut text)
            .map_err(|_| GgufError::Truncated)?;
        self.at += length;
        // Vocabularies hold pieces of characters only in their escaped form; anything else is damage.
        String::from_utf8(text).map_err(|_| malformed("string"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => {
                self.array::<1>()?;
                Value::Bool
            }
            8 => Value::Text(self.text()?),
            9 if depth < MAX_DEPTH => {
                let kind = self.u32()?;
                let count = self.count(MAX_ARRAY, "length of an array")?;
                // Every element takes a byte at least.
                if count > self.bytes.saturating_sub(self.at) {
                    return Err(GgufError::Truncated);
                }
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Int(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Int(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(malformed("type in the metadata")),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::{super::testing::Writer, *};

    fn read(bytes: &[u8]) -> Result<Contents, GgufError> {
        Contents::read(&mut Cursor::new(bytes))
    }

    fn sample() -> Vec<u8> {
        Writer::default()
            .text("general.architecture", "llama")
            .int("llama.block_count", 2)
            .float("x", 0.5)
            .texts("tokens", &["a", "b"])
            .tensor("t", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
            .build()
    }

    #[test]
    fn a_small_file_is_read() {
        let bytes = sample();
        let contents = read(&bytes).unwrap();
        assert_eq!(contents.text("general.architecture"), Some("llama"));
        assert_eq!(contents.int("llama.block_count"), Some(2));
        assert_eq!(contents.float("x"), Some(0.5));
        assert_eq!(contents.array("tokens").unwrap().len(), 2);
        let tensor = &contents.tensors["t"];
        assert_eq!(
            (tensor.shape.as_slice(), tensor.kind),
            ([2, 2].as_slice(), 0)
        );
        assert_eq!(tensor.position + 16, bytes.len() as u64);
    }

    #[test]
    fn what_is_not_a_model_is_named() {
        assert!(matches!(read(b""), Err(GgufError::NotGguf)));
        assert!(matches!(read(b"PK\x03\x04...."), Err(GgufError::NotGguf)));
        let old = [b"GGUF".as_slice(), &1u32.to_le_bytes()].concat();
        assert!(matches!(read(&old), Err(GgufError::Version(1))));
        let huge = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &[0xFF; 16]].concat();
        assert!(matches!(read(&huge), Err(GgufError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
        }

        #[test]
        fn a_damaged_file_never_panics(at in 0usize..300, byte: u8, cut in 0usize..300) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = read(&bytes);
            let _ = read(&bytes[..cut % length]);
        }
    }
}

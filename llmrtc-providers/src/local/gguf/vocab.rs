//! Text to tokens and back: byte-level byte pair encoding, as GPT-2 introduced it.
//!
//! Source: A. Radford et al., *Language Models are Unsupervised Multitask Learners*, section 2.2;
//! <https://github.com/openai/gpt-2/blob/master/src/encoder.py> for the alphabet of bytes.

use std::collections::HashMap;

use regex::Regex;

use super::{
    GgufError,
    file::{Contents, Value},
};

/// For messages.
pub(super) const TOKENIZERS: &str = "gpt2 with the splits of gpt-2, smollm, llama-bpe or qwen2";
/// Merging a piece takes time in the square of its length, and only input meant to hurt has longer words.
const MAX_PIECE_BYTES: usize = 256;
/// GGUF's mark of tokens that stand for themselves, never for text.
const CONTROL: i64 = 3;
/// More than any vocabulary has.
const MAX_TOKENS: usize = 1 << 20;

/// How text is cut before merging; merges never cross a cut.
#[derive(Debug)]
struct Splitter {
    pieces: Regex,
    /// Digits stand alone before anything else is looked at, so a space in front of one does not join it.
    lone_digits: bool,
}

impl Splitter {
    fn new(name: &str) -> Result<Self, GgufError> {
        // The published patterns end in `\s+(?!\S)|\s+`; looking ahead is done by hand in `split`.
        let (pattern, lone_digits) = match name {
            "gpt-2" | "default" => (
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+",
                false,
            ),
            "smollm" => (
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+",
                true,
            ),
            "llama-bpe" | "llama3" => (
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
                false,
            ),
            "qwen2" => (
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
                false,
            ),
            other => return Err(GgufError::Tokenizer(other.to_owned())),
        };
        let pieces = Regex::new(pattern).map_err(|_| GgufError::Tokenizer(name.to_owned()))?;
        Ok(Self {
            pieces,
            lone_digits,
        })
    }

    fn split<'a>(&self, text: &'a str, mut each: impl FnMut(&'a str)) {
        if !self.lone_digits {
            return self.split_run(text, &mut each);
        }
        let mut rest = text;
        while let Some((at, digit)) = rest.char_indices().find(|(_, c)| c.is_numeric()) {
            let end = at + digit.len_utf8();
            self.split_run(&rest[..at], &mut each);
            each(&rest[at..end]);
            rest = &rest[end..];
        }
        self.split_run(rest, &mut each);
    }

    fn split_run<'a>(&self, text: &'a str, each: &mut impl FnMut(&'a str)) {
        let mut at = 0;
        while let Some(found) = self.pieces.find_at(text, at) {
            let mut piece = found.as_str();
            let more = found.end() < text.len();
            // White space before a word leaves its last character to the word, unless it ends a line in patterns
            // that know lines.
            if more
                && piece.chars().all(char::is_whitespace)
                && !(piece.ends_with(['\r', '\n']) && self.knows_lines())
                && let Some((last, _)) = piece.char_indices().next_back()
                && last > 0
            {
                piece = &piece[..last];
            }
            each(piece);
            at = found.start() + piece.len();
        }
    }

    fn knows_lines(&self) -> bool {
        self.pieces.as_str().contains(r"\s*[\r\n]+")
    }
}

/// The tokens of a model.
#[derive(Debug)]
pub(super) struct Vocabulary {
    splitter: Splitter,
    /// What each token says.
    bytes: Vec<Box<[u8]>>,
    control: Vec<bool>,
    /// By name; only these can be had by name, and only by the template.
    controls: HashMap<String, u32>,
    /// The token of each single byte. Vocabularies leave out bytes that text does not have; they are skipped.
    single: Box<[Option<u32>; 256]>,
    /// What two neighbours become, and how early.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
}

impl Vocabulary {
    pub(super) fn read(contents: &Contents) -> Result<Self, GgufError> {
        let missing = |what: &str| GgufError::Missing(what.to_owned());
        let kind = contents
            .text("tokenizer.ggml.model")
            .ok_or_else(|| missing("tokenizer"))?;
        if kind != "gpt2" {
            return Err(GgufError::Tokenizer(kind.to_owned()));
        }
        let splitter = Splitter::new(contents.text("tokenizer.ggml.pre").unwrap_or("default"))?;
        let names = contents
            .array("tokenizer.ggml.tokens")
            .ok_or_else(|| missing("vocabulary"))?;
        if names.is_empty() || names.len() > MAX_TOKENS {
            return Err(GgufError::Malformed("impossible vocabulary".to_owned()));
        }
        let kinds = contents.array("tokenizer.ggml.token_type").unwrap_or(&[]);
        let alphabet = alphabet();
        let letters: HashMap<char, u8> = (0..=255).zip(alphabet).map(|(b, c)| (c, b)).collect();
        let (mut bytes, mut control) = (Vec::new(), Vec::new());
        let (mut controls, mut ids) = (HashMap::new(), HashMap::new());
        for (id, name) in names.iter().enumerate() {
            let Value::Text(name) = name else {
                return Err(GgufError::Malformed("vocabulary is not text".to_owned()));
            };
            let is_control = kinds.get(id) == Some(&Value::Int(CONTROL));
            control.push(is_control);
            if is_control {
                controls.insert(name.clone(), id as u32);
                bytes.push(Box::default());
                continue;
            }
            let decoded: Option<Box<[u8]>> =
                name.chars().map(|c| letters.get(&c).copied()).collect();
            // Added tokens that are not in the alphabet of bytes say their name.
            bytes.push(decoded.unwrap_or_else(|| name.as_bytes().into()));
            ids.insert(name.as_str(), id as u32);
        }
        let mut single = Box::new([None; 256]);
        for (slot, letter) in single.iter_mut().zip(alphabet) {
            let mut buffer = [0; 4];
            *slot = ids.get(&*letter.encode_utf8(&mut buffer)).copied();
        }
        if (0x20..0x7F).any(|byte| single[byte].is_none()) {
            return Err(missing("tokens for all letters"));
        }
        let mut merges = HashMap::new();
        let rules = contents
            .array("tokenizer.ggml.merges")
            .ok_or_else(|| missing("merges"))?;
        for (rank, rule) in rules.iter().enumerate() {
            let Value::Text(rule) = rule else { continue };
            // A merge of or to something outside the vocabulary can never be used.
            if let Some((left, right)) = rule.split_once(' ')
                && let Some(whole) = ids.get(format!("{left}{right}").as_str())
                && let (Some(left), Some(right)) = (ids.get(left), ids.get(right))
            {
                merges
                    .entry((*left, *right))
                    .or_insert((rank as u32, *whole));
            }
        }
        let mut ends: Vec<u32> = [
            "<|im_end|>",
            "<|eot_id|>",
            "<|endoftext|>",
            "<|end_of_text|>",
        ]
        .iter()
        .filter_map(|name| controls.get(*name).copied())
        .collect();
        if let Some(end) = contents.int("tokenizer.ggml.eos_token_id")
            && end < names.len() as u64
            && !ends.contains(&(end as u32))
        {
            ends.push(end as u32);
        }
        Ok(Self {
            splitter,
            bytes,
            control,
            controls,
            single,
            merges,
            ends,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A control token by its name.
    pub(super) fn control(&self, name: &str) -> Option<u32> {
        self.controls.get(name).copied()
    }

    /// Whether a token stands for no text.
    pub(super) fn is_control(&self, token: u32) -> bool {
        self.control.get(token as usize).copied().unwrap_or(true)
    }

    /// What a token says: bytes, because a character may be spread over several tokens.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// Appends the tokens of a text. Whatever the text is, none of them is a control token: the names of those are
    /// spelled out like any other text.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        self.splitter.split(text, |piece| {
            for piece in piece.as_bytes().chunks(MAX_PIECE_BYTES) {
                self.merge(piece, out);
            }
        });
    }

    fn merge(&self, piece: &[u8], out: &mut Vec<u32>) {
        let start = out.len();
        out.extend(
            piece
                .iter()
                .filter_map(|byte| self.single[usize::from(*byte)]),
        );
        loop {
            let first = out[start..]
                .array_windows()
                .enumerate()
                .filter_map(|(at, [a, b])| Some((self.merges.get(&(*a, *b))?, at)))
                .min();
            let Some(((_, whole), at)) = first else {
                return;
            };
            out[start + at] = *whole;
            out.remove(start + at + 1);
        }
    }
}

/// A printable character for every byte.
pub(super) fn alphabet() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let plain = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if plain { byte } else { next };
        next += u32::from(!plain);
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

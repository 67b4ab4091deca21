//! Models small enough to be written in a test.

use std::io::Write;

/// Builds a GGUF file.
#[derive(Default)]
pub(super) struct Writer {
    entries: Vec<u8>,
    entry_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Writer {
    fn entry(mut self, key: &str, kind: u32, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        put_text(&mut self.entries, key);
        self.entries.extend(kind.to_le_bytes());
        value(&mut self.entries);
        self.entry_count += 1;
        self
    }

    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, |out| put_text(out, value))
    }

    pub(super) fn int(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, |out| out.extend(value.to_le_bytes()))
    }

    pub(super) fn float(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, |out| out.extend(value.to_le_bytes()))
    }

    pub(super) fn texts<T: AsRef<str>>(self, key: &str, values: &[T]) -> Self {
        self.entry(key, 9, |out| {
            out.extend(8u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put_text(out, value.as_ref());
            }
        })
    }

    pub(super) fn ints(self, key: &str, values: &[i32]) -> Self {
        self.entry(key, 9, |out| {
            out.extend(5u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                out.extend(value.to_le_bytes());
            }
        })
    }

    pub(super) fn tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(name, shape, 0, &bytes)
    }

    pub(super) fn raw(mut self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> Self {
        while !self.data.len().is_multiple_of(32) {
            self.data.push(0);
        }
        put_text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        for n in shape {
            self.tensors.extend(n.to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.tensor_count += 1;
        self
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.entry_count.to_le_bytes());
        out.extend(&self.entries);
        out.extend(&self.tensors);
        while !out.len().is_multiple_of(32) {
            out.push(0);
        }
        out.extend(&self.data);
        out
    }
}

/// Control tokens of the parrot.
const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// A model that, asked anything, says `words` one after the other, spaces included in the words, and stops.
///
/// Its only layer does nothing; each token's embedding points to an axis of its own, and the output turns each axis
/// into the token that comes next. What follows the line feed behind `assistant` is therefore the first word.
pub(super) fn parrot(words: &[&str]) -> Writer {
    let alphabet: Vec<String> = super::vocab::alphabet()
        .iter()
        .map(char::to_string)
        .collect();
    let mut tokens: Vec<String> = CONTROLS.iter().map(|c| c.to_string()).collect();
    tokens.extend(alphabet.iter().cloned());
    let first_word = tokens.len();
    tokens.extend(words.iter().map(|word| {
        let letters = word.bytes().map(|b| alphabet[usize::from(b)].as_str());
        letters.collect::<String>()
    }));
    let kinds: Vec<i32> = (0..tokens.len())
        .map(|id| if id < CONTROLS.len() { 3 } else { 1 })
        .collect();
    let line_feed = CONTROLS.len() + usize::from(b'\n');
    let (n, width) = (tokens.len(), tokens.len().next_multiple_of(4));
    let mut embedding = vec![0.0; n * width];
    let mut output = vec![0.0; n * width];
    for token in 0..n {
        embedding[token * width + token] = 1.0;
        let next = match token {
            _ if token == line_feed && !words.is_empty() => first_word,
            _ if token >= first_word && token + 1 < n => token + 1,
            _ => 2,
        };
        output[next * width + token] = 1.0;
    }
    let (w, zeros) = (width as u64, |count: usize| vec![0.0; count]);
    let mut writer = Writer::default()
        .text("general.architecture", "llama")
        .int("llama.block_count", 1)
        .int("llama.context_length", 512)
        .int("llama.embedding_length", w as u32)
        .int("llama.feed_forward_length", 4)
        .int("llama.attention.head_count", 2)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &tokens)
        .ints("tokenizer.ggml.token_type", &kinds)
        .texts::<&str>("tokenizer.ggml.merges", &[])
        .text("tokenizer.chat_template", "… <|im_start|> … <|im_end|> …")
        .tensor("token_embd.weight", &[w, n as u64], &embedding)
        .tensor("output.weight", &[w, n as u64], &output)
        .tensor("output_norm.weight", &[w], &vec![1.0; width]);
    for part in ["attn_norm", "ffn_norm"] {
        writer = writer.tensor(&format!("blk.0.{part}.weight"), &[w], &vec![1.0; width]);
    }
    for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        let name = format!("blk.0.{part}.weight");
        writer = writer.tensor(&name, &[w, w], &zeros(width * width));
    }
    for (part, shape) in [
        ("ffn_gate", [w, 4]),
        ("ffn_up", [w, 4]),
        ("ffn_down", [4, w]),
    ] {
        let name = format!("blk.0.{part}.weight");
        writer = writer.tensor(&name, &shape, &zeros(width * 4));
    }
    writer
}

/// Writes a model to a file that is removed with the handle.
pub(super) fn file(writer: &Writer) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&writer.build()).unwrap();
    file
}

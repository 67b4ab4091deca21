//! The network: a decoder of the Llama family, run token by token.
//!
//! Source: H. Touvron et al., *LLaMA*, <https://arxiv.org/abs/2302.13971>; J. Su et al., *RoFormer* (rotary
//! positions), <https://arxiv.org/abs/2104.09864>; J. Ainslie et al., *GQA*, <https://arxiv.org/abs/2305.13245>.

use std::io::{Read, Seek};

use super::{
    GgufError,
    file::Contents,
    kernel::{Cpu, Vectors, normalise, softmax, swiglu},
    kv::{Memory, PAGE, Shape},
    weights::{Loader, Matrix},
};

/// For messages.
pub(super) const ARCHITECTURES: &str = "llama, qwen2";

/// How a head's values are paired for rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairs {
    /// Neighbours: converters of `llama` models reorder the weights so.
    Adjacent,
    /// Value `i` with value `i + n/2`.
    Halves,
}

/// Sizes and constants.
#[derive(Clone, Debug)]
struct Dimensions {
    layers: usize,
    embedding: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    /// Values of a head that are rotated.
    rotated: usize,
    pairs: Pairs,
    vocabulary: usize,
    context: usize,
    epsilon: f32,
    base: f32,
}

impl Dimensions {
    fn read(contents: &Contents, vocabulary: usize) -> Result<Self, GgufError> {
        let architecture = contents
            .text("general.architecture")
            .ok_or_else(|| GgufError::Missing("general.architecture".to_owned()))?;
        let pairs = match architecture {
            "llama" => Pairs::Adjacent,
            "qwen2" => Pairs::Halves,
            other => return Err(GgufError::Architecture(other.to_owned())),
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let optional = |name: &str, limit: u64| match contents.int(&key(name)) {
            None => Ok(None),
            Some(n) if (1..=limit).contains(&n) => Ok(Some(n as usize)),
            Some(_) => Err(GgufError::Malformed(format!("impossible {}", key(name)))),
        };
        let required = |name: &str, limit: u64| {
            optional(name, limit)?.ok_or_else(|| GgufError::Missing(key(name)))
        };
        let embedding = required("embedding_length", 1 << 16)?;
        let heads = required("attention.head_count", 1 << 10)?;
        let head = optional("attention.key_length", 1 << 10)?.unwrap_or(embedding / heads);
        let dimensions = Self {
            layers: required("block_count", 1 << 10)?,
            embedding,
            feed_forward: required("feed_forward_length", 1 << 20)?,
            heads,
            kv_heads: optional("attention.head_count_kv", 1 << 10)?.unwrap_or(heads),
            head,
            rotated: optional("rope.dimension_count", 1 << 10)?.unwrap_or(head),
            pairs,
            vocabulary,
            context: required("context_length", 1 << 24)?,
            epsilon: contents
                .float(&key("attention.layer_norm_rms_epsilon"))
                .unwrap_or(1e-5),
            base: contents.float(&key("rope.freq_base")).unwrap_or(10_000.0),
        };
        let possible = dimensions.heads.is_multiple_of(dimensions.kv_heads)
            && dimensions.head > 0
            && dimensions.rotated <= dimensions.head
            && dimensions.rotated.is_multiple_of(2)
            && contents
                .int(&key("attention.value_length"))
                .is_none_or(|n| n == head as u64)
            && contents.int(&key("expert_count")).is_none_or(|n| n == 0);
        if !possible {
            return Err(GgufError::Malformed(
                "its dimensions are not those of a plain model".to_owned(),
            ));
        }
        Ok(dimensions)
    }
}

#[derive(Debug)]
struct Projection {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

impl Projection {
    fn apply(&self, cpu: Cpu, vectors: &Vectors) -> Vec<f32> {
        let mut out = cpu.multiply(&self.weights, vectors);
        if let Some(bias) = &self.bias {
            for out in out.chunks_exact_mut(bias.len()) {
                add(out, bias);
            }
        }
        out
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A model in memory: immutable, shared by all conversations.
#[derive(Debug)]
pub(super) struct Model {
    cpu: Cpu,
    dimensions: Dimensions,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None` where the embedding serves as output, too.
    output: Option<Matrix>,
    /// Radians per position of each rotated pair.
    frequencies: Vec<f32>,
}

impl Model {
    /// Reads all weights.
    pub(super) fn read(
        contents: &Contents,
        source: &mut (impl Read + Seek),
        vocabulary: usize,
    ) -> Result<Self, GgufError> {
        let d = Dimensions::read(contents, vocabulary)?;
        let mut loader = Loader { contents, source };
        let mut frequencies: Vec<f32> = (0..d.rotated / 2)
            .map(|pair| d.base.powf(-2.0 * pair as f32 / d.rotated as f32))
            .collect();
        // Models stretched to long contexts slow their low frequencies down.
        if loader.has("rope_freqs.weight") {
            let factors = loader.vector("rope_freqs.weight", d.rotated / 2)?;
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= factor;
            }
        }
        let embedding = loader.matrix("token_embd.weight", d.vocabulary, d.embedding)?;
        let mut layers = Vec::new();
        for at in 0..d.layers {
            let name = |part: &str| format!("blk.{at}.{part}.weight");
            let mut projection = |part: &str, rows: usize, columns: usize| {
                let bias = format!("blk.{at}.{part}.bias");
                let bias = if loader.has(&bias) {
                    Some(loader.vector(&bias, rows)?)
                } else {
                    None
                };
                let weights = loader.matrix(&name(part), rows, columns)?;
                Ok::<_, GgufError>(Projection { weights, bias })
            };
            let (wide, narrow) = (d.heads * d.head, d.kv_heads * d.head);
            let query = projection("attn_q", wide, d.embedding)?;
            let key = projection("attn_k", narrow, d.embedding)?;
            let value = projection("attn_v", narrow, d.embedding)?;
            let output = projection("attn_output", d.embedding, wide)?;
            layers.push(Layer {
                query,
                key,
                value,
                output,
                attention_norm: loader.vector(&name("attn_norm"), d.embedding)?,
                feed_forward_norm: loader.vector(&name("ffn_norm"), d.embedding)?,
                gate: loader.matrix(&name("ffn_gate"), d.feed_forward, d.embedding)?,
                up: loader.matrix(&name("ffn_up"), d.feed_forward, d.embedding)?,
                down: loader.matrix(&name("ffn_down"), d.embedding, d.feed_forward)?,
            });
        }
        let output = if loader.has("output.weight") {
            Some(loader.matrix("output.weight", d.vocabulary, d.embedding)?)
        } else {
            None
        };
        Ok(Self {
            cpu: Cpu::detect(),
            norm: loader.vector("output_norm.weight", d.embedding)?,
            dimensions: d,
            embedding,
            layers,
            output,
            frequencies,
        })
    }

    /// The most tokens the model was made for.
    pub(super) fn context(&self) -> usize {
        self.dimensions.context
    }

    /// The shape of the memory it needs.
    pub(super) fn shape(&self) -> Shape {
        Shape {
            layers: self.dimensions.layers,
            width: self.dimensions.kv_heads * self.dimensions.head,
        }
    }

    /// Takes `tokens` in behind what `memory` holds. Reads every weight once, however many tokens there are.
    ///
    /// Returns the state behind the last of them for [`logits`](Self::logits). Tokens must be of the vocabulary and
    /// there must be at least one.
    pub(super) fn advance(&self, memory: &mut Memory, tokens: &[u32]) -> Vec<f32> {
        let (d, cpu) = (&self.dimensions, self.cpu);
        let first = memory.len();
        memory.extend(tokens);
        let mut state = vec![0.0; tokens.len() * d.embedding];
        for (token, state) in tokens.iter().zip(state.chunks_exact_mut(d.embedding)) {
            self.embedding.row(*token as usize, state);
        }
        let (wide, narrow) = (d.heads * d.head, d.kv_heads * d.head);
        for (at, layer) in self.layers.iter().enumerate() {
            let input = normalise(&state, &layer.attention_norm, d.epsilon);
            let input = Vectors::new(cpu, input, d.embedding);
            let mut query = layer.query.apply(cpu, &input);
            let mut key = layer.key.apply(cpu, &input);
            let value = layer.value.apply(cpu, &input);
            for token in 0..tokens.len() {
                self.rotate(&mut query[token * wide..][..wide], first + token);
                let key = &mut key[token * narrow..][..narrow];
                self.rotate(key, first + token);
                memory.write(at, first + token, key, &value[token * narrow..][..narrow]);
            }
            let mut mixed = vec![0.0; tokens.len() * wide];
            for (token, (query, mixed)) in query
                .chunks_exact(wide)
                .zip(mixed.chunks_exact_mut(wide))
                .enumerate()
            {
                self.attend(memory, at, first + token + 1, query, mixed);
            }
            let mixed = Vectors::new(cpu, mixed, wide);
            add(&mut state, &layer.output.apply(cpu, &mixed));

            let input = normalise(&state, &layer.feed_forward_norm, d.epsilon);
            let input = Vectors::new(cpu, input, d.embedding);
            let mut hidden = cpu.multiply(&layer.gate, &input);
            swiglu(&mut hidden, &cpu.multiply(&layer.up, &input));
            let hidden = Vectors::new(cpu, hidden, d.feed_forward);
            add(&mut state, &cpu.multiply(&layer.down, &hidden));
        }
        state.split_off(state.len() - d.embedding)
    }

    /// How likely each token of the vocabulary comes next, as logarithms up to a constant.
    pub(super) fn logits(&self, state: &[f32]) -> Vec<f32> {
        let state = normalise(state, &self.norm, self.dimensions.epsilon);
        let state = Vectors::new(self.cpu, state, self.dimensions.embedding);
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        self.cpu.multiply(output, &state)
    }

    /// Turns the pairs of every head by an angle that grows with the position.
    fn rotate(&self, heads: &mut [f32], position: usize) {
        let half = self.frequencies.len();
        for (pair, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            let (a, b) = match self.dimensions.pairs {
                Pairs::Adjacent => (2 * pair, 2 * pair + 1),
                Pairs::Halves => (pair, pair + half),
            };
            for head in heads.chunks_exact_mut(self.dimensions.head) {
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos - y * sin;
                head[b] = x * sin + y * cos;
            }
        }
    }

    /// Mixes the values of the first `length` tokens for each head of `query`.
    fn attend(
        &self,
        memory: &Memory,
        layer: usize,
        length: usize,
        query: &[f32],
        mixed: &mut [f32],
    ) {
        let d = &self.dimensions;
        let (width, group) = (d.kv_heads * d.head, d.heads / d.kv_heads);
        let scale = 1.0 / (d.head as f32).sqrt();
        let mut scores = vec![0.0; length];
        for (at, (query, mixed)) in query
            .chunks_exact(d.head)
            .zip(mixed.chunks_exact_mut(d.head))
            .enumerate()
        {
            let start = at / group * d.head;
            for ((keys, _), scores) in memory.pages(layer).zip(scores.chunks_mut(PAGE)) {
                self.cpu.scores(query, &keys[start..], width, scale, scores);
            }
            softmax(&mut scores);
            for ((_, values), scores) in memory.pages(layer).zip(scores.chunks(PAGE)) {
                self.cpu.blend(scores, &values[start..], width, mixed);
            }
        }
    }
}

fn add(to: &mut [f32], what: &[f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}

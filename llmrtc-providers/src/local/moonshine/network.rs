use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use llmrtc_core::{audio::SampleRate, provider::ProviderError};
use ort::{
    session::{Session, SessionInputValue},
    value::{DynValue, Tensor, TensorRef, ValueType},
};

use super::{NAME, tokenizer::Tokenizer};
use crate::local::runtime::{Model, Runtime, RuntimeError, has_ports};

const BEGIN: u32 = 1;
const END: u32 = 2;

/// Nobody speaks more tokens per second; what does is the decoder talking to itself.
const TOKENS_PER_SECOND: f32 = 6.5;
/// Tokens beyond that, so that short words fit.
const TOKENS_SPARE: f32 = 10.0;
/// Something said this often in a row, and over this many tokens, is a decoder that has lost the thread.
const LOOP_TIMES: usize = 4;
const LOOP_TOKENS: usize = 12;
/// The longest phrase that is looked for.
const LOOP_PERIOD: usize = 16;
/// Below this mean probability of the tokens, it was noise. Speech is above 0.7, even when faint or clipped.
const DOUBTFUL: f32 = 0.3;
/// The same for a single token, because `you` and `the` are what the model likes to hear in silence.
const DOUBTFUL_TOKEN: f32 = 0.65;

/// Tells a job that nobody waits for its result any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it when the guard is dropped.
    pub(super) fn on_drop(&self) -> impl Drop + Send + use<> {
        struct Guard(Stop);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.0.store(true, Ordering::Relaxed);
            }
        }
        Guard(self.clone())
    }
}

/// What was understood of a piece of audio.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) text: String,
    /// The mean probability of the tokens, 0–1.
    pub(super) confidence: Option<f32>,
}

/// Turns at most 12 s of conditioned audio into text. A trait so that tests can do without weights.
pub(super) trait Recognise: Send + Sync + 'static {
    /// `audio`: mono, 16 kHz, −1 to 1. `None`: `stop` was set before the end.
    fn recognise(&self, audio: &[f32], stop: &Stop) -> Result<Option<Heard>, ProviderError>;
}

/// The encoder and the decoder.
#[derive(Debug)]
pub(super) struct Network {
    encoder: Model,
    decoder: Model,
    tokenizer: Tokenizer,
    caches: Vec<Cache>,
    /// Attention heads, and values in each.
    heads: [usize; 2],
}

/// One tensor that a decoder step hands to the next.
#[derive(Debug)]
struct Cache {
    input: String,
    output: String,
    /// Attention to the audio. Computed in the first step and the same in all others.
    of_encoder: bool,
}

impl Network {
    pub(super) fn load(runtime: &Runtime, dir: &Path) -> Result<Self, RuntimeError> {
        let path = dir.join("tokenizer.bin");
        let file =
            fs::read(&path).map_err(|_| RuntimeError::MissingModel { path: path.clone() })?;
        let tokenizer = Tokenizer::parse(file).map_err(|error| RuntimeError::Model {
            path,
            source: error.into(),
        })?;
        let encoder = Model::load(runtime, &dir.join("encoder_model.ort"), |session| {
            has_ports(
                session,
                &["input_values", "attention_mask"],
                &["last_hidden_state"],
            )
        })?;
        let mut caches = Vec::new();
        let mut heads = [0; 2];
        let decoder = Model::load(runtime, &dir.join("decoder_model_merged.ort"), |session| {
            let inputs = [
                "input_ids",
                "encoder_hidden_states",
                "encoder_attention_mask",
                "use_cache_branch",
            ];
            has_ports(session, &inputs, &["logits"])?;
            (caches, heads) = caches_of(session)?;
            Ok(())
        })?;
        Ok(Self {
            encoder,
            decoder,
            tokenizer,
            caches,
            heads,
        })
    }

    fn encode(&self, audio: &[f32], mask: &[i64]) -> Result<DynValue, RuntimeError> {
        self.encoder.with(|encoder| {
            let shape = [1, audio.len()];
            let mut outputs = encoder.run(ort::inputs! {
                "input_values" => TensorRef::from_array_view((shape, audio))?,
                "attention_mask" => TensorRef::from_array_view((shape, mask))?,
            })?;
            outputs
                .remove("last_hidden_state")
                .ok_or_else(|| ort::Error::new("no last_hidden_state"))
        })
    }

    /// The most probable next tokens, one by one, until the end, the cap, a loop or `stop`.
    fn decode(
        &self,
        decoder: &mut Session,
        hidden: &DynValue,
        mask: &[i64],
        stop: &Stop,
    ) -> ort::Result<Option<(Vec<u32>, f32)>> {
        let frames = match hidden.dtype() {
            ValueType::Tensor { shape, .. } if shape.len() == 3 => shape[1] as usize,
            _ => return Err(ort::Error::new("last_hidden_state has another shape")),
        };
        let [heads, width] = self.heads;
        // The first step reads no cache but wants one of the right shape.
        let empty = vec![0.0f32; heads * frames * width];
        let mut carried: Vec<DynValue> = self
            .caches
            .iter()
            .map(|cache| {
                Ok(if cache.of_encoder {
                    Tensor::from_array(([1, heads, frames, width], empty.clone()))?.into_dyn()
                } else {
                    Tensor::from_array(([1, heads, 0, width], Vec::<f32>::new()))?.into_dyn()
                })
            })
            .collect::<ort::Result<_>>()?;

        let seconds = mask.len() as f32 / SampleRate::HZ_16000.hz() as f32;
        let cap = (seconds * TOKENS_PER_SECOND + TOKENS_SPARE) as usize;
        let mut tokens = Vec::new();
        let mut last = BEGIN;
        let mut log_probability = 0.0;
        let mut steps = 0;
        while tokens.len() < cap {
            if stop.is_set() {
                return Ok(None);
            }
            let cached = [steps > 0];
            let id = [i64::from(last)];
            let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(28);
            inputs.push((
                "input_ids",
                TensorRef::from_array_view(([1, 1], &id[..]))?.into(),
            ));
            inputs.push(("encoder_hidden_states", hidden.into()));
            // As long as the *samples*: the graph scales it down itself. One as long as the frames works too, until
            // 9.3 s, where it no longer broadcasts.
            let mask = TensorRef::from_array_view(([1, mask.len()], mask))?;
            inputs.push(("encoder_attention_mask", mask.into()));
            let cached = TensorRef::from_array_view(([1], &cached[..]))?;
            inputs.push(("use_cache_branch", cached.into()));
            for (cache, value) in self.caches.iter().zip(&carried) {
                inputs.push((&cache.input, value.into()));
            }
            let mut outputs = decoder.run(inputs)?;
            let (next, probability) = {
                let logits = outputs
                    .get("logits")
                    .ok_or_else(|| ort::Error::new("no logits"))?;
                most_probable(logits.try_extract_tensor::<f32>()?.1)
            };
            steps += 1;
            log_probability += probability.ln();
            if next == END {
                break;
            }
            tokens.push(next);
            last = next;
            if let Some(start) = loop_start(&tokens) {
                tokens.truncate(start);
                break;
            }
            for (cache, value) in self.caches.iter().zip(&mut carried) {
                if steps > 1 && cache.of_encoder {
                    continue;
                }
                *value = outputs
                    .remove(&cache.output)
                    .ok_or_else(|| ort::Error::new("a cache is missing"))?;
            }
        }
        let confidence = (log_probability / steps.max(1) as f32).exp();
        Ok(Some((tokens, confidence)))
    }
}

impl Recognise for Network {
    fn recognise(&self, audio: &[f32], stop: &Stop) -> Result<Option<Heard>, ProviderError> {
        let failed = |error: RuntimeError| error.into_provider(NAME);
        if stop.is_set() {
            return Ok(None);
        }
        let mask = vec![1i64; audio.len()];
        let hidden = self.encode(audio, &mask).map_err(failed)?;
        let decoded = self
            .decoder
            .with(|decoder| self.decode(decoder, &hidden, &mask, stop));
        let Some((tokens, confidence)) = decoded.map_err(failed)? else {
            return Ok(None);
        };
        let sure = match tokens.len() {
            0 => return Ok(Some(Heard::default())),
            1 => DOUBTFUL_TOKEN,
            _ => DOUBTFUL,
        };
        if confidence < sure {
            return Ok(Some(Heard::default()));
        }
        Ok(Some(Heard {
            text: self.tokenizer.text(&tokens),
            confidence: Some(confidence),
        }))
    }
}

/// The caches of a decoder and the shape of its attention, which differ between sizes of the model.
fn caches_of(decoder: &Session) -> Result<(Vec<Cache>, [usize; 2]), &'static str> {
    let mut caches = Vec::new();
    let mut heads = None;
    for port in decoder.inputs() {
        let Some(rest) = port.name().strip_prefix("past_key_values.") else {
            continue;
        };
        let output = format!("present.{rest}");
        has_ports(decoder, &[], &[output.as_str()])?;
        if let ValueType::Tensor { shape, .. } = port.dtype()
            && let [_, count, _, width] = shape[..]
        {
            heads = usize::try_from(count).ok().zip(usize::try_from(width).ok());
        }
        caches.push(Cache {
            input: port.name().to_owned(),
            of_encoder: rest.contains(".encoder."),
            output,
        });
    }
    let (count, width) = heads.ok_or("it has no caches")?;
    Ok((caches, [count, width]))
}

/// The id of the largest logit and its probability.
fn most_probable(logits: &[f32]) -> (u32, f32) {
    let mut best = END;
    let mut largest = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > largest {
            (best, largest) = (id as u32, logit);
        }
    }
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    (best, 1.0 / sum.max(1.0))
}

/// Where to cut tokens that end in a loop: behind its first turn, or before it if there is nothing else, because
/// then there was nothing to hear.
fn loop_start(tokens: &[u32]) -> Option<usize> {
    (1..=LOOP_PERIOD).find_map(|period| {
        let times = LOOP_TIMES.max(LOOP_TOKENS.div_ceil(period));
        let looped = tokens.len().checked_sub(period * times)?;
        let tail = &tokens[looped..];
        let repeats = tail[period..].iter().eq(&tail[..tail.len() - period]);
        repeats.then(|| if looped < period { 0 } else { looped + period })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_wins_with_its_probability() {
        let (id, probability) = most_probable(&[0.0, 3.0f32.ln(), 0.0]);
        assert_eq!(id, 1);
        assert!((probability - 0.6).abs() < 1e-6, "{probability}");
        assert_eq!(most_probable(&[]).0, END);
        assert_eq!(most_probable(&[f32::NAN; 4]).0, END);
    }

    #[test]
    fn loops_are_cut_and_speech_is_not() {
        let phrase = |times| [7, 8, 9].repeat(times);
        assert_eq!(loop_start(&phrase(4)), Some(0));
        assert_eq!(loop_start(&phrase(3)), None);
        let spoken = [&[1, 2, 3, 4][..], &phrase(4)].concat();
        assert_eq!(loop_start(&spoken), Some(7));
        // Eleven zeros of a number are spoken; the twelfth is doubted.
        assert_eq!(loop_start(&[5; 11]), None);
        assert_eq!(loop_start(&[5; 12]), Some(0));
        assert_eq!(loop_start(&(0..100).collect::<Vec<_>>()), None);
        assert_eq!(loop_start(&[]), None);
    }

    #[test]
    fn dropping_the_guard_stops() {
        let stop = Stop::default();
        let guard = stop.on_drop();
        assert!(!stop.is_set());
        drop(guard);
        assert!(stop.is_set());
    }
}

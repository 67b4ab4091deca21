use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    provider::{
        CallContext, ErrorKind, ProviderError, ProviderStream, StreamingTts, TtsConfig,
        TtsProvider, TtsResult,
    },
};
use reqwest::{
    Method, Response,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};

use super::{Dialect, SpeechConfig, SpeechFormat, endpoint, set};
use crate::http::{Endpoint, HttpClient};

/// The vendor's limit on one request, in characters.
const MAX_INPUT_CHARS: usize = 4096;
/// Twenty minutes of 24 kHz PCM: far more than a voice turn.
const MAX_AUDIO_BYTES: usize = 64 * 1024 * 1024;

/// Text to speech behind `/audio/speech`.
#[derive(Debug)]
pub struct OpenAiTts {
    config: SpeechConfig,
    endpoint: Endpoint,
    rate: SampleRate,
    /// The warning about unsupported instructions was given.
    warned: AtomicBool,
}

impl OpenAiTts {
    /// Checks the configuration. Opens no connection; [`init`](TtsProvider::init) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming what is missing or malformed.
    pub fn new(config: SpeechConfig, http: HttpClient) -> Result<Self, ProviderError> {
        let endpoint = endpoint(
            http,
            config.dialect.traits().tts,
            config.dialect,
            config.api_key.as_ref(),
            config.base_url.as_deref(),
            &config.headers,
        )?;
        let rate = SampleRate::try_from(config.pcm_rate)
            .ok()
            .filter(|rate| *rate <= SampleRate::HZ_48000)
            .ok_or_else(|| {
                endpoint.error(ErrorKind::Config, "pcm_rate must be between 8000 and 48000")
            })?;
        if config
            .speed
            .is_some_and(|speed| !(0.25..=4.0).contains(&speed))
        {
            return Err(endpoint.error(ErrorKind::Config, "speed must be between 0.25 and 4"));
        }
        Ok(Self {
            config,
            endpoint,
            rate,
            warned: AtomicBool::new(false),
        })
    }

    fn model(&self) -> &str {
        set(self.config.model.as_deref()).unwrap_or(match self.config.dialect {
            Dialect::Openai => "gpt-4o-mini-tts",
            // Compatible servers map this name to what they have.
            _ => "tts-1",
        })
    }

    fn body(&self, text: &str, config: &TtsConfig, format: &'static str) -> Value {
        let model = set(config.model.as_deref()).unwrap_or(self.model());
        let voice = set(config.voice.as_deref())
            .or(set(self.config.voice.as_deref()))
            .unwrap_or(if model.starts_with("gpt-") {
                "marin"
            } else {
                "alloy"
            });
        let mut body = json!({"model": model, "input": text, "response_format": format});
        body["voice"] = if self.endpoint.is_openai() && voice.starts_with("voice_") {
            json!({"id": voice})
        } else {
            json!(voice)
        };
        if let Some(speed) = config.speed.or(self.config.speed) {
            // Hundredths, so that 0.9 does not travel as 0.8999999761581421.
            let hundredths = (f64::from(speed.clamp(0.25, 4.0)) * 100.0).round();
            body["speed"] = json!(hundredths / 100.0);
        }
        let instructions =
            set(config.instructions.as_deref()).or(set(self.config.instructions.as_deref()));
        match instructions {
            Some(instructions) if model.starts_with("gpt-") => {
                body["instructions"] = json!(instructions);
            }
            Some(_) if !self.warned.swap(true, Ordering::Relaxed) => {
                tracing::warn!(model, "this speech model ignores instructions");
            }
            _ => {}
        }
        body
    }

    async fn post(endpoint: &Endpoint, body: &Value) -> Result<Response, ProviderError> {
        let body = Bytes::from(body.to_string());
        let request = || {
            Ok(endpoint
                .request(Method::POST, "audio/speech")
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone()))
        };
        let response = endpoint
            .send(request)
            .await
            .map_err(|failure| failure.error)?;
        if is_text(response.headers()) {
            let message = "the answer is text where audio was expected; is the base URL right?";
            return Err(endpoint.error(ErrorKind::Protocol, message));
        }
        Ok(response)
    }
}

/// Whether an answer cannot be audio. Servers label audio in too many ways to insist on one.
fn is_text(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/") || value.starts_with("application/json"))
}

/// Whether a voice would have anything to say.
fn is_speakable(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

/// Cuts a text into pieces of at most `limit` characters: at the end of a sentence where possible, else between
/// words, else anywhere.
fn split(text: &str, limit: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while let Some((window, _)) = rest.char_indices().nth(limit) {
        let head = &rest[..window];
        let sentence = head
            .char_indices()
            .rev()
            .map(|(at, c)| (at + c.len_utf8(), c))
            .find(|(end, c)| match c {
                // Not the point in `3.5`.
                '.' | '!' | '?' => rest[*end..].starts_with(char::is_whitespace),
                '。' | '！' | '？' | '\n' => true,
                _ => false,
            })
            .map(|(end, _)| end);
        let cut = sentence
            .or_else(|| head.rfind(char::is_whitespace).filter(|at| *at > 0))
            .unwrap_or(window);
        pieces.push(rest[..cut].trim());
        rest = rest[cut..].trim();
    }
    pieces.push(rest);
    pieces.retain(|piece| is_speakable(piece));
    pieces
}

#[async_trait]
impl TtsProvider for OpenAiTts {
    fn name(&self) -> &str {
        self.endpoint.provider()
    }

    fn model(&self) -> Option<&str> {
        Some(OpenAiTts::model(self))
    }

    async fn init(&self) -> Result<(), ProviderError> {
        self.endpoint.warm().await;
        Ok(())
    }

    /// Text without a letter or digit gives empty PCM without asking the vendor.
    async fn speak(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<TtsResult, ProviderError> {
        let pieces = split(text, MAX_INPUT_CHARS);
        let (wire, format) = match self.config.format {
            _ if pieces.is_empty() => ("pcm", AudioFormat::Pcm),
            // WAV files cannot be joined, their samples can.
            SpeechFormat::Wav if pieces.len() > 1 => ("pcm", AudioFormat::Wav),
            SpeechFormat::Mp3 => ("mp3", AudioFormat::Mp3),
            SpeechFormat::Ogg => ("opus", AudioFormat::Ogg),
            SpeechFormat::Wav => ("wav", AudioFormat::Wav),
            SpeechFormat::Pcm => ("pcm", AudioFormat::Pcm),
        };
        let mut audio = BytesMut::new();
        for piece in pieces {
            let response = Self::post(&self.endpoint, &self.body(piece, config, wire)).await?;
            let room = MAX_AUDIO_BYTES - audio.len();
            let bytes = self.endpoint.bytes(response, room).await?;
            let whole = if wire == "pcm" {
                bytes.len() & !1
            } else {
                bytes.len()
            };
            audio.extend_from_slice(&bytes[..whole]);
        }
        let mut data = audio.freeze();
        if wire == "pcm" && format == AudioFormat::Wav {
            data = PcmChunk::from_le_bytes(&data, self.rate).to_wav();
        }
        // Some servers deliver what they like, whatever was asked for.
        let format = AudioFormat::sniff(&data)
            .filter(|_| wire != "pcm")
            .unwrap_or(format);
        Ok(TtsResult {
            audio: EncodedAudio {
                data,
                format,
                rate: (wire == "pcm").then_some(self.rate),
            },
        })
    }

    fn streaming(&self) -> Option<&dyn StreamingTts> {
        Some(self)
    }
}

#[async_trait]
impl StreamingTts for OpenAiTts {
    fn pcm_rate(&self) -> SampleRate {
        self.rate
    }

    async fn speak_stream(
        &self,
        text: &str,
        config: &TtsConfig,
        _cx: &CallContext,
    ) -> Result<ProviderStream<Bytes>, ProviderError> {
        let mut bodies: Vec<Value> = split(text, MAX_INPUT_CHARS)
            .into_iter()
            .map(|piece| self.body(piece, config, "pcm"))
            .collect();
        if bodies.is_empty() {
            return Ok(stream::empty().boxed());
        }
        bodies.reverse();
        let mut speech = Speech {
            endpoint: self.endpoint.clone(),
            bodies,
            response: None,
            odd: None,
            at_start: true,
            left: MAX_AUDIO_BYTES,
        };
        speech.advance().await?;
        Ok(stream::unfold(Some(speech), |speech| async move {
            let mut speech = speech?;
            match speech.next().await? {
                Ok(bytes) => Some((Ok(bytes), Some(speech))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
}

/// Speech on its way in, one request after the other.
struct Speech {
    endpoint: Endpoint,
    /// Requests still to be made, the next one last.
    bodies: Vec<Value>,
    response: Option<Response>,
    /// The first half of a sample that the network cut in two.
    odd: Option<u8>,
    /// No byte of the current answer was seen.
    at_start: bool,
    /// Bytes until the cap.
    left: usize,
}

impl Speech {
    /// Begins the next request, if there is one.
    async fn advance(&mut self) -> Result<(), ProviderError> {
        // Half a sample at the end of an answer would turn the next one into noise.
        self.odd = None;
        self.at_start = true;
        self.response = match self.bodies.pop() {
            Some(body) => Some(OpenAiTts::post(&self.endpoint, &body).await?),
            None => None,
        };
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Bytes, ProviderError>> {
        loop {
            let chunk = self.response.as_mut()?.chunk().await;
            match chunk {
                Err(error) => return Some(Err(self.endpoint.transport(error))),
                Ok(None) => {
                    if let Err(error) = self.advance().await {
                        return Some(Err(error));
                    }
                }
                Ok(Some(bytes)) => match self.take(bytes) {
                    Ok(samples) if samples.is_empty() => {}
                    result => return Some(result),
                },
            }
        }
    }

    /// Whole samples of what has arrived.
    fn take(&mut self, bytes: Bytes) -> Result<Bytes, ProviderError> {
        if bytes.len() > self.left {
            return Err(self
                .endpoint
                .error(ErrorKind::TooLarge, "the speech exceeds 64 MiB"));
        }
        self.left -= bytes.len();
        if std::mem::take(&mut self.at_start)
            && let Some(container @ (AudioFormat::Wav | AudioFormat::Ogg | AudioFormat::Flac)) =
                AudioFormat::sniff(&bytes)
        {
            let message = format!(
                "the server answered with {} where PCM was asked for",
                container.name()
            );
            return Err(self.endpoint.error(ErrorKind::Protocol, message));
        }
        if self.odd.is_none() && bytes.len().is_multiple_of(2) {
            return Ok(bytes);
        }
        let mut samples = BytesMut::with_capacity(bytes.len() + 1);
        samples.extend(self.odd.take());
        samples.extend_from_slice(&bytes);
        if !samples.len().is_multiple_of(2) {
            self.odd = samples.last().copied();
            samples.truncate(samples.len() - 1);
        }
        Ok(samples.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_a_reader_would_breathe() {
        let table: &[(&str, usize, &[&str])] = &[
            ("One. Two. Three.", 100, &["One. Two. Three."]),
            ("One. Two. Three.", 10, &["One. Two.", "Three."]),
            ("It costs 3.50 euros", 11, &["It costs", "3.50 euros"]),
            ("one two three", 8, &["one two", "three"]),
            ("abcdefgh", 3, &["abc", "def", "gh"]),
            ("äöü äöü", 4, &["äöü", "äöü"]),
            ("  ", 4, &[]),
            ("🙂 …", 40, &[]),
        ];
        for (text, limit, expected) in table {
            assert_eq!(split(text, *limit), *expected, "{text}");
        }
    }

    #[test]
    fn ten_kilobytes_lose_no_word() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(240);
        let pieces = split(&text, MAX_INPUT_CHARS);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.chars().count() <= MAX_INPUT_CHARS)
        );
        assert_eq!(pieces.join(" "), text.trim());
    }
}

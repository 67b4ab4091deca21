use async_trait::async_trait;
use bytes::Bytes;
use llmrtc_core::{
    audio::{AudioFormat, PcmChunk, Utterance},
    provider::{CallContext, ErrorKind, ProviderError, SttConfig, SttProvider, SttResult},
};
use reqwest::{
    Method, Response,
    multipart::{Form, Part},
};
use serde_json::Value;

use super::{
    Dialect, TranscriptionConfig,
    downgrade::{Downgrades, Refused},
    endpoint, set,
};
use crate::http::{Endpoint, Failure, HttpClient};

/// The vendors' own limit.
const MAX_FILE_BYTES: usize = 25 * 1024 * 1024;
/// Hints beyond this no longer steer; Whisper's prompt holds 224 tokens.
const MAX_HINTS: usize = 100;
/// Fields whose refusal is corrected by leaving them out.
const OPTIONAL_FIELDS: &[&str] = &[
    "response_format",
    "temperature",
    "language",
    "languages[]",
    "keywords[]",
    "prompt",
];

/// Buffered speech to text behind `/audio/transcriptions`.
#[derive(Debug)]
pub struct OpenAiStt {
    config: TranscriptionConfig,
    endpoint: Endpoint,
    downgrades: Downgrades,
}

impl OpenAiStt {
    /// Checks the configuration. Opens no connection; [`init`](SttProvider::init) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming what is missing or malformed.
    pub fn new(config: TranscriptionConfig, http: HttpClient) -> Result<Self, ProviderError> {
        let endpoint = endpoint(
            http,
            config.dialect.traits().stt,
            config.dialect,
            config.api_key.as_ref(),
            config.base_url.as_deref(),
            &config.headers,
        )?;
        Ok(Self {
            config,
            endpoint,
            downgrades: Downgrades::default(),
        })
    }

    fn model(&self) -> &str {
        set(self.config.model.as_deref()).unwrap_or(match self.config.dialect {
            Dialect::Openai => "gpt-transcribe",
            Dialect::Groq => "whisper-large-v3-turbo",
            Dialect::Mistral => "voxtral-mini-latest",
            _ => "whisper-1",
        })
    }

    /// The text fields of the form.
    fn fields(
        &self,
        model: &str,
        config: &SttConfig,
        refused: &Refused,
    ) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("model", model.to_owned()),
            ("response_format", "json".to_owned()),
            ("temperature", "0".to_owned()),
        ];
        // OpenAI's newest model takes lists; everything before it one language and a prompt to continue from.
        let lists = model.starts_with("gpt-transcribe");
        let language = set(config.language.as_deref()).or(set(self.config.language.as_deref()));
        if let Some(tag) = language {
            // The services know ISO 639-1 codes: `en`, not `en-GB`.
            let code = tag
                .split(['-', '_'])
                .next()
                .unwrap_or(tag)
                .to_ascii_lowercase();
            fields.push((if lists { "languages[]" } else { "language" }, code));
        }
        let hints = &config.hints[..config.hints.len().min(MAX_HINTS)];
        if lists {
            fields.extend(hints.iter().map(|hint| ("keywords[]", hint.clone())));
        } else if !hints.is_empty() {
            fields.push(("prompt", hints.join(", ")));
        }
        fields.retain(|(name, _)| !refused.contains(name));
        fields
    }

    async fn post(
        &self,
        file: &Bytes,
        format: AudioFormat,
        fields: &[(&'static str, String)],
    ) -> Result<Response, Failure> {
        let request = || {
            let part = Part::stream_with_length(file.clone(), file.len() as u64)
                .file_name(format!("audio.{}", extension(format)))
                .mime_str(format.media_type())
                .map_err(|error| self.endpoint.transport(error))?;
            let form = fields
                .iter()
                .cloned()
                .fold(Form::new().part("file", part), |form, (name, value)| {
                    form.text(name, value)
                });
            Ok(self
                .endpoint
                .request(Method::POST, "audio/transcriptions")
                .multipart(form))
        };
        self.endpoint.send(request).await
    }
}

/// Services judge a file by its name.
fn extension(format: AudioFormat) -> &'static str {
    match format {
        AudioFormat::Mp4 => "m4a",
        format => format.name(),
    }
}

/// The utterance as a file, its container judged by its bytes rather than by what a client declared.
fn file(audio: &Utterance) -> Result<(Bytes, AudioFormat), &'static str> {
    let (data, declared) = audio.to_file();
    match (AudioFormat::sniff(&data), audio) {
        (Some(format), _) => Ok((data, format)),
        (None, Utterance::Encoded(encoded)) if declared == AudioFormat::Pcm => {
            let rate = encoded.rate.ok_or("raw PCM without a sample rate")?;
            Ok((
                PcmChunk::from_le_bytes(&data, rate).to_wav(),
                AudioFormat::Wav,
            ))
        }
        (None, _) => Ok((data, declared)),
    }
}

#[async_trait]
impl SttProvider for OpenAiStt {
    fn name(&self) -> &str {
        self.endpoint.provider()
    }

    fn model(&self) -> Option<&str> {
        Some(OpenAiStt::model(self))
    }

    async fn init(&self) -> Result<(), ProviderError> {
        self.endpoint.warm().await;
        Ok(())
    }

    async fn transcribe(
        &self,
        audio: Utterance,
        config: &SttConfig,
        _cx: &CallContext,
    ) -> Result<SttResult, ProviderError> {
        let empty = SttResult {
            is_final: true,
            ..SttResult::default()
        };
        if audio.size_bytes() == 0 {
            return Ok(empty);
        }
        if audio.size_bytes() > MAX_FILE_BYTES {
            return Err(self
                .endpoint
                .error(ErrorKind::TooLarge, "the utterance exceeds 25 MiB"));
        }
        let (file, format) = file(&audio)
            .map_err(|problem| self.endpoint.error(ErrorKind::InvalidInput, problem))?;
        let model = set(config.model.as_deref()).unwrap_or_else(|| self.model());
        let fields = self.fields(model, config, &self.downgrades.of(model));
        let sent: Vec<&'static str> = OPTIONAL_FIELDS
            .iter()
            .filter(|name| fields.iter().any(|(field, _)| field == *name))
            .copied()
            .collect();
        let response = match self.post(&file, format, &fields).await {
            Ok(response) => response,
            Err(failure) => {
                // Vendors name a list without its brackets.
                let bare: Vec<&str> = sent
                    .iter()
                    .map(|name| name.trim_end_matches("[]"))
                    .collect();
                let refused = failure.refused_parameter(&bare);
                let Some(at) = refused.and_then(|name| bare.iter().position(|bare| *bare == name))
                else {
                    return Err(failure.error);
                };
                self.downgrades.learn(self.name(), model, sent[at]);
                let fields = self.fields(model, config, &self.downgrades.of(model));
                self.post(&file, format, &fields)
                    .await
                    .map_err(|failure| failure.error)?
            }
        };
        let answer = self.endpoint.json(response).await?;
        let text = answer.get("text").and_then(Value::as_str).ok_or_else(|| {
            self.endpoint
                .error(ErrorKind::Protocol, "the answer has no text")
        })?;
        let language = answer.get("language").and_then(Value::as_str);
        Ok(SttResult {
            text: text.trim().to_owned(),
            language: language.map(str::to_owned),
            ..empty
        })
    }
}

#[cfg(test)]
mod tests {
    use llmrtc_core::audio::{EncodedAudio, SampleRate};

    use super::*;

    #[test]
    fn the_container_is_judged_by_its_bytes() {
        let encoded = |data: &'static [u8], format, rate| {
            Utterance::Encoded(EncodedAudio {
                data: Bytes::from_static(data),
                format,
                rate,
            })
        };
        let table = [
            (
                encoded(b"OggS....", AudioFormat::WebM, None),
                Ok(AudioFormat::Ogg),
            ),
            (
                encoded(b"????", AudioFormat::WebM, None),
                Ok(AudioFormat::WebM),
            ),
            (
                encoded(
                    b"\x01\0\x02\0",
                    AudioFormat::Pcm,
                    Some(SampleRate::HZ_16000),
                ),
                Ok(AudioFormat::Wav),
            ),
            (
                encoded(b"\x01\0\x02\0", AudioFormat::Pcm, None),
                Err("raw PCM without a sample rate"),
            ),
            (
                Utterance::Pcm(PcmChunk::new(vec![0i16; 4], SampleRate::HZ_16000)),
                Ok(AudioFormat::Wav),
            ),
        ];
        for (utterance, expected) in table {
            assert_eq!(file(&utterance).map(|(_, format)| format), expected);
        }
    }
}

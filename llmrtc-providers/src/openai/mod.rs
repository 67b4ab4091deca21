//! One engine for everything that speaks OpenAI's HTTP protocol: chat completions, transcriptions and speech.
//!
//! The differences between vendors are data ([`Dialect`]), and so are those between models. What neither table knows
//! is learned: a parameter that the vendor names in a 400 is left out once and for all, at the price of one corrected
//! request.

mod chunk;
mod dialect;
mod downgrade;
mod history;
mod llm;
mod request;
mod rules;
mod stt;
mod tts;

use std::collections::BTreeMap;

use llmrtc_core::{
    credential::SharedCredential,
    provider::{ErrorKind, ProviderError},
    redact::Secret,
};
use serde::Deserialize;
use serde_json::{Map, Value};

pub use self::{
    dialect::Dialect,
    llm::OpenAiLlm,
    rules::{Reasoning, retirement},
    stt::OpenAiStt,
    tts::OpenAiTts,
};
use crate::http::{Endpoint, HttpClient};

/// How closely the model looks at images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImageDetail {
    /// The vendor decides.
    #[default]
    Auto,
    /// Fewer tokens, sooner an answer.
    Low,
    /// More tokens.
    High,
}

/// A language model behind `/chat/completions`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatConfig {
    /// Who is spoken to.
    pub dialect: Dialect,
    /// The key, which may change later; required by hosted services, optional for servers of one's own.
    pub api_key: Option<SharedCredential>,
    /// The address that `/chat/completions` is appended to. Default: the service's own.
    pub base_url: Option<String>,
    /// The model. Default: `gpt-6-luna` for OpenAI, `glm-5.2` for Z.ai, `openai/gpt-oss-120b` for Groq,
    /// `mistral-small-latest` for Mistral, `llama3.2` for Ollama; other local servers are asked what they have
    /// loaded; OpenRouter needs one.
    pub model: Option<String>,
    /// How much the model may think before it answers. Default: not at all, as far as it lets itself be stopped.
    pub reasoning: Reasoning,
    /// OpenAI's `verbosity` (`low`, `medium`, `high`) for models that have it. Default `low`, which suits speech.
    pub verbosity: Option<String>,
    /// OpenAI's `service_tier`.
    pub service_tier: Option<String>,
    /// Whether the model accepts images. Default: told from its name.
    pub vision: Option<bool>,
    /// How closely images are looked at.
    pub vision_detail: ImageDetail,
    /// How many of the newest user messages with images keep them; older ones become a note. Default 1.
    pub image_turns: usize,
    /// Further request headers, such as `OpenAI-Organization` or `HTTP-Referer`.
    pub headers: BTreeMap<String, Secret>,
    /// Further members of the request body, such as OpenRouter's `provider`. They win over what the engine sets.
    pub extra_body: Map<String, Value>,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            dialect: Dialect::default(),
            api_key: None,
            base_url: None,
            model: None,
            reasoning: Reasoning::default(),
            verbosity: None,
            service_tier: None,
            vision: None,
            vision_detail: ImageDetail::default(),
            // The reference sends every image again on every turn, which costs seconds.
            image_turns: 1,
            headers: BTreeMap::new(),
            extra_body: Map::new(),
        }
    }
}

/// Speech to text behind `/audio/transcriptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscriptionConfig {
    /// Who is spoken to.
    pub dialect: Dialect,
    /// The key, which may change later; required by hosted services, optional for servers of one's own.
    pub api_key: Option<SharedCredential>,
    /// The address that `/audio/transcriptions` is appended to. Default: the service's own.
    pub base_url: Option<String>,
    /// The model. Default: `gpt-transcribe` for OpenAI, `whisper-large-v3-turbo` for Groq, `voxtral-mini-latest` for
    /// Mistral, `whisper-1` for everything else, since compatible servers map that name to what they have.
    /// OpenAI's own `whisper-1` and `gpt-4o(-mini)-transcribe` leave the API on 2027-02-26.
    pub model: Option<String>,
    /// BCP 47 language tag of the callers. Default: detected.
    pub language: Option<String>,
    /// Further request headers.
    pub headers: BTreeMap<String, Secret>,
}

/// Text to speech behind `/audio/speech`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeechConfig {
    /// Who is spoken to.
    pub dialect: Dialect,
    /// The key, which may change later; required by hosted services, optional for servers of one's own.
    pub api_key: Option<SharedCredential>,
    /// The address that `/audio/speech` is appended to. Default: the service's own.
    pub base_url: Option<String>,
    /// The model. Default `gpt-4o-mini-tts` for OpenAI and `tts-1` for everything else, since compatible servers map
    /// that name to what they have. OpenAI's own `tts-1`, `tts-1-hd` and `gpt-4o-mini-tts` leave this API on
    /// 2027-01-06.
    pub model: Option<String>,
    /// The voice. Default `marin` for models whose name begins with `gpt-`, else `alloy`. At OpenAI itself, an id such as `voice_…` names a custom voice.
    pub voice: Option<String>,
    /// Relative speed, 0.25–4. Default: the vendor's, 1.
    pub speed: Option<f32>,
    /// Free-text direction of the delivery, for models whose name begins with `gpt-`.
    pub instructions: Option<String>,
    /// The container of speech that is delivered in one piece. Default MP3. Streamed speech is always PCM.
    pub format: SpeechFormat,
    /// The rate of the PCM that the server delivers, in hertz, 8 000–48 000. Default 24 000, which is OpenAI's.
    pub pcm_rate: u32,
    /// Further request headers.
    pub headers: BTreeMap<String, Secret>,
}

impl Default for SpeechConfig {
    fn default() -> Self {
        Self {
            dialect: Dialect::default(),
            api_key: None,
            base_url: None,
            model: None,
            voice: None,
            speed: None,
            instructions: None,
            format: SpeechFormat::default(),
            pcm_rate: 24_000,
            headers: BTreeMap::new(),
        }
    }
}

/// The container of speech that is delivered in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SpeechFormat {
    /// MPEG layer III.
    #[default]
    Mp3,
    /// Opus in Ogg.
    Ogg,
    /// RIFF WAVE.
    Wav,
    /// Headerless signed 16-bit little-endian mono.
    Pcm,
}

/// The endpoint of one capability, or what its configuration lacks.
fn endpoint(
    http: HttpClient,
    provider: &'static str,
    dialect: Dialect,
    api_key: Option<&SharedCredential>,
    base_url: Option<&str>,
    headers: &BTreeMap<String, Secret>,
) -> Result<Endpoint, ProviderError> {
    let config = |message: &str| ProviderError::new(ErrorKind::Config, provider, message);
    let traits = dialect.traits();
    let Some(base) = set(base_url).or(traits.base_url) else {
        return Err(config("the base URL is not set"));
    };
    if traits.needs_key && api_key.is_none_or(SharedCredential::is_blank) {
        return Err(config("the API key is missing or blank"));
    }
    Endpoint::new(
        http,
        provider,
        base,
        api_key,
        headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    )
}

/// Blank settings count as unset.
fn set(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

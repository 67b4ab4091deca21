//! Which vendors, and what they need. Every setting has the name of its environment variable and a place in the file:
//! `OPENAI_API_KEY` is `providers.openai.api_key`, and so on for the whole catalogue below.

use std::{collections::BTreeMap, fmt};

use llmrtc_core::redact::Secret;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, Visitor},
};

/// Settings of no single vendor. `llm` is `LLM_PROVIDER`.
const GENERAL: &[(&str, &str)] = &[
    ("llm", "LLM_PROVIDER"),
    ("stt", "STT_PROVIDER"),
    ("tts", "TTS_PROVIDER"),
    ("vision", "VISION_PROVIDER"),
    ("realtime", "REALTIME_PROVIDER"),
    ("llm_fallback", "LLM_FALLBACK"),
    ("stt_fallback", "STT_FALLBACK"),
    ("tts_fallback", "TTS_FALLBACK"),
    ("local_only", "LOCAL_ONLY"),
    ("local_only_strict", "LOCAL_ONLY_STRICT"),
    ("embedded_fallback", "EMBEDDED_FALLBACK"),
    ("lenient", "LLMRTC_LENIENT"),
    ("model_dir", "LLMRTC_MODEL_DIR"),
];

/// Vendor sections. A key is the variable without the vendor's name, in lower case.
const VENDORS: &[(&str, &[&str])] = &[
    (
        "openai",
        &[
            "api_key",
            "api_key_file",
            "base_url",
            "model",
            "org_id",
            "project_id",
            "stt_model",
            "tts_model",
            "tts_voice",
            "tts_instructions",
            "llm_base_url",
            "stt_base_url",
            "tts_base_url",
            "api",
            "reasoning",
            "tts_speed",
            "stt_language",
            "stt_delay",
        ],
    ),
    (
        "openai_compat",
        &[
            "base_url",
            "api_key",
            "api_key_file",
            "model",
            "stt_model",
            "tts_model",
            "tts_voice",
        ],
    ),
    (
        "anthropic",
        &[
            "api_key",
            "api_key_file",
            "model",
            "prompt_caching",
            "base_url",
            "auth_token",
            "max_tokens",
            "thinking",
            "effort",
        ],
    ),
    ("google", &["api_key", "api_key_file", "model", "thinking"]),
    ("gemini", &["api_key", "api_key_file"]),
    (
        "aws",
        &[
            "region",
            "default_region",
            "access_key_id",
            "secret_access_key",
            "session_token",
            "profile",
            "bearer_token_bedrock",
        ],
    ),
    ("bedrock", &["model", "endpoint_url"]),
    (
        "openrouter",
        &[
            "api_key",
            "api_key_file",
            "model",
            "base_url",
            "site_url",
            "site_name",
            "sort",
        ],
    ),
    ("zai", &["api_key", "api_key_file", "model", "base_url"]),
    (
        "groq",
        &["api_key", "api_key_file", "model", "stt_model", "base_url"],
    ),
    ("mistral", &["api_key", "api_key_file", "model", "base_url"]),
    ("vllm", &["base_url", "api_key", "api_key_file", "model"]),
    (
        "llamacpp",
        &["base_url", "api_key", "api_key_file", "model"],
    ),
    (
        "lmstudio",
        &["base_url", "model", "api_key", "api_key_file"],
    ),
    (
        "ollama",
        &[
            "base_url",
            "model",
            "vision_model",
            "num_ctx",
            "keep_alive",
            "think",
        ],
    ),
    ("faster_whisper", &["url", "mode", "model", "language"]),
    ("piper", &["url", "voice"]),
    (
        "elevenlabs",
        &[
            "api_key",
            "api_key_file",
            "stt_model",
            "voice_id",
            "model",
            "base_url",
            "stability",
            "similarity",
        ],
    ),
    (
        "deepgram",
        &[
            "api_key",
            "api_key_file",
            "stt_model",
            "tts_model",
            "base_url",
        ],
    ),
    (
        "cartesia",
        &[
            "api_key",
            "api_key_file",
            "voice_id",
            "tts_model",
            "stt_model",
        ],
    ),
    ("assemblyai", &["api_key", "api_key_file", "model"]),
    (
        "azure_openai",
        &["endpoint", "api_key", "api_key_file", "deployment"],
    ),
    ("azure_speech", &["key", "key_file", "region", "voice"]),
    (
        "embedded",
        &["llm_gguf", "tts_voice", "threads", "neighbours"],
    ),
    ("scripted", &["rules"]),
];

/// The providers' settings, by variable name. Selection itself is `llmrtc_providers::select`'s business.
#[derive(Clone, Default)]
pub struct ProvidersConfig {
    values: BTreeMap<String, Secret>,
}

impl ProvidersConfig {
    /// The effective value of a variable such as `OPENAI_API_KEY`, whichever layer it comes from. Blank is absent.
    pub fn lookup(&self, variable: &str) -> Option<String> {
        let value = self.values.get(variable)?;
        (!value.is_blank()).then(|| value.expose().trim().to_owned())
    }

    /// Sets a variable, as a layer above all others.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.values.insert(variable.to_owned(), Secret::new(value));
    }

    /// The variables that are set.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

impl fmt::Debug for ProvidersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables()).finish()
    }
}

/// Every variable and its place below `providers`.
pub(super) fn variables() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    let general = GENERAL
        .iter()
        .map(|&(key, variable)| (variable.to_owned(), vec![key]));
    let vendors = VENDORS.iter().flat_map(|&(vendor, keys)| {
        keys.iter()
            .map(move |&key| (variable(vendor, key), vec![vendor, key]))
    });
    general.chain(vendors)
}

fn variable(vendor: &str, key: &str) -> String {
    format!("{vendor}_{key}").to_ascii_uppercase()
}

impl<'de> Deserialize<'de> for ProvidersConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut config = Self::default();
        deserializer.deserialize_map(Root(&mut config))?;
        Ok(config)
    }
}

struct Root<'a>(&'a mut ProvidersConfig);

impl<'de> Visitor<'de> for Root<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of provider settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(|name: &str| {
            let general = GENERAL
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, variable)| Place::Value(variable));
            general.or_else(|| {
                VENDORS
                    .iter()
                    .find(|(vendor, _)| *vendor == name)
                    .map(Place::Vendor)
            })
        }))? {
            match key {
                Place::Value(variable) => {
                    self.0
                        .values
                        .insert(variable.to_owned(), map.next_value_seed(Scalar)?);
                }
                Place::Vendor((vendor, keys)) => map.next_value_seed(Vendor {
                    vendor,
                    keys,
                    config: self.0,
                })?,
            }
        }
        Ok(())
    }
}

enum Place {
    Value(&'static str),
    Vendor(&'static (&'static str, &'static [&'static str])),
}

struct Vendor<'a> {
    vendor: &'static str,
    keys: &'static [&'static str],
    config: &'a mut ProvidersConfig,
}

impl<'de> DeserializeSeed<'de> for Vendor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Vendor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table of {} settings", self.vendor)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let find = |name: &str| self.keys.iter().copied().find(|key| *key == name);
        while let Some(key) = map.next_key_seed(Key(find))? {
            self.config
                .values
                .insert(variable(self.vendor, key), map.next_value_seed(Scalar)?);
        }
        Ok(())
    }
}

/// A key that must be known.
struct Key<F>(F);

impl<'de, T, F: Fn(&str) -> Option<T>> DeserializeSeed<'de> for Key<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let name = String::deserialize(deserializer)?;
        (self.0)(&name).ok_or_else(|| de::Error::custom(format!("unknown setting `{name}`")))
    }
}

/// Text, or a number or truth value as text: these settings are variables first.
struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Secret;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Scalar {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }
}

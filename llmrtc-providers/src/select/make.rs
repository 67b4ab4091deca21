use std::{collections::BTreeMap, sync::Arc};

use llmrtc_core::{
    credential::SharedCredential,
    provider::{LlmProvider, ProviderError, SttProvider, TtsProvider},
    redact::Secret,
};
use serde_json::{Map, json};

use super::{InProcess, lookup::Lookup, names::Name};
use crate::{
    echo::{EchoConfig, EchoLlm, EchoStt, EchoTts},
    http::{HttpClient, is_loopback, parse_base},
    openai::{
        ChatConfig, Dialect, OpenAiLlm, OpenAiStt, OpenAiTts, Reasoning, SpeechConfig,
        TranscriptionConfig, retirement,
    },
};

/// Makes providers of what the variables say.
pub(super) struct Maker<'a> {
    pub(super) lookup: &'a Lookup<'a>,
    /// Present unless only echo is used, or the client could not be made.
    pub(super) http: Option<HttpClient>,
    pub(super) in_process: &'a InProcess,
    pub(super) local_only: bool,
    pub(super) strict: bool,
}

/// Where a service is and how to get in.
struct Access {
    dialect: Dialect,
    /// Variables of the key; the first one is the usual one.
    key: Option<&'static str>,
    base_url: Option<String>,
    headers: BTreeMap<String, Secret>,
}

impl Maker<'_> {
    pub(super) fn llm(&self, name: Name) -> Option<Arc<dyn LlmProvider>> {
        match name {
            Name::Embedded => return self.in_process.llm.clone().ok(),
            Name::Scripted => return self.scripted(),
            _ => {}
        }
        let Some(access) = self.access(name, "OPENAI_LLM_BASE_URL") else {
            return Some(Arc::new(EchoLlm::new(EchoConfig::default())));
        };
        let model = match name {
            Name::Openai => self.lookup.get("OPENAI_MODEL"),
            Name::Openrouter => self.lookup.get("OPENROUTER_MODEL"),
            Name::Lmstudio => self.lookup.get("LMSTUDIO_MODEL"),
            Name::Zai => self.lookup.get("ZAI_MODEL"),
            Name::Groq => self.lookup.get("GROQ_MODEL"),
            Name::Mistral => self.lookup.get("MISTRAL_MODEL"),
            Name::Ollama => self.lookup.get("OLLAMA_MODEL"),
            _ => self.lookup.get("OPENAI_COMPAT_MODEL"),
        };
        if name == Name::Openrouter && model.is_none() {
            self.lookup.problem(
                "OPENROUTER_MODEL is not set; OpenRouter needs a model such as vendor/model",
            );
        }
        let mut extra_body = Map::new();
        if name == Name::Openrouter
            && let Some(sort) = self.lookup.get("OPENROUTER_SORT")
        {
            extra_body.insert("provider".to_owned(), json!({"sort": sort}));
        }
        let mut reasoning = Reasoning::Off;
        if name == Name::Openai {
            reasoning = self.reasoning();
            self.check_api();
        }
        self.retires(name, model.as_deref(), "OPENAI_MODEL");
        let api_key = self.key(&access);
        let config = ChatConfig {
            dialect: access.dialect,
            api_key,
            base_url: access.base_url,
            model,
            reasoning,
            headers: access.headers,
            extra_body,
            ..ChatConfig::default()
        };
        self.built(OpenAiLlm::new(config, self.http.clone()?))
            .map(|provider| Arc::new(provider) as _)
    }

    pub(super) fn stt(&self, name: Name) -> Option<Arc<dyn SttProvider>> {
        if name == Name::Embedded {
            return self.in_process.stt.clone().ok();
        }
        let Some(access) = self.access(name, "OPENAI_STT_BASE_URL") else {
            return Some(Arc::new(EchoStt::new(EchoConfig::default())));
        };
        let model = match name {
            Name::Groq => self.lookup.get("GROQ_STT_MODEL"),
            Name::Mistral => None,
            _ => self.lookup.get("OPENAI_STT_MODEL"),
        };
        self.retires(name, model.as_deref(), "OPENAI_STT_MODEL");
        let api_key = self.key(&access);
        let config = TranscriptionConfig {
            dialect: access.dialect,
            api_key,
            base_url: access.base_url,
            model,
            language: self.lookup.get("OPENAI_STT_LANGUAGE"),
            headers: access.headers,
        };
        self.built(OpenAiStt::new(config, self.http.clone()?))
            .map(|provider| Arc::new(provider) as _)
    }

    pub(super) fn tts(&self, name: Name) -> Option<Arc<dyn TtsProvider>> {
        if name == Name::Embedded {
            return self.in_process.tts.clone().ok();
        }
        let Some(access) = self.access(name, "OPENAI_TTS_BASE_URL") else {
            return Some(Arc::new(EchoTts::new(EchoConfig::default())));
        };
        let model = self.lookup.get("OPENAI_TTS_MODEL");
        let speed = self
            .lookup
            .parsed("OPENAI_TTS_SPEED", "a number from 0.25 to 4", |text| {
                text.parse()
                    .ok()
                    .filter(|speed| (0.25..=4.0).contains(speed))
            });
        self.retires(
            name,
            Some(model.as_deref().unwrap_or("gpt-4o-mini-tts")),
            "OPENAI_TTS_MODEL",
        );
        let api_key = self.key(&access);
        let config = SpeechConfig {
            dialect: access.dialect,
            api_key,
            base_url: access.base_url,
            model,
            voice: self.lookup.get("OPENAI_TTS_VOICE"),
            speed,
            instructions: self.lookup.get("OPENAI_TTS_INSTRUCTIONS"),
            headers: access.headers,
            ..SpeechConfig::default()
        };
        self.built(OpenAiTts::new(config, self.http.clone()?))
            .map(|provider| Arc::new(provider) as _)
    }

    /// The model that follows rules from a file.
    #[cfg(feature = "local")]
    fn scripted(&self) -> Option<Arc<dyn LlmProvider>> {
        let Some(path) = self.lookup.get("SCRIPTED_RULES") else {
            self.lookup
                .problem("LLM_PROVIDER=scripted: SCRIPTED_RULES is not set; it names a TOML file");
            return None;
        };
        match crate::local::scripted::RulesLlm::load(path) {
            Ok(llm) => Some(Arc::new(llm)),
            Err(error) => {
                self.lookup.problem(format!("SCRIPTED_RULES: {error}"));
                None
            }
        }
    }

    #[cfg(not(feature = "local"))]
    fn scripted(&self) -> Option<Arc<dyn LlmProvider>> {
        self.lookup
            .problem("LLM_PROVIDER=scripted: this build is without the feature `local`");
        None
    }

    /// How to reach a provider; `None` for the one that needs no reaching. `own_base` is OpenAI's variable for one
    /// capability, which wins over the one for all.
    fn access(&self, name: Name, own_base: &'static str) -> Option<Access> {
        let get = |variables: &[&str]| self.lookup.first(variables);
        let (dialect, key, base_url) = match name {
            Name::Echo | Name::Embedded | Name::Scripted => return None,
            Name::Openai => (
                Dialect::Openai,
                Some("OPENAI_API_KEY"),
                get(&[own_base, "OPENAI_BASE_URL"]),
            ),
            Name::Openrouter => (
                Dialect::Openrouter,
                Some("OPENROUTER_API_KEY"),
                get(&["OPENROUTER_BASE_URL"]),
            ),
            Name::Zai => (Dialect::Zai, Some("ZAI_API_KEY"), get(&["ZAI_BASE_URL"])),
            Name::Groq => (Dialect::Groq, Some("GROQ_API_KEY"), None),
            Name::Mistral => (Dialect::Mistral, Some("MISTRAL_API_KEY"), None),
            Name::Lmstudio => (
                Dialect::Lmstudio,
                Some("LMSTUDIO_API_KEY"),
                get(&["LMSTUDIO_BASE_URL"]),
            ),
            Name::Ollama => (
                Dialect::Ollama,
                None,
                // The variable names the server, as for the native API.
                get(&["OLLAMA_BASE_URL"]).map(|base| {
                    let base = base.trim_end_matches('/');
                    if base.ends_with("/v1") {
                        base.to_owned()
                    } else {
                        format!("{base}/v1")
                    }
                }),
            ),
            Name::Vllm | Name::Llamacpp | Name::OpenaiCompat => {
                let dialect = match name {
                    Name::Vllm => Dialect::Vllm,
                    Name::Llamacpp => Dialect::Llamacpp,
                    _ => Dialect::OpenaiCompat,
                };
                let base = get(&[own_base, "OPENAI_COMPAT_BASE_URL"]);
                (dialect, Some("OPENAI_COMPAT_API_KEY"), base)
            }
        };
        let mut headers = BTreeMap::new();
        let named: &[(&str, &str)] = match name {
            Name::Openai => &[
                ("OPENAI_ORG_ID", "OpenAI-Organization"),
                ("OPENAI_PROJECT_ID", "OpenAI-Project"),
            ],
            Name::Openrouter => &[
                ("OPENROUTER_SITE_URL", "HTTP-Referer"),
                ("OPENROUTER_SITE_NAME", "X-Title"),
            ],
            _ => &[],
        };
        for (variable, header) in named {
            if let Some(value) = self.lookup.get(variable) {
                headers.insert((*header).to_owned(), Secret::new(value));
            }
        }
        if base_url.is_none() && dialect.default_base_url().is_none() {
            self.lookup.problem(format!(
                "{}: OPENAI_COMPAT_BASE_URL is not set; it names the server, such as http://localhost:8000/v1",
                name.text()
            ));
        }
        self.check_local(name, base_url.as_deref().or(dialect.default_base_url()));
        Some(Access {
            dialect,
            key,
            base_url,
            headers,
        })
    }

    fn key(&self, access: &Access) -> Option<SharedCredential> {
        let variable = access.key?;
        let key = self.lookup.key(variable);
        if key.is_none() && access.dialect.needs_key() && !self.lookup.has_key(variable) {
            self.lookup
                .problem(format!("{variable} (or {variable}_FILE) is not set"));
        }
        key
    }

    /// Says so when a named provider leaves the machine although `LOCAL_ONLY` is set.
    fn check_local(&self, name: Name, base: Option<&str>) {
        let local = base.is_none_or(|base| parse_base(base).is_ok_and(|url| is_loopback(&url)));
        if !self.local_only || local {
            return;
        }
        let problem = format!(
            "LOCAL_ONLY is set, but `{}` is not on this machine",
            name.text()
        );
        if self.strict {
            self.lookup.problem(problem);
        } else {
            self.lookup.notice(problem);
        }
    }

    fn check_api(&self) {
        if let Some(api) = self.lookup.get("OPENAI_API") {
            match api.to_ascii_lowercase().as_str() {
                "auto" | "chat" => {}
                "responses" | "responses-ws" => self.lookup.problem(format!(
                    "OPENAI_API={api}: not available in this version; choose auto or chat"
                )),
                _ => self
                    .lookup
                    .problem(format!("OPENAI_API={api}: unknown; choose auto or chat")),
            }
        }
    }

    fn reasoning(&self) -> Reasoning {
        let expected = "off, minimal, low, medium, high or default";
        self.lookup
            .parsed("OPENAI_REASONING", expected, |text| {
                Some(match text.to_ascii_lowercase().as_str() {
                    "off" | "none" => Reasoning::Off,
                    "minimal" => Reasoning::Minimal,
                    "low" => Reasoning::Low,
                    "medium" => Reasoning::Medium,
                    "high" => Reasoning::High,
                    "default" => Reasoning::ProviderDefault,
                    _ => return None,
                })
            })
            .unwrap_or_default()
    }

    /// Warns of a model that is about to leave OpenAI's own service.
    fn retires(&self, name: Name, model: Option<&str>, variable: &str) {
        if name == Name::Openai
            && let Some(model) = model
            && let Some(day) = retirement(model)
        {
            self.lookup.notice(format!(
                "OpenAI stops serving the model {model} on {day}; {variable} chooses another"
            ));
        }
    }

    /// A constructor's complaint, unless it only repeats one that names the variable.
    fn built<T>(&self, built: Result<T, ProviderError>) -> Option<T> {
        match built {
            Ok(provider) => Some(provider),
            Err(error) => {
                if self.lookup.is_sound() {
                    self.lookup.problem(error.to_string());
                }
                None
            }
        }
    }
}

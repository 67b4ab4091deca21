//! Models in this process: which a configuration wants, where they come from, and what they become.

pub mod judges;

use std::{path::PathBuf, sync::Arc};

use llmrtc_core::{
    credential::SharedCredential,
    provider::{LlmProvider, SttProvider},
    redact::Secret,
    turn::TurnConfig,
};
use llmrtc_media::{
    config::{DetectorKind, PolicyKind},
    pipeline::Models,
};
use llmrtc_providers::{
    local::{
        gguf::{GgufLlm, GgufOptions, PERSONA},
        models::{ModelError, Package, Pip, Source, Store},
        moonshine::Moonshine,
        neighbour::{Neighbour, NeighbourPorts, neighbours},
        pool::InferencePool,
        runtime::Runtime,
        silero::Silero,
        turn::SmartTurn,
        voice,
    },
    openai::Dialect,
    select::{self, InProcess, Wanted},
};

use self::judges::{Floor, Turn, detectors};
use crate::{
    config::{Config, load::ProcessEnvironment},
    models::{self, Consent, ensure},
};

/// What a server with this configuration and these keys wants of the models in its process.
pub(crate) fn wanted(config: &Config, keys: &dyn Fn(&str) -> Option<SharedCredential>) -> Wanted {
    select::wanted(&|name| config.providers.lookup(name), keys)
}

/// The same before keys are read: a manager may have any of them.
fn wanted_before_keys(config: &Config) -> Wanted {
    let managed = config.secrets.manager.is_some();
    wanted(config, &|_| managed.then(|| Secret::new("").into()))
}

/// Prefers a model server that runs on this machine to a model of our own, if no language model is configured. Says so in
/// the log and takes it into the configuration.
///
/// # Cancel safety
/// Cancel safe.
pub async fn prefer_neighbour(config: &mut Config) {
    let wanted = wanted_before_keys(config);
    if !wanted.neighbours || !wanted.llm || wanted.named_llm {
        return;
    }
    if let Some(neighbour) = neighbours(NeighbourPorts::default()).await.first() {
        tracing::info!("no language model is configured; found {neighbour}");
        adopt(config, neighbour);
    }
}

fn adopt(config: &mut Config, neighbour: &Neighbour) {
    let (name, base, model) = match neighbour.dialect {
        Dialect::Ollama => ("ollama", "OLLAMA_BASE_URL", "OLLAMA_MODEL"),
        Dialect::Lmstudio => ("lmstudio", "LMSTUDIO_BASE_URL", "LMSTUDIO_MODEL"),
        _ => ("llamacpp", "OPENAI_COMPAT_BASE_URL", "OPENAI_COMPAT_MODEL"),
    };
    config.providers.set("LLM_PROVIDER", name);
    config.providers.set(base, &neighbour.base_url);
    config.providers.set(model, &neighbour.model);
}

/// Fetches the models that this configuration wants and that are not there, if there is consent. Says in the log what the
/// server does without, and why.
///
/// Blocks for as long as a person thinks and a download takes.
pub fn fetch_missing(config: &Config, consent: Consent) {
    let wanted = wanted_before_keys(config);
    if !wanted.any() {
        return;
    }
    let Ok(store) = store(config) else {
        return;
    };
    let packages = packages(config, wanted);
    for off in ensure(&store, &packages, &Source::Pip(Pip::default()), consent) {
        tracing::warn!("{off}");
    }
}

/// The packages behind what is wanted.
fn packages(config: &Config, wanted: Wanted) -> Vec<&'static Package> {
    let mut names = Vec::new();
    if wanted.stt && foreign(config).is_none() {
        names.extend(["onnxruntime", "moonshine-tiny-en"]);
    }
    // Worth its few megabytes as soon as anything is fetched.
    if config.media.endpoint.policy != PolicyKind::Silence {
        names.extend(["onnxruntime", "smart-turn"]);
    }
    if config.media.vad.detector == DetectorKind::Silero {
        names.extend(["onnxruntime", "silero"]);
    }
    if wanted.llm && config.providers.lookup("EMBEDDED_LLM_GGUF").is_none() {
        names.push("smollm2");
    }
    if wanted.tts && !has_voice(config) {
        names.push("espeak-ng");
    }
    let mut packages = Vec::new();
    for package in names.into_iter().filter_map(Package::named) {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// Whether this machine has a voice already.
fn has_voice(config: &Config) -> bool {
    store(config).is_ok_and(|store| voice::is_there(&store, config.turn.language.as_deref()))
}

/// Where the models are.
fn store(config: &Config) -> anyhow::Result<Store> {
    let configured = config.providers.lookup("LLMRTC_MODEL_DIR");
    models::store(configured.map(PathBuf::from), &ProcessEnvironment)
}

/// What was loaded.
pub(crate) struct Local {
    /// For selection.
    pub(crate) providers: InProcess,
    /// For the media threads.
    pub(crate) models: Models,
}

impl Local {
    /// Loads what is wanted and there. What is not there leaves a reason.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a thread that loads to its end.
    pub(crate) async fn of(config: &Config, wanted: Wanted) -> Self {
        let config = config.clone();
        let loading = tokio::task::spawn_blocking(move || Self::load(&config, wanted));
        loading.await.unwrap_or_else(|_| {
            let mut local = Self::none();
            local.nothing("loading it failed");
            local
        })
    }

    fn none() -> Self {
        Self {
            providers: InProcess::default(),
            models: Models::default(),
        }
    }

    /// Blocks for up to a second.
    fn load(config: &Config, wanted: Wanted) -> Self {
        let mut local = Self::none();
        let store = match store(config) {
            Ok(store) => store,
            Err(error) => {
                local.nothing(&reason(error));
                return local;
            }
        };
        let pool = match InferencePool::new(wanted.threads) {
            Ok(pool) => pool,
            Err(error) => {
                local.nothing(&format!("threads for models cannot be started: {error}"));
                return local;
            }
        };
        let loader = Loader {
            runtime: file(&store, "onnxruntime", "libonnxruntime.so.1")
                .and_then(|path| Runtime::load(&path).map_err(reason)),
            store,
            pool,
        };
        if wanted.stt {
            let stt = match foreign(config) {
                Some(language) => Err(format!(
                    "recognition in this process understands English, not `{language}`"
                )),
                None => loader.moonshine(),
            };
            if let Ok(stt) = &stt {
                local.models.floor = Some(Arc::new(Floor::new(stt.clone())));
            }
            local.providers.stt = stt.map(|stt| Arc::new(stt) as Arc<dyn SttProvider>);
        }
        if wanted.llm {
            local.providers.llm = loader.llm(config);
        }
        if wanted.tts {
            let voice = voice::best(&loader.store, config.turn.language.as_deref(), &loader.pool);
            local.providers.tts = voice.map_err(reason);
        }
        let policy = config.media.endpoint.policy;
        if policy != PolicyKind::Silence {
            match loader.turn() {
                Ok(model) => local.models.turn = Some(Arc::new(Turn(model))),
                Err(reason) if policy == PolicyKind::Semantic => {
                    tracing::warn!("turns end by silence alone: {reason}");
                }
                Err(_) => {}
            }
        }
        if config.media.vad.detector == DetectorKind::Silero {
            match loader.silero() {
                Ok(model) => local.models.silero = Some(detectors(model)),
                Err(reason) => tracing::warn!("the built-in voice detector stands in: {reason}"),
            }
        }
        local
    }

    fn nothing(&mut self, reason: &str) {
        self.providers = InProcess {
            llm: Err(reason.to_owned()),
            stt: Err(reason.to_owned()),
            tts: Err(reason.to_owned()),
        };
    }
}

/// The system prompt that a very small model can follow, instead of the general one.
pub(crate) fn suit(turn: &mut TurnConfig) {
    if turn.system_prompt == TurnConfig::default().system_prompt {
        PERSONA.clone_into(&mut turn.system_prompt);
    }
}

/// The configured language, unless it is English.
fn foreign(config: &Config) -> Option<&str> {
    let language = config.turn.language.as_deref()?;
    (!voice::is_english(language)).then_some(language)
}

struct Loader {
    runtime: Result<Runtime, String>,
    store: Store,
    pool: InferencePool,
}

impl Loader {
    fn runtime(&self) -> Result<&Runtime, String> {
        self.runtime.as_ref().map_err(Clone::clone)
    }

    fn moonshine(&self) -> Result<Moonshine, String> {
        let dir = folder(&self.store, "moonshine-tiny-en")?;
        Moonshine::load(self.runtime()?, &dir, self.pool.clone()).map_err(reason)
    }

    fn turn(&self) -> Result<SmartTurn, String> {
        let path = file(&self.store, "smart-turn", "smart-turn-v3.2-cpu.onnx")?;
        SmartTurn::load(self.runtime()?, &path, self.pool.clone()).map_err(reason)
    }

    fn silero(&self) -> Result<Silero, String> {
        let path = file(&self.store, "silero", "silero_vad_op18_ifless.onnx")?;
        Silero::load(self.runtime()?, &path).map_err(reason)
    }

    fn llm(&self, config: &Config) -> Result<Arc<dyn LlmProvider>, String> {
        let path = match config.providers.lookup("EMBEDDED_LLM_GGUF") {
            Some(path) => PathBuf::from(path),
            None => file(&self.store, "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")?,
        };
        let mut turn = config.turn.clone();
        suit(&mut turn);
        let options = GgufOptions {
            persona: turn.system_prompt,
            ..GgufOptions::default()
        };
        let llm = GgufLlm::load(path, self.pool.clone(), options).map_err(reason)?;
        Ok(Arc::new(llm))
    }
}

fn file(store: &Store, package: &'static str, name: &str) -> Result<PathBuf, String> {
    let package =
        Package::named(package).ok_or_else(|| format!("there is no package {package}"))?;
    store
        .file(package, name)
        .map_err(|error: ModelError| error.to_string())
}

fn folder(store: &Store, package: &'static str) -> Result<PathBuf, String> {
    file(store, package, "")
}

/// An error and its causes in one line.
fn reason(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &Config, wanted: Wanted) -> Vec<&'static str> {
        let packages = packages(config, wanted);
        packages.iter().map(|package| package.name).collect()
    }

    #[test]
    fn packages_are_those_that_a_configuration_needs_once_each() {
        let mut config = Config::default();
        config.media.vad.detector = DetectorKind::Silero;
        let wanted = Wanted {
            llm: true,
            stt: true,
            ..Wanted::default()
        };
        assert_eq!(
            names(&config, wanted),
            [
                "onnxruntime",
                "moonshine-tiny-en",
                "smart-turn",
                "silero",
                "smollm2"
            ]
        );
        config.media.vad.detector = DetectorKind::Earshot;
        config.media.endpoint.policy = PolicyKind::Silence;
        config.providers.set("EMBEDDED_LLM_GGUF", "/own.gguf");
        assert_eq!(
            names(&config, wanted),
            ["onnxruntime", "moonshine-tiny-en"],
            "a model of one's own is not fetched"
        );
    }

    #[test]
    fn nothing_configured_wants_everything_and_a_key_wants_nothing() {
        let mut config = Config::default();
        let everything = wanted_before_keys(&config);
        assert!(everything.llm && everything.stt && everything.tts && !everything.named_llm);
        config.providers.set("OPENAI_API_KEY", "sk-x");
        assert!(!wanted_before_keys(&config).any());
        let mut config = Config::default();
        config.secrets.manager = Some("file:///run/secrets/{name}".to_owned());
        assert!(
            !wanted_before_keys(&config).any(),
            "the manager may have a key"
        );
        config.providers.set("STT_PROVIDER", "embedded");
        assert!(wanted_before_keys(&config).stt);
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_the_way_to_it() {
        let mut config = Config::default();
        config
            .providers
            .set("LLMRTC_MODEL_DIR", "/no/such/folder/of/models");
        let local = Local::of(&config, wanted_before_keys(&config)).await;
        let (Err(stt), Err(llm)) = (&local.providers.stt, &local.providers.llm) else {
            panic!("there is nothing: {:?}", local.providers);
        };
        assert!(
            stt.contains("llmrtc models fetch moonshine-tiny-en"),
            "{stt}"
        );
        assert!(llm.contains("llmrtc models fetch smollm2"), "{llm}");
        assert!(local.models.turn.is_none() && local.models.floor.is_none());

        config.providers.set("EMBEDDED_LLM_GGUF", "/etc/hostname");
        config.turn.language = Some("de-AT".to_owned());
        let local = Local::of(&config, wanted_before_keys(&config)).await;
        let reason = local.providers.stt.map(|_| ()).unwrap_err();
        assert!(reason.contains("English, not `de-AT`"), "{reason}");
        let reason = local.providers.llm.map(|_| ()).unwrap_err();
        assert!(
            reason.contains("GGUF") || reason.contains("hostname"),
            "{reason}"
        );
    }

    #[test]
    fn only_the_general_prompt_gives_way_to_one_for_small_models() {
        let mut turn = TurnConfig::default();
        suit(&mut turn);
        assert_eq!(turn.system_prompt, PERSONA);
        turn.system_prompt = "You sell shoes.".to_owned();
        suit(&mut turn);
        assert_eq!(turn.system_prompt, "You sell shoes.");
    }
}

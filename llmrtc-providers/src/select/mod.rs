//! Chooses providers from environment variables, or rather from any lookup that answers like one.
//!
//! For each capability: the named provider (`LLM_PROVIDER`, `STT_PROVIDER`, `TTS_PROVIDER`), else the local ones under
//! `LOCAL_ONLY`, else the first one whose key is set, else the built-in [`echo`](crate::echo). Blank values count as
//! unset, values are trimmed, and everything that is wrong is reported at once.

mod lookup;
mod make;
mod names;

#[cfg(test)]
mod tests;

use llmrtc_core::{credential::SharedCredential, provider::Providers};

use self::{
    lookup::Lookup,
    make::Maker,
    names::{LLM, Name, STT, TTS},
};
use crate::http::HttpClient;

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The providers, not yet initialised.
    pub providers: Providers,
    /// The names they were chosen by.
    pub names: SelectedNames,
    /// What the operator should know, one sentence each, without secrets. Log them at start.
    pub notices: Vec<String>,
}

/// The names providers were chosen by, as in `LLM_PROVIDER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectedNames {
    /// The language model.
    pub llm: &'static str,
    /// Speech to text.
    pub stt: &'static str,
    /// Text to speech.
    pub tts: &'static str,
}

/// Everything that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("providers cannot be chosen:\n  - {}", problems.join("\n  - "))]
pub struct SelectError {
    /// One sentence per problem, without secrets.
    pub problems: Vec<String>,
}

/// Chooses providers by asking `env` for variables. Reads the files that `*_API_KEY_FILE` variables name; opens no
/// connections.
///
/// ```
/// use llmrtc_providers::select::from_env;
///
/// let selection = from_env(&|name| match name {
///     "LLM_PROVIDER" => Some("ollama".to_owned()),
///     _ => None,
/// })?;
/// assert_eq!((selection.names.llm, selection.names.tts), ("ollama", "echo"));
/// # Ok::<(), llmrtc_providers::select::SelectError>(())
/// ```
///
/// # Errors
/// [`SelectError`] listing everything at once: unknown names, missing keys, malformed values.
pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Selection, SelectError> {
    from_env_with_keys(env, &|_| None)
}

/// Like [`from_env`], with keys that may change later. `keys` is asked by the variable of a key, such as
/// `OPENAI_API_KEY`; what it does not know is looked for in `env`.
///
/// # Errors
/// As [`from_env`].
pub fn from_env_with_keys(
    env: &dyn Fn(&str) -> Option<String>,
    keys: &dyn Fn(&str) -> Option<SharedCredential>,
) -> Result<Selection, SelectError> {
    let lookup = Lookup::new(env, keys);
    let rules = Rules::read(&lookup);
    names::check_others(&lookup);
    let llm = choose(&lookup, &rules, &LLM);
    let stt = choose(&lookup, &rules, &STT);
    let tts = choose(&lookup, &rules, &TTS);

    let http = if [llm, stt, tts]
        .iter()
        .all(|name| matches!(name, None | Some(Name::Echo)))
    {
        None
    } else {
        HttpClient::new()
            .map_err(|error| lookup.problem(error.to_string()))
            .ok()
    };
    let maker = Maker {
        lookup: &lookup,
        http,
        local_only: rules.local_only,
        strict: rules.strict,
    };
    let made = (
        llm.and_then(|name| maker.llm(name)),
        stt.and_then(|name| maker.stt(name)),
        tts.and_then(|name| maker.tts(name)),
    );
    match (made, llm, stt, tts) {
        ((Some(made_llm), Some(made_stt), Some(made_tts)), Some(llm), Some(stt), Some(tts))
            if lookup.is_sound() =>
        {
            Ok(Selection {
                providers: Providers {
                    llm: made_llm,
                    stt: made_stt,
                    tts: made_tts,
                    vision: None,
                },
                names: SelectedNames {
                    llm: llm.text(),
                    stt: stt.text(),
                    tts: tts.text(),
                },
                notices: lookup.notices(),
            })
        }
        _ => Err(SelectError {
            problems: lookup.problems(),
        }),
    }
}

/// Switches that concern all capabilities.
struct Rules {
    local_only: bool,
    /// A named provider that is not on this machine is an error under `LOCAL_ONLY`.
    strict: bool,
    /// Unknown names are passed over, as the reference does.
    lenient: bool,
    /// Echo may stand in where nothing is configured.
    fallback: bool,
}

impl Rules {
    fn read(lookup: &Lookup<'_>) -> Self {
        let local_only = match lookup
            .get("LOCAL_ONLY")
            .map(|value| value.to_ascii_lowercase())
        {
            Some(value) if value == "embedded" => {
                lookup.problem("LOCAL_ONLY=embedded: models inside the server are not available in this version");
                true
            }
            _ => lookup.switch("LOCAL_ONLY", false),
        };
        Self {
            local_only,
            strict: lookup.switch("LOCAL_ONLY_STRICT", false),
            lenient: lookup.switch("LLMRTC_LENIENT", false),
            fallback: lookup.switch("EMBEDDED_FALLBACK", true),
        }
    }
}

/// The name for one capability; `None` after a problem was noted.
fn choose(lookup: &Lookup<'_>, rules: &Rules, capability: &names::Capability) -> Option<Name> {
    if let Some(wanted) = lookup.get(capability.variable) {
        match capability.parse(&wanted) {
            Ok(name) => return Some(name),
            Err(problem) if rules.lenient => lookup.notice(format!("{problem}; ignored")),
            Err(problem) => {
                lookup.problem(problem);
                return None;
            }
        }
    }
    if rules.local_only {
        if capability.local.is_none() {
            lookup.problem(format!(
                "LOCAL_ONLY is set, but {} is not available in this version; set {}=openai-compat with a local \
                 server, or {}=echo",
                capability.unbuilt_local, capability.variable, capability.variable
            ));
        }
        return capability.local;
    }
    for candidate in capability.auto {
        if !candidate.keys.iter().all(|key| lookup.has_key(key)) {
            continue;
        }
        match candidate.name {
            Some(name) => return Some(name),
            None => lookup.notice(format!(
                "{} is set, but its provider is not available in this version",
                candidate.keys.join(" and ")
            )),
        }
    }
    let looked_for: Vec<String> = capability
        .auto
        .iter()
        .filter(|candidate| candidate.name.is_some())
        .map(|candidate| candidate.keys.join("+"))
        .collect();
    let looked_for = looked_for.join(", ");
    if rules.fallback {
        lookup.notice(format!(
            "no {} is configured; the built-in echo stands in (looked for {}, {looked_for})",
            capability.title, capability.variable
        ));
        Some(Name::Echo)
    } else {
        lookup.problem(format!(
            "no {} is configured; looked for {}, {looked_for}",
            capability.title, capability.variable
        ));
        None
    }
}

//! Chooses providers from environment variables, or rather from any lookup that answers like one.
//!
//! For each capability: the named provider (`LLM_PROVIDER`, `STT_PROVIDER`, `TTS_PROVIDER`), else the local ones under
//! `LOCAL_ONLY`, else the first one whose key is set, else the models in this process, else the built-in
//! [`echo`](crate::echo). Blank values count as unset, values are trimmed, and everything that is wrong is reported at once.

mod in_process;
mod lookup;
mod make;
mod names;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;

use llmrtc_core::{credential::SharedCredential, provider::Providers};

pub use self::in_process::{InProcess, Wanted};
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
    from_env_with(env, &|_| None, &InProcess::default())
}

/// Like [`from_env`], with keys that may change later and models in this process. `keys` is asked by the variable of a key,
/// such as `OPENAI_API_KEY`; what it does not know is looked for in `env`.
///
/// # Errors
/// As [`from_env`], and when a model was asked for by name and `in_process` does not have it.
pub fn from_env_with(
    env: &dyn Fn(&str) -> Option<String>,
    keys: &dyn Fn(&str) -> Option<SharedCredential>,
    in_process: &InProcess,
) -> Result<Selection, SelectError> {
    let lookup = Lookup::new(env, keys);
    let rules = Rules::read(&lookup);
    names::check_others(&lookup);
    let llm = choose(&lookup, &rules, &LLM, &in_process.llm);
    let stt = choose(&lookup, &rules, &STT, &in_process.stt);
    let tts = choose(&lookup, &rules, &TTS, &in_process.tts);

    let http = if [llm, stt, tts]
        .iter()
        .flatten()
        .all(|name| matches!(name, Name::Echo | Name::Embedded | Name::Scripted))
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
        in_process,
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

/// Which models in this process would be chosen, so that they can be fetched and loaded. What is wrong with the
/// variables is left to [`from_env_with`].
pub fn wanted(
    env: &dyn Fn(&str) -> Option<String>,
    keys: &dyn Fn(&str) -> Option<SharedCredential>,
) -> Wanted {
    let lookup = Lookup::new(env, keys);
    let rules = Rules::read(&lookup);
    let wants = |capability| match decide(&lookup, &rules, capability) {
        Some(Decision::Fallback) => rules.fallback,
        Some(Decision::Name(name)) => name == Name::Embedded,
        None => false,
    };
    Wanted {
        llm: wants(&LLM),
        stt: wants(&STT),
        tts: wants(&TTS),
        named_llm: !matches!(decide(&lookup, &rules, &LLM), Some(Decision::Fallback)),
        neighbours: rules.neighbours,
        threads: rules.threads,
    }
}

/// Switches that concern all capabilities.
struct Rules {
    local_only: bool,
    /// Everything in this process.
    embedded_only: bool,
    /// A named provider that is not on this machine is an error under `LOCAL_ONLY`.
    strict: bool,
    /// Unknown names are passed over, as the reference does.
    lenient: bool,
    /// Models in this process, or else echo, may stand in where nothing is configured.
    fallback: bool,
    /// Whoever loads the models asks these of [`wanted`]; they stand here so that a mistake in them is told.
    neighbours: bool,
    threads: Option<NonZeroUsize>,
}

impl Rules {
    fn read(lookup: &Lookup<'_>) -> Self {
        let embedded_only = lookup
            .get("LOCAL_ONLY")
            .is_some_and(|value| value.eq_ignore_ascii_case("embedded"));
        Self {
            local_only: embedded_only || lookup.switch("LOCAL_ONLY", false),
            embedded_only,
            strict: lookup.switch("LOCAL_ONLY_STRICT", false),
            lenient: lookup.switch("LLMRTC_LENIENT", false),
            fallback: lookup.switch("EMBEDDED_FALLBACK", true),
            neighbours: lookup.switch("EMBEDDED_NEIGHBOURS", true),
            threads: lookup.parsed("EMBEDDED_THREADS", "a whole number, 1 or more", |text| {
                text.parse().ok()
            }),
        }
    }
}

/// What the variables say about one capability.
enum Decision {
    /// This one.
    Name(Name),
    /// Nothing: whatever can stand in.
    Fallback,
}

/// `None` after a problem was noted.
fn decide(lookup: &Lookup<'_>, rules: &Rules, capability: &names::Capability) -> Option<Decision> {
    if let Some(wanted) = lookup.get(capability.variable) {
        match capability.parse(&wanted) {
            Ok(name) => return Some(Decision::Name(name)),
            Err(problem) if rules.lenient => lookup.notice(format!("{problem}; ignored")),
            Err(problem) => {
                lookup.problem(problem);
                return None;
            }
        }
    }
    if rules.embedded_only {
        return Some(Decision::Name(Name::Embedded));
    }
    if rules.local_only {
        return Some(Decision::Name(capability.local));
    }
    for candidate in capability.auto {
        if !candidate.keys.iter().all(|key| lookup.has_key(key)) {
            continue;
        }
        match candidate.name {
            Some(name) => return Some(Decision::Name(name)),
            None => lookup.notice(format!(
                "{} is set, but its provider is not available in this version",
                candidate.keys.join(" and ")
            )),
        }
    }
    Some(Decision::Fallback)
}

/// The name for one capability; `None` after a problem was noted. `in_process` is the model for it, or why there is none.
fn choose<T>(
    lookup: &Lookup<'_>,
    rules: &Rules,
    capability: &names::Capability,
    in_process: &Result<T, String>,
) -> Option<Name> {
    match decide(lookup, rules, capability)? {
        Decision::Name(Name::Embedded) => {
            if let Err(reason) = in_process {
                lookup.problem(format!(
                    "the {} in this process was asked for, but {reason}",
                    capability.title
                ));
                return None;
            }
            return Some(Name::Embedded);
        }
        Decision::Name(name) => return Some(name),
        Decision::Fallback => {}
    }
    let looked_for: Vec<String> = capability
        .auto
        .iter()
        .filter(|candidate| candidate.name.is_some())
        .map(|candidate| candidate.keys.join("+"))
        .collect();
    let looked_for = looked_for.join(", ");
    let title = capability.title;
    let variable = capability.variable;
    if !rules.fallback {
        lookup.problem(format!(
            "no {title} is configured; looked for {variable}, {looked_for}"
        ));
        return None;
    }
    match in_process {
        Ok(_) => {
            lookup.notice(format!(
                "no {title} is configured; the one in this process answers (looked for {variable}, {looked_for})"
            ));
            Some(Name::Embedded)
        }
        Err(reason) => {
            lookup.notice(format!(
                "no {title} is configured, and {reason}; the built-in echo stands in (looked for {variable}, {looked_for})"
            ));
            Some(Name::Echo)
        }
    }
}

//! What a model accepts, told from its name. New names appear monthly, so rules compare versions instead of listing
//! models, and an unknown newer version inherits from the newest known family.

use serde::Deserialize;

use super::Dialect;

/// How much a model may think before it answers. Thinking is silence for the caller, so the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reasoning {
    /// As little as the model can.
    #[default]
    #[serde(alias = "none")]
    Off,
    /// The least above none.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// A lot.
    High,
    /// Whatever the vendor does when not told.
    #[serde(alias = "default")]
    ProviderDefault,
}

impl Reasoning {
    /// The effort in OpenAI's words.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Off | Self::ProviderDefault => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What one model accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// `temperature` and `top_p`.
    pub(super) sampling: bool,
    /// The efforts it knows, least first; empty when it knows none.
    pub(super) efforts: &'static [&'static str],
    /// Tools work only while reasoning is off.
    pub(super) tools_forbid_reasoning: bool,
    /// `verbosity`.
    pub(super) verbosity: bool,
    /// Images.
    pub(super) vision: bool,
}

const PLAIN: Rules = Rules {
    sampling: true,
    efforts: &[],
    tools_forbid_reasoning: false,
    verbosity: false,
    vision: false,
};

const LOW_TO_HIGH: &[&str] = &["low", "medium", "high"];

pub(super) fn rules(dialect: Dialect, model: &str) -> Rules {
    let id = model.to_ascii_lowercase();
    // Catalogues prefix the maker: `openai/gpt-oss-120b`.
    let name = id.rsplit('/').next().unwrap_or(&id);
    let rules = Rules {
        vision: sees(name),
        ..PLAIN
    };
    if name.starts_with("gpt-oss") {
        return Rules {
            efforts: LOW_TO_HIGH,
            ..rules
        };
    }
    match dialect {
        Dialect::Openai => openai(name, rules),
        Dialect::Groq if name.starts_with("qwen3") => Rules {
            efforts: &["none", "default"],
            ..rules
        },
        Dialect::Ollama => Rules {
            efforts: &["none", "low", "medium", "high"],
            ..rules
        },
        // From here on GLM cannot be told not to think, only to think little.
        Dialect::Zai if version(name, "glm-").is_some_and(|version| version >= (5, 3)) => Rules {
            efforts: LOW_TO_HIGH,
            ..rules
        },
        _ => rules,
    }
}

fn openai(name: &str, rules: Rules) -> Rules {
    let reasoning_o = name
        .strip_prefix('o')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if reasoning_o {
        return Rules {
            sampling: false,
            efforts: LOW_TO_HIGH,
            vision: true,
            ..rules
        };
    }
    let Some(version) = version(name, "gpt-").filter(|version| *version >= (5, 0)) else {
        return rules;
    };
    let chat = name.contains("-chat");
    Rules {
        sampling: chat,
        efforts: match version {
            _ if chat => &[],
            (5, 0) => &["minimal", "low", "medium", "high"],
            _ => &["none", "low", "medium", "high", "xhigh"],
        },
        tools_forbid_reasoning: version >= (6, 0),
        verbosity: !chat,
        vision: true,
    }
}

/// Whether models of this name accept images. A wrong guess is corrected by the `vision` setting.
fn sees(name: &str) -> bool {
    const FAMILIES: &[&str] = &[
        "vision",
        "-vl",
        "llava",
        "pixtral",
        "gemini",
        "claude",
        "gpt-4o",
        "gpt-4.1",
        "gpt-4-turbo",
        "gemma-3",
        "gemma3",
        "gemma-4",
        "gemma4",
        "llama-4",
        "llama4",
        "minicpm-v",
        "moondream",
        "internvl",
        "molmo",
    ];
    let glm_v = name.starts_with("glm-") && name.contains("v");
    let newer_gpt = version(name, "gpt-").is_some_and(|version| version >= (5, 0));
    glm_v || newer_gpt || FAMILIES.iter().any(|family| name.contains(family))
}

/// The version after `prefix`: `gpt-5.1-mini` → (5, 1). Models named otherwise (`gpt-oss`) have none.
fn version(name: &str, prefix: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix(prefix)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let mut parts = rest[..end].split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().and_then(|minor| minor.parse().ok());
    Some((major, minor.unwrap_or(0)))
}

impl Rules {
    /// The word for `reasoning` that this model knows; `None` sends nothing.
    pub(super) fn effort(&self, reasoning: Reasoning) -> Option<&'static str> {
        match reasoning {
            Reasoning::ProviderDefault => return None,
            Reasoning::Off => return self.efforts.first().copied(),
            _ => {}
        }
        let known = |word: &str| self.efforts.iter().find(|effort| **effort == word).copied();
        match (known(reasoning.word()), reasoning) {
            (Some(effort), _) => Some(effort),
            (None, Reasoning::Minimal) => known("low"),
            // Models that only switch between "none" and "default".
            (None, _) => known("default"),
        }
    }
}

/// The day a model leaves OpenAI's API, where it was announced (as of 2026-11-23).
pub fn retirement(model: &str) -> Option<&'static str> {
    Some(match model {
        "gpt-5" | "gpt-5-mini" | "gpt-5-nano" | "o3" => "2026-12-11",
        "tts-1" | "tts-1-hd" | "gpt-4o-mini-tts" => "2027-01-06",
        "gpt-4o-mini" => "2027-01-14",
        "whisper-1" | "gpt-4o-transcribe" | "gpt-4o-mini-transcribe" => "2027-02-26",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_said_in_the_words_of_each_model() {
        let table = [
            (Dialect::Openai, "gpt-6-luna", Some("none")),
            (Dialect::Openai, "gpt-5.1", Some("none")),
            (Dialect::Openai, "gpt-5-mini", Some("minimal")),
            (Dialect::Openai, "gpt-5-chat-latest", None),
            (Dialect::Openai, "gpt-4o-mini", None),
            (Dialect::Openai, "o4-mini", Some("low")),
            (Dialect::Openai, "ollama-like-name", None),
            (Dialect::Groq, "openai/gpt-oss-120b", Some("low")),
            (Dialect::Groq, "qwen3-32b", Some("none")),
            (Dialect::Ollama, "llama3.2", Some("none")),
            (Dialect::Zai, "glm-5.2", None),
            (Dialect::Zai, "glm-5.3", Some("low")),
            (Dialect::Vllm, "anything", None),
        ];
        for (dialect, model, effort) in table {
            assert_eq!(
                rules(dialect, model).effort(Reasoning::Off),
                effort,
                "{model}"
            );
        }
        let newest = rules(Dialect::Openai, "gpt-9");
        assert_eq!(newest.effort(Reasoning::High), Some("high"));
        assert_eq!(newest.effort(Reasoning::Minimal), Some("low"));
        assert_eq!(newest.effort(Reasoning::ProviderDefault), None);
    }

    #[test]
    fn sampling_and_sight_follow_the_family() {
        let table = [
            (Dialect::Openai, "gpt-4o-mini", true, true),
            (Dialect::Openai, "gpt-3.5-turbo", true, false),
            (Dialect::Openai, "gpt-5-chat-latest", true, true),
            (Dialect::Openai, "gpt-6-luna", false, true),
            (Dialect::Openai, "o3", false, true),
            (Dialect::Zai, "glm-5.2", true, false),
            (Dialect::Zai, "glm-4.5v", true, true),
            (
                Dialect::Openrouter,
                "anthropic/claude-haiku-5.5",
                true,
                true,
            ),
            (Dialect::Ollama, "qwen2.5-vl", true, true),
            (Dialect::Ollama, "llama3.2", true, false),
            (Dialect::Ollama, "llama3.2-vision", true, true),
        ];
        for (dialect, model, sampling, vision) in table {
            let rules = rules(dialect, model);
            assert_eq!(
                (rules.sampling, rules.vision),
                (sampling, vision),
                "{model}"
            );
        }
    }
}

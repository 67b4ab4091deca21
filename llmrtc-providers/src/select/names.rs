use super::lookup::Lookup;

/// A provider that this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Openai,
    Openrouter,
    Lmstudio,
    Zai,
    Groq,
    Mistral,
    Vllm,
    Llamacpp,
    Ollama,
    OpenaiCompat,
    /// Models in this process.
    Embedded,
    /// Rules from a file.
    Scripted,
    Echo,
}

impl Name {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Openrouter => "openrouter",
            Self::Lmstudio => "lmstudio",
            Self::Zai => "zai",
            Self::Groq => "groq",
            Self::Mistral => "mistral",
            Self::Vllm => "vllm",
            Self::Llamacpp => "llamacpp",
            Self::Ollama => "ollama",
            Self::OpenaiCompat => "openai-compat",
            Self::Embedded => "embedded",
            Self::Scripted => "scripted",
            Self::Echo => "echo",
        }
    }
}

/// What is known about the providers of one capability.
pub(super) struct Capability {
    /// For messages.
    pub(super) title: &'static str,
    pub(super) variable: &'static str,
    /// Names this version has, aliases included.
    names: &'static [(&'static str, Name)],
    /// Names that are valid but not available yet.
    unbuilt: &'static [&'static str],
    /// In order of preference.
    pub(super) auto: &'static [Candidate],
    /// What `LOCAL_ONLY` chooses.
    pub(super) local: Name,
}

/// A provider that is chosen when its keys are set.
pub(super) struct Candidate {
    pub(super) keys: &'static [&'static str],
    /// `None`: not available yet.
    pub(super) name: Option<Name>,
}

const fn key(keys: &'static [&'static str], name: Name) -> Candidate {
    Candidate {
        keys,
        name: Some(name),
    }
}

const fn unbuilt(keys: &'static [&'static str]) -> Candidate {
    Candidate { keys, name: None }
}

pub(super) static LLM: Capability = Capability {
    title: "language model",
    variable: "LLM_PROVIDER",
    names: &[
        ("openai", Name::Openai),
        ("openrouter", Name::Openrouter),
        ("lmstudio", Name::Lmstudio),
        ("zai", Name::Zai),
        ("glm", Name::Zai),
        ("groq", Name::Groq),
        ("mistral", Name::Mistral),
        ("vllm", Name::Vllm),
        ("llamacpp", Name::Llamacpp),
        ("ollama", Name::Ollama),
        ("openai-compat", Name::OpenaiCompat),
        ("embedded", Name::Embedded),
        ("scripted", Name::Scripted),
        ("echo", Name::Echo),
    ],
    unbuilt: &[
        "anthropic",
        "google",
        "gemini",
        "bedrock",
        "azure",
        "azure-openai",
    ],
    auto: &[
        unbuilt(&["ANTHROPIC_API_KEY"]),
        unbuilt(&["GOOGLE_API_KEY"]),
        unbuilt(&["GEMINI_API_KEY"]),
        unbuilt(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
        key(&["OPENROUTER_API_KEY"], Name::Openrouter),
        key(&["OPENAI_API_KEY"], Name::Openai),
        key(&["GROQ_API_KEY"], Name::Groq),
        key(&["MISTRAL_API_KEY"], Name::Mistral),
        unbuilt(&["AZURE_OPENAI_API_KEY"]),
        key(&["ZAI_API_KEY"], Name::Zai),
    ],
    local: Name::Ollama,
};

pub(super) static STT: Capability = Capability {
    title: "speech to text",
    variable: "STT_PROVIDER",
    names: &[
        ("openai", Name::Openai),
        ("groq", Name::Groq),
        ("mistral", Name::Mistral),
        ("openai-compat", Name::OpenaiCompat),
        ("embedded", Name::Embedded),
        ("moonshine", Name::Embedded),
        ("echo", Name::Echo),
    ],
    unbuilt: &[
        "openai-realtime",
        "realtime",
        "elevenlabs",
        "scribe",
        "elevenlabs-scribe",
        "faster-whisper",
        "fasterwhisper",
        "deepgram",
        "deepgram-flux",
        "cartesia",
        "assemblyai",
        "azure",
    ],
    auto: &[
        key(&["OPENAI_API_KEY"], Name::Openai),
        unbuilt(&["DEEPGRAM_API_KEY"]),
        unbuilt(&["ELEVENLABS_API_KEY"]),
        unbuilt(&["ASSEMBLYAI_API_KEY"]),
        unbuilt(&["CARTESIA_API_KEY"]),
        key(&["GROQ_API_KEY"], Name::Groq),
    ],
    local: Name::Embedded,
};

pub(super) static TTS: Capability = Capability {
    title: "text to speech",
    variable: "TTS_PROVIDER",
    names: &[
        ("openai", Name::Openai),
        ("openai-compat", Name::OpenaiCompat),
        ("embedded", Name::Embedded),
        ("echo", Name::Echo),
    ],
    unbuilt: &[
        "elevenlabs",
        "openai-realtime",
        "piper",
        "cartesia",
        "deepgram",
        "azure",
        "groq",
        "mistral",
    ],
    auto: &[
        unbuilt(&["ELEVENLABS_API_KEY"]),
        unbuilt(&["CARTESIA_API_KEY"]),
        unbuilt(&["DEEPGRAM_API_KEY"]),
        key(&["OPENAI_API_KEY"], Name::Openai),
    ],
    local: Name::Embedded,
};

impl Capability {
    /// Finds a name, whatever its case.
    pub(super) fn parse(&self, wanted: &str) -> Result<Name, String> {
        let wanted = wanted.to_ascii_lowercase();
        if let Some((_, name)) = self.names.iter().find(|(name, _)| *name == wanted) {
            return Ok(*name);
        }
        let have: Vec<&str> = self.names.iter().map(|(name, _)| *name).collect();
        let have = have.join(", ");
        if self.unbuilt.contains(&wanted.as_str()) {
            return Err(format!(
                "{}={wanted}: not available in this version; choose one of {have}",
                self.variable
            ));
        }
        let hint = match nearest(
            &wanted,
            self.names
                .iter()
                .map(|(name, _)| *name)
                .chain(self.unbuilt.iter().copied()),
        ) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("choose one of {have}"),
        };
        Err(format!("{}={wanted}: unknown; {hint}", self.variable))
    }
}

/// Capabilities that other variables ask for and this version has only in part.
pub(super) fn check_others(lookup: &Lookup<'_>) {
    let table: [(&str, &[&str], &[&str]); 2] = [
        ("VISION_PROVIDER", &["llm", "none"], &["ollama"]),
        ("REALTIME_PROVIDER", &["none"], &["openai", "gemini"]),
    ];
    for (variable, have, unbuilt) in table {
        let Some(wanted) = lookup.get(variable).map(|value| value.to_ascii_lowercase()) else {
            continue;
        };
        if have.contains(&wanted.as_str()) {
            continue;
        }
        let have = have.join(", ");
        lookup.problem(if unbuilt.contains(&wanted.as_str()) {
            format!("{variable}={wanted}: not available in this version; choose one of {have}")
        } else {
            format!("{variable}={wanted}: unknown; choose one of {have}")
        });
    }
}

/// The name that a typing mistake away from `wanted`, if one is near enough to be meant.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (distance(wanted, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, bounded by the caller's short names.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, right) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, left) in a.iter().enumerate() {
            let substitute = diagonal + usize::from(*left != right);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

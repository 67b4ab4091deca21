//! Who speaks OpenAI's protocol, and with which accent. Everything that differs between vendors is data in one table.

use serde::Deserialize;

/// A service or server that speaks OpenAI's HTTP protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI itself.
    #[default]
    Openai,
    /// openrouter.ai.
    Openrouter,
    /// Z.ai (GLM models).
    #[serde(alias = "glm")]
    Zai,
    /// Groq.
    Groq,
    /// Mistral.
    Mistral,
    /// LM Studio on this machine.
    Lmstudio,
    /// A vLLM server.
    Vllm,
    /// A llama.cpp server.
    Llamacpp,
    /// Ollama through its `/v1` surface.
    Ollama,
    /// Any other server with the same routes.
    OpenaiCompat,
}

/// How the most tokens to generate are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenCap {
    MaxTokens,
    MaxCompletionTokens,
}

/// How token counts are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamUsage {
    /// `stream_options.include_usage`.
    Asked,
    /// It comes by itself, or not at all; `stream_options` is refused.
    Unasked,
}

/// Which forms of `tool_choice` are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToolChoices {
    /// All of them.
    All,
    /// Only words: naming a tool is emulated by `required` and a list of one.
    Words,
    /// Only `auto`: the rest is emulated by the list and an instruction.
    Auto,
    /// The field itself is unknown: emulated likewise.
    Absent,
}

/// How a model is told how much to reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReasoningStyle {
    /// `reasoning_effort`, where the model's rules name an effort.
    Effort,
    /// `reasoning: {effort}`.
    Object,
    /// `thinking: {type}`.
    Thinking,
    /// `chat_template_kwargs: {enable_thinking}`.
    Template,
    /// Nothing is sent.
    Silent,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Traits {
    /// Metric label of the language model.
    pub(super) llm: &'static str,
    /// Metric label of speech to text.
    pub(super) stt: &'static str,
    /// Metric label of text to speech.
    pub(super) tts: &'static str,
    /// Where the service is, unless the operator says otherwise.
    pub(super) base_url: Option<&'static str>,
    /// The service refuses calls without a key.
    pub(super) needs_key: bool,
    /// The model, unless the operator says otherwise. Without one, the server is asked what it has loaded.
    pub(super) model: Option<&'static str>,
    /// The operator must name a model, since the list to choose from is a catalogue.
    pub(super) needs_model: bool,
    pub(super) token_cap: TokenCap,
    pub(super) usage: StreamUsage,
    pub(super) tool_choices: ToolChoices,
    pub(super) reasoning: ReasoningStyle,
    /// A system message anywhere but in front is refused.
    pub(super) system_in_front: bool,
    /// Chat templates that insist on alternation get adjacent messages of one role joined.
    pub(super) merge_roles: bool,
    /// Constant flags of this service.
    pub(super) flags: &'static [&'static str],
}

/// What most services have in common.
const BASE: Traits = Traits {
    llm: "openai-compat-llm",
    stt: "openai-compat-stt",
    tts: "openai-compat-tts",
    base_url: None,
    needs_key: false,
    model: None,
    needs_model: false,
    token_cap: TokenCap::MaxTokens,
    usage: StreamUsage::Asked,
    tool_choices: ToolChoices::All,
    reasoning: ReasoningStyle::Silent,
    system_in_front: false,
    merge_roles: false,
    flags: &[],
};

/// A model server on somebody's machine: strict chat templates.
const LOCAL: Traits = Traits {
    system_in_front: true,
    merge_roles: true,
    ..BASE
};

static OPENAI: Traits = Traits {
    llm: "openai-llm",
    stt: "openai-whisper",
    tts: "openai-tts",
    base_url: Some("https://api.openai.com/v1"),
    needs_key: true,
    // Successor of gpt-4o-mini, which leaves the API on 2027-01-14.
    model: Some("gpt-6-luna"),
    token_cap: TokenCap::MaxCompletionTokens,
    reasoning: ReasoningStyle::Effort,
    ..BASE
};
static OPENROUTER: Traits = Traits {
    llm: "openrouter-llm",
    base_url: Some("https://openrouter.ai/api/v1"),
    needs_key: true,
    needs_model: true,
    reasoning: ReasoningStyle::Object,
    ..BASE
};
static ZAI: Traits = Traits {
    llm: "zai-llm",
    base_url: Some("https://api.z.ai/api/paas/v4"),
    needs_key: true,
    model: Some("glm-5.2"),
    usage: StreamUsage::Unasked,
    tool_choices: ToolChoices::Auto,
    reasoning: ReasoningStyle::Thinking,
    flags: &["tool_stream"],
    ..BASE
};
static GROQ: Traits = Traits {
    llm: "groq-llm",
    stt: "groq-stt",
    base_url: Some("https://api.groq.com/openai/v1"),
    needs_key: true,
    model: Some("openai/gpt-oss-120b"),
    token_cap: TokenCap::MaxCompletionTokens,
    reasoning: ReasoningStyle::Effort,
    ..BASE
};
static MISTRAL: Traits = Traits {
    llm: "mistral-llm",
    stt: "mistral-stt",
    base_url: Some("https://api.mistral.ai/v1"),
    needs_key: true,
    model: Some("mistral-small-latest"),
    usage: StreamUsage::Unasked,
    reasoning: ReasoningStyle::Effort,
    system_in_front: true,
    ..BASE
};
static LMSTUDIO: Traits = Traits {
    llm: "lmstudio-llm",
    base_url: Some("http://localhost:1234/v1"),
    tool_choices: ToolChoices::Words,
    reasoning: ReasoningStyle::Effort,
    ..LOCAL
};
static VLLM: Traits = Traits {
    llm: "vllm-llm",
    reasoning: ReasoningStyle::Template,
    ..LOCAL
};
static LLAMACPP: Traits = Traits {
    llm: "llamacpp-llm",
    base_url: Some("http://localhost:8080/v1"),
    reasoning: ReasoningStyle::Template,
    flags: &["cache_prompt"],
    ..LOCAL
};
static OLLAMA: Traits = Traits {
    llm: "ollama-llm",
    base_url: Some("http://localhost:11434/v1"),
    // Small, and without hidden reasoning.
    model: Some("llama3.2"),
    tool_choices: ToolChoices::Absent,
    reasoning: ReasoningStyle::Effort,
    ..LOCAL
};
static OPENAI_COMPAT: Traits = BASE;

impl Dialect {
    pub(super) fn traits(self) -> &'static Traits {
        match self {
            Self::Openai => &OPENAI,
            Self::Openrouter => &OPENROUTER,
            Self::Zai => &ZAI,
            Self::Groq => &GROQ,
            Self::Mistral => &MISTRAL,
            Self::Lmstudio => &LMSTUDIO,
            Self::Vllm => &VLLM,
            Self::Llamacpp => &LLAMACPP,
            Self::Ollama => &OLLAMA,
            Self::OpenaiCompat => &OPENAI_COMPAT,
        }
    }

    /// Whether the service refuses calls without a key.
    pub fn needs_key(self) -> bool {
        self.traits().needs_key
    }

    /// Where the service is unless configured; `None` when the operator must say.
    pub fn default_base_url(self) -> Option<&'static str> {
        self.traits().base_url
    }
}

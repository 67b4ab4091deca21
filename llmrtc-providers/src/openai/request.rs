//! The body of a chat completion request.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use llmrtc_core::{
    id::{CallId, SessionId, ToolName},
    message::{ImageSource, ToolCall},
    provider::{LlmRequest, ToolChoice, ToolDefinition},
};
use serde_json::{Map, Value, json};

use super::{
    ChatConfig, Dialect, ImageDetail, Reasoning,
    dialect::{ReasoningStyle, StreamUsage, TokenCap, ToolChoices},
    downgrade::Refused,
    history::{self, Entry},
    rules::{Rules, rules},
};

/// Largest image. Vendors refuse more, after we uploaded it.
const MAX_IMAGE_BYTES: usize = 10 * 1024 * 1024;

/// An image that is too large to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImageTooLarge;

/// What the body depends on besides the request itself.
pub(super) struct Shape<'a> {
    pub(super) config: &'a ChatConfig,
    pub(super) model: &'a str,
    /// The service is OpenAI's own, so its private fields are understood.
    pub(super) openai_extras: bool,
    /// Parameters this model refused before.
    pub(super) refused: &'a Refused,
    pub(super) session: SessionId,
}

impl Shape<'_> {
    /// Builds the body.
    pub(super) fn body(&self, request: &LlmRequest) -> Result<Value, ImageTooLarge> {
        let dialect = self.config.dialect;
        let traits = dialect.traits();
        let rules = rules(dialect, self.model);
        let (tools, choice, instruction) = self.tools(request);

        let mut entries = history::repair(&request.messages, self.config.image_turns);
        if let Some(instruction) = instruction {
            instruct(&mut entries, &instruction);
        }
        if traits.system_in_front {
            history::system_in_front(&mut entries);
        }
        if traits.merge_roles {
            entries = history::merge_roles(entries);
        }
        if dialect == Dialect::Zai && !entries.iter().any(|e| matches!(e, Entry::User { .. })) {
            // Z.ai refuses a conversation in which nobody asks anything, such as a greeting.
            if let Some(last @ Entry::System(_)) = entries.last_mut()
                && let Entry::System(text) = &*last
            {
                *last = Entry::User {
                    text: text.clone(),
                    images: Vec::new(),
                };
            }
        }

        let mut body = Map::new();
        let mut put = |name: &'static str, value: Value| {
            if !self.refused.contains(name) {
                body.insert(name.to_owned(), value);
            }
        };
        put("model", json!(self.model));
        put("messages", Value::Array(self.messages(&entries)?));
        put("stream", json!(true));
        if traits.usage == StreamUsage::Asked {
            put(
                "stream_options",
                if self.openai_extras {
                    // Padding against traffic analysis; TLS record sizes of a voice call tell less than its audio.
                    json!({"include_usage": true, "include_obfuscation": false})
                } else {
                    json!({"include_usage": true})
                },
            );
        }
        let sampling = &request.config;
        if rules.sampling {
            if let Some(temperature) = sampling.temperature {
                put("temperature", number(temperature));
            }
            if let Some(top_p) = sampling.top_p {
                put("top_p", number(top_p));
            }
        }
        if let Some(most) = sampling.max_tokens {
            let names = match traits.token_cap {
                TokenCap::MaxTokens => ["max_tokens", "max_completion_tokens"],
                TokenCap::MaxCompletionTokens => ["max_completion_tokens", "max_tokens"],
            };
            // A server that refused one name may know the other.
            if let Some(name) = names.into_iter().find(|name| !self.refused.contains(name)) {
                put(name, json!(most));
            }
        }
        if !sampling.stop_sequences.is_empty() {
            // OpenAI takes at most four.
            let stop = &sampling.stop_sequences[..sampling.stop_sequences.len().min(4)];
            put("stop", json!(stop));
        }
        for (name, value) in self.reasoning(&rules, !tools.is_empty()) {
            put(name, value);
        }
        if !tools.is_empty() {
            put("tools", tools.into_iter().map(tool).collect());
            if let Some(choice) = choice {
                put("tool_choice", choice);
            }
        }
        for flag in traits.flags {
            put(flag, json!(true));
        }
        if self.openai_extras {
            put("store", json!(false));
            if rules.verbosity {
                let verbosity = self.config.verbosity.as_deref().unwrap_or("low");
                put("verbosity", json!(verbosity));
            }
            if let Some(tier) = &self.config.service_tier {
                put("service_tier", json!(tier));
            }
        }
        if self.openai_extras || dialect == Dialect::Mistral {
            put("prompt_cache_key", json!(cache_key(self.session)));
        }
        for (name, value) in &self.config.extra_body {
            body.insert(name.clone(), value.clone());
        }
        Ok(Value::Object(body))
    }

    /// The tools to send, the choice on the wire, and a sentence where the choice must be put into words.
    fn tools<'r>(
        &self,
        request: &'r LlmRequest,
    ) -> (Vec<&'r ToolDefinition>, Option<Value>, Option<String>) {
        let all: Vec<_> = request.tools.iter().collect();
        if all.is_empty() {
            return (all, None, None);
        }
        let only = |name: &ToolName| -> Vec<_> {
            request
                .tools
                .iter()
                .filter(|tool| tool.name == *name)
                .collect()
        };
        let kind = self.config.dialect.traits().tool_choices;
        let auto = || (kind != ToolChoices::Absent).then(|| json!("auto"));
        match (&request.tool_choice, kind) {
            (ToolChoice::None, ToolChoices::All | ToolChoices::Words) => {
                (all, Some(json!("none")), None)
            }
            (ToolChoice::None, _) => (Vec::new(), None, None),
            (ToolChoice::Required, ToolChoices::All | ToolChoices::Words) => {
                (all, Some(json!("required")), None)
            }
            (ToolChoice::Required, _) => {
                let order = "Answer this message by calling one of the tools.".to_owned();
                (all, auto(), Some(order))
            }
            (ToolChoice::Named(name), ToolChoices::All) => {
                let choice = json!({"type": "function", "function": {"name": name.as_str()}});
                (all, Some(choice), None)
            }
            (ToolChoice::Named(name), ToolChoices::Words) => {
                (only(name), Some(json!("required")), None)
            }
            (ToolChoice::Named(name), _) => {
                let order = format!("Answer this message by calling the tool `{name}`.");
                (only(name), auto(), Some(order))
            }
            // `Auto`, and what this version does not know.
            _ => (all, auto(), None),
        }
    }

    fn reasoning(&self, rules: &Rules, with_tools: bool) -> Vec<(&'static str, Value)> {
        let wanted = if with_tools && rules.tools_forbid_reasoning {
            Reasoning::Off
        } else {
            self.config.reasoning
        };
        let off = wanted == Reasoning::Off;
        if wanted == Reasoning::ProviderDefault {
            return Vec::new();
        }
        let effort = rules.effort(wanted);
        match (self.config.dialect.traits().reasoning, effort) {
            (ReasoningStyle::Effort, Some(effort)) => vec![("reasoning_effort", json!(effort))],
            (ReasoningStyle::Object, _) if off => vec![("reasoning", json!({"effort": "none"}))],
            (ReasoningStyle::Object, effort) => {
                let effort = effort.unwrap_or(wanted.word());
                vec![("reasoning", json!({"effort": effort}))]
            }
            (ReasoningStyle::Thinking, Some(effort)) => vec![("reasoning_effort", json!(effort))],
            (ReasoningStyle::Thinking, None) => {
                let switch = if off { "disabled" } else { "enabled" };
                vec![("thinking", json!({"type": switch}))]
            }
            (ReasoningStyle::Template, _) => {
                vec![("chat_template_kwargs", json!({"enable_thinking": !off}))]
            }
            (ReasoningStyle::Effort, None) | (ReasoningStyle::Silent, _) => Vec::new(),
        }
    }

    fn messages(&self, entries: &[Entry]) -> Result<Vec<Value>, ImageTooLarge> {
        let mistral = self.config.dialect == Dialect::Mistral;
        let mut ids = CallIds {
            nine_characters: mistral,
            known: HashMap::new(),
        };
        let mut messages: Vec<Value> = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let message = match entry {
                Entry::System(text) => json!({"role": "system", "content": text}),
                Entry::User { text, images } => {
                    if mistral
                        && matches!(
                            at.checked_sub(1).map(|at| &entries[at]),
                            Some(Entry::Tool { .. })
                        )
                    {
                        // Mistral wants the assistant to speak between a result and the next question.
                        messages.push(json!({"role": "assistant", "content": "…"}));
                    }
                    json!({"role": "user", "content": self.user_content(text, images)?})
                }
                Entry::Assistant { text, calls } => {
                    let mut message = json!({"role": "assistant"});
                    message["content"] = if text.is_empty() {
                        Value::Null
                    } else {
                        json!(text)
                    };
                    if !calls.is_empty() {
                        message["tool_calls"] = calls
                            .iter()
                            .map(|call| tool_call(call, &ids.wire(&call.call_id)))
                            .collect();
                    } else if mistral && at + 1 == entries.len() {
                        message["prefix"] = json!(true);
                    }
                    message
                }
                Entry::Tool { call_id, content } => {
                    json!({"role": "tool", "tool_call_id": ids.wire(call_id), "content": content})
                }
            };
            messages.push(message);
        }
        Ok(messages)
    }

    /// Images stand in front of the text, which then refers back to what the model has seen.
    fn user_content(&self, text: &str, images: &[ImageSource]) -> Result<Value, ImageTooLarge> {
        if images.is_empty() {
            return Ok(json!(text));
        }
        let mut parts = Vec::with_capacity(images.len() + 1);
        for image in images {
            let url = match image {
                ImageSource::Inline { data, .. } if data.len() > MAX_IMAGE_BYTES => {
                    return Err(ImageTooLarge);
                }
                ImageSource::Inline { media_type, data } => {
                    format!("data:{media_type};base64,{}", STANDARD.encode(data))
                }
                ImageSource::Url(url) => url.to_string(),
                _ => continue,
            };
            let mut image_url = json!({"url": url});
            match self.config.vision_detail {
                ImageDetail::Auto => {}
                ImageDetail::Low => image_url["detail"] = json!("low"),
                ImageDetail::High => image_url["detail"] = json!("high"),
            }
            parts.push(json!({"type": "image_url", "image_url": image_url}));
        }
        if !text.is_empty() {
            parts.push(json!({"type": "text", "text": text}));
        }
        Ok(Value::Array(parts))
    }
}

/// Appends to the instructions, or makes them.
fn instruct(entries: &mut Vec<Entry>, instruction: &str) {
    match entries.first_mut() {
        Some(Entry::System(text)) => {
            text.push_str("\n\n");
            text.push_str(instruction);
        }
        _ => entries.insert(0, Entry::System(instruction.to_owned())),
    }
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name.as_str(),
            "description": tool.description,
            "parameters": tool.parameters,
        },
    })
}

fn tool_call(call: &ToolCall, id: &str) -> Value {
    json!({
        "id": id,
        "type": "function",
        "function": {
            "name": call.name.as_str(),
            "arguments": Value::Object(call.arguments.clone()).to_string(),
        },
    })
}

/// `0.7_f32` is `0.699999988` as the nearest `f64`; the shortest decimal is what the operator wrote.
fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, |value| json!(value))
}

/// Steers a session to the machine that holds its prompt in cache, without telling the vendor which session it is.
fn cache_key(session: SessionId) -> String {
    let mut hasher = DefaultHasher::new();
    session.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Call ids as the vendor wants them.
struct CallIds {
    nine_characters: bool,
    known: HashMap<CallId, String>,
}

impl CallIds {
    fn wire(&mut self, id: &CallId) -> String {
        let text = id.as_str();
        let fits = text.len() == 9 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !self.nine_characters || fits {
            return text.to_owned();
        }
        let next = self.known.len();
        self.known
            .entry(id.clone())
            .or_insert_with(|| format!("call{next:05}"))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_travel_as_they_were_written() {
        assert_eq!(number(0.7), json!(0.7));
        assert_eq!(number(1.0).to_string(), "1.0");
        assert_eq!(number(f32::NAN), Value::Null);
    }

    fn shaped(config: &ChatConfig, model: &str, openai_extras: bool) -> Value {
        let request = LlmRequest {
            messages: vec![llmrtc_core::message::Message::user("Hi")],
            config: llmrtc_core::provider::LlmConfig {
                max_tokens: Some(9),
                ..Default::default()
            },
            tools: std::sync::Arc::from([ToolDefinition {
                name: "clock".into(),
                description: String::new(),
                parameters: json!({}),
            }]),
            ..LlmRequest::default()
        };
        Shape {
            config,
            model,
            openai_extras,
            refused: &Refused::from(["max_completion_tokens"]),
            session: SessionId::from_u128(7),
        }
        .body(&request)
        .unwrap()
    }

    #[test]
    fn private_fields_go_to_openai_alone() {
        let config = ChatConfig {
            reasoning: Reasoning::High,
            service_tier: Some("priority".to_owned()),
            ..ChatConfig::default()
        };
        let names = ["store", "verbosity", "service_tier", "prompt_cache_key"];
        let openai = shaped(&config, "gpt-6-luna", true);
        assert!(
            names.iter().all(|name| openai.get(*name).is_some()),
            "{openai}"
        );
        assert_eq!(
            (&openai["store"], &openai["verbosity"]),
            (&json!(false), &json!("low"))
        );
        assert_eq!(openai["stream_options"]["include_obfuscation"], false);
        assert!(
            shaped(&config, "gpt-4o-mini", true)
                .get("verbosity")
                .is_none()
        );
        let other = shaped(&config, "gpt-6-luna", false);
        assert!(
            names.iter().all(|name| other.get(*name).is_none()),
            "{other}"
        );
        assert!(other["stream_options"].get("include_obfuscation").is_none());
    }

    #[test]
    fn tools_switch_reasoning_off_where_they_forbid_it() {
        let config = ChatConfig {
            reasoning: Reasoning::High,
            ..ChatConfig::default()
        };
        assert_eq!(
            shaped(&config, "gpt-6-luna", true)["reasoning_effort"],
            "none"
        );
        assert_eq!(shaped(&config, "gpt-5.1", true)["reasoning_effort"], "high");
    }

    #[test]
    fn a_refused_token_cap_is_called_by_its_other_name() {
        let body = shaped(&ChatConfig::default(), "gpt-6-luna", true);
        assert_eq!(body["max_tokens"], 9);
        assert!(body.get("max_completion_tokens").is_none());
    }

    #[test]
    fn cache_keys_differ_between_sessions_and_do_not_name_them() {
        let one = cache_key(SessionId::from_u128(1));
        assert_ne!(one, cache_key(SessionId::from_u128(2)));
        assert_eq!(one, cache_key(SessionId::from_u128(1)));
        assert_eq!(one.len(), 16);
    }
}

//! What a store keeps of a conversation. The names in here are in databases: they may be added to, not changed.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value};

use super::HistorySnapshot;
use crate::{
    id::{CallId, ToolName},
    message::{Attachment, ImageSource, Message, ToolCall},
};

#[derive(Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
enum Stored {
    User {
        text: Arc<str>,
        /// The alternative texts of its images. The pixels are for the turn they came with (H5).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<Option<Arc<str>>>,
    },
    Assistant {
        text: Arc<str>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        calls: Vec<StoredCall>,
        #[serde(default)]
        interrupted: bool,
    },
    Tool {
        call_id: Arc<str>,
        name: Arc<str>,
        content: Arc<str>,
        #[serde(default)]
        is_error: bool,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCall {
    id: Arc<str>,
    name: Arc<str>,
    arguments: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parse_error: Option<String>,
}

/// `None` for system text, which is never stored (M3).
fn stored(message: &Message) -> Option<Stored> {
    Some(match message {
        Message::System { .. } => return None,
        Message::User { text, attachments } => Stored::User {
            text: Arc::clone(text),
            images: attachments.iter().map(|image| image.alt.clone()).collect(),
        },
        Message::Assistant {
            text,
            tool_calls,
            interrupted,
        } => Stored::Assistant {
            text: Arc::clone(text),
            calls: tool_calls
                .iter()
                .map(|call| StoredCall {
                    id: call.call_id.as_str().into(),
                    name: call.name.as_str().into(),
                    arguments: call.arguments.clone(),
                    parse_error: call.parse_error.clone(),
                })
                .collect(),
            interrupted: *interrupted,
        },
        Message::Tool {
            call_id,
            name,
            content,
            is_error,
        } => Stored::Tool {
            call_id: call_id.as_str().into(),
            name: name.as_str().into(),
            content: Arc::clone(content),
            is_error: *is_error,
        },
    })
}

impl From<Stored> for Message {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::User { text, images } => Self::User {
                text,
                attachments: images
                    .into_iter()
                    .map(|alt| Attachment {
                        source: ImageSource::Released,
                        alt,
                    })
                    .collect(),
            },
            Stored::Assistant {
                text,
                calls,
                interrupted,
            } => Self::Assistant {
                text,
                tool_calls: calls
                    .into_iter()
                    .map(|call| ToolCall {
                        call_id: CallId::new(call.id),
                        name: ToolName::new(call.name),
                        arguments: call.arguments,
                        parse_error: call.parse_error,
                    })
                    .collect(),
                interrupted,
            },
            Stored::Tool {
                call_id,
                name,
                content,
                is_error,
            } => Self::Tool {
                call_id: CallId::new(call_id),
                name: ToolName::new(name),
                content,
                is_error,
            },
        }
    }
}

/// As the list of its messages, images as their alternative texts.
impl Serialize for HistorySnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.messages().filter_map(stored))
    }
}

impl<'de> Deserialize<'de> for HistorySnapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let messages: Vec<Stored> = Deserialize::deserialize(deserializer)?;
        let messages: Vec<Message> = messages.into_iter().map(Message::from).collect();
        Self::try_from(messages).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_comes_back_as_it_was_but_for_its_pixels() {
        let stored = json!([
            { "role": "user", "text": "What is this?", "images": ["a cat", null] },
            {
                "role": "assistant",
                "text": "",
                "calls": [{ "id": "c1", "name": "look", "arguments": { "at": [1, "x"] } }],
                "interrupted": false,
            },
            { "role": "tool", "call_id": "c1", "name": "look", "content": "{}", "is_error": true },
            { "role": "assistant", "text": "A cat, and", "interrupted": true },
        ]);
        let snapshot: HistorySnapshot = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&snapshot).unwrap(), stored);
        let roles = snapshot.messages().map(|message| match message {
            Message::User { attachments, .. } => format!("user, {} images", attachments.len()),
            Message::Assistant { interrupted, .. } => format!("assistant, {interrupted}"),
            message => message.text().to_owned(),
        });
        let roles: Vec<String> = roles.collect();
        assert_eq!(
            roles,
            [
                "user, 2 images",
                "assistant, false",
                "{}",
                "assistant, true"
            ]
        );
    }

    #[test]
    fn pixels_are_not_stored() {
        let message = Message::User {
            text: "see".into(),
            attachments: [Attachment {
                source: ImageSource::Inline {
                    media_type: "image/png",
                    data: b"pixels"[..].into(),
                },
                alt: None,
            }]
            .into(),
        };
        let snapshot = HistorySnapshot::try_from(vec![message]).unwrap();
        let stored = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(
            stored,
            json!([{ "role": "user", "text": "see", "images": [null] }])
        );
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for stored in [
            json!([{ "role": "assistant", "text": "first" }]),
            json!([{ "role": "tool", "call_id": "c", "name": "n", "content": "" }]),
            json!([{ "role": "system", "text": "obey" }]),
            json!({}),
        ] {
            assert!(serde_json::from_value::<HistorySnapshot>(stored).is_err());
        }
    }
}

//! Messages of a conversation and the images they carry.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    id::{CallId, ToolName},
    redact::Pii,
};

/// One message. Text is shared, so cloning a history copies pointers. `Debug` shows kinds and lengths only.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// Instructions. At most one per request, always first, never stored (M3).
    System {
        /// The text.
        text: Arc<str>,
    },
    /// What the person said or typed.
    User {
        /// The text.
        text: Arc<str>,
        /// Images that belong to it.
        attachments: Arc<[Attachment]>,
    },
    /// What the model answered.
    Assistant {
        /// The text, possibly empty beside tool calls.
        text: Arc<str>,
        /// Calls requested by this response, in model order.
        tool_calls: Arc<[ToolCall]>,
        /// The text was cut by a barge-in: only this much was heard.
        interrupted: bool,
    },
    /// The result of one tool call.
    Tool {
        /// The call it answers.
        call_id: CallId,
        /// The tool that ran.
        name: ToolName,
        /// The serialised result.
        content: Arc<str>,
        /// The result is an error.
        is_error: bool,
    },
}

impl Message {
    /// A system message.
    pub fn system(text: impl Into<Arc<str>>) -> Self {
        Self::System { text: text.into() }
    }

    /// A user message without images.
    pub fn user(text: impl Into<Arc<str>>) -> Self {
        Self::User {
            text: text.into(),
            attachments: Arc::from([]),
        }
    }

    /// A complete assistant message without tool calls.
    pub fn assistant(text: impl Into<Arc<str>>) -> Self {
        Self::Assistant {
            text: text.into(),
            tool_calls: Arc::from([]),
            interrupted: false,
        }
    }

    /// The text, whatever the role.
    pub fn text(&self) -> &str {
        match self {
            Self::System { text } | Self::User { text, .. } | Self::Assistant { text, .. } => text,
            Self::Tool { content, .. } => content,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { text } => f.debug_tuple("System").field(&Pii(text)).finish(),
            Self::User { text, attachments } => f
                .debug_tuple("User")
                .field(&Pii(text))
                .field(attachments)
                .finish(),
            Self::Assistant {
                text, tool_calls, ..
            } => f
                .debug_tuple("Assistant")
                .field(&Pii(text))
                .field(&tool_calls.len())
                .finish(),
            Self::Tool {
                name,
                content,
                is_error,
                ..
            } => f
                .debug_tuple("Tool")
                .field(name)
                .field(&Pii(content))
                .field(is_error)
                .finish(),
        }
    }
}

/// A tool call requested by the model. Only complete calls exist as this type.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Correlates the result.
    pub call_id: CallId,
    /// The tool wanted.
    pub name: ToolName,
    /// The arguments; `{}` when they were blank or did not parse.
    pub arguments: Map<String, Value>,
    /// Why the arguments did not parse. The call must then be refused, not run with `{}`.
    pub parse_error: Option<String>,
}

/// An image for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where the pixels are.
    pub source: ImageSource,
    /// Alternative text, used when the image itself is no longer sent.
    pub alt: Option<Arc<str>>,
}

/// The pixels of an attachment.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageSource {
    /// Bytes at hand, already checked against their media type.
    Inline {
        /// `image/jpeg`, `image/png`, `image/webp` or `image/gif`.
        media_type: &'static str,
        /// The encoded image.
        data: Bytes,
    },
    /// An address, only where the operator allowed remote images.
    Url(Arc<str>),
    /// The bytes were released after their turn (H5); only the alternative text remains.
    Released,
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline { media_type, data } => {
                write!(f, "Inline({} bytes of {media_type})", data.len())
            }
            Self::Url(_) => f.write_str("Url(..)"),
            Self::Released => f.write_str("Released"),
        }
    }
}

impl ImageSource {
    /// Recognises an image by its magic bytes; `None` for everything a browser would not send as a still.
    pub fn sniff(data: &[u8]) -> Option<&'static str> {
        match data {
            [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some("image/png"),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some("image/webp"),
            _ => None,
        }
    }
}

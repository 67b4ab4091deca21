//! What a client says.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use llmrtc_core::{message::Attachment, redact::Secret};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    AttachmentError, AttachmentPolicy, Channel, ErrorCode, MAX_AUTH_MESSAGE_BYTES,
    MAX_CREDENTIAL_BYTES, MAX_DATA_MESSAGE_BYTES, MAX_DEPTH, MAX_SMALL_MESSAGE_BYTES,
    MAX_TEXT_MESSAGE_BYTES, MAX_TIMESTAMP_BYTES, MAX_WEBSOCKET_MESSAGE_BYTES, Timestamp,
    attachment, pick,
    text::{decode_base64, encode_base64, split_data_uri},
};

/// A message from client to server.
///
/// `Debug` shows the kind and sizes; handles, addresses, voices and faces stay out of logs.
#[derive(Clone)]
#[non_exhaustive]
pub enum ClientMessage {
    /// The client is alive and wants a `pong`.
    Ping {
        /// To be echoed verbatim; absent if the client sent none.
        timestamp: Option<Timestamp>,
    },
    /// An SDP offer. Also read from a message of type `signal`.
    Offer {
        /// The session description, complete with candidates. Not yet checked against its bounds.
        sdp: String,
    },
    /// The client would like its earlier session back.
    Reconnect {
        /// The handle it remembers; `None` if the field was missing, of another type or absurdly long.
        session_id: Option<Secret>,
        /// The token it was given last, if it keeps tokens.
        resume_token: Option<Secret>,
    },
    /// A complete utterance.
    Audio {
        /// The encoded audio, in a container of the client's choice.
        data: Bytes,
        /// Images that belong to it.
        attachments: Vec<Attachment>,
    },
    /// Additive to v1: a question in writing, from somebody who cannot or does not want to speak.
    Text {
        /// What was written; never blank.
        text: String,
    },
    /// Images for the utterance in progress.
    Attachments {
        /// The images.
        attachments: Vec<Attachment>,
    },
    /// Additive to v1: a credential, as the first message of a socket that presented none, or to prolong a session
    /// whose credential is about to expire. Exactly one of the two.
    Auth(Presented),
    /// Additive to v1, on either channel: stop the answer that is being made or spoken, as a voice would.
    Interrupt,
}

/// A credential in a message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Presented {
    /// A token or an API key.
    Token(Secret),
    /// A ticket.
    Ticket(Secret),
}

/// Why a client's message was refused.
///
/// Carries no part of the message, which may hold a credential or a face.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Larger than anything the channel carries. The connection is closed with 1009.
    #[error("message larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// Larger than a message of its type may be: [`MAX_SMALL_MESSAGE_BYTES`] at most.
    #[error("message larger than its type allows")]
    TypeTooLarge,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("message nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Not a JSON object.
    #[error("message is not a JSON object")]
    Malformed,
    /// A required field is missing or has the wrong type.
    #[error("field `{0}` is missing or has the wrong type")]
    Field(&'static str),
    /// `ping.timestamp` is longer than anything that would be sent back.
    #[error("timestamp larger than {MAX_TIMESTAMP_BYTES} bytes")]
    Timestamp,
    /// `audio.data` is not base64.
    #[error("audio is not base64")]
    Audio,
    /// An attachment was refused.
    #[error("attachment refused")]
    Attachment(#[from] AttachmentError),
}

impl ParseError {
    /// What the client is told.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Audio => ErrorCode::InvalidAudioFormat,
            _ => ErrorCode::InvalidMessage,
        }
    }
}

impl ClientMessage {
    /// Reads one message. `None` means: ignore it, because its type is unknown or has no business on `channel`.
    ///
    /// Unknown fields are skipped; a known field that comes twice makes the message malformed. Cost is linear in the length of `text`;
    /// nothing is allocated in proportion to it except the decoded audio and images.
    ///
    /// # Errors
    /// If a limit is exceeded, the text is not a JSON object, or a required field is missing or malformed. A
    /// malformed `reconnect` is no error: it is answered with `success: false`.
    pub fn parse(
        text: &str,
        channel: Channel,
        policy: AttachmentPolicy,
    ) -> Result<Option<Self>, ParseError> {
        let limit_bytes = match channel {
            Channel::WebSocket => MAX_WEBSOCKET_MESSAGE_BYTES,
            Channel::Data => MAX_DATA_MESSAGE_BYTES,
        };
        if text.len() > limit_bytes {
            return Err(ParseError::TooLarge { limit_bytes });
        }
        if !pick::depth_within(text, MAX_DEPTH) {
            return Err(ParseError::TooDeep);
        }
        let [
            kind,
            timestamp,
            signal,
            session_id,
            resume_token,
            data,
            attachments,
            token,
            ticket,
            written,
        ] = pick::fields(
            text,
            [
                "type",
                "timestamp",
                "signal",
                "sessionId",
                "resumeToken",
                "data",
                "attachments",
                "token",
                "ticket",
                "text",
            ],
        )
        .map_err(|_| ParseError::Malformed)?;
        let kind = kind
            .and_then(pick::string)
            .ok_or(ParseError::Field("type"))?;

        let carries_media = match channel {
            Channel::WebSocket => kind == "audio",
            Channel::Data => kind == "attachments",
        };
        if !carries_media && text.len() > MAX_SMALL_MESSAGE_BYTES {
            return Err(ParseError::TypeTooLarge);
        }
        Ok(Some(match (channel, kind.as_ref()) {
            (Channel::WebSocket, "ping") => Self::Ping {
                timestamp: timestamp.map(Timestamp::from_raw).transpose()?,
            },
            (Channel::WebSocket, "offer" | "signal") => Self::Offer {
                sdp: parse_offer(signal)?,
            },
            (Channel::WebSocket, "reconnect") => Self::Reconnect {
                session_id: session_id.and_then(parse_credential),
                resume_token: resume_token.and_then(parse_credential),
            },
            (Channel::WebSocket, "audio") => Self::Audio {
                data: parse_audio(data)?,
                attachments: attachment::parse(attachments, policy)?,
            },
            (Channel::WebSocket, "text") => Self::Text {
                text: parse_written(text, written)?,
            },
            (Channel::WebSocket, "auth") => Self::Auth(parse_auth(text, token, ticket)?),
            (Channel::Data, "attachments") => Self::Attachments {
                attachments: attachment::parse(
                    Some(attachments.ok_or(ParseError::Field("attachments"))?),
                    policy,
                )?,
            },
            (_, "interrupt") => Self::Interrupt,
            _ => return Ok(None),
        }))
    }

    /// The message as JSON, for the client end.
    pub fn to_json(&self) -> String {
        let wire = match self {
            Self::Ping { timestamp } => Wire::Ping {
                timestamp: timestamp.as_ref(),
            },
            Self::Offer { sdp } => Wire::Offer {
                signal: WireOffer { kind: "offer", sdp },
            },
            Self::Reconnect {
                session_id,
                resume_token,
            } => Wire::Reconnect {
                session_id: session_id.as_ref().map(Secret::expose),
                resume_token: resume_token.as_ref().map(Secret::expose),
            },
            Self::Audio { data, attachments } => Wire::Audio {
                data: encode_base64(data),
                attachments: attachment::to_wire(attachments),
            },
            Self::Text { text } => Wire::Text { text },
            Self::Attachments { attachments } => Wire::Attachments {
                attachments: attachment::to_wire(attachments),
            },
            Self::Auth(Presented::Token(token)) => Wire::Auth {
                token: Some(token.expose()),
                ticket: None,
            },
            Self::Auth(Presented::Ticket(ticket)) => Wire::Auth {
                token: None,
                ticket: Some(ticket.expose()),
            },
            Self::Interrupt => Wire::Interrupt,
        };
        serde_json::to_string(&wire).expect("strings, lists and raw JSON always serialize")
    }

    /// The message's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "ping",
            Self::Offer { .. } => "offer",
            Self::Reconnect { .. } => "reconnect",
            Self::Audio { .. } => "audio",
            Self::Text { .. } => "text",
            Self::Attachments { .. } => "attachments",
            Self::Auth(_) => "auth",
            Self::Interrupt => "interrupt",
        }
    }
}

/// `signal: {type: "offer", sdp}`.
fn parse_offer(signal: Option<&RawValue>) -> Result<String, ParseError> {
    let signal = signal.ok_or(ParseError::Field("signal"))?;
    let [kind, sdp] =
        pick::fields(signal.get(), ["type", "sdp"]).map_err(|_| ParseError::Field("signal"))?;
    if kind.and_then(pick::string).as_deref() != Some("offer") {
        return Err(ParseError::Field("signal.type"));
    }
    sdp.and_then(pick::string)
        .map(Cow::into_owned)
        .ok_or(ParseError::Field("signal.sdp"))
}

fn parse_credential(raw: &RawValue) -> Option<Secret> {
    pick::string(raw)
        .filter(|text| !text.is_empty() && text.len() <= MAX_CREDENTIAL_BYTES)
        .map(|text| Secret::new(text.into_owned()))
}

fn parse_auth(
    text: &str,
    token: Option<&RawValue>,
    ticket: Option<&RawValue>,
) -> Result<Presented, ParseError> {
    if text.len() > MAX_AUTH_MESSAGE_BYTES {
        return Err(ParseError::TypeTooLarge);
    }
    let secret = |raw: &RawValue, field| {
        pick::string(raw)
            .filter(|text| !text.is_empty())
            .map(|text| Secret::new(text.into_owned()))
            .ok_or(ParseError::Field(field))
    };
    match (token, ticket) {
        (Some(token), None) => secret(token, "token").map(Presented::Token),
        (None, Some(ticket)) => secret(ticket, "ticket").map(Presented::Ticket),
        _ => Err(ParseError::Field("token")),
    }
}

/// A text that says something. `message` is the whole message, whose size is bounded.
fn parse_written(message: &str, written: Option<&RawValue>) -> Result<String, ParseError> {
    if message.len() > MAX_TEXT_MESSAGE_BYTES {
        return Err(ParseError::TypeTooLarge);
    }
    written
        .and_then(pick::string)
        .filter(|text| !text.trim().is_empty())
        .map(Cow::into_owned)
        .ok_or(ParseError::Field("text"))
}

/// Base64, or a `data:` URI around it as `FileReader.readAsDataURL` makes it.
fn parse_audio(data: Option<&RawValue>) -> Result<Bytes, ParseError> {
    let text = data
        .and_then(pick::string)
        .ok_or(ParseError::Field("data"))?;
    let encoded = split_data_uri(&text).map_or(text.as_ref(), |(_, encoded)| encoded);
    // The message's own limit bounds the result.
    decode_base64(encoded, MAX_WEBSOCKET_MESSAGE_BYTES).map_err(|_| ParseError::Audio)
}

#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
enum Wire<'a> {
    Ping {
        #[serde(skip_serializing_if = "Option::is_none")]
        timestamp: Option<&'a Timestamp>,
    },
    Offer {
        signal: WireOffer<'a>,
    },
    Reconnect {
        session_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume_token: Option<&'a str>,
    },
    Audio {
        data: String,
        attachments: Vec<attachment::WireAttachment<'a>>,
    },
    Text {
        text: &'a str,
    },
    Attachments {
        attachments: Vec<attachment::WireAttachment<'a>>,
    },
    Auth {
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ticket: Option<&'a str>,
    },
    Interrupt,
}

#[derive(Serialize)]
struct WireOffer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sdp: &'a str,
}

impl fmt::Debug for ClientMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct(self.kind());
        match self {
            Self::Ping { timestamp } => shown.field("timestamp", timestamp),
            Self::Offer { sdp } => shown.field("sdp_bytes", &sdp.len()),
            Self::Reconnect {
                session_id,
                resume_token,
            } => shown
                .field("session_id", session_id)
                .field("resume_token", resume_token),
            Self::Audio { data, attachments } => shown
                .field("bytes", &data.len())
                .field("attachments", &attachments.len()),
            Self::Text { text } => shown.field("bytes", &text.len()),
            Self::Attachments { attachments } => shown.field("attachments", &attachments.len()),
            Self::Auth(Presented::Token(_)) => shown.field("method", &"token"),
            Self::Auth(Presented::Ticket(_)) => shown.field("method", &"ticket"),
            Self::Interrupt => &mut shown,
        };
        shown.finish()
    }
}

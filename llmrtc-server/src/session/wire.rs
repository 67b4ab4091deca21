//! From turn events to wire messages: the one place where the engine's words become the protocol's.

use llmrtc_core::{
    hooks::ErrorContext,
    turn::{Outcome, TurnError, TurnEvent},
};
use llmrtc_signal::protocol::{ErrorCode, ServerMessage};

/// Longest text and largest tool result of one message, in bytes. Even quoted twice over they fit the 64 KiB that a
/// data channel takes whose client announced nothing.
const MAX_PAYLOAD_BYTES: usize = 24 * 1024;

/// What the client is told about an event, in order.
///
/// Turn boundaries themselves are not part of the protocol; a failed turn becomes one `error`, which quotes
/// `reference` so that the caller's complaint and the operator's log line find each other.
pub(crate) fn messages(event: TurnEvent, reference: &str) -> Vec<ServerMessage> {
    match event {
        TurnEvent::UserSpeechStarted => vec![ServerMessage::SpeechStart],
        TurnEvent::UserSpeechEnded => vec![ServerMessage::SpeechEnd],
        TurnEvent::Transcript { text, is_final, .. } => {
            vec![ServerMessage::Transcript {
                text: bounded(&text),
                is_final,
            }]
        }
        TurnEvent::LlmDelta { text, .. } => {
            vec![ServerMessage::LlmChunk {
                content: text.to_string(),
                done: false,
            }]
        }
        TurnEvent::LlmDone { text, .. } => vec![
            ServerMessage::LlmChunk {
                content: String::new(),
                done: true,
            },
            ServerMessage::Llm {
                text: bounded(&text),
            },
        ],
        TurnEvent::SpeechStarted { .. } => vec![ServerMessage::TtsStart],
        TurnEvent::SpeechEnded { .. } => vec![ServerMessage::TtsComplete],
        TurnEvent::SpeechCancelled { .. } => vec![ServerMessage::TtsCancelled],
        TurnEvent::ToolStarted { call, .. } => vec![ServerMessage::ToolCallStart {
            name: call.name.to_string(),
            call_id: call.call_id.to_string(),
            arguments: call.arguments,
        }],
        TurnEvent::ToolEnded {
            call,
            result,
            duration,
            ..
        } => {
            let (result, error) = match result {
                Ok(value) if value.to_string().len() > MAX_PAYLOAD_BYTES => {
                    (None, Some("the result is too large to show".to_owned()))
                }
                Ok(value) => (Some(value), None),
                Err(failure) => (None, Some(failure.message)),
            };
            vec![ServerMessage::ToolCallEnd {
                call_id: call.call_id.to_string(),
                result,
                error,
                duration_ms: duration.as_millis() as u64,
            }]
        }
        TurnEvent::StageChanged { from, to, reason } => vec![ServerMessage::StageChange {
            from: from.to_string(),
            to: to.to_string(),
            reason: reason.to_string(),
        }],
        TurnEvent::TurnEnded {
            outcome: Outcome::Failed(error),
            ..
        } => {
            vec![ServerMessage::error_with_reference(code(&error), reference)]
        }
        _ => Vec::new(),
    }
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_PAYLOAD_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_PAYLOAD_BYTES)])
}

/// The protocol's code for a failed turn. Causes and vendor bodies stay in the log.
pub(crate) fn code(error: &TurnError) -> ErrorCode {
    let name = ErrorContext::of(error).code;
    ErrorCode::ALL
        .iter()
        .copied()
        .find(|code| code.as_str() == name)
        .unwrap_or(ErrorCode::InternalError)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use llmrtc_core::{
        id::TurnId,
        provider::{ErrorKind, Phase, ProviderError},
        turn::{Component, TurnTiming},
    };

    use super::*;

    #[test]
    fn a_failed_turn_is_one_error_with_a_code_and_no_vendor_text() {
        let vendor = "vendor body with https://internal.example/key=1";
        let table = [
            (
                Component::Stt,
                ErrorKind::Timeout(Phase::Total),
                "STT_TIMEOUT",
            ),
            (Component::Llm, ErrorKind::Disconnected, "LLM_ERROR"),
            (Component::Llm, ErrorKind::RateLimited, "RATE_LIMITED"),
            (
                Component::Tts,
                ErrorKind::Timeout(Phase::FirstEvent),
                "TTS_TIMEOUT",
            ),
            (
                Component::Stt,
                ErrorKind::InvalidInput,
                "INVALID_AUDIO_FORMAT",
            ),
        ];
        for (component, kind, expected) in table {
            let source = ProviderError::new(kind, "vendor", vendor);
            let error = Arc::new(TurnError::Provider { component, source });
            let event = TurnEvent::TurnEnded {
                turn: TurnId(3),
                outcome: Outcome::Failed(error),
                timing: TurnTiming::default(),
            };
            let messages = messages(event, "7f3a");
            let [ServerMessage::Error { code, message, .. }] = messages.as_slice() else {
                panic!("{messages:?}");
            };
            assert_eq!(code.as_str(), expected);
            assert!(
                message.contains("7f3a") && !message.contains("vendor"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_end_of_the_text_is_a_marker_and_the_whole() {
        let event = TurnEvent::LlmDone {
            turn: TurnId(1),
            text: "Hi.".into(),
            stop_reason: llmrtc_core::provider::StopReason::EndTurn,
            usage: Default::default(),
        };
        let messages = messages(event, "7f3a");
        assert!(matches!(
            messages.as_slice(),
            [
                ServerMessage::LlmChunk { done: true, .. },
                ServerMessage::Llm { .. }
            ]
        ));
    }

    #[test]
    fn what_no_data_channel_takes_is_cut_and_said_to_be() {
        let text = "ä".repeat(40_000);
        let event = TurnEvent::LlmDone {
            turn: TurnId(1),
            text: text.into(),
            stop_reason: llmrtc_core::provider::StopReason::EndTurn,
            usage: Default::default(),
        };
        let sizes = messages(event, "")
            .iter()
            .map(|message| message.to_json().len())
            .max();
        assert!(sizes.unwrap() < 64 * 1024);
        let call = llmrtc_core::message::ToolCall {
            call_id: "c".into(),
            name: "t".into(),
            arguments: Default::default(),
            parse_error: None,
        };
        let event = TurnEvent::ToolEnded {
            turn: TurnId(1),
            call,
            result: Ok("x".repeat(100_000).into()),
            duration: Default::default(),
        };
        assert!(matches!(
            messages(event, "").as_slice(),
            [ServerMessage::ToolCallEnd {
                result: None,
                error: Some(_),
                ..
            }]
        ));
    }
}

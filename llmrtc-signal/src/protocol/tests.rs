//! Every message in both directions, and everything that is none.

use std::collections::HashSet;

use llmrtc_core::{
    audio::AudioFormat,
    message::{Attachment, ImageSource},
    redact::Secret,
};
use serde_json::json;

use super::*;

fn attachment() -> Attachment {
    Attachment {
        source: ImageSource::Inline {
            media_type: "image/jpeg",
            data: [0xFF, 0xD8, 0xFF, 0xE0].as_slice().into(),
        },
        alt: Some("camera frame".into()),
    }
}

fn client_messages() -> Vec<(Channel, ClientMessage)> {
    use ClientMessage::*;
    let ws = |message| (Channel::WebSocket, message);
    vec![
        ws(Ping {
            timestamp: Some(1_767_000_000_123.into()),
        }),
        ws(Ping { timestamp: None }),
        ws(Offer {
            sdp: "v=0\r\n".into(),
        }),
        ws(Reconnect {
            session_id: Some(Secret::new("0f0c3c0e")),
            resume_token: None,
        }),
        ws(Reconnect {
            session_id: Some(Secret::new("0f0c3c0e")),
            resume_token: Some(Secret::new("token")),
        }),
        ws(Reconnect {
            session_id: None,
            resume_token: None,
        }),
        ws(Audio {
            data: b"RIFF".as_slice().into(),
            attachments: vec![],
        }),
        ws(Audio {
            data: b"RIFF".as_slice().into(),
            attachments: vec![attachment()],
        }),
        ws(Text {
            text: "Book a \"table\".".into(),
        }),
        (
            Channel::Data,
            Attachments {
                attachments: vec![attachment()],
            },
        ),
        ws(Auth(Presented::Token(Secret::new("token")))),
        ws(Auth(Presented::Ticket(Secret::new("ticket")))),
        ws(Interrupt),
        (Channel::Data, Interrupt),
    ]
}

fn server_messages() -> Vec<ServerMessage> {
    use ServerMessage::*;
    let text = String::from;
    vec![
        Ready {
            id: Secret::new("0f0c3c0e"),
            protocol_version: PROTOCOL_VERSION,
            ice_servers: vec![
                IceServer::new(vec![text("stun:voice.example.net:3478")], None, None).unwrap(),
                IceServer::new(
                    vec![text("turn:turn.example.net:3478?transport=udp")],
                    Some(text("1767003600:u7")),
                    Some(Secret::new("c2VjcmV0")),
                )
                .unwrap(),
            ],
            mode: Some(Mode::Pipeline),
            resume_token: Some(Secret::new("token")),
        },
        Ready {
            id: Secret::new("0f0c3c0e"),
            protocol_version: PROTOCOL_VERSION,
            ice_servers: vec![],
            mode: None,
            resume_token: None,
        },
        Pong {
            timestamp: Some(1_767_000_000_123.into()),
        },
        Pong { timestamp: None },
        Signal {
            sdp: text("v=0\r\n"),
        },
        ReconnectAck {
            success: true,
            session_id: Secret::new("0f0c3c0e"),
            history_recovered: true,
            resume_token: Some(Secret::new("token")),
        },
        ReconnectAck {
            success: false,
            session_id: Secret::new("0f0c3c0e"),
            history_recovered: false,
            resume_token: None,
        },
        AuthExpiring {
            expires_in_ms: 60_000,
        },
        AuthRefreshed {
            expires_in_ms: Some(3_600_000),
        },
        SpeechStart,
        SpeechEnd,
        Transcript {
            text: text("book a table for"),
            is_final: false,
        },
        Transcript {
            text: text("Book a table for two at seven."),
            is_final: true,
        },
        LlmChunk {
            content: text("Sure, "),
            done: false,
        },
        LlmChunk {
            content: String::new(),
            done: true,
        },
        Llm {
            text: text("Sure, checking the calendar now."),
        },
        TtsStart,
        TtsChunk {
            format: AudioFormat::Pcm,
            sample_rate: Some(24_000),
            data: [0, 0, 1, 0].as_slice().into(),
        },
        Tts {
            format: AudioFormat::Mp3,
            data: b"ID3".as_slice().into(),
        },
        TtsComplete,
        TtsCancelled,
        ToolCallStart {
            name: text("find_table"),
            call_id: text("call_71"),
            arguments: serde_json::from_value(json!({"party": 2, "time": "19:00"})).unwrap(),
        },
        ToolCallEnd {
            call_id: text("call_71"),
            result: Some(json!({"table": "B4"})),
            error: None,
            duration_ms: 184,
        },
        ToolCallEnd {
            call_id: text("call_72"),
            result: None,
            error: Some(text("timed out")),
            duration_ms: 30_001,
        },
        StageChange {
            from: text("greeting"),
            to: text("booking"),
            reason: text("guest wants to book"),
        },
        AssistantTranscript {
            text: text("Table B4 is"),
            is_final: false,
        },
        Usage {
            input_tokens: 412,
            output_tokens: 96,
            audio_input_tokens: Some(300),
            audio_output_tokens: Some(80),
            cached_tokens: Some(128),
        },
        Usage {
            input_tokens: 0,
            output_tokens: 0,
            audio_input_tokens: None,
            audio_output_tokens: None,
            cached_tokens: None,
        },
        ModeChanged {
            mode: Mode::Realtime,
        },
        ServerMessage::error(ErrorCode::LlmTimeout),
        ServerMessage::error_with_reference(ErrorCode::ContentBlocked, "7f3a"),
        ServerMessage::rate_limited(std::time::Duration::from_micros(1_500)),
    ]
}

fn parse(text: &str) -> Result<Option<ClientMessage>, ParseError> {
    ClientMessage::parse(text, Channel::WebSocket, AttachmentPolicy::default())
}

#[test]
fn client_messages_keep_their_form() {
    let lines: Vec<_> = client_messages()
        .iter()
        .map(|(_, message)| message.to_json())
        .collect();
    insta::assert_snapshot!("client_messages", lines.join("\n"));
}

#[test]
fn a_credential_is_one_text_of_bounded_size() {
    let long = format!(
        r#"{{"type":"auth","token":"{}"}}"#,
        "a".repeat(MAX_AUTH_MESSAGE_BYTES)
    );
    let field = ParseError::Field("token");
    for (text, error) in [
        (r#"{"type":"auth"}"#, field),
        (r#"{"type":"auth","token":""}"#, field),
        (r#"{"type":"auth","token":7}"#, field),
        (r#"{"type":"auth","token":"a","ticket":"b"}"#, field),
        (long.as_str(), ParseError::TypeTooLarge),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{}", &text[..30]);
    }
    let text = r#"{"type":"auth","token":"a"}"#;
    let elsewhere = ClientMessage::parse(text, Channel::Data, AttachmentPolicy::default());
    assert!(elsewhere.unwrap().is_none());
}

#[test]
fn a_question_in_writing_is_a_text_of_bounded_size_that_says_something() {
    let long = format!(
        r#"{{"type":"text","text":"{}"}}"#,
        "a".repeat(MAX_TEXT_MESSAGE_BYTES)
    );
    let field = ParseError::Field("text");
    for (text, error) in [
        (r#"{"type":"text"}"#, field),
        (r#"{"type":"text","text":""}"#, field),
        (r#"{"type":"text","text":" \n"}"#, field),
        (r#"{"type":"text","text":["a"]}"#, field),
        (long.as_str(), ParseError::TypeTooLarge),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{text:.30}");
    }
    let text = r#"{"type":"text","text":"a secret wish"}"#;
    let message = parse(text).unwrap().unwrap();
    assert_eq!(format!("{message:?}"), "text { bytes: 13 }");
    let elsewhere = ClientMessage::parse(text, Channel::Data, AttachmentPolicy::default());
    assert!(elsewhere.unwrap().is_none());
}

#[test]
fn f3_a_field_that_comes_twice_is_refused() {
    for text in [
        r#"{"type":"ping","type":"offer"}"#,
        r#"{"type":"reconnect","sessionId":"a","sessionId":"b"}"#,
        r#"{"type":"ping","\u0074ype":"ping"}"#,
        r#"{"type":"offer","signal":{"type":"offer","sdp":"a","sdp":"b"}}"#,
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(r#"{"type":"ping","x":1,"x":2}"#).unwrap().is_some());
}

#[test]
fn server_messages_keep_their_form() {
    let lines: Vec<_> = server_messages()
        .iter()
        .map(ServerMessage::to_json)
        .collect();
    insta::assert_snapshot!("server_messages", lines.join("\n"));

    let kinds: HashSet<_> = server_messages().iter().map(ServerMessage::kind).collect();
    assert_eq!(
        kinds.len(),
        23,
        "every type of the protocol stands in the snapshot"
    );
    for message in server_messages() {
        assert!(
            message
                .to_json()
                .starts_with(&format!("{{\"type\":\"{}\"", message.kind()))
        );
    }
}

#[test]
fn both_ends_read_what_the_other_writes() {
    for (channel, message) in client_messages() {
        let json = message.to_json();
        let read = ClientMessage::parse(&json, channel, AttachmentPolicy::default());
        assert_eq!(read.unwrap().unwrap().to_json(), json);
    }
    for message in server_messages() {
        let json = message.to_json();
        assert_eq!(ServerMessage::parse(&json).unwrap().to_json(), json);
    }
}

#[test]
fn absent_fields_read_as_the_stock_client_reads_them() {
    for (sparse, full) in [
        (
            r#"{"type":"transcript","text":"a"}"#,
            r#"{"type":"transcript","text":"a","isFinal":true}"#,
        ),
        (
            r#"{"type":"ready","id":"a"}"#,
            r#"{"type":"ready","id":"a","protocolVersion":0}"#,
        ),
        (
            r#"{"type":"tts","data":"AA=="}"#,
            r#"{"type":"tts","format":"mp3","data":"AA=="}"#,
        ),
        (
            r#"{"type":"tts-chunk","data":""}"#,
            r#"{"type":"tts-chunk","format":"pcm","data":""}"#,
        ),
        (
            r#"{"type":"usage","x":{}}"#,
            r#"{"type":"usage","inputTokens":0,"outputTokens":0}"#,
        ),
        (
            r#"{"type":"error","code":"X"}"#,
            r#"{"type":"error","code":"INTERNAL_ERROR","message":""}"#,
        ),
    ] {
        assert_eq!(ServerMessage::parse(sparse).unwrap().to_json(), full);
    }
    assert!(matches!(
        ServerMessage::parse(r#"{"type":"new","a":1}"#),
        Ok(ServerMessage::Unknown)
    ));
    for bad in ["", "[]", "{}", "{\"type\":\"llm\"}", "{\"type\":1}"] {
        assert!(ServerMessage::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_timestamp_of_any_type_comes_back_verbatim() {
    for timestamp in [
        "1767000000123",
        "1.50",
        "1e999",
        "-0",
        "\"now\"",
        "\"\\ud800\"",
        "null",
        "{\"a\": [1, 2]}",
        "true",
    ] {
        let ping = format!("{{\"type\":\"ping\",\"timestamp\":{timestamp}}}");
        let Ok(Some(ClientMessage::Ping {
            timestamp: Some(read),
        })) = parse(&ping)
        else {
            panic!("{ping}");
        };
        let pong = ServerMessage::Pong {
            timestamp: Some(read),
        }
        .to_json();
        assert_eq!(
            pong,
            format!("{{\"type\":\"pong\",\"timestamp\":{timestamp}}}")
        );
    }
}

#[test]
fn a_timestamp_has_a_bound() {
    let ping = |bytes: usize| {
        let text = "t".repeat(bytes - 2);
        parse(&format!("{{\"type\":\"ping\",\"timestamp\":\"{text}\"}}"))
    };
    assert!(matches!(
        ping(MAX_TIMESTAMP_BYTES),
        Ok(Some(ClientMessage::Ping { timestamp: Some(_) }))
    ));
    let error = ping(MAX_TIMESTAMP_BYTES + 1).unwrap_err();
    assert_eq!(error, ParseError::Timestamp);
    assert_eq!(error.code(), ErrorCode::InvalidMessage);
}

#[test]
fn the_examples_of_the_specification_are_read() {
    for (text, kind) in [
        (r#"{"type":"ping","timestamp":1767000000123}"#, "ping"),
        (
            r#"{"type":"offer","signal":{"type":"offer","sdp":"v=0\r\no=- 41 2 IN IP4 127.0.0.1\r\n"}}"#,
            "offer",
        ),
        (
            r#"{"signal":{"sdp":"v=0","type":"offer"},"type":"signal"}"#,
            "offer",
        ),
        (
            r#"{"type":"reconnect","sessionId":"0f0c3c0e-7f0e-4a55-9b1f-3d9f5a1d2c77"}"#,
            "reconnect",
        ),
        (
            r#"{"type":"audio","data":"UklGRiQAAABXQVZF","attachments":[]}"#,
            "audio",
        ),
        (
            r#"{"type":"audio","data":"data:audio/webm;codecs=opus;base64,UklGRg=="}"#,
            "audio",
        ),
    ] {
        assert_eq!(parse(text).unwrap().unwrap().kind(), kind, "{text}");
    }
}

#[test]
fn unknown_types_and_types_on_the_wrong_channel_are_ignored() {
    for (channel, text) in [
        (Channel::WebSocket, r#"{"type":"candidate","candidate":{}}"#),
        (Channel::WebSocket, r#"{"type":""}"#),
        (
            Channel::WebSocket,
            r#"{"type":"attachments","attachments":7}"#,
        ),
        (Channel::Data, r#"{"type":"ping"}"#),
        (Channel::Data, r#"{"type":"offer"}"#),
        (Channel::Data, r#"{"type":"audio","data":"UklGRg=="}"#),
    ] {
        let read = ClientMessage::parse(text, channel, AttachmentPolicy::default());
        assert!(matches!(read, Ok(None)), "{text}: {read:?}");
    }
}

#[test]
fn malformed_resumes_are_answered_not_refused() {
    let long = format!("\"{}\"", "a".repeat(MAX_CREDENTIAL_BYTES + 1));
    for id in [
        "null",
        "7",
        "{}",
        "[]",
        "\"\"",
        "\"\\ud800\"",
        long.as_str(),
    ] {
        let read = parse(&format!("{{\"type\":\"reconnect\",\"sessionId\":{id}}}"));
        assert!(
            matches!(
                read,
                Ok(Some(ClientMessage::Reconnect {
                    session_id: None,
                    ..
                }))
            ),
            "{id}: {read:?}"
        );
    }
}

#[test]
fn f3_torture_table() {
    use ParseError::*;

    let large = |kind: &str, bytes: usize| {
        format!("{{\"type\":\"{kind}\",\"data\":\"{}\"}}", "A".repeat(bytes))
    };
    let limit_bytes = MAX_WEBSOCKET_MESSAGE_BYTES;
    for (text, error) in [
        // Not JSON, or not an object.
        ("".into(), Malformed),
        (" ".into(), Malformed),
        ("hello".into(), Malformed),
        ("{".into(), Malformed),
        ("{\"type\":\"ping\"".into(), Malformed),
        ("{\"type\":\"ping\",}".into(), Malformed),
        ("{\"type\":\"ping\"}{".into(), Malformed),
        ("{'type':'ping'}".into(), Malformed),
        ("{type:\"ping\"}".into(), Malformed),
        ("{\"type\":\"ping\",\"timestamp\":01}".into(), Malformed),
        ("{\"type\":\"ping\",\"timestamp\":NaN}".into(), Malformed),
        ("{\"type\":\"ping\",\"timestamp\":+1}".into(), Malformed),
        ("{\"type\":\"ping\",\"\\ud800\":1}".into(), Malformed),
        ("{\"type\":\"ping\",\"x\":\"\\x\"}".into(), Malformed),
        ("{\"type\":\"ping\",\"x\":\"\u{1}\"}".into(), Malformed),
        ("\u{feff}{\"type\":\"ping\"}".into(), Malformed),
        ("\0".repeat(1000), Malformed),
        ("[]".into(), Malformed),
        ("[{\"type\":\"ping\"}]".into(), Malformed),
        ("null".into(), Malformed),
        ("true".into(), Malformed),
        ("42".into(), Malformed),
        ("1e400".into(), Malformed),
        ("\"ping\"".into(), Malformed),
        // An object, but of what?
        ("{}".into(), Field("type")),
        ("{\"Type\":\"ping\"}".into(), Field("type")),
        ("{\"type\":null}".into(), Field("type")),
        ("{\"type\":1}".into(), Field("type")),
        ("{\"type\":[\"ping\"]}".into(), Field("type")),
        ("{\"type\":\"\\udc00\"}".into(), Field("type")),
        ("{\"type\":\"ping\",\"type\":7}".into(), Malformed),
        // Offers.
        ("{\"type\":\"offer\"}".into(), Field("signal")),
        (
            "{\"type\":\"offer\",\"signal\":null}".into(),
            Field("signal"),
        ),
        (
            "{\"type\":\"offer\",\"signal\":\"v=0\"}".into(),
            Field("signal"),
        ),
        ("{\"type\":\"offer\",\"signal\":[]}".into(), Field("signal")),
        (
            "{\"type\":\"offer\",\"signal\":{}}".into(),
            Field("signal.type"),
        ),
        (
            "{\"type\":\"signal\",\"signal\":{\"type\":\"answer\",\"sdp\":\"\"}}".into(),
            Field("signal.type"),
        ),
        (
            "{\"type\":\"offer\",\"signal\":{\"type\":\"offer\"}}".into(),
            Field("signal.sdp"),
        ),
        (
            "{\"type\":\"offer\",\"signal\":{\"type\":\"offer\",\"sdp\":1}}".into(),
            Field("signal.sdp"),
        ),
        (
            "{\"type\":\"offer\",\"signal\":{\"type\":\"offer\",\"sdp\":\"\\ud834\"}}".into(),
            Field("signal.sdp"),
        ),
        // Audio.
        ("{\"type\":\"audio\"}".into(), Field("data")),
        ("{\"type\":\"audio\",\"data\":null}".into(), Field("data")),
        (
            "{\"type\":\"audio\",\"data\":{\"0\":82}}".into(),
            Field("data"),
        ),
        ("{\"type\":\"audio\",\"data\":\"not base64\"}".into(), Audio),
        (
            "{\"type\":\"audio\",\"data\":\"data:audio/wav,RIFF\"}".into(),
            Audio,
        ),
        (
            "{\"type\":\"audio\",\"data\":\"\",\"attachments\":\"x\"}".into(),
            Attachment(AttachmentError::Shape),
        ),
        (
            "{\"type\":\"audio\",\"data\":\"\",\"attachments\":{}}".into(),
            Attachment(AttachmentError::Shape),
        ),
        // Sizes and depths.
        (large("ping", MAX_SMALL_MESSAGE_BYTES), TypeTooLarge),
        (large("offer", MAX_SMALL_MESSAGE_BYTES), TypeTooLarge),
        (large("attachments", MAX_SMALL_MESSAGE_BYTES), TypeTooLarge),
        (large("unheard-of", MAX_SMALL_MESSAGE_BYTES), TypeTooLarge),
        (large("audio", 20 * 1024 * 1024), TooLarge { limit_bytes }),
        ("[".repeat(100_000), TooDeep),
        ("{\"a\":".repeat(100_000), TooDeep),
        (
            format!(
                "{{\"type\":\"ping\",\"timestamp\":{}{}}}",
                "[".repeat(32),
                "]".repeat(32)
            ),
            TooDeep,
        ),
    ] {
        let read = parse(&text).map(|message| message.map(|message| message.kind()));
        assert_eq!(read, Err(error), "{text:.80}");
    }

    let at_the_limit = format!(
        "{{\"type\":\"ping\",\"timestamp\":{}{}}}",
        "[".repeat(31),
        "]".repeat(31)
    );
    assert!(matches!(
        parse(&at_the_limit),
        Ok(Some(ClientMessage::Ping { .. }))
    ));
    let on_data = large("audio", MAX_SMALL_MESSAGE_BYTES);
    let read = ClientMessage::parse(&on_data, Channel::Data, AttachmentPolicy::default());
    assert!(
        matches!(read, Err(TypeTooLarge)),
        "audio has no business on the data channel"
    );
    let Ok(Some(ClientMessage::Audio { data, .. })) = parse(&large("audio", 12 * 1024 * 1024))
    else {
        panic!("long utterances are welcome");
    };
    assert_eq!(data.len(), 9 * 1024 * 1024);
}

#[test]
fn nothing_personal_is_printed() {
    let canary = "canary";
    let messages = [
        format!("{:?}", ClientMessage::Offer { sdp: canary.into() }),
        format!(
            "{:?}",
            ClientMessage::Reconnect {
                session_id: Some(Secret::new(canary)),
                resume_token: Some(Secret::new(canary)),
            }
        ),
        format!(
            "{:?}",
            ClientMessage::Ping {
                timestamp: Some(serde_json::from_str("\"canary\"").unwrap())
            }
        ),
        format!(
            "{:?}",
            ServerMessage::Llm {
                text: canary.into()
            }
        ),
        format!("{:?}", ServerMessage::Signal { sdp: canary.into() }),
        format!(
            "{:?}",
            ServerMessage::Error {
                code: ErrorCode::SttError,
                message: canary.into(),
                retry_after_ms: None,
            }
        ),
    ];
    for shown in messages {
        assert!(!shown.contains(canary), "{shown}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            for channel in [Channel::WebSocket, Channel::Data] {
                let _ = ClientMessage::parse(&text, channel, AttachmentPolicy { allow_urls: true });
            }
        }

        #[test]
        fn sdp_and_audio_survive_the_wire(sdp in "\\PC{0,200}", data in prop::collection::vec(any::<u8>(), 0..300)) {
            let Ok(Some(ClientMessage::Offer { sdp: read })) =
                parse(&ClientMessage::Offer { sdp: sdp.clone() }.to_json())
            else {
                panic!("offer")
            };
            prop_assert_eq!(read, sdp);
            let audio = ClientMessage::Audio { data: data.clone().into(), attachments: vec![] };
            let Ok(Some(ClientMessage::Audio { data: read, .. })) = parse(&audio.to_json()) else {
                panic!("audio")
            };
            prop_assert_eq!(read, data);
        }
    }
}

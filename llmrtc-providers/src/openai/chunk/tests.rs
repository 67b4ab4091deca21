use proptest::prelude::*;

use super::*;
use crate::sse::SseDecoder;

/// Folds frames into lines that read like the response.
fn fold(frames: &[&str]) -> Result<Vec<String>, FrameError> {
    let mut decoder = ChatDecoder::default();
    for frame in frames {
        decoder.event(&SseEvent {
            event: None,
            data: (*frame).to_owned(),
        })?;
    }
    decoder.transport_ended();
    Ok(std::iter::from_fn(|| decoder.next_chunk())
        .map(line)
        .collect())
}

fn line(chunk: LlmChunk) -> String {
    match chunk {
        LlmChunk::Text(text) => format!("text {text}"),
        LlmChunk::Reasoning(text) => format!("reasoning {text}"),
        LlmChunk::ToolCallBegun { index, name, .. } => format!("begun {index} {name}"),
        LlmChunk::ToolCall(call) => {
            let arguments = Value::Object(call.arguments);
            let error = call.parse_error.map(|error| format!(" !{error}"));
            format!(
                "call {} {}{arguments}{}",
                call.call_id,
                call.name,
                error.unwrap_or_default()
            )
        }
        LlmChunk::Usage(usage) => format!("usage {:?}/{:?}", usage.input, usage.output),
        LlmChunk::End(reason) => format!("end {reason:?}"),
        other => format!("{other:?}"),
    }
}

fn delta(body: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{body},"finish_reason":null}}]}}"#)
}

fn finish(reason: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
}

#[track_caller]
fn check(frames: &[&str], expected: &[&str]) {
    assert_eq!(fold(frames).unwrap(), expected);
}

const TWO_CALLS: &str = include_str!("../../../tests/fixtures/chat_two_calls.sse");

fn decode(chunks: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
    let mut sse = SseDecoder::default();
    let mut decoder = ChatDecoder::default();
    for chunk in chunks {
        sse.push(&chunk).unwrap();
        while let Some(event) = sse.next_event() {
            decoder.event(&event).unwrap();
        }
    }
    decoder.transport_ended();
    std::iter::from_fn(|| decoder.next_chunk())
        .map(line)
        .collect()
}

const TWO_CALLS_FOLDED: &[&str] = &[
    "text One ",
    "text moment.",
    "begun 0 weather",
    "begun 1 clock",
    r#"call call_a weather{"city":"Oslo"}"#,
    "call call_b clock{}",
    "usage Some(41)/Some(23)",
    "end ToolUse",
];

#[test]
fn text_and_two_parallel_calls_cut_at_every_byte() {
    let stream = TWO_CALLS.as_bytes();
    for at in 0..=stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(decode([head.to_vec(), tail.to_vec()]), TWO_CALLS_FOLDED);
    }
    assert_eq!(
        decode(stream.iter().map(|byte| vec![*byte])),
        TWO_CALLS_FOLDED
    );
}

#[test]
fn whole_calls_in_one_delta_without_index_or_id() {
    let lines = fold(&[
        &delta(r#"{"tool_calls":[{"function":{"name":"a","arguments":"{}"}},{"function":{"name":"b","arguments":{"x":1}}}]}"#),
        &finish("stop"),
        "[DONE]",
    ])
    .unwrap();
    let calls: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("call "))
        .collect();
    assert!(
        calls[0].ends_with(" a{}") && calls[1].ends_with(r#" b{"x":1}"#),
        "{calls:?}"
    );
    assert_ne!(calls[0].split(' ').nth(1), calls[1].split(' ').nth(1));
    assert_eq!(lines.last().unwrap(), "end ToolUse");
}

#[test]
fn pieces_without_an_index_continue_the_last_call() {
    check(
        &[
            &delta(r#"{"tool_calls":[{"id":"x","function":{"name":"a","arguments":"{\"n\""}}]}"#),
            &delta(r#"{"tool_calls":[{"function":{"name":"a","arguments":":1}"}}]}"#),
            &delta(r#"{"tool_calls":[{"id":"y","function":{"name":"a","arguments":"{}"}}]}"#),
            &finish("tool_calls"),
        ],
        &[
            "begun 0 a",
            "begun 1 a",
            r#"call x a{"n":1}"#,
            "call y a{}",
            "end ToolUse",
        ],
    );
}

#[test]
fn parallel_calls_that_are_all_numbered_zero_stay_apart() {
    check(
        &[
            &delta(
                r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"a","arguments":"{}"}}]}"#,
            ),
            &delta(
                r#"{"tool_calls":[{"index":0,"id":"y","function":{"name":"b","arguments":"{}"}}]}"#,
            ),
            &finish("tool_calls"),
        ],
        &[
            "begun 0 a",
            "begun 1 b",
            "call x a{}",
            "call y b{}",
            "end ToolUse",
        ],
    );
}

#[test]
fn calls_come_out_in_index_order() {
    check(
        &[
            &delta(r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"b"}}]}"#),
            &delta(r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"a"}}]}"#),
            &finish("tool_calls"),
        ],
        &[
            "begun 0 b",
            "begun 1 a",
            "call x a{}",
            "call y b{}",
            "end ToolUse",
        ],
    );
}

#[test]
fn arguments_that_are_no_object_are_flagged_not_run() {
    let table = [
        ("", "{}", None),
        ("null", "{}", None),
        (r#"{"a":1}"#, r#"{"a":1}"#, None),
        ("[1]", "{}", Some("not an object")),
        ("{broken", "{}", Some("{broken")),
    ];
    for (text, arguments, problem) in table {
        let (parsed, error) = parse_arguments(text);
        assert_eq!(Value::Object(parsed).to_string(), arguments, "{text}");
        match problem {
            None => assert_eq!(error, None, "{text}"),
            Some(problem) => assert!(error.unwrap().contains(problem), "{text}"),
        }
    }
    let (_, error) = parse_arguments(&format!("[{}", "ä".repeat(10_000)));
    assert!(error.unwrap().len() < 2 * KEPT_ARGUMENT_BYTES);
}

#[test]
fn every_stop_reason_is_mapped() {
    let table = [
        ("stop", "end EndTurn"),
        ("tool_calls", "end ToolUse"),
        ("function_call", "end ToolUse"),
        ("length", "end MaxTokens"),
        ("content_filter", "end ContentFilter"),
        ("sensitive", "end ContentFilter"),
        ("novel", "end Unknown(\"novel\")"),
    ];
    for (reason, end) in table {
        check(
            &[&delta(r#"{"content":"x"}"#), &finish(reason), "[DONE]"],
            &["text x", end],
        );
    }
    for reason in ["error", "network_error"] {
        assert_eq!(fold(&[&finish(reason)]), Err(FrameError::Failed));
    }
}

#[test]
fn the_first_of_two_final_markers_counts_and_nothing_follows_done() {
    check(
        &[
            &finish("length"),
            &finish("stop"),
            "[DONE]",
            &delta(r#"{"content":"late"}"#),
            "[DONE]",
        ],
        &["end MaxTokens"],
    );
}

#[test]
fn a_token_limit_in_the_middle_of_a_call_flags_it() {
    let lines = fold(&[
        &delta(r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"a","arguments":"{}"}}]}"#),
        &finish("length"),
    ])
    .unwrap();
    assert_eq!(lines[1], "call x a{} !the token limit cut this call off");
    assert_eq!(lines[2], "end MaxTokens");
}

#[test]
fn a_refusal_is_spoken_and_named() {
    check(
        &[
            &delta(r#"{"refusal":"I cannot help."}"#),
            &finish("stop"),
            "[DONE]",
        ],
        &["text I cannot help.", "end Refusal"],
    );
}

#[test]
fn reasoning_never_becomes_text() {
    check(
        &[
            &delta(r#"{"reasoning_content":"hm"}"#),
            &delta(r#"{"reasoning":"well","content":""}"#),
            &delta(
                r#"{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"Yes."}]}"#,
            ),
            &finish("stop"),
        ],
        &["reasoning hm", "reasoning well", "text Yes.", "end EndTurn"],
    );
}

#[test]
fn a_stream_without_a_terminal_marker_is_truncated_and_its_half_call_dropped() {
    check(
        &[
            &delta(r#"{"content":"Let me"}"#),
            &delta(
                r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"a","arguments":"{\"n\""}}]}"#,
            ),
        ],
        &["text Let me", "begun 0 a", "end Truncated"],
    );
    check(
        &[&delta(r#"{"content":"x"}"#), "[DONE]"],
        &["text x", "end EndTurn"],
    );
}

#[test]
fn odd_frames_are_ignored_and_garbage_is_counted() {
    check(
        &[
            "",
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[{}],"novel":1}"#,
            r#"{"choices":[{"delta":{"content":null}}]}"#,
            r#"{"usage":{"prompt_tokens":1}}"#,
            "garbage",
            "{",
            "also garbage",
            &delta(r#"{"content":"x"}"#),
            &finish("stop"),
        ],
        &["usage Some(1)/None", "text x", "end EndTurn"],
    );
    assert_eq!(fold(&["a", "b", "c", "d"]), Err(FrameError::Garbage));
}

#[test]
fn an_error_frame_is_the_vendors_error() {
    let error = fold(&[
        &delta(r#"{"content":"x"}"#),
        r#"{"error":{"code":502,"message":"upstream"}}"#,
    ]);
    assert!(matches!(error, Err(FrameError::Vendor(value)) if value["code"] == 502));
}

#[test]
fn too_many_calls_and_too_long_arguments_are_refused() {
    let pieces: Vec<String> = (0..=MAX_CALLS)
        .map(|n| format!(r#"{{"index":{n},"id":"c{n}","function":{{"name":"a"}}}}"#))
        .collect();
    let frame = delta(&format!(r#"{{"tool_calls":[{}]}}"#, pieces.join(",")));
    assert_eq!(fold(&[&frame]), Err(FrameError::TooLarge));

    let long = "x".repeat(1024 * 1024);
    let frame = delta(&format!(
        r#"{{"tool_calls":[{{"index":0,"function":{{"name":"a","arguments":"{long}"}}}}]}}"#
    ));
    assert_eq!(fold(&[&*frame; 5]), Err(FrameError::TooLarge));
}

#[test]
fn a_whole_answer_is_understood_like_a_stream() {
    let mut decoder = ChatDecoder::default();
    decoder
        .whole(serde_json::json!({
            "choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }))
        .unwrap();
    let lines: Vec<String> = std::iter::from_fn(|| decoder.next_chunk())
        .map(line)
        .collect();
    assert_eq!(lines, ["usage Some(3)/Some(2)", "text Hi.", "end EndTurn"]);
    for odd in [
        "{}",
        r#"{"choices":null}"#,
        r#"{"choices":[{"message":null}]}"#,
    ] {
        let mut decoder = ChatDecoder::default();
        decoder.whole(serde_json::from_str(odd).unwrap()).unwrap();
        assert_eq!(
            decoder.next_chunk(),
            Some(LlmChunk::End(StopReason::EndTurn)),
            "{odd}"
        );
    }
}

proptest! {
    #[test]
    fn arguments_cut_anywhere_are_the_same_arguments(cuts in prop::collection::vec(0usize..40, 0..6)) {
        let arguments = r#"{"city":"Ålesund","n":[1,2,{"x":null}]}"#;
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|at| arguments.is_char_boundary(*at)).collect();
        cuts.extend([0, arguments.len()]);
        cuts.sort_unstable();
        let frames: Vec<String> = cuts
            .windows(2)
            .map(|pair| {
                let piece = Value::from(&arguments[pair[0]..pair[1]]);
                delta(&format!(
                    r#"{{"tool_calls":[{{"index":0,"id":"x","function":{{"name":"a","arguments":{piece}}}}}]}}"#
                ))
            })
            .chain([finish("tool_calls")])
            .collect();
        let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
        let lines = fold(&frames).unwrap();
        prop_assert_eq!(&lines[1], &format!("call x a{arguments}"));
    }
}

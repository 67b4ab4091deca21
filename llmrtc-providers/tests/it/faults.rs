//! What goes wrong at a vendor, and what the engine is told about it.

use std::time::Duration;

use llmrtc_core::provider::{ErrorKind, LlmChunk, LlmProvider, Retry, StopReason};
use llmrtc_providers::{
    http::HttpClient,
    openai::{Dialect, OpenAiLlm},
    testing::{Script, ScriptedServer, scripted::Step},
};

use crate::support::*;

const CHAT: &str = "/v1/chat/completions";

/// Plays one script against a chat completion.
async fn play(script: Script) -> (Vec<LlmChunk>, Option<llmrtc_core::provider::ProviderError>) {
    let server = ScriptedServer::start([script]).await;
    let outcome = ask(&llm(server.base_url())).await;
    within(async { server.finish() }).await;
    outcome
}

fn request() -> Script {
    Script::expect("POST", CHAT)
}

fn text(text: &str) -> LlmChunk {
    LlmChunk::Text(text.to_owned())
}

#[tokio::test]
async fn statuses_are_classified_and_never_retried_here() {
    use ErrorKind::*;
    let after = |ms| Retry::After(Some(Duration::from_millis(ms)));
    type Row = (
        u16,
        &'static [(&'static str, &'static str)],
        &'static str,
        ErrorKind,
        Retry,
    );
    let table: &[Row] = &[
        (401, &[], "", Authentication, Retry::Never),
        (402, &[], "", Billing, Retry::Never),
        (403, &[], "", Permission, Retry::Never),
        (
            404,
            &[],
            r#"{"error":{"message":"no such model"}}"#,
            NotFound,
            Retry::Never,
        ),
        (429, &[("retry-after", "1")], "", RateLimited, after(1000)),
        (429, &[("retry-after-ms", "40")], "", RateLimited, after(40)),
        (
            429,
            &[("retry-after", "60")],
            "",
            RateLimited,
            after(60_000),
        ),
        (
            429,
            &[("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT")],
            "",
            RateLimited,
            after(0),
        ),
        (429, &[], "", RateLimited, Retry::After(None)),
        (
            429,
            &[],
            r#"{"error":{"code":"insufficient_quota"}}"#,
            Billing,
            Retry::Never,
        ),
        (500, &[], "", Unavailable, Retry::After(None)),
        (
            502,
            &[],
            "<html>Bad gateway</html>",
            Unavailable,
            Retry::After(None),
        ),
        (503, &[("retry-after", "2")], "", Unavailable, after(2000)),
        (504, &[], "", Unavailable, Retry::After(None)),
        (529, &[], "", Unavailable, Retry::After(None)),
        (
            503,
            &[("x-should-retry", "false")],
            "",
            Unavailable,
            Retry::Never,
        ),
        (
            400,
            &[],
            r#"{"error":{"message":"no"}}"#,
            InvalidRequest,
            Retry::Never,
        ),
    ];
    for (status, headers, body, kind, retry) in table {
        let (chunks, error) = play(request().respond(*status, headers, body.to_string())).await;
        let error = error.expect("an error");
        assert!(chunks.is_empty());
        assert_eq!(
            (error.kind(), error.retry()),
            (*kind, *retry),
            "{status} {headers:?} {body}"
        );
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = ScriptedServer::start([]).await;
    let location = format!("{}/chat/completions", elsewhere.base_url());
    for status in [301, 302, 307, 308] {
        let (_, error) = play(request().respond(status, &[("location", &location)], "")).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::Config, "{status}");
    }
    assert!(elsewhere.finish().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_in_the_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let llm = llm(format!("http://{address}/v1"));
    let (_, error) = ask(&llm).await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    // It may come up before the first call.
    within(llm.init()).await.unwrap();
}

#[tokio::test]
async fn connections_that_break_before_the_first_event() {
    for script in [
        request().step(Step::Rst),
        request().step(Step::Fin),
        request().sse().step(Step::Fin),
        request().sse().step(Step::End),
        request().sse().chunk(": keep-alive\n\n").step(Step::Rst),
    ] {
        let (chunks, error) = play(script.clone()).await;
        let error = error.expect("an error");
        assert!(chunks.is_empty());
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Disconnected, Retry::After(None)),
            "{script:?}"
        );
    }
}

#[tokio::test]
async fn connections_that_break_later_keep_what_was_said() {
    for cut in [Step::Fin, Step::Rst] {
        let server = ScriptedServer::start([request()
            .sse()
            .chunk(text_frame("Once upon"))
            // The reset must not overtake the text it follows.
            .step(Step::Chunk {
                bytes: text_frame(" a time").into(),
                delay: Duration::from_millis(30),
            })
            .step(cut)])
        .await;
        let (chunks, error) = ask(&llm(server.base_url())).await;
        assert_eq!(chunks[0], text("Once upon"));
        assert_eq!(error.unwrap().kind(), ErrorKind::Disconnected);
    }
}

#[tokio::test]
async fn a_stream_without_a_terminal_marker_is_truncated() {
    let (chunks, error) = play(request().sse().chunk(text_frame("Once")).step(Step::End)).await;
    assert!(error.is_none());
    assert_eq!(chunks, [text("Once"), LlmChunk::End(StopReason::Truncated)]);
}

#[tokio::test]
async fn odd_but_legal_streams_are_understood() {
    let crlf = format!(
        "\u{feff}: hello\r\n\r\n{}",
        text_frame("a").replace('\n', "\r\n")
    );
    let cr = text_frame("b").replace('\n', "\r");
    let script = request()
        .sse()
        .step(Step::SplitEvery(3))
        .chunk(crlf)
        .chunk(cr)
        .chunk("data:\n\ndata: garbage\n\n")
        .chunk(text_frame("ä€😀"))
        .chunk(END_FRAMES)
        .step(Step::End);
    let (chunks, error) = play(script).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        chunks,
        [
            text("a"),
            text("b"),
            text("ä€😀"),
            LlmChunk::End(StopReason::EndTurn)
        ]
    );
}

#[tokio::test]
async fn a_stream_of_garbage_is_a_protocol_error() {
    let (chunks, error) = play(request().sse().chunk("data: ?\n\n".repeat(4))).await;
    assert!(chunks.is_empty());
    assert_eq!(error.unwrap().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_line_without_an_end_is_too_large_and_the_connection_closed() {
    let mut script = request().sse();
    for _ in 0..3 {
        script = script.chunk(vec![b'x'; 512 * 1024]);
    }
    let server = ScriptedServer::start([script]).await;
    let (_, error) = ask(&llm(server.base_url())).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn an_error_inside_the_stream_follows_what_was_said() {
    let script = request()
        .sse()
        .chunk(text_frame("One "))
        .chunk("data: {\"error\":{\"code\":502,\"message\":\"upstream\"}}\n\n");
    let (chunks, error) = play(script).await;
    assert_eq!(chunks, [text("One ")]);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().ends_with("upstream"), "{error}");
}

#[tokio::test]
async fn pages_and_whole_answers_instead_of_a_stream() {
    let html = [("content-type", "text/html; charset=utf-8")];
    let (_, error) = play(request().respond(200, &html, "<html>Log in</html>")).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Protocol);

    let json = [("content-type", "application/json")];
    let whole = r#"{"choices":[{"message":{"content":"Hi."},"finish_reason":"stop"}]}"#;
    let (chunks, error) = play(request().respond(200, &json, whole)).await;
    assert!(error.is_none());
    assert_eq!(chunks, [text("Hi."), LlmChunk::End(StopReason::EndTurn)]);

    let (_, error) =
        play(request().respond(200, &json, r#"{"error":{"code":"model_not_found"}}"#)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::NotFound);

    let (_, error) = play(request().respond(200, &json, "not json")).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Protocol);

    let (_, error) = play(request().respond(200, &json, vec![b' '; 9 * 1024 * 1024])).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn a_refused_parameter_costs_one_corrected_request_and_is_remembered() {
    let refusal = r#"{"error":{"message":"Unsupported parameter: 'stream_options'","param":"stream_options"}}"#;
    let answer = |script: Script| {
        script
            .sse()
            .chunk(text_frame("ok"))
            .chunk(END_FRAMES)
            .step(Step::End)
    };
    let first = request()
        .respond(400, &[], refusal)
        .then_expect("POST", CHAT);
    let server = ScriptedServer::start([answer(answer(first).then_expect("POST", CHAT))]).await;
    let llm = llm(server.base_url());
    for _ in 0..2 {
        let (chunks, error) = ask(&llm).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(chunks[0], text("ok"));
    }
    let sent: Vec<bool> = server
        .finish()
        .iter()
        .map(|request| request.json().get("stream_options").is_some())
        .collect();
    assert_eq!(sent, [true, false, false]);
}

#[tokio::test]
async fn a_parameter_that_stays_refused_is_an_error() {
    let refusal = r#"{"error":{"message":"bad stream_options"}}"#;
    let script = request()
        .respond(400, &[], refusal)
        .then_expect("POST", CHAT)
        .respond(400, &[], refusal);
    let (_, error) = play(script).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn a_vllm_server_without_tool_parsing_is_a_configuration_error() {
    let body = r#"{"message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"}"#;
    let server = ScriptedServer::start([request().respond(400, &[], body)]).await;
    let config = chat_config(Dialect::Vllm, server.base_url());
    let llm = OpenAiLlm::new(config, HttpClient::new().unwrap()).unwrap();
    let (_, error) = ask(&llm).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn transcription_faults() {
    use ErrorKind::*;
    let table = [
        (200, "{}", Err(Protocol)),
        (200, "<html>", Err(Protocol)),
        (401, "", Err(Authentication)),
        (500, "", Err(Unavailable)),
        (200, r#"{"text":"  Hello. ","language":"en"}"#, Ok("Hello.")),
        (200, r#"{"text":""}"#, Ok("")),
    ];
    for (status, body, expected) in table {
        let script = Script::expect("POST", "/v1/audio/transcriptions").respond(status, &[], body);
        let server = ScriptedServer::start([script]).await;
        let heard = hear(&stt(server.base_url())).await;
        let heard = heard
            .map(|result| result.text)
            .map_err(|error| error.kind());
        assert_eq!(heard, expected.map(str::to_owned), "{status} {body}");
    }
}

#[tokio::test]
async fn speech_faults() {
    use ErrorKind::*;
    let speech = || Script::expect("POST", "/v1/audio/speech");
    let pcm = [("content-type", "audio/pcm")];
    let table = [
        (speech().respond(401, &[], ""), "", Some(Authentication)),
        (
            speech().respond(200, &[("content-type", "text/html")], "<html>"),
            "",
            Some(Protocol),
        ),
        (
            speech().respond(200, &pcm, "RIFF\0\0\0\0WAVEfmt "),
            "",
            Some(Protocol),
        ),
        (
            speech()
                .head(200, &pcm)
                .chunk("abc")
                .chunk("de")
                .chunk("f")
                .step(Step::End),
            "abcdef",
            None,
        ),
        // Half a sample at the end is no sample.
        (speech().respond(200, &pcm, "abcde"), "abcd", None),
        (speech().respond(200, &pcm, ""), "", None),
        (
            speech()
                .head(200, &pcm)
                .chunk("abcd")
                .step(Step::Chunk {
                    bytes: "ef".into(),
                    delay: Duration::from_millis(30),
                })
                .step(Step::Fin),
            "abcdef",
            Some(Disconnected),
        ),
    ];
    for (script, audio, kind) in table {
        let server = ScriptedServer::start([script.clone()]).await;
        let (bytes, error) = speak(&tts(server.base_url()), "Hello.").await;
        assert_eq!(bytes, audio.as_bytes(), "{script:?}");
        assert_eq!(error.map(|error| error.kind()), kind, "{script:?}");
    }
}

#[tokio::test]
async fn a_stalled_stream_does_not_hold_up_others() {
    let good = || {
        request()
            .sse()
            .chunk(text_frame("ok"))
            .chunk(END_FRAMES)
            .step(Step::End)
    };
    let stalled = ScriptedServer::start([request().sse().step(Step::Stall)]).await;
    let server = ScriptedServer::start((0..32).map(|_| good())).await;
    let stuck = llm(stalled.base_url());
    let mut waiting = Box::pin(ask(&stuck));
    let llm = llm(server.base_url());
    let others = futures_util::future::join_all((0..32).map(|_| ask(&llm)));
    tokio::select! {
        _ = &mut waiting => panic!("a stalled stream pends"),
        others = others => assert!(others.iter().all(|(_, error)| error.is_none())),
    }
}

//! The rules as scripts: what goes in, after how long, and what must come out.

use llmrtc_core::audio::AudioFormat;

use super::*;
use crate::protocol::AttachmentPolicy;

const OFFER: &str = r#"{"type":"offer","signal":{"type":"offer","sdp":"v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"}}"#;
const PING: &str = r#"{"type":"ping","timestamp":7}"#;
const AUDIO: &str = r#"{"type":"audio","data":"UklGRg==","attachments":[]}"#;
const RECONNECT: &str = r#"{"type":"reconnect","sessionId":"old","resumeToken":"t"}"#;

/// A machine, its clock, and a readable account of what it did.
struct Bench {
    machine: Machine,
    now: Instant,
    start: Instant,
    actions: Vec<Action>,
}

impl Bench {
    fn with(config: &ConnectionConfig, resume_only: bool) -> Self {
        let now = Instant::now();
        let mut actions = Vec::new();
        let ready = Ready {
            resume_only,
            ..Ready::new(Secret::new("own"))
        };
        let machine = Machine::new(config, ready, now, &mut actions);
        let mut bench = Self {
            machine,
            now,
            start: now,
            actions,
        };
        assert_eq!(bench.done(), ["ws ready"]);
        bench
    }

    fn new() -> Self {
        Self::with(&ConnectionConfig::default(), false)
    }

    /// A bench with an open data channel.
    fn connected() -> Self {
        let mut bench = Self::new();
        bench.text(OFFER);
        bench.input(Input::Answer(Ok("answer".into())));
        bench.input(Input::DataOpened);
        bench.done();
        bench
    }

    fn input(&mut self, input: Input) -> &mut Self {
        self.machine.handle(input, self.now, &mut self.actions);
        self
    }

    fn on(&mut self, channel: Channel, text: &str) -> &mut Self {
        if self.machine.admit(channel, self.now, &mut self.actions) {
            let message = ClientMessage::parse(text, channel, AttachmentPolicy::default());
            self.input(Input::Message(message));
        }
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.on(Channel::WebSocket, text)
    }

    fn say(&mut self, text: &str) -> &mut Self {
        self.input(Input::Send(ServerMessage::Llm { text: text.into() }))
    }

    /// Lets time pass, waking the machine at its deadlines and nowhere else.
    fn after(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        while let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= end) {
            assert!(
                deadline > self.now || self.now == end,
                "a passed deadline was not handled"
            );
            self.now = deadline;
            self.input(Input::Tick);
        }
        self.now = end;
        self
    }

    fn seconds(&mut self, seconds: u64) -> &mut Self {
        self.after(Duration::from_secs(seconds))
    }

    /// What was done since the last look.
    fn done(&mut self) -> Vec<String> {
        self.actions.drain(..).map(describe).collect()
    }

    /// What was done, without protocol pings.
    fn said(&mut self) -> Vec<String> {
        self.done()
            .into_iter()
            .filter(|action| action != "ws-ping")
            .collect()
    }
}

fn describe(action: Action) -> String {
    match action {
        Action::Send(text) => format!("ws {}", summary(&text)),
        Action::Ping => "ws-ping".into(),
        Action::Event(ConnectionEvent::SendData(text)) => format!("dc {}", summary(&text)),
        Action::Event(ConnectionEvent::Resume {
            session_id,
            resume_token,
        }) => {
            format!(
                "resume {} {}",
                session_id.expose(),
                resume_token.unwrap().expose()
            )
        }
        Action::Event(ConnectionEvent::Offer { .. }) => "offer".into(),
        Action::Event(ConnectionEvent::Audio { .. }) => "audio".into(),
        Action::Event(ConnectionEvent::Text(text)) => format!("text {text}"),
        Action::Event(event) => format!("{event:?}"),
        Action::Close(reason) => format!("close {reason}"),
    }
}

fn summary(text: &str) -> String {
    match ServerMessage::parse(text).unwrap() {
        ServerMessage::Llm { text } => text,
        ServerMessage::ReconnectAck {
            success,
            session_id,
            ..
        } => {
            format!("ack {success} {}", session_id.expose())
        }
        ServerMessage::Signal { sdp } => format!("signal {sdp}"),
        ServerMessage::Pong { timestamp } => format!("pong {timestamp:?}"),
        other => format!("{other:?}"),
    }
}

fn resumed(id: &str) -> Input {
    Input::Resumed(ResumeReply::Resumed {
        session_id: Secret::new(id),
        resume_token: None,
    })
}

#[test]
fn each_message_has_its_effect() {
    for (text, effect) in [
        (PING, vec!["ws pong Some(Timestamp(7))"]),
        (r#"{"type":"ping"}"#, vec!["ws pong None"]),
        (OFFER, vec!["offer"]),
        (AUDIO, vec!["audio"]),
        (RECONNECT, vec!["resume old t"]),
        (r#"{"type":"reconnect"}"#, vec!["ws ack false own"]),
        (
            r#"{"type":"reconnect","sessionId":{}}"#,
            vec!["ws ack false own"],
        ),
        (r#"{"type":"candidate"}"#, vec![]),
        (r#"{"type":"attachments","attachments":[]}"#, vec![]),
        ("not json", vec!["ws error(INVALID_MESSAGE)"]),
        (r#"{"type":"offer"}"#, vec!["ws error(INVALID_MESSAGE)"]),
        (r#"{"type":"audio"}"#, vec!["ws error(INVALID_MESSAGE)"]),
        (
            r#"{"type":"audio","data":"?"}"#,
            vec!["ws error(INVALID_AUDIO_FORMAT)"],
        ),
        (
            r#"{"type":"offer","signal":{"type":"offer","sdp":"garbage"}}"#,
            vec!["ws error(CONNECTION_FAILED)"],
        ),
    ] {
        assert_eq!(Bench::new().text(text).done(), effect, "{text}");
    }
    let mut bench = Bench::new();
    let attachments = r#"{"type":"attachments","attachments":[]}"#;
    assert_eq!(
        bench.on(Channel::Data, attachments).done(),
        ["Attachments(0)"]
    );
    assert_eq!(bench.on(Channel::Data, PING).done(), [""; 0]);
}

#[test]
fn an_oversize_message_ends_the_connection() {
    let mut bench = Bench::new();
    bench.input(Input::Message(Err(ParseError::TooLarge { limit_bytes: 1 })));
    assert_eq!(bench.done(), ["close message too large"]);
    assert!(bench.machine.is_closed());
    assert_eq!(bench.machine.deadline(), None);
    assert_eq!(
        bench
            .text(PING)
            .say("late")
            .input(Input::Close(CloseReason::Shutdown))
            .done(),
        [""; 0]
    );
}

#[test]
fn offers_are_negotiated_one_at_a_time_and_in_order() {
    let mut bench = Bench::new();
    assert_eq!(bench.text(OFFER).text(OFFER).text(OFFER).done(), ["offer"]);
    assert_eq!(
        bench.input(Input::Answer(Ok("1".into()))).done(),
        ["ws signal 1", "offer"]
    );
    assert_eq!(
        bench
            .input(Input::Answer(Err(NegotiateError::Failed)))
            .done(),
        ["ws error(CONNECTION_FAILED)", "offer"]
    );
    assert_eq!(
        bench
            .input(Input::Answer(Err(NegotiateError::Unavailable)))
            .done(),
        ["ws error(WEBRTC_UNAVAILABLE)"]
    );
    assert_eq!(
        bench.input(Input::Answer(Ok("unasked".into()))).done(),
        [""; 0]
    );
}

#[test]
fn offers_are_limited_in_rate_and_queue() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.text(OFFER);
    }
    assert_eq!(bench.done(), ["offer"], "one is negotiated, four wait");
    assert_eq!(bench.text(OFFER).done(), ["ws error(RATE_LIMITED)"]);
    assert_eq!(
        bench.seconds(2).text(OFFER).done(),
        ["ws error(CONNECTION_FAILED)"]
    );
}

#[test]
fn a_failed_renegotiation_reaches_a_connected_client_on_both_channels() {
    let mut bench = Bench::connected();
    bench.text(OFFER).done();
    assert_eq!(
        bench
            .input(Input::Answer(Err(NegotiateError::Failed)))
            .done(),
        ["ws error(CONNECTION_FAILED)", "dc error(CONNECTION_FAILED)"]
    );
}

#[test]
fn payload_takes_the_channel_on_which_the_client_listens() {
    let mut bench = Bench::new();
    assert_eq!(bench.say("before").done(), ["ws before"]);
    assert_eq!(
        bench.text(OFFER).say("during").done(),
        ["offer", "ws during"]
    );
    assert_eq!(
        bench
            .input(Input::Answer(Ok("a".into())))
            .say("held")
            .say("too")
            .done(),
        ["ws signal a"]
    );
    assert_eq!(
        bench.input(Input::DataOpened).say("open").done(),
        [
            "ws held", "dc held", "ws too", "dc too", "ws open", "dc open"
        ]
    );
    let audio = ServerMessage::TtsChunk {
        format: AudioFormat::Pcm,
        sample_rate: None,
        data: b"ab".as_slice().into(),
    };
    assert_eq!(
        bench.input(Input::Send(audio)).done(),
        ["dc tts-chunk"],
        "audio is not mirrored"
    );
    assert_eq!(
        bench.text(PING).done(),
        ["ws pong Some(Timestamp(7))"],
        "control stays on the socket"
    );
    assert_eq!(
        bench.input(Input::DataClosed).say("closed").done(),
        ["ws closed"]
    );
}

#[test]
fn without_mirroring_an_open_data_channel_gets_everything_alone() {
    let config = ConnectionConfig {
        mirror: false,
        ..Default::default()
    };
    let mut bench = Bench::with(&config, false);
    bench
        .text(OFFER)
        .input(Input::Answer(Ok("a".into())))
        .done();
    assert_eq!(
        bench
            .say("held")
            .input(Input::DataOpened)
            .say("open")
            .done(),
        ["dc held", "dc open"]
    );
    bench.text(OFFER).done();
    assert_eq!(
        bench
            .input(Input::Answer(Err(NegotiateError::Failed)))
            .done(),
        ["ws error(CONNECTION_FAILED)", "dc error(CONNECTION_FAILED)"]
    );
}

#[test]
fn held_payload_falls_back_to_the_socket() {
    let held = || {
        let mut bench = Bench::new();
        bench
            .text(OFFER)
            .input(Input::Answer(Ok("a".into())))
            .done();
        bench.say("held");
        bench
    };
    let mut slow = held();
    assert_eq!(slow.after(Duration::from_millis(4999)).done(), [""; 0]);
    assert_eq!(
        slow.after(Duration::from_millis(1)).say("next").done(),
        ["ws held", "ws next"]
    );
    assert_eq!(
        slow.input(Input::DataOpened).say("late").done(),
        ["ws late", "dc late"]
    );

    assert_eq!(held().input(Input::DataClosed).done(), ["ws held"]);
    assert_eq!(
        held().input(Input::Close(CloseReason::Shutdown)).done(),
        ["ws held", "close server shutting down"]
    );

    let mut many = held();
    for _ in 0..256 {
        many.say("more");
    }
    assert_eq!(
        many.done().len(),
        257,
        "the 257th message overflows the queue"
    );
    let mut large = held();
    assert_eq!(
        large.say(&"x".repeat(1024 * 1024)).done().len(),
        2,
        "so does a mebibyte"
    );
}

#[test]
fn resumes_are_asked_outside_and_the_answer_relayed() {
    let mut bench = Bench::new();
    bench.text(RECONNECT).text(OFFER);
    assert_eq!(bench.done(), ["resume old t"], "offers wait");
    assert_eq!(
        bench.input(resumed("old")).done(),
        ["ws ack true old", "offer"]
    );
    assert_eq!(
        bench.text(RECONNECT).done(),
        ["ws ack false old"],
        "not after the first offer"
    );
    assert_eq!(bench.input(resumed("other")).done(), [""; 0], "not unasked");

    let mut refused = Bench::new();
    assert_eq!(
        refused.text(RECONNECT).text(RECONNECT).done(),
        ["resume old t", "ws ack false own"]
    );
    assert_eq!(
        refused.input(Input::Resumed(ResumeReply::Refused)).done(),
        ["ws ack false own"]
    );

    let mut persistent = Bench::new();
    for _ in 0..5 {
        persistent
            .text(RECONNECT)
            .input(Input::Resumed(ResumeReply::Refused));
    }
    persistent.done();
    assert_eq!(
        persistent.text(RECONNECT).done(),
        ["ws ack false own"],
        "no sixth attempt"
    );

    assert_eq!(
        Bench::new().text(AUDIO).text(RECONNECT).done(),
        ["audio", "ws ack false own"]
    );
}

#[test]
fn a_spent_ticket_admits_one_successful_resume_and_nothing_else() {
    let bench = || Bench::with(&ConnectionConfig::default(), true);
    for other in [OFFER, AUDIO, PING, "not json", r#"{"type":"candidate"}"#] {
        assert_eq!(
            bench().text(other).done(),
            ["close resume required"],
            "{other}"
        );
    }
    assert_eq!(
        bench().text(r#"{"type":"reconnect"}"#).done(),
        ["ws ack false own", "close resume required"]
    );
    assert_eq!(
        bench()
            .text(RECONNECT)
            .input(Input::Resumed(ResumeReply::Refused))
            .done(),
        ["resume old t", "ws ack false own", "close resume required"]
    );
    assert_eq!(
        bench().text(RECONNECT).text(OFFER).done(),
        ["resume old t", "close resume required"]
    );
    assert_eq!(bench().seconds(5).done(), ["close resume required"]);
    assert_eq!(
        bench()
            .text(RECONNECT)
            .input(resumed("old"))
            .text(OFFER)
            .done(),
        ["resume old t", "ws ack true old", "offer"]
    );
}

#[test]
fn a_successful_resume_leaves_the_usual_time_for_the_offer() {
    let mut bench = Bench::with(&ConnectionConfig::default(), true);
    bench.text(RECONNECT).input(resumed("old")).done();
    assert_eq!(bench.seconds(6).text(OFFER).said(), ["offer"]);
}

#[test]
fn a_silent_client_is_dropped_in_time() {
    // A live socket answers protocol pings; the page behind it may be gone all the same.
    let alive = |bench: &mut Bench, seconds: u64| {
        for _ in 0..seconds {
            bench.seconds(1).input(Input::Control);
        }
        bench.said()
    };
    let mut before_ping = Bench::connected();
    assert_eq!(alive(&mut before_ping, 89), [""; 0]);
    assert_eq!(alive(&mut before_ping, 1), ["close idle"]);

    let mut after_ping = Bench::connected();
    after_ping.text(PING).done();
    assert_eq!(alive(&mut after_ping, 44), [""; 0]);
    assert_eq!(
        after_ping.text(r#"{"type":"unknown"}"#).said(),
        [""; 0],
        "any message counts"
    );
    assert_eq!(alive(&mut after_ping, 44), [""; 0]);
    assert_eq!(alive(&mut after_ping, 1), ["close idle"]);
}

#[test]
fn two_unanswered_protocol_pings_mean_a_dead_socket() {
    let mut bench = Bench::connected();
    assert_eq!(bench.seconds(59).done(), ["ws-ping", "ws-ping"]);
    assert_eq!(bench.seconds(1).done(), ["close unresponsive"]);

    let mut answering = Bench::connected();
    assert_eq!(
        answering
            .seconds(59)
            .input(Input::Control)
            .seconds(20)
            .done(),
        ["ws-ping"; 3]
    );
}

#[test]
fn a_connection_must_be_used_and_ends_after_its_longest_time() {
    let mut unused = Bench::new();
    unused.seconds(30).text(PING).done();
    assert_eq!(unused.seconds(30).said(), ["close unused"]);

    let mut busy = Bench::connected();
    let mut said = Vec::new();
    while !busy.machine.is_closed() {
        busy.seconds(15).text(PING);
        said.extend(busy.said());
    }
    said.retain(|action| !action.contains("pong"));
    assert_eq!(said, ["FlushData", "close maximum duration"]);
    let lasted = busy.now - busy.start;
    assert!(lasted >= Duration::from_secs(4 * 3600) && lasted < Duration::from_secs(4 * 3600 + 30));
}

#[test]
fn audio_is_limited_by_the_second_and_by_the_minute() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.text(AUDIO).text(AUDIO).text(AUDIO).done(),
        ["audio", "audio", "ws error(RATE_LIMITED)"]
    );
    let mut accepted = 2;
    for _ in 0..45 {
        accepted += bench
            .seconds(1)
            .text(AUDIO)
            .done()
            .iter()
            .filter(|a| *a == "audio")
            .count();
    }
    assert!(
        (45..60).contains(&accepted),
        "30 at once and one per two seconds: {accepted}"
    );
}

#[test]
fn malformed_messages_are_answered_a_while_and_then_end_the_connection() {
    let mut bench = Bench::new();
    for _ in 0..21 {
        bench.text("nonsense");
    }
    let done = bench.done();
    assert_eq!(done.len(), 22);
    assert!(
        done[..21]
            .iter()
            .all(|action| action == "ws error(INVALID_MESSAGE)")
    );
    assert_eq!(done[21], "close too many violations");

    let mut clumsy = Bench::connected();
    for _ in 0..200 {
        clumsy.seconds(3).text("nonsense");
    }
    assert!(
        !clumsy.machine.is_closed(),
        "one slip in three seconds is forgiven"
    );
}

#[test]
fn floods_end_the_connection() {
    let check = |flood: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::new();
        for _ in 0..200 {
            flood(&mut bench);
        }
        let done = bench.done();
        assert_eq!(
            done.last().map(String::as_str),
            Some("close too many violations")
        );
        assert_eq!(
            done.iter()
                .filter(|action| action.contains("error"))
                .count(),
            21
        );
    };
    check(&|bench| {
        bench.text(r#"{"type":"unknown"}"#);
    });
    check(&|bench| {
        bench.on(Channel::Data, r#"{"type":"attachments","attachments":[]}"#);
    });
    check(&|bench| {
        bench.input(Input::Control);
    });

    let mut steady = Bench::connected();
    for _ in 0..1000 {
        steady
            .after(Duration::from_millis(10))
            .text(r#"{"type":"unknown"}"#);
    }
    assert_eq!(
        steady.done(),
        [""; 0],
        "a hundred messages per second are allowed"
    );
}

#[test]
fn a_deliberate_close_lets_the_data_channel_drain() {
    let mut bench = Bench::connected();
    let error = ServerMessage::error(ErrorCode::InternalError);
    bench
        .input(Input::Send(error))
        .input(Input::Close(CloseReason::Internal));
    assert_eq!(
        bench.done(),
        [
            "ws error(INTERNAL_ERROR)",
            "dc error(INTERNAL_ERROR)",
            "FlushData"
        ]
    );
    assert_eq!(bench.say("late").text(PING).done(), [""; 0]);
    assert_eq!(bench.after(Duration::from_millis(249)).done(), [""; 0]);
    assert_eq!(
        bench.after(Duration::from_millis(1)).done(),
        ["close internal error"]
    );

    let mut quick = Bench::connected();
    quick
        .input(Input::Close(CloseReason::Shutdown))
        .input(Input::DataFlushed);
    assert_eq!(quick.done(), ["FlushData", "close server shutting down"]);

    let mut taken = Bench::connected();
    assert_eq!(
        taken.input(Input::Close(CloseReason::TakenOver)).done(),
        ["close taken over"]
    );
    let mut hurried = Bench::connected();
    hurried
        .input(Input::Close(CloseReason::Shutdown))
        .input(Input::Close(CloseReason::SocketLost));
    assert_eq!(hurried.done(), ["FlushData", "close socket lost"]);
}

#[test]
fn close_codes_say_who_should_read_the_log() {
    for (reason, code) in [
        (CloseReason::Shutdown, Some(1001)),
        (CloseReason::Protocol, Some(1002)),
        (CloseReason::NotText, Some(1003)),
        (CloseReason::Idle, Some(1008)),
        (CloseReason::Abuse, Some(1008)),
        (CloseReason::TooLarge, Some(1009)),
        (CloseReason::Internal, Some(1011)),
        (CloseReason::SlowClient, Some(1013)),
        (CloseReason::TakenOver, Some(4001)),
        (CloseReason::Client(Some(1000)), None),
        (CloseReason::SocketLost, None),
    ] {
        assert_eq!(reason.code(), code, "{reason:?}");
    }
}

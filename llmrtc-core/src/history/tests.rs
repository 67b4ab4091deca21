use proptest::prelude::*;
use serde_json::Map;

use super::*;

const LIMITS: HistoryLimits = HistoryLimits {
    messages: 8,
    tokens: None,
    attachment_turns: 1,
};

fn call(id: &str) -> ToolCall {
    ToolCall {
        call_id: id.into(),
        name: "look".into(),
        arguments: Map::new(),
        parse_error: None,
    }
}

fn said(question: &str, answer: &str) -> Exchange {
    let mut exchange = Exchange::new(question, []);
    exchange.finish(answer, false);
    exchange
}

fn picture(alt: Option<&str>) -> Attachment {
    Attachment {
        source: ImageSource::Inline {
            media_type: "image/png",
            data: vec![1, 2, 3].into(),
        },
        alt: alt.map(Into::into),
    }
}

/// One line per message: its role's first letter and text, calls in brackets, `!` for errors and interruptions.
fn script(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|message| match message {
            Message::System { text } => format!("s:{text}"),
            Message::User { text, attachments } => {
                format!("u:{text}{}", "+".repeat(attachments.len()))
            }
            Message::Assistant {
                text,
                tool_calls,
                interrupted,
            } => {
                let calls: Vec<_> = tool_calls.iter().map(|c| c.call_id.as_str()).collect();
                let calls = if calls.is_empty() {
                    String::new()
                } else {
                    format!("[{}]", calls.join(","))
                };
                format!("a:{text}{calls}{}", if *interrupted { "!" } else { "" })
            }
            Message::Tool {
                call_id, is_error, ..
            } => format!("t:{call_id}{}", if *is_error { "!" } else { "" }),
        })
        .collect()
}

/// M1 to M3, checked from outside.
fn assert_valid(messages: &[Message]) {
    let mut open: Vec<CallId> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        match message {
            Message::Tool { call_id, .. } => {
                let position = open.iter().position(|id| id == call_id);
                open.remove(position.expect("M1: a result without its call"));
            }
            _ if !open.is_empty() => panic!("M2: a call without its result"),
            Message::System { .. } => assert_eq!(at, 0, "M3"),
            Message::Assistant { tool_calls, .. } => {
                assert!(at > 0, "begins with an assistant message");
                open = tool_calls.iter().map(|call| call.call_id.clone()).collect();
            }
            Message::User { .. } => {}
        }
    }
    assert!(open.is_empty(), "M2: a call without its result at the end");
}

#[test]
fn a_request_has_system_text_then_the_window_then_the_question() {
    let mut history = History::new(LIMITS);
    history.commit(said("one", "1"));
    let current = Exchange::new("two", []);
    let request = history.request(Some("be brief"), &current, false);
    assert_eq!(script(&request), ["s:be brief", "u:one", "a:1", "u:two"]);
    assert_eq!(
        script(&history.request(Some(" "), &current, false))[0],
        "u:one"
    );
    assert_eq!(script(&history.request(None, &current, false))[0], "u:one");
}

#[test]
fn every_window_starts_with_a_user_message() {
    let mut history = History::new(HistoryLimits {
        messages: 5,
        ..LIMITS
    });
    for turn in 0..20 {
        let gone = history.commit(said(&format!("q{turn}"), "a"));
        assert_eq!(gone.len(), usize::from(turn >= 2));
        let request = history.request(None, &Exchange::new("next", []), false);
        assert!(matches!(request[0], Message::User { .. }));
        assert!(request.len() <= 6);
    }
    assert_eq!(history.len(), 4);
}

#[test]
fn limit_zero_keeps_the_current_exchange_only() {
    let mut history = History::new(HistoryLimits {
        messages: 0,
        ..LIMITS
    });
    history.commit(said("one", "1"));
    assert!(history.is_empty());
    assert_eq!(
        script(&history.request(None, &Exchange::new("two", []), true)),
        ["u:two"]
    );
}

#[test]
fn a_token_budget_trims_by_exchange_too() {
    let mut history = History::new(HistoryLimits {
        tokens: Some(10),
        ..LIMITS
    });
    // 4 and 1 tokens each.
    history.commit(said("sixteen letters.", "yes"));
    history.commit(said("sixteen letters.", "yes"));
    assert_eq!(history.len(), 4);
    let gone = history.commit(said("hm", "no"));
    assert_eq!(script(gone[0].messages()), ["u:sixteen letters.", "a:yes"]);
    assert_eq!(history.len(), 4);
}

#[test]
fn an_exchange_that_is_too_long_stays_without_its_tools() {
    let mut exchange = Exchange::new("book it", []);
    for round in ["c1", "c2", "c3", "c4"] {
        exchange
            .push_assistant(
                if round == "c1" { "One moment." } else { "" },
                [call(round)],
            )
            .unwrap();
        exchange
            .push_tool_result(round.into(), "look".into(), "{}", false)
            .unwrap();
    }
    exchange.finish("Booked.", false);
    let mut history = History::new(LIMITS);
    history.commit(said("hello", "hi"));
    let gone = history.commit(exchange);
    assert_eq!(gone.len(), 1);
    let messages: Vec<_> = history.messages().cloned().collect();
    assert_eq!(script(&messages), ["u:book it", "a:One moment. Booked."]);
}

#[test]
fn images_leave_with_their_window() {
    let mut history = History::new(HistoryLimits {
        attachment_turns: 2,
        ..LIMITS
    });
    let mut exchange = Exchange::new(
        "what is this",
        [picture(Some("a red bicycle")), picture(None)],
    );
    assert_eq!(
        script(&history.request(None, &exchange, false)),
        ["u:what is this++"]
    );
    exchange.finish("a bicycle", false);
    history.commit(exchange);
    let next = Exchange::new("colour?", [picture(None)]);
    assert_eq!(
        script(&history.request(None, &next, false))[0],
        "u:what is this++"
    );
    history.commit(next);
    let request = history.request(None, &Exchange::new("and now", []), false);
    assert_eq!(
        script(&request)[0],
        "u:what is this\n[image: a red bicycle]\n[image]"
    );
    assert_eq!(script(&request)[2], "u:colour?+");
    let Some(Message::User { attachments, .. }) = history.messages().next() else {
        panic!("no user message");
    };
    assert!(
        attachments
            .iter()
            .all(|image| image.source == ImageSource::Released)
    );
}

#[test]
fn by_default_the_second_turn_carries_no_image_of_the_first() {
    let mut history = History::new(LIMITS);
    let mut exchange = Exchange::new("", [picture(None)]);
    exchange.finish("a bicycle", false);
    history.commit(exchange);
    let request = history.request(None, &Exchange::new("thanks", []), false);
    assert_eq!(script(&request), ["u:[image]", "a:a bicycle", "u:thanks"]);
}

#[test]
fn adjacent_user_messages_are_joined_where_alternation_is_needed() {
    let mut history = History::new(HistoryLimits {
        attachment_turns: 9,
        ..LIMITS
    });
    history.commit(Exchange::new("well", [picture(None)]));
    history.commit(Exchange::new("I mean", []));
    let current = Exchange::new("this", [picture(None)]);
    assert_eq!(
        script(&history.request(None, &current, false)),
        ["u:well+", "u:I mean", "u:this+"]
    );
    assert_eq!(
        script(&history.request(None, &current, true)),
        ["u:well\nI mean\nthis++"]
    );
}

#[test]
fn an_interrupted_answer_says_so_in_the_request() {
    let mut exchange = Exchange::new("tell me", []);
    exchange.finish("Once upon", true);
    let mut history = History::new(LIMITS);
    history.commit(exchange);
    let request = history.request(None, &Exchange::new("stop", []), false);
    assert_eq!(
        script(&request)[1],
        "a:Once upon [interrupted by the user]!"
    );
    assert_eq!(
        history.messages().nth(1).map(Message::text),
        Some("Once upon")
    );
}

#[test]
fn interrupted_shapes_keep_what_happened() {
    let tools = || {
        let mut exchange = Exchange::new("q", []);
        exchange
            .push_assistant("Let me look. ", [call("c1"), call("c2")])
            .unwrap();
        exchange
            .push_tool_result("c2".into(), "look".into(), "{}", false)
            .unwrap();
        exchange
    };
    for (mut exchange, heard, expected) in [
        (Exchange::new("q", []), "", &["u:q"][..]),
        (Exchange::new("q", []), "Sure", &["u:q", "a:Sure!"]),
        (tools(), "", &["u:q", "a:[c1,c2]!", "t:c2", "t:c1!"]),
        (
            tools(),
            "Let me",
            &["u:q", "a:Let me[c1,c2]!", "t:c2", "t:c1!"],
        ),
        (
            tools(),
            "Let me look.",
            &["u:q", "a:Let me look. [c1,c2]", "t:c2", "t:c1!"],
        ),
        (
            tools(),
            "Let me look. It is",
            &["u:q", "a:Let me look. [c1,c2]", "t:c2", "t:c1!", "a:It is!"],
        ),
        (
            tools(),
            "Other",
            &["u:q", "a:Let me look. [c1,c2]", "t:c2", "t:c1!", "a:Other!"],
        ),
    ] {
        exchange.finish(heard, true);
        assert_eq!(script(exchange.messages()), expected, "{heard:?}");
        assert_valid(exchange.messages());
    }
}

#[test]
fn open_calls_are_cancelled_by_whatever_comes_next() {
    let mut exchange = Exchange::new("q", []);
    exchange.push_assistant("", [call("c1")]).unwrap();
    let shown = History::new(LIMITS).request(None, &exchange, false);
    assert_eq!(script(&shown), ["u:q", "a:[c1]", "t:c1!"]);
    assert!(shown[2].text().contains("\"cancelled\""));
    exchange.push_assistant("", [call("c1")]).unwrap();
    let mut history = History::new(LIMITS);
    history.commit(exchange);
    let messages: Vec<_> = history.messages().cloned().collect();
    assert_eq!(
        script(&messages),
        ["u:q", "a:[c1]", "t:c1!", "a:[c1]", "t:c1!"]
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut exchange = Exchange::new("q", []);
    let unknown = HistoryError::UnknownCall("c1".into());
    assert_eq!(
        exchange.push_tool_result("c1".into(), "look".into(), "", false),
        Err(unknown.clone())
    );
    assert_eq!(
        exchange.push_assistant("", [call("c1"), call("c1")]),
        Err(HistoryError::DuplicateCall("c1".into()))
    );
    exchange.push_assistant("", [call("c1")]).unwrap();
    exchange
        .push_tool_result("c1".into(), "look".into(), "", false)
        .unwrap();
    assert_eq!(
        exchange.push_tool_result("c1".into(), "look".into(), "", false),
        Err(unknown)
    );
    assert_eq!(script(exchange.messages()), ["u:q", "a:[c1]", "t:c1"]);
    assert!(exchange.ran_tools());
}

#[test]
fn adjacent_assistant_texts_are_one_message() {
    let mut exchange = Exchange::new("q", []);
    exchange.push_assistant("", []).unwrap();
    exchange.push_assistant("One.", []).unwrap();
    exchange.push_assistant("Two.", [call("c1")]).unwrap();
    assert_eq!(script(exchange.messages()), ["u:q", "a:One. Two.[c1]"]);
    exchange.finish("Three.", false);
    assert_eq!(
        script(exchange.messages()),
        ["u:q", "a:One. Two.[c1]", "t:c1!", "a:Three."]
    );
}

#[test]
fn halving_drops_the_older_half() {
    let mut history = History::new(LIMITS);
    for turn in 0..3 {
        history.commit(said(&turn.to_string(), "a"));
    }
    assert!(history.halve());
    assert_eq!(history.messages().next().map(Message::text), Some("2"));
    assert!(history.halve());
    assert!(!history.halve());
}

#[test]
fn a_snapshot_survives_storage_and_fits_new_limits() {
    let mut history = History::new(LIMITS);
    history.commit(said("one", "1"));
    let mut exchange = Exchange::new("two", []);
    exchange.push_assistant("", [call("c1")]).unwrap();
    exchange.finish("tw", true);
    history.commit(exchange);
    let stored: Vec<_> = history.snapshot().messages().cloned().collect();
    let snapshot = HistorySnapshot::try_from(stored).unwrap();
    assert_eq!(snapshot, history.snapshot());
    let mut smaller = History::new(HistoryLimits {
        messages: 4,
        ..LIMITS
    });
    smaller.restore(snapshot);
    assert_eq!(smaller.len(), 4);
    smaller.clear();
    assert!(smaller.is_empty());

    for (messages, error) in [
        (vec![Message::system("s")], HistoryError::StoredSystem),
        (vec![Message::assistant("a")], HistoryError::NoUser),
    ] {
        assert_eq!(HistorySnapshot::try_from(messages), Err(error));
    }
}

#[test]
fn debug_shows_no_text() {
    let mut history = History::new(LIMITS);
    history.commit(said("canary", "canary"));
    let shown = format!(
        "{history:?} {:?} {:?}",
        history.snapshot(),
        said("canary", "")
    );
    assert!(!shown.contains("canary"));
}

proptest! {
    #[test]
    fn no_way_of_using_it_breaks_the_message_rules(
        limit in 0_usize..12,
        tokens in prop::option::of(0_usize..40),
        steps in prop::collection::vec((0_u8..7, 0_u8..4, "[a-z ]{0,12}"), 0..60),
        alternation in any::<bool>(),
    ) {
        let limits = HistoryLimits { messages: limit, tokens, attachment_turns: 1 };
        let mut history = History::new(limits);
        let mut current = Exchange::new("q", []);
        for (step, id, text) in steps {
            let id = format!("c{id}");
            match step {
                0 => current.finish(&text, false),
                1 => current.finish(&text, true),
                // Refusals leave the exchange as it was, which is what is checked.
                2 | 3 => drop(current.push_assistant(text.as_str(), [call("c0"), call(&id)])),
                4 => drop(current.push_tool_result(id.as_str().into(), "look".into(), text, false)),
                5 => drop(history.halve()),
                _ => {
                    let done = std::mem::replace(&mut current, Exchange::new("q", []));
                    history.commit(done);
                }
            }
            prop_assert!(history.len() <= limit);
            let request = history.request(Some("s"), &current, alternation);
            assert_valid(&request);
            let user = matches!(request[1], Message::User { .. });
            prop_assert!(user);
            if alternation {
                let users = |m: &Message| matches!(m, Message::User { .. });
                let adjacent = request.windows(2).any(|pair| users(&pair[0]) && users(&pair[1]));
                prop_assert!(!adjacent);
            }
        }
    }
}

use llmrtc_core::{id::TurnId, provider::LlmConfig};
use llmrtc_security::redact::RedactConfig;

use super::*;

fn privacy() -> Arc<Privacy> {
    let config = RedactConfig::default();
    let redactor = Arc::new(Redactor::new(&config).unwrap());
    Arc::new(Privacy::new(redactor, Arc::new(config.sinks), Some("en")).unwrap())
}

fn request(texts: &[&str]) -> LlmRequest {
    LlmRequest {
        messages: texts.iter().map(|text| Message::user(*text)).collect(),
        config: LlmConfig::default(),
        ..LlmRequest::default()
    }
}

#[test]
fn t13_a_card_is_whole_for_its_tool_and_for_nobody_else() {
    let privacy = privacy();
    let said = "my card is 4111 1111 1111 1111 thanks";
    let mut asked = request(&[said]);
    privacy.for_vendor(&mut asked);
    let seen = asked.messages[0].text().to_owned();
    assert!(!seen.contains("1111"), "{seen}");
    let name = seen[seen.find('[').unwrap()..=seen.find(']').unwrap()].to_owned();

    let arguments = serde_json::json!({ "card": name, "deep": [{ "x": name }], "n": 1 });
    let Value::Object(arguments) = arguments else {
        unreachable!()
    };
    let restored = Value::Object(privacy.restore(arguments)).to_string();
    assert_eq!(
        restored.matches("4111 1111 1111 1111").count(),
        2,
        "{restored}"
    );

    for shown in [privacy.for_client(said), privacy.for_storage(said)] {
        assert!(!shown.contains("4111 1111"), "{shown}");
    }
    assert!(
        privacy.for_client(said).contains("1111"),
        "the caller recognises the card"
    );
    assert!(!privacy.for_storage(said).contains("1111"));
}

#[test]
fn e1_a_stored_conversation_holds_no_card_however_it_was_said() {
    let call = ToolCall {
        call_id: "c1".into(),
        name: "pay".into(),
        arguments: [("card".to_owned(), "4111 1111 1111 1111".into())]
            .into_iter()
            .collect(),
        parse_error: None,
    };
    let history = HistorySnapshot::try_from(vec![
        Message::user("it is 4111 1111"),
        Message::assistant("Go on."),
        Message::user("1111 1111"),
        Message::Assistant {
            text: "".into(),
            tool_calls: [call].into(),
            interrupted: false,
        },
        Message::Tool {
            call_id: "c1".into(),
            name: "pay".into(),
            content: r#"{"paid_with":"4111 1111 1111 1111"}"#.into(),
            is_error: false,
        },
        Message::assistant("Paid, and the weather is fine."),
    ]);
    let history = history.unwrap();
    let (heard, recalled) = (privacy(), privacy());
    said(&heard, 1, "it is 4111 1111");
    answered(&heard, 1, "Go on.");
    said(&heard, 2, "1111 1111");
    // Another connection of the same session.
    said(&recalled, 1, "something else");
    recalled.recall(&history);
    for privacy in [heard, recalled] {
        let stored = privacy.stored(&history);
        assert_eq!(stored.messages().count(), history.messages().count());
        let stored = serde_json::to_string(&stored).unwrap();
        assert!(!stored.contains("1111"), "{stored}");
        assert!(stored.contains("[CARD]"), "{stored}");
        assert!(stored.contains("the weather is fine"), "{stored}");
        let mut asked = LlmRequest {
            messages: history.messages().cloned().collect(),
            ..request(&[])
        };
        privacy.for_vendor(&mut asked);
        assert!(!asked.messages[0].text().contains("4111"));
    }
}

fn said(privacy: &Privacy, turn: u64, text: &str) {
    privacy.note(&TurnEvent::Transcript {
        turn: TurnId(turn),
        text: text.into(),
        is_final: true,
        confidence: None,
    });
}

fn answered(privacy: &Privacy, turn: u64, text: &str) {
    privacy.note(&TurnEvent::LlmDone {
        turn: TurnId(turn),
        text: text.into(),
        stop_reason: llmrtc_core::provider::StopReason::EndTurn,
        usage: llmrtc_core::provider::Usage::default(),
    });
}

#[test]
fn e1_half_a_card_is_taken_out_of_what_is_stored_when_the_other_half_is_said() {
    let privacy = privacy();
    answered(&privacy, 0, "What is your card number?");
    let question = privacy.question();
    said(&privacy, 1, "it is 4111 1111");
    assert_eq!(privacy.revised_for_storage(1, &question), None);
    answered(&privacy, 1, "Go on.");
    said(&privacy, 2, "1111 1111");
    let stored = privacy.revised_for_storage(1, &question).unwrap();
    assert!(
        stored.starts_with("it is [") && !stored.contains("4111"),
        "{stored}"
    );
    assert_eq!(privacy.revised_for_storage(3, &question), None);
}

#[test]
fn e1_what_was_found_is_counted_by_kind() {
    let privacy = privacy();
    assert!(privacy.found().is_empty());
    said(
        &privacy,
        1,
        "4111 1111 1111 1111 or write to ann@example.com",
    );
    let found = privacy.found();
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, ["card", "email"]);
    assert!(found.iter().all(|(_, count)| *count == 1));
}

#[test]
fn names_in_an_answer_become_what_the_caller_may_see_however_it_is_cut() {
    let privacy = privacy();
    let mut asked = request(&["4111 1111 1111 1111"]);
    privacy.for_vendor(&mut asked);
    let name = asked.messages[0].text().to_owned();
    let answer = format!("I charged {name} [sic] as [asked");
    for size in [1, 3, 7, 100] {
        let mut filter = Names::new(Arc::clone(&privacy));
        let mut out = String::new();
        let pieces: Vec<char> = answer.chars().collect();
        for piece in pieces.chunks(size) {
            out += &filter.push(&piece.iter().collect::<String>()).unwrap();
        }
        out += &filter.finish().unwrap();
        assert!(
            out.starts_with("I charged ") && out.ends_with(" [sic] as [asked"),
            "{out}"
        );
        assert!(!out.contains(&name) && !out.contains("4111 1111"), "{out}");
    }
}

#[test]
fn a_number_in_pieces_is_taken_out_of_the_turns_it_was_said_in() {
    let privacy = privacy();
    let agent = |text: &str| TurnEvent::LlmDone {
        turn: TurnId(1),
        text: text.into(),
        stop_reason: llmrtc_core::provider::StopReason::EndTurn,
        usage: Default::default(),
    };
    let user = |turn, text: &str| TurnEvent::Transcript {
        turn: TurnId(turn),
        text: text.into(),
        is_final: true,
        confidence: None,
    };
    privacy.note(&agent("Sure. What is your card number?"));
    let pieces = [
        "four one one one one one one one",
        "one one one one",
        "one one one one",
    ];
    for (turn, piece) in pieces.iter().enumerate() {
        privacy.note(&user(turn as u64 + 1, piece));
        privacy.note(&agent("Go on."));
    }
    let mut asked = request(&pieces);
    privacy.for_vendor(&mut asked);
    for message in &asked.messages {
        assert!(
            !message.text().contains("one one one one"),
            "{}",
            message.text()
        );
    }
}

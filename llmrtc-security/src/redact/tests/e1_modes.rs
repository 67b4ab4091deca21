//! E1: what takes a span's place.

use super::*;

const TEXT: &str = "card 4111 1111 1111 1111, call 415-555-2671, cvv 123";

#[track_caller]
fn check(mode: Mode, expected: &str) {
    let out = redactor()
        .redact(TEXT, &Context::default(), &SinkPolicy::all(mode), None)
        .into_owned();
    assert_eq!(out, expected);
}

#[test]
fn modes_without_a_session() {
    check(Mode::Tag, "card [CARD], call [PHONE], cvv [CVV]");
    check(
        Mode::Mask,
        "card **** **** **** ****, call ***-***-****, cvv [CVV]",
    );
    check(
        Mode::KeepLast4,
        "card **** **** **** 1111, call ***-***-**71, cvv [CVV]",
    );
    check(
        Mode::KeepFirst6Last4,
        "card 4111 11** **** 1111, call ***-***-**71, cvv [CVV]",
    );
    // A policy may let everything pass but a verification value.
    check(
        Mode::Pass,
        "card 4111 1111 1111 1111, call 415-555-2671, cvv [CVV]",
    );
}

#[test]
fn a_pseudonym_is_the_same_within_a_session_and_another_elsewhere() {
    let redactor = redactor();
    let (one, other) = (SessionTokens::new().unwrap(), SessionTokens::new().unwrap());
    let policy = SinkPolicy::all(Mode::Pseudonym);
    let name = |session: &SessionTokens, text: &str| {
        redactor
            .redact(text, &Context::default(), &policy, Some(session))
            .into_owned()
    };
    let card = name(&one, "4111 1111 1111 1111");
    assert!(
        card.starts_with("[CARD_") && card.ends_with(']') && !card.contains("1111"),
        "{card}"
    );
    assert_eq!(card, name(&one, "4111-1111-1111-1111"));
    assert_ne!(card, name(&one, "5500 0000 0000 0004"));
    assert_ne!(card, name(&other, "4111 1111 1111 1111"));
}

#[test]
fn a_token_turns_back_in_its_session_only_and_a_verification_value_never() {
    let redactor = redactor();
    let (one, other) = (SessionTokens::new().unwrap(), SessionTokens::new().unwrap());
    let out = redactor
        .redact(
            TEXT,
            &Context::default(),
            &SinkPolicy::all(Mode::Token),
            Some(&one),
        )
        .into_owned();
    // Names of tokens are random, so what they happen to contain says nothing.
    let around: String = out
        .split('[')
        .map(|part| part.split_once(']').map_or(part, |(_, rest)| rest))
        .collect();
    assert_eq!(around, "card , call , cvv ", "{out}");
    assert_eq!(
        one.restore(&out),
        "card 4111 1111 1111 1111, call 415-555-2671, cvv [CVV]"
    );
    assert_eq!(other.restore(&out), out);
    assert_eq!(one.restore("[CARD] [x [] ["), "[CARD] [x [] [");
    assert_eq!(
        one.restore(&one.token(&Kind::Cvv, "987")),
        one.pseudonym(&Kind::Cvv, "987")
    );
    assert!(!format!("{one:?}").contains("4111"));
}

#[test]
fn the_vault_is_bounded_and_names_stay_consistent_beyond() {
    let session = SessionTokens::new().unwrap();
    let names: Vec<String> = (0..2000)
        .map(|number| session.token(&Kind::Number, &format!("{number:06}")))
        .collect();
    assert_eq!(session.restore(&names[0]), "000000");
    assert_eq!(session.restore(&names[1999]), names[1999]);
    assert_eq!(session.token(&Kind::Number, "001999"), names[1999]);
}

#[test]
fn sinks_differ() {
    let sinks = RedactConfig::default().sinks;
    let session = SessionTokens::new().unwrap();
    let redactor = redactor();
    let seen = |policy: &SinkPolicy| {
        redactor
            .redact(TEXT, &Context::default(), policy, Some(&session))
            .into_owned()
    };
    assert_eq!(seen(&sinks.log), "card [CARD], call [PHONE], cvv [CVV]");
    assert_eq!(seen(&sinks.storage), "card [CARD], call [PHONE], cvv [CVV]");
    assert_eq!(
        seen(&sinks.client),
        "card **** **** **** 1111, call 415-555-2671, cvv [CVV]"
    );
    let vendor = seen(&sinks.vendor);
    assert!(
        vendor.contains("[CARD_")
            && vendor.contains("415-555-2671")
            && vendor.ends_with("cvv [CVV]"),
        "{vendor}"
    );
}

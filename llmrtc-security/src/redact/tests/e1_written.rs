//! E1: identifiers as people write them, and text that looks like them and is harmless.

use super::*;

#[test]
fn written_identifiers_are_found_whole() {
    check_marked(&[
        // Cards.
        "my card is ‹4111 1111 1111 1111› thanks",
        "charge ‹4111111111111111› please",
        "amex ‹3782 822463 10005›",
        "card number ‹1234-5678-9012-3456›",
        "‹4111 1111 1111 1111› ‹04/27› ‹123›",
        // Telephone numbers.
        "call me at ‹(415) 555-2671› or ‹415-555-2671 ext 12›",
        "‹+44 20 7946 0958›, ‹020 7946 0958› and ‹07700 900123›",
        "phone ‹001-581-896-0013x3890› and ‹581.896.0013x123› or ‹+1-581-896-0013›",
        "Meine Nummer ist ‹0151 23456789›, oder ‹030/123456›",
        "‹06 12 34 56 78› est mon numéro",
        "mi teléfono es ‹612 345 678›",
        "meu celular é ‹(11) 91234-5678›",
        "no-break spaces: ‹01\u{a0}23\u{a0}45\u{a0}67\u{a0}89›",
        // The network.
        "‹john.doe@example.com› and ‹jane_d+x@sub.example.co.uk›.",
        "reach ‹john [at] example [dot] com› or ‹a (at) b.org›",
        "visit ‹www.example.com› or ‹garcia.info› today, ‹smith-jones.biz›!",
        "‹https://example.com/path?x=1›, http://localhost:8787/",
        "‹192.168.1.10› and ‹2001:db8::8a2e:370:7334› ‹00:1A:2B:3C:4D:5E›",
        // Banks.
        "‹DE89 3704 0044 0532 0130 00› and ‹GB82WEST12345698765432›",
        "sort code ‹12-34-56› account number ‹12345678›, BIC ‹DEUTDEFF500›",
        // National numbers.
        "SSN ‹123-45-6789› or ‹123456789›",
        "‹QQ 12 34 56 C› or ‹QQ123456C›",
        "CPF ‹529.982.247-25›, CNPJ ‹11.222.333/0001-81›",
        "DNI ‹12345678Z› and ‹X1234567L›, ‹12345678-Z›",
        "‹RSSMRA85T10A562S› ‹HEGG560427MVZRRL04› ‹ABCPE1234F›",
        "AHV ‹756.9217.0769.85› NIR ‹2 55 08 14 168 025 38›",
        "passport number ‹C01X00T47›, driver's license ‹D1234567›",
        // Codes.
        "the pin is ‹1234›, cvv ‹123›",
        "‹482913› is my one-time code",
        // Birth dates, addresses, names.
        "born on ‹March 5, 1987› or ‹05/03/1987›, DOB: ‹1987-03-05›",
        "geboren ‹am 5. März 1987›",
        "I live at ‹221B Baker Street›, London ‹NW1 6XE›",
        "‹123 Main St, Springfield, IL 62701›",
        "Ich wohne in der ‹Hauptstraße 12› in Berlin",
        "‹12 rue de la Paix›, Paris",
        "vivo en la ‹Calle Mayor 5›, Madrid",
        "My name is ‹John Smith› and this is ‹Jane Doe› speaking",
        "Dear Mr. ‹Smith›",
        "my password is ‹hunter2› and password: ‹Tr0ub4dor&3›",
    ]);
}

#[test]
fn harmless_text_stays() {
    check_marked(&[
        "I'd like a table for 4 at 7:30 pm on 05/03/2027 please",
        "room 204 on floor 2, 12 people, $1,234.56 in total",
        "order number 12345678, tracking 1Z999AA10123456784",
        "version 1.2.3.4 is out at 10:30:00 on 2024-01-15",
        "v1.2.3 of main.rs, README.md, script.py and node.js, e.g. this",
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 commit 3f2a9c1d",
        "550e8400-e29b-41d4-a716-446655440000",
        "it was 45.5% of 12345678 bytes at 1700000000",
        "the 3rd of 12 items, half past seven, 2 x 4",
        "flight BA2490 leaves from gate B12 at 18:05",
        "my password is not working, what is the password policy?",
        "I was born in the city and live on the main street",
        "can I pay by card? is my phone number still the same?",
        "fingerprint 82:32:40:8C:5D:D4:4F:84:A0:38:9A:28:73:0F:8A:C9:02:8E:23:1C",
        "1920x1080 at 144Hz, 5G, HTTP/1.1 200 OK",
        "quiero una mesa para 4 a las 7:30",
    ]);
}

#[test]
fn the_question_before_says_what_a_bare_number_is() {
    let redactor = redactor();
    let check = |previous: &str, text: &str, kind: &str| {
        let spans = redactor.spans(
            text,
            &Context {
                previous: Some(previous),
                ..Context::default()
            },
        );
        let kinds: Vec<&str> = spans.iter().map(|span| span.kind.name()).collect();
        assert_eq!(kinds, [kind], "{previous} {text}");
    };
    check("What is your account number?", "12345678", "bank_account");
    check("And the security code on the back?", "123", "cvv");
    check("May I have your passport number?", "123456789", "passport");
}

#[test]
fn nothing_found_allocates_nothing() {
    let redactor = redactor();
    let text = "I'd like a table for four at half past seven on Friday please";
    assert_eq!(redactor.spans(text, &Context::default()).capacity(), 0);
    let out = redactor.redact(text, &Context::default(), &SinkPolicy::default(), None);
    assert!(matches!(out, std::borrow::Cow::Borrowed(same) if std::ptr::eq(same, text)));
}

#[test]
fn long_texts_are_redacted_in_every_frame_and_across_them() {
    let redactor = redactor();
    for padding in [
        redactor::FRAME - 10,
        redactor::FRAME - 19,
        3 * redactor::FRAME - 5,
    ] {
        let text = format!(
            "{} 4111 1111 1111 1111 {}",
            "x ".repeat(padding / 2),
            "y ".repeat(5000)
        );
        let out = redactor.redact(&text, &Context::default(), &SinkPolicy::default(), None);
        assert!(
            !out.contains("111") && out.contains("[CARD]"),
            "padding {padding}"
        );
    }
}

#[test]
fn a_configuration_adds_allows_denies_and_switches_off() {
    let config: RedactConfig = serde_json::from_value(serde_json::json!({
        "off": ["ip"],
        "allow": ["+1 800 555 0100", "support@example.com"],
        "deny": ["Project Bluebird"],
        "recognisers": [
            {"name": "member", "pattern": "M-\\d{6}\\b"},
            {"name": "imei", "pattern": "\\d{15}\\b", "check": "luhn", "near": ["imei"]},
        ],
    }))
    .expect("valid JSON");
    validator::Validate::validate(&config).expect("valid");
    let redactor = Redactor::new(&config).expect("compiles");
    let check = |text: &str, expected: &str| {
        assert_eq!(
            redactor.redact(text, &Context::default(), &SinkPolicy::default(), None),
            expected
        );
    };
    check("from 192.168.1.10", "from 192.168.1.10");
    check(
        "call +1 800 555 0100 or +1 415 555 2671",
        "call +1 800 555 0100 or [PHONE]",
    );
    check(
        "mail Support@Example.com or me@example.com",
        "mail Support@Example.com or [EMAIL]",
    );
    check(
        "about project bluebird, member M-123456",
        "about [DENIED], member [MEMBER]",
    );
    check("the IMEI is 490154203237518", "the IMEI is [IMEI]");
    check("the IMEI is 490154203237519", "the IMEI is 490154203237519");
    check("490154203237518 items", "490154203237518 items");
}

#[test]
fn a_wrong_configuration_is_refused() {
    let parse = |json: serde_json::Value| {
        serde_json::from_value::<RedactConfig>(json).expect("the fields exist")
    };
    for json in [
        serde_json::json!({"off": ["cardd"]}),
        serde_json::json!({"deny": [" "]}),
        serde_json::json!({"recognisers": [{"name": "card", "pattern": "x"}]}),
        serde_json::json!({"recognisers": [{"name": "own", "pattern": "x", "score": 2.0}]}),
        serde_json::json!({"sinks": {"log": {"kinds": {"cvv": "keep_last4"}}}}),
        serde_json::json!({"sinks": {"log": {"kinds": {"nothing": "mask"}}}}),
    ] {
        assert!(
            validator::Validate::validate(&parse(json.clone())).is_err(),
            "{json}"
        );
    }
    let unbalanced = parse(serde_json::json!({"recognisers": [{"name": "own", "pattern": "("}]}));
    assert!(matches!(
        Redactor::new(&unbalanced),
        Err(RedactConfigError::Pattern { .. })
    ));
}

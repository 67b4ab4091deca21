mod heard;
mod properties;

use std::time::{Duration, Instant};

use super::*;

fn chunker(language: &str) -> Chunker {
    Chunker::new(ChunkerConfig {
        language: (!language.is_empty()).then(|| language.to_owned()),
        ..ChunkerConfig::default()
    })
}

/// Speaks `deltas` without any hold and returns the segments and the rest.
fn run(chunker: &mut dyn SentenceChunker, deltas: &[&str]) -> (Vec<Segment>, Range<usize>) {
    let now = Instant::now();
    let mut out = Vec::new();
    for delta in deltas {
        chunker.push(delta, now, &mut out);
    }
    let rest = chunker.flush(&mut out);
    (out, rest)
}

/// Spans and rest must be the text, indices must count.
fn assert_lossless(segments: &[Segment], rest: &Range<usize>, len: usize) {
    let mut end = 0;
    for (index, segment) in segments.iter().enumerate() {
        assert_eq!(segment.index as usize, index);
        assert_eq!(segment.span.start, end, "segment {index} is not adjacent");
        end = segment.span.end;
    }
    assert_eq!(*rest, end..len);
}

/// One case: the text in one delta and character by character gives `expected`.
#[track_caller]
fn check(language: &str, text: &str, expected: &[&str]) {
    let (segments, rest) = run(&mut chunker(language), &[text]);
    assert_lossless(&segments, &rest, text.len());
    let spoken: Vec<_> = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    assert_eq!(spoken, expected);
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<_> = chars.iter().map(String::as_str).collect();
    let (slowly, _) = run(&mut chunker(language), &chars);
    assert_eq!(slowly, segments, "cut character by character");
}

/// What leaves before the text goes on, with and without the hold.
#[track_caller]
fn check_hold(language: &str, text: &str, at_once: &[&str], after_hold: &[&str]) {
    let mut chunker = chunker(language);
    let start = Instant::now();
    let mut out = Vec::new();
    let spoken = |out: &[Segment]| out.iter().map(|s| s.text.clone()).collect::<Vec<_>>();
    chunker.push(text, start, &mut out);
    assert_eq!(spoken(&out), at_once, "before the hold");
    chunker.tick(start + Duration::from_millis(149), &mut out);
    assert_eq!(spoken(&out), at_once, "during the hold");
    let pending = after_hold.len() > at_once.len();
    let due = pending.then(|| start + Duration::from_millis(150));
    assert_eq!(chunker.deadline(), due);
    chunker.tick(start + Duration::from_millis(150), &mut out);
    assert_eq!(spoken(&out), after_hold, "after the hold");
    assert_eq!(chunker.deadline(), None.filter(|_: &Instant| pending));
}

#[test]
fn the_reference_catalogue() {
    check(
        "en",
        "First sentence. Second sentence? Third sentence!",
        &["First sentence.", "Second sentence?", "Third sentence!"],
    );
    check("en", "Wait... Really? Yes!", &["Wait...", "Really? Yes!"]);
    check("en", "No final punctuation", &["No final punctuation"]);
    check(
        "en",
        "It is about 3.14 in all.",
        &["It is about 3.14 in all."],
    );
    check("en", "", &[]);
    check("en", " \n\t ", &[]);
}

#[test]
fn c1_unspaced_terminators_end_a_sentence() {
    check(
        "zh",
        "你好世界。今天天气很好！我们走吧？好",
        &["你好世界。", "今天天气很好！", "我们走吧？", "好"],
    );
    check(
        "ja",
        "これはペンです。「本当ですか。」と聞いた。",
        &["これはペンです。", "「本当ですか。」", "と聞いた。"],
    );
    check(
        "hi",
        "यह एक वाक्य है।यह दूसरा वाक्य है।",
        &["यह एक वाक्य है।", "यह दूसरा वाक्य है।"],
    );
    check(
        "ar",
        "كيف حالك اليوم؟أنا بخير والحمد لله",
        &["كيف حالك اليوم؟", "أنا بخير والحمد لله"],
    );
    check(
        "zh",
        "真的吗？！我不相信你说的话",
        &["真的吗？", "我不相信你说的话"],
    );
    check("ja", "円周率は３．１４です。", &["円周率は３．１４です。"]);
    // The first leaves with its mark, not with the next character.
    check_hold("zh", "你好。", &["你好。"], &["你好。"]);
    check_hold("zh", "「你好。", &[], &["「你好。"]);
}

#[test]
fn c2_and_c3_terminators_need_white_space_and_take_closers_along() {
    check(
        "en",
        "He said \"stop it now.\" Then he left.",
        &["He said \"stop it now.\"", "Then he left."],
    );
    check(
        "en",
        "(This is an aside.) This is not.",
        &["(This is an aside.)", "This is not."],
    );
    check(
        "en",
        "See example.com for details.",
        &["See example.com for details."],
    );
    check(
        "en",
        "Is that really so?! Yes, it really is.",
        &["Is that really so?!", "Yes, it really is."],
    );
    check(
        "el",
        "Τι κάνεις σήμερα; Είμαι πολύ καλά.",
        &["Τι κάνεις σήμερα;", "Είμαι πολύ καλά."],
    );
    check(
        "",
        "Τι κάνεις σήμερα; Είμαι πολύ καλά.",
        &["Τι κάνεις σήμερα;", "Είμαι πολύ καλά."],
    );
    check(
        "hy",
        "Սա նախադասություն է։ Սա էլ մյուսն է։",
        &["Սա նախադասություն է։", "Սա էլ մյուսն է։"],
    );
}

#[test]
fn c4_line_breaks_are_boundaries() {
    check(
        "en",
        "A heading line\n\nThe text below it",
        &["A heading line", "The text below it"],
    );
    check(
        "en",
        "It is called etc.\nThe next line",
        &["It is called etc.", "The next line"],
    );
    check(
        "en",
        "Windows line end\r\nAnd the next line",
        &["Windows line end", "And the next line"],
    );
}

#[test]
fn c5_numbers_do_not_split() {
    check(
        "en",
        "Pi is 3.14159 or so, 1,000 times.",
        &["Pi is 3.14159 or so, 1,000 times."],
    );
    check(
        "en",
        "1. Wash the apples\n2. Cut the apples",
        &["1. Wash the apples", "2. Cut the apples"],
    );
    check(
        "en",
        "I was born in 1990. Then I grew up.",
        &["I was born in 1990.", "Then I grew up."],
    );
    check(
        "de",
        "Wir treffen uns am 3. Mai um zehn.",
        &["Wir treffen uns am 3. Mai um zehn."],
    );
    check_hold("en", "It costs about 3.", &[], &[]);
    check_hold("en", "It costs about 3. ", &[], &["It costs about 3."]);
}

#[test]
fn c6_abbreviations_do_not_split() {
    check(
        "en",
        "Ask Dr. Smith about it.",
        &["Ask Dr. Smith about it."],
    );
    check(
        "en",
        "Use a fruit, e.g. Apples are fine.",
        &["Use a fruit, e.g. Apples are fine."],
    );
    check(
        "en",
        "At 5 p.m. Monday it opens.",
        &["At 5 p.m. Monday it opens."],
    );
    check(
        "en",
        "It is room No. 5 upstairs. Go on.",
        &["It is room No. 5 upstairs.", "Go on."],
    );
    check("en", "No. That is wrong.", &["No.", "That is wrong."]);
    check(
        "en",
        "Call **Mrs.** Jones today.",
        &["Call Mrs. Jones today."],
    );
    check(
        "de",
        "Das gilt z.B. Montags und bzw. Dienstags.",
        &["Das gilt z.B. Montags und bzw. Dienstags."],
    );
    check(
        "de",
        "Das gilt z. B. Montags.",
        &["Das gilt z. B. Montags."],
    );
    check(
        "fr",
        "Voici Mme. Dupont et son chat.",
        &["Voici Mme. Dupont et son chat."],
    );
    check(
        "es",
        "Pregunte al Sr. García mañana.",
        &["Pregunte al Sr. García mañana."],
    );
    // A language's own table only, but all of them while it is unknown.
    check(
        "en",
        "He is called Ud. That is all.",
        &["He is called Ud.", "That is all."],
    );
    check(
        "",
        "He is called Ud. That is all.",
        &["He is called Ud. That is all."],
    );
    check_hold("en", "Ask about Dr.", &[], &[]);
    check_hold("en", "Ask about Dr. ", &[], &[]);
}

#[test]
fn abbreviations_can_be_added() {
    let mut chunker = Chunker::new(ChunkerConfig {
        abbreviations: vec!["Dept.".into()],
        ..ChunkerConfig::default()
    });
    let (segments, _) = run(&mut chunker, &["Ask the Dept. Of State about it."]);
    assert_eq!(segments.len(), 1);
}

#[test]
fn c7_initials_do_not_split() {
    check(
        "en",
        "It was J. R. R. Tolkien who did.",
        &["It was J. R. R. Tolkien who did."],
    );
    check(
        "en",
        "They live in the U.S. Army base.",
        &["They live in the U.S. Army base."],
    );
    check(
        "en",
        "So do you and so do I. Then we agree.",
        &["So do you and so do I.", "Then we agree."],
    );
    check(
        "de",
        "Das ist Johannes I. Von ihm kam es.",
        &["Das ist Johannes I. Von ihm kam es."],
    );
}

#[test]
fn c8_lower_case_goes_on_after_a_full_stop() {
    check(
        "en",
        "He waited... and then he left.",
        &["He waited... and then he left."],
    );
    check(
        "en",
        "He waited… and then he left.",
        &["He waited… and then he left."],
    );
    check(
        "en",
        "Stop right there! he shouted at us.",
        &["Stop right there!", "he shouted at us."],
    );
}

#[test]
fn c9_a_hold_confirms_what_is_not_vetoed() {
    check_hold("en", "Hello there.", &[], &["Hello there."]);
    check_hold("en", "Hello there. ", &[], &["Hello there."]);
    check_hold("en", "Hello there!\"", &[], &["Hello there!\""]);
    check_hold("en", "Hello there", &[], &[]);
    // Too short to go alone, so there is nothing to wait for.
    check_hold(
        "en",
        "Hello there. Yes! Oh.",
        &["Hello there."],
        &["Hello there."],
    );
}

#[test]
fn c9_new_text_renews_the_hold_and_a_decimal_stays_whole() {
    let mut chunker = chunker("en");
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut out = Vec::new();
    for (delta, ms) in [
        ("Pi is ", 0),
        ("3", 100),
        (".", 200),
        ("14", 600),
        (".", 700),
    ] {
        chunker.push(delta, at(ms), &mut out);
        chunker.tick(at(ms + 149), &mut out);
    }
    assert!(out.is_empty());
    chunker.tick(at(850), &mut out);
    assert!(out.is_empty(), "a digit before the stop vetoes the hold");
    chunker.flush(&mut out);
    assert_eq!(out[0].text, "Pi is 3.14.");
}

#[test]
fn c10_the_first_segment_may_end_with_a_clause() {
    check(
        "en",
        "That is a very good question, and the answer, I think, is yes.",
        &[
            "That is a very good question,",
            "and the answer, I think, is yes.",
        ],
    );
    check(
        "en",
        "Well, I do not know what to say.",
        &["Well, I do not know what to say."],
    );
    check(
        "en",
        "They left the building at 10:30, with no umbrella",
        &["They left the building at 10:30,", "with no umbrella"],
    );
    check(
        "en",
        "They stayed in the city 2010–2020 or so",
        &["They stayed in the city 2010–2020 or so"],
    );
    check(
        "zh",
        "今天的天气真的非常好，我们出去吧，好吗",
        &["今天的天气真的非常好，", "我们出去吧，好吗"],
    );
    check("zh", "好的，我知道了", &["好的，我知道了"]);
}

#[test]
fn c11_short_segments_merge_with_the_next() {
    check(
        "en",
        "Sure. Yes. No way. This one is long enough. Bye.",
        &["Sure.", "Yes. No way.", "This one is long enough.", "Bye."],
    );
    check(
        "zh",
        "好。是的。我明白了。嗯。",
        &["好。", "是的。我明白了。", "嗯。"],
    );
}

#[test]
fn c12_long_segments_are_split() {
    let lengths = |text: &str| -> Vec<usize> {
        let (segments, rest) = run(&mut chunker("en"), &[text]);
        assert_lossless(&segments, &rest, text.len());
        segments
            .iter()
            .map(|segment| segment.text.chars().count())
            .collect()
    };
    // At white space, at the last clause mark, and where neither exists, before the hard cap.
    assert_eq!(lengths(&"word ".repeat(200)), [219, 219, 219, 219, 119]);
    let clauses = format!("Go, {}, {}", "word ".repeat(20).trim(), "word ".repeat(30));
    let (segments, _) = run(&mut chunker("en"), &["Hello. ", &clauses]);
    assert!(
        segments[1].text.ends_with("word,"),
        "{:?}",
        segments[1].text
    );
    assert_eq!(lengths(&"x".repeat(1_000)), [399, 399, 202]);
    // A family is one grapheme, which only the cap itself may cut.
    let family = "e\u{301}\u{302}\u{303}".repeat(300);
    assert!(lengths(&family).iter().all(|n| *n <= 400 && n % 4 == 0));
    assert_eq!(lengths(&format!("a{}", "\u{301}".repeat(999)))[0], 400);
    assert!(
        lengths(&format!("Go{} and on", "!".repeat(2_000)))
            .iter()
            .all(|n| *n <= 400)
    );
}

#[test]
fn c13_what_cannot_be_said_joins_its_neighbour() {
    check(
        "en",
        "--- \n*** Now we begin here.",
        &["Now we begin here."],
    );
    check("en", "All done now. 🎉🎉", &["All done now."]);
    check("en", "🎉", &[]);
    check("en", "... !!! ???", &[]);
    check(
        "en",
        "All done now. ~~~tilde~~~ is no fence here.",
        &["All done now.", "tilde~~~ is no fence here."],
    );
    check(
        "es",
        "¡¿Qué?! ¿Cómo está usted hoy?",
        &["¡¿Qué?!", "¿Cómo está usted hoy?"],
    );
    check(
        "en",
        "First of all. $5 is the price, or .5 of it.",
        &["First of all.", "$5 is the price, or .5 of it."],
    );
    let (_, rest) = run(&mut chunker("en"), &["All done now. 🎉"]);
    assert_eq!(rest, 13..18);
}

#[test]
fn c15_the_filter_drops_what_is_not_said() {
    check(
        "en",
        "Here is the code:\n```rust\nfn main() {}\n\nlet a = 1. B\n```\nThat is all of it.",
        &["Here is the code:", "That is all of it."],
    );
    check(
        "en",
        "Oh! Try:\n```\nx\n```\nand run it again.",
        &["Oh!", "Try:\nand run it again."],
    );
    check(
        "en",
        "Never closed here\n```\nlet x = 1;",
        &["Never closed here"],
    );
    check(
        "en",
        "**Done with that.** _Now the next one._",
        &["Done with that.", "Now the next one."],
    );
    check(
        "en",
        "# A big title\n- first item here\n> a quotation here",
        &["A big title", "first item here", "a quotation here"],
    );
}

#[test]
fn the_filter_case_by_case() {
    for (written, spoken) in [
        ("plain text", "plain text"),
        (
            "**bold**, *it*, __b__, `code` and ~~gone~~",
            "bold, it, b, code and gone",
        ),
        ("2 * 3 and 2*3 of snake_case", "2 * 3 and 2*3 of snake_case"),
        ("half **of a pair", "half of a pair"),
        (
            "see https://user@www.example.com:80/a?b=c.",
            "see example.com.",
        ),
        (
            "<https://example.com/x> or www.example.org/y, ok",
            "example.com or example.org, ok",
        ),
        (
            "[the docs](https://example.com) and ![a cat](c.png)",
            "the docs and a cat",
        ),
        ("[](https://example.com/x) [x] (y)", "example.com [x] (y)"),
        ("great 🎉! yes 👩‍👩‍👧 ok ❤️", "great! yes ok "),
        ("press 1️⃣ now", "press 1 now"),
        ("Zero\u{200D}width stays", "Zero\u{200D}width stays"),
        (
            "## Title\n* item\n1. one\n#tag",
            " Title\n item\n1. one\n#tag",
        ),
        ("a\n```\nlet x;\n```\nb", "a\nb"),
        ("a\n~~~\nb", "a\n"),
    ] {
        assert_eq!(SpeechFilter::Markdown.apply(written), spoken, "{written:?}");
        assert_eq!(SpeechFilter::Off.apply(written), written);
    }
}

#[test]
fn a_turn_goes_on_after_a_flush() {
    let mut chunker = chunker("en");
    let now = Instant::now();
    let mut out = Vec::new();
    chunker.push("Let me check that. 🎉", now, &mut out);
    assert_eq!(chunker.flush(&mut out), 18..23);
    chunker.push("It is sunny.", now, &mut out);
    assert_eq!(chunker.flush(&mut out), 35..35);
    let got: Vec<_> = out
        .iter()
        .map(|s| (s.index, s.text.as_str(), s.span.clone()))
        .collect();
    assert_eq!(
        got,
        [
            (0, "Let me check that.", 0..18),
            (1, "It is sunny.", 18..35)
        ]
    );
    chunker.reset();
    let (segments, rest) = run(&mut chunker, &["Anew."]);
    assert_lossless(&segments, &rest, 5);
}

#[test]
fn a_flush_ends_an_open_fence() {
    let mut chunker = chunker("en");
    let now = Instant::now();
    let mut out = Vec::new();
    chunker.push("```\nlet x", now, &mut out);
    assert_eq!(chunker.flush(&mut out), 0..9);
    chunker.push("Sunny it is.", now, &mut out);
    chunker.flush(&mut out);
    assert_eq!(out[0].text, "Sunny it is.");
    assert_eq!(out[0].span, 0..21);
}

#[test]
fn debug_shows_no_text() {
    let (segments, _) = run(&mut chunker("en"), &["A canary sings."]);
    let mut pending = chunker("en");
    pending.push("canary", Instant::now(), &mut Vec::new());
    assert!(!format!("{segments:?} {pending:?}").contains("canary"));
}

#[test]
fn a_closure_follows_the_reference_contract() {
    let on_commas = |text: &str| {
        text.split_inclusive(',')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut adapter = SplitterAdapter::new(on_commas, SpeechFilter::Markdown);
    let (segments, rest) = run(&mut adapter, &["one", ", t", "wo, **three", "** "]);
    assert_lossless(&segments, &rest, 20);
    let spoken: Vec<_> = segments.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(spoken, ["one,", "two,", "three"]);
}

#[test]
fn a_closure_is_consulted_while_streaming() {
    let on_bars = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
    let mut adapter = SplitterAdapter::new(on_bars, SpeechFilter::Off);
    let mut out = Vec::new();
    adapter.push("one|tw", Instant::now(), &mut out);
    assert_eq!(out.len(), 1);
    adapter.push("o", Instant::now(), &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(adapter.flush(&mut out), 7..7);
    assert_eq!(out[1].text, "two");
    assert_eq!(out[1].span, 3..7);
}

#[test]
fn a_closure_that_rewrites_or_never_splits_does_no_harm() {
    let shout = |text: &str| vec![text.to_uppercase()];
    let (segments, rest) = run(
        &mut SplitterAdapter::new(shout, SpeechFilter::Off),
        &["a b"],
    );
    assert_eq!(
        (segments[0].text.as_str(), segments[0].span.clone(), rest),
        ("A B", 0..0, 0..3)
    );

    let never = |text: &str| vec![text.to_owned()];
    let mut adapter = SplitterAdapter::new(never, SpeechFilter::Off);
    let mut out = Vec::new();
    for _ in 0..5_000 {
        adapter.push("x", Instant::now(), &mut out);
    }
    assert_eq!(out[0].span, 0..4_097);
}

/// Each case took minutes if any step were quadratic.
#[test]
fn a_mebibyte_without_boundaries_is_read_in_linear_time() {
    for unit in [
        "x",
        "!",
        " ",
        "。",
        ",",
        ")",
        "word ",
        "🎉",
        "```\n",
        "1️⃣\n",
        "a, ",
        "*",
        "[",
        "\n",
        "\"。",
    ] {
        let text = unit.repeat((1 << 20) / unit.len());
        let (segments, rest) = run(&mut chunker(""), &[&text]);
        assert_lossless(&segments, &rest, text.len());
    }
    let mut chunker = chunker("");
    let mut out = Vec::new();
    for _ in 0..1 << 18 {
        chunker.push("-", Instant::now(), &mut out);
    }
    assert_eq!(chunker.flush(&mut out), 0..1 << 18);
}

/// An answer as models write it, in the pieces in which it arrives.
#[test]
fn an_ordinary_answer_reads_well() {
    let answer = "Great question! 🎉 Here's what Dr. Ito (v. 2.5, approx. $3.50) says:\n\n\
        1. **Mix** the flour, e.g. type 00. It's finer.\n\
        2. Bake at 180.5 degrees for 20 min.\n\n\
        ```sh\nmake all. Now\n```\n\n\
        More at [our site](https://www.example.com/x?y=1). Enjoy!";
    check(
        "en",
        answer,
        &[
            "Great question!",
            "Here's what Dr. Ito (v. 2.5, approx. $3.50) says:",
            "1. Mix the flour, e.g. type 00.",
            "It's finer.\n2. Bake at 180.5 degrees for 20 min.",
            "More at our site.",
            "Enjoy!",
        ],
    );
}

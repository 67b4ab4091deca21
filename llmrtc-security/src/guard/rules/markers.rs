//! Markers of roles in prompts, and known phrases whose words were run together or torn apart.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::guard::normalise::Folded;

/// Markers that a prompt's own machinery writes. A person or a page that writes one either talks about the machinery
/// or pretends to be it. Sorted by how often honest text contains them.
const MARKERS: &[(f32, &[&str])] = &[
    // Special tokens of chat templates.
    (
        5.0,
        &[
            "<|im_start|>",
            "<|im_end|>",
            "<|im_sep|>",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|endoftext|>",
            "<|end|>",
            "<|eot_id|>",
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|endofprompt|>",
            "<|eom_id|>",
            "<|python_tag|>",
            "<|start|>",
            "<|message|>",
            "<|channel|>",
            "<|return|>",
            "<|call|>",
            "<|turn|>",
            "<|end_of_turn|>",
            "<|start_of_role|>",
            "<start_of_turn>",
            "<end_of_turn>",
            "[inst]",
            "[/inst]",
            "<<sys>>",
            "<</sys>>",
            "[system_prompt]",
            "[available_tools]",
            "[tool_results]",
            "<bos>",
            "<eos>",
            "<s>[",
            "</s>",
            "[end of text]",
            "<｜user｜>",
            "<｜assistant｜>",
            "{{#system",
            "{{#user",
            "{{#assistant",
            "[system](#",
            "[assistant](#",
            "<function_calls>",
            "<tool_call>",
            "</tool_call>",
            "<function_results>",
            "<tool_response>",
            "</tool_response>",
            "<|im start|>",
            "<| im_start |>",
            "<|tool|>",
            "<|developer|>",
        ],
    ),
    // Tags and headings that frame parts of a prompt.
    (
        3.6,
        &[
            "<system>",
            "</system>",
            "<system_prompt>",
            "</system_prompt>",
            "<system prompt>",
            "<system-prompt>",
            "<instructions>",
            "</instructions>",
            "<assistant>",
            "</assistant>",
            "<user_input>",
            "</user_input>",
            "</user>",
            "</document>",
            "</context>",
            "</documents>",
            "</tool_result>",
            "</data>",
            "<admin>",
            "</admin>",
            "[system]",
            "[/system]",
            "[assistant]",
            "[admin]",
            "[developer]",
            "[system message]",
            "[system prompt]",
            "[system note",
            "(system note",
            "[system:",
            "(system:",
            "[instruction]",
            "[instructions]",
            "[end]",
            "###system",
            "### system",
            "###instruction",
            "### instruction",
            "### human",
            "###human",
            "### assistant",
            "### user",
            "### response",
            "##system",
            "## system prompt",
            "# system prompt",
            "# instructions:",
            "\"role\": \"system\"",
            "\"role\":\"system\"",
            "'role': 'system'",
            "role: system",
            "role=system",
            "=== system",
            "===system",
            "*** system",
            "--- system",
            "<important>",
            "</important>",
            "<information>",
            "<hidden>",
            "<secret>",
            "<override>",
            "```system",
            "begin prompt",
            "===end",
            "=====end",
            "----end",
            "---end",
            "-- end",
            "--end",
            "[begin",
            "<<instruction",
            "<instruction>",
            "end of document ---",
            "end of context ---",
            "<assistant_instructions>",
            "<prompt>",
            "</prompt>",
            "<|",
            "|>",
        ],
    ),
];

/// Speakers at the start of a line.
const SPEAKERS: &[(f32, &[&str])] = &[
    (
        3.2,
        &[
            "system:",
            "system prompt:",
            "system message:",
            "developer:",
            "[system",
            "sys:",
            "<system",
            "system :",
            "system instruction:",
            "system note:",
        ],
    ),
    (
        2.4,
        &[
            "human:",
            "assistant:",
            "ai:",
            "chatgpt:",
            "admin:",
            "instruction:",
            "instructions:",
            "new instructions:",
            "user:",
            "bot:",
            "prompt:",
            "human :",
            "assistant :",
            "tool:",
            "function:",
        ],
    ),
];

/// Phrases of known attacks without the blanks between their words.
const PHRASES: &[&str] = &[
    "ignoreallprevious",
    "ignorepreviousinstruction",
    "ignoretheprevious",
    "ignoreallprior",
    "ignorepriorinstruction",
    "ignoretheaboveinstruction",
    "ignoreyourinstruction",
    "ignoreallinstruction",
    "ignoreyourprevious",
    "ignoreallyour",
    "ignoreaboveinstruction",
    "ignoreanyprevious",
    "ignoreallrules",
    "ignoreyourrules",
    "ignoretheinstruction",
    "ignoretheabove",
    "ignoreallsafety",
    "ignoreyoursafety",
    "disregardprevious",
    "disregardallprevious",
    "disregardallprior",
    "disregardprior",
    "disregardtheabove",
    "disregardyourinstruction",
    "disregardallinstruction",
    "disregardyourprevious",
    "disregardyourguidelines",
    "disregardallrules",
    "forgetallprevious",
    "forgetpreviousinstruction",
    "forgetyourinstruction",
    "forgeteverythingyou",
    "forgetallinstruction",
    "forgeteverythingabove",
    "forgetyourprevious",
    "forgetyourrules",
    "overrideyour",
    "overrideprevious",
    "overrideallprevious",
    "bypassyoursafety",
    "bypassyourfilter",
    "bypassallsafety",
    "bypasssafety",
    "bypassyourrestrictions",
    "disableyoursafety",
    "disablesafety",
    "disableyourfilters",
    "systemprompt",
    "initialprompt",
    "yourinstructions",
    "hiddeninstructions",
    "initialinstructions",
    "revealyourprompt",
    "showmeyourprompt",
    "printyourprompt",
    "yoursystemmessage",
    "revealthesecret",
    "revealthepassword",
    "tellmethepassword",
    "tellmethesecret",
    "previousinstructions",
    "priorinstructions",
    "youarenowdan",
    "doanythingnow",
    "developermode",
    "youarenowin",
    "actasdan",
    "jailbreakmode",
    "unrestrictedai",
    "withoutrestrictions",
    "norestrictions",
    "donotrefuse",
    "pretendyouare",
    "youhavenorestrictions",
    "youhavenorules",
    "adminmode",
    "debugmode",
    "godmode",
    "ignorierealle",
    "vergissalle",
    "vorherigenanweisungen",
    "ignoratodas",
    "olvidatodas",
    "instruccionesanteriores",
    "ignoretoutes",
    "oublietoutes",
    "instructionsprecedentes",
    "ignoretodasas",
    "instrucoesanteriores",
    "esquecatodas",
];

struct Finder {
    automaton: AhoCorasick,
    weights: Vec<f32>,
}

fn finder(table: &[(f32, &[&str])]) -> Finder {
    let rows = table
        .iter()
        .flat_map(|(weight, texts)| texts.iter().map(|text| (*weight, *text)));
    let (weights, texts): (Vec<f32>, Vec<&str>) = rows.unzip();
    Finder {
        automaton: AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .ascii_case_insensitive(true)
            .build(texts)
            .expect("the tables are far below the automaton's limit of states"),
        weights,
    }
}

static MARKER_FINDER: LazyLock<Finder> = LazyLock::new(|| finder(MARKERS));
static SPEAKER_FINDER: LazyLock<Finder> = LazyLock::new(|| finder(SPEAKERS));
static PHRASE_FINDER: LazyLock<Finder> = LazyLock::new(|| finder(&[(1.0, PHRASES)]));

/// The weight of the heaviest marker, and a little for each further one.
pub(super) fn weigh(text: &str) -> f32 {
    let bytes = text.as_bytes();
    let mut heaviest: f32 = 0.0;
    let mut count = 0;
    if bytes.iter().any(|byte| {
        matches!(
            byte,
            b'<' | b'[' | b'#' | b'=' | b'{' | b'|' | b'-' | b'(' | b'*' | b'\'' | b'"' | b'`'
        )
    }) || text.contains("role:")
    {
        for found in MARKER_FINDER.automaton.find_iter(text) {
            heaviest = heaviest.max(MARKER_FINDER.weights[found.pattern().as_usize()]);
            count += 1;
        }
    }
    if bytes.contains(&b':') || bytes.contains(&b'[') {
        for found in SPEAKER_FINDER.automaton.find_iter(text) {
            if begins_line(&text[..found.start()]) {
                heaviest = heaviest.max(SPEAKER_FINDER.weights[found.pattern().as_usize()]);
                count += 1;
            }
        }
    }
    // More of the same kind adds certainty, up to a point.
    heaviest
        + if count > 1 {
            0.3 + (count.min(4) - 1) as f32 * 0.5
        } else {
            0.0
        }
}

/// Whether a line, a sentence or a quotation begins here.
fn begins_line(before: &str) -> bool {
    let before =
        before.trim_end_matches([' ', '*', '_', '>', '#', '"', '\'', '`', '\u{201C}', '-']);
    before.is_empty() || before.ends_with(['\n', '\r', '.', '!', '?', ']', '}', '|', ')'])
}

/// What the phrases of known attacks weigh when they only appear once the gaps between words are closed or moved.
pub(super) fn torn(folded: &Folded) -> f32 {
    let mut joined = String::with_capacity(folded.text.len());
    // Where words end in `joined`, to tell a torn phrase from one that is simply there.
    let mut ends = Vec::with_capacity(folded.tokens.len() + 1);
    ends.push(0);
    for token in &folded.tokens {
        joined.push_str(folded.word(token));
        ends.push(joined.len());
    }
    let mut found = 0_u32;
    for phrase in PHRASE_FINDER.automaton.find_iter(&joined) {
        let starts_word = ends.binary_search(&phrase.start()).is_ok();
        let letters = phrase.end() - phrase.start();
        let from = ends.partition_point(|end| *end <= phrase.start());
        let inside = ends[from..].partition_point(|end| *end < phrase.end());
        let whole = inside > 0 && starts_word;
        // Torn: pieces are short on average. Joined: no gap inside.
        let torn = letters / (inside + 1) < 4 && inside >= 3;
        if torn || (inside == 0 && letters >= 16) || !whole && letters >= 14 {
            found += 1;
        }
    }
    match found {
        0 => 0.0,
        1 => 4.2,
        _ => 5.5,
    }
}

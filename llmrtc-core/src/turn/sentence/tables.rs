//! Character classes and abbreviations.

/// The languages with rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    German,
    French,
    Spanish,
    Greek,
    /// Known, but without a table.
    Other,
}

impl Language {
    /// From a BCP 47 tag; only the primary subtag counts.
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next()?.trim().to_ascii_lowercase();
        Some(match primary.as_str() {
            "" => return None,
            "en" => Self::English,
            "de" => Self::German,
            "fr" => Self::French,
            "es" => Self::Spanish,
            "el" => Self::Greek,
            _ => Self::Other,
        })
    }
}

/// What an abbreviation says about the full stop after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abbreviation {
    /// It does not end a sentence.
    Always,
    /// It does not end a sentence if a number follows: "No. 5", but "No. Never."
    BeforeNumber,
}

struct Table {
    language: Language,
    always: &'static [&'static str],
    before_number: &'static [&'static str],
}

/// Lower case, without the last full stop.
const TABLES: &[Table] = &[
    Table {
        language: Language::English,
        always: &[
            "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "inc",
            "ltd", "co", "approx", "a.m", "p.m", "jan", "feb", "mar", "apr", "jun", "jul", "aug",
            "sep", "sept", "oct", "nov", "dec",
        ],
        before_number: &["no", "nos", "fig", "vol", "p", "pp", "v", "sec", "art"],
    },
    Table {
        language: Language::German,
        // The single letters are the spaced forms, "z. B." and "d. h."; the capitals are initials (C7).
        always: &[
            "z.b", "d.h", "u.a", "z", "d", "u", "nr", "bzw", "usw", "ca", "dr", "prof", "evtl",
            "ggf", "inkl", "vgl",
        ],
        before_number: &[],
    },
    Table {
        language: Language::French,
        always: &["m", "mme", "mlle", "dr", "p.ex", "cf"],
        before_number: &[],
    },
    Table {
        language: Language::Spanish,
        always: &["sr", "sra", "srta", "ud", "uds", "dr", "dra", "p.ej"],
        before_number: &[],
    },
];

/// Looks a word up. Without a language, or without a table for it, all tables count: no entry of one is a common word
/// that ends sentences in another.
pub(super) fn abbreviation(language: Option<Language>, word: &str) -> Option<Abbreviation> {
    let known = TABLES.iter().any(|table| Some(table.language) == language);
    TABLES
        .iter()
        .filter(|table| !known || Some(table.language) == language)
        .find_map(|table| {
            if table.always.contains(&word) {
                Some(Abbreviation::Always)
            } else if table.before_number.contains(&word) {
                Some(Abbreviation::BeforeNumber)
            } else {
                None
            }
        })
}

/// C1: ends a sentence whether white space follows or not.
pub(super) fn is_unspaced_terminator(c: char) -> bool {
    matches!(
        c,
        '。' | '！'
            | '？'
            | '｡'
            | '．'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '።'
            | '፧'
            | '፨'
            | '။'
            | '។'
            | '៕'
            | '།'
            | '༎'
            | '᠃'
    )
}

/// C2: ends a sentence before white space. The Greek question mark is handled by the caller, who knows the script.
pub(super) fn is_spaced_terminator(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '։')
}

/// C3: belongs to the sentence it follows.
pub(super) fn is_closer(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '”'
            | '’'
            | '»'
            | '›'
            | ')'
            | ']'
            | '}'
            | '」'
            | '』'
            | '）'
            | '】'
            | '》'
            | '〉'
    )
}

/// Brackets and quotes after which a closer is to be expected.
pub(super) fn is_opener(c: char) -> bool {
    matches!(
        c,
        '(' | '[' | '{' | '“' | '«' | '‹' | '「' | '『' | '（' | '【' | '《' | '〈'
    )
}

/// Markdown marks that may stand between a full stop and the white space after it: `**Done.** Next`.
pub(super) fn is_inline_mark(c: char) -> bool {
    matches!(c, '*' | '_' | '`' | '~')
}

/// C10: separates clauses.
pub(super) fn is_clause_mark(c: char) -> bool {
    matches!(
        c,
        ',' | ';' | ':' | '–' | '—' | '、' | '，' | '；' | '：' | '،'
    )
}

/// C4: ends a line.
pub(super) fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\u{2028}' | '\u{2029}')
}

/// C13: can be said.
pub(super) fn is_speakable(c: char) -> bool {
    c.is_alphanumeric() && !is_emoji(c)
}

/// A pictograph. Source: Unicode `emoji-data.txt`, `Emoji_Presentation` and the pictographs that are commonly followed
/// by U+FE0F; numbers in circles and arrows are left alone, since they can be read out.
pub(super) fn is_emoji(c: char) -> bool {
    matches!(c,
        '\u{231A}' | '\u{231B}' | '\u{2328}' | '\u{23CF}' | '\u{23E9}'..='\u{23F3}'
        | '\u{23F8}'..='\u{23FA}' | '\u{24C2}' | '\u{25AA}' | '\u{25AB}' | '\u{25B6}' | '\u{25C0}'
        | '\u{25FB}'..='\u{25FE}' | '\u{2600}'..='\u{2775}' | '\u{2794}'..='\u{27BF}'
        | '\u{2934}' | '\u{2935}' | '\u{2B05}'..='\u{2B07}' | '\u{2B1B}' | '\u{2B1C}' | '\u{2B50}'
        | '\u{2B55}' | '\u{3030}' | '\u{303D}' | '\u{3297}' | '\u{3299}'
        | '\u{1F000}'..='\u{1FAFF}' | '\u{E0020}'..='\u{E007F}')
}

/// Greek and Coptic, and its extension.
pub(super) fn is_greek(c: char) -> bool {
    matches!(c, '\u{0370}'..='\u{03FF}' | '\u{1F00}'..='\u{1FFF}')
}

/// Writes about a syllable per character: Han, kana, bopomofo, Hangul.
pub(super) fn is_dense(c: char) -> bool {
    is_hangul(c)
        || matches!(c,
            '\u{2E80}'..='\u{2FDF}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}'
            | '\u{3041}'..='\u{30FF}' | '\u{3105}'..='\u{312F}' | '\u{31A0}'..='\u{31BF}'
            | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
            | '\u{F900}'..='\u{FAFF}' | '\u{FF66}'..='\u{FF9F}' | '\u{20000}'..='\u{3FFFF}')
}

/// Written without spaces between words: the dense scripts except Hangul, their punctuation, and Thai, Lao, Tibetan,
/// Myanmar and Khmer.
pub(super) fn is_unspaced_script(c: char) -> bool {
    (is_dense(c) && !is_hangul(c))
        || matches!(c,
            '\u{3001}'..='\u{303F}' | '\u{FF01}'..='\u{FF0F}' | '\u{FF1A}'..='\u{FF1F}'
            | '\u{0E00}'..='\u{0FFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}')
}

fn is_hangul(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11FF}' | '\u{3131}'..='\u{318E}' | '\u{A960}'..='\u{A97F}'
        | '\u{AC00}'..='\u{D7FF}')
}

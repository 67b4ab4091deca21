//! Takes out what a reader cannot see, and reads what was written with it.

use super::{
    decode::{Hidden, HiddenIn},
    script,
};

/// Most general marks that one letter keeps. Vietnamese, Yoruba and phonetic spelling need two, some transcriptions
/// three; what stacks higher is meant for a filter and not for a reader.
const MAX_MARKS: usize = 3;

/// Most flags of regions outside the three in common use. Four letters fit into each, so a row of them is a text.
const MAX_RARE_FLAGS: u32 = 3;

/// How much of a text was hidden, counted in characters unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concealment {
    /// Tag characters (U+E0000 to U+E007F) outside of flags.
    pub tags: u32,
    /// Variation selectors where no variant exists.
    pub selectors: u32,
    /// Zero-width characters inside or beside words of a script that has no use for them.
    pub zero_width: u32,
    /// Soft hyphens.
    pub soft_hyphens: u32,
    /// Overrides of the writing direction.
    pub overrides: u32,
    /// Other direction controls in a text that only runs one way.
    pub directions: u32,
    /// Marks that strike letters through or stack beyond what any spelling needs.
    pub marks: u32,
    /// Words that mix look-alikes of another script with Latin letters.
    pub mixed_words: u32,
    /// Words in mathematical, circled, squared, small-capital or fullwidth letters.
    pub styled_words: u32,
    /// Words of the vocabulary spelt with digits and signs.
    pub leet_words: u32,
    /// Words of the vocabulary that were spelt out letter by letter.
    pub spaced_words: u32,
}

pub(super) struct Cleaned {
    pub(super) output: String,
    pub(super) concealment: Concealment,
    pub(super) hidden: Vec<Hidden>,
}

/// The output form. Byte-identical where nothing is hidden.
pub(super) fn clean(text: &str) -> Cleaned {
    // Most text is ASCII, where only control characters can be in the way.
    if text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r'))
    {
        return Cleaned {
            output: text.to_owned(),
            concealment: Concealment::default(),
            hidden: Vec::new(),
        };
    }
    let mut pass = Pass::new(text);
    pass.run(text);
    pass.finish()
}

#[derive(Default)]
struct Pass {
    output: String,
    concealment: Concealment,
    tag_payload: String,
    selector_payload: Vec<u8>,
    /// What was written inside the override that is open, in the order of the bytes.
    overridden: String,
    reversed: String,
    in_override: bool,
    rare_flags: u32,
    /// The text has letters that run from right to left.
    mixed_direction: bool,
    /// The last character that was kept, marks and joiners left out.
    base: Option<char>,
    /// The last character that was kept.
    last: Option<char>,
    marks: usize,
}

impl Pass {
    fn new(text: &str) -> Self {
        Self {
            output: String::with_capacity(text.len()),
            mixed_direction: text.chars().any(script::right_to_left),
            ..Self::default()
        }
    }

    fn keep(&mut self, c: char) {
        self.output.push(c);
        self.last = Some(c);
        if self.in_override {
            self.overridden.push(c);
        }
    }

    fn run(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let next = rest.clone().next();
            match c {
                '\u{E0000}'..='\u{E007F}' => self.tag(c),
                '\u{1F3F4}' if next.is_some_and(is_tag) => {
                    self.base(c);
                    let flag = region(rest.as_str());
                    let kept = flag.is_some_and(|region| self.flag_is_fine(region));
                    if let (Some(region), true) = (flag, kept) {
                        // The letters and the cancel tag are one character each.
                        for tag in rest.by_ref().take(region.chars().count() + 1) {
                            self.keep(tag);
                        }
                    }
                }
                '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}' => self.selector(c),
                '\u{200C}' | '\u{200D}' => self.joiner(c, next),
                '\u{200B}' => {
                    let wanted = |c: Option<char>| c.is_some_and(script::unspaced);
                    if wanted(self.base) || wanted(next) {
                        self.keep(c);
                    } else {
                        self.concealment.zero_width += 1;
                    }
                }
                '\u{00AD}' => self.concealment.soft_hyphens += 1,
                // A byte order mark at the start is an accident of files.
                '\u{FEFF}' if self.output.is_empty() => {}
                '\u{2060}'..='\u{2064}'
                | '\u{FEFF}'
                | '\u{034F}'
                | '\u{115F}'
                | '\u{1160}'
                | '\u{17B4}'
                | '\u{17B5}'
                | '\u{2065}'
                | '\u{206A}'..='\u{206F}'
                | '\u{3164}'
                | '\u{FFA0}'
                | '\u{FFF0}'..='\u{FFFB}'
                | '\u{1BCA0}'..='\u{1BCA3}'
                | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0080}'..='\u{E00FF}'
                | '\u{E01F0}'..='\u{E0FFF}' => self.concealment.zero_width += 1,
                // Mongolian letters change shape with these; elsewhere they are blanks of no width.
                '\u{180B}'..='\u{180F}' => {
                    if matches!(self.base, Some('\u{1800}'..='\u{18AF}')) {
                        self.keep(c);
                    } else {
                        self.concealment.zero_width += 1;
                    }
                }
                '\u{202D}' | '\u{202E}' => {
                    self.concealment.overrides += 1;
                    self.close_override();
                    self.in_override = true;
                }
                '\u{202A}' | '\u{202B}' | '\u{202C}' | '\u{2066}'..='\u{2069}' => {
                    if c == '\u{202C}' && self.in_override {
                        self.close_override();
                    } else if self.mixed_direction {
                        self.keep(c);
                    } else {
                        self.concealment.directions += 1;
                    }
                }
                '\u{200E}' | '\u{200F}' | '\u{061C}' if !self.mixed_direction => {
                    // Inside a word it splits it; beside one it is what messengers leave around numbers.
                    if self.last.is_some_and(char::is_alphabetic)
                        && next.is_some_and(char::is_alphabetic)
                    {
                        self.concealment.zero_width += 1;
                    }
                }
                c if script::general_mark(c) => self.mark(c),
                c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => {
                    if self.last.is_some_and(char::is_alphabetic)
                        && next.is_some_and(char::is_alphabetic)
                    {
                        self.concealment.zero_width += 1;
                    }
                }
                c => self.base(c),
            }
        }
    }

    fn base(&mut self, c: char) {
        self.keep(c);
        self.base = Some(c);
        self.marks = 0;
    }

    fn tag(&mut self, c: char) {
        self.concealment.tags += 1;
        let letter =
            char::from_u32(c as u32 - 0xE0000).filter(|letter| matches!(letter, ' '..='~'));
        self.tag_payload.extend(letter);
    }

    fn flag_is_fine(&mut self, region: &str) -> bool {
        let letters: String = region
            .chars()
            .filter_map(|c| char::from_u32(c as u32 - 0xE0000))
            .collect();
        if matches!(letters.as_str(), "gbeng" | "gbsct" | "gbwls") {
            return true;
        }
        self.rare_flags += 1;
        self.rare_flags <= MAX_RARE_FLAGS
    }

    fn selector(&mut self, c: char) {
        let wanted = match (c, self.last) {
            (_, None) => false,
            // One after an emoji, a digit or sign of a keycap.
            ('\u{FE0E}' | '\u{FE0F}', Some(base)) => {
                script::emoji(base)
                    || matches!(base, '0'..='9' | '#' | '*')
                    || script::has_variants(base)
            }
            ('\u{FE00}'..='\u{FE0D}', Some(base)) => script::has_variants(base),
            (_, Some(base)) => script::ideographic(base),
        };
        if wanted {
            self.keep(c);
        } else {
            self.concealment.selectors += 1;
            let byte = match c as u32 {
                low @ 0xFE00..=0xFE0F => low - 0xFE00,
                high => high - 0xE0100 + 16,
            };
            self.selector_payload.extend(u8::try_from(byte));
        }
    }

    fn joiner(&mut self, c: char, next: Option<char>) {
        let doubled = matches!(self.last, Some('\u{200C}' | '\u{200D}'));
        let spelling =
            self.base.is_some_and(script::joins) && !self.last.is_some_and(char::is_whitespace);
        let emoji = c == '\u{200D}'
            && self.base.is_some_and(script::emoji)
            && next.is_some_and(script::emoji);
        if !doubled && (spelling || emoji) {
            self.keep(c);
        } else {
            self.concealment.zero_width += 1;
        }
    }

    fn mark(&mut self, c: char) {
        self.marks += 1;
        if script::overlay(c) {
            self.concealment.marks += 1;
        }
        if self.marks > MAX_MARKS {
            self.concealment.marks += 1;
        } else {
            self.keep(c);
        }
    }

    fn close_override(&mut self) {
        if self.in_override && !self.overridden.is_empty() {
            self.reversed.extend(self.overridden.chars().rev());
            self.reversed.push('\n');
        }
        self.overridden.clear();
        self.in_override = false;
    }

    fn finish(mut self) -> Cleaned {
        self.close_override();
        let mut hidden = Vec::new();
        let mut found = |place, text: String| {
            if !text.trim().is_empty() {
                hidden.push(Hidden { place, text });
            }
        };
        found(HiddenIn::Tags, self.tag_payload);
        found(
            HiddenIn::Selectors,
            String::from_utf8_lossy(&self.selector_payload).into_owned(),
        );
        found(HiddenIn::Override, self.reversed);
        Cleaned {
            output: self.output,
            concealment: self.concealment,
            hidden,
        }
    }
}

fn is_tag(c: char) -> bool {
    matches!(c, '\u{E0020}'..='\u{E007F}')
}

/// The tag letters of a flag of a subdivision: a country, one to three letters or digits, and the cancel tag.
fn region(rest: &str) -> Option<&str> {
    const LONGEST: usize = 5;
    let (count, (end, _)) = rest
        .char_indices()
        .take(LONGEST + 1)
        .enumerate()
        .find(|(_, (_, c))| *c == '\u{E007F}')?;
    let region = &rest[..end];
    let letter = |c| matches!(c, '\u{E0061}'..='\u{E007A}');
    let country = region.chars().take(2).all(letter);
    let division = region
        .chars()
        .skip(2)
        .all(|c| letter(c) || matches!(c, '\u{E0030}'..='\u{E0039}'));
    (count >= 3 && country && division).then_some(region)
}

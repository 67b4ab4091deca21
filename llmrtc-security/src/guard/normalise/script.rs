//! The little that normalisation has to know about scripts.

/// Scripts whose letters join or stack, so that U+200C and U+200D between them change the spelling.
pub(super) fn joins(c: char) -> bool {
    matches!(c,
        // Arabic, Syriac, Thaana, N'Ko, Mandaic, Arabic extended.
        '\u{0600}'..='\u{08FF}'
        // The scripts of India, Sri Lanka; Tibetan; Myanmar; Khmer; Mongolian; Balinese to Meetei and beyond.
        | '\u{0900}'..='\u{0DFF}' | '\u{0F00}'..='\u{109F}' | '\u{1780}'..='\u{18AF}' | '\u{1900}'..='\u{1AFF}'
        | '\u{1B00}'..='\u{1C4F}' | '\u{A800}'..='\u{A8FF}' | '\u{A900}'..='\u{AAFF}' | '\u{ABC0}'..='\u{ABFF}'
        | '\u{FB50}'..='\u{FDFF}' | '\u{FE70}'..='\u{FEFC}' | '\u{10A00}'..='\u{10AFF}' | '\u{11000}'..='\u{11FFF}')
}

/// Scripts written without spaces, where U+200B marks a place to break a line.
pub(super) fn unspaced(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{19E0}'..='\u{19FF}')
        || ideographic(c)
}

/// Han, kana, hangul: each character counts as a word.
pub(super) fn ideographic(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11FF}' | '\u{2E80}'..='\u{303F}' | '\u{3040}'..='\u{31FF}' | '\u{3400}'..='\u{9FFF}'
        | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

/// Letters that run from right to left.
pub(super) fn right_to_left(c: char) -> bool {
    matches!(c, '\u{0590}'..='\u{08FF}' | '\u{FB1D}'..='\u{FDFF}' | '\u{FE70}'..='\u{FEFC}' | '\u{10800}'..='\u{10FFF}'
        | '\u{1E800}'..='\u{1EFFF}')
        && c.is_alphabetic()
}

/// Characters that an emoji sequence is made of, without the joiners and selectors between them.
pub(super) fn emoji(c: char) -> bool {
    matches!(c, '\u{00A9}' | '\u{00AE}' | '\u{203C}' | '\u{2049}' | '\u{2100}'..='\u{2BFF}' | '\u{3030}' | '\u{303D}'
        | '\u{3297}' | '\u{3299}' | '\u{1F000}'..='\u{1FAFF}')
}

/// Bases of standardised variants: U+FE00 to U+FE0D after mathematics, Han, Myanmar, Phags-pa.
pub(super) fn has_variants(c: char) -> bool {
    ideographic(c)
        || matches!(c, '0' | '\u{2200}'..='\u{2BFF}' | '\u{1000}'..='\u{109F}' | '\u{A840}'..='\u{A87F}' | '\u{FF00}'..='\u{FF0F}')
}

/// Marks that stack on any letter, as opposed to those that belong to one script.
pub(super) fn general_mark(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{034E}' | '\u{0350}'..='\u{036F}' | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}'
        | '\u{20D0}'..='\u{20DF}' | '\u{20E1}' | '\u{20E5}'..='\u{20FF}' | '\u{FE20}'..='\u{FE2F}')
}

/// Marks that strike a letter through: nobody spells with them.
pub(super) fn overlay(c: char) -> bool {
    matches!(c, '\u{0334}'..='\u{0338}' | '\u{20D2}' | '\u{20D3}' | '\u{20D8}'..='\u{20DA}' | '\u{20E5}' | '\u{20E6}' | '\u{20EA}' | '\u{20EB}')
}

//! Identifiers of letters and digits: IBAN, codice fiscale, passports, licences, postal codes.

use super::{
    checksum as check,
    cues::{Cue, Cues},
};
use crate::redact::{
    detector::{Span, horizon},
    kind::Kind,
};

/// Characters that a code with separators has at most.
const LONGEST: usize = 36;

/// A code read without its separators.
struct Code {
    characters: [u8; LONGEST],
    length: usize,
    /// Byte after each character.
    ends: [usize; LONGEST],
}

impl Code {
    /// Reads ASCII letters and digits from `start`, skipping single blanks, hyphens and dots between them, up to `most` of them.
    fn read(text: &str, start: usize, most: usize) -> Self {
        let view = &text.as_bytes()[..start + horizon(text, start).len()];
        let mut code = Self {
            characters: [0; LONGEST],
            length: 0,
            ends: [0; LONGEST],
        };
        let mut at = start;
        while code.length < most.min(LONGEST) {
            match view.get(at) {
                Some(byte) if byte.is_ascii_alphanumeric() => {
                    code.characters[code.length] = byte.to_ascii_uppercase();
                    code.ends[code.length] = at + 1;
                    code.length += 1;
                }
                Some(b' ' | b'-' | b'.')
                    if view.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
                _ => break,
            }
            at += 1;
        }
        code
    }

    fn first(&self, count: usize) -> Option<(&[u8], usize)> {
        (count > 0 && count <= self.length)
            .then(|| (&self.characters[..count], self.ends[count - 1]))
    }
}

fn word_ends(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at..) {
        Some([byte, ..]) if byte.is_ascii_alphanumeric() || *byte == b'_' => false,
        Some([b'-' | b'/' | b'@' | b'.', next, ..]) => !next.is_ascii_alphanumeric(),
        Some([0x80..=0xFF, ..]) => !text[at..].chars().next().is_some_and(char::is_alphanumeric),
        _ => true,
    }
}

/// Judges the word `start..end`, which has digits and letters, and what follows it.
pub(crate) fn judge(text: &str, start: usize, end: usize, cues: &mut Cues<'_>) -> Option<Span> {
    let word = &text.as_bytes()[start..end];
    if word.len() > 34 || !word.is_ascii() {
        return None;
    }
    let span = |end: usize, kind: Kind, score: f32| {
        Some(Span {
            start,
            end,
            kind,
            score,
        })
    };
    if let Some((end, score)) = iban(text, start, word) {
        return span(end, Kind::Iban, score);
    }
    if word_ends(text, end)
        && let Some(score) = compact(word)
    {
        return span(end, Kind::NationalId, score);
    }
    if let Some((end, score)) = spaced(text, start, word, end) {
        return span(end, Kind::NationalId, score);
    }
    if let Some(end) = postcode(text, start, word, end) {
        return span(end, Kind::Postcode, 0.8);
    }
    announced(text, start, end, cues)
}

fn iban(text: &str, start: usize, word: &[u8]) -> Option<(usize, f32)> {
    let [first, second, tens, ones, ..] = word else {
        return None;
    };
    if !(first.is_ascii_alphabetic()
        && second.is_ascii_alphabetic()
        && tens.is_ascii_digit()
        && ones.is_ascii_digit())
    {
        return None;
    }
    let length = check::iban_length(*first, *second)?;
    let code = Code::read(text, start, length);
    let (characters, end) = code.first(length)?;
    if !word_ends(text, end) || !characters[4..].iter().any(u8::is_ascii_digit) {
        return None;
    }
    if check::iban(characters) {
        return Some((end, 0.99));
    }
    // Made up, misheard or mistyped: country, length and grouping still say what it was meant to be.
    let grouped = (text.as_bytes()[start..end].get(4) == Some(&b' ')) || word.len() == length;
    let digits = characters[4..]
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .count();
    (grouped && first.is_ascii_uppercase() && digits >= 8).then_some((end, 0.85))
}

/// Codes in one word that prove themselves.
fn compact(word: &[u8]) -> Option<f32> {
    let shape = |pattern: &[u8]| {
        word.len() == pattern.len()
            && word.iter().zip(pattern).all(|(byte, kind)| match kind {
                b'A' => byte.is_ascii_uppercase(),
                _ => byte.is_ascii_digit(),
            })
    };
    let month = |at: usize| matches!(check::weighted(&word[at..at + 2], &[10, 1]), 1..=12);
    let day = |at: usize| matches!(check::weighted(&word[at..at + 2], &[10, 1]), 1..=31 | 41..=71);
    match word.len() {
        9 if check::dni(word) => Some(0.9),
        9 if shape(b"A0000000A") && check::nric(word) => Some(0.9),
        9 if shape(b"AA000000A") && nino(word) => Some(0.9),
        // Indian PAN.
        10 if shape(b"AAAAA0000A") => Some(0.85),
        // Taiwan, Croatia's neighbours and others have checks that are not worth their false alarms here.
        11 if word[..6].iter().all(u8::is_ascii_digit)
            && b"ABCDEFUVWXY".contains(&word[6])
            && word[7..10].iter().all(u8::is_ascii_digit) =>
        {
            let mut digits = [0; 9];
            digits[..6].copy_from_slice(&word[..6]);
            digits[6..].copy_from_slice(&word[7..10]);
            check::finnish(&digits, word[10]).then_some(0.9)
        }
        // German social insurance: area, birth date, letter, serial.
        12 if shape(b"00000000A000") && day(2) && month(4) => Some(0.85),
        // Mexican RFC.
        13 if word[..4].iter().all(u8::is_ascii_uppercase)
            && word[4..10].iter().all(u8::is_ascii_digit)
            && month(6)
            && day(8) =>
        {
            Some(0.85)
        }
        15 if check::nir(word) => Some(0.95),
        16 if check::codice_fiscale(word) => Some(0.95),
        16 if shape(b"AAAAAA00A00A000A") => Some(0.9),
        18 if check::curp(word) => Some(0.95),
        18 if shape(b"AAAA000000AAAAAA00") && month(6) && day(8) => Some(0.9),
        18 if check::chinese_id(word) => Some(0.95),
        _ => None,
    }
}

/// British national insurance number: two letters out of those in use (and QQ and ZZ, which examples use).
fn nino(characters: &[u8]) -> bool {
    characters.len() == 9
        && characters[..2].iter().all(|byte| byte.is_ascii_uppercase())
        && (!b"DFIUV".contains(&characters[0]) || &characters[..2] == b"QQ")
        && !b"DFIOUV".contains(&characters[1])
        && !matches!(
            &characters[..2],
            b"BG" | b"GB" | b"NK" | b"KN" | b"TN" | b"NT"
        )
        && characters[2..8].iter().all(u8::is_ascii_digit)
        && (matches!(characters[8], b'A'..=b'D') || &characters[..2] == b"ZZ")
}

/// Codes with separators that prove themselves.
fn spaced(text: &str, start: usize, word: &[u8], word_end: usize) -> Option<(usize, f32)> {
    let code = Code::read(text, start, 18);
    let upper = text.as_bytes()[start].is_ascii_uppercase();
    // Italian "RSS MRA 85T10 A562S" starts with letters only and comes here through its first word with a digit, too late: one word only.
    if let Some((characters, end)) = code.first(9)
        && end > word_end
        && word_ends(text, end)
    {
        if nino(characters) && upper {
            return Some((end, 0.9));
        }
        if check::dni(characters)
            && end - start <= 12
            && text.as_bytes()[end - 1].is_ascii_uppercase()
        {
            return Some((end, 0.85));
        }
    }
    // Hong Kong: A123456(3).
    if word.len() == 7
        && word[0].is_ascii_uppercase()
        && word[1..].iter().all(u8::is_ascii_digit)
        && let [b'(', check, b')', ..] = &text.as_bytes()[word_end..]
        && (check.is_ascii_digit() || *check == b'A')
    {
        return Some((word_end + 3, 0.9));
    }
    // French NIR of Corsica, "2 85 05 2A 078 006 36", starts with a digit group and is left to its cue.
    None
}

/// Two letters before a group of two digits: the spaced national insurance number "QQ 12 34 56 C".
pub(crate) fn spaced_nino(text: &str, group: usize) -> Option<Span> {
    let start = group.checked_sub(3)?;
    let bytes = text.as_bytes();
    let open =
        start == 0 || !(bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] >= 0x80);
    if !(open
        && bytes[start].is_ascii_uppercase()
        && bytes[start + 1].is_ascii_uppercase()
        && matches!(bytes[start + 2], b' ' | b'-'))
    {
        return None;
    }
    let code = Code::read(text, start, 9);
    let (characters, end) = code.first(9)?;
    (nino(characters) && bytes[end - 1].is_ascii_uppercase() && word_ends(text, end)).then_some(
        Span {
            start,
            end,
            kind: Kind::NationalId,
            score: 0.9,
        },
    )
}

/// A group of six to nine digits with a check letter behind a hyphen or blank: "12345678-Z", "12.345.678-K", "131052-308T".
pub(crate) fn with_check_letter(text: &str, start: usize) -> Option<Span> {
    let code = Code::read(text, start, 11);
    let bytes = text.as_bytes();
    let span = |end: usize, score: f32| {
        Some(Span {
            start,
            end,
            kind: Kind::NationalId,
            score,
        })
    };
    if let Some((characters, end)) = code.first(9)
        && word_ends(text, end)
        && bytes[end - 1].is_ascii_uppercase()
        && bytes[end - 2] != b'.'
    {
        if check::dni(characters) && end - start <= 12 {
            return span(end, 0.9);
        }
        if check::rut(characters) && bytes[end - 2] == b'-' {
            return span(end, 0.9);
        }
    }
    if let Some((characters, end)) = code.first(10)
        && end - start == 11
        && matches!(bytes[start + 6], b'-' | b'+')
        && word_ends(text, end)
    {
        let (digits, letter) = characters.split_at(9);
        if digits.iter().all(u8::is_ascii_digit)
            && letter[0].is_ascii_alphabetic()
            && check::finnish(digits, letter[0])
        {
            return span(end, 0.9);
        }
    }
    None
}

/// British, Canadian and Irish postal codes, which nothing else looks like, and Dutch ones behind a cue.
fn postcode(text: &str, start: usize, word: &[u8], end: usize) -> Option<usize> {
    const AREAS: &str = " AB AL B BA BB BD BF BH BL BN BR BS BT CA CB CF CH CM CO CR CT CV CW DA DD DE DG DH DL DN DT DY E EC EH EN EX FK FY G GL GU GY HA HD HG HP HR HS HU HX IG IM IP IV JE KA KT KW KY L LA LD LE LL LN LS LU M ME MK ML N NE NG NN NP NR NW OL OX PA PE PH PL PO PR RG RH RM S SA SE SG SK SL SM SN SO SP SR SS ST SW SY TA TD TF TN TQ TR TS TW UB W WA WC WD WF WN WR WS WV YO ZE ";
    let rest = &text.as_bytes()[end..];
    // Canada: K1A 0B1.
    if let [a, b, c] = word
        && a.is_ascii_uppercase()
        && b.is_ascii_digit()
        && c.is_ascii_uppercase()
        && let [b' ' | b'-', d, e, f, ..] = rest
        && d.is_ascii_digit()
        && e.is_ascii_uppercase()
        && f.is_ascii_digit()
        && !b"DFIOQUWZ".contains(a)
        && !b"DFIOQU".contains(c)
        && !b"DFIOQU".contains(e)
        && word_ends(text, end + 4)
    {
        return Some(end + 4);
    }
    // Britain: SW1A 1AA, in one word or two.
    let inward = |bytes: &[u8]| matches!(bytes, [digit, x, y] if digit.is_ascii_digit() && x.is_ascii_uppercase() && y.is_ascii_uppercase() && !b"CIKMOV".contains(x) && !b"CIKMOV".contains(y));
    let outward = |bytes: &[u8]| {
        let letters = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_uppercase())
            .count();
        let area = std::str::from_utf8(&bytes[..letters]).unwrap_or("");
        (1..=2).contains(&letters)
            && AREAS.split(' ').any(|known| known == area)
            && matches!(&bytes[letters..], [d] if d.is_ascii_digit())
            || (1..=2).contains(&letters)
                && AREAS.split(' ').any(|known| known == area)
                && matches!(&bytes[letters..], [d, e] if d.is_ascii_digit() && e.is_ascii_alphanumeric())
    };
    if (2..=4).contains(&word.len())
        && outward(word)
        && rest.first() == Some(&b' ')
        && rest.len() >= 4
        && inward(&rest[1..4])
        && word_ends(text, end + 4)
    {
        return Some(end + 4);
    }
    let split = word.len().checked_sub(3)?;
    let one_word =
        (5..=7).contains(&word.len()) && outward(&word[..split]) && inward(&word[split..]);
    // In one word only for the long forms; "M25XY" may be anything.
    (one_word && word.len() >= 6 && word_ends(text, end) && start + word.len() == end)
        .then_some(end)
}

/// What a cue announces: passports, licences, national ids, accounts.
fn announced(text: &str, start: usize, word_end: usize, cues: &mut Cues<'_>) -> Option<Span> {
    let cue = cues.around(start, word_end)?;
    let (kind, least, most, score) = match cue {
        Cue::Passport => (Kind::Passport, 6, 10, 0.9),
        Cue::Licence => (Kind::DrivingLicence, 5, 18, 0.85),
        Cue::Id | Cue::Ssn => (Kind::NationalId, 6, 18, 0.8),
        Cue::Account => (Kind::BankAccount, 6, 24, 0.75),
        Cue::Bic => (Kind::Bic, 8, 11, 0.9),
        Cue::Iban => (Kind::Iban, 14, 34, 0.85),
        Cue::Postcode => (Kind::Postcode, 5, 8, 0.75),
        _ => return None,
    };
    // Hyphens belong to it; a blank does if letters or digits in capitals follow.
    let bytes = text.as_bytes();
    let limit = start + horizon(text, start).len();
    let (mut end, mut at, mut length, mut digits) = (start, start, 0usize, 0usize);
    while at < limit && length <= most {
        let byte = bytes[at];
        if byte.is_ascii_alphanumeric() {
            length += 1;
            digits += usize::from(byte.is_ascii_digit());
            end = at + 1;
        } else if !(matches!(byte, b'-' | b'/' | b'.')
            && bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric)
            || byte == b' ' && next_is_code(&bytes[at + 1..limit]))
        {
            break;
        }
        at += 1;
    }
    let shouted = !bytes[start..end].iter().any(u8::is_ascii_lowercase);
    ((least..=most).contains(&length)
        && word_ends(text, end)
        && (digits >= 3 || kind == Kind::Bic || kind == Kind::Postcode)
        && (shouted || digits >= 4))
        .then_some(Span {
            start,
            end,
            kind,
            score,
        })
}

/// Whether the next word is of capitals and digits, at least one digit among them.
fn next_is_code(rest: &[u8]) -> bool {
    let word = rest
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    (1..=6).contains(&word)
        && rest[..word].iter().any(u8::is_ascii_digit)
        && !rest[..word].iter().any(u8::is_ascii_lowercase)
}

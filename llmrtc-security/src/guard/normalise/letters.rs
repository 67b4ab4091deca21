//! Which letter is meant: look-alikes, styles, digits in the place of letters. And what is no word at all.

use unicode_security::confusable_detection::skeleton;

use crate::guard::rules::lexicon::Lexicon;

/// Whether a chunk is an e-mail address or a link.
pub(super) fn is_address(chunk: &str) -> bool {
    let mut bytes = chunk.bytes();
    if !bytes.any(|byte| matches!(byte, b'@' | b'/' | b'.')) {
        return false;
    }
    if let Some((local, domain)) = chunk.split_once('@') {
        let dot = domain
            .trim_end_matches(['.', ',', ')', '!', '?'])
            .rfind('.');
        let local_ok = local.chars().next_back().is_some_and(char::is_alphanumeric);
        if local_ok && dot.is_some_and(|dot| dot > 0 && domain[dot + 1..].len() >= 2) {
            return true;
        }
    }
    let lower = |prefix: &str| {
        chunk
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let trimmed = chunk.trim_start_matches(['(', '<', '"', '\'', '[']);
    if trimmed.len() != chunk.len() {
        return is_address(trimmed);
    }
    lower("http://") || lower("https://") || lower("www.") || lower("ftp://")
}

/// The ASCII letter that this lower-case letter of another script looks like.
pub(super) fn alike(c: char) -> Option<char> {
    if c.is_ascii() {
        return None;
    }
    let mut buffer = [0; 4];
    let mut prototype = skeleton(c.encode_utf8(&mut buffer));
    let first = prototype.next()?;
    if prototype.next().is_some() {
        // The standard's prototype of some letters is a pair, as in "rn" for a Cyrillic letter.
        return None;
    }
    let first = first.to_ascii_lowercase();
    first.is_ascii_alphabetic().then_some(first).or(match c {
        // Small Greek and Cyrillic letters whose prototype is not ASCII, used as if it were.
        '\u{03B7}' => Some('n'),
        '\u{03C4}' | '\u{0442}' => Some('t'),
        '\u{03BA}' | '\u{043A}' => Some('k'),
        '\u{03C9}' => Some('w'),
        '\u{03B2}' | '\u{0432}' => Some('b'),
        '\u{043C}' => Some('m'),
        '\u{043D}' => Some('h'),
        '\u{03B5}' => Some('e'),
        '\u{03BC}' => Some('u'),
        '\u{0433}' => Some('r'),
        '\u{0438}' | '\u{043F}' => Some('n'),
        '\u{044F}' => Some('r'),
        _ => None,
    })
}

/// Letters with a style that Unicode does not decompose: small capitals, negative circled and squared ones.
pub(super) fn styled_letter(c: char) -> Option<char> {
    const SMALL_CAPITALS: &str = "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡ";
    let nth = |base: u32| char::from_u32(u32::from(b'a') + (c as u32 - base));
    match c {
        '\u{1F150}'..='\u{1F169}' => nth(0x1F150),
        '\u{1F170}'..='\u{1F189}' => nth(0x1F170),
        '\u{1F130}'..='\u{1F149}' => nth(0x1F130),
        '\u{24D0}'..='\u{24E9}' => nth(0x24D0),
        '\u{24B6}'..='\u{24CF}' => nth(0x24B6),
        '\u{1D18E}' | '\u{028F}' => Some('y'),
        '\u{1D22}' => Some('z'),
        '\u{01EB}' => Some('q'),
        '\u{0250}'..='\u{AB65}' => SMALL_CAPITALS
            .chars()
            .position(|small| small == c)
            .and_then(|at| char::from_u32(u32::from(b'a') + at as u32)),
        _ => None,
    }
}

/// Letters of Latin spelling that do not decompose.
pub(super) fn special_letter(c: char) -> Option<&'static str> {
    Some(match c {
        'ß' | 'ẞ' => "ss",
        'æ' | 'Æ' => "ae",
        'œ' | 'Œ' => "oe",
        'ø' | 'Ø' => "o",
        'ł' | 'Ł' => "l",
        'đ' | 'Đ' | 'ð' | 'Ð' => "d",
        'ı' | 'İ' => "i",
        'þ' | 'Þ' => "th",
        _ => return None,
    })
}

/// Signs that stand for a letter inside a word.
pub(super) fn sign_letter(c: char) -> Option<char> {
    Some(match c {
        '@' => 'a',
        '$' => 's',
        '!' | '|' => 'i',
        '+' => 't',
        '\u{20AC}' => 'e',
        _ => return None,
    })
}

/// The word of the vocabulary that digits and signs were put into.
pub(super) fn unleet(word: &str, lexicon: &Lexicon) -> Option<String> {
    let with = |one: char| -> String {
        word.chars()
            .map(|c| match c {
                '0' => 'o',
                '1' => one,
                '3' => 'e',
                '4' => 'a',
                '5' => 's',
                '7' => 't',
                '8' => 'b',
                c => c,
            })
            .collect()
    };
    if !word.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let known = |candidate: String| {
        (lexicon.knows(&candidate) && candidate.len() >= 3).then_some(candidate)
    };
    known(with('i')).or_else(|| known(with('l')))
}

//! Street addresses around their house number.

use crate::redact::{
    detector::{Span, horizon},
    kind::Kind,
};

/// English words that end a street's name.
#[rustfmt::skip]
const SUFFIXES: &[&str] = &[
    "street", "st", "st.", "avenue", "ave", "ave.", "av", "road", "rd", "rd.", "lane", "ln", "ln.", "drive", "dr", "dr.", "boulevard", "blvd", "blvd.", "court", "ct", "ct.", "place", "pl", "pl.", "square", "sq", "terrace", "ter", "close", "crescent", "cres", "parkway", "pkwy", "highway", "hwy",
    "circle", "cir", "trail", "trl", "gardens", "grove", "mews", "row", "alley", "pike", "turnpike", "loop", "walk", "quay", "hill", "rise", "wharf", "way", "expressway", "freeway", "plaza", "point", "ridge", "crossing", "bypass", "causeway",
    "manor", "heights", "villages", "meadows", "mountain", "valley", "springs", "station", "village", "views", "view", "island", "islands", "junction", "keys", "knoll", "knolls", "lake", "lakes", "landing", "light", "locks", "lodge", "mall", "mill", "mills", "mission", "motorway", "oval", "park", "parks", "pass", "passage", "path", "pine", "pines", "plain", "plains", "port", "ports", "prairie", "ranch", "rapid", "rapids", "rest", "river", "route", "shoal", "shoals", "shore", "shores", "skyway", "spur", "stravenue", "stream", "summit", "throughway", "trace", "track", "trafficway", "tunnel", "underpass", "union", "unions", "via", "viaduct", "ville", "vista", "wall", "well", "wells", "burg", "burgs", "camp", "canyon", "cape", "cliff", "cliffs", "club", "common", "corner", "corners", "course", "courts", "cove", "coves", "creek", "crest", "dale", "dam", "divide", "drives", "estate", "estates", "extension", "extensions", "fall", "falls", "ferry", "field", "fields", "flat", "flats", "ford", "fords", "forest", "forge", "forges", "fork", "forks", "fort", "garden", "gateway", "glen", "glens", "green", "greens", "harbor", "harbors", "haven", "hills", "hollow", "inlet", "isle", "bayou", "beach", "bend", "bluff", "bluffs", "bottom", "branch", "bridge", "brook", "brooks",
];

/// Those of them that are too ordinary to follow one word alone in a sentence.
const STREETS: usize = 40;

/// Words that start a street's name where the number comes last (Spanish, Portuguese, Italian) or first (French).
#[rustfmt::skip]
const PREFIXES: &[&str] = &[
    "calle", "c/", "avenida", "avda", "avda.", "av.", "av", "plaza", "pza.", "paseo", "camino", "carrer", "carretera", "ronda", "travesía", "via", "viale", "piazza", "corso", "largo", "vicolo", "strada", "rua", "r.", "travessa", "praça", "alameda", "estrada", "rue", "boulevard", "place", "chemin", "allée", "impasse", "quai", "route", "cours",
];

/// Endings of German and Dutch street names.
const ENDINGS: &[&str] = &[
    "straße", "strasse", "str.", "weg", "platz", "allee", "gasse", "damm", "ufer", "straat",
    "laan", "plein", "gracht", "kade", "singel", "dijk", "ring", "chaussee", "stieg", "steig",
];

fn listed(list: &[&str], word: &str) -> bool {
    list.iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn capital(word: &str) -> bool {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    match &word[digits..] {
        // "5th Avenue", "42nd Street".
        "st" | "nd" | "rd" | "th" => digits > 0,
        rest => digits == 0 && rest.chars().next().is_some_and(char::is_uppercase),
    }
}

fn particle(word: &str) -> bool {
    matches!(
        word,
        "de" | "la"
            | "las"
            | "los"
            | "del"
            | "da"
            | "do"
            | "dos"
            | "das"
            | "des"
            | "du"
            | "di"
            | "della"
            | "dei"
            | "le"
            | "les"
            | "y"
            | "e"
            | "et"
            | "d'"
            | "l'"
            | "von"
            | "der"
            | "den"
            | "dem"
            | "the"
            | "of"
    ) || word.starts_with("d'")
        || word.starts_with("l'")
}

/// The address whose house number is the word `start..end`.
pub(crate) fn around(text: &str, start: usize, end: usize) -> Option<Span> {
    if end - start > 6 {
        return None;
    }
    let bytes = text.as_bytes();
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte >= 0x80;
    let named_before = bytes[..start]
        .iter()
        .rev()
        .take(3)
        .find(|byte| !matches!(byte, b' ' | b','))
        .is_some_and(|byte| letter(byte) || *byte == b'.');
    let named_behind = bytes.get(end) == Some(&b' ')
        && bytes
            .get(end + 1)
            .is_some_and(|byte| letter(byte) || byte.is_ascii_digit());
    // Backward first: its span starts earlier and may not depend on what only the number's own horizon shows.
    let before = if named_before {
        backward(text, start, end)
    } else {
        None
    };
    let (from, to) = match before {
        Some(found) => found,
        None if named_behind => (start, forward(text, start, end)?),
        None => return None,
    };
    Some(Span {
        start: from,
        end: tail(text, to),
        kind: Kind::Address,
        score: 0.75,
    })
}

/// "221B Baker Street", "12 bis rue de la Paix": where the street's name ends.
fn forward(text: &str, start: usize, end: usize) -> Option<usize> {
    let view = &text[end..start + horizon(text, start).len().max(end - start)];
    let mut at = end;
    let mut words = view.split_inclusive(' ');
    if words.next() != Some(" ") {
        return None;
    }
    at += 1;
    let (mut french, mut named) = (None, 0usize);
    let mut found = None;
    for (index, piece) in words.enumerate() {
        let raw = piece.trim_end_matches(' ');
        let word = raw.trim_end_matches([',', ';', '?', '!', ')', ':']);
        let bare = word.trim_end_matches('.');
        let last = word.len() < raw.len();
        if index == 0 && matches!(word, "bis" | "ter" | "quater") {
            at += piece.len();
            continue;
        }
        if index <= 1
            && named == 0
            && [
                "rue",
                "avenue",
                "boulevard",
                "place",
                "chemin",
                "allée",
                "impasse",
                "quai",
                "route",
                "cours",
                "passage",
                "square",
            ]
            .contains(&word)
        {
            french = Some(());
        } else if french.is_some() {
            if capital(bare) {
                found = Some(at + bare.len());
            } else if !particle(word) {
                return found;
            }
        } else {
            let position = SUFFIXES.iter().position(|known| {
                known.eq_ignore_ascii_case(word) || known.eq_ignore_ascii_case(bare)
            });
            match position {
                Some(rank)
                    if named > 0 && capital(word) && (rank < STREETS || named >= 2 || last) =>
                {
                    let dotted = word.len() > bare.len() && view.len() > at + word.len() - end;
                    let mut to = at + if dotted { word.len() } else { bare.len() };
                    // "Baker Street NW".
                    if !last {
                        let next = text[to..]
                            .trim_start_matches(' ')
                            .split([' ', ',', '.'])
                            .next()
                            .unwrap_or("");
                        if [
                            "N", "S", "E", "W", "NE", "NW", "SE", "SW", "North", "South", "East",
                            "West",
                        ]
                        .contains(&next)
                            && text[to..].starts_with(' ')
                        {
                            to += 1 + next.len();
                        }
                    }
                    return Some(to);
                }
                _ if capital(word) && index < 5 => named += 1,
                _ => return None,
            }
        }
        if last || index > 6 {
            break;
        }
        at += piece.len();
    }
    found
}

/// "Hauptstraße 12", "Calle Mayor, 5": where it starts and ends.
fn backward(text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let from = text[..start].char_indices().rev().take(44).last()?.0;
    let head = text[from..start].trim_end_matches(' ');
    let head = head.trim_end_matches([',', ' ']);
    let head = ["nº", "n°", "n.º", "no.", "numero", "número", "n."]
        .iter()
        .find_map(|mark| head.strip_suffix(mark))
        .unwrap_or(head);
    let head = head.trim_end_matches([' ', ',']);
    if !head.ends_with(|character: char| character.is_alphabetic() || character == '.')
        || head.len() + from == start
    {
        return None;
    }
    let mut to = end;
    // "12 a", "12-14".
    if text.as_bytes().get(to) == Some(&b'-')
        && text.as_bytes().get(to + 1).is_some_and(u8::is_ascii_digit)
    {
        to += 1 + text.as_bytes()[to + 1..]
            .iter()
            .take(4)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
    }
    let mut begin = head.len();
    for index in 0..6 {
        let word_at = head[..begin].rfind(' ').map_or(0, |at| at + 1);
        let word = &head[word_at..begin];
        if word.is_empty() {
            return None;
        }
        if word_at == 0 && from > 0 && !text[..from].ends_with(' ') {
            return None;
        }
        let lower_end = |ending: &&str| {
            word.len() > ending.len()
                && word
                    .get(word.len() - ending.len()..)
                    .is_some_and(|tail| tail.eq_ignore_ascii_case(ending))
        };
        if index == 0 && capital(word) && ENDINGS.iter().any(lower_end) && word.chars().count() > 5
        {
            return Some((from + word_at, to));
        }
        if index == 0
            && [
                "Straße", "Strasse", "Str.", "Weg", "Platz", "Allee", "Ring", "Damm",
            ]
            .contains(&word)
        {
            let earlier = head[..word_at].trim_end();
            let adjective = earlier.rfind(' ').map_or(0, |at| at + 1);
            return capital(&earlier[adjective..]).then_some((from + adjective, to));
        }
        if index > 0 && listed(PREFIXES, word) {
            return Some((from + word_at, to));
        }
        if !(capital(word) || (index > 0 && particle(word))) {
            return None;
        }
        begin = head[..word_at].trim_end().len();
        if begin == 0 {
            return None;
        }
    }
    None
}

/// Flat, city, state and postal code behind a street.
fn tail(text: &str, mut end: usize) -> usize {
    for word in [
        "Apt.",
        "Apt",
        "Apartment",
        "Suite",
        "Unit",
        "Flat",
        "Floor",
        "Ste",
        "Ste.",
        "#",
    ] {
        let rest = text[end..].trim_start_matches([',', ' ']);
        let Some(number) = rest.strip_prefix(word) else {
            continue;
        };
        let number = number.trim_start_matches(' ');
        let length = number
            .bytes()
            .take(6)
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        if length > 0 && text.len() - rest.len() - end <= 2 {
            end = text.len() - number.len() + length;
            break;
        }
    }
    // ", Springfield, IL 62701"
    let rest = &text[end..];
    let Some(city) = rest.strip_prefix(", ") else {
        return end;
    };
    let city_end = city
        .char_indices()
        .take(26)
        .find(|(_, character)| *character == ',' || character.is_ascii_digit() || *character == '.')
        .map(|(at, _)| at);
    let Some(city_end) = city_end else { return end };
    let after = city[city_end..].trim_start_matches([',', ' ']);
    let bytes = after.as_bytes();
    let (state, zip) = match bytes {
        [a, b, b' ', zip @ ..] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => (3, zip),
        _ => return end,
    };
    let digits = zip
        .iter()
        .take(5)
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits < 5
        || !city[..city_end]
            .split(' ')
            .filter(|word| !word.is_empty())
            .all(capital)
    {
        return end;
    }
    let mut to = text.len() - after.len() + state + 5;
    if let [b'-', a, b, c, d, ..] = &text.as_bytes()[to..]
        && [a, b, c, d].iter().all(|byte| byte.is_ascii_digit())
    {
        to += 5;
    }
    to
}

//! Addresses of machines and people on the network: e-mail, hosts, URLs, IP and hardware addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::redact::{
    detector::{HORIZON, Span, horizon},
    kind::Kind,
};

/// Top-level domains that people's addresses and web sites have. File endings that are also countries (`.rs`, `.py`, `.md`, `.sh`)
/// count only behind `www.` or a scheme; words that are also countries (`.is`, `.so`, `.to`) do not count at all.
#[rustfmt::skip]
const TLDS: &[&str] = &[
    "ac", "academy", "ad", "ae", "aero", "africa", "agency", "ai", "app", "ar", "art", "asia", "at", "au", "auto", "az", "ba", "bank", "bar", "bd", "be", "berlin", "best", "beer",
    "bg", "bh", "bid", "bike", "biz", "blog", "bo", "br", "brussels", "build", "business", "buzz", "by", "bz", "ca", "cafe", "capital", "care", "careers", "cat", "center", "ch", "chat",
    "city", "cl", "click", "clinic", "cloud", "club", "cn", "co", "coach", "codes", "coffee", "college", "com", "community", "company", "consulting", "coop", "cr", "cu", "cy", "cz",
    "dating", "de", "deals", "dental", "design", "dev", "digital", "direct", "dk", "dz", "ec", "edu", "education", "ee", "eg", "email", "energy", "engineering", "es", "estate",
    "eu", "events", "exchange", "expert", "express", "family", "farm", "fashion", "fi", "finance", "financial", "fit", "fitness", "fm", "foundation", "fr", "fun", "fund", "fyi",
    "ga", "gallery", "games", "garden", "ge", "gg", "gi", "gov", "gr", "group", "gt", "guide", "guru", "hamburg", "health", "healthcare", "hk", "hn", "holiday", "host", "hotel", "house", "hr",
    "hu", "ie", "il", "im", "in", "industries", "info", "ink", "institute", "insurance", "int", "international", "io", "iq", "ir", "it", "je", "jm", "jo", "jobs", "jp", "ke", "kg", "kh",
    "kr", "kw", "kz", "land", "law", "lb", "legal", "li", "life", "link", "lk", "loan", "lol", "london", "lt", "ltd", "lu", "lv", "ly", "ma", "management", "market", "marketing", "mc", "me",
    "media", "medical", "mg", "miami", "mil", "mk", "mn", "mobi", "mt", "museum", "mx", "my", "mz", "net", "network", "news", "ng", "ngo", "ni", "ninja", "nl", "no", "np", "nu", "nyc", "nz",
    "one", "ong", "online", "org", "pa", "paris", "partners", "parts", "pe", "ph", "photo", "photography", "photos", "pk", "pl", "plus", "pr", "press", "pro", "productions", "properties", "property", "pt",
    "pub", "qa", "re", "rent", "rentals", "repair", "report", "restaurant", "reviews", "rio", "rip", "ro", "rocks", "ru", "sa", "sale", "school", "se", "services", "sg", "shop", "si", "site",
    "sk", "sn", "social", "software", "solutions", "space", "store", "studio", "su", "supply", "support", "sv", "systems", "taipei", "tax", "taxi", "team", "tech", "technology", "tel", "th", "tips",
    "tn", "today", "tokyo", "tools", "top", "tours", "town", "toys", "tr", "trade", "training", "travel", "tv", "tw", "ua", "ug", "uk", "university", "us", "uy", "uz", "vc", "ve", "ventures", "vet", "video",
    "vip", "vn", "wales", "website", "wien", "wiki", "win", "wine", "work", "works", "world", "wtf", "xyz", "yoga", "za", "zone", "zw",
];

/// Country codes under which registrars sell the second level only (`co.id`), or which are file endings or words.
const SHY_TLDS: &[&str] = &[
    "rs", "py", "md", "sh", "so", "zip", "mov", "ps", "cc", "ml", "pm", "tf", "la", "is", "to",
    "am", "as", "do", "id", "name", "st", "ws", "mu", "mw", "zm", "bn", "lb", "gs", "vg", "cd",
    "cg", "ci", "cm", "cv", "et", "fo", "gl", "gm", "gp", "gy", "ht", "lc", "ls", "mr", "mv", "na",
    "nc", "ne", "pf", "pg", "sc", "sd", "sl", "sr", "sy", "sz", "tc", "td", "tg", "tj", "tl", "tm",
    "tt", "tz", "vi", "vu", "ye", "gold", "plumbing", "run", "live", "green", "blue", "red",
    "pink", "black", "page", "page", "date", "review", "science",
];

/// Names that look like hosts and are products.
const PRODUCTS: &[&str] = &[
    "asp.net",
    "ado.net",
    "vb.net",
    "ml.net",
    "paint.net",
    "socket.io",
    "node.js",
    "draw.io",
    "fly.io",
];

fn is_local_part(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '_' | '%' | '+' | '-' | '\'' | '’')
}

fn is_label(character: char) -> bool {
    character.is_alphanumeric() || character == '-'
}

/// Most characters of a local part that count: the `@` and some of the domain must be visible within one horizon.
const LOCAL_PART: usize = 40;

/// Labels of a host that people write.
const MAX_LABELS: usize = 8;

/// The e-mail address whose `@` is at `at`.
pub(crate) fn email(text: &str, at: usize) -> Option<Span> {
    let head = &text[..at];
    let head = match head.strip_suffix(' ') {
        // "john @ example.com"
        Some(shorter) if text[at + 1..].starts_with(' ') => shorter,
        Some(_) => return None,
        None => head,
    };
    let start = local_part(head)?;
    let after = at + 1 + usize::from(head.len() < at);
    let end = domain_end(text, start, after)?;
    Some(Span {
        start,
        end,
        kind: Kind::Email,
        score: 0.98,
    })
}

/// Where the local part that ends `head` starts.
fn local_part(head: &str) -> Option<usize> {
    let start = head
        .char_indices()
        .rev()
        .take(LOCAL_PART)
        .take_while(|(_, character)| is_local_part(*character))
        .last()?
        .0;
    let part = head[start..].trim_start_matches(['.', '-', '\'', '’', '%']);
    part.chars()
        .any(char::is_alphanumeric)
        .then(|| head.len() - part.len())
}

/// The end of a domain with at least one dot and letters last, for an address that starts at `start`.
fn domain_end(text: &str, start: usize, domain: usize) -> Option<usize> {
    let outside = |character: char| !is_label(character) && character != '.';
    // Most at signs have no dot behind them; that is seen without measuring the horizon.
    let room = HORIZON.saturating_sub(domain + 1 - start);
    let ends = text.as_bytes()[domain..]
        .iter()
        .take(room)
        .find(|byte| byte.is_ascii() && !is_label(char::from(**byte)));
    if ends.is_some_and(|byte| *byte != b'.') {
        return None;
    }
    let limit = start + horizon(text, start).len();
    let seen = text.get(domain..limit)?;
    if let Some(length) = seen
        .find(outside)
        .or_else(|| (limit == text.len()).then_some(seen.len()))
    {
        let name = seen[..length].trim_end_matches(['.', '-']);
        let (_, last) = name.rsplit_once('.')?;
        let letters = last
            .chars()
            .all(|character| character.is_alphabetic() || character == '-');
        if name.len() < 4 || name.starts_with('.') || last.chars().count() < 2 || !letters {
            return None;
        }
        return Some(domain + name.len());
    }
    // The horizon ends within the domain, so it is one, however it ends.
    let length = text[domain..].find(outside).unwrap_or(text.len() - domain);
    let name = text[domain..domain + length].trim_end_matches(['.', '-']);
    (!seen.is_empty() && seen.starts_with(is_label)).then_some(domain + name.len())
}

/// "john [at] example [dot] com", whose bracketed "at" starts at `bracket`.
pub(crate) fn obfuscated_email(text: &str, bracket: usize) -> Option<Span> {
    let after = bracketed(&text[bracket..], &["at", "@", "arroba", "ät"])?;
    let mut start = local_part(text[..bracket].trim_end_matches(' '))?;
    // "john [dot] smith [at] …"
    for _ in 0..3 {
        let head = text[..start].trim_end_matches(' ');
        let Some(open) = head.rfind(['[', '(', '{']) else {
            break;
        };
        if head.len() - open > 8 || bracketed(&head[open..], DOTS) != Some(head.len() - open) {
            break;
        }
        let Some(earlier) = local_part(head[..open].trim_end_matches(' ')) else {
            break;
        };
        if bracket - earlier > LOCAL_PART {
            break;
        }
        start = earlier;
    }
    let mut at = bracket + after;
    let (mut end, mut labels) = (at, 0);
    let limit = start + horizon(text, start).len();
    while at < limit {
        at += text[at..].len() - text[at..].trim_start_matches(' ').len();
        let label = text[at..]
            .find(|character: char| !is_label(character))
            .unwrap_or(text.len() - at);
        if label == 0 {
            break;
        }
        at += label;
        (end, labels) = (at, labels + 1);
        let rest = text[at..].trim_start_matches(' ');
        let gap = text.len() - at - rest.len();
        match bracketed(rest, DOTS) {
            Some(dot) => at += gap + dot,
            None if rest.starts_with('.') && gap == 0 && rest[1..].starts_with(is_label) => at += 1,
            None => break,
        }
    }
    (labels >= 2).then_some(Span {
        start,
        end,
        kind: Kind::Email,
        score: 0.95,
    })
}

const DOTS: &[&str] = &["dot", ".", "punto", "point", "punkt", "ponto"];

/// Length of a bracketed word out of `words` at the start of `text`, blanks behind it not counted.
fn bracketed(text: &str, words: &[&str]) -> Option<usize> {
    let close = match text.as_bytes().first()? {
        b'[' => ']',
        b'(' => ')',
        b'{' => '}',
        _ => return None,
    };
    let length = text
        .char_indices()
        .take(12)
        .find(|(_, character)| *character == close)?
        .0;
    let inside = text[1..length].trim();
    words
        .iter()
        .any(|word| word.eq_ignore_ascii_case(inside))
        .then_some(length + 1)
}

/// The URL whose `://` is at `colon`.
pub(crate) fn url(text: &str, colon: usize) -> Option<Span> {
    const SCHEMES: &[&str] = &[
        "https", "http", "ftp", "ftps", "sftp", "ssh", "wss", "ws", "sip", "sips", "rtsp", "smb",
        "ldap", "ldaps", "git",
    ];
    let head = &text[..colon];
    let scheme = SCHEMES.iter().find(|scheme| {
        head.len() >= scheme.len()
            && head
                .get(head.len() - scheme.len()..)
                .is_some_and(|tail| tail.eq_ignore_ascii_case(scheme))
            && !head[..head.len() - scheme.len()]
                .ends_with(|character: char| character.is_ascii_alphanumeric())
    })?;
    let host = colon + 3;
    if !text[host..].starts_with(|character: char| character.is_alphanumeric() || character == '[')
    {
        return None;
    }
    for local in ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"] {
        if text[host..].starts_with(local) {
            return None;
        }
    }
    Some(Span {
        start: colon - scheme.len(),
        end: url_end(text, host),
        kind: Kind::Url,
        score: 0.97,
    })
}

/// Up to white space or a quote, without the punctuation of the sentence around.
fn url_end(text: &str, start: usize) -> usize {
    let length = text[start..]
        .find(|character: char| {
            character.is_whitespace()
                || matches!(character, '"' | '<' | '>' | '`' | '|' | '“' | '”' | '»')
        })
        .unwrap_or(text.len() - start);
    let mut url = &text[start..start + length];
    loop {
        let shorter = url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*']);
        let shorter = match shorter.as_bytes().last() {
            Some(b')') if !shorter.contains('(') => &shorter[..shorter.len() - 1],
            Some(b']') if !shorter.contains('[') => &shorter[..shorter.len() - 1],
            Some(b'}') if !shorter.contains('{') => &shorter[..shorter.len() - 1],
            _ => shorter,
        };
        if shorter.len() == url.len() {
            return start + url.len();
        }
        url = shorter;
    }
}

/// The host, perhaps with a path, whose first label starts at `start`.
pub(crate) fn host(text: &str, start: usize) -> Option<Span> {
    let seen = horizon(text, start);
    let mut dots = 0;
    let length = seen
        .char_indices()
        .find(|(_, character)| {
            dots += usize::from(*character == '.');
            !is_label(*character) && *character != '.' || dots > MAX_LABELS
        })
        .map_or(seen.len(), |(at, _)| at);
    if dots > MAX_LABELS {
        return None;
    }
    let name = seen[..length].trim_end_matches(['.', '-']);
    let after = &text[start + name.len()..];
    if after.starts_with(['@', '_', '(', '=', '\\']) || name.contains("..") {
        return None;
    }
    let (rest, tld) = name.rsplit_once('.')?;
    // "end.Then" is a missing blank.
    if !(tld.bytes().all(|byte| byte.is_ascii_lowercase())
        || name.bytes().all(|byte| !byte.is_ascii_lowercase()))
    {
        return None;
    }
    let listed = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(tld));
    let www = rest.len() > 4 && rest.as_bytes()[..4].eq_ignore_ascii_case(b"www.");
    let second = rest.rsplit('.').next().unwrap_or(rest);
    let registry = rest.contains('.')
        && ["co", "com", "org", "net", "ac", "gov", "go", "or", "edu"].contains(&second);
    if !(listed(TLDS) || (listed(SHY_TLDS) && (www || registry)) || tld.starts_with("xn--")) {
        return None;
    }
    if PRODUCTS
        .iter()
        .any(|product| product.eq_ignore_ascii_case(name))
    {
        return None;
    }
    let single = second.len() < 2 && !matches!(tld, "com" | "co" | "org" | "net" | "io");
    if single
        || !second
            .bytes()
            .any(|byte| byte.is_ascii_alphabetic() || byte >= 0x80)
        || rest
            .split('.')
            .any(|label| label.is_empty() || label.starts_with('-'))
    {
        return None;
    }
    // Words that end a sentence and words that are countries: "call me.in an hour".
    if matches!(
        tld,
        "in" | "at" | "be" | "no" | "me" | "my" | "by" | "us" | "it" | "re"
    ) && !rest.contains('.')
        && after.starts_with(' ')
        && after[1..].starts_with(|character: char| character.is_ascii_lowercase())
        && is_common(rest)
    {
        return None;
    }
    let end = start + name.len();
    if let Some(b'/' | b'?' | b':') = after.as_bytes().first()
        && after.len() > 1
        && (after.starts_with(['/', '?']) || after.as_bytes()[1].is_ascii_digit())
    {
        return Some(Span {
            start,
            end: url_end(text, end),
            kind: Kind::Url,
            score: 0.95,
        });
    }
    let kind = if www { Kind::Url } else { Kind::Domain };
    Some(Span {
        start,
        end,
        kind,
        score: 0.93,
    })
}

/// Everyday words after which a blank may be missing.
fn is_common(word: &str) -> bool {
    const COMMON: &[&str] = &[
        "me", "it", "that", "this", "you", "him", "her", "them", "us", "ok", "okay", "yes", "no",
        "done", "go", "come", "call", "please", "thanks", "now", "then", "today", "here", "there",
        "time", "again", "back", "good", "sure", "right", "fine", "well", "order", "day", "home",
        "work", "up", "out", "on",
    ];
    COMMON.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// The dotted quad at `start`.
pub(crate) fn ipv4(text: &str, start: usize) -> Option<Span> {
    let bytes = &text.as_bytes()[start..];
    let length = bytes
        .iter()
        .take(16)
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
        .count();
    let quad = text[start..start + length].trim_end_matches('.');
    let address = quad.parse::<Ipv4Addr>().ok()?;
    let end = start + quad.len();
    let glued = match &text.as_bytes()[end..] {
        [b'.', next, ..] => next.is_ascii_alphanumeric(),
        [b'-', next, ..] => next.is_ascii_alphabetic(),
        [next, ..] => next.is_ascii_alphanumeric() || *next == b'_',
        [] => false,
    };
    let head = text[..start].trim_end_matches([' ', '=', ':', '"', '(']);
    let version = [
        "version", "versión", "versão", "ver", "ver.", "v", "release", "build", "firmware", "rev",
        "section", "chapter", "oid", "chrome", "edge", "driver",
    ]
    .iter()
    .any(|word| {
        head.len() >= word.len()
            && head
                .get(head.len() - word.len()..)
                .is_some_and(|tail| tail.eq_ignore_ascii_case(word))
            && !head[..head.len() - word.len()]
                .ends_with(|character: char| character.is_ascii_alphanumeric())
    });
    // Nobody's address: this machine, any address, a mask.
    let nobody = matches!(address.octets(), [0 | 127 | 255, ..]);
    (!glued && !version && !nobody && (!is_small(address) || speaks_of_networks(head))).then_some(
        Span {
            start,
            end,
            kind: Kind::Ip,
            score: 0.95,
        },
    )
}

/// Whether the numbers are as low as those of a version: "7.11.19.4".
fn is_small(address: Ipv4Addr) -> bool {
    let octets = address.octets();
    octets[0] < 30 && octets.iter().all(|octet| *octet < 100)
}

/// Whether `head` ends with words among which four small numbers are an address.
fn speaks_of_networks(head: &str) -> bool {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "ip", "ipv4", "ips", "addr", "address", "addresses", "host", "hosts", "server", "servers", "router", "gateway", "ping", "pinged", "dns", "subnet", "ssh", "client", "peer", "remote", "network", "connection", "connections", "connected",
        "connect", "traceroute", "nslookup", "resolver", "proxy", "vpn", "firewall", "src", "dst", "source", "login", "logged", "request", "requests", "from", "at", "port", "interface", "eth0", "inet", "route", "dirección", "servidor", "adresse",
        "serveur", "endereço", "rechner", "netz", "red", "rede", "réseau", "conexión", "conexão", "connexion", "verbindung", "forwarded",
    ];
    let from = head
        .char_indices()
        .rev()
        .take(48)
        .last()
        .map_or(0, |(at, _)| at);
    head[from..]
        .split(|character: char| !character.is_alphanumeric())
        .any(|word| WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)))
}

/// The IPv6 or hardware address at `start`.
pub(crate) fn colons(text: &str, start: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    // In the middle of a fingerprint: pairs or fours of hexadecimal digits go on to the left.
    if let Some(before) = start
        .checked_sub(1)
        .filter(|before| matches!(bytes[*before], b':' | b'-'))
    {
        let group = bytes[..before]
            .iter()
            .rev()
            .take(5)
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        if matches!(group, 1 | 2 | 4) {
            return None;
        }
    }
    let length = bytes[start..]
        .iter()
        .take(46)
        .take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'-'))
        .count();
    let end_of_word = |end: usize| {
        !bytes
            .get(end)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    let mac = |width: usize, step: usize, marks: &[u8]| {
        let mark = *bytes.get(start + step)?;
        let whole = &bytes.get(start..start + width)?;
        let shaped = marks.contains(&mark)
            && whole
                .iter()
                .enumerate()
                .all(|(at, byte)| match (at + 1) % (step + 1) {
                    0 => *byte == mark,
                    _ => byte.is_ascii_hexdigit(),
                });
        let end = start + width;
        let open = bytes.get(end).is_some_and(|byte| {
            *byte == mark && bytes.get(end + 1).is_some_and(u8::is_ascii_hexdigit)
        });
        (shaped && end_of_word(end) && !open).then_some(Span {
            start,
            end,
            kind: Kind::Mac,
            score: 0.97,
        })
    };
    if let Some(span) = mac(17, 2, b":-").or_else(|| mac(14, 4, b".")) {
        return Some(span);
    }
    let word = text[start..start + length].trim_end_matches(['.', '-']);
    // A colon that ends a clause is no part of it, a double one is.
    let word = if word.ends_with(':') && !word.ends_with("::") {
        &word[..word.len() - 1]
    } else {
        word
    };
    let colons = word.bytes().filter(|byte| *byte == b':').count();
    let digits = word.bytes().any(|byte| byte.is_ascii_digit());
    if colons < 2 || word.len() < 3 || !(digits || colons >= 4) || word.parse::<Ipv6Addr>().is_err()
    {
        return None;
    }
    let end = start + word.len();
    end_of_word(end).then_some(Span {
        start,
        end,
        kind: Kind::Ip,
        score: 0.95,
    })
}

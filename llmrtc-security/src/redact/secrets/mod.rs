//! Credentials in text (E2): keys with an issuer's prefix, tokens, private keys, headers, URLs with a password, and random values that a
//! keyword announces.
//!
//! Identifiers that only look random stay: trace ids, fingerprints, commit hashes, UUIDs, voice ids. They have neither prefix nor keyword.

mod shapes;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use shapes::{SHAPES, Tail};

use super::{
    detector::{Context, Detector, HORIZON, Span, horizon},
    kind::Kind,
};

/// Finds credentials. Stateless.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SecretDetector;

#[derive(Clone, Copy, Debug)]
enum Mark {
    /// A shape by its place in the table.
    Shape(usize),
    /// A word for a credential, whose value follows.
    Keyword,
    /// The word "key", which needs a vendor before it.
    Key,
    /// A scheme of the Authorization header.
    Scheme,
    /// Start of a URL's authority.
    Authority,
    /// Start of a private key.
    Pem,
    /// A part of a URL that is a secret by itself.
    Hook,
}

#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "api_key", "api-key", "apikey", "api key", "api_token", "api-token", "access_key", "access-key", "access key", "accesskey", "accountkey", "account_key", "secret", "secret_key", "secret key", "secret_access_key", "client_secret", "client-secret", "clientsecret", "private_key", "private-key", "signing_key", "signing_secret",
    "subscription-key", "subscription_key", "subscription key", "auth_key", "auth-key", "authkey", "auth_token", "auth-token", "authtoken", "access_token", "access-token", "accesstoken", "refresh_token", "refreshtoken", "id_token", "session_token", "bearer_token", "token", "passwd", "password", "credential", "credentials", "x-amz-signature", "x-amz-security-token", "sig=",
];

/// Vendors whose keys have no prefix, or had none.
#[rustfmt::skip]
const VENDORS: &[&str] = &[
    "elevenlabs", "eleven labs", "deepgram", "cartesia", "metered", "mistral", "cohere", "azure", "assemblyai", "assembly", "together", "fireworks", "groq", "openai", "anthropic", "google", "gemini", "openrouter", "hugging", "aws", "xi-", "speechmatics", "gladia", "rime", "playht", "lmnt", "hume", "soniox", "daily", "livekit", "twilio", "telnyx", "cloudflare", "your", "the api",
];

static AUTOMATON: LazyLock<(AhoCorasick, Vec<Mark>)> = LazyLock::new(|| {
    let shapes = SHAPES
        .iter()
        .enumerate()
        .map(|(at, (prefix, ..))| (*prefix, Mark::Shape(at)));
    let keywords = KEYWORDS.iter().map(|word| (*word, Mark::Keyword));
    let others = [
        ("bearer ", Mark::Scheme),
        ("basic ", Mark::Scheme),
        ("://", Mark::Authority),
        ("-----BEGIN ", Mark::Pem),
        ("hooks.slack.com/services/", Mark::Hook),
        ("/api/webhooks/", Mark::Hook),
        ("key", Mark::Key),
        ("bot", Mark::Hook),
    ];
    let (patterns, marks): (Vec<&str>, Vec<Mark>) = shapes.chain(keywords).chain(others).unzip();
    let automaton = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(patterns)
        .expect("the prefixes are few and short");
    (automaton, marks)
});

impl Detector for SecretDetector {
    fn detect(&self, text: &str, _context: &Context<'_>, out: &mut Vec<Span>) {
        let mut behind = 0;
        for found in AUTOMATON.0.find_iter(text) {
            if found.start() < behind {
                continue;
            }
            let range = match AUTOMATON.1[found.pattern().as_usize()] {
                Mark::Shape(at) => shape(text, found.start(), SHAPES[at].0.len()),
                Mark::Keyword => announced(text, found.end()),
                Mark::Key => vendor_before(text, found.start())
                    .then(|| announced(text, found.end()))
                    .flatten(),
                Mark::Scheme => scheme(text, found.start(), found.end()),
                Mark::Authority => authority(text, found.end()),
                Mark::Pem => pem(text, found.start()),
                Mark::Hook => hook(text, found.start(), found.end()),
            };
            if let Some((start, end)) = range {
                behind = end;
                out.push(Span {
                    start,
                    end,
                    kind: Kind::Secret,
                    score: 0.995,
                });
            }
        }
        telegram(text, out);
    }
}

fn run(bytes: &[u8], from: usize, tail: Tail) -> usize {
    bytes[from..]
        .iter()
        .take_while(|byte| tail.has(**byte))
        .count()
}

/// Whether characters look drawn at random: letters and digits mixed, and many different ones.
fn random(value: &[u8]) -> bool {
    let seen = value
        .iter()
        .take(64)
        .fold(0u128, |seen, byte| seen | 1 << (byte & 127));
    let digits = value
        .iter()
        .take(64)
        .filter(|byte| byte.is_ascii_digit())
        .count();
    let upper = value
        .iter()
        .take(64)
        .filter(|byte| byte.is_ascii_uppercase())
        .count();
    let lower = value
        .iter()
        .take(64)
        .filter(|byte| byte.is_ascii_lowercase())
        .count();
    let mixed = digits >= 2 && upper + lower >= 2
        || digits >= 1 && upper >= 2 && lower >= 2
        || value.len() >= 24 && upper >= 4 && lower >= 4;
    mixed && seen.count_ones() >= 8
}

/// A key by its prefix. Of several shapes with the matched prefix any may fit.
fn shape(text: &str, start: usize, prefix: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    if start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] == b'-') {
        return None;
    }
    let issued = &text[start..start + prefix];
    SHAPES
        .iter()
        .filter(|(known, ..)| issued.starts_with(known) || *known == issued)
        .find_map(|(known, tail, least)| {
            let from = start + known.len();
            // The shortest a key can be is visible within the horizon; the rest may be as long as it likes.
            let most = HORIZON - known.len();
            let seen =
                &bytes[from..from + run(&bytes[..bytes.len().min(from + most)], from, *tail)];
            if seen.len() < (*least).min(most - 1)
                || !(random(seen) || *tail == Tail::Upper && varied(seen))
            {
                return None;
            }
            let length = run(bytes, from, *tail);
            let mut end = from + length;
            while matches!(bytes[end - 1], b'.' | b'-') {
                end -= 1;
            }
            // Fixed prefixes of two letters go on with nothing else.
            let closed = known.len() > 2
                || (length == *least
                    && !bytes
                        .get(end)
                        .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-'));
            closed.then_some((start, end))
        })
}

/// Many different characters, as in key ids of capitals alone.
fn varied(value: &[u8]) -> bool {
    value
        .iter()
        .fold(0u128, |seen, byte| seen | 1 << (byte & 127))
        .count_ones()
        >= 7
}

fn vendor_before(text: &str, key: usize) -> bool {
    let from = text.floor_char_boundary(key.saturating_sub(28));
    let before = &text.as_bytes()[from..key];
    let open = before
        .last()
        .is_none_or(|byte| !byte.is_ascii_alphanumeric());
    // Environment style: DEEPGRAM_KEY.
    let shouted = before.last() == Some(&b'_')
        && before
            .iter()
            .rev()
            .skip(1)
            .take(3)
            .all(u8::is_ascii_uppercase)
        && before.len() > 4;
    open && (shouted
        || VENDORS.iter().any(|vendor| {
            before
                .windows(vendor.len())
                .any(|window| window.eq_ignore_ascii_case(vendor.as_bytes()))
        }))
}

/// The random value behind a keyword that ends at `keyword`.
fn announced(text: &str, keyword: usize) -> Option<(usize, usize)> {
    let view = &text.as_bytes()[..keyword + horizon(text, keyword).len()];
    let rest = &view[keyword..];
    // What is left of a longer name: `token_value`, `secrets`, `passwordHash` is taken too.
    let name = rest
        .iter()
        .take(20)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        .count();
    let mut at = keyword + name;
    let mut linked = false;
    for _ in 0..6 {
        match view.get(at..)? {
            [b' ', b'i' | b'I', b's' | b'S', b' ' | b':', ..] => {
                linked = true;
                at += 3;
            }
            [b' ', b'w', b'a', b's', b' ', ..] => {
                linked = true;
                at += 4;
            }
            [b':' | b'=', ..] => {
                linked = true;
                at += 1;
            }
            [
                b' ' | b'"' | b'\'' | b'`' | b'(' | b'[' | b'{' | b'>' | b'\\' | b',',
                ..,
            ] => at += 1,
            _ => break,
        }
    }
    // Behind "sig=" the value starts at once.
    if at == keyword && view.get(at - 1) != Some(&b'=') {
        return None;
    }
    let linked = linked || view.get(keyword - 1) == Some(&b'=');
    for scheme in [&b"bearer "[..], b"basic ", b"token "] {
        if view
            .get(at..at + scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
        {
            at += scheme.len();
        }
    }
    let all = text.as_bytes();
    let value =
        |byte: u8| Tail::Base64.has(byte) && byte != b'=' || byte == b'%' || byte == b':' && linked;
    let mut length = all[at..].iter().take_while(|byte| value(**byte)).count();
    let seen = &all[at..at + length.min(40)];
    let least = if linked { 16 } else { 24 };
    let spelled = seen
        .iter()
        .filter(|byte| matches!(byte, b'-' | b'_' | b'.' | b'/'))
        .count()
        * 4
        > seen.len();
    if length < least || !random(seen) || spelled {
        return None;
    }
    while length > 0 && matches!(all[at + length - 1], b'.' | b'-' | b':') {
        length -= 1;
    }
    length += all[at + length..]
        .iter()
        .take(2)
        .take_while(|byte| **byte == b'=')
        .count();
    Some((at, at + length))
}

/// "Bearer …", "Basic …".
fn scheme(text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    if start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
        return None;
    }
    let length = run(bytes, end, Tail::Base64);
    let seen = &bytes[end..end + length.min(50)];
    let basic =
        bytes[start].eq_ignore_ascii_case(&b'b') && bytes[start + 1].eq_ignore_ascii_case(&b'a');
    let least = if basic { 12 } else { 16 };
    let upper = seen.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    let plausible =
        random(seen) || (basic && upper >= 2 && seen.iter().any(u8::is_ascii_lowercase));
    (length >= least && plausible).then_some((
        end,
        end + text[end..end + length].trim_end_matches('.').len(),
    ))
}

/// User and password of a URL whose authority starts at `start`.
fn authority(text: &str, start: usize) -> Option<(usize, usize)> {
    let view = horizon(text, start);
    let length = view
        .find(|character: char| {
            character.is_whitespace() || matches!(character, '/' | '"' | '<' | '>' | '?' | '#')
        })
        .unwrap_or(view.len());
    let at = view[..length].rfind('@')?;
    view[..at].contains(':').then_some((start, start + at))
}

/// A private key in PEM, up to its end line or as far as it looks like one.
fn pem(text: &str, start: usize) -> Option<(usize, usize)> {
    let view = horizon(text, start);
    if !view.contains("PRIVATE KEY") {
        return None;
    }
    let rest = &text[start + 11..];
    let end = match rest.find("-----END ") {
        Some(end) => {
            let line = &rest[end + 9..];
            let close = line
                .char_indices()
                .take(40)
                .find(|(at, _)| line[*at..].starts_with("-----"))
                .map_or(0, |(at, _)| at + 5);
            start + 11 + end + 9 + close
        }
        None => text.len(),
    };
    Some((start, end))
}

/// Secret parts of hook addresses: Slack, Discord, Telegram.
fn hook(text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    if end - start == 3 {
        // "bot<number>:<token>" in Telegram's URLs.
        let number = bytes[end..]
            .iter()
            .take(12)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let token = (number >= 8 && bytes.get(end + number) == Some(&b':'))
            .then(|| run(bytes, end + number + 1, Tail::Word))?;
        return (token >= 30).then_some((end, end + number + 1 + token));
    }
    let length = bytes[end..]
        .iter()
        .take_while(|byte| Tail::Word.has(**byte) || **byte == b'/')
        .count();
    (length >= 20).then_some((end, end + length))
}

/// Telegram's bot tokens stand alone: eight to ten digits, a colon, 35 characters.
fn telegram(text: &str, out: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    for (colon, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b':') {
        let number = bytes[..colon]
            .iter()
            .rev()
            .take(11)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(8..=10).contains(&number) {
            continue;
        }
        let token = run(&bytes[..bytes.len().min(colon + 41)], colon + 1, Tail::Word);
        if token == 35 && random(&bytes[colon + 1..colon + 36]) {
            out.push(Span {
                start: colon - number,
                end: colon + 36,
                kind: Kind::Secret,
                score: 0.995,
            });
        }
    }
}

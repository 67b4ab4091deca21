use super::tables::{is_emoji, is_newline, is_speakable};

/// C15: maps written text to spoken text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpeechFilter {
    /// Drops fenced code, emphasis, headings, list bullets and emoji; a link becomes its label, an address its host
    /// name. What models write although they are told that they are being listened to.
    #[default]
    Markdown,
    /// Says everything as it is written.
    Off,
}

/// How far a link's label and target are searched. Longer ones stay as they are, which keeps filtering linear.
const MAX_LABEL_CHARS: usize = 200;
const MAX_TARGET_CHARS: usize = 1_000;

impl SpeechFilter {
    /// The spoken form of `text`, which begins outside of a code fence. Never longer than `text`, and speakable if
    /// `text` outside of its fences is.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Off => text.to_owned(),
            Self::Markdown => markdown(text),
        }
    }
}

fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    for line in text.split_inclusive(is_newline) {
        let content = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|m| content.starts_with(m));
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(close)) if open == close => fence = None,
            (Some(_), _) => {}
            (None, None) => inline(strip_block_mark(line), &mut out),
        }
    }
    out
}

/// Removes the mark of a heading, quotation or list item at the start of a line. Numbers of lists stay: they are said.
fn strip_block_mark(line: &str) -> &str {
    let content = line.trim_start();
    let hashes = content.len() - content.trim_start_matches('#').len();
    let rest = match hashes {
        1..=6 => &content[hashes..],
        _ => content
            .strip_prefix(['-', '*', '+', '•', '>'])
            .unwrap_or(content),
    };
    if rest.len() < content.len() && rest.starts_with(' ') {
        rest
    } else {
        line
    }
}

fn inline(line: &str, out: &mut String) {
    let mut rest = line;
    let mut before: Option<char> = None;
    let mut emoji_gone = false;
    while let Some(c) = rest.chars().next() {
        let image = usize::from(rest.starts_with("!["));
        if let Some((label, target, len)) = link(&rest[image..]) {
            if label.chars().any(is_speakable) {
                inline(label, out);
            } else {
                out.push_str(host(target).unwrap_or_default());
            }
            rest = &rest[image + len..];
            before = Some(')');
            continue;
        }
        if !before.is_some_and(char::is_alphanumeric)
            && let Some((host, len)) = address(rest)
        {
            // `<https://…>` is an address in its own kind of quotes.
            let quoted = before == Some('<') && rest[len..].starts_with('>');
            if quoted {
                out.pop();
            }
            out.push_str(host);
            rest = &rest[len + usize::from(quoted)..];
            before = Some('/');
            continue;
        }
        let run = match c {
            '*' | '_' | '`' | '~' => rest.len() - rest.trim_start_matches(c).len(),
            _ => c.len_utf8(),
        };
        let after = rest[run..].chars().next();
        if is_mark(c, run, before, after) || matches!(c, '\u{FE0F}' | '\u{20E3}') {
            // Dropped.
        } else if is_emoji(c) || (c == '\u{200D}' && before.is_some_and(is_emoji)) {
            emoji_gone = true;
        } else {
            let blank = matches!(c, ' ' | '\t');
            if emoji_gone && !blank && !is_speakable(c) && out.ends_with(' ') {
                out.pop();
            }
            emoji_gone &= blank;
            if !blank || !out.ends_with(' ') {
                out.push_str(&rest[..run]);
            }
        }
        before = Some(c);
        rest = &rest[run..];
    }
}

/// Whether a run of `c` is a mark of emphasis, deletion or code, judged by its neighbours alone: a segment may hold
/// only one half of a pair.
fn is_mark(c: char, run: usize, before: Option<char>, after: Option<char>) -> bool {
    let blank = |c: Option<char>| c.is_none_or(char::is_whitespace);
    let is = |c: Option<char>, class: fn(char) -> bool| c.is_some_and(class);
    match c {
        '`' => true,
        '~' => run == 2,
        // `2*3` and `2 * 3` are products.
        '*' => {
            !(run == 1
                && ((blank(before) && blank(after) && before.is_some())
                    || (is(before, char::is_numeric) && is(after, char::is_numeric))))
        }
        // `snake_case` is a name.
        '_' => !(is(before, char::is_alphanumeric) && is(after, char::is_alphanumeric)),
        _ => false,
    }
}

/// `[label](target)` at the start of `text`, and its length.
fn link(text: &str) -> Option<(&str, &str, usize)> {
    let label = text.strip_prefix('[')?;
    let (label_len, _) = label
        .char_indices()
        .take(MAX_LABEL_CHARS)
        .find(|(_, c)| *c == ']')?;
    let target = label[label_len..].strip_prefix("](")?;
    let (target_len, _) = target
        .char_indices()
        .take(MAX_TARGET_CHARS)
        .find(|(_, c)| *c == ')')?;
    let label = &label[..label_len];
    // A label is plain text: without this, nested brackets would recurse.
    (!label.contains('[')).then(|| {
        (
            label,
            &target[..target_len],
            1 + label_len + 2 + target_len + 1,
        )
    })
}

/// An address at the start of `text`: its host name and the length of the whole, without the punctuation after it.
fn address(text: &str) -> Option<(&str, usize)> {
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '(' | ')' | '[' | ']'))
        .unwrap_or(text.len());
    let address = text[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', '*', '_', '`', '\'']);
    host(address).map(|host| (host, address.len()))
}

fn host(address: &str) -> Option<&str> {
    let lower = |prefix: &str| {
        address
            .get(..prefix.len())
            .filter(|start| start.eq_ignore_ascii_case(prefix))
            .map(|_| &address[prefix.len()..])
    };
    let authority = lower("https://")
        .or_else(|| lower("http://"))
        .or_else(|| lower("www.").map(|_| address))?;
    let authority = authority.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    let host = host.strip_prefix("www.").unwrap_or(host);
    host.chars().any(is_speakable).then_some(host)
}

//! F2.4: what a model must not say, whoever persuaded it. Sits between the model and everything that speaks, shows or
//! stores its words, and works on a stream: what is released is released for good, so nothing is released too early.
//!
//! | Kept back | How |
//! | --- | --- |
//! | eight words in a row of the system prompt | the eighth and what follows in step with the prompt is dropped |
//! | links and images to hosts that are not on the list | an image goes whole, of a link the text stays |
//! | secrets | a callback sees each word before it goes out |
//! | the canary | everything from there on, and the session is reported as tripped |
//!
//! At most one word is held back, and an open link until it closes.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use llmrtc_core::redact::Secret;
use serde::Deserialize;
use url::Url;
use validator::Validate;

/// Words in a row that count as a quotation of the prompt. Seven are within what people say by chance.
const QUOTE_WORDS: usize = 8;
/// Longest link or word that is waited for, bytes. A longer one is no link that a person should follow.
const MAX_HELD: usize = 4 * 1024;
/// A canary has to be long enough not to be said by chance.
const MIN_CANARY: usize = 12;

/// What an operator may tune about the output filter.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// Hosts that links and images may point to: `example.com`, or `*.example.com` for everything below it.
    #[validate(length(max = 1000))]
    pub link_hosts: Vec<String>,
    /// Whether a random token stands in the system prompt, so that an answer with it shows that the prompt has leaked.
    pub tripwire: bool,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            link_hosts: Vec::new(),
            tripwire: true,
        }
    }
}

/// Sees each word before it goes out. Secrets with blanks in them are the redactor's task.
pub trait SecretFinder: Send + Sync + 'static {
    /// Whether the word is or contains a secret.
    fn contains_secret(&self, word: &str) -> bool;
}

/// Why something was kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finding {
    /// The system prompt was being quoted.
    PromptLeak,
    /// A link or image points to a host that is not on the list.
    Link,
    /// A secret.
    Secret,
    /// The canary: the prompt has leaked by some way. The session should end.
    Canary,
}

impl Finding {
    /// The name in audit records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PromptLeak => "prompt-leak",
            Self::Link => "link",
            Self::Secret => "secret",
            Self::Canary => "canary",
        }
    }
}

/// The rules for the answers of one session.
#[derive(Clone)]
pub struct OutputRules {
    quotes: HashSet<u64>,
    hosts: Vec<String>,
    secrets: Option<Arc<dyn SecretFinder>>,
    canary: Option<Secret>,
}

impl fmt::Debug for OutputRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputRules")
            .field("quotes", &self.quotes.len())
            .field("hosts", &self.hosts)
            .field("canary", &self.canary.is_some())
            .finish_non_exhaustive()
    }
}

impl OutputRules {
    /// Rules that keep a system prompt private. Prompts of fewer than eight words cannot be told from chance.
    pub fn new(config: &OutputConfig, system_prompt: &str) -> Self {
        let words: Vec<u64> = words(system_prompt).collect();
        Self {
            quotes: words
                .windows(QUOTE_WORDS)
                .map(|quote| hash(&quote))
                .collect(),
            hosts: config
                .link_hosts
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            secrets: None,
            canary: None,
        }
    }

    /// Asks a callback about each word.
    #[must_use]
    pub fn with_secrets(mut self, finder: Arc<dyn SecretFinder>) -> Self {
        self.secrets = Some(finder);
        self
    }

    /// Watches for a token that stands in the system prompt and nowhere else: letters and digits, at least twelve.
    /// A shorter one is not watched, because it could be said by chance.
    #[must_use]
    pub fn with_canary(mut self, canary: &Secret) -> Self {
        let plain: String = alphanumeric(canary.expose()).collect();
        self.canary = (plain.len() >= MIN_CANARY).then(|| Secret::new(plain));
        self
    }

    /// A filter for one answer.
    pub fn filter(self: &Arc<Self>) -> OutputFilter {
        OutputFilter {
            rules: Arc::clone(self),
            held: String::new(),
            recent: VecDeque::with_capacity(QUOTE_WORDS),
            tail: String::new(),
            tripped: false,
        }
    }

    fn allows(&self, address: &str) -> bool {
        let address = address.trim().trim_matches(['<', '>', '"', '\'']);
        // Relative to a page nobody can be: what still has this host had none.
        const NOWHERE: &str = "nowhere.invalid";
        let Ok(base) = Url::parse("https://nowhere.invalid/") else {
            return false;
        };
        // Renderers complete what begins like a host name.
        let bare = address
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("www."));
        let url = if bare {
            Url::parse(&format!("https://{address}"))
        } else {
            base.join(address)
        };
        let Ok(url) = url else {
            return false;
        };
        let Some(host) = url
            .host_str()
            .filter(|_| matches!(url.scheme(), "http" | "https"))
        else {
            return false;
        };
        host == NOWHERE
            || self
                .hosts
                .iter()
                .any(|allowed| match allowed.strip_prefix("*.") {
                    Some(parent) => host
                        .strip_suffix(parent)
                        .is_some_and(|sub| sub.ends_with('.')),
                    None => host == allowed,
                })
    }
}

/// Filters one answer as it streams.
#[derive(Debug)]
pub struct OutputFilter {
    rules: Arc<OutputRules>,
    /// What came in and cannot be judged yet.
    held: String,
    /// The last words of the model, dropped ones included, oldest first.
    recent: VecDeque<u64>,
    /// The last letters and digits of the model, as many as the canary has.
    tail: String,
    /// The canary was said.
    tripped: bool,
}

/// What may go out, and what was kept back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Goes out now; possibly empty.
    pub text: String,
    /// Why something was kept back.
    pub findings: Vec<Finding>,
}

impl Released {
    fn found(&mut self, finding: Finding) {
        if self.findings.last() != Some(&finding) {
            self.findings.push(finding);
        }
    }
}

/// What stands at the beginning of the held text.
enum Piece {
    /// Not known before more text comes.
    Open,
    /// A word or blank of so many bytes.
    Word(usize),
    /// A link, image or tag of so many bytes; this much of it is text; and whether its address is refused.
    Link {
        len: usize,
        text: String,
        refused: bool,
    },
}

impl OutputFilter {
    /// Takes what the model said next.
    pub fn push(&mut self, delta: &str) -> Released {
        self.held.push_str(delta);
        self.release(false)
    }

    /// The model is done: judges what was held back.
    pub fn finish(&mut self) -> Released {
        self.release(true)
    }

    /// Whether the canary was said. Nothing goes out any more.
    pub const fn is_tripped(&self) -> bool {
        self.tripped
    }

    fn release(&mut self, last: bool) -> Released {
        let mut released = Released::default();
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while !rest.is_empty() && !self.tripped {
            match piece(rest, last || rest.len() > MAX_HELD, &self.rules) {
                Piece::Open => break,
                Piece::Word(len) => {
                    self.word(&rest[..len], &mut released);
                    rest = &rest[len..];
                }
                Piece::Link { len, text, refused } => {
                    if refused {
                        released.found(Finding::Link);
                    }
                    for word in text.split_inclusive(char::is_whitespace) {
                        self.word(word, &mut released);
                    }
                    rest = &rest[len..];
                }
            }
        }
        if !self.tripped {
            self.held = rest.to_owned();
        }
        released
    }

    /// Judges one word and what it completes.
    fn word(&mut self, word: &str, released: &mut Released) {
        if self.tripped {
            return;
        }
        if let Some(canary) = &self.rules.canary {
            let canary = canary.expose();
            self.tail.extend(alphanumeric(word));
            if self.tail.contains(canary) {
                self.tripped = true;
                released.found(Finding::Canary);
                return;
            }
            let keep = self.tail.len().saturating_sub(canary.len());
            self.tail.drain(..self.tail.ceil_char_boundary(keep));
        }
        let mut quotes = false;
        for word in words(word) {
            if self.recent.len() == QUOTE_WORDS {
                self.recent.pop_front();
            }
            self.recent.push_back(word);
            quotes |= self.recent.len() == QUOTE_WORDS
                && self
                    .rules
                    .quotes
                    .contains(&hash(&self.recent.make_contiguous()));
        }
        if quotes {
            released.found(Finding::PromptLeak);
            return;
        }
        let secrets = self.rules.secrets.as_ref();
        if secrets.is_some_and(|finder| finder.contains_secret(word)) {
            released.found(Finding::Secret);
            return;
        }
        released.text.push_str(word);
    }
}

/// Finds out what `rest` begins with. `last`: nothing follows that would complete it.
fn piece(rest: &str, last: bool, rules: &OutputRules) -> Piece {
    let bytes = rest.as_bytes();
    let link = match bytes {
        [b'!', b'[', ..] => markdown(rest, 1, rules),
        [b'[', ..] => markdown(rest, 0, rules),
        [b'!'] | [b'<'] if !last => return Piece::Open,
        [b'<', next, ..] if next.is_ascii_alphabetic() || matches!(next, b'/' | b'!') => {
            tag(rest, rules)
        }
        _ => Construct::None,
    };
    match link {
        Construct::Complete { len, text, refused } => return Piece::Link { len, text, refused },
        Construct::Open if !last => return Piece::Open,
        // It never closed. A renderer that is lenient about it must not get the address either.
        Construct::Open => {
            let refused = rest.contains("//") || rest.contains("](");
            let text = if refused {
                String::new()
            } else {
                rest.to_owned()
            };
            return Piece::Link {
                len: rest.len(),
                text,
                refused,
            };
        }
        Construct::None => {}
    }
    // A word, with the blank after it; it also ends where a link may begin, and where scripts without blanks pause.
    let mut end = None;
    for (at, c) in rest.char_indices() {
        if c.is_whitespace() || matches!(c, '。' | '！' | '？' | '、' | '，') {
            end = Some(at + c.len_utf8());
            break;
        }
        if at > 0 && matches!(c, '[' | '<') {
            end = Some(if bytes[at - 1] == b'!' && at > 1 {
                at - 1
            } else {
                at
            });
            break;
        }
    }
    let Some(len) = end.or(last.then_some(rest.len())) else {
        return Piece::Open;
    };
    match bare_address(&rest[..len]) {
        Some((from, to)) if !rules.allows(&rest[from..to]) => Piece::Link {
            len,
            text: format!("{}{}", &rest[..from], &rest[to..len]),
            refused: true,
        },
        _ => Piece::Word(len),
    }
}

enum Construct {
    None,
    Open,
    Complete {
        len: usize,
        text: String,
        refused: bool,
    },
}

/// `[text](address)`, after a `!` if `bang` is one. Brackets inside the text have to balance.
fn markdown(rest: &str, bang: usize, rules: &OutputRules) -> Construct {
    let Some(close) = matching(&rest[bang..], '[', ']') else {
        return Construct::Open;
    };
    let text_end = bang + close;
    let after = &rest[text_end + 1..];
    if after.is_empty() {
        return Construct::Open;
    }
    if !after.starts_with('(') {
        return Construct::None;
    }
    let Some(end) = matching(after, '(', ')') else {
        return Construct::Open;
    };
    // A title may follow the address.
    let target = after[1..end].trim();
    let address = target.split(char::is_whitespace).next().unwrap_or_default();
    let len = text_end + 1 + end + 1;
    if rules.allows(address) && !has_refused_address(&rest[bang + 1..text_end], rules) {
        return Construct::Complete {
            len,
            text: rest[..len].to_owned(),
            refused: false,
        };
    }
    let inner = &rest[bang + 1..text_end];
    // Of an image nothing stays; a text that holds another link or address goes as well.
    let text = if bang == 1 || inner.contains(['[', '<']) || inner.contains("//") {
        ""
    } else {
        inner
    };
    Construct::Complete {
        len,
        text: text.to_owned(),
        refused: true,
    }
}

/// Whether the text of a link contains an address that is refused.
fn has_refused_address(text: &str, rules: &OutputRules) -> bool {
    text.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '[' | ']' | '<' | '>' | '"'))
        .any(|word| bare_address(word).is_some_and(|(from, to)| !rules.allows(&word[from..to])))
}

/// An HTML tag or an address in angle brackets.
fn tag(rest: &str, rules: &OutputRules) -> Construct {
    let Some(end) = rest.find('>') else {
        // "a <b and c" is no tag; tags that matter have an address, and that is judged when it comes.
        return Construct::Open;
    };
    let inner = &rest[1..end];
    let lower = inner.to_ascii_lowercase();
    let loads = [
        "src", "href", "url(", "action", "data=", "poster", "content=",
    ]
    .iter()
    .any(|name| lower.contains(name));
    let refused = (loads
        && !inner
            .split(['"', '\'', '=', '(', ')', ' ', ','])
            .all(|part| !looks_absolute(part) || rules.allows(part)))
        || (lower.contains(':') && !loads && looks_absolute(inner) && !rules.allows(inner));
    Construct::Complete {
        len: end + 1,
        text: if refused {
            String::new()
        } else {
            rest[..=end].to_owned()
        },
        refused,
    }
}

fn looks_absolute(address: &str) -> bool {
    let address = address.trim();
    address.contains("//")
        || address.contains("\\\\")
        || address.contains("/\\")
        || Url::parse(address).is_ok()
}

/// Where a word has an address outside of any markup.
fn bare_address(word: &str) -> Option<(usize, usize)> {
    let lower = word.to_ascii_lowercase();
    let from = ["http:", "https:", "ftp:", "www.", "javascript:"]
        .iter()
        .filter_map(|start| lower.find(start))
        .min()?;
    // A scheme without slashes is ordinary text: "http: what does it mean?"
    let address = &word[from..];
    let is_address = address.contains("//")
        || address.contains("\\\\")
        || lower[from..].starts_with("www.")
        || lower[from..].starts_with("javascript:");
    let end = from
        + address
            .trim_end_matches(|c: char| {
                c.is_whitespace() || matches!(c, '.' | ',' | ')' | ';' | '!' | '?' | '"')
            })
            .len();
    let letters = word[from..end].chars().any(char::is_alphanumeric);
    (is_address && letters).then_some((from, end))
}

/// Where the bracket that `text` begins with closes.
fn matching(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// The words of a text, as numbers. Case and punctuation do not count.
fn words(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| hash(&word.to_lowercase()))
}

fn alphanumeric(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;

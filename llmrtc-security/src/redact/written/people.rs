//! Names, logins and passwords that the text itself announces, as they are written: in capitals where a name has them.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::dates;
use crate::redact::{
    detector::{HORIZON, Span, horizon},
    kind::Kind,
};

/// What a phrase announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phrase {
    /// A name, of one word or more.
    Name,
    /// A form of address, which is no name itself.
    Title,
    /// Something that is a name only in two words, or with a verb of telephoning behind.
    Perhaps,
    Password,
    Username,
    Birth,
    Bic,
    /// An "at" in brackets.
    At,
}

#[rustfmt::skip]
const PHRASES: &[(Phrase, &[&str])] = &[
    (Phrase::Name, &[
        "my name is", "my name's", "my name’s", "name is", "name's", "name:", "full name:", "my full name is", "the name is", "i am called", "i'm called", "call me", "signed by", "attn:", "attention:", "cardholder:", "cardholder name:", "patient:", "customer:", "caller:",
        "me llamo", "mi nombre es", "se llama", "nombre:", "je m'appelle", "je m’appelle", "mon nom est", "nom:", "ich heiße", "ich heisse", "mein name ist",
        "meu nome é", "me chamo", "chamo-me", "nome:", "mi chiamo", "il mio nome è", "mijn naam is", "ik heet", "name ist", "best regards,", "kind regards,", "sincerely,", "yours truly,",
    ]),
    (Phrase::Title, &[
        "mr", "mr.", "mrs", "mrs.", "ms", "ms.", "miss", "mister", "dr.", "dr", "doctor", "prof.", "professor", "señor", "señora", "señorita", "sr.", "sra.", "srta.", "monsieur", "madame", "mme", "mlle", "mademoiselle",
        "herr", "frau", "herrn", "senhor", "senhora", "signor", "signora", "meneer", "mevrouw",
    ]),
    (Phrase::Perhaps, &["this is", "i'm", "i’m", "i am", "it's", "soy", "je suis", "ich bin", "ich bin der", "ich bin die", "hier ist", "aqui é", "sou", "sono", "speak to", "speak with", "talk to", "ask for", "behalf of", "hier spricht"]),
    (Phrase::Password, &[
        "password", "passwd", "passphrase", "contraseña", "mot de passe", "passwort", "kennwort", "senha", "wachtwoord", "pwd",
    ]),
    (Phrase::Username, &[
        "username", "user name", "login", "user id", "userid", "nombre de usuario", "usuario", "nom d'utilisateur", "identifiant", "benutzername", "nome de usuário", "usuário", "nome utente", "gebruikersnaam", "my handle", "twitter handle", "instagram handle",
    ]),
    (Phrase::Birth, &[
        "born", "birth", "birth date", "birthdate", "date of birth", "dob", "birthday", "nací", "nacido el", "nacida el", "nacimiento", "cumpleaños", "né le", "née le", "naissance", "geboren", "geboren am", "geburtsdatum", "geburtstag", "nasci", "nascimento", "nascido em", "nascida em", "nato il", "nata il", "nascita", "geboortedatum",
    ]),
    (Phrase::Bic, &["bic", "swift", "swift code", "bic code"]),
    (Phrase::At, &["[at]", "(at)", "{at}", "[@]", "(@)", "[ at ]", "( at )", "(arroba)", "[arroba]", "(ät)"]),
];

static AUTOMATON: LazyLock<(AhoCorasick, Vec<Phrase>)> = LazyLock::new(|| {
    let (kinds, phrases): (Vec<Phrase>, Vec<&str>) = PHRASES
        .iter()
        .flat_map(|(phrase, texts)| texts.iter().map(|text| (*phrase, *text)))
        .unzip();
    let automaton = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(phrases)
        .expect("the phrases are few and short");
    (automaton, kinds)
});

/// Appends what phrases of `text` announce.
pub(crate) fn detect(text: &str, out: &mut Vec<Span>) {
    for found in AUTOMATON.0.find_iter(text) {
        let phrase = AUTOMATON.1[found.pattern().as_usize()];
        let (start, end) = (found.start(), found.end());
        if phrase != Phrase::At && !stands_alone(text, start, end) {
            continue;
        }
        let span = match phrase {
            Phrase::At => super::net::obfuscated_email(text, start),
            Phrase::Username => {
                credential(text, start, end, phrase).or_else(|| username_before(text, start, end))
            }
            Phrase::Password => credential(text, start, end, phrase),
            Phrase::Birth => dates::in_words(text, end).map(|(start, end)| Span {
                start,
                end,
                kind: Kind::BirthDate,
                score: 0.85,
            }),
            Phrase::Bic => bic(text, end),
            _ => name(text, start, end, phrase),
        };
        out.extend(span);
    }
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let letter = |character: char| character.is_alphanumeric();
    let marked = text.as_bytes()[end - 1].is_ascii_punctuation();
    !text[..start].chars().next_back().is_some_and(letter)
        && (marked || !text[end..].chars().next().is_some_and(letter))
}

/// Words in capitals that start sentences and are no names.
#[rustfmt::skip]
const NOT_NAMES: &[&str] = &[
    "The", "A", "An", "I", "I'm", "And", "But", "Or", "So", "If", "It", "Is", "My", "Your", "His", "Her", "Our", "Not", "No", "Yes", "OK", "Okay", "Please", "Thanks", "Thank", "Hi", "Hello", "Hey", "Dear", "For", "From", "In", "On", "At", "To", "We", "You", "He", "She", "They", "This", "That", "What", "When", "Where", "Why", "How", "Who", "Can", "Could", "Will", "Would",
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "January", "February", "March", "April", "June", "July", "August", "September", "October", "November", "December", "English", "Spanish", "French", "German", "American", "British", "Der", "Die", "Das", "Ich", "Und", "El", "La", "Le", "Les", "O", "Os", "Null", "None", "Unknown", "Maybe", "Later", "Back", "Tomorrow", "Today", "Tonight",
    "New", "Los", "Las", "Hong", "AI", "Alexa", "Siri", "Assistant", "Customer", "Support", "Service", "Hotel", "Pepper", "President", "Chairman", "Chairwoman", "Minister", "Speaker", "Secretary", "Ambassador", "Mayor", "Governor", "Senator", "Judge", "Director", "Chair", "Ober", "Kollege", "Kollegin", "Doktor", "Professor", "Richter", "Präsident", "Präsidentin", "Kanzler", "Direktor", "Président", "Ministre", "Maire", "Directeur", "Presidente", "Director", "Diretor", "Ministro", "Who", "Bank", "Data", "ID",
];

/// Whether a word in capitals is one that starts sentences and no name.
pub(crate) fn starts_sentences(word: &str) -> bool {
    NOT_NAMES.contains(&word)
}

fn is_particle(word: &str) -> bool {
    matches!(
        word,
        "de" | "la"
            | "del"
            | "da"
            | "do"
            | "dos"
            | "das"
            | "van"
            | "von"
            | "der"
            | "den"
            | "di"
            | "du"
            | "al"
            | "bin"
            | "ben"
            | "el"
            | "le"
            | "y"
            | "e"
            | "zu"
            | "ter"
            | "ten"
            | "af"
    )
}

/// A word as names have them: a capital first, then letters, hyphens and apostrophes; or an initial.
fn is_name_word(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(char::is_uppercase)
        && letters.all(|character| {
            character.is_alphabetic() || matches!(character, '-' | '\'' | '’' | '.')
        })
        && !NOT_NAMES.contains(&word)
        && (word.chars().count() > 1)
}

fn name(text: &str, start: usize, cue_end: usize, phrase: Phrase) -> Option<Span> {
    // "the file name is Report" names no person.
    if text[start..cue_end].starts_ignoring_case("name") {
        let before = text[..start]
            .trim_end()
            .rsplit([' ', '\n'])
            .next()
            .unwrap_or("");
        const THINGS: &[&str] = &[
            "file",
            "product",
            "domain",
            "host",
            "brand",
            "company",
            "project",
            "model",
            "table",
            "column",
            "field",
            "class",
            "variable",
            "function",
            "business",
            "event",
            "group",
            "app",
            "team",
            "code",
            "street",
            "restaurant",
            "hotel",
            "bank",
            "pet",
            "display",
            "service",
            "node",
            "tool",
            "its",
            "whose",
            "city",
            "dog's",
            "cat's",
        ];
        if THINGS
            .iter()
            .any(|thing| thing.eq_ignore_ascii_case(before))
        {
            return None;
        }
    }
    let view = horizon(text, cue_end);
    let gap = view.len()
        - view
            .trim_start_matches([' ', ':', ',', '\n', '"', '“', '\''])
            .len();
    let head = &view[gap..];
    if gap == 0 || gap > 4 {
        return None;
    }
    let (mut end, mut words, mut at) = (0, 0, 0);
    while words < 5 {
        let length = head[at..]
            .find(|character: char| {
                !(character.is_alphabetic() || matches!(character, '-' | '\'' | '’' | '.'))
            })
            .unwrap_or(head.len() - at);
        let raw = &head[at..at + length];
        // An initial keeps its full stop, a sentence does not.
        let word = if raw.chars().count() == 2 && raw.ends_with('.') || is_title(raw) {
            raw
        } else {
            raw.trim_end_matches(['.', '\'', '-', '’'])
        };
        let word = word
            .strip_suffix("'s")
            .or_else(|| word.strip_suffix("’s"))
            .unwrap_or(word);
        if word.contains('.') && word.find('.') != Some(word.len() - 1) {
            break;
        }
        if is_name_word(word) {
            if !is_title(word) {
                end = at + word.len();
            }
            words += 1;
        } else if !(words > 0 && is_particle(word)) {
            break;
        }
        if word.len() < raw.len() || !head[at + length..].starts_with(' ') {
            break;
        }
        at += length + 1;
    }
    let from = head
        .split([' ', ','])
        .next()
        .filter(|word| is_title(word))
        .map_or(0, |word| word.len() + 1);
    if end == 0 || end <= from {
        return None;
    }
    if phrase == Phrase::Perhaps {
        let two = head[from..end].contains(' ');
        let calls = [
            " speaking",
            " calling",
            " here",
            " from",
            " am apparat",
            " à l'appareil",
        ]
        .iter()
        .any(|verb| head[end..].starts_with(verb));
        let exact = head[from..end]
            .split(' ')
            .all(|word| word.chars().skip(1).all(|letter| !letter.is_uppercase()));
        if !(calls || two && exact) {
            return None;
        }
    }
    let base = cue_end + gap;
    Some(Span {
        start: base + from,
        end: base + end,
        kind: Kind::Name,
        score: 0.8,
    })
}

fn is_title(word: &str) -> bool {
    [
        "Mr",
        "Mr.",
        "Mrs",
        "Mrs.",
        "Ms",
        "Ms.",
        "Dr",
        "Dr.",
        "Prof.",
        "Professor",
        "Doctor",
    ]
    .contains(&word)
}

trait CaseInsensitive {
    fn starts_ignoring_case(&self, prefix: &str) -> bool;
}

impl CaseInsensitive for str {
    fn starts_ignoring_case(&self, prefix: &str) -> bool {
        self.get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    }
}

/// "my password is hunter2", "pwd=…", "username: jane_d".
fn credential(text: &str, cue_start: usize, cue_end: usize, phrase: Phrase) -> Option<Span> {
    const LINKS: &[&str] = &[
        " is:", " is", " was", " es", " est", " ist", " lautet", " é", " è", ":", "=", "\":",
        "' :", " :", " =", "\" :", "->",
    ];
    let rest = &text[cue_end..];
    let link = LINKS.iter().find(|link| rest.starts_ignoring_case(link))?;
    let explicit = link.contains([':', '=']);
    let after = &rest[link.len()..];
    let value = after.trim_start_matches([' ', '"', '\'', '“', '`']);
    let gap = after.len() - value.len();
    if gap > 4 || (!explicit && gap == 0) {
        return None;
    }
    let start = cue_end + link.len() + gap;
    let quoted = after[..gap].contains(['"', '\'', '“', '`']);
    // Quoted values may have blanks; the others end at one.
    let closing = quoted
        .then(|| {
            value
                .char_indices()
                .take(48)
                .find(|(_, character)| matches!(character, '"' | '”' | '`' | '\''))
        })
        .flatten()
        .map(|(at, _)| at);
    let length = closing
        .or_else(|| {
            value.find(|character: char| {
                character.is_whitespace() || matches!(character, '"' | '”' | '`' | '<')
            })
        })
        .unwrap_or(value.len());
    let word = value[..length].trim_end_matches(['.', ',', ';', '?', ')', '}']);
    if word.chars().count() < 3 || word.starts_with(['*', '[', '$', '{', '<']) {
        return None;
    }
    let plain = word
        .chars()
        .all(|character| character.is_lowercase() || character == '\'' || character == '-');
    let mine = text[..cue_start]
        .trim_end()
        .rsplit(' ')
        .next()
        .is_some_and(|before| {
            [
                "my", "the", "our", "mi", "mon", "mein", "minha", "wifi", "wi-fi", "la", "el",
                "das", "le", "his", "her", "their", "a",
            ]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(before))
        });
    #[rustfmt::skip]
    const ORDINARY: &[&str] = &[
        "wrong", "incorrect", "invalid", "required", "expired", "correct", "not", "too", "the", "a", "an", "my", "your", "very", "still", "also", "now", "no", "lost", "forgotten", "missing", "empty", "weak", "strong", "secret", "safe", "secure", "being", "something", "always", "never", "on", "in", "at", "for", "to", "that",
        "necessary", "needed", "reset", "changed", "case", "case-sensitive", "what", "rejected", "blocked", "locked", "protected", "stored", "saved", "and", "or", "with", "only", "optional", "unknown", "null", "none", "nil", "true", "false", "string", "bytes", "so", "just", "really", "about", "set", "sent", "stuck", "broken", "fine",
        "incorrecta", "incorrecto", "incorrecte", "falsch", "abgelaufen", "errada", "una", "un", "une", "eine", "ein", "uma", "um", "muy", "très", "sehr", "muito", "nicht", "pas", "no", "não", "correcta", "richtig", "obligatoria", "obligatorio", "obrigatória", "obrigatório", "obligatoire", "erforderlich", "notwendig", "necesaria", "necessária", "nécessaire", "caducada", "expirada", "expiré", "vencida", "bloqueada", "bloqué", "gesperrt", "segura", "sicher", "incorreta", "forte", "schwach", "débil", "fraca", "faible",
    ];
    if ORDINARY
        .iter()
        .any(|known| known.eq_ignore_ascii_case(word))
        || (plain && !explicit && !mine)
    {
        return None;
    }
    if phrase == Phrase::Username && plain && !explicit && word.len() < 4 {
        return None;
    }
    let kind = if phrase == Phrase::Password {
        Kind::Password
    } else {
        Kind::Username
    };
    Some(Span {
        start,
        end: start + word.len(),
        kind,
        score: 0.85,
    })
}

/// "lauren_954, that is my user name": the word before the link, if it looks like one that somebody made up.
fn username_before(text: &str, cue_start: usize, cue_end: usize) -> Option<Span> {
    const LINKS: &[&str] = &[
        "is my", "'s my", "as my", "is the", "es mi", "est mon", "ist mein", "é o meu", "é meu",
    ];
    let head = text[..cue_start].strip_suffix(' ')?;
    let link = LINKS.iter().find(|link| head.ends_with(**link))?;
    let head = head[..head.len() - link.len()].trim_end_matches(' ');
    let head = ["that", "this", "it", "which", "ese", "das", "ça"]
        .iter()
        .find_map(|word| head.strip_suffix(word))
        .unwrap_or(head)
        .trim_end_matches([' ', ',']);
    let start = head.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let word = &head[start..];
    let made_up = word.contains(|character: char| character.is_ascii_digit() || character == '_')
        && word.contains(char::is_alphabetic)
        && !word.contains(['/', ':', '@']);
    // The cue has to lie within what a decision about the word may see.
    let seen = start + horizon(text, start).len() > cue_end || cue_end == text.len();
    (made_up && seen && (3..=32).contains(&word.len()) && text[start..cue_end].len() < HORIZON)
        .then(|| Span {
            start,
            end: start + word.len(),
            kind: Kind::Username,
            score: 0.8,
        })
}

/// A bank identifier code behind its cue: six letters, two letters or digits, perhaps three more.
fn bic(text: &str, cue_end: usize) -> Option<Span> {
    let view = horizon(text, cue_end);
    let mut at = 0;
    for word in view.split_inclusive([' ', ':', '=', '/', ',', '(']) {
        let code =
            word.trim_end_matches([' ', ':', '=', '/', ',', '(', '.', ')', ';', '?', '!', '"']);
        if at > 24 {
            return None;
        }
        if matches!(code.len(), 8 | 11)
            && code.bytes().take(6).all(|byte| byte.is_ascii_uppercase())
            && code
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        {
            let start = cue_end + at;
            return Some(Span {
                start,
                end: start + code.len(),
                kind: Kind::Bic,
                score: 0.9,
            });
        }
        at += word.len();
    }
    None
}

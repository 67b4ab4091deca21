//! Numbers and letters as people read them out and recognisers write them down.

use super::values::Dice;

/// 0–19 (Spanish: 0–29) of English, Spanish, French, German, Portuguese.
fn small(language: &str) -> &'static str {
    match language {
        "es" => {
            "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis \
             diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis \
             veintisiete veintiocho veintinueve"
        }
        "fr" => {
            "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept \
             dix-huit dix-neuf"
        }
        "de" => {
            "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn \
             siebzehn achtzehn neunzehn"
        }
        "pt" => {
            "zero um dois três quatro cinco seis sete oito nove dez onze doze treze quatorze quinze dezesseis \
             dezessete dezoito dezenove"
        }
        _ => {
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
             seventeen eighteen nineteen"
        }
    }
}

fn tens(language: &str) -> &'static str {
    match language {
        "es" => "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
        "fr" => "vingt trente quarante cinquante soixante",
        "de" => "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
        "pt" => "vinte trinta quarenta cinquenta sessenta setenta oitenta noventa",
        _ => "twenty thirty forty fifty sixty seventy eighty ninety",
    }
}

/// A number below 100 in words.
pub(crate) fn number(language: &str, n: usize) -> String {
    if let Some(word) = small(language).split_whitespace().nth(n) {
        return word.to_owned();
    }
    let (ten, unit) = (n / 10, n % 10);
    let tens = tens(language)
        .split_whitespace()
        .nth(ten - 2)
        .unwrap_or_default();
    match (language, ten, unit) {
        ("fr", 7, 1) => "soixante et onze".to_owned(),
        ("fr", 7, _) => format!("soixante-{}", number("fr", n - 60)),
        ("fr", 8, 0) => "quatre-vingts".to_owned(),
        ("fr", 8 | 9, _) => format!("quatre-vingt-{}", number("fr", n - 80)),
        (_, _, 0) => tens.to_owned(),
        ("fr", _, 1) => format!("{tens} et un"),
        ("fr", ..) => format!("{tens}-{}", number("fr", unit)),
        ("de", _, 1) => format!("einund{tens}"),
        ("de", ..) => format!("{}und{tens}", number("de", unit)),
        ("es", ..) => format!("{tens} y {}", number("es", unit)),
        ("pt", ..) => format!("{tens} e {}", number("pt", unit)),
        _ => format!("{tens} {}", number("en", unit)),
    }
}

/// Digits read out: one by one or in pairs, some doubled, with a pause now and then.
pub(crate) fn digits(dice: &mut Dice, language: &str, digits: &str) -> String {
    let (double, pauses): (_, &[&str]) = match language {
        "es" => ("doble", &["eh", "a ver", "sí"]),
        "fr" => ("double", &["euh", "attendez", "ensuite"]),
        "de" => ("doppel", &["äh", "moment", "dann"]),
        "pt" => ("duplo", &["é", "espera", "aí"]),
        _ => ("double", &["um", "uh", "let me see", "sorry", "then"]),
    };
    let digits: Vec<usize> = digits
        .bytes()
        .map(|digit| usize::from(digit - b'0'))
        .collect();
    let (pairs, as_figures) = (dice.once_in(4), dice.once_in(8));
    let mut said: Vec<String> = Vec::new();
    let mut rest = digits.as_slice();
    while let [first, behind @ ..] = rest {
        rest = match behind {
            [second, behind @ ..] if second == first && dice.once_in(3) => {
                said.push(format!("{double} {}", number(language, *first)));
                behind
            }
            [second, behind @ ..] if pairs && *first > 0 => {
                said.push(number(language, first * 10 + second));
                behind
            }
            _ if as_figures => {
                said.push(first.to_string());
                behind
            }
            _ => {
                let oh = language == "en" && *first == 0 && dice.once_in(2);
                said.push(if oh {
                    "oh".to_owned()
                } else {
                    number(language, *first)
                });
                behind
            }
        };
        if !rest.is_empty() && dice.once_in(14) {
            said.push(dice.of(pauses).to_owned());
        }
    }
    said.join(" ")
}

/// Letters and digits read out, letters by their names as recognisers write them.
pub(crate) fn spelled(dice: &mut Dice, language: &str, code: &str) -> String {
    let mut said = Vec::new();
    for run in code
        .to_lowercase()
        .as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
    {
        let run: String = run.iter().map(|byte| char::from(*byte)).collect();
        if run.starts_with(|first: char| first.is_ascii_digit()) {
            said.push(digits(dice, language, &run));
        } else {
            said.extend(run.chars().map(String::from));
        }
    }
    said.join(" ")
}

/// An address as it is dictated.
pub(crate) fn email(
    dice: &mut Dice,
    language: &str,
    given: &str,
    surname: &str,
    host: &str,
) -> String {
    let (at, dot, underscore) = match language {
        "es" => ("arroba", "punto", "guion bajo"),
        "fr" => ("arobase", "point", "tiret bas"),
        "de" => (dice.of(&["at", "ät"]), "punkt", "unterstrich"),
        "pt" => ("arroba", "ponto", "underline"),
        _ => ("at", "dot", "underscore"),
    };
    let number = number(language, 11 + dice.below(88));
    let user = match dice.below(5) {
        0 => format!("{given} {dot} {surname}"),
        1 => format!("{given} {underscore} {surname}"),
        2 => format!("{given} {number}"),
        3 => format!(
            "{} {dot} {surname}",
            &given[..given.chars().next().map_or(0, char::len_utf8)]
        ),
        _ => format!("{surname} {given}"),
    };
    format!("{user} {at} {}", host.replace('.', &format!(" {dot} ")))
}

/// A date of the last century.
pub(crate) fn date(
    dice: &mut Dice,
    language: &str,
    day: usize,
    month: usize,
    year: usize,
) -> String {
    let name = MONTHS
        .iter()
        .find(|(tag, _)| *tag == language)
        .unwrap_or(&MONTHS[0])
        .1;
    let name = name.split(' ').nth(month - 1).unwrap_or_default();
    let short = number(language, year - 1900);
    match language {
        "es" => format!("{} de {name} de mil novecientos {short}", number("es", day)),
        "fr" if day == 1 => format!("premier {name} mille neuf cent {short}"),
        "fr" => format!("{} {name} mille neuf cent {short}", number("fr", day)),
        "de" => format!("{} {name} neunzehnhundert{short}", german_ordinal(day)),
        "pt" => format!(
            "{} de {name} de mil novecentos e {short}",
            number("pt", day)
        ),
        _ => match dice.below(4) {
            0 => format!("the {} of {name} nineteen {short}", english_ordinal(day)),
            1 => format!("{name} {} nineteen {short}", english_ordinal(day)),
            2 => format!("{} {name} {short}", english_ordinal(day)),
            _ => format!(
                "{} {} nineteen {short}",
                number("en", day),
                number("en", month)
            ),
        },
    }
}

const MONTHS: [(&str, &str); 5] = [
    (
        "en",
        "january february march april may june july august september october november december",
    ),
    (
        "es",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    ),
    (
        "fr",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    ),
    (
        "de",
        "januar februar märz april mai juni juli august september oktober november dezember",
    ),
    (
        "pt",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    ),
];

pub(crate) fn english_ordinal(n: usize) -> String {
    let word = number("en", n);
    let (stem, last) = word
        .rsplit_once(' ')
        .map_or((String::new(), word.as_str()), |(stem, last)| {
            (format!("{stem} "), last)
        });
    let last = match last {
        "one" => "first".to_owned(),
        "two" => "second".to_owned(),
        "three" => "third".to_owned(),
        "five" => "fifth".to_owned(),
        "eight" => "eighth".to_owned(),
        "nine" => "ninth".to_owned(),
        "twelve" => "twelfth".to_owned(),
        last => last
            .strip_suffix('y')
            .map_or_else(|| format!("{last}th"), |ten| format!("{ten}ieth")),
    };
    stem + &last
}

fn german_ordinal(n: usize) -> String {
    match n {
        1 => "ersten".to_owned(),
        3 => "dritten".to_owned(),
        7 => "siebten".to_owned(),
        8 => "achten".to_owned(),
        n if n < 20 => format!("{}ten", number("de", n)),
        n => format!("{}sten", number("de", n)),
    }
}

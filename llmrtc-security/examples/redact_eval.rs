//! Scores the redactor on generated text: recall of whole spans per kind, precision, and how much harmless text changes.
//!
//! `cargo run --release -p llmrtc-security --example redact_eval [seed] [rows per kind]` prints one JSON object. Seeds below 1000 are for
//! development; the rest is held out: look at the figures, never at the rows.

use llmrtc_security::redact::{Context, RedactConfig, Redactor};

/// xorshift64*: the same corpus from the same seed, everywhere and for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }

    /// `#` becomes a digit, `+` one from 1 to 9, `^` a capital, `~` a small letter.
    fn fill(&mut self, pattern: &str) -> String {
        pattern
            .chars()
            .map(|character| match character {
                '#' => digit(self.below(10)),
                '+' => digit(1 + self.below(9)),
                '^' => char::from(b'A' + self.below(26) as u8),
                '~' => char::from(b'a' + self.below(26) as u8),
                other => other,
            })
            .collect()
    }
}

fn digit(value: u64) -> char {
    char::from(b'0' + (value % 10) as u8)
}

fn grouped(value: &str, size: usize, separator: &str) -> String {
    let characters: Vec<char> = value.chars().collect();
    let groups: Vec<String> = characters
        .chunks(size)
        .map(|group| group.iter().collect())
        .collect();
    groups.join(separator)
}

fn card(dice: &mut Dice) -> String {
    let body = dice.of(&[
        "4##############",
        "51#############",
        "55#############",
        "2221###########",
        "6011###########",
        "34############",
        "37############",
    ]);
    let body = dice.fill(body);
    let sum: u64 = body
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, byte)| match (at % 2 == 0, u64::from(byte - b'0')) {
            (true, value) => value * 2 / 10 + value * 2 % 10,
            (false, value) => value,
        })
        .sum();
    let card = format!("{body}{}", digit((10 - sum % 10) % 10));
    match (card.len(), dice.below(3)) {
        (16, 0) => grouped(&card, 4, " "),
        (16, 1) => grouped(&card, 4, "-"),
        (15, 0 | 1) => format!("{} {} {}", &card[..4], &card[4..10], &card[10..]),
        _ => card,
    }
}

fn iban(dice: &mut Dice) -> String {
    let pattern = dice.of(&[
        "DE##################",
        "GB^^^^##############",
        "FR##########^############",
        "ES####################",
        "NL^^^^##########",
        "IT^######################",
        "PT#####################",
        "CH#################",
    ]);
    let filled = dice.fill(&pattern[2..]);
    let rest = format!("{filled}{}00", &pattern[..2])
        .chars()
        .fold(0u64, |rest, character| match character.to_digit(36) {
            Some(value) if value < 10 => (rest * 10 + u64::from(value)) % 97,
            Some(value) => (rest * 100 + u64::from(value)) % 97,
            None => rest,
        });
    let iban = format!("{}{:02}{filled}", &pattern[..2], 98 - rest);
    if dice.below(2) == 0 {
        grouped(&iban, 4, " ")
    } else {
        iban
    }
}

fn dni(dice: &mut Dice) -> String {
    let number = dice.fill("########");
    let letter = b"TRWAGMYFPDXBNJZSQVHLCKE"[number.parse::<usize>().unwrap_or(0) % 23];
    format!("{number}{}", char::from(letter))
}

fn cpf(dice: &mut Dice) -> String {
    let mut digits: Vec<u64> = (0..9).map(|_| dice.below(10)).collect();
    for _ in 0..2 {
        let top = digits.len() as u64 + 1;
        let sum: u64 = digits
            .iter()
            .zip((2..=top).rev())
            .map(|(value, weight)| value * weight)
            .sum();
        digits.push(sum * 10 % 11 % 10);
    }
    let text: String = digits.into_iter().map(digit).collect();
    format!(
        "{}.{}.{}-{}",
        &text[..3],
        &text[3..6],
        &text[6..9],
        &text[9..]
    )
}

const PHONES: &[&str] = &[
    "(+##) +##-####",
    "+##-+##-####",
    "+##.+##.####",
    "+1 +## +## ####",
    "+1-+##-+##-####",
    "001-+##-+##-####x###",
    "+##-+##-#### ext. ##",
    "+44 20 #### ####",
    "020 #### ####",
    "07### ######",
    "+49 30 ######",
    "0151 ########",
    "030/######",
    "+33 6 ## ## ## ##",
    "06 ## ## ## ##",
    "+34 6## ### ###",
    "+55 11 9####-####",
    "(11) 9####-####",
    "+31 6 ########",
    "06-########",
    "+39 06 ######",
    "+351 91# ### ###",
    "+91 9#### #####",
    "+61 4## ### ###",
];

const NAMES: &[&str] = &[
    "anna",
    "j.smith",
    "maria_lopez",
    "k-ito",
    "o.brien",
    "sven.berg",
    "li.wei",
    "paul77",
    "info",
    "emma.dubois",
];
const HOSTS: &[&str] = &[
    "example.com",
    "mail.example.org",
    "garcia.info",
    "smith-jones.biz",
    "berlin-shop.de",
    "lopez.es",
    "dubois.fr",
    "rossi.it",
    "silva.com.br",
    "brown.co.uk",
];

fn value(kind: &str, dice: &mut Dice) -> String {
    match kind {
        "card" => card(dice),
        "phone" => {
            // The first plus of an international number stays.
            let pattern = dice.of(PHONES);
            let international = ["+1 ", "+1-", "+4", "+3", "+5", "+9", "+6"]
                .iter()
                .find(|code| pattern.starts_with(**code) && !pattern.starts_with("+##"));
            match international {
                Some(_) => format!("+{}", dice.fill(&pattern[1..])),
                None => dice.fill(pattern),
            }
        }
        "email" => format!("{}@{}", dice.of(NAMES), dice.of(HOSTS)),
        "domain" => dice.of(HOSTS).to_owned(),
        "iban" => iban(dice),
        "ssn" => dice.fill("+##-+#-+###"),
        "national_id" => match dice.below(4) {
            0 => dni(dice),
            1 => cpf(dice),
            2 => dice.fill("AB ## ## ## C"),
            _ => dice.fill("756.####.####.##"),
        },
        _ => format!(
            "{}.{}.{}.{}",
            1 + dice.below(223),
            dice.below(256),
            dice.below(256),
            dice.below(256)
        ),
    }
}

#[rustfmt::skip]
const FRAMES: &[(&str, &[&str])] = &[
    ("card", &["my card number is {}", "please charge {} thanks", "{}", "use {} and not the other one", "mi tarjeta es {}", "meine Kartennummer lautet {}"]),
    ("phone", &["call me at {}", "{}", "you can reach me on {} after five", "mi teléfono es {}", "mon numéro est le {}", "Meine Telefonnummer ist {}."]),
    ("email", &["my email is {}", "send it to {} please", "{}", "contact {}.", "mi correo es {}"]),
    ("domain", &["visit {}", "my site is {} and it is down", "{}", "check {} for details."]),
    ("iban", &["my IBAN is {}", "transfer to {} please", "{}", "Bitte überweisen Sie auf {}."]),
    ("ssn", &["my SSN is {}", "social security number {}", "{}", "the social is {} ok"]),
    ("national_id", &["my ID is {}", "{}", "mi DNI es {}", "national id {}, right?"]),
    ("ip", &["my ip is {}", "connect from {} failed", "{}", "server at {} is down"]),
];

const HARMLESS: &[&str] = &[
    "a table for # at 1#:## please",
    "can we move it to 202#-0+-1# at +pm",
    "the total is $+,###.##",
    "room +## on floor #",
    "+ pizzas and + drinks",
    "my order number is +#######",
    "flight BA+## leaves at 1#:## from gate B1#",
    "version #.#.# came out on 1#/0+/202#",
    "it weighs +.# kg",
    "the year 19## was good",
    "page +# of +##",
    "it is +# degrees",
    "the discount is +#%",
    "invoice +##### from 1#.0+.202#",
    "+# people and + children",
    "press +",
    "+ + + = +#",
    "from + to + pm",
    "the +th floor",
    "+# minutes, +# seconds",
    "quiero una mesa para + a las +:##",
    "une table pour + personnes à 1#h##",
    "ich brauche +# Stück um 1#:## Uhr",
    "quero + ingressos",
    "line +## of main.rs",
    "half past seven",
    "ticket +##### is solved",
    "the score was +#-+#",
    "€+#.## each",
];

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<u64>().ok());
    let seed = arguments.next().unwrap_or(1);
    let rows = arguments.next().unwrap_or(1000);
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let redactor =
        Redactor::new(&RedactConfig::default()).expect("the default configuration is valid");
    let (mut figures, mut predicted, mut wrong) = (Vec::new(), 0, 0);
    for (kind, frames) in FRAMES {
        let mut whole = 0;
        for _ in 0..rows {
            let value = value(kind, &mut dice);
            let frame = dice.of(frames);
            let start = frame.find("{}").expect("every frame has a place");
            let (text, end) = (frame.replace("{}", &value), start + value.len());
            let spans = redactor.spans(&text, &Context::default());
            // Adjacent spans may cover a value together.
            let mut covered = start;
            for span in &spans {
                if span.start <= covered {
                    covered = covered.max(span.end);
                }
            }
            whole += u64::from(covered >= end);
            predicted += spans.len();
            wrong += spans
                .iter()
                .filter(|span| span.end <= start || span.start >= end)
                .count();
        }
        figures.push(format!("\"{kind}\":{:.4}", whole as f64 / rows as f64));
    }
    let harmless = rows * 4;
    let changed = (0..harmless)
        .filter(|_| {
            let pattern = dice.of(HARMLESS);
            let text = dice.fill(pattern);
            !redactor.spans(&text, &Context::default()).is_empty()
        })
        .count();
    #[expect(clippy::print_stdout, reason = "the figures are the result")]
    {
        println!(
            "{{\"seed\":{seed},\"recall\":{{{}}},\"precision\":{:.4},\"harmless_changed\":{:.5}}}",
            figures.join(","),
            1.0 - wrong as f64 / predicted.max(1) as f64,
            changed as f64 / harmless as f64
        );
    }
}

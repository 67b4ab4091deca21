//! Made-up values: right in form and check digits, from a seed, and nobody's.

use super::{Set, speech};

/// How a text came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    Written,
    Spoken,
}

/// xorshift64* (Vigna, 2016): the same values on every machine.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % bound
    }

    pub(crate) fn of<'a>(&mut self, these: &[&'a str]) -> &'a str {
        these[self.below(these.len())]
    }

    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count)
            .map(|_| char::from(b"0123456789"[self.below(10)]))
            .collect()
    }

    fn letters(&mut self, count: usize, alphabet: &[u8]) -> String {
        (0..count)
            .map(|_| char::from(alphabet[self.below(alphabet.len())]))
            .collect()
    }

    /// `#` becomes a digit.
    fn fill(&mut self, pattern: &str) -> String {
        pattern
            .chars()
            .map(|c| {
                if c == '#' {
                    char::from(b"0123456789"[self.below(10)])
                } else {
                    c
                }
            })
            .collect()
    }
}

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const ALNUM: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Makes values.
#[derive(Debug)]
pub(crate) struct Maker {
    dice: Dice,
    set: Set,
}

impl Maker {
    /// Each set has a seed of its own.
    pub(crate) fn new(set: Set) -> Self {
        let seed = match set {
            Set::Train => 0x9e37_79b9_7f4a_7c15,
            Set::Test | Set::Test2 => 0xd1b5_4a32_d192_ed03,
        };
        Self {
            dice: Dice(seed),
            set,
        }
    }

    /// A value of a kind; `None` for a kind that has none.
    pub(crate) fn value(&mut self, kind: &str, language: &str, form: Form) -> Option<String> {
        match form {
            Form::Written => self.written(kind, language),
            Form::Spoken => self.spoken(kind, language),
        }
    }

    fn written(&mut self, kind: &str, language: &str) -> Option<String> {
        let (given, surname, host) = (
            self.given(language),
            self.surname(language),
            self.host(language),
        );
        let dice = &mut self.dice;
        Some(match kind {
            "card" => {
                let card = card(dice);
                let size = if card.len() == 15 {
                    &[4, 6, 5][..]
                } else {
                    &[4, 4, 4, 4]
                };
                let gap = dice.of(&["", " ", " ", "-"]);
                grouped(&card, size, gap)
            }
            "card_expiry" => format!("{:02}/{}", 1 + dice.below(12), 26 + dice.below(8)),
            "cvv" => dice.digits(3),
            "pin" => dice.digits(4),
            "phone" => {
                let patterns: &[&str] = match language {
                    "es" => &[
                        "6## ## ## ##",
                        "+34 6## ### ###",
                        "9########",
                        "6##-###-###",
                    ],
                    "fr" => &[
                        "06 ## ## ## ##",
                        "+33 6 ## ## ## ##",
                        "01.##.##.##.##",
                        "07########",
                    ],
                    "de" => &[
                        "0151 ########",
                        "+49 30 ######",
                        "030/#######",
                        "0170-#######",
                    ],
                    "pt" => &[
                        "(11) 9####-####",
                        "+351 91# ### ###",
                        "21 9####-####",
                        "+55 11 9#### ####",
                    ],
                    _ => &[
                        "(415) 555-01##",
                        "212-555-01##",
                        "+1 303 555 01##",
                        "07700 900###",
                        "+44 20 7946 0###",
                        "617.555.01##",
                    ],
                };
                let pattern = dice.of(patterns);
                dice.fill(pattern)
            }
            "email" => {
                let (given, surname) = (plain(given), plain(surname));
                let number = dice.below(100);
                match dice.below(4) {
                    0 => format!("{given}.{surname}@{host}"),
                    1 => format!("{given}{number}@{host}"),
                    2 => format!("{surname}_{given}@{host}"),
                    _ => format!("{given}+{number}@{host}"),
                }
            }
            "domain" => format!("{}{host}", dice.of(&["", "www.", "shop."])),
            "url" => {
                let page = dice.letters(6, ALNUM);
                format!(
                    "https://{host}/{}/{page}",
                    dice.of(&["account", "f", "orders/view"])
                )
            }
            "iban" => {
                let iban = iban(dice, language);
                let sizes = [4, 4, 4, 4, 4, 4, 4];
                let gap = dice.of(&["", " "]);
                grouped(&iban, &sizes, gap)
            }
            "bic" => {
                let country = dice.of(&["GB", "DE", "FR", "ES", "PT"]);
                format!(
                    "{}{country}{}",
                    dice.letters(4, UPPER),
                    dice.of(&["2L", "FF", "PP", "MM", "2LXXX"])
                )
            }
            "bank_account" => {
                let length = 8 + dice.below(4);
                dice.digits(length)
            }
            "ssn" => grouped(&ssn(dice), &[3, 2, 4], "-"),
            "national_id" => national_id(dice, language, true),
            "passport" => match dice.below(2) {
                0 => format!("{}{}", dice.letters(1, UPPER), dice.digits(8)),
                _ => format!("{}{}", 1 + dice.below(9), dice.digits(8)),
            },
            "driving_licence" => format!("{}{}", dice.letters(1, UPPER), dice.digits(7)),
            "ip" => match dice.below(4) {
                0 => {
                    let mut group = || format!("{:x}", dice.below(0x1_0000));
                    let groups: Vec<String> = (0..4).map(|_| group()).collect();
                    format!("2001:db8::{}", groups.join(":"))
                }
                _ => format!(
                    "{}.{}.{}.{}",
                    1 + dice.below(223),
                    dice.below(256),
                    dice.below(256),
                    1 + dice.below(254)
                ),
            },
            "mac" => {
                let bytes: Vec<String> =
                    (0..6).map(|_| format!("{:02x}", dice.below(256))).collect();
                bytes.join(":")
            }
            "birth_date" => {
                let (day, month, year) = (
                    1 + dice.below(28),
                    1 + dice.below(12),
                    1930 + dice.below(75),
                );
                let of =
                    |separator: &str| format!("{day:02}{separator}{month:02}{separator}{year}");
                match (language, dice.below(3)) {
                    ("de", _) => of("."),
                    ("en", 0) => format!("{year}-{month:02}-{day:02}"),
                    ("en", 1) => {
                        let name = ["January", "March", "May", "July", "October", "December"]
                            [month / 2 % 6];
                        format!("{name} {day}, {year}")
                    }
                    _ => of("/"),
                }
            }
            "postcode" => match language {
                "en" if dice.once_in(3) => format!("{}{}", 1 + dice.below(9), dice.digits(4)),
                "en" => uk_postcode(dice),
                "pt" => dice.fill("####-###"),
                _ => format!("{}{}", 1 + dice.below(8), dice.digits(4)),
            },
            "address" => {
                let number = 1 + dice.below(220);
                format!(
                    "{number} {} {}",
                    dice.of(&["Maple", "High", "Station", "Kings", "Orchard"]),
                    dice.of(&["Street", "Road", "Avenue", "Lane"])
                )
            }
            "name" => format!("{} {}", capital(given), capital(surname)),
            "username" => format!("{}_{}", plain(given), dice.digits(3)),
            "password" => {
                let word = capital(dice.of(&["trout", "willow", "copper", "lantern"]));
                format!("{word}{}{}", dice.of(&["!", "$", "#"]), dice.digits(4))
            }
            "secret" => match dice.below(4) {
                0 => format!("sk-{}", dice.letters(48, ALNUM)),
                1 => format!("gsk_{}", dice.letters(52, ALNUM)),
                2 => format!("ghp_{}", dice.letters(36, ALNUM)),
                _ => format!(
                    "AKIA{}",
                    dice.letters(16, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
                ),
            },
            _ => return None,
        })
    }

    fn spoken(&mut self, kind: &str, language: &str) -> Option<String> {
        let (given, surname, host) = (
            self.given(language),
            self.surname(language),
            self.host(language),
        );
        let dice = &mut self.dice;
        Some(match kind {
            "card" => {
                let card = card(dice);
                speech::digits(dice, language, &card)
            }
            "cvv" | "pin" => {
                let code = dice.digits(if kind == "cvv" { 3 } else { 4 });
                let said = code
                    .bytes()
                    .map(|digit| speech::number(language, usize::from(digit - b'0')));
                said.collect::<Vec<_>>().join(" ")
            }
            "phone" => {
                let pattern = match language {
                    "es" => dice.of(&["6########", "91#######"]),
                    "fr" => dice.of(&["06########", "01########"]),
                    "de" => dice.of(&["0151########", "030#######"]),
                    "pt" => dice.of(&["119########", "2191#######"]),
                    _ => dice.of(&["41555501##", "21255501##", "07700900###", "02079460###"]),
                };
                let number = dice.fill(pattern);
                speech::digits(dice, language, &number)
            }
            "email" => speech::email(dice, language, given, surname, host),
            "iban" => {
                let iban = iban(dice, language);
                speech::spelled(dice, language, &iban)
            }
            "ssn" => {
                let ssn = ssn(dice);
                speech::digits(dice, language, &ssn)
            }
            "national_id" => {
                let id = national_id(dice, language, false);
                speech::spelled(dice, language, &id)
            }
            "bank_account" => {
                let account = dice.digits(8);
                speech::digits(dice, language, &account)
            }
            "ip" => {
                let part = |n: usize| {
                    n.to_string()
                        .chars()
                        .map(|c| speech::number(language, c as usize - '0' as usize))
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                let parts: Vec<String> = (0..4).map(|_| part(1 + dice.below(254))).collect();
                parts.join(" dot ")
            }
            "birth_date" => {
                let (day, month, year) = (
                    1 + dice.below(28),
                    1 + dice.below(12),
                    1931 + dice.below(68),
                );
                speech::date(dice, language, day, month, year)
            }
            "postcode" => match language {
                "en" if dice.once_in(3) => {
                    let zip = dice.digits(5);
                    speech::digits(dice, language, &zip)
                }
                "en" => {
                    let code = uk_postcode(dice).replace(' ', "");
                    speech::spelled(dice, language, &code)
                }
                "pt" => {
                    let cep = dice.digits(8);
                    speech::digits(dice, language, &cep)
                }
                _ => {
                    let code = dice.digits(5);
                    speech::digits(dice, language, &code)
                }
            },
            "given" => given.to_owned(),
            "name" => format!("{given} {surname}"),
            _ => return None,
        })
    }

    fn given(&mut self, language: &str) -> &'static str {
        self.one_of(match language {
            "es" => "carmen alejandro lucía marcos nuria sergio rocío ignacio",
            "fr" => "élodie thibault océane mathieu aurélie bastien solène florian",
            "de" => "annika torsten friederike lukas heike sven mareike dieter",
            "pt" => "thaís rodrigo juliana gustavo larissa vinícius patrícia eduardo",
            _ => "emily jacob niamh darren priya connor tanisha craig gemma leroy hannah dmitri bronwyn kwame lauren stuart",
        })
    }

    fn surname(&mut self, language: &str) -> &'static str {
        self.one_of(match language {
            "es" => "ortega villanueva cabrera pascual herrero quintana salgado benítez",
            "fr" => "lefebvre chevalier marchand perrot boucher gaillard renault fontaine",
            "de" => "hoffmann lindner brandt vogelsang schreiber reinhardt pfeiffer kessler",
            "pt" => "carvalho nogueira teixeira barbosa figueiredo macedo pinheiro queiroz",
            _ => "whitaker mcallister nakamura oyelaran donnelly pritchard vasquez holloway abernathy singh lockwood petrov eastwood chaudhry ferguson mbeki",
        })
    }

    fn host(&mut self, language: &str) -> &'static str {
        let hosts: &[&str] = match (language, self.set) {
            (_, Set::Train) => &["gmail.com", "example.org", "yahoo.com"],
            ("es", _) => &["hotmail.es", "correo.es", "outlook.com"],
            ("fr", _) => &["laposte.net", "free.fr", "outlook.com"],
            ("de", _) => &["gmx.de", "posteo.de", "outlook.com"],
            ("pt", _) => &["sapo.pt", "terra.com.br", "outlook.com"],
            _ => &[
                "proton.me",
                "btinternet.com",
                "northgate-dental.co.uk",
                "icloud.com",
                "harbor.io",
            ],
        };
        self.dice.of(hosts)
    }

    /// Train and test have different halves of a list.
    fn one_of(&mut self, list: &'static str) -> &'static str {
        let half = list.split(' ').skip(self.set as usize).step_by(2);
        let at = self.dice.below(half.clone().count());
        half.clone().nth(at).unwrap_or_default()
    }
}

/// A harmless number; `None` for a name that is none.
pub(crate) fn harmless(maker: &mut Maker, name: &str, language: &str) -> Option<String> {
    let dice = &mut maker.dice;
    let n = match name {
        "few" => 2 + dice.below(19),
        "hour" => 1 + dice.below(12),
        "minute" => [10, 15, 20, 25, 30, 35, 40, 45, 50, 55][dice.below(10)],
        "amount" => 20 + dice.below(79),
        "digit" | "hundreds" => 1 + dice.below(9),
        "ordinal" => return Some(speech::english_ordinal(1 + dice.below(9))),
        _ => return None,
    };
    Some(speech::number(language, n))
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(characters)
        .collect()
}

/// Without accents, as in addresses.
fn plain(word: &str) -> String {
    let fold = |c| match c {
        'á' | 'ã' => 'a',
        'é' | 'è' | 'ê' => 'e',
        'í' => 'i',
        'ó' | 'õ' => 'o',
        'ú' | 'ü' => 'u',
        'ç' => 'c',
        c => c,
    };
    word.chars().map(fold).collect()
}

/// The code in groups of these sizes.
fn grouped(code: &str, sizes: &[usize], gap: &str) -> String {
    let mut rest = code;
    let mut groups = Vec::new();
    for size in sizes {
        let (group, behind) = rest.split_at((*size).min(rest.len()));
        groups.push(group);
        rest = behind;
    }
    groups.push(rest);
    groups.retain(|group| !group.is_empty());
    groups.join(gap)
}

/// With the check digit of ISO/IEC 7812-1.
fn card(dice: &mut Dice) -> String {
    let start = dice.of(&["4", "4", "51", "54", "2221", "37", "6011"]);
    let length = if start == "37" { 15 } else { 16 };
    let card = format!("{start}{}", dice.digits(length - 1 - start.len()));
    let sum: u32 = card
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (u32::from(digit - b'0'), at % 2) {
            (digit, 0) => digit * 2 / 10 + digit * 2 % 10,
            (digit, _) => digit,
        })
        .sum();
    format!("{card}{}", (10 - sum % 10) % 10)
}

/// With the check digits of ISO 13616.
fn iban(dice: &mut Dice, language: &str) -> String {
    let (country, account) = match language {
        "es" => ("ES", dice.digits(20)),
        "fr" => ("FR", dice.digits(23)),
        "de" => ("DE", dice.digits(18)),
        "pt" => ("PT", dice.digits(21)),
        _ => (
            "GB",
            format!("{}{}", dice.letters(4, UPPER), dice.digits(14)),
        ),
    };
    let rest = format!("{account}{country}00").chars().fold(0, |rest, c| {
        let value = c.to_digit(36).unwrap_or_default();
        (rest * if value > 9 { 100 } else { 10 } + value) % 97
    });
    format!("{country}{:02}{account}", 98 - rest)
}

fn ssn(dice: &mut Dice) -> String {
    let area = 1 + dice.below(665);
    format!(
        "{area:03}{:02}{:04}",
        1 + dice.below(99),
        1 + dice.below(9999)
    )
}

/// National insurance number, DNI, NIR, Steuer-ID or CPF, in its usual layout or without.
fn national_id(dice: &mut Dice, language: &str, layout: bool) -> String {
    let gap = if layout { " " } else { "" };
    match language {
        "es" => {
            let number = dice.below(100_000_000);
            let letter = char::from(b"TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]);
            format!("{number:08}{letter}")
        }
        "fr" => {
            let month = 1 + dice.below(12);
            let number = format!(
                "{}{}{month:02}{:02}{}",
                1 + dice.below(2),
                dice.fill("##"),
                1 + dice.below(95),
                dice.digits(6)
            );
            let key = 97 - number.parse::<u64>().unwrap_or_default() % 97;
            grouped(&format!("{number}{key:02}"), &[1, 2, 2, 2, 3, 3, 2], gap)
        }
        "de" => grouped(&steuer_id(dice), &[2, 3, 3, 3], gap),
        "pt" => {
            let mut digits: Vec<u32> = dice
                .digits(9)
                .chars()
                .filter_map(|c| c.to_digit(10))
                .collect();
            for _ in 0..2 {
                let sum: u32 = digits
                    .iter()
                    .rev()
                    .zip(2..)
                    .map(|(digit, weight)| digit * weight)
                    .sum();
                digits.push(match sum % 11 {
                    0 | 1 => 0,
                    rest => 11 - rest,
                });
            }
            let cpf: String = digits
                .iter()
                .filter_map(|digit| char::from_digit(*digit, 10))
                .collect();
            if layout {
                format!("{}.{}.{}-{}", &cpf[..3], &cpf[3..6], &cpf[6..9], &cpf[9..])
            } else {
                cpf
            }
        }
        _ => {
            let prefix = dice.of(&["AB", "CE", "JK", "LM", "PR", "SX", "WY"]);
            let number = format!("{prefix}{}{}", dice.digits(6), dice.letters(1, b"ABCD"));
            grouped(&number, &[2, 2, 2, 2, 1], gap)
        }
    }
}

/// Ten digits, of which one occurs twice, and the check digit of ISO/IEC 7064 MOD 11,10.
fn steuer_id(dice: &mut Dice) -> String {
    let mut digits: Vec<u32> = (0..10).collect();
    for at in (1..digits.len()).rev() {
        digits.swap(at, dice.below(at + 1));
    }
    digits[9] = digits[dice.below(9)];
    if digits[0] == 0 {
        digits.rotate_left(1);
    }
    if digits[0] == 0 {
        digits.rotate_left(1);
    }
    let product = digits
        .iter()
        .fold(10, |product, digit| match (digit + product) % 10 {
            0 => 10 * 2 % 11,
            sum => sum * 2 % 11,
        });
    digits.push((11 - product) % 10);
    digits
        .iter()
        .filter_map(|digit| char::from_digit(*digit, 10))
        .collect()
}

fn uk_postcode(dice: &mut Dice) -> String {
    let area = dice.of(&["B", "LS", "M", "SW", "EH", "BS", "CF", "NE", "OX", "G"]);
    format!(
        "{area}{} {}{}",
        1 + dice.below(29),
        1 + dice.below(9),
        dice.letters(2, b"ABDEFGHJLNPQRSTUWXYZ")
    )
}

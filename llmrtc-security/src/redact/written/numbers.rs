//! Which number a run of digits is: card, telephone, national id, account, code, date of birth, or none of them.
//!
//! Three grades of evidence, strongest first: a check sum or an unmistakable form; a cue beside it; the form of a telephone number.
//! Cues also take away: whatever is announced as an order, a room or a total stays, unless its evidence is of the first grade.

use super::{
    checksum as check,
    cues::{Cue, Cues},
    dates, phone,
    run::Run,
};
use crate::redact::{
    detector::{HORIZON, Lang, Span},
    kind::Kind,
};

/// What became of a run.
pub(crate) enum Verdict {
    /// Found something; go on behind it.
    Found(Span),
    /// The run is harmless up to here.
    Skip(usize),
}

/// State that one number leaves for the next: an expiry date follows its card.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    card_end: Option<usize>,
    expiry_end: Option<usize>,
}

/// Judges the run whose first digit is at `first`, which starts a word. `start` is there or at the sign before.
pub(crate) fn judge(
    text: &str,
    (start, first): (usize, usize),
    lang: Option<Lang>,
    cues: &mut Cues<'_>,
    memory: &mut Memory,
) -> Verdict {
    let run = Run::read(text, start, first);
    if run.groups == 0 {
        let word = text.as_bytes()[first..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        return Verdict::Skip(first + word.max(1));
    }
    let all = run.digits(run.groups).len();
    let amount = amount_before(text, start);
    if all < 3 || amount {
        let groups = if amount { run.groups } else { 1 };
        return Verdict::Skip(run.end(groups));
    }
    if let Some((groups, kind, score)) = certain(text, &run) {
        if kind == Kind::Card {
            memory.card_end = Some(run.end(groups));
        }
        let harmless = score < 0.95 && announced_harmless(text, start, cues);
        if !harmless {
            return found(text, &run, groups, kind, score);
        }
    }
    if let Some(verdict) = date(&run, cues, memory) {
        return verdict;
    }
    // "4111 … 1111 04/27 123": what follows card and date is the verification value.
    if run.group(0).len() >= 3
        && run.group(0).len() <= 4
        && run.closes(text, 1)
        && memory
            .expiry_end
            .is_some_and(|end| start - end.min(start) <= 3)
    {
        return found(text, &run, 1, Kind::Cvv, 0.85);
    }
    if let Some((groups, kind, score)) = announced(text, &run, cues) {
        if kind == Kind::Card {
            memory.card_end = Some(run.end(groups));
        }
        return found(text, &run, groups, kind, score);
    }
    // A certain number further on must not be swallowed by a guess about its neighbour.
    let guess = (1..=run.groups)
        .rev()
        .filter(|groups| run.closes(text, *groups))
        .find_map(|groups| Some((groups, phone::score(&run, groups, lang)?)))
        .or_else(|| lonely(text, &run));
    if let Some((groups, score)) = guess {
        let shadowed = all >= 15 && !run.plus && certain_later(text, &run, groups);
        let spoilt = score < 0.8
            && (announced_harmless(text, start, cues) || unit_after(text, run.end(groups)))
            || score < 0.6 && assigned(text, start);
        if !shadowed && !spoilt {
            return found(text, &run, groups, Kind::Phone, score);
        }
    }
    // No pattern starts with two digits that stand alone; only cues read such a row, and none did.
    let loose = (0..run.groups)
        .take_while(|at| run.group(*at).len() == 1)
        .count();
    Verdict::Skip(run.end(if loose >= 3 { loose - 1 } else { 1 }))
}

/// A number in telephone groups that is all there is.
fn lonely(text: &str, run: &Run) -> Option<(usize, f32)> {
    let alone = text.len() < HORIZON
        && text.trim_matches([' ', '.', '!']).len() == run.end(run.groups) - run.start;
    (alone
        && matches!(
            run.shape(run.groups),
            b"3 3 3" | b"3-3-3" | b"2 3 2 2" | b"3 2 2 2" | b"2 2 2 2"
        ))
    .then_some((run.groups, 0.65))
}

fn found(text: &str, run: &Run, groups: usize, kind: Kind, score: f32) -> Verdict {
    let mut end = run.end(groups);
    let mut start = run.start;
    if kind == Kind::Phone {
        end = phone::with_extension(text, end);
    } else if run.paren {
        start += 1;
    }
    Verdict::Found(Span {
        start,
        end,
        kind,
        score,
    })
}

/// Numbers that prove themselves.
fn certain(text: &str, run: &Run) -> Option<(usize, Kind, f32)> {
    if run.digits(run.groups).len() < 8 {
        return None;
    }
    (1..=run.groups)
        .rev()
        .filter(|groups| run.closes(text, *groups))
        .find_map(|groups| {
            let (digits, shape) = (run.digits(groups), run.shape(groups));
            if let Some(score) = card(run, groups) {
                return Some((groups, Kind::Card, score));
            }
            if let Some(score) = national(digits, shape) {
                return Some((groups, Kind::NationalId, score));
            }
            (matches!(shape, b"3-2-4" | b"3 2 4") && ssn(digits)).then_some((
                groups,
                Kind::Ssn,
                0.9,
            ))
        })
}

/// Whether a card starts at a later group, within what `groups` groups would cover.
fn certain_later(text: &str, run: &Run, groups: usize) -> bool {
    (1..groups).any(|at| {
        let start = run.end(at);
        let Some(gap) = text.as_bytes()[start..].iter().position(u8::is_ascii_digit) else {
            return false;
        };
        let later = Run::read(text, start + gap, start + gap);
        (1..=later.groups)
            .any(|groups| later.closes(text, groups) && card(&later, groups).is_some())
    })
}

/// A payment card: issuer range, length and Luhn, or the issuer's own grouping.
fn card(run: &Run, groups: usize) -> Option<f32> {
    let digits = run.digits(groups);
    if !(12..=19).contains(&digits.len()) || run.plus || !run.separated_by(groups, b" -.") {
        return None;
    }
    let placeholder = matches!(run.shape(groups), b"4-4-4-4" | b"4 4 4 4");
    if !(issuer(digits) || placeholder) || check::uniform(digits) {
        return None;
    }
    let grouped = matches!(
        run.shape(groups),
        b"4-4-4-4"
            | b"4 4 4 4"
            | b"4.4.4.4"
            | b"4-6-5"
            | b"4 6 5"
            | b"4.6.5"
            | b"4-6-4"
            | b"4 6 4"
            | b"4 4 4 4 3"
            | b"4-4-4-4-3"
            | b"6 A"
            | b"6 D"
    );
    match (check::luhn(digits), grouped) {
        (true, true) => Some(0.99),
        // Other groupings occur, but one digit alone is a neighbour.
        (true, false) => (0..groups)
            .all(|at| run.group(at).len() >= 3)
            .then_some(0.9),
        // Made up or misheard, and still meant as a card.
        (false, true) => (digits.len() >= 15).then_some(0.9),
        (false, false) => None,
    }
}

/// Issuer ranges of the networks, as they publish them.
fn issuer(digits: &[u8]) -> bool {
    let prefix = |length: usize| {
        digits[..length]
            .iter()
            .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    match digits.len() {
        // Maestro and its like come in every length.
        12 => {
            matches!(two, 50 | 56..=58)
                || matches!(
                    four,
                    604 | 6304 | 6390 | 6759 | 6761..=6763 | 5018 | 5020 | 5038
                )
        }
        13 => digits[0] == b'4' || matches!(four, 5018 | 5020 | 5038 | 6304 | 6759 | 6761..=6763),
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37) || matches!(four, 2014 | 2149 | 2131 | 1800),
        16 => {
            digits[0] == b'4'
                || matches!(two, 51..=55 | 35 | 36 | 38 | 50 | 56..=58 | 60..=69 | 81 | 82)
                || matches!(four, 2200..=2720 | 9792)
        }
        17 | 18 => matches!(two, 50 | 56..=58 | 62 | 63 | 67),
        19 => digits[0] == b'4' || matches!(two, 50 | 56..=58 | 60 | 62..=65 | 67),
        _ => false,
    }
}

fn ssn(digits: &[u8]) -> bool {
    digits.len() == 9
        && !digits.starts_with(b"000")
        && &digits[3..5] != b"00"
        && &digits[5..] != b"0000"
        && !check::uniform(digits)
}

/// National numbers that prove themselves by form or check digits.
fn national(digits: &[u8], shape: &[u8]) -> Option<f32> {
    let month = |at: usize| matches!(check::weighted(&digits[at..at + 2], &[10, 1]), 1..=12);
    let day =
        |at: usize| matches!(check::weighted(&digits[at..at + 2], &[10, 1]), 1..=31 | 61..=91);
    let score = match shape {
        // Brazil: CPF, CNPJ, RG.
        b"3.3.3-2" | b"2.3.3/4-2" => 0.95,
        b"3 3 3-2" | b"3.3.3.2" | b"3 3 3 2" | b"3-3-3-2" if check::cpf(digits) => 0.9,
        b"2.3.3-1" => 0.9,
        b"9-2" if check::cpf(digits) => 0.9,
        // Argentina.
        b"2-8-1" | b"2-8/1" => 0.9,
        b"2 8 1" if check::cuit(digits) => 0.85,
        // Chile without dots.
        b"8-1" | b"7-1" if check::rut(digits) => 0.85,
        b"1.3.3-1" if check::rut(digits) => 0.9,
        // Switzerland.
        b"3.4.4.2" | b"3 4 4 2" | b"3-4-4-2" if digits.starts_with(b"756") => 0.95,
        b"D" if digits.starts_with(b"756") && check::ean13(digits) => 0.9,
        // France: NIR.
        b"1 2 2 2 3 3 2" | b"1-2-2-2-3-3-2" | b"1.2.2.2.3.3.2" | b"1 2 2 2 3 3-2" => 0.95,
        b"1 2 2 2 3 3" if matches!(digits[0], b'1' | b'2') && month(3) => 0.9,
        b"F" | b"D 2" | b"D-2" if check::nir(digits) => 0.95,
        // India: Aadhaar.
        b"4 4 4" | b"4-4-4" if matches!(digits[0], b'2'..=b'9') && check::verhoeff(digits) => 0.9,
        // Sweden, Denmark, Latvia.
        b"6-4" if (month(2) && day(4)) || (day(0) && month(2)) => 0.85,
        b"8-4" if month(4) && day(6) && matches!(&digits[..2], b"19" | b"20") => 0.9,
        // Korea.
        b"6-7" if month(2) && day(4) => 0.95,
        // Belgium.
        b"2.2.2-3.2" | b"2.2.2-3-2" | b"2 2 2 3 2" | b"2.2.2.3.2" if check::belgian(digits) => 0.95,
        // Norway.
        b"6 5" if check::norwegian(digits) => 0.9,
        // Germany: tax id, social insurance has a letter.
        b"2 3 3 3" | b"2-3-3-3" | b"2.3.3.3" if check::german_tax_id(digits) => 0.9,
        // Britain: NHS, unless it could be a telephone number in America.
        b"3 3 4" | b"3-3-4"
            if check::nhs(digits)
                && matches!(digits[0], b'4' | b'6' | b'7')
                && matches!(digits[3], b'0' | b'1') =>
        {
            0.8
        }
        // Australia: Medicare.
        b"4 5 1" | b"4-5-1" | b"4 5 1-1" if check::medicare(digits) => 0.9,
        // South Africa.
        b"6 4 3" | b"6 4 2 1" | b"D" if check::south_african(digits) => 0.85,
        // China.
        b"6 8 4" if check::chinese_id(digits) => 0.95,
        b"I" if check::chinese_id(digits) => 0.95,
        // In a row: only sums that chance meets once in a hundred.
        b"B" if check::cpf(digits)
            || check::norwegian(digits)
            || check::pesel(digits)
            || check::turkish(digits)
            || check::belgian(digits) =>
        {
            0.75
        }
        b"E" if check::cnpj(digits) => 0.75,
        _ => return None,
    };
    Some(score)
}

/// Dates: of birth, of expiry, or none of our business.
fn date(run: &Run, cues: &mut Cues<'_>, memory: &mut Memory) -> Option<Verdict> {
    let span = |groups: usize, kind: Kind| {
        Verdict::Found(Span {
            start: run.start + usize::from(run.paren),
            end: run.end(groups),
            kind,
            score: 0.85,
        })
    };
    if run.groups >= 3 && dates::numeric(run) {
        let tight = run.separated_by(3, b"-./");
        let cue = cues.around(run.start, run.end(3));
        if cue == Some(Cue::Birth) {
            return Some(span(3, Kind::BirthDate));
        }
        // With blanks between, it may as well be something else.
        return (tight
            && (run.groups == 3 || run.separator(3) == Some(b' '))
            && !matches!(cue, Some(Cue::SortCode)))
        .then(|| Verdict::Skip(run.end(3)));
    }
    if run.groups >= 2
        && matches!(
            run.shape(2),
            b"2/2" | b"2-2" | b"2/4" | b"1/2" | b"2 2" | b"2.2" | b"2-4"
        )
    {
        let month = check::weighted(
            run.group(0),
            if run.group(0).len() == 2 {
                &[10, 1]
            } else {
                &[1]
            },
        );
        let after_card = memory
            .card_end
            .is_some_and(|end| run.start - end.min(run.start) < 60);
        let cued = cues
            .before(run.start)
            .is_some_and(|found| found.cue == Cue::Expiry);
        let near_card = after_card
            || cues.recently(Cue::Card, run.start, 80)
            || cues.recently(Cue::Cvv, run.start, 60);
        let plain = matches!(run.shape(2), b"2/2" | b"2/4" | b"1/2");
        if (1..=12).contains(&month)
            && (cued && near_card
                || after_card && plain && run.start - memory.card_end.unwrap_or(0) < 12)
        {
            memory.expiry_end = Some(run.end(2));
            return Some(span(2, Kind::CardExpiry));
        }
        return (run.groups == 2 && plain).then(|| Verdict::Skip(run.end(2)));
    }
    None
}

/// Numbers that a cue announces.
fn announced(text: &str, run: &Run, cues: &mut Cues<'_>) -> Option<(usize, Kind, f32)> {
    let cue = cues.around(run.start, run.end(1))?;
    let best = |least: usize, most: usize, separators: &[u8]| {
        (1..=run.groups).rev().find(|groups| {
            (least..=most).contains(&run.digits(*groups).len())
                && run.separated_by(*groups, separators)
                && run.closes(text, *groups)
        })
    };
    let first = run.group(0).len();
    let alone = run.closes(text, 1) && !run.plus;
    let code = |least: usize, most: usize| (alone && (least..=most).contains(&first)).then_some(1);
    let grade = match cue {
        Cue::Card => best(12, 19, b" -.")
            .or_else(|| best(8, 11, b" -").filter(|groups| *groups > 1 && first == 4))
            .map(|groups| (groups, Kind::Card, 0.85)),
        Cue::Cvv => code(3, 4).map(|groups| (groups, Kind::Cvv, 0.9)),
        Cue::Expiry => None,
        Cue::Pin => code(3, 8)
            .filter(|_| !decimal_like(text, run))
            .or_else(|| best(6, 8, b" -").filter(|groups| *groups == 2))
            .map(|groups| (groups, Kind::Pin, 0.8)),
        Cue::Phone => best(7, 15, b" -.()/")
            .filter(|groups| !unit_after(text, run.end(*groups)))
            .map(|groups| (groups, Kind::Phone, 0.8)),
        Cue::Account => best(6, 17, b" -").map(|groups| (groups, Kind::BankAccount, 0.8)),
        Cue::SortCode => best(6, 6, b" -").map(|groups| (groups, Kind::BankAccount, 0.9)),
        Cue::Ssn => best(9, 9, b" -.")
            .or_else(|| code(4, 4).filter(|_| near(text, run, cues)))
            .map(|groups| (groups, Kind::Ssn, 0.85)),
        Cue::Id => best(7, 18, b" -./").map(|groups| (groups, Kind::NationalId, 0.8)),
        Cue::Passport => best(6, 10, b" -").map(|groups| (groups, Kind::Passport, 0.85)),
        Cue::Licence => best(6, 16, b" -").map(|groups| (groups, Kind::DrivingLicence, 0.8)),
        Cue::Postcode => match run.shape(run.groups.min(2)) {
            b"5-4" | b"5-3" | b"3 2" | b"4-3" => Some(2),
            _ => code(4, 6).filter(|_| !unit_after(text, run.end(1))),
        }
        .map(|groups| (groups, Kind::Postcode, 0.8)),
        Cue::Iban | Cue::Bic | Cue::Birth | Cue::Harmless => None,
    };
    let (groups, kind, score) = grade?;
    // A number that certainly starts later wins over a cue for its neighbour.
    let shadowed = groups > 1
        && run.digits(groups).len() >= 13
        && kind != Kind::Card
        && certain_later(text, run, groups);
    (!shadowed).then_some((groups, kind, score))
}

/// The last four digits of a number stand right behind its cue.
fn near(text: &str, run: &Run, cues: &mut Cues<'_>) -> bool {
    cues.before(run.start).is_some_and(|found| {
        let gap = &text[found.end..run.start];
        gap.len() <= 24 && !gap.contains(['.', '?', '!'])
    })
}

/// "1.5 …": a code has no decimals.
fn decimal_like(text: &str, run: &Run) -> bool {
    matches!(text.as_bytes().get(run.end(1)), Some(b'.')) && run.separator(1).is_some()
}

/// Whether a currency sign or a number sign of another kind stands before the run.
fn amount_before(text: &str, start: usize) -> bool {
    let before = text[..start].trim_end_matches([' ', '\u{a0}']);
    before.ends_with([
        '$', '€', '£', '¥', '₹', '₽', '±', '~', '≈', '<', '>', '^', '*',
    ])
}

/// Whether a harmless cue announces the number, with no other number between.
fn announced_harmless(text: &str, start: usize, cues: &mut Cues<'_>) -> bool {
    text[..start].ends_with('#')
        || cues.before(start).is_some_and(|found| {
            found.cue == Cue::Harmless
                && !text[found.end..start]
                    .bytes()
                    .any(|byte| byte.is_ascii_digit())
        })
}

/// Whether the number is the value of a field in a log line or a program.
fn assigned(text: &str, start: usize) -> bool {
    let before = &text[..start];
    before.ends_with(['=', ':', '/', '_', '[', '<', '"']) || before.ends_with("= ")
}

/// Whether a unit follows, which makes the number a quantity.
fn unit_after(text: &str, end: usize) -> bool {
    const UNITS: &[&str] = &[
        "dollar",
        "euro",
        "usd",
        "eur",
        "gbp",
        "pound",
        "cent",
        "percent",
        "km",
        "kg",
        "mb",
        "gb",
        "kb",
        "tb",
        "ms",
        "millisecond",
        "second",
        "minute",
        "hour",
        "people",
        "guest",
        "unit",
        "item",
        "piece",
        "byte",
        "mile",
        "meter",
        "metre",
        "year",
        "degree",
        "point",
        "token",
        "request",
        "user",
        "view",
        "follower",
        "step",
        "share",
        "ton",
        "liter",
        "litre",
        "inhabitant",
        "resident",
        "row",
        "record",
        "line",
        "word",
        "character",
        "peso",
        "reais",
        "real",
        "franc",
        "yen",
        "rupee",
        "million",
        "billion",
        "thousand",
        "habitant",
        "persona",
        "personne",
        "einwohner",
        "stück",
        "mal ",
        "uhr",
        "pixel",
        "rpm",
        "hz",
        "volt",
        "watt",
        "calor",
    ];
    let rest = text[end..].trim_start_matches(' ');
    rest.starts_with(['$', '€', '£', '¥', '%', '°'])
        || UNITS.iter().any(|unit| {
            rest.get(..unit.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(unit))
        })
}

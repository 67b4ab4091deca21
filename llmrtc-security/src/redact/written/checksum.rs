//! Check digits of the world's identifiers. Every function takes ASCII and refuses whatever it does not expect.
//!
//! Algorithms from ISO/IEC 7812-1 (Luhn), ISO/IEC 7064 (mod 97-10, mod 11-10, mod 11-2), J. Verhoeff, *Error Detecting Decimal
//! Codes* (1969), and the issuing authorities' own publications.

/// Luhn's check over ASCII digits.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(digit - b'0');
            match (at % 2 == 1, digit * 2) {
                (false, _) => digit,
                (true, double) if double > 9 => double - 9,
                (true, double) => double,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Remainder by 97 of digits and letters, where A is 10 and Z is 35.
pub(crate) fn mod97(characters: impl IntoIterator<Item = u8>) -> u32 {
    characters
        .into_iter()
        .fold(0, |rest, character| match character {
            b'0'..=b'9' => (rest * 10 + u32::from(character - b'0')) % 97,
            b'A'..=b'Z' => (rest * 100 + u32::from(character - b'A') + 10) % 97,
            b'a'..=b'z' => (rest * 100 + u32::from(character - b'a') + 10) % 97,
            _ => rest,
        })
}

/// Sum of digit times weight, for as many as there are weights.
pub(crate) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .map(|(digit, weight)| u32::from(digit - b'0') * weight)
        .sum()
}

fn digit(digits: &[u8], at: usize) -> u32 {
    u32::from(digits[at] - b'0')
}

/// Verhoeff's check: Aadhaar.
pub(crate) fn verhoeff(digits: &[u8]) -> bool {
    const PRODUCT: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const STEP: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let check = digits
        .iter()
        .rev()
        .enumerate()
        .fold(0u8, |check, (at, digit)| {
            let mut value = digit - b'0';
            for _ in 0..at % 8 {
                value = STEP[usize::from(value)];
            }
            PRODUCT[usize::from(check)][usize::from(value)]
        });
    check == 0
}

/// ISO 7064 mod 11-10 with the check digit last: German tax id, Croatian OIB.
pub(crate) fn mod11_10(digits: &[u8]) -> bool {
    let Some((last, body)) = digits.split_last() else {
        return false;
    };
    let product = body.iter().fold(10, |product, digit| {
        let sum = (u32::from(digit - b'0') + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(last - b'0')
}

/// German tax id: mod 11-10, and of the first ten digits exactly one occurs twice or thrice.
pub(crate) fn german_tax_id(digits: &[u8]) -> bool {
    if digits.len() != 11 || digits[0] == b'0' || !mod11_10(digits) {
        return false;
    }
    let mut counts = [0u8; 10];
    for digit in &digits[..10] {
        counts[usize::from(digit - b'0')] += 1;
    }
    counts.iter().filter(|count| **count > 1).count() == 1 && counts.iter().all(|count| *count <= 3)
}

/// Brazilian CPF: two check digits.
pub(crate) fn cpf(digits: &[u8]) -> bool {
    let check = |upto: usize| {
        let sum: u32 = (0..upto)
            .map(|at| digit(digits, at) * (upto as u32 + 1 - at as u32))
            .sum();
        sum * 10 % 11 % 10 == digit(digits, upto)
    };
    digits.len() == 11 && !uniform(digits) && check(9) && check(10)
}

/// Brazilian CNPJ: two check digits.
pub(crate) fn cnpj(digits: &[u8]) -> bool {
    const WEIGHTS: [u32; 13] = [6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2];
    let check = |upto: usize| {
        let rest = weighted(&digits[..upto], &WEIGHTS[13 - upto..]) % 11;
        (if rest < 2 { 0 } else { 11 - rest }) == digit(digits, upto)
    };
    digits.len() == 14 && !uniform(digits) && check(12) && check(13)
}

/// French NIR: thirteen digits and 97 minus their remainder. Corsica's letters count as 19 and 18.
pub(crate) fn nir(characters: &[u8]) -> bool {
    if characters.len() != 15 || !matches!(characters[0], b'1'..=b'4' | b'7' | b'8') {
        return false;
    }
    let number =
        characters[..13]
            .iter()
            .enumerate()
            .try_fold(0u64, |number, (at, character)| match (at, character) {
                (_, b'0'..=b'9') => Some(number * 10 + u64::from(character - b'0')),
                (6, b'A' | b'a') => Some(number * 10 + 9 - 10),
                (6, b'B' | b'b') => Some(number * 10 + 8 - 10),
                _ => None,
            });
    let (Some(number), [tens @ b'0'..=b'9', ones @ b'0'..=b'9']) = (number, &characters[13..])
    else {
        return false;
    };
    97 - number % 97 == u64::from(tens - b'0') * 10 + u64::from(ones - b'0')
}

/// Letter of a Spanish DNI or NIE, whose leading X, Y or Z counts as 0, 1 or 2.
pub(crate) fn dni(characters: &[u8]) -> bool {
    if characters.len() != 9 {
        return false;
    }
    let number =
        characters[..8]
            .iter()
            .enumerate()
            .try_fold(0u32, |number, (at, character)| {
                match (at, character.to_ascii_uppercase()) {
                    (_, digit @ b'0'..=b'9') => Some(number * 10 + u32::from(digit - b'0')),
                    (0, letter @ b'X'..=b'Z') => Some(u32::from(letter - b'X')),
                    _ => None,
                }
            });
    number.is_some_and(|number| {
        b"TRWAGMYFPDXBNJZSQVHLCKE"[number as usize % 23] == characters[8].to_ascii_uppercase()
    })
}

/// British NHS number.
pub(crate) fn nhs(digits: &[u8]) -> bool {
    let check = 11 - weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    digits.len() == 10 && check != 10 && check % 11 == digit(digits, 9)
}

/// Australian Medicare number, with or without the reference digit.
pub(crate) fn medicare(digits: &[u8]) -> bool {
    matches!(digits.len(), 10 | 11)
        && matches!(digits[0], b'2'..=b'6')
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == digit(digits, 8)
}

/// Polish PESEL: weights, and a possible date whose month carries the century.
pub(crate) fn pesel(digits: &[u8]) -> bool {
    let month = digit(digits, 2) % 2 * 10 + digit(digits, 3);
    let day = digit(digits, 4) * 10 + digit(digits, 5);
    digits.len() == 11
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) + digit(digits, 10))
            .is_multiple_of(10)
}

/// EAN-13, which the Swiss AHV number uses.
pub(crate) fn ean13(digits: &[u8]) -> bool {
    digits.len() == 13
        && weighted(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

/// Chinese resident identity number: mod 11-2 over eighteen characters, and a possible date.
pub(crate) fn chinese_id(characters: &[u8]) -> bool {
    if characters.len() != 18 || !characters[..17].iter().all(u8::is_ascii_digit) {
        return false;
    }
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let year = weighted(&characters[6..10], &[1000, 100, 10, 1]);
    let month = weighted(&characters[10..12], &[10, 1]);
    let check = b"10X98765432"[weighted(&characters[..17], &WEIGHTS) as usize % 11];
    (1900..2100).contains(&year)
        && (1..=12).contains(&month)
        && check == characters[17].to_ascii_uppercase()
}

/// Chilean RUT: body and a check character, which may be K.
pub(crate) fn rut(characters: &[u8]) -> bool {
    let Some((last, body)) = characters.split_last() else {
        return false;
    };
    if !matches!(body.len(), 7 | 8) || !body.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 = body
        .iter()
        .rev()
        .zip([2, 3, 4, 5, 6, 7, 2, 3])
        .map(|(digit, weight)| u32::from(digit - b'0') * weight)
        .sum();
    let expected = match 11 - sum % 11 {
        11 => b'0',
        10 => b'K',
        value => b'0' + value as u8,
    };
    expected == last.to_ascii_uppercase()
}

/// Argentine CUIT or CUIL.
pub(crate) fn cuit(digits: &[u8]) -> bool {
    digits.len() == 11
        && matches!(
            &digits[..2],
            b"20" | b"23" | b"24" | b"27" | b"30" | b"33" | b"34"
        )
        && match 11 - weighted(digits, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11 {
            11 => digit(digits, 10) == 0,
            10 => digit(digits, 10) == 9,
            value => digit(digits, 10) == value,
        }
}

/// Belgian national number: 97 minus the remainder of nine digits, preceded by a 2 for those born from 2000.
pub(crate) fn belgian(digits: &[u8]) -> bool {
    if digits.len() != 11 || !matches!(weighted(&digits[2..4], &[10, 1]), 0..=12) {
        return false;
    }
    let check = weighted(&digits[9..], &[10, 1]);
    let old = mod97(digits[..9].iter().copied());
    let new = mod97(std::iter::once(b'2').chain(digits[..9].iter().copied()));
    check == 97 - old || check == 97 - new
}

/// Turkish identity number.
pub(crate) fn turkish(digits: &[u8]) -> bool {
    if digits.len() != 11 || digits[0] == b'0' {
        return false;
    }
    let odd: u32 = (0..9).step_by(2).map(|at| digit(digits, at)).sum();
    let even: u32 = (1..8).step_by(2).map(|at| digit(digits, at)).sum();
    let all: u32 = (0..10).map(|at| digit(digits, at)).sum();
    (odd * 7 + 100 - even) % 10 == digit(digits, 9) && all % 10 == digit(digits, 10)
}

/// Norwegian birth number: a possible date and two check digits.
pub(crate) fn norwegian(digits: &[u8]) -> bool {
    digits.len() == 11
        && (1..=31).contains(&weighted(&digits[..2], &[10, 1]))
        && (1..=12).contains(&weighted(&digits[2..4], &[10, 1]))
        && weighted(digits, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11)
        && weighted(digits, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
}

/// South African identity number: a possible date, citizenship and Luhn.
pub(crate) fn south_african(digits: &[u8]) -> bool {
    digits.len() == 13
        && (1..=12).contains(&weighted(&digits[2..4], &[10, 1]))
        && (1..=31).contains(&weighted(&digits[4..6], &[10, 1]))
        && matches!(digits[10], b'0'..=b'2')
        && luhn(digits)
}

/// Finnish identity code without its century sign: nine digits and a check character.
pub(crate) fn finnish(digits: &[u8], check: u8) -> bool {
    digits.len() == 9
        && (1..=31).contains(&weighted(&digits[..2], &[10, 1]))
        && (1..=12).contains(&weighted(&digits[2..4], &[10, 1]))
        && {
            let number = digits
                .iter()
                .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'));
            b"0123456789ABCDEFHJKLMNPRSTUVWXY"[number as usize % 31] == check.to_ascii_uppercase()
        }
}

/// Italian codice fiscale, sixteen characters.
pub(crate) fn codice_fiscale(characters: &[u8]) -> bool {
    const SHAPE: &[u8; 16] = b"AAAAAADDADDADDDA";
    // In the odd places (first, third, …) characters count by this table, digits like the letters of the same rank.
    const ODD: [u8; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    if characters.len() != 16 {
        return false;
    }
    let mut sum = 0u32;
    for (at, (character, shape)) in characters.iter().zip(SHAPE).enumerate() {
        let rank = match (character.to_ascii_uppercase(), shape) {
            (letter @ b'A'..=b'Z', b'A') => letter - b'A',
            (digit @ b'0'..=b'9', b'D') => digit - b'0',
            // Homonyms get letters in place of digits.
            (letter @ (b'L'..=b'N' | b'P'..=b'V'), b'D') => letter - b'A',
            _ => return false,
        };
        if at < 15 {
            sum += u32::from(if at % 2 == 0 {
                ODD[usize::from(rank)]
            } else {
                rank
            });
        } else {
            return sum % 26 == u32::from(rank);
        }
    }
    false
}

/// Mexican CURP, eighteen characters.
pub(crate) fn curp(characters: &[u8]) -> bool {
    const VALUES: &[u8] = b"0123456789ABCDEFGHIJKLMN*OPQRSTUVWXYZ";
    if characters.len() != 18
        || !characters[..4].iter().all(u8::is_ascii_alphabetic)
        || !characters[4..10].iter().all(u8::is_ascii_digit)
        || !matches!(characters[10].to_ascii_uppercase(), b'H' | b'M' | b'X')
        || !characters[11..16].iter().all(u8::is_ascii_alphabetic)
    {
        return false;
    }
    let sum: Option<usize> =
        characters[..17]
            .iter()
            .enumerate()
            .try_fold(0, |sum, (at, character)| {
                let value = VALUES
                    .iter()
                    .position(|known| *known == character.to_ascii_uppercase())?;
                Some(sum + value * (18 - at))
            });
    sum.is_some_and(|sum| characters[17] == b'0' + ((10 - sum % 10) % 10) as u8)
}

/// Singaporean NRIC or FIN.
pub(crate) fn nric(characters: &[u8]) -> bool {
    if characters.len() != 9 || !characters[1..8].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum = weighted(&characters[1..8], &[2, 7, 6, 5, 4, 3, 2]) as usize;
    let check = characters[8].to_ascii_uppercase();
    match characters[0].to_ascii_uppercase() {
        b'S' => b"JZIHGFEDCBA"[sum % 11] == check,
        b'T' => b"JZIHGFEDCBA"[(sum + 4) % 11] == check,
        b'F' => b"XWUTRQPNMLK"[sum % 11] == check,
        b'G' => b"XWUTRQPNMLK"[(sum + 4) % 11] == check,
        b'M' => b"XWUTRQPNJLK"[(sum + 3) % 11] == check,
        _ => false,
    }
}

/// IBAN in compact form: length of its country, and mod 97.
pub(crate) fn iban(characters: &[u8]) -> bool {
    characters.len() >= 15
        && iban_length(characters[0], characters[1]) == Some(characters.len())
        && mod97(characters[4..].iter().chain(&characters[..4]).copied()) == 1
}

/// Length of a country's IBAN, from the SWIFT registry.
pub(crate) fn iban_length(first: u8, second: u8) -> Option<usize> {
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    Some(match &country {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FI" | b"FO" | b"GL" | b"NL" | b"SD" | b"FK" => 18,
        b"MK" | b"SI" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" | b"XK" | b"MN" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"BH" | b"CR" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" | b"VA" => 22,
        b"AE" | b"GI" | b"IL" | b"IQ" | b"TL" | b"OM" | b"SO" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" | b"VG" => 24,
        b"LY" | b"PT" | b"ST" => 25,
        b"IS" | b"TR" => 26,
        b"BI" | b"DJ" | b"FR" | b"GR" | b"IT" | b"MC" | b"MR" | b"SM" => 27,
        b"AL" | b"AZ" | b"BY" | b"CY" | b"DO" | b"GT" | b"HN" | b"HU" | b"LB" | b"NI" | b"PL"
        | b"SV" => 28,
        b"BR" | b"EG" | b"PS" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" | b"YE" => 30,
        b"MT" | b"SC" => 31,
        b"LC" => 32,
        b"RU" => 33,
        _ => return None,
    })
}

/// Whether all digits are the same: placeholders, which pass several of the sums.
pub(crate) fn uniform(digits: &[u8]) -> bool {
    digits.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specimens that the authorities publish, and each with its last character spoilt.
    #[test]
    fn published_specimens_pass_and_spoilt_ones_do_not() {
        type Check = fn(&[u8]) -> bool;
        let table: [(&str, Check, &str); 19] = [
            ("luhn", luhn, "4111111111111111"),
            ("luhn", luhn, "378282246310005"),
            ("verhoeff", verhoeff, "234123412346"),
            ("german_tax_id", german_tax_id, "86095742719"),
            ("cpf", cpf, "52998224725"),
            ("cnpj", cnpj, "11222333000181"),
            ("nir", nir, "255081416802538"),
            ("dni", dni, "12345678Z"),
            ("nie", dni, "X1234567L"),
            ("nhs", nhs, "9434765919"),
            ("pesel", pesel, "44051401359"),
            ("ahv", ean13, "7569217076985"),
            ("chinese", chinese_id, "11010519491231002X"),
            ("rut", rut, "123456785"),
            ("turkish", turkish, "10000000146"),
            ("south_african", south_african, "8001015009087"),
            ("codice_fiscale", codice_fiscale, "RSSMRA85T10A562S"),
            ("curp", curp, "HEGG560427MVZRRL04"),
            ("iban", iban, "DE89370400440532013000"),
        ];
        for (name, check, specimen) in table {
            assert!(check(specimen.as_bytes()), "{name} {specimen}");
            let mut spoilt = specimen.as_bytes().to_vec();
            let last = spoilt.last_mut().expect("not empty");
            *last = match *last {
                b'9' => b'0',
                b'X' => b'0',
                b'Z' => b'A',
                other => other + 1,
            };
            assert!(!check(&spoilt), "{name} spoilt");
        }
        assert!(iban(b"GB82WEST12345698765432") && iban(b"FR1420041010050500013M02606"));
        assert!(finnish(b"131052308", b'T') && nric(b"S1234567D") && medicare(b"2123456701"));
        assert!(belgian(b"85073003328") && cuit(b"20123456786"));
    }
}

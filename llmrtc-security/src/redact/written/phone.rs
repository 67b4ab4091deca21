//! Telephone numbers, international and as several countries write their own.
//!
//! Country codes from ITU-T E.164 Annex; lengths of national numbers from the numbering plans the ITU publishes.

use super::run::Run;
use crate::redact::detector::Lang;

/// Country code, and the least and most digits of a national number behind it.
#[rustfmt::skip]
const COUNTRIES: &[(&[u8], u8, u8)] = &[
    (b"1", 10, 10), (b"7", 10, 10), (b"20", 8, 10), (b"27", 9, 9), (b"30", 10, 10), (b"31", 9, 9), (b"32", 8, 9), (b"33", 9, 9), (b"34", 9, 9),
    (b"36", 8, 9), (b"39", 6, 11), (b"40", 9, 9), (b"41", 9, 9), (b"43", 4, 13), (b"44", 7, 10), (b"45", 8, 8), (b"46", 7, 10), (b"47", 8, 8),
    (b"48", 9, 9), (b"49", 5, 12), (b"51", 8, 9), (b"52", 10, 11), (b"53", 6, 8), (b"54", 10, 11), (b"55", 10, 12), (b"56", 8, 9), (b"57", 8, 10),
    (b"58", 10, 10), (b"60", 7, 10), (b"61", 9, 9), (b"62", 7, 12), (b"63", 8, 10), (b"64", 7, 10), (b"65", 8, 8), (b"66", 8, 9), (b"81", 8, 10),
    (b"82", 7, 11), (b"84", 8, 10), (b"86", 8, 11), (b"90", 10, 10), (b"91", 10, 10), (b"92", 8, 11), (b"93", 9, 9), (b"94", 9, 9), (b"95", 7, 10),
    (b"98", 10, 10), (b"211", 9, 9), (b"212", 9, 9), (b"213", 8, 9), (b"216", 8, 8), (b"218", 8, 10), (b"220", 7, 7), (b"221", 9, 9), (b"222", 8, 8),
    (b"223", 8, 8), (b"224", 8, 9), (b"225", 8, 10), (b"226", 8, 8), (b"227", 8, 8), (b"228", 8, 8), (b"229", 8, 10), (b"230", 7, 8), (b"231", 7, 9),
    (b"232", 8, 8), (b"233", 9, 9), (b"234", 7, 11), (b"235", 8, 8), (b"236", 8, 8), (b"237", 8, 9), (b"238", 7, 7), (b"239", 7, 7), (b"240", 9, 9),
    (b"241", 7, 8), (b"242", 9, 9), (b"243", 7, 9), (b"244", 9, 9), (b"245", 7, 9), (b"248", 7, 7), (b"249", 9, 9), (b"250", 8, 9), (b"251", 9, 9),
    (b"252", 7, 9), (b"253", 8, 8), (b"254", 6, 10), (b"255", 9, 9), (b"256", 9, 9), (b"257", 8, 8), (b"258", 8, 9), (b"260", 9, 9), (b"261", 9, 9),
    (b"262", 9, 9), (b"263", 5, 10), (b"264", 8, 9), (b"265", 7, 9), (b"266", 8, 8), (b"267", 7, 8), (b"268", 8, 8), (b"269", 7, 7), (b"290", 4, 5),
    (b"291", 7, 7), (b"297", 7, 7), (b"298", 6, 6), (b"299", 6, 6), (b"350", 8, 8), (b"351", 9, 9), (b"352", 5, 11), (b"353", 7, 9), (b"354", 7, 9),
    (b"355", 8, 9), (b"356", 8, 8), (b"357", 8, 8), (b"358", 5, 12), (b"359", 7, 9), (b"370", 8, 8), (b"371", 8, 8), (b"372", 7, 8), (b"373", 8, 8),
    (b"374", 8, 8), (b"375", 9, 9), (b"376", 6, 9), (b"377", 8, 9), (b"378", 6, 10), (b"380", 9, 9), (b"381", 8, 9), (b"382", 8, 8), (b"383", 8, 9),
    (b"385", 8, 9), (b"386", 8, 8), (b"387", 8, 8), (b"389", 8, 8), (b"420", 9, 9), (b"421", 9, 9), (b"423", 7, 9), (b"500", 5, 5), (b"501", 7, 7),
    (b"502", 8, 8), (b"503", 7, 8), (b"504", 8, 8), (b"505", 8, 8), (b"506", 8, 8), (b"507", 7, 8), (b"509", 8, 8), (b"590", 9, 9), (b"591", 8, 8),
    (b"592", 7, 7), (b"593", 8, 9), (b"594", 9, 9), (b"595", 9, 9), (b"596", 9, 9), (b"597", 6, 7), (b"598", 7, 8), (b"599", 7, 8), (b"670", 7, 8),
    (b"673", 7, 7), (b"675", 7, 8), (b"676", 5, 7), (b"679", 7, 7), (b"687", 6, 6), (b"689", 6, 8), (b"800", 8, 8), (b"852", 8, 8), (b"853", 8, 8),
    (b"855", 8, 9), (b"856", 8, 10), (b"880", 8, 10), (b"886", 8, 9), (b"960", 7, 7), (b"961", 7, 8), (b"962", 8, 9), (b"963", 8, 9), (b"964", 8, 10),
    (b"965", 8, 8), (b"966", 8, 9), (b"967", 7, 9), (b"968", 8, 8), (b"970", 8, 9), (b"971", 7, 9), (b"972", 8, 9), (b"973", 8, 8), (b"974", 7, 8),
    (b"975", 7, 8), (b"976", 7, 8), (b"977", 8, 10), (b"992", 9, 9), (b"993", 8, 8), (b"994", 9, 9), (b"995", 9, 9), (b"996", 9, 9), (b"998", 9, 9),
];

const SEPARATORS: &[u8] = b" -.()";

/// How surely the first `groups` groups are a telephone number by their form alone.
pub(crate) fn score(run: &Run, groups: usize, lang: Option<Lang>) -> Option<f32> {
    let digits = run.digits(groups);
    if !(7..=17).contains(&digits.len()) {
        return None;
    }
    let shape = run.shape(groups);
    if run.plus {
        return (run.separated_by(groups, b" -.()/") && international(run, groups, 0))
            .then_some(0.95);
    }
    if digits.starts_with(b"00") || digits.starts_with(b"0111") {
        let prefix = if digits.starts_with(b"00") { 2 } else { 3 };
        return (run.separated_by(groups, SEPARATORS) && international(run, groups, prefix))
            .then_some(0.79);
    }
    if let Some(score) = american(run, groups, shape, digits) {
        return Some(score);
    }
    if digits[0] == b'0' && trunk(run, groups, shape, digits) {
        return Some(0.75);
    }
    other_countries(run, shape, digits, lang)
}

/// Country code and a national number of the length it allows, after `prefix` digits. A trunk zero in parentheses does not count.
fn international(run: &Run, groups: usize, prefix: usize) -> bool {
    let digits = run.digits(groups);
    let trunk =
        (1..groups).any(|at| run.shape(groups)[2 * at - 1] == b'(' && run.group(at) == b"0");
    COUNTRIES.iter().any(|(code, least, most)| {
        let Some(national) = digits
            .get(prefix..)
            .and_then(|rest| rest.strip_prefix(*code))
        else {
            return false;
        };
        // Some write the trunk zero without parentheses.
        let zero = usize::from(trunk || (national.first() == Some(&b'0') && *code != b"39"));
        let length = national.len() - zero.min(national.len());
        (usize::from(*least)..=usize::from(*most)).contains(&length)
    })
}

/// North America: three, three, four, or ten in a row.
fn american(run: &Run, groups: usize, shape: &[u8], digits: &[u8]) -> Option<f32> {
    let national = match (digits.len(), digits[0]) {
        (11, b'1') => &digits[1..],
        (10, _) => digits,
        _ => return None,
    };
    let formatted = match shape {
        b"3)3-4" | b"3)3 4" | b"3)3.4" | b"3)7" => run.paren,
        b"3-3-4" | b"3.3.4" | b"3 3 4" | b"3 3-4" | b"3-3 4" | b"3/3-4" | b"3-7" | b"3-3.4" => true,
        b"1-3-3-4" | b"1.3.3.4" | b"1 3 3 4" | b"1 3-3-4" | b"1(3)3-4" | b"1(3)3 4" | b"1-3-7"
        | b"1 3 3-4" => true,
        _ => false,
    };
    if formatted {
        return Some(0.85);
    }
    // In a row only where both area and exchange are possible, and not a round quantity.
    let bare = groups == 1
        && matches!(national[0], b'2'..=b'9')
        && matches!(national[3], b'2'..=b'9')
        && !national.ends_with(b"0000");
    bare.then_some(0.55)
}

/// A national number behind its trunk zero: most of Europe, Australia, Japan, Korea, …
fn trunk(run: &Run, groups: usize, shape: &[u8], digits: &[u8]) -> bool {
    if !(9..=12).contains(&digits.len()) || digits.get(1) == Some(&b'0') {
        return false;
    }
    if groups == 1 {
        return matches!(digits.len(), 10 | 11);
    }
    let area = run.group(0).len();
    // "(0)20 7946 0958".
    if run.paren && area == 1 {
        return run.separated_by(groups, SEPARATORS);
    }
    (2..=6).contains(&area)
        && (run.separated_by(groups, SEPARATORS) || (shape[1] == b'/' && groups <= 4 && area >= 3))
        && !(groups >= 3
            && run.separated_by(3, b".-/")
            && run.group(2).len() == 4
            && area <= 2
            && groups == 3
            && digits.len() == 8)
}

/// Numbers without a trunk prefix.
fn other_countries(run: &Run, shape: &[u8], digits: &[u8], lang: Option<Lang>) -> Option<f32> {
    let iberian = matches!(lang, Some(Lang::Es | Lang::Pt));
    let first = digits[0];
    let known = match shape {
        // Spain, Portugal.
        b"3 3 3" | b"3-3-3" | b"3 2 2 2" | b"2 3 2 2" | b"3.3.3" | b"2 3 4" => {
            matches!(first, b'6' | b'7' | b'9')
                || (first == b'8' && iberian)
                || (first == b'2' && lang == Some(Lang::Pt))
        }
        b"9" => iberian && matches!(first, b'6' | b'7' | b'9'),
        // Brazil.
        b"2)5-4" | b"2)4-4" | b"2)5 4" | b"2)4 4" | b"2)9" | b"3)4-4" | b"3)5-4" => run.paren,
        b"2 5-4" | b"2 5 4" | b"2-5-4" | b"2 4-4" => first != b'0',
        // Country code in parentheses.
        b"3)3 3 3" | b"3)9" => run.paren,
        // India.
        b"5 5" | b"5-5" => matches!(first, b'6'..=b'9'),
        // Russia, Kazakhstan.
        b"1(3)3-2-2" | b"1 3 3-2-2" | b"1(3)3 2 2" | b"1-3-3-2-2" | b"1 3 3 2 2" => {
            matches!(first, b'7' | b'8')
        }
        // China.
        b"3 4 4" | b"3-4-4" => first == b'1' && matches!(digits[1], b'3'..=b'9'),
        // Mexico.
        b"2 4 4" | b"2-4-4" => matches!(first, b'3'..=b'9'),
        // Italy's mobile numbers.
        b"3 7" | b"3 3 2 2" | b"3 3 2 3" | b"3 6" => first == b'3' && digits.len() >= 9,
        // Within a city, in fiction.
        b"3-4" => digits.starts_with(b"555"),
        _ => false,
    };
    known.then_some(0.7)
}

/// Where the number's extension ends ("x12", "ext. 3456", "#12"), or `end` if it has none.
pub(crate) fn with_extension(text: &str, end: usize) -> usize {
    const WORDS: &[&str] = &[
        " extension ",
        ", extension ",
        " ext. ",
        ", ext. ",
        " ext ",
        ", ext ",
        " ext.",
        " ext",
        "ext.",
        "ext",
        " x ",
        " x",
        "x",
        "X",
        " #",
        "#",
        " poste ",
        " durchwahl ",
        " anexo ",
        " ramal ",
        " int. ",
        " interno ",
    ];
    let rest = &text[end..];
    for word in WORDS {
        let Some(head) = rest.get(..word.len()) else {
            continue;
        };
        if !head.eq_ignore_ascii_case(word) {
            continue;
        }
        let digits = rest.as_bytes()[word.len()..]
            .iter()
            .take(7)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let after = rest.as_bytes().get(word.len() + digits);
        if (1..=6).contains(&digits) && !after.is_some_and(u8::is_ascii_alphanumeric) {
            return end + word.len() + digits;
        }
    }
    end
}

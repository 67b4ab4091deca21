//! Arguments of tools as keyed hashes (G2): evidence without content.
//!
//! `argsHash = HMAC-SHA-256(key of the epoch, canonical JSON)`. Whoever claims to know the arguments of a call can be
//! checked with the key; whoever reads the log without the key can not even guess a four-digit code.
//!
//! The canonical form is RFC 8785: no white space, keys in the order of their UTF-16 code units, numbers as
//! ECMAScript prints them, so `1e2`, `100.0` and `100` are one number. One deviation, where that RFC asks senders not
//! to go: integers that a double cannot hold keep their digits, because two account numbers must not share a hash.
//! Written here because `serde_jcs` 0.2 brings a float formatter of its own for what the standard library's shortest
//! digits give in a few lines.

use std::{collections::BTreeMap, fmt};

use serde_json::{Number, Value};

/// The keyed hash of a tool's arguments.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArgsHash {
    /// Which key made it.
    pub epoch: u32,
    /// HMAC-SHA-256.
    pub mac: [u8; 32],
}

impl fmt::Display for ArgsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mac.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ArgsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArgsHash({}:{self})", self.epoch)
    }
}

/// The canonical form of a value.
///
/// Recursion is as deep as the value; `serde_json` parses at most 128 levels.
///
/// # Source
/// RFC 8785, section 3.2.
pub fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(canonical_number(number).as_bytes()),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let sorted: BTreeMap<Vec<u16>, (&String, &Value)> = map
                .iter()
                .map(|(key, value)| (key.encode_utf16().collect(), (key, value)))
                .collect();
            out.push(b'{');
            for (index, (key, value)) in sorted.into_values().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string(key, out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
    }
}

/// `serde_json` escapes exactly what the RFC asks for: quotes, backslashes and controls, these in short form or
/// lower-case hexadecimal.
fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string always serialises into memory");
}

fn canonical_number(number: &Number) -> String {
    // Exact integers first: see the module's deviation. Below 2^53 both ways print the same.
    if let Some(integer) = number.as_u64() {
        return integer.to_string();
    }
    if let Some(integer) = number.as_i64() {
        return integer.to_string();
    }
    number.as_f64().map_or_else(|| "null".into(), es_number)
}

/// A finite double as ECMAScript's `Number::toString` prints it; the standard library knows the same shortest digits.
///
/// # Source
/// ECMA-262, `Number::toString ( x, 10 )`.
fn es_number(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    let shortest = format!("{:e}", x.abs());
    // Of two equally short and equally close numbers ECMAScript takes the even one, the standard library the larger.
    // Formatting to a number of digits rounds to even.
    let places = shortest.find('e').unwrap_or(0).saturating_sub(2);
    let even = format!("{:.places$e}", x.abs());
    let scientific = match even.parse::<f64>() {
        Ok(parsed) if x.abs() == parsed => even,
        _ => shortest,
    };
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("`{:e}` prints an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("`{:e}` prints an integer exponent");
    let (k, n) = (digits.len() as i32, exponent + 1);
    let text = if k <= n && n <= 21 {
        format!("{digits}{}", "0".repeat((n - k) as usize))
    } else if 0 < n && n <= 21 {
        let (whole, fraction) = digits.split_at(n as usize);
        format!("{whole}.{fraction}")
    } else if -6 < n && n <= 0 {
        format!("0.{}{digits}", "0".repeat(-n as usize))
    } else {
        let sign = if n > 0 { '+' } else { '-' };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{first}{point}{rest}e{sign}{}", (n - 1).abs())
    };
    if x < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::audit::keys::AuditKeys;

    fn canonical(text: &str) -> String {
        String::from_utf8(canonical_json(&serde_json::from_str(text).unwrap())).unwrap()
    }

    /// RFC 8785, appendix B, as bits and text.
    #[test]
    fn g2_numbers_of_the_rfc() {
        let table: [(u64, &str); 25] = [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
            (0x3ff8_0000_0000_0000, "1.5"),
        ];
        for (bits, text) in table {
            assert_eq!(es_number(f64::from_bits(bits)), text, "{bits:016x}");
        }
    }

    /// RFC 8785, sections 3.2.2 and 3.2.3.
    #[test]
    fn g2_documents_of_the_rfc() {
        let sample = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        assert_eq!(
            canonical(sample),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        let sorting = r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O"}"#;
        let sorted = canonical(sorting);
        let places: Vec<usize> = [
            "Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew",
        ]
        .iter()
        .map(|word| sorted.find(word).unwrap())
        .collect();
        assert!(places.is_sorted(), "{sorted}");
    }

    #[test]
    fn g2_key_order_and_number_form_do_not_change_the_hash() {
        let keys = AuditKeys::generate();
        let hash = |text: &str| keys.args_hash(&serde_json::from_str(text).unwrap());
        let reference = hash(r#"{"to":"DE89","amount":100,"note":{"b":1,"a":[]}}"#);
        for same in [
            r#"{ "amount": 1e2, "to": "DE89", "note": {"a": [], "b": 1.0} }"#,
            r#"{"note":{"a":[],"b":10e-1},"to":"\u0044E89","amount":100.000}"#,
        ] {
            assert_eq!(hash(same), reference, "{same}");
        }
        for other in [
            r#"{"to":"DE89","amount":"100","note":{"b":1,"a":[]}}"#,
            r#"{"to":"DE89","amount":100.5,"note":{"b":1,"a":[]}}"#,
            r#"{"to":"DE89","amount":100,"note":{"b":1,"a":[null]}}"#,
        ] {
            assert_ne!(hash(other), reference, "{other}");
        }
    }

    #[test]
    fn g2_integers_beyond_a_double_are_told_apart() {
        assert_eq!(canonical("9007199254740993"), "9007199254740993");
        assert_eq!(canonical("18446744073709551615"), "18446744073709551615");
        assert_eq!(canonical("-9223372036854775808"), "-9223372036854775808");
        assert_eq!(canonical("1e19"), canonical("10000000000000000000"));
    }

    #[test]
    fn g2_a_dictionary_does_not_find_a_pin_without_the_key() {
        use aws_lc_rs::digest;
        let pin = json!({"pin": "4711"});
        let (real, guess) = (AuditKeys::generate(), AuditKeys::generate());
        let (hash, plain) = (
            real.args_hash(&pin),
            digest::digest(&digest::SHA256, &canonical_json(&pin)),
        );
        let candidates = || (0..10_000).map(|n| json!({ "pin": format!("{n:04}") }));
        // The customary plain hash falls; ours does under the right key only.
        assert!(candidates().any(|guess| {
            digest::digest(&digest::SHA256, &canonical_json(&guess)).as_ref() == plain.as_ref()
        }));
        assert!(!candidates().any(|value| guess.args_hash(&value).mac == hash.mac));
        assert_eq!(
            candidates()
                .filter(|value| real.args_match(&hash, value) == Some(true))
                .count(),
            1
        );
        assert_eq!(guess.args_match(&ArgsHash { epoch: 9, ..hash }, &pin), None);
    }

    proptest! {
        #[test]
        fn g2_a_canonical_number_is_the_same_number(bits: u64) {
            let x = f64::from_bits(bits);
            prop_assume!(x.is_finite());
            prop_assert_eq!(es_number(x).parse::<f64>().unwrap(), x);
        }

        #[test]
        fn g2_canonical_json_is_a_fixed_point(text in "\\PC*", number: f64, list in prop::collection::vec(any::<i64>(), 0..5)) {
            prop_assume!(number.is_finite());
            let value = json!({"z": text, "a": number, &text: list});
            let once = canonical_json(&value);
            let again = canonical_json(&serde_json::from_slice(&once).unwrap());
            prop_assert_eq!(once, again);
        }
    }
}

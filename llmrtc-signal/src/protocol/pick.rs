//! Picking known fields out of a JSON object as borrowed text, without recursion and almost without allocation.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Whether arrays and objects nest at most `limit` deep.
///
/// One pass over the bytes. For every prefix that a JSON parser would accept the count is exact, so a parser never
/// gets to see a level beyond the limit; what follows a syntax error does not matter.
pub(super) fn depth_within(text: &str, limit: usize) -> bool {
    let mut depth = 0usize;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.find(|byte| matches!(byte, b'"' | b'\\')) {
                    if byte == b'"' {
                        break;
                    }
                    bytes.next();
                }
            }
            _ => {}
        }
    }
    true
}

/// The values of `names` in the object `json`, in that order; `None` where one is absent.
///
/// Unknown fields are skipped. A field that comes twice is refused: two readers could take it for two messages.
pub(super) fn fields<'de, const N: usize>(
    json: &'de str,
    names: [&'static str; N],
) -> Result<[Option<&'de RawValue>; N], serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let picked = Fields(names).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(picked)
}

struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = [None; N];
        while let Some(BorrowedText(key)) = map.next_key()? {
            match self.0.iter().position(|name| *name == key) {
                Some(index) if picked[index].is_some() => {
                    return Err(A::Error::duplicate_field(self.0[index]));
                }
                Some(index) => picked[index] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(picked)
    }
}

/// The items of the array `json`, at most `limit` of them.
pub(super) fn items(json: &str, limit: usize) -> Result<Vec<&RawValue>, serde_json::Error> {
    struct Items(usize);

    impl<'de> Visitor<'de> for Items {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {} items", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                if items.len() == self.0 {
                    return Err(A::Error::invalid_length(self.0 + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(json);
    let items = deserializer.deserialize_seq(Items(limit))?;
    deserializer.end()?;
    Ok(items)
}

/// The text of a JSON string, borrowed unless it contains escapes. `None` if `raw` is no string.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get())
        .ok()
        .map(|BorrowedText(text)| text)
}

#[derive(Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for (json, limit, within) in [
            (deep(32), 32, true),
            (deep(33), 32, false),
            (deep(100_000), 32, false),
            ("{\"a\":".repeat(100_000), 32, false),
            (r#"{"a":"[[[[","b":"\"[[[","c":"\\"}"#.to_owned(), 1, true),
            (r#"{"a":"\\","b":[{}]}"#.to_owned(), 2, false),
            (r#"[[],[],[],{}]"#.to_owned(), 2, true),
            ("\"never closed [[[[".to_owned(), 0, true),
            ("\"ends in a backslash\\".to_owned(), 0, true),
        ] {
            assert_eq!(depth_within(&json, limit), within, "{json:.60}");
        }
    }

    #[test]
    fn escaped_names_are_recognised_and_repeated_ones_refused() {
        let picked = fields(
            r#"{"x":[1,{"a":2}],"x":1,"\u0061":"two","b":null}"#,
            ["a", "b", "c"],
        )
        .unwrap()
        .map(|raw| raw.map(RawValue::get));
        assert_eq!(picked, [Some("\"two\""), Some("null"), None]);
        for bad in [
            "[]",
            "null",
            "1",
            "{} {}",
            "{\"a\":}",
            "{a:1}",
            "",
            r#"{"a":1,"\u0061":1}"#,
        ] {
            assert!(fields(bad, ["a"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn arrays_are_cut_off_at_their_limit() {
        assert_eq!(items("[1,2]", 2).unwrap().len(), 2);
        assert!(items("[1,2,3]", 2).is_err());
        assert!(items("{}", 2).is_err());
        assert!(items("[1] 2", 2).is_err());
    }
}

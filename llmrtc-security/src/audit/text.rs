//! JSON, one line at a time, from text that strangers chose (G4).
//!
//! Everything that could end a line, move a cursor, hide or reorder text is written as `\uXXXX`, so a record is one
//! physical line in every editor, terminal and log shipper, whatever it quotes.

/// Longest string value as emitted, escapes included.
pub(super) const MAX_FIELD_BYTES: usize = 8 * 1024;
/// Longest list or map; further items are counted.
pub(super) const MAX_ITEMS: usize = 64;
/// Longest item of a list or map: names of rules, of types, of settings.
const MAX_ITEM_BYTES: usize = 256;
/// What a cut string ends with.
const CUT: &str = "\\u2026";

/// Builds one JSON object. Keys are ours and need no escaping.
#[derive(Debug)]
pub(super) struct JsonLine(Vec<u8>);

impl JsonLine {
    /// An object with nothing in it yet.
    pub(super) fn new() -> Self {
        // A record is 500 to 900 bytes long.
        let mut bytes = Vec::with_capacity(1024);
        bytes.push(b'{');
        Self(bytes)
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes, with everything closed that was opened by the caller.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Begins an object under `key`.
    pub(super) fn open(&mut self, key: &'static str) {
        self.key(key);
        self.0.push(b'{');
    }

    /// Ends the innermost object.
    pub(super) fn close(&mut self) {
        self.0.push(b'}');
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.raw(&value.to_string());
    }

    /// A number between 0 and 1 with three digits; `null` if it is none.
    pub(super) fn score(&mut self, key: &'static str, value: f32) {
        self.key(key);
        if value.is_finite() {
            self.raw(&format!("{value:.3}"));
        } else {
            self.raw("null");
        }
    }

    /// A string of any content, cut at [`MAX_FIELD_BYTES`].
    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.quoted(value, MAX_FIELD_BYTES);
    }

    /// A list of strings, cut at [`MAX_ITEMS`]; the number left out goes under `more`.
    pub(super) fn list<'a>(
        &mut self,
        key: &'static str,
        more: &'static str,
        items: impl ExactSizeIterator<Item = &'a str>,
    ) {
        let left_out = items.len().saturating_sub(MAX_ITEMS);
        self.key(key);
        self.0.push(b'[');
        for item in items.take(MAX_ITEMS) {
            self.comma();
            self.quoted(item, MAX_ITEM_BYTES);
        }
        self.0.push(b']');
        if left_out > 0 {
            self.number(more, left_out as u64);
        }
    }

    /// A map of counts, cut at [`MAX_ITEMS`]; what was left out is summed up under `more`.
    pub(super) fn counts<'a>(
        &mut self,
        key: &'static str,
        more: &'static str,
        items: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.open(key);
        let mut left_out = 0_u64;
        for (index, (name, count)) in items.enumerate() {
            if index < MAX_ITEMS {
                self.comma();
                self.quoted(name, MAX_ITEM_BYTES);
                self.0.push(b':');
                self.raw(&count.to_string());
            } else {
                left_out = left_out.saturating_add(count);
            }
        }
        self.close();
        if left_out > 0 {
            self.number(more, left_out);
        }
    }

    /// Only the key and its colon, for a value that somebody else writes.
    pub(super) fn key(&mut self, key: &'static str) {
        self.comma();
        self.0.push(b'"');
        self.raw(key);
        self.raw("\":");
    }

    fn comma(&mut self) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }

    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn quoted(&mut self, text: &str, limit: usize) {
        self.0.push(b'"');
        let start = self.0.len();
        // The last place at which the mark of a cut still fits.
        let mut cut = start;
        for char in text.chars() {
            if self.0.len() - start + CUT.len() <= limit {
                cut = self.0.len();
            }
            self.char(char);
            if self.0.len() - start > limit {
                self.0.truncate(cut);
                self.raw(CUT);
                break;
            }
        }
        self.0.push(b'"');
    }

    fn char(&mut self, char: char) {
        match char {
            '"' => self.raw("\\\""),
            '\\' => self.raw("\\\\"),
            ' '..='~' => self.0.push(char as u8),
            _ if is_dangerous(char) => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    self.raw(&format!("\\u{unit:04x}"));
                }
            }
            _ => self.raw(char.encode_utf8(&mut [0; 4])),
        }
    }
}

/// Characters that a terminal, an editor or a parser acts upon instead of showing them.
fn is_dangerous(char: char) -> bool {
    matches!(char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Soft hyphen, Arabic letter mark, Mongolian separator.
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Zero widths, direction marks, line and paragraph separators, embeddings, overrides, invisible operators.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // Byte order mark, interlinear annotation, tags.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        // Noncharacters.
        || (char as u32) & 0xfffe == 0xfffe
        || ('\u{fdd0}'..='\u{fdef}').contains(&char)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn emitted(text: &str) -> Vec<u8> {
        let mut line = JsonLine::new();
        line.text("t", text);
        line.close();
        line.into_bytes()
    }

    /// What a reader gets back.
    fn read(line: &[u8]) -> String {
        match serde_json::from_slice(line).unwrap() {
            Value::Object(map) => map["t"].as_str().unwrap().to_owned(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn g4_every_character_survives_and_none_acts() {
        for char in '\0'..=char::MAX {
            let line = emitted(&char.to_string());
            assert_eq!(read(&line), char.to_string(), "{char:?}");
            let shown = std::str::from_utf8(&line).unwrap();
            assert!(!shown.chars().any(is_dangerous), "{char:?}");
        }
    }

    #[test]
    fn g4_long_text_is_cut_between_characters_within_the_limit() {
        for unit in ["a", "é", "漢", "🦀", "\"", "\n", "\u{e0001}", "a\u{2028}🦀"] {
            for length in [10, 8_186, 8_187, 8_190, 8_192, 8_193, 100_000] {
                let text: String = unit.chars().cycle().take(length).collect();
                let line = emitted(&text);
                let bytes = line.len() - "{'t':''}".len();
                assert!(bytes <= MAX_FIELD_BYTES, "{unit:?} × {length}: {bytes}");
                let back = read(&line);
                match back.strip_suffix('…') {
                    Some(kept) => {
                        assert!(text.starts_with(kept), "{unit:?} × {length}");
                        // Not more than a character and the mark are given away.
                        assert!(bytes + 12 + CUT.len() > MAX_FIELD_BYTES, "{unit:?} {bytes}");
                    }
                    None => assert_eq!(back, text),
                }
            }
        }
    }

    #[test]
    fn lists_and_maps_are_bounded_and_say_what_they_leave_out() {
        let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
        let mut line = JsonLine::new();
        line.list("rules", "more_rules", names.iter().map(String::as_str));
        line.counts(
            "counts",
            "rest",
            names.iter().map(|name| (name.as_str(), 2)),
        );
        line.score("score", 0.5);
        line.score("none", f32::NAN);
        line.close();
        let value: Value = serde_json::from_slice(&line.into_bytes()).unwrap();
        assert_eq!(value["rules"].as_array().unwrap().len(), MAX_ITEMS);
        assert_eq!(value["more_rules"], 36);
        assert_eq!(value["counts"].as_object().unwrap().len(), MAX_ITEMS);
        assert_eq!(value["rest"], 72);
        assert_eq!(value["score"].to_string(), "0.5");
        assert!(value["none"].is_null());
    }
}

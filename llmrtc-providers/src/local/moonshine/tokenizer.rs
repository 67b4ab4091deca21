use std::ops::Range;

/// How the vocabulary writes a space.
const SPACE: char = '\u{2581}';
/// What the model puts where it hears music, and what is left of a character that was cut off.
const NO_SPEECH: [char; 2] = ['♪', char::REPLACEMENT_CHARACTER];
/// The first ids stand for unknown, begin and end; none is text.
const CONTROL_TOKENS: u32 = 3;

/// Why a vocabulary could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenizerError {
    #[error("token {0} is cut off")]
    CutOff(usize),
    #[error("{0} tokens are too few to speak with")]
    TooFew(usize),
}

/// The vocabulary: the bytes of every token.
#[derive(Debug)]
pub(super) struct Tokenizer {
    bytes: Box<[u8]>,
    /// Where in `bytes` the tokens are, by id.
    tokens: Box<[Range<u32>]>,
}

impl Tokenizer {
    /// Reads `tokenizer.bin`: for each token a length and as many bytes. A length from 128 on takes a second byte:
    /// the low seven bits come first, marked by the eighth.
    pub(super) fn parse(file: Vec<u8>) -> Result<Self, TokenizerError> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&low) = file.get(at) {
            let cut_off = TokenizerError::CutOff(tokens.len());
            at += 1;
            let mut length = usize::from(low);
            if low >= 128 {
                let high = *file.get(at).ok_or(cut_off)?;
                at += 1;
                length = length - 128 + 128 * usize::from(high);
            }
            let end = at + length;
            if end > file.len() {
                return Err(cut_off);
            }
            tokens.push(at as u32..end as u32);
            at = end;
        }
        if tokens.len() <= CONTROL_TOKENS as usize {
            return Err(TokenizerError::TooFew(tokens.len()));
        }
        Ok(Self {
            bytes: file.into(),
            tokens: tokens.into(),
        })
    }

    /// The text of tokens, without what stands for something else than speech. Ids that do not exist are skipped.
    pub(super) fn text(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids.iter().filter(|&&id| id >= CONTROL_TOKENS) {
            if let Some(token) = self.tokens.get(id as usize) {
                let token = &self.bytes[token.start as usize..token.end as usize];
                if !token.starts_with(b"<<ST_") {
                    bytes.extend_from_slice(token);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes).replace(SPACE, " ");
        text.replace(NO_SPEECH, "").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vocabulary(tokens: &[&str]) -> Vec<u8> {
        let mut file = b"\x05<unk>\x03<s>\x04</s>".to_vec();
        for token in tokens {
            file.push(token.len() as u8);
            file.extend_from_slice(token.as_bytes());
        }
        file
    }

    #[test]
    fn tokens_become_text() {
        let file = vocabulary(&["▁it", "▁was", ".", "♪", "<<ST_7>>", ""]);
        let tokenizer = Tokenizer::parse(file).unwrap();
        assert_eq!(tokenizer.text(&[1, 3, 4, 5, 2]), "it was.");
        assert_eq!(tokenizer.text(&[6, 7, 8]), "");
        assert_eq!(tokenizer.text(&[0, 3, u32::MAX]), "it");
    }

    #[test]
    fn a_character_may_span_tokens() {
        let mut file = vocabulary(&[]);
        file.extend_from_slice(&[1, 0xC3, 1, 0xA9]);
        let tokenizer = Tokenizer::parse(file).unwrap();
        assert_eq!(tokenizer.text(&[3, 4]), "é");
        assert_eq!(tokenizer.text(&[3]), "");
    }

    #[test]
    fn a_long_token_has_a_length_of_two_bytes() {
        let mut file = vocabulary(&[]);
        file.extend_from_slice(&[128 + 72, 1]);
        file.extend_from_slice(&[b'a'; 200]);
        let tokenizer = Tokenizer::parse(file).unwrap();
        assert_eq!(tokenizer.text(&[3]).len(), 200);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let mut file = vocabulary(&["▁it"]);
        file.pop();
        assert_eq!(
            Tokenizer::parse(file).unwrap_err(),
            TokenizerError::CutOff(3)
        );
        assert_eq!(
            Tokenizer::parse(vec![200]).unwrap_err(),
            TokenizerError::CutOff(0)
        );
        assert_eq!(
            Tokenizer::parse(Vec::new()).unwrap_err(),
            TokenizerError::TooFew(0)
        );
    }

    proptest! {
        #[test]
        fn any_file_and_any_ids_are_survived(
            file in proptest::collection::vec(any::<u8>(), 0..2_000),
            ids in proptest::collection::vec(any::<u32>(), 0..20),
        ) {
            if let Ok(tokenizer) = Tokenizer::parse(file) {
                tokenizer.text(&ids);
                tokenizer.text(&(0..100).collect::<Vec<_>>());
            }
        }
    }
}

//! F2.5: cuts by what a reader counts. Never inside a grapheme cluster, so neither an emoji nor a letter with its accents
//! comes apart, as it does when code units are counted.

use unicode_segmentation::UnicodeSegmentation;

/// How long a text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In grapheme clusters.
    pub graphemes: usize,
    /// In estimated tokens.
    pub tokens: usize,
}

/// The longest beginning of `text` within the limit.
pub fn cut(text: &str, limit: Limit) -> &str {
    // A byte is at most one grapheme and at most one token, so short texts need no counting.
    if text.len() <= limit.graphemes.min(limit.tokens) {
        return text;
    }
    let mut estimate = Estimate::default();
    for (count, (at, cluster)) in text.grapheme_indices(true).enumerate() {
        estimate.add(cluster);
        if count == limit.graphemes || estimate.tokens() > limit.tokens {
            return &text[..at];
        }
    }
    text
}

/// About how many tokens a text has for a model. Byte-pair vocabularies differ; for ordinary prose in Latin script the
/// estimate is within a quarter, and for blobs, rare scripts and emoji it errs upwards.
pub fn tokens(text: &str) -> usize {
    let mut estimate = Estimate::default();
    for cluster in text.graphemes(true) {
        estimate.add(cluster);
    }
    estimate.tokens()
}

/// A running estimate, in quarters of a token.
#[derive(Default)]
struct Estimate {
    quarters: usize,
}

impl Estimate {
    fn add(&mut self, cluster: &str) {
        let c = cluster.chars().next().unwrap_or(' ');
        self.quarters += match c {
            // Four letters a token is what vocabularies average on English.
            'a'..='z' | 'A'..='Z' | ' ' => 1,
            // Digits come in groups of up to three, punctuation alone or in pairs.
            '0'..='9' => 2,
            c if c.is_ascii() => 2,
            // Other alphabets: about two letters a token.
            c if c.is_alphabetic() && cluster.len() <= 2 => 2,
            // Han, kana, hangul: about one. Emoji and rare signs: a token for every two bytes.
            c if c.is_alphabetic() => 4,
            _ => 2 * cluster.len(),
        };
    }

    fn tokens(&self) -> usize {
        self.quarters.div_ceil(4)
    }
}

#[cfg(test)]
mod f2_5_length {
    use super::*;

    const WIDE: Limit = Limit {
        graphemes: 1_000,
        tokens: 1_000,
    };

    #[test]
    fn clusters_stay_whole() {
        let family = "👨‍👩‍👧‍👦";
        let text = family.repeat(3);
        let limit = Limit {
            graphemes: 2,
            ..WIDE
        };
        assert_eq!(cut(&text, limit), family.repeat(2));
        let accents = "e\u{301}".repeat(5);
        assert_eq!(
            cut(
                &accents,
                Limit {
                    graphemes: 3,
                    ..WIDE
                }
            ),
            "e\u{301}".repeat(3)
        );
    }

    #[test]
    fn short_texts_come_back_whole() {
        assert_eq!(cut("", WIDE), "");
        assert_eq!(cut("two words", WIDE), "two words");
        let exact = "a".repeat(1_000);
        assert_eq!(cut(&exact, WIDE), exact);
    }

    #[test]
    fn tokens_limit_dense_scripts_earlier() {
        let limit = Limit {
            graphemes: 1_000,
            tokens: 10,
        };
        assert_eq!(cut(&"a".repeat(100), limit).len(), 40);
        assert_eq!(cut(&"漢".repeat(100), limit).chars().count(), 10);
    }

    proptest::proptest! {
        #[test]
        fn a_cut_is_a_beginning_within_the_limit(text in ".{0,200}", graphemes in 0_usize..50, limit in 0_usize..50) {
            let short = cut(&text, Limit { graphemes, tokens: limit });
            proptest::prop_assert!(text.starts_with(short));
            proptest::prop_assert!(short.graphemes(true).count() <= graphemes);
            proptest::prop_assert!(tokens(short) <= limit.max(usize::from(false)) || short.len() <= limit);
        }
    }
}

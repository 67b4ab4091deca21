/// Which words of successive hypotheses are stable: those on which the last two agree from the beginning on.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    previous: Vec<String>,
    stable: usize,
}

impl Agreement {
    /// Takes the next hypothesis; returns the stable text if there is more of it than before.
    ///
    /// Stable words are not taken back, even if later hypotheses differ: the final result corrects them. Letter case
    /// and punctuation do not matter for the comparison, and what follows the last stable word is left off, because
    /// the network ends every hypothesis like a sentence.
    pub(super) fn update(&mut self, hypothesis: &str) -> Option<String> {
        let words: Vec<&str> = hypothesis.split_whitespace().collect();
        let keys: Vec<String> = words.iter().map(|word| key(word)).collect();
        let agreed = keys
            .iter()
            .zip(&self.previous)
            .take_while(|(new, old)| new == old)
            .count();
        self.previous = keys;
        if agreed <= self.stable {
            return None;
        }
        self.stable = agreed;
        let text = words[..agreed].join(" ");
        Some(
            text.trim_end_matches(['.', ',', '!', '?', ';', ':', '…'])
                .to_owned(),
        )
    }
}

fn key(word: &str) -> String {
    word.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_hypotheses_share_is_stable_and_stays() {
        let mut agreement = Agreement::default();
        let script = [
            ("What is.", None),
            ("What is the whether?", Some("What is")),
            ("What is the weather in", Some("What is the")),
            ("What was", None),
            ("What is the weather in Paris?", None),
            (
                "what is the weather, in Paris tomorrow?",
                Some("what is the weather, in Paris"),
            ),
            ("", None),
        ];
        for (hypothesis, stable) in script {
            assert_eq!(
                agreement.update(hypothesis).as_deref(),
                stable,
                "{hypothesis}"
            );
        }
    }
}

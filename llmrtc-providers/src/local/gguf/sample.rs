//! The choice of the next token.

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are considered, `0 < top_p ≤ 1`.
    pub top_p: f32,
    /// Divides the score of tokens that were said lately, 1 for not at all. Small models loop without it.
    pub repetition_penalty: f32,
    /// The same seed gives the same answer to the same conversation.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 0,
    };
}

impl Default for Sampling {
    /// What SmolLM2's authors recommend, temperature 0.2 and top-p 0.9, with a penalty of 1.1 against loops.
    fn default() -> Self {
        Self {
            temperature: 0.2,
            top_p: 0.9,
            repetition_penalty: 1.1,
            seed: 0,
        }
    }
}

/// Tokens whose repetition is discouraged: a few spoken sentences.
const PENALISED: usize = 64;
/// What is looked at for top-p; in a distribution sharp enough to be of use, the rest is below rounding.
const CANDIDATES: usize = 64;

/// The choices of one answer.
#[derive(Debug)]
pub(super) struct Sampler {
    options: Sampling,
    random: u64,
}

impl Sampler {
    pub(super) fn new(options: Sampling) -> Self {
        Self {
            options,
            random: options.seed,
        }
    }

    /// Chooses from `logits` after the answer `said`.
    pub(super) fn choose(&mut self, logits: &mut [f32], said: &[u32]) -> u32 {
        let penalty = self.options.repetition_penalty;
        if penalty != 1.0 {
            let mut recent = said[said.len().saturating_sub(PENALISED)..].to_vec();
            recent.sort_unstable();
            recent.dedup();
            for token in recent {
                if let Some(logit) = logits.get_mut(token as usize) {
                    // Scores have either sign, and the penalty must lower both.
                    *logit = if *logit > 0.0 {
                        *logit / penalty
                    } else {
                        *logit * penalty
                    };
                }
            }
        }
        if self.options.temperature <= 0.0 {
            return likeliest(logits);
        }
        let mut ranked: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
        let by_score = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0);
        if ranked.len() > CANDIDATES {
            ranked.select_nth_unstable_by(CANDIDATES, by_score);
            ranked.truncate(CANDIDATES);
        }
        ranked.sort_unstable_by(by_score);
        let top = ranked.first().map_or(0.0, |(score, _)| *score);
        let mut total = 0.0;
        for (score, _) in &mut ranked {
            *score = ((*score - top) / self.options.temperature).exp();
            total += *score;
        }
        let mut kept = 0.0;
        let enough = total * self.options.top_p.clamp(0.0, 1.0);
        let count = ranked
            .iter()
            .position(|(weight, _)| {
                kept += weight;
                kept >= enough
            })
            .map_or(ranked.len(), |at| at + 1);
        let mut left = self.uniform() * kept;
        for (weight, token) in &ranked[..count] {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        ranked.first().map_or(0, |(_, token)| *token)
    }

    /// In `0..1`. Source: G. Steele et al., *Fast Splittable Pseudorandom Number Generators* (SplitMix64).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 40) as f32 / (1u64 << 24) as f32
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (logit, token) in logits.iter().zip(0..) {
        if *logit > best.0 {
            best = (*logit, token);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(options: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(options);
        (0..200)
            .map(|_| sampler.choose(&mut logits.to_vec(), &[]))
            .collect()
    }

    #[test]
    fn greed_takes_the_likeliest() {
        assert!(
            choices(Sampling::GREEDY, &[0.1, 2.0, -1.0])
                .iter()
                .all(|t| *t == 1)
        );
    }

    #[test]
    fn a_seed_decides_and_top_p_cuts_the_tail() {
        let options = Sampling {
            temperature: 1.0,
            top_p: 0.9,
            ..Sampling::GREEDY
        };
        let logits = [1.0, 1.0, -9.0, 0.9];
        let first = choices(options, &logits);
        assert_eq!(first, choices(options, &logits));
        assert_ne!(first, choices(Sampling { seed: 7, ..options }, &logits));
        for token in [0, 1, 3] {
            assert!(first.contains(&token), "{token}");
        }
        assert!(!first.contains(&2));
    }

    #[test]
    fn a_repeated_token_loses() {
        let mut sampler = Sampler::new(Sampling {
            repetition_penalty: 1.3,
            ..Sampling::GREEDY
        });
        assert_eq!(sampler.choose(&mut [1.0, 1.2], &[1, 1]), 0);
        assert_eq!(sampler.choose(&mut [-1.0, -0.9], &[1]), 0);
        assert_eq!(sampler.choose(&mut [1.0, 1.2], &[]), 1);
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let odd = [f32::NAN, f32::INFINITY, 0.0];
        let _ = choices(Sampling::default(), &odd);
        let _ = choices(Sampling::GREEDY, &odd);
        assert_eq!(choices(Sampling::default(), &[])[0], 0);
    }
}

//! Overlapping spans become spans that do not overlap.
//!
//! The rule is one about characters, so that it keeps the detectors' locality: a character belongs to the span of the highest score
//! that covers it; among equals to the one that starts first.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::detector::Span;

/// A span waiting in the sweep, best first.
struct Active(usize, f32, usize);

impl PartialEq for Active {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Active {}
impl PartialOrd for Active {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Active {
    fn cmp(&self, other: &Self) -> Ordering {
        self.1
            .total_cmp(&other.1)
            .then(other.2.cmp(&self.2))
            .then(other.0.cmp(&self.0))
    }
}

/// Resolves `spans` in place: sorted, without overlaps, without white space at their edges. `n log n` in their number.
pub(super) fn resolve(text: &str, spans: &mut Vec<Span>) {
    spans.retain(|span| span.start < span.end);
    spans.sort_by(|a, b| {
        a.start
            .cmp(&b.start)
            .then_with(|| a.kind.cmp(&b.kind))
            .then(a.end.cmp(&b.end))
    });
    if spans.windows(2).any(|pair| pair[1].start < pair[0].end) {
        *spans = sweep(spans);
    }
    for span in &mut *spans {
        let value = &text[span.start..span.end];
        span.start += value.len() - value.trim_start().len();
        span.end -= value.len() - value.trim_end().len();
    }
    spans.retain(|span| span.start < span.end);
}

fn sweep(spans: &[Span]) -> Vec<Span> {
    let mut bounds: Vec<usize> = spans
        .iter()
        .flat_map(|span| [span.start, span.end])
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut pieces: Vec<(usize, Span)> = Vec::with_capacity(spans.len());
    let (mut active, mut next) = (BinaryHeap::new(), 0);
    for pair in bounds.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        while next < spans.len() && spans[next].start <= from {
            active.push(Active(next, spans[next].score, spans[next].start));
            next += 1;
        }
        while active
            .peek()
            .is_some_and(|top: &Active| spans[top.0].end <= from)
        {
            active.pop();
        }
        let Some(Active(index, ..)) = active.peek() else {
            continue;
        };
        match pieces.last_mut() {
            Some((last, piece)) if last == index && piece.end == from => piece.end = to,
            _ => pieces.push((
                *index,
                Span {
                    start: from,
                    end: to,
                    ..spans[*index].clone()
                },
            )),
        }
    }
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::kind::Kind;

    #[test]
    fn the_higher_score_has_the_character() {
        let text = "0123456789 ";
        let check = |spans: &[(usize, usize, f32)], expected: &[(usize, usize)]| {
            let mut spans: Vec<Span> = spans
                .iter()
                .map(|&(start, end, score)| Span {
                    start,
                    end,
                    kind: Kind::Phone,
                    score,
                })
                .collect();
            resolve(text, &mut spans);
            let seen: Vec<_> = spans.iter().map(|span| (span.start, span.end)).collect();
            assert_eq!(seen, expected);
        };
        check(&[(0, 4, 0.5), (4, 8, 0.5)], &[(0, 4), (4, 8)]);
        check(&[(0, 6, 0.5), (4, 8, 0.9)], &[(0, 4), (4, 8)]);
        check(&[(0, 6, 0.9), (4, 8, 0.5)], &[(0, 6), (6, 8)]);
        check(&[(0, 9, 0.5), (3, 5, 0.9)], &[(0, 3), (3, 5), (5, 9)]);
        check(&[(0, 9, 0.5), (0, 9, 0.5), (2, 3, 0.5)], &[(0, 9)]);
        check(&[(8, 11, 0.5), (10, 11, 0.9)], &[(8, 10)]);
    }
}

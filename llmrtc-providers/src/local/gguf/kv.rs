//! What a model remembers of the tokens it has seen: their keys and values, and which conversations they came from.

use std::{collections::VecDeque, sync::Arc};

/// Tokens of a page.
pub(super) const PAGE: usize = 16;

/// Sizes of one model's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) layers: usize,
    /// Values per token and layer, of keys and of values each.
    pub(super) width: usize,
}

impl Shape {
    fn layer(self) -> usize {
        2 * PAGE * self.width
    }

    fn page(self) -> usize {
        self.layers * self.layer()
    }

    /// Memory of one page.
    pub(super) fn page_bytes(self) -> usize {
        self.page() * size_of::<u16>()
    }
}

/// Keys and values of a run of tokens, in half precision.
///
/// Pages are shared between clones until one of them writes, so keeping a conversation and continuing it costs the
/// copy of one page, and conversations that begin alike hold what they share once.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    shape: Shape,
    tokens: Vec<u32>,
    pages: Vec<Arc<[u16]>>,
}

impl Memory {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            tokens: Vec::new(),
            pages: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets everything behind the first `length` tokens.
    pub(super) fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.pages.truncate(length.div_ceil(PAGE));
    }

    /// Takes tokens in, whose keys and values must then be written with [`write`](Self::write).
    pub(super) fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        let page: usize = self.shape.page();
        let wanted = self.tokens.len().div_ceil(PAGE);
        self.pages
            .resize_with(wanted, || std::iter::repeat_n(0, page).collect());
    }

    /// Stores key and value of one token in one layer.
    pub(super) fn write(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let width = self.shape.width;
        let page = Arc::make_mut(&mut self.pages[position / PAGE]);
        let start = layer * self.shape.layer() + position % PAGE * width;
        for (start, source) in [(start, key), (start + PAGE * width, value)] {
            for (slot, value) in page[start..][..width].iter_mut().zip(source) {
                *slot = super::weights::narrow(*value);
            }
        }
    }

    /// Keys and values of a layer, a page at a time; the last page has stale tokens behind its end.
    pub(super) fn pages(&self, layer: usize) -> impl Iterator<Item = (&[u16], &[u16])> {
        let size = self.shape.layer();
        self.pages
            .iter()
            .map(move |page| page[layer * size..][..size].split_at(size / 2))
    }

    fn common(&self, tokens: &[u32]) -> usize {
        let pairs = self.tokens.iter().zip(tokens);
        pairs.take_while(|(a, b)| a == b).count()
    }
}

/// The last conversations, so that their next turn begins where they stopped.
#[derive(Debug)]
pub(super) struct Recall {
    limit_bytes: usize,
    /// Beginnings that many conversations share; they stay.
    pinned: Vec<Memory>,
    /// Least recently used first.
    kept: VecDeque<Memory>,
}

impl Recall {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            pinned: Vec::new(),
            kept: VecDeque::new(),
        }
    }

    /// Keeps a beginning for good, outside the limit.
    pub(super) fn pin(&mut self, memory: Memory) {
        self.pinned.push(memory);
    }

    pub(super) fn has_pinned(&self) -> bool {
        !self.pinned.is_empty()
    }

    /// The memory with the longest common beginning with `tokens`, cut to it; at least one token is left over.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<Memory> {
        let most = tokens.len().saturating_sub(1);
        // The last of equals wins, and pinned ones come first: a conversation that goes on counts as used.
        let (at, common) = self
            .pinned
            .iter()
            .chain(&self.kept)
            .map(|memory| memory.common(tokens).min(most))
            .enumerate()
            .max_by_key(|(_, common)| *common)?;
        if common == 0 {
            return None;
        }
        let mut found = match at.checked_sub(self.pinned.len()) {
            None => self.pinned[at].clone(),
            Some(at) => {
                let used = self.kept.remove(at)?;
                self.kept.push_back(used.clone());
                used
            }
        };
        found.truncate(common);
        Some(found)
    }

    /// Keeps a conversation. It replaces those it continues, and the longest unused make room.
    pub(super) fn keep(&mut self, memory: Memory) {
        if memory.len() == 0 {
            return;
        }
        self.kept
            .retain(|old| old.common(memory.tokens()) < old.len());
        self.kept.push_back(memory);
        while self.bytes() > self.limit_bytes && self.kept.pop_front().is_some() {}
    }

    /// Memory in use; pages that several conversations share count once.
    fn bytes(&self) -> usize {
        let mut pages: Vec<_> = self
            .kept
            .iter()
            .flat_map(|memory| memory.pages.iter().map(|page| page.as_ptr()))
            .collect();
        pages.sort_unstable();
        pages.dedup();
        let page = self.kept.front().map_or(0, |m| m.shape.page_bytes());
        pages.len() * page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        layers: 2,
        width: 4,
    };

    fn memory(tokens: &[u32]) -> Memory {
        let mut memory = Memory::new(SHAPE);
        memory.extend(tokens);
        for (position, token) in tokens.iter().enumerate() {
            for layer in 0..SHAPE.layers {
                memory.write(layer, position, &[*token as f32; 4], &[0.5; 4]);
            }
        }
        memory
    }

    fn key(memory: &Memory, position: usize) -> f32 {
        let (keys, _) = memory.pages(1).nth(position / PAGE).unwrap();
        super::super::weights::widen(keys[position % PAGE * SHAPE.width])
    }

    #[test]
    fn the_longest_common_beginning_is_found_and_one_token_left_over() {
        let mut recall = Recall::new(1 << 20);
        recall.keep(memory(&[1, 2, 3, 4]));
        recall.keep(memory(&[1, 2, 9]));
        assert_eq!(recall.find(&[1, 2, 3, 7, 8]).unwrap().tokens(), [1, 2, 3]);
        assert_eq!(recall.find(&[1, 2, 9]).unwrap().tokens(), [1, 2]);
        assert!(recall.find(&[5]).is_none());
        assert!(recall.find(&[]).is_none());
    }

    #[test]
    fn writing_to_a_copy_leaves_the_original_alone() {
        let mut recall = Recall::new(1 << 20);
        let long: Vec<u32> = (0..40).collect();
        recall.keep(memory(&long));
        let mut branch = recall.find(&long[..36]).unwrap();
        assert_eq!(branch.len(), 35);
        branch.extend(&[99]);
        branch.write(1, 35, &[99.0; 4], &[0.0; 4]);
        assert_eq!(key(&branch, 35), 99.0);
        let original = recall.find(&long).unwrap();
        assert_eq!((key(&original, 35), original.len()), (35.0, 39));
        recall.keep(branch);
        // Three pages of the first and one of its own.
        assert_eq!(recall.bytes(), 4 * SHAPE.page_bytes());
    }

    #[test]
    fn the_longest_unused_conversation_makes_room() {
        let mut recall = Recall::new(2 * SHAPE.page_bytes());
        recall.keep(memory(&[1, 1]));
        recall.keep(memory(&[2, 2]));
        assert!(recall.find(&[1, 1, 1]).is_some());
        recall.keep(memory(&[3, 3]));
        assert!(recall.find(&[2, 2, 2]).is_none());
        assert_eq!(recall.find(&[1, 1, 1]).unwrap().len(), 2);
        recall.keep(memory(&[1, 1, 4]));
        assert_eq!(
            recall.kept.len(),
            2,
            "a continuation replaces its beginning"
        );
    }
}

//! How a conversation is laid out for the model.

use llmrtc_core::message::Message;

use super::{GgufError, file::Contents, vocab::Vocabulary};

/// The formats that are known. Their control tokens are placed by us and never come from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// `<|im_start|>role\ntext<|im_end|>\n`
    ChatMl { start: u32, end: u32 },
    /// `<|start_header_id|>role<|end_header_id|>\n\ntext<|eot_id|>`
    Llama3 {
        begin: u32,
        head: u32,
        head_end: u32,
        end: u32,
    },
}

impl Template {
    /// Recognises the format by what the model's own template mentions, else by the vocabulary.
    pub(super) fn detect(contents: &Contents, vocabulary: &Vocabulary) -> Result<Self, GgufError> {
        let source = contents.text("tokenizer.chat_template");
        let mentions = |name: &str| source.is_none_or(|source| source.contains(name));
        let token = |name: &str| vocabulary.control(name).filter(|_| mentions(name));
        if let (Some(start), Some(end)) = (token("<|im_start|>"), token("<|im_end|>")) {
            return Ok(Self::ChatMl { start, end });
        }
        if let (Some(head), Some(head_end), Some(end), Some(begin)) = (
            token("<|start_header_id|>"),
            token("<|end_header_id|>"),
            token("<|eot_id|>"),
            vocabulary.control("<|begin_of_text|>"),
        ) {
            return Ok(Self::Llama3 {
                begin,
                head,
                head_end,
                end,
            });
        }
        Err(GgufError::Template)
    }

    /// A conversation in tokens, up to where the model answers. Without instructions of its own it gets `persona`.
    ///
    /// There is one system message in front; later ones and the results of tools are read as if the person had said
    /// them, which models of this size follow best. Calls of tools leave no trace. Images become what is written in
    /// their place.
    pub(super) fn lay_out(
        self,
        vocabulary: &Vocabulary,
        messages: &[Message],
        persona: &str,
    ) -> Layout {
        let mut head = Vec::new();
        let system = match messages.first() {
            Some(Message::System { text }) if !text.trim().is_empty() => text,
            _ => persona,
        };
        if let Self::Llama3 { begin, .. } = self {
            head.push(begin);
        }
        self.message(vocabulary, "system", system, &mut head);
        let mut layout = Layout {
            head,
            turns: Vec::new(),
            starts: Vec::new(),
            tail: Vec::new(),
        };
        for (role, text) in turns(messages) {
            if role == "user" {
                layout.starts.push(layout.turns.len());
            }
            self.message(vocabulary, role, &text, &mut layout.turns);
        }
        self.open(vocabulary, "assistant", &mut layout.tail);
        layout
    }

    fn message(self, vocabulary: &Vocabulary, role: &str, text: &str, out: &mut Vec<u32>) {
        self.open(vocabulary, role, out);
        vocabulary.encode(text.trim(), out);
        match self {
            Self::ChatMl { end, .. } => {
                out.push(end);
                vocabulary.encode("\n", out);
            }
            Self::Llama3 { end, .. } => out.push(end),
        }
    }

    fn open(self, vocabulary: &Vocabulary, role: &str, out: &mut Vec<u32>) {
        match self {
            Self::ChatMl { start, .. } => {
                out.push(start);
                vocabulary.encode(role, out);
                vocabulary.encode("\n", out);
            }
            Self::Llama3 { head, head_end, .. } => {
                out.push(head);
                vocabulary.encode(role, out);
                out.push(head_end);
                vocabulary.encode("\n\n", out);
            }
        }
    }
}

/// A conversation in tokens that knows where it may be shortened.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// The instructions; they stay.
    head: Vec<u32>,
    /// What was said.
    turns: Vec<u32>,
    /// Where the person's messages begin in `turns`: what is left must begin with one.
    starts: Vec<usize>,
    /// The beginning of the answer; it stays.
    tail: Vec<u32>,
}

impl Layout {
    /// The tokens, without as many of the oldest messages as needed for `limit`; the last thing the person said
    /// stays, even if it does not fit.
    ///
    /// When something must go, half a context goes at once. A conversation that grows by a turn thus keeps its
    /// beginning for many turns, and the model need not read it anew for every answer.
    pub(super) fn within(self, limit: usize) -> Vec<u32> {
        let fixed = self.head.len() + self.tail.len();
        let last = self.starts.last().copied().unwrap_or(0);
        let step = (limit / 2).max(1);
        let mut cut = 0;
        for goal in (step..).step_by(step) {
            if cut == last || fixed + self.turns.len() - cut <= limit {
                break;
            }
            let start = self.starts.iter().find(|start| **start >= goal);
            cut = start.copied().unwrap_or(last);
        }
        [&self.head, &self.turns[cut..], &self.tail].concat()
    }
}

/// What was said, adjacent messages of one role joined: templates of small models insist on alternation.
fn turns(messages: &[Message]) -> Vec<(&'static str, String)> {
    let mut turns: Vec<(&'static str, String)> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let (role, text) = match message {
            Message::System { .. } if at == 0 => continue,
            Message::System { text } => ("user", text.trim().to_owned()),
            Message::User { text, attachments } => {
                let mut said = text.trim().to_owned();
                for attachment in attachments.iter() {
                    let alt = attachment.alt.as_deref().unwrap_or("image omitted");
                    said.push_str(&format!(" [{alt}]"));
                }
                ("user", said.trim().to_owned())
            }
            Message::Assistant { text, .. } => ("assistant", text.trim().to_owned()),
            Message::Tool { name, content, .. } => ("user", format!("{name}: {content}")),
            // What this version does not know, it cannot say.
            _ => continue,
        };
        if text.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, said)) if *last == role => {
                said.push('\n');
                said.push_str(&text);
            }
            _ => turns.push((role, text)),
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A conversation of turns of five tokens each, numbered by turn, the person's first.
    fn layout(turns: u32) -> Layout {
        Layout {
            head: vec![100, 100],
            turns: (0..turns).flat_map(|turn| [turn; 5]).collect(),
            starts: (0..turns as usize)
                .step_by(2)
                .map(|turn| turn * 5)
                .collect(),
            tail: vec![200],
        }
    }

    #[test]
    fn the_oldest_messages_make_room() {
        assert_eq!(layout(3).within(18).len(), 18);
        let kept = |turns| layout(turns).within(43)[2];
        // The same beginning serves several turns before the next cut.
        assert_eq!([1, 3, 5, 7].map(kept), [0; 4]);
        assert_eq!([9, 11, 13].map(kept), [6; 3]);
        assert_eq!([15, 17].map(kept), [10; 2]);
    }

    #[test]
    fn what_was_said_last_stays() {
        assert_eq!(layout(9).within(3), [100, 100, 8, 8, 8, 8, 8, 200]);
        assert_eq!(layout(0).within(1), [100, 100, 200]);
    }

    proptest! {
        #[test]
        fn a_shortened_conversation_begins_with_the_person(turns in 1u32..60, limit in 0usize..400) {
            let tokens = layout(turns).within(limit);
            prop_assert!(tokens.len() <= limit.max(13));
            prop_assert_eq!(tokens[2] % 2, 0);
            prop_assert_eq!(tokens[tokens.len() - 2], turns - 1);
        }
    }

    #[test]
    fn a_conversation_is_made_to_alternate() {
        let messages = [
            Message::system("s"),
            Message::user(" a "),
            Message::system("note"),
            Message::assistant(""),
            Message::assistant("b"),
            Message::user("c"),
            Message::Tool {
                call_id: "1".into(),
                name: "clock".into(),
                content: "noon".into(),
                is_error: false,
            },
        ];
        let expected = [
            ("user", "a\nnote"),
            ("assistant", "b"),
            ("user", "c\nclock: noon"),
        ];
        assert_eq!(turns(&messages), expected.map(|(r, t)| (r, t.to_owned())));
    }
}

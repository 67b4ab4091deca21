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

    /// The tokens of a conversation up to where the model answers. Without instructions of its own it gets
    /// `persona`.
    ///
    /// There is one system message in front; later ones and the results of tools are read as if the person had said
    /// them, which models of this size follow best. Calls of tools leave no trace. Images become what is written in
    /// their place.
    pub(super) fn prompt(
        self,
        vocabulary: &Vocabulary,
        messages: &[Message],
        persona: &str,
    ) -> Vec<u32> {
        let mut out = Vec::new();
        let system = match messages.first() {
            Some(Message::System { text }) if !text.trim().is_empty() => text,
            _ => persona,
        };
        if let Self::Llama3 { begin, .. } = self {
            out.push(begin);
        }
        self.message(vocabulary, "system", system, &mut out);
        for (role, text) in turns(messages) {
            self.message(vocabulary, role, &text, &mut out);
        }
        self.open(vocabulary, "assistant", &mut out);
        out
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
    use super::*;

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

//! Repairs a conversation before it is mapped: vendors answer 400 to what windows and barge-ins leave behind.

use std::collections::HashSet;

use llmrtc_core::{
    id::CallId,
    message::{Attachment, ImageSource, Message, ToolCall},
};

/// What a call is answered with when the turn was cancelled before its result came.
pub(super) const CANCELLED: &str = r#"{"error":"cancelled"}"#;

/// A message that is safe to send.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    System(String),
    User {
        text: String,
        images: Vec<ImageSource>,
    },
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
    },
    Tool {
        call_id: CallId,
        content: String,
    },
}

/// Applies the history rules:
/// tool results without their call are dropped; calls without a result get [`CANCELLED`], or are dropped when
/// nothing follows them; empty messages are dropped; only the newest `image_turns` user messages with images keep
/// them.
pub(super) fn repair(messages: &[Message], image_turns: usize) -> Vec<Entry> {
    let first_with_images = messages
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, message)| matches!(message, Message::User { attachments, .. } if !attachments.is_empty()))
        .map(|(at, _)| at)
        .take(image_turns)
        .last()
        .unwrap_or(messages.len());
    let mut entries = Vec::with_capacity(messages.len());
    let mut at = 0;
    while let Some(message) = messages.get(at) {
        let keep_images = at >= first_with_images;
        at += 1;
        match message {
            Message::System { text } if !text.trim().is_empty() => {
                entries.push(Entry::System(text.to_string()));
            }
            Message::User { text, attachments } => {
                entries.extend(user(text, attachments, keep_images));
            }
            Message::Assistant {
                text, tool_calls, ..
            } => {
                let results = messages[at..]
                    .iter()
                    .take_while(|next| matches!(next, Message::Tool { .. }))
                    .count();
                let trailing = at + results == messages.len() && results == 0;
                assistant(
                    &mut entries,
                    text,
                    tool_calls,
                    &messages[at..at + results],
                    trailing,
                );
                at += results;
            }
            // A result reached here outside the run behind its call: an orphan. Blank instructions say nothing, and
            // what this version does not know, it cannot send.
            _ => {}
        }
    }
    entries
}

fn user(text: &str, attachments: &[Attachment], keep_images: bool) -> Option<Entry> {
    let mut text = text.trim().to_owned();
    let mut images = Vec::new();
    for attachment in attachments {
        match &attachment.source {
            source @ (ImageSource::Inline { .. } | ImageSource::Url(_)) if keep_images => {
                images.push(source.clone());
            }
            _ => {
                if !text.is_empty() {
                    text.push(' ');
                }
                match &attachment.alt {
                    Some(alt) => text.push_str(&format!("[image: {alt}]")),
                    None => text.push_str("[image omitted]"),
                }
            }
        }
    }
    (!text.is_empty() || !images.is_empty()).then_some(Entry::User { text, images })
}

fn assistant(
    entries: &mut Vec<Entry>,
    text: &str,
    calls: &[ToolCall],
    results: &[Message],
    trailing: bool,
) {
    let calls = if trailing { &[] } else { calls };
    if text.trim().is_empty() && calls.is_empty() {
        return;
    }
    entries.push(Entry::Assistant {
        text: text.to_owned(),
        calls: calls.to_vec(),
    });
    let mut answered = HashSet::new();
    for call in calls {
        if !answered.insert(&call.call_id) {
            continue;
        }
        let content = results.iter().find_map(|result| match result {
            Message::Tool {
                call_id, content, ..
            } if *call_id == call.call_id => Some(content.to_string()),
            _ => None,
        });
        entries.push(Entry::Tool {
            call_id: call.call_id.clone(),
            content: content.unwrap_or_else(|| CANCELLED.to_owned()),
        });
    }
}

/// Turns system messages behind the first position into user messages, for templates that allow one in front.
pub(super) fn system_in_front(entries: &mut [Entry]) {
    for entry in entries.iter_mut().skip(1) {
        if let Entry::System(text) = entry {
            *entry = Entry::User {
                text: std::mem::take(text),
                images: Vec::new(),
            };
        }
    }
}

/// Joins adjacent messages of one role, for templates that insist on alternation.
pub(super) fn merge_roles(entries: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match (merged.last_mut(), entry) {
            (
                Some(Entry::User { text, images }),
                Entry::User {
                    text: more,
                    images: more_images,
                },
            ) => {
                join(text, &more);
                images.extend(more_images);
            }
            (
                Some(Entry::Assistant { text, calls }),
                Entry::Assistant {
                    text: more,
                    calls: more_calls,
                },
            ) if calls.is_empty() => {
                join(text, &more);
                *calls = more_calls;
            }
            (_, entry) => merged.push(entry),
        }
    }
    merged
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push('\n');
    }
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn call(id: &str) -> ToolCall {
        ToolCall {
            call_id: id.into(),
            name: "clock".into(),
            arguments: serde_json::Map::new(),
            parse_error: None,
        }
    }

    fn calling(text: &str, ids: &[&str]) -> Message {
        Message::Assistant {
            text: text.into(),
            tool_calls: ids.iter().map(|id| call(id)).collect(),
            interrupted: false,
        }
    }

    fn result(id: &str) -> Message {
        Message::Tool {
            call_id: id.into(),
            name: "clock".into(),
            content: format!("result of {id}").into(),
            is_error: false,
        }
    }

    fn picture(text: &str, alt: Option<&str>) -> Message {
        Message::User {
            text: text.into(),
            attachments: Arc::from([Attachment {
                source: ImageSource::Url("https://host/x.png".into()),
                alt: alt.map(Into::into),
            }]),
        }
    }

    /// One line per entry, so that a case reads as a conversation.
    fn check(messages: &[Message], expected: &[&str]) {
        let lines: Vec<String> = repair(messages, 1).iter().map(line).collect();
        assert_eq!(lines, expected);
    }

    fn line(entry: &Entry) -> String {
        match entry {
            Entry::System(text) => format!("system {text}"),
            Entry::User { text, images } => format!("user {text} +{}", images.len()),
            Entry::Assistant { text, calls } => {
                let ids: Vec<&str> = calls.iter().map(|call| call.call_id.as_str()).collect();
                format!("assistant {text} {ids:?}")
            }
            Entry::Tool { call_id, content } => format!("tool {call_id} {content}"),
        }
    }

    #[test]
    fn a_result_without_its_call_is_dropped() {
        check(
            &[result("lost"), Message::user("hi"), result("lost")],
            &["user hi +0"],
        );
    }

    #[test]
    fn a_call_without_a_result_is_answered_as_cancelled() {
        check(
            &[
                calling("", &["a", "b"]),
                result("b"),
                Message::user("go on"),
            ],
            &[
                r#"assistant  ["a", "b"]"#,
                r#"tool a {"error":"cancelled"}"#,
                "tool b result of b",
                "user go on +0",
            ],
        );
        check(
            &[calling("", &["a"]), Message::user("stop")],
            &[
                r#"assistant  ["a"]"#,
                r#"tool a {"error":"cancelled"}"#,
                "user stop +0",
            ],
        );
    }

    #[test]
    fn a_call_at_the_very_end_is_dropped() {
        check(
            &[Message::user("hi"), calling("One moment.", &["a"])],
            &["user hi +0", "assistant One moment. []"],
        );
        check(&[Message::user("hi"), calling("", &["a"])], &["user hi +0"]);
    }

    #[test]
    fn results_follow_in_the_order_of_the_calls_and_only_once() {
        check(
            &[
                calling("", &["a", "b"]),
                result("b"),
                result("a"),
                result("a"),
                result("x"),
            ],
            &[
                r#"assistant  ["a", "b"]"#,
                "tool a result of a",
                "tool b result of b",
            ],
        );
    }

    #[test]
    fn empty_messages_are_dropped() {
        check(
            &[
                Message::system(" "),
                Message::user(""),
                Message::assistant(" "),
                Message::user("x"),
            ],
            &["user x +0"],
        );
    }

    #[test]
    fn only_the_newest_images_are_sent() {
        check(
            &[
                picture("old", Some("a cat")),
                picture("older", None),
                picture("", None),
                Message::user("and now?"),
            ],
            &[
                "user old [image: a cat] +0",
                "user older [image omitted] +0",
                "user  +1",
                "user and now? +0",
            ],
        );
    }

    #[test]
    fn adjacent_messages_of_one_role_are_joined() {
        let entries = repair(
            &[
                Message::system("s"),
                Message::user("a"),
                Message::user("b"),
                Message::assistant("c"),
                calling("d", &["x"]),
                result("x"),
                Message::assistant("e"),
            ],
            1,
        );
        let lines: Vec<String> = merge_roles(entries).iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "system s",
                "user a\nb +0",
                "assistant c\nd [\"x\"]",
                "tool x result of x",
                "assistant e []"
            ]
        );
    }
}

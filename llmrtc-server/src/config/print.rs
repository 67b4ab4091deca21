//! Effective values for people: the reference configuration with the layers on top, secrets covered.

use toml::{Table, Value};

use super::{REFERENCE, Source, tree::Node};

/// What a secret shows as.
const COVER: &str = "[secret]";

pub(super) fn to_toml(layers: &Node) -> String {
    let reference: Table = REFERENCE.parse().expect("a test parses the same constant");
    let mut tree = Node::from_toml(Value::Table(reference), &Source::Default);
    tree.merge(layers.clone());
    let mut value = tree.to_toml();
    cover(&mut value);
    // Only tables come out of tables, so this is a document.
    toml::to_string(&value).expect("a tree of TOML values is TOML")
}

fn cover(value: &mut Value) {
    match value {
        Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                match value {
                    // Names of what redaction looks for, not such things themselves.
                    Value::Table(_) if key == "kinds" => {}
                    Value::Table(_) | Value::Array(_) => cover(value),
                    Value::String(_) if is_secret(key) => *value = COVER.into(),
                    Value::String(text) => cover_url(text),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(cover),
        Value::String(text) => cover_url(text),
        _ => {}
    }
}

/// Rather one word too many: a model name under `token_model` would be covered, a key never shows.
fn is_secret(key: &str) -> bool {
    let marks = [
        "api_key",
        "secret",
        "token",
        "password",
        "credential",
        "bearer",
        "access_key",
    ];
    let harmless = key.ends_with("_file")
        || ["history_tokens", "max_tokens", "require_resume_token"].contains(&key);
    !harmless && (["key", "keyring"].contains(&key) || marks.iter().any(|mark| key.contains(mark)))
}

/// User and password inside a URL.
fn cover_url(text: &mut String) {
    if text.contains('@')
        && let Ok(mut url) = url::Url::parse(text)
        && (url.password().is_some() || !url.username().is_empty())
        && url.set_username("").is_ok()
        && url.set_password(Some("secret")).is_ok()
    {
        *text = url.into();
    }
}

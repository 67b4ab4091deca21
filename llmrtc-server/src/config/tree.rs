//! What the layers say, before it has types: a tree whose leaves know where they come from.
//!
//! A file has typed values, the environment and the command line have text. A leaf of text becomes what the field it
//! lands in asks for (`deserialize_bool` reads `true`, `deserialize_seq` reads a JSON array or a comma-separated
//! list), so no layer has to guess types. Errors carry the path of the leaf that caused them.

use std::{cell::OnceCell, collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::{MapAccessDeserializer, StringDeserializer},
};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nowhere: the built-in default.
    Default,
    /// The configuration file.
    File(Arc<PathBuf>),
    /// The `.env` file of the working directory.
    DotEnv(String),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::DotEnv(name) => write!(f, "{name} in .env"),
            Self::Environment(name) => write!(f, "{name} in the environment"),
            Self::Flag(name) => write!(f, "{name} on the command line"),
        }
    }
}

/// A value or a table of values. Without `Debug`: it holds secrets before their fields claim them.
#[derive(Clone)]
pub(super) enum Node {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>, Source),
    Scalar(toml::Value, Source),
    Text {
        text: String,
        source: Source,
        /// What the field that it landed in made of it, for `config print`.
        typed: OnceCell<Box<Node>>,
    },
}

impl Node {
    pub(super) fn table() -> Self {
        Self::Table(BTreeMap::new())
    }

    pub(super) fn text(text: impl Into<String>, source: Source) -> Self {
        Self::Text {
            text: text.into(),
            source,
            typed: OnceCell::new(),
        }
    }

    pub(super) fn from_toml(value: toml::Value, source: &Source) -> Self {
        match value {
            toml::Value::Table(table) => Self::Table(
                table
                    .into_iter()
                    .map(|(key, value)| (key, Self::from_toml(value, source)))
                    .collect(),
            ),
            toml::Value::Array(items) => Self::Array(
                items
                    .into_iter()
                    .map(|item| Self::from_toml(item, source))
                    .collect(),
                source.clone(),
            ),
            scalar => Self::Scalar(scalar, source.clone()),
        }
    }

    pub(super) fn to_toml(&self) -> toml::Value {
        match self {
            Self::Table(table) => toml::Value::Table(
                table
                    .iter()
                    .map(|(key, node)| (key.clone(), node.to_toml()))
                    .collect(),
            ),
            Self::Array(items, _) => items.iter().map(Node::to_toml).collect::<Vec<_>>().into(),
            Self::Scalar(value, _) => value.clone(),
            Self::Text { text, typed, .. } => typed
                .get()
                .map_or_else(|| text.clone().into(), |node| node.to_toml()),
        }
    }

    /// Lays a stronger layer over this one. Tables merge, everything else replaces.
    pub(super) fn merge(&mut self, stronger: Node) {
        match (self, stronger) {
            (Self::Table(table), Self::Table(other)) => {
                for (key, node) in other {
                    match table.get_mut(&key) {
                        Some(weaker) => weaker.merge(node),
                        None => {
                            table.insert(key, node);
                        }
                    }
                }
            }
            (weaker, stronger) => *weaker = stronger,
        }
    }

    /// Sets one value, making tables on the way.
    pub(super) fn set<'a>(&mut self, path: impl IntoIterator<Item = &'a str>, node: Node) {
        let mut keys: Vec<&str> = path.into_iter().collect();
        keys.reverse();
        let nested = keys.into_iter().fold(node, |node, key| {
            Node::Table([(key.to_owned(), node)].into())
        });
        self.merge(nested);
    }

    fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Self::Table(table) => table.get(key),
            Self::Array(items, _) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Where the value at `path` was set: the deepest leaf on the way. A table has no single source.
    pub(super) fn source(&self, path: &[String]) -> Source {
        let mut node = self;
        for key in path {
            match node.get(key) {
                Some(child) => node = child,
                None => break,
            }
        }
        match node {
            Self::Table(_) => Source::Default,
            Self::Array(_, source) | Self::Scalar(_, source) | Self::Text { source, .. } => {
                source.clone()
            }
        }
    }

    /// Takes out what is at `path`, or the array that it is in. Returns whether anything was there.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        let Self::Table(table) = self else {
            return false;
        };
        match path {
            [] => false,
            [key] => table.remove(key).is_some(),
            [key, rest @ ..] => match table.get_mut(key) {
                Some(child @ Self::Table(_)) => child.remove(rest),
                Some(_) => table.remove(key).is_some(),
                None => false,
            },
        }
    }
}

/// A value that does not fit, and where it is.
#[derive(Debug)]
pub(super) struct Misfit {
    /// From the leaf to the root while the error travels.
    reversed: Vec<String>,
    pub(super) message: String,
}

impl Misfit {
    fn new(message: impl Into<String>) -> Self {
        Self {
            reversed: Vec::new(),
            message: message.into(),
        }
    }

    fn below(mut self, key: impl Into<String>) -> Self {
        self.reversed.push(key.into());
        self
    }

    pub(super) fn path(&self) -> Vec<String> {
        self.reversed.iter().rev().cloned().collect()
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

/// Nodes as JSON writes them, for lists and tables in the environment. Nulls count as absent.
fn from_json(value: serde_json::Value, source: &Source) -> Option<Node> {
    use serde_json::Value;
    let scalar = |value| Some(Node::Scalar(value, source.clone()));
    match value {
        Value::Null => None,
        Value::Bool(value) => scalar(value.into()),
        Value::Number(number) => match number.as_i64() {
            Some(value) => scalar(value.into()),
            None => scalar(number.as_f64()?.into()),
        },
        Value::String(text) => scalar(text.into()),
        Value::Array(items) => Some(Node::Array(
            items
                .into_iter()
                .filter_map(|item| from_json(item, source))
                .collect(),
            source.clone(),
        )),
        Value::Object(object) => Some(Node::Table(
            object
                .into_iter()
                .filter_map(|(key, value)| Some((key, from_json(value, source)?)))
                .collect(),
        )),
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty => $visit:ident, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let Node::Text { text, source, typed } = self else {
                return self.deserialize_any(visitor);
            };
            let value: $type = text.trim().parse().map_err(|_| Misfit::new(concat!("expected ", $expected)))?;
            if let Ok(value) = toml::Value::try_from(value) {
                typed.get_or_init(|| Box::new(Node::Scalar(value, source.clone())));
            }
            visitor.$visit(value)
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self {
            Node::Table(table) => visitor.visit_map(Fields {
                rest: table.iter(),
                value: None,
            }),
            Node::Array(items, _) => visitor.visit_seq(Items {
                rest: items.iter().enumerate(),
            }),
            Node::Scalar(toml::Value::Boolean(value), _) => visitor.visit_bool(*value),
            Node::Scalar(toml::Value::Integer(value), _) => visitor.visit_i64(*value),
            Node::Scalar(toml::Value::Float(value), _) => visitor.visit_f64(*value),
            Node::Scalar(toml::Value::String(value), _) => visitor.visit_str(value),
            Node::Scalar(other, _) => visitor.visit_string(other.to_string()),
            Node::Text { text, .. } => visitor.visit_str(text),
        }
    }

    numbers! {
        deserialize_i8: i8 => visit_i8, "a whole number";
        deserialize_i16: i16 => visit_i16, "a whole number";
        deserialize_i32: i32 => visit_i32, "a whole number";
        deserialize_i64: i64 => visit_i64, "a whole number";
        deserialize_u8: u8 => visit_u8, "a whole number from 0 to 255";
        deserialize_u16: u16 => visit_u16, "a whole number from 0 to 65535";
        deserialize_u32: u32 => visit_u32, "a whole number, 0 or more";
        deserialize_u64: u64 => visit_u64, "a whole number, 0 or more";
        deserialize_f32: f32 => visit_f32, "a number";
        deserialize_f64: f64 => visit_f64, "a number";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Node::Text {
            text,
            source,
            typed,
        } = self
        else {
            return self.deserialize_any(visitor);
        };
        let value = match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => return Err(Misfit::new("expected true or false")),
        };
        typed.get_or_init(|| Box::new(Node::Scalar(value.into(), source.clone())));
        visitor.visit_bool(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Node::Text {
            text,
            source,
            typed,
        } = self
        else {
            return self.deserialize_any(visitor);
        };
        let items = if text.trim_start().starts_with('[') {
            let json =
                serde_json::from_str(text).map_err(|_| Misfit::new("is not a JSON array"))?;
            from_json(json, source).unwrap_or_else(|| Node::Array(Vec::new(), source.clone()))
        } else {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Node::Array(
                items.map(|item| Node::text(item, source.clone())).collect(),
                source.clone(),
            )
        };
        typed
            .get_or_init(|| Box::new(items))
            .deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Node::Text {
            text,
            source,
            typed,
        } = self
        else {
            return self.deserialize_any(visitor);
        };
        let json = serde_json::from_str(text).map_err(|_| Misfit::new("is not a JSON object"))?;
        let table = from_json(json, source).unwrap_or_else(Node::table);
        typed
            .get_or_init(|| Box::new(table))
            .deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self {
            Node::Scalar(toml::Value::String(text), _) | Node::Text { text, .. } => {
                let text: StringDeserializer<Misfit> = text.trim().to_owned().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Node::Table(table) => {
                let fields = Fields {
                    rest: table.iter(),
                    value: None,
                };
                visitor.visit_enum(MapAccessDeserializer::new(fields))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple_struct identifier
    }
}

struct Fields<'de> {
    rest: std::collections::btree_map::Iter<'de, String, Node>,
    value: Option<(&'de String, &'de Node)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Misfit> {
        self.value = self.rest.next();
        let Some((key, _)) = self.value else {
            return Ok(None);
        };
        let name: de::value::StrDeserializer<'_, Misfit> = key.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|error| error.below(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Misfit> {
        let (key, node) = self
            .value
            .take()
            .ok_or_else(|| Misfit::new("value before key"))?;
        seed.deserialize(node).map_err(|error| error.below(key))
    }
}

struct Items<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Misfit> {
        let Some((index, node)) = self.rest.next() else {
            return Ok(None);
        };
        seed.deserialize(node)
            .map(Some)
            .map_err(|error| error.below(index.to_string()))
    }
}

//! What a caller may use (B9).

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

/// What a caller may use. Written the same way in a token's claim, in the configuration of an API key and in a ticket:
///
/// ```json
/// { "tools": ["weather"], "providers": "*", "max_sessions": 2, "rate_class": "gold", "record": false, "admin": false }
/// ```
///
/// Whatever is absent has its default: every tool and provider that the operator offers, no limit of its own, the
/// default class, kept as the operator configured, no administration. An unknown member is an error, because a typo in
/// a restriction must not lift it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Tools that the model may use for this caller. It does not hear of others.
    pub tools: Allowed,
    /// Providers that the caller may ask for.
    pub providers: Allowed,
    /// Most sessions at a time, if fewer than the operator's limit.
    pub max_sessions: Option<u32>,
    /// The class of limits.
    pub rate_class: Option<Arc<str>>,
    /// Whether the conversation may be kept, if the operator keeps conversations.
    pub record: bool,
    /// Whether the administrative routes are open.
    pub admin: bool,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            tools: Allowed::All,
            providers: Allowed::All,
            max_sessions: None,
            rate_class: None,
            record: true,
            admin: false,
        }
    }
}

impl Grants {
    /// What both allow. A ticket is minted with the grants of its minter narrowed by those that it asks for; the class of
    /// limits stays the minter's, because classes have no order.
    #[must_use]
    pub fn narrowed(&self, by: &Self) -> Self {
        Self {
            tools: self.tools.intersection(&by.tools),
            providers: self.providers.intersection(&by.providers),
            max_sessions: match (self.max_sessions, by.max_sessions) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            rate_class: self.rate_class.clone(),
            record: self.record && by.record,
            admin: self.admin && by.admin,
        }
    }
}

/// A set of names, or all of them. Written as `"*"` or as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Every name that the operator offers.
    #[default]
    All,
    /// These. Names are compared exactly.
    Only(BTreeSet<Arc<str>>),
}

impl Allowed {
    /// The listed names.
    pub fn only<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Only(names.into_iter().map(Arc::from).collect())
    }

    /// Whether this name is in.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, allowed) | (allowed, Self::All) => allowed.clone(),
            (Self::Only(a), Self::Only(b)) => Self::Only(a.intersection(b).cloned().collect()),
        }
    }
}

impl Serialize for Allowed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("*"),
            Self::Only(names) => serializer.collect_seq(names),
        }
    }
}

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Allowed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"*\" or a list of names")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Allowed, E> {
                if text == "*" {
                    Ok(Allowed::All)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(text), &self))
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Allowed, A::Error> {
                let mut only = BTreeSet::new();
                while let Some(name) = names.next_element::<Arc<str>>()? {
                    // Inside a list it would be a name that no tool has, and look like all of them.
                    if &*name == "*" {
                        return Err(de::Error::invalid_value(
                            de::Unexpected::Str("*"),
                            &"a name; all of them is \"*\" without a list",
                        ));
                    }
                    only.insert(name);
                }
                Ok(Allowed::Only(only))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

#[cfg(test)]
mod b9_grants {
    use super::*;

    #[test]
    fn absent_members_have_defaults_and_unknown_ones_are_errors() {
        let read = |text: &str| serde_json::from_str::<Grants>(text);
        assert_eq!(read("{}").unwrap(), Grants::default());
        let grants = read(
            r#"{"tools":["weather"],"providers":"*","max_sessions":2,"rate_class":"gold","record":false,"admin":true}"#,
        )
        .unwrap();
        assert!(grants.tools.allows("weather") && !grants.tools.allows("pay"));
        assert!(grants.providers.allows("anything"));
        assert_eq!(
            (grants.max_sessions, grants.rate_class.as_deref()),
            (Some(2), Some("gold"))
        );
        assert!(grants.admin && !grants.record);
        let text = serde_json::to_string(&grants).unwrap();
        assert_eq!(read(&text).unwrap(), grants);
        for bad in [
            r#"{"tool":["weather"]}"#,
            r#"{"tools":"weather"}"#,
            r#"{"tools":["weather","*"]}"#,
            r#"{"tools":[1]}"#,
            r#"{"tools":null}"#,
            r#"{"admin":"true"}"#,
            r#"{"max_sessions":-1}"#,
            r#"{"max_sessions":1.5}"#,
            r#"{"admin":false,"admin":true}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_gained_by_asking_for_more() {
        let minter = Grants {
            tools: Allowed::only(["a", "b"]),
            providers: Allowed::All,
            max_sessions: Some(3),
            rate_class: Some("gold".into()),
            record: true,
            admin: false,
        };
        let asked = Grants {
            tools: Allowed::only(["b", "c"]),
            providers: Allowed::only(["local"]),
            max_sessions: Some(9),
            rate_class: Some("unlimited".into()),
            record: false,
            admin: true,
        };
        let expected = Grants {
            tools: Allowed::only(["b"]),
            providers: Allowed::only(["local"]),
            max_sessions: Some(3),
            rate_class: Some("gold".into()),
            record: false,
            admin: false,
        };
        assert_eq!(minter.narrowed(&asked), expected);
        assert_eq!(minter.narrowed(&Grants::default()), minter);
        assert!(!Allowed::only([]).allows(""));
    }
}

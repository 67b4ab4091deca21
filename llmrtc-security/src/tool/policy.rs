//! Which tools a session may use, and under which conditions: the operator's word on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use llmrtc_core::{duration, id::ToolName};
use serde::Deserialize;
use serde_json::Value;
use validator::{Validate, ValidationError, ValidationErrors};

/// The tools section of the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "policies_are_valid"))]
pub struct ToolsConfig {
    /// Per tool, by name.
    pub tools: BTreeMap<String, ToolPolicy>,
    /// For tools without a policy of their own.
    #[validate(nested)]
    pub default: ToolPolicy,
    /// How often a model may repair the arguments of one tool within a turn. Then it has to answer without.
    #[validate(range(max = 10))]
    pub max_repairs: u32,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self {
            tools: BTreeMap::new(),
            default: ToolPolicy::default(),
            // A model that fails twice with the violation in front of it fails a third time as well, and the caller waits.
            max_repairs: 2,
        }
    }
}

impl ToolsConfig {
    /// The policy of a tool.
    pub fn policy(&self, tool: &ToolName) -> &ToolPolicy {
        self.tools.get(tool.as_str()).unwrap_or(&self.default)
    }
}

/// The conditions of one tool.
#[derive(Clone, Debug, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "policy_is_bounded"))]
pub struct ToolPolicy {
    /// It has consequences: pays, deletes, unlocks, cancels.
    pub sensitive: bool,
    /// It sends something out of the system: mail, messages, requests to addresses of the model's choice.
    pub egress: bool,
    /// What it returns was written by third parties: search, mail, pages. Its results taint the conversation.
    pub third_party: bool,
    /// It must not run twice for the same call or with the same arguments within one turn.
    pub once: bool,
    /// Ahead of the engine's own limit, if set; 10 ms to 10 min.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// What happens when it is sensitive or sends, and the conversation is tainted.
    pub on_taint: OnTaint,
    /// Values that arguments may have, by name of the argument.
    pub arguments: BTreeMap<String, ArgumentRule>,
}

impl Default for ToolPolicy {
    fn default() -> Self {
        Self {
            sensitive: false,
            egress: false,
            // What a tool returns is rarely all the operator's own; to trust it is a decision.
            third_party: true,
            once: false,
            // What the engine allows a tool (core specification, 2.9).
            timeout: Duration::from_secs(30),
            on_taint: OnTaint::Confirm,
            arguments: BTreeMap::new(),
        }
    }
}

/// What happens to a call with consequences in a tainted conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTaint {
    /// The person is asked.
    #[default]
    Confirm,
    /// It is refused.
    Refuse,
}

/// Values that an argument may have. Each list that is not empty has to be met; lists of values are checked one by one.
/// An argument that is absent is the schema's concern.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ArgumentRule {
    /// Exactly one of these texts.
    #[validate(length(max = 1000))]
    pub values: Vec<String>,
    /// One e-mail address in one of these domains.
    #[validate(length(max = 1000))]
    pub email_domains: Vec<String>,
    /// A phone number in international form that begins with one of these country codes, such as `+49`.
    #[validate(length(max = 300))]
    pub phone_countries: Vec<String>,
}

impl ArgumentRule {
    /// Whether the value is on every list.
    pub fn allows(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.allows_text(text),
            Value::Array(items) => items.iter().all(|item| self.allows(item)),
            // Neither an address nor a text; only a rule without lists lets it pass.
            _ => *self == Self::default(),
        }
    }

    fn allows_text(&self, text: &str) -> bool {
        (self.values.is_empty() || self.values.iter().any(|value| value == text))
            && (self.email_domains.is_empty() || self.allows_email(text))
            && (self.phone_countries.is_empty() || self.allows_phone(text))
    }

    /// One address and nothing around it: display names, comments and second addresses are ways around the list.
    fn allows_email(&self, text: &str) -> bool {
        let Some((local, domain)) = text.split_once('@') else {
            return false;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        !local.is_empty()
            && local.chars().all(plain)
            && domain
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            && self
                .email_domains
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(domain))
    }

    fn allows_phone(&self, text: &str) -> bool {
        let written =
            |c: char| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '(' | ')' | '.' | '/');
        if !text.chars().all(written) {
            return false;
        }
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let number = match text.trim_start().strip_prefix('+') {
            Some(rest) if !rest.contains('+') => digits.as_str(),
            Some(_) => return false,
            None => match digits.strip_prefix("00") {
                Some(number) => number,
                None => return false,
            },
        };
        // E.164: at most fifteen digits.
        (7..=15).contains(&number.len())
            && self
                .phone_countries
                .iter()
                .any(|country| number.starts_with(country.trim_start_matches('+')))
    }
}

fn policies_are_valid(config: &ToolsConfig) -> Result<(), ValidationError> {
    let problem = |errors: ValidationErrors| {
        ValidationError::new("tool-policy").with_message(errors.to_string().into())
    };
    config
        .tools
        .values()
        .try_for_each(|policy| policy.validate().map_err(problem))
}

fn policy_is_bounded(policy: &ToolPolicy) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("tool-policy").with_message(message.into()))
    };
    if !(Duration::from_millis(10)..=Duration::from_secs(600)).contains(&policy.timeout) {
        return problem("timeout must be between 10ms and 10min");
    }
    if policy
        .arguments
        .values()
        .any(|rule| rule.validate().is_err())
    {
        return problem("a list of argument values is too long");
    }
    Ok(())
}

/// Which tools a caller was granted (B9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolGrants {
    /// All that the session has.
    #[default]
    All,
    /// These.
    Only(BTreeSet<ToolName>),
}

impl ToolGrants {
    /// Whether the caller was granted the tool.
    pub fn allow(&self, tool: &ToolName) -> bool {
        match self {
            Self::All => true,
            Self::Only(tools) => tools.contains(tool),
        }
    }
}

#[cfg(test)]
mod f2_4_policy {
    use serde_json::json;

    use super::*;

    #[test]
    fn mail_goes_to_listed_domains_only() {
        let rule = ArgumentRule {
            email_domains: vec!["hotel.example".to_owned()],
            ..ArgumentRule::default()
        };
        assert!(rule.allows(&json!("desk@Hotel.example")));
        assert!(rule.allows(&json!(["a@hotel.example", "b+c@hotel.example"])));
        for refused in [
            json!("a@evil.example"),
            json!("a@hotel.example.evil.example"),
            json!("a@sub.hotel.example"),
            json!("a@evil.example, b@hotel.example"),
            json!("a@evil.example\nb@hotel.example"),
            json!("\"a@evil.example\" <b@hotel.example>"),
            json!("a%evil.example@hotel.example@evil.example"),
            json!("@hotel.example"),
            json!("a@hotel.ехаmple"),
            json!(["a@hotel.example", "a@evil.example"]),
            json!({"address": "a@hotel.example"}),
            json!(5),
            json!(null),
        ] {
            assert!(!rule.allows(&refused), "{refused}");
        }
    }

    #[test]
    fn calls_go_to_listed_countries_only() {
        let rule = ArgumentRule {
            phone_countries: vec!["+49".to_owned(), "+43".to_owned()],
            ..ArgumentRule::default()
        };
        for allowed in ["+49 30 1234567", "0049 (30) 123-4567", "+43/1/2345678"] {
            assert!(rule.allows(&json!(allowed)), "{allowed}");
        }
        for refused in [
            "+1 900 1234567",
            "030 1234567",
            "+49",
            "+49 30 1234567 ext 9",
            "++49301234567",
            "+49301234567+19001234567",
            "tel:+4930123456",
            "+490000000000000000",
            "",
        ] {
            assert!(!rule.allows(&json!(refused)), "{refused}");
        }
    }

    #[test]
    fn configuration_is_checked() {
        let config: ToolsConfig = serde_json::from_value(json!({
            "tools": {"send_mail": {"egress": true, "timeout": "5s", "arguments": {"to": {"email_domains": ["a.example"]}}}}
        }))
        .unwrap();
        config.validate().unwrap();
        assert!(config.policy(&"send_mail".into()).egress);
        assert!(!config.policy(&"other".into()).egress);
        assert!(
            serde_json::from_value::<ToolsConfig>(json!({"tools": {"a": {"egres": true}}}))
                .is_err()
        );
        let many = ToolsConfig {
            max_repairs: 11,
            ..ToolsConfig::default()
        };
        assert!(many.validate().is_err());
    }
}

use std::{fmt, path::PathBuf, str::FromStr};

use url::Url;

use super::{SecretError, SecretErrorKind};

/// A place that a configuration value may name instead of being the secret itself.
///
/// | Text | Means |
/// | --- | --- |
/// | `env://NAME` | an environment variable |
/// | `file:///run/secrets/openai` | a file, by its absolute path |
/// | `aws-sm://prod/llm#openai.key?stage=AWSCURRENT` | AWS Secrets Manager: name or ARN; optionally a key of the JSON object, and a `version` or a `stage` |
/// | `vault://secret/prod/llm#openai?version=3` | Vault KV version 2: mount, path, key; optionally a version |
/// | `gcp-sm://projects/p/secrets/s/versions/latest#key` | GCP Secret Manager; version and key are optional |
///
/// A key with points first means the member of exactly this name, then the way down through nested objects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file.
    File(PathBuf),
    /// AWS Secrets Manager.
    Aws {
        /// Name or ARN.
        id: String,
        /// Key of the JSON object; without one the whole text is the secret.
        key: Option<String>,
        /// Which version; the current one unless said.
        version: Option<AwsVersion>,
    },
    /// Vault's key-value engine, version 2.
    Vault {
        /// Where the engine is mounted. One segment.
        mount: String,
        /// The path below the mount.
        path: String,
        /// Key of the object.
        key: String,
        /// Which version; the newest unless said.
        version: Option<u64>,
    },
    /// GCP Secret Manager.
    Gcp {
        /// Project id or number.
        project: String,
        /// Name of the secret.
        secret: String,
        /// Number, alias or `latest`.
        version: String,
        /// Key of the JSON object; without one the whole text is the secret.
        key: Option<String>,
    },
}

/// How AWS names one version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AwsVersion {
    /// By id.
    Id(String),
    /// By staging label, such as `AWSPREVIOUS`.
    Stage(String),
}

const SCHEMES: [&str; 5] = ["env", "file", "aws-sm", "vault", "gcp-sm"];

impl SecretRef {
    /// Whether `text` begins like a reference, so that anything wrong with it is a mistake and not a secret.
    pub fn is_reference(text: &str) -> bool {
        split_scheme(text).is_some()
    }
}

/// The scheme, if it is one of ours, and what follows it.
fn split_scheme(text: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let scheme = SCHEMES.iter().find(|known| **known == scheme)?;
    Some((scheme, rest))
}

impl FromStr for SecretRef {
    type Err = SecretError;

    /// # Errors
    /// [`SecretErrorKind::Reference`], which names the scheme and not the text: it may be a secret after all.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let Some((scheme, rest)) = split_scheme(text) else {
            let problem = "it begins with none of env://, file://, aws-sm://, vault://, gcp-sm://";
            return Err(SecretError::new(
                "reference",
                SecretErrorKind::Reference(problem),
            ));
        };
        parse(scheme, rest).map_err(|problem| {
            SecretError::new(format!("{scheme}://…"), SecretErrorKind::Reference(problem))
        })
    }
}

fn parse(scheme: &str, rest: &str) -> Result<SecretRef, &'static str> {
    match scheme {
        "env" => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if rest.is_empty() || !rest.bytes().all(plain) {
                return Err("the name of a variable has letters, digits and `_`");
            }
            Ok(SecretRef::Env(rest.to_owned()))
        }
        "file" => Url::parse(&format!("file://{rest}"))
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .filter(|path| rest.starts_with('/') && path.file_name().is_some())
            .map(SecretRef::File)
            .ok_or("a file has an absolute path, as in file:///run/secrets/key"),
        "aws-sm" => {
            let parts = Parts::split(rest, &["version", "stage"])?;
            if parts.name.len() > 2048 || !parts.name.bytes().all(is_aws_name) {
                return Err("a name has letters, digits and /_+=.@-, an ARN also colons");
            }
            let version = match parts.option {
                Some(("version", id)) => Some(AwsVersion::Id(id.to_owned())),
                Some((_, stage)) => Some(AwsVersion::Stage(stage.to_owned())),
                None => None,
            };
            Ok(SecretRef::Aws {
                id: parts.name.to_owned(),
                key: parts.key.map(str::to_owned),
                version,
            })
        }
        "vault" => {
            let parts = Parts::split(rest, &["version"])?;
            let (mount, path) = parts
                .name
                .split_once('/')
                .filter(|(mount, path)| is_segment(mount) && path.split('/').all(is_segment))
                .ok_or("a mount and a path are needed, as in vault://secret/prod/llm#key")?;
            let version = match parts.option.map(|(_, number)| number.parse()) {
                Some(Ok(number)) => Some(number),
                Some(Err(_)) => return Err("the version is a number"),
                None => None,
            };
            Ok(SecretRef::Vault {
                mount: mount.to_owned(),
                path: path.to_owned(),
                key: parts
                    .key
                    .ok_or("a key is needed after `#`: Vault stores objects")?
                    .to_owned(),
                version,
            })
        }
        _ => {
            let parts = Parts::split(rest, &[])?;
            let segments: Vec<&str> = parts.name.split('/').collect();
            let (project, secret, version) = match segments[..] {
                ["projects", project, "secrets", secret] => (project, secret, "latest"),
                ["projects", project, "secrets", secret, "versions", version] => {
                    (project, secret, version)
                }
                _ => return Err("it reads gcp-sm://projects/…/secrets/…/versions/…"),
            };
            if ![project, secret, version].into_iter().all(is_segment) {
                return Err("names have letters, digits and -_.:");
            }
            Ok(SecretRef::Gcp {
                project: project.to_owned(),
                secret: secret.to_owned(),
                version: version.to_owned(),
                key: parts.key.map(str::to_owned),
            })
        }
    }
}

/// `name#key?option=value`, the last two in either order and both optional.
struct Parts<'a> {
    name: &'a str,
    key: Option<&'a str>,
    option: Option<(&'static str, &'a str)>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str, options: &[&'static str]) -> Result<Self, &'static str> {
        let end = text.find(['#', '?']).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        if name.is_empty() {
            return Err("it names nothing");
        }
        let mut parts = Self {
            name,
            key: None,
            option: None,
        };
        while let Some(mark) = rest.chars().next() {
            let end = rest[1..].find(['#', '?']).map_or(rest.len(), |at| at + 1);
            let (piece, after) = (&rest[1..end], &rest[end..]);
            rest = after;
            if piece.is_empty() {
                return Err("nothing follows `#` or `?`");
            }
            if mark == '#' {
                if parts.key.replace(piece).is_some() {
                    return Err("it has two keys");
                }
                continue;
            }
            let (name, value) = piece.split_once('=').ok_or("an option reads name=value")?;
            let name = options
                .iter()
                .find(|known| **known == name)
                .ok_or("unknown option")?;
            if value.is_empty() || parts.option.replace((name, value)).is_some() {
                return Err("it needs exactly one version or stage");
            }
        }
        Ok(parts)
    }
}

/// The characters of a name in Secrets Manager, and the colons of an ARN.
fn is_aws_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/_+=.@-:".contains(&byte)
}

/// A piece of a path that cannot lead elsewhere.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:@ ".contains(&byte))
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key_of = None;
        match self {
            Self::Env(name) => write!(f, "env://{name}")?,
            Self::File(path) => write!(f, "file://{}", path.display())?,
            Self::Aws { id, key, .. } => {
                write!(f, "aws-sm://{id}")?;
                key_of = key.as_ref();
            }
            Self::Vault {
                mount, path, key, ..
            } => write!(f, "vault://{mount}/{path}#{key}")?,
            Self::Gcp {
                project,
                secret,
                version,
                key,
            } => {
                write!(
                    f,
                    "gcp-sm://projects/{project}/secrets/{secret}/versions/{version}"
                )?;
                key_of = key.as_ref();
            }
        }
        if let Some(key) = key_of {
            write!(f, "#{key}")?;
        }
        match self {
            Self::Aws {
                version: Some(AwsVersion::Id(id)),
                ..
            } => write!(f, "?version={id}"),
            Self::Aws {
                version: Some(AwsVersion::Stage(stage)),
                ..
            } => write!(f, "?stage={stage}"),
            Self::Vault {
                version: Some(number),
                ..
            } => write!(f, "?version={number}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a2_references_read_as_they_print() {
        for text in [
            "env://OPENAI_API_KEY",
            "file:///run/secrets/openai",
            "aws-sm://prod/llm",
            "aws-sm://prod/llm#openai.key?stage=AWSPREVIOUS",
            "aws-sm://arn:aws:secretsmanager:eu-central-1:123456789012:secret:llm-a1b2c3#key?version=7c9e",
            "vault://secret/prod/llm#openai",
            "vault://secret/llm#openai?version=3",
            "gcp-sm://projects/p-1/secrets/llm/versions/latest",
            "gcp-sm://projects/p-1/secrets/llm/versions/3#key",
        ] {
            let reference: SecretRef = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
        }
        let same = |a: &str, b: &str| {
            assert_eq!(
                a.parse::<SecretRef>().unwrap(),
                b.parse::<SecretRef>().unwrap()
            );
        };
        same("aws-sm://n?stage=S#k", "aws-sm://n#k?stage=S");
        same(
            "gcp-sm://projects/p/secrets/s",
            "gcp-sm://projects/p/secrets/s/versions/latest",
        );
    }

    #[test]
    fn a2_what_is_wrong_is_said_without_the_text() {
        for text in [
            "env://",
            "env://CANARY-1",
            "file://CANARY/x",
            "file:///",
            "aws-sm://",
            "aws-sm://CANARY name",
            "aws-sm://CANARY#",
            "aws-sm://CANARY#a#b",
            "aws-sm://CANARY?version=1?stage=2",
            "aws-sm://CANARY?colour=red",
            "vault://CANARY#k",
            "vault://secret/CANARY",
            "vault://secret/../sys/CANARY#k",
            "vault://secret/CANARY#k?version=new",
            "gcp-sm://CANARY",
            "gcp-sm://projects/p/secrets/CANARY/versions",
            "gcp-sm://projects/p/secrets/CANARY%2F..",
        ] {
            assert!(SecretRef::is_reference(text), "{text}");
            let error = text.parse::<SecretRef>().unwrap_err();
            assert!(
                matches!(error.kind(), SecretErrorKind::Reference(_)),
                "{text}"
            );
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error}");
        }
        for secret in ["sk-canary", "https://host/x", "a://b"] {
            assert!(!SecretRef::is_reference(secret));
            let error = secret.parse::<SecretRef>().unwrap_err();
            assert!(!error.to_string().contains(secret));
        }
    }
}

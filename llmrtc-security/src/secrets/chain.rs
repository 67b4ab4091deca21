use std::sync::Arc;

use async_trait::async_trait;
use llmrtc_core::redact::Secret;

use super::{
    FileSource, Managers, SecretError, SecretErrorKind, SecretRef, SecretSource, Versioned,
    live::same,
};

/// What answers for environment variables. Only whoever owns the process reads the real ones.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + Sync + 'a;

/// A secret that somebody needs.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its variable, such as `OPENAI_API_KEY`.
    pub name: String,
    /// A value or a reference that was given elsewhere, which beats the environment.
    pub explicit: Option<Secret>,
}

impl Wanted {
    /// A secret that is looked for in the environment and in the default manager.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            explicit: None,
        }
    }
}

/// Where secrets are looked for (A1): the explicit value, the file that `NAME_FILE` names, the variable `NAME`, the
/// default manager. The first that is set wins; blank counts as unset. Values may be references ([`SecretRef`]).
#[derive(Clone, Debug)]
pub struct Chain {
    managers: Managers,
    fallback: Option<String>,
}

impl Chain {
    /// A chain whose references lead to `managers`.
    pub fn new(managers: Managers) -> Self {
        Self {
            managers,
            fallback: None,
        }
    }

    /// Looks in a manager for what is set nowhere else. `template` is a reference with `{name}` in the place of the
    /// variable's name, such as `aws-sm://prod/llmrtc#{name}`.
    ///
    /// # Errors
    /// [`SecretErrorKind::Reference`] when it is no reference, or has no `{name}`.
    pub fn with_fallback(mut self, template: &str) -> Result<Self, SecretError> {
        if !template.contains("{name}") {
            let problem = "the default reference contains {name}";
            return Err(SecretError::new(
                "secrets.manager",
                SecretErrorKind::Reference(problem),
            ));
        }
        template.replace("{name}", "NAME").parse::<SecretRef>()?;
        self.fallback = Some(template.to_owned());
        Ok(self)
    }

    /// Where `wanted` is; `None` when it is set nowhere. Reads the file where both `NAME_FILE` and `NAME` are set, and
    /// asks the default manager whether it has the secret.
    ///
    /// # Errors
    /// [`SecretErrorKind::Conflict`] when `NAME_FILE` and `NAME` have different values; what is wrong with the
    /// reference; what the file or the default manager answered.
    pub async fn find(
        &self,
        wanted: &Wanted,
        environment: &Environment<'_>,
    ) -> Result<Option<Arc<dyn SecretSource>>, SecretError> {
        let name = wanted.name.as_str();
        let variable = |name: &str| {
            let value = Secret::new(environment(name)?.trim());
            (!value.is_blank()).then_some(value)
        };
        if let Some(value) = wanted.explicit.as_ref().filter(|value| !value.is_blank()) {
            return self.source(name, value, environment).map(Some);
        }
        let file_variable = format!("{name}_FILE");
        let value = variable(name);
        if let Some(path) = variable(&file_variable) {
            let file = FileSource::named_by(&file_variable, path.expose());
            if let Some(value) = value
                && !same(&file.fetch().await?.value, &value)
            {
                let kind = SecretErrorKind::Conflict { other: name.into() };
                return Err(SecretError::new(file_variable, kind));
            }
            return Ok(Some(Arc::new(file)));
        }
        if let Some(value) = value {
            return self.source(name, &value, environment).map(Some);
        }
        let Some(template) = &self.fallback else {
            return Ok(None);
        };
        let reference: SecretRef = template.replace("{name}", name).parse()?;
        let source = self.managers.source(&reference)?;
        match source.fetch().await {
            Ok(_) => Ok(Some(source)),
            Err(error) => match error.kind() {
                SecretErrorKind::NotFound | SecretErrorKind::NoKey(_) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// What a value stands for: itself, or the place it names.
    fn source(
        &self,
        name: &str,
        value: &Secret,
        environment: &Environment<'_>,
    ) -> Result<Arc<dyn SecretSource>, SecretError> {
        if !SecretRef::is_reference(value.expose()) {
            return Ok(Arc::new(Fixed {
                origin: name.to_owned(),
                value: value.clone(),
            }));
        }
        let reference: SecretRef = value.expose().parse().map_err(|error: SecretError| {
            SecretError::new(format!("{name} ({})", error.origin()), error.kind().clone())
        })?;
        match &reference {
            SecretRef::Env(other) => match environment(other) {
                Some(text) if !text.trim().is_empty() => Ok(Arc::new(Fixed {
                    origin: format!("{name} ({reference})"),
                    value: Secret::new(text.trim()),
                })),
                _ => Err(SecretError::new(
                    format!("{name} ({reference})"),
                    SecretErrorKind::NotSet,
                )),
            },
            SecretRef::File(path) => Ok(Arc::new(FileSource::new(path))),
            _ => self.managers.source(&reference),
        }
    }
}

/// A value that was given once and for all.
#[derive(Debug)]
struct Fixed {
    origin: String,
    value: Secret,
}

#[async_trait]
impl SecretSource for Fixed {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn fetch(&self) -> Result<Versioned<Secret>, SecretError> {
        Ok(Versioned {
            value: self.value.clone(),
            version: None,
        })
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks `KEY` up where `explicit` and these variables are set.
    async fn find(
        explicit: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, SecretError> {
        let environment = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some((*value).to_owned())
        };
        let wanted = Wanted {
            name: "KEY".to_owned(),
            explicit: explicit.map(Secret::new),
        };
        let chain = Chain::new(Managers::default());
        match chain.find(&wanted, &environment).await? {
            Some(source) => Ok(Some(source.fetch().await?.value.expose().to_owned())),
            None => Ok(None),
        }
    }

    #[tokio::test]
    async fn a1_the_first_place_that_is_set_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "from-file\n").unwrap();
        let path = path.to_str().unwrap();
        let check = async |explicit, variables: &[(&str, &str)], expected: Option<&str>| {
            let found = find(explicit, variables).await.unwrap();
            assert_eq!(found.as_deref(), expected, "{explicit:?} {variables:?}");
        };
        check(None, &[], None).await;
        check(None, &[("KEY", " \n"), ("KEY_FILE", "")], None).await;
        check(None, &[("KEY", " from-env\n")], Some("from-env")).await;
        check(None, &[("KEY_FILE", path)], Some("from-file")).await;
        check(
            None,
            &[("KEY", "from-file"), ("KEY_FILE", path)],
            Some("from-file"),
        )
        .await;
        check(
            Some("given"),
            &[("KEY", "from-env"), ("KEY_FILE", path)],
            Some("given"),
        )
        .await;
        check(Some(" "), &[("KEY", "from-env")], Some("from-env")).await;
        check(
            Some("env://OTHER"),
            &[("OTHER", "from-other")],
            Some("from-other"),
        )
        .await;
        let reference = format!("file://{path}");
        check(None, &[("KEY", &reference)], Some("from-file")).await;
    }

    #[tokio::test]
    async fn a1_two_different_values_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "canary-file").unwrap();
        let path = path.to_str().unwrap();
        for value in ["canary-env", "env://OTHER"] {
            let error = find(
                None,
                &[
                    ("KEY", value),
                    ("KEY_FILE", path),
                    ("OTHER", "canary-other"),
                ],
            )
            .await
            .unwrap_err();
            let text = format!("{error} {error:?}");
            assert_eq!(
                error.to_string(),
                "KEY_FILE: set, and so is KEY, to something else; keep one"
            );
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[tokio::test]
    async fn a1_mistakes_name_the_variable() {
        for (value, expected) in [
            ("env://OTHER", "KEY (env://OTHER): not set"),
            (
                "vault://canary",
                "KEY (vault://…): not a reference to a secret",
            ),
            (
                "aws-sm://name",
                "aws-sm://name: AWS Secrets Manager is not configured",
            ),
        ] {
            let error = find(None, &[("KEY", value)]).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(
            Chain::new(Managers::default())
                .with_fallback("aws-sm://x")
                .is_err()
        );
        assert!(
            Chain::new(Managers::default())
                .with_fallback("x{name}")
                .is_err()
        );
    }

    /// Kubernetes replaces `..data`, a link beside the files that are links through it.
    #[cfg(unix)]
    #[tokio::test]
    async fn a1_a_swapped_data_link_is_followed() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, value) in [("..v1", "one\n"), ("..v2", "two\n")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("key"), value).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let source = FileSource::new(at("key"));
        assert_eq!(source.fetch().await.unwrap().value.expose(), "one");
        symlink("..v2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(source.fetch().await.unwrap().value.expose(), "two");
    }
}

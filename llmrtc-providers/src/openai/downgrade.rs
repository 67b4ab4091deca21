//! Parameters that a model refused, remembered so that every later request is right the first time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

/// Names of refused parameters.
pub(super) type Refused = BTreeSet<&'static str>;

/// Callers may choose models per request, so what is remembered has a cap; forgetting costs one corrected request.
const MAX_MODELS: usize = 64;

/// What the models behind one base URL refused, for the life of the process.
#[derive(Debug, Default)]
pub(super) struct Downgrades(Mutex<HashMap<String, Refused>>);

impl Downgrades {
    /// What this model refused so far.
    pub(super) fn of(&self, model: &str) -> Refused {
        self.lock().get(model).cloned().unwrap_or_default()
    }

    /// Remembers a refusal.
    pub(super) fn learn(&self, provider: &str, model: &str, parameter: &'static str) {
        tracing::warn!(
            provider,
            model,
            parameter,
            "parameter refused; leaving it out from now on"
        );
        let mut models = self.lock();
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            models.clear();
        }
        models
            .entry(model.to_owned())
            .or_default()
            .insert(parameter);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Refused>> {
        // Every write is a single insertion, so a panicking holder leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_kept_per_model_and_bounded() {
        let downgrades = Downgrades::default();
        downgrades.learn("p", "a", "temperature");
        downgrades.learn("p", "a", "top_p");
        assert_eq!(downgrades.of("a"), Refused::from(["temperature", "top_p"]));
        assert!(downgrades.of("b").is_empty());
        for model in 0..500 {
            downgrades.learn("p", &model.to_string(), "top_p");
        }
        assert!(downgrades.lock().len() <= MAX_MODELS);
    }
}

//! Asks [`Config`] which keys it reads.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor},
};

use super::Config;

/// Every key of [`Config`], found by asking it what it reads.
pub(super) fn settings() -> BTreeSet<String> {
    let probe = Probe::default();
    // A field that does not like its made-up value is left out in the next round.
    while Config::deserialize(probe.clone()).is_err() {
        let failed = probe.failed.take();
        assert!(
            probe.skipped.borrow_mut().insert(failed),
            "the probe does not come to an end"
        );
    }
    probe.found.take()
}

#[derive(Clone, Default)]
struct Probe {
    path: String,
    found: Rc<RefCell<BTreeSet<String>>>,
    skipped: Rc<RefCell<BTreeSet<String>>>,
    /// The field that ended this round.
    failed: Rc<RefCell<String>>,
}

struct ProbeFields {
    probe: Probe,
    rest: std::slice::Iter<'static, &'static str>,
    current: String,
}

impl<'de> MapAccess<'de> for ProbeFields {
    type Error = de::value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        for field in self.rest.by_ref() {
            self.current = format!("{}.{field}", self.probe.path)
                .trim_start_matches('.')
                .to_owned();
            if !self.probe.skipped.borrow().contains(&self.current) {
                return seed.deserialize((*field).into_deserializer()).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        let probe = Probe {
            path: self.current.clone(),
            ..self.probe.clone()
        };
        seed.deserialize(probe).inspect_err(|_| {
            // Errors pass through every table above; the first to see one is the leaf's.
            let mut failed = self.probe.failed.borrow_mut();
            if failed.is_empty() {
                failed.clone_from(&self.current);
            }
        })
    }
}

impl<'de> Deserializer<'de> for Probe {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("a leaf"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.found.borrow_mut().extend(fields.iter().map(|field| {
            format!("{}.{field}", self.path)
                .trim_start_matches('.')
                .to_owned()
        }));
        visitor.visit_map(ProbeFields {
            probe: self,
            rest: fields.iter(),
            current: String::new(),
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

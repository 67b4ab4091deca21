//! When to use the keys we have, and when to ask for others. No I/O and no clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::PublicKey;

/// Keys are asked for at most this often, whatever the issuer wishes.
pub const MIN_FRESH: Duration = Duration::from_secs(60);

/// Keys are asked for at least this often: a key that was withdrawn is gone after a day at the latest.
pub const MAX_FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// When the issuer does not say. Issuers announce a key hours before they sign with it.
const DEFAULT_FRESH: Duration = Duration::from_secs(10 * 60);

/// Least time between two fetches: tokens with made-up key ids cost the issuer one request per ten seconds.
pub const COOL_DOWN: Duration = Duration::from_secs(10);

/// How long keys are used after they should have been renewed, while the issuer does not answer.
pub const MAX_STALE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Default)]
pub(super) struct Cache {
    known: Option<Known>,
    last_attempt: Option<Instant>,
}

struct Known {
    keys: Arc<[PublicKey]>,
    fresh_until: Instant,
}

pub(super) enum Lookup {
    /// Fresh, and the key is there if one was named.
    Found(Arc<[PublicKey]>),
    /// Should be renewed. Inside are the keys, if the one that was named is there and they may still be used.
    Stale(Option<Arc<[PublicKey]>>),
    /// Fresh, but without the key that was named.
    Unknown,
}

impl Cache {
    pub(super) fn lookup(&self, key_id: Option<&str>, now: Instant) -> Lookup {
        let Some(known) = &self.known else {
            return Lookup::Stale(None);
        };
        let is_there =
            key_id.is_none_or(|id| known.keys.iter().any(|key| key.key_id() == Some(id)));
        match (now < known.fresh_until, is_there) {
            (true, true) => Lookup::Found(known.keys.clone()),
            (true, false) => Lookup::Unknown,
            (false, true) => Lookup::Stale(self.usable(now)),
            (false, false) => Lookup::Stale(None),
        }
    }

    /// The keys, as long as they may be used at all.
    pub(super) fn usable(&self, now: Instant) -> Option<Arc<[PublicKey]>> {
        let known = self.known.as_ref()?;
        (now < known.fresh_until + MAX_STALE).then(|| known.keys.clone())
    }

    /// Whether it is time for a fetch. If so, it counts as begun.
    pub(super) fn begin_fetch(&mut self, now: Instant) -> bool {
        let cool = self
            .last_attempt
            .is_none_or(|last| now.saturating_duration_since(last) >= COOL_DOWN);
        if cool {
            self.last_attempt = Some(now);
        }
        cool
    }

    /// Returns the ids of the keys that were not there before. The first keys replace none.
    pub(super) fn store(
        &mut self,
        keys: Vec<PublicKey>,
        fresh: Duration,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let before = self.known.take();
        let ids = |keys: &[PublicKey]| -> Vec<Arc<str>> {
            keys.iter()
                .filter_map(PublicKey::key_id)
                .map(Arc::from)
                .collect()
        };
        let added = before.map_or_else(Vec::new, |before| {
            let known = ids(&before.keys);
            let mut added = ids(&keys);
            added.retain(|id| !known.contains(id));
            added
        });
        self.known = Some(Known {
            keys: keys.into(),
            fresh_until: now + fresh.clamp(MIN_FRESH, MAX_FRESH),
        });
        added
    }
}

/// How long an answer stays fresh by its `Cache-Control` (RFC 9111 §5.2.2), within our bounds.
pub(super) fn freshness<'a>(headers: impl Iterator<Item = &'a str>) -> Duration {
    let mut fresh = None;
    for directive in headers.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return MIN_FRESH;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            // What is too large to be read is a long time; what is no number says nothing.
            let seconds = seconds.trim_matches('"');
            if !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit()) {
                fresh = Some(Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)));
            }
        }
    }
    fresh.unwrap_or(DEFAULT_FRESH).clamp(MIN_FRESH, MAX_FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b3_cache_control_counts_within_bounds() {
        let seconds = Duration::from_secs;
        let cases: [(&[&str], Duration); 12] = [
            (&[], DEFAULT_FRESH),
            (&["public"], DEFAULT_FRESH),
            (&["max-age=3600"], seconds(3600)),
            (
                &["public, MAX-AGE=\"3600\", must-revalidate"],
                seconds(3600),
            ),
            (&["public", "max-age=90"], seconds(90)),
            (&["max-age=59"], MIN_FRESH),
            (&["max-age=0"], MIN_FRESH),
            (&["max-age=86401"], MAX_FRESH),
            (&["max-age=99999999999999999999999"], MAX_FRESH),
            (&["max-age=-1"], DEFAULT_FRESH),
            (&["max-age=3600, no-store"], MIN_FRESH),
            (&["no-cache"], MIN_FRESH),
        ];
        for (headers, expected) in cases {
            assert_eq!(freshness(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}

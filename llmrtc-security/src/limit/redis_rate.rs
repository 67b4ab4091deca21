//! Buckets that all nodes share (D3): one script, the clock of Redis, one round trip.

use std::time::Instant;

use redis::Script;

use super::{
    circuit::Circuit,
    gcra::Quota,
};
use crate::redis::Redis;

/// A bucket is `debt at`: its debt in nanoseconds, and when it had that, in microseconds of the clock of Redis. Both fit
/// into a double exactly. If that clock goes back, nothing drains until it has caught up: never more than the rate.
///
/// A bucket that has drained is the same as none, so it expires exactly then. Several buckets are taken together or
/// not at all. Answers with whether they were and with the debts before; the caller computes the rest.
pub(super) const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local charge, cost = ARGV[1] == 'charge', tonumber(ARGV[2])
local answer, after, since = {1}, {}, {}
for i, key in ipairs(KEYS) do
  local emission, capacity = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local debt, at = 0, now
  local stored = redis.call('GET', key)
  if stored then
    local before, when = string.match(stored, '^(%d+) (%d+)$')
    at = math.max(now, tonumber(when))
    debt = math.max(0, tonumber(before) - (at - tonumber(when)) * 1000)
  end
  answer[i + 1], since[i] = debt, at
  after[i] = debt + emission * cost
  if charge then
    after[i] = math.min(math.max(after[i], 0), 9007199254740991)
  elseif cost > 0 and after[i] > capacity then
    answer[1] = 0
  end
end
if answer[1] == 1 and cost ~= 0 then
  for i, key in ipairs(KEYS) do
    if after[i] == 0 then
      redis.call('DEL', key)
    else
      local ms = math.ceil(after[i] / 1000000 + (since[i] - now) / 1000)
      redis.call('SET', key, string.format('%.0f %.0f', after[i], since[i]), 'PX', string.format('%.0f', ms))
    end
  end
end
return answer
";

/// Shared buckets.
#[derive(Debug)]
pub struct RedisRates {
    redis: Redis,
    script: Script,
    circuit: Circuit,
}

/// Redis did not answer, now or a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shared limits are unavailable")]
pub struct NoAnswer;

/// One bucket of a request: its name, unique for the prefix, and what it holds.
pub type Bucket = (String, Quota);

impl RedisRates {
    /// Buckets in this Redis.
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            script: Script::new(SCRIPT),
            circuit: Circuit::default(),
        }
    }

    /// Takes `cost` from all buckets, or from none if one has not enough. They share a hash slot, that of `tag`.
    /// Returns whether they were taken, and the debt of each before, in nanoseconds.
    ///
    /// # Errors
    /// When Redis does not answer; the cost may have been taken. After a failure the next calls fail at once, see
    /// [`Circuit`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the cost may be taken.
    pub async fn take(
        &self,
        tag: &str,
        buckets: &[Bucket],
        cost: u32,
        now: Instant,
    ) -> Result<(bool, Vec<u64>), NoAnswer> {
        let answer = self.run("take", tag, buckets, i64::from(cost), now).await?;
        match answer.split_first() {
            Some((&taken, debts)) if debts.len() == buckets.len() => Ok((taken == 1, debts.to_vec())),
            _ => Err(NoAnswer),
        }
    }

    /// Counts a cost that is a fact, positive or negative. See [`Quota::charge`].
    ///
    /// # Errors
    /// When Redis does not answer; it may have been counted.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub async fn charge(
        &self,
        tag: &str,
        buckets: &[Bucket],
        cost: i64,
        now: Instant,
    ) -> Result<(), NoAnswer> {
        self.run("charge", tag, buckets, cost, now).await.map(drop)
    }

    async fn run(
        &self,
        mode: &str,
        tag: &str,
        buckets: &[Bucket],
        cost: i64,
        now: Instant,
    ) -> Result<Vec<u64>, NoAnswer> {
        if !self.circuit.may_ask(now) {
            return Err(NoAnswer);
        }
        let keys: Vec<_> = buckets.iter().map(|(name, _)| self.redis.key(tag, name)).collect();
        let mut args = vec![mode.to_owned(), cost.to_string()];
        for (_, quota) in buckets {
            args.push(quota.emission_ns().to_string());
            args.push(quota.capacity_ns().to_string());
        }
        match self.redis.script(&self.script, &keys, &args).await {
            Ok(answer) => {
                self.circuit.succeeded();
                Ok(answer)
            }
            Err(error) => {
                tracing::debug!(%error, "shared limits");
                self.circuit.failed(now);
                Err(NoAnswer)
            }
        }
    }
}

//! Budgets that all nodes count together: one script, the clock of Redis, so that all nodes have the same day.

use std::time::Duration;

use redis::Script;
use tokio::time::Instant;

use super::{
    budget::{Caps, Cost},
    circuit::Circuit,
    redis_rate::NoAnswer,
};
use crate::redis::Redis;

/// A hash of day, money and tokens, which ends with its day (and an hour, for turns that settle late). A clock that goes
/// back does not start a new day.
const SCRIPT: &str = "
local now = tonumber(redis.call('TIME')[1])
local day = math.floor(now / 86400)
local left = (day + 1) * 86400 - now
local stored = redis.call('HMGET', KEYS[1], 'day', 'micros', 'tokens')
local micros, tokens = 0, 0
if stored[1] and tonumber(stored[1]) >= day then
  day, micros, tokens = tonumber(stored[1]), tonumber(stored[2]), tonumber(stored[3])
end
local function save()
  redis.call('HSET', KEYS[1], 'day', day, 'micros', string.format('%.0f', micros), 'tokens', string.format('%.0f', tokens))
  redis.call('EXPIRE', KEYS[1], left + 3600)
end
local most = 9007199254740991
if ARGV[1] == 'correct' then
  if tonumber(ARGV[2]) == day then
    micros = math.min(math.max(micros - tonumber(ARGV[3]), 0) + tonumber(ARGV[5]), most)
    tokens = math.min(math.max(tokens - tonumber(ARGV[4]), 0) + tonumber(ARGV[6]), most)
    save()
  end
  return {1, day, left}
end
local more_micros, more_tokens, cap_micros, cap_tokens = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if (cap_micros >= 0 and micros + more_micros > cap_micros) or (cap_tokens >= 0 and tokens + more_tokens > cap_tokens) then
  return {0, day, left}
end
micros, tokens = math.min(micros + more_micros, most), math.min(tokens + more_tokens, most)
save()
return {1, day, left}
";

#[derive(Debug)]
pub(super) struct RedisBudgets {
    redis: Redis,
    script: Script,
    circuit: Circuit,
}

impl RedisBudgets {
    pub(super) fn new(redis: Redis) -> Self {
        Self {
            redis,
            script: Script::new(SCRIPT),
            circuit: Circuit::default(),
        }
    }

    /// Whether the cost fitted, the day, and how long it still lasts.
    pub(super) async fn spend(
        &self,
        user: &str,
        caps: Caps,
        cost: Cost,
    ) -> Result<(bool, u64, Duration), NoAnswer> {
        let cap = |cap: Option<u64>| cap.map_or_else(|| "-1".to_owned(), |cap| cap.to_string());
        let args = [
            "spend".to_owned(),
            cost.micros.to_string(),
            cost.tokens.to_string(),
            cap(caps.micros),
            cap(caps.tokens),
        ];
        let (fits, day, left): (u8, u64, u64) = self.run(user, &args).await?;
        Ok((fits == 1, day, Duration::from_secs(left)))
    }

    pub(super) async fn correct(
        &self,
        user: &str,
        day: u64,
        reserved: Cost,
        actual: Cost,
    ) -> Result<(), NoAnswer> {
        let numbers = [
            day,
            reserved.micros,
            reserved.tokens,
            actual.micros,
            actual.tokens,
        ];
        let args: Vec<_> = std::iter::once("correct".to_owned())
            .chain(numbers.map(|n| n.to_string()))
            .collect();
        self.run(user, &args).await.map(drop)
    }

    async fn run(&self, user: &str, args: &[String]) -> Result<(u8, u64, u64), NoAnswer> {
        if !self.circuit.may_ask(Instant::now().into_std()) {
            return Err(NoAnswer);
        }
        let key = [self.redis.key(user, "budget")];
        match self.redis.script(&self.script, &key, args).await {
            Ok(answer) => {
                self.circuit.succeeded();
                Ok(answer)
            }
            Err(error) => {
                tracing::debug!(%error, "budgets");
                self.circuit.failed(Instant::now().into_std());
                Err(NoAnswer)
            }
        }
    }
}

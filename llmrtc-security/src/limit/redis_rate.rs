//! Buckets that all nodes share (D3): one script, the clock of Redis, one round trip.

use std::time::Instant;

use redis::Script;

use super::{circuit::Circuit, gcra::Quota};
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
            Some((&taken, debts)) if debts.len() == buckets.len() => {
                Ok((taken == 1, debts.to_vec()))
            }
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
        let keys: Vec<_> = buckets
            .iter()
            .map(|(name, _)| self.redis.key(tag, name))
            .collect();
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

#[cfg(test)]
mod d3_shared {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use llmrtc_core::tasks::Tasks;

    use super::*;
    use crate::{
        limit::{gcra::Decision, lease::sim::Random, rate::RateTable},
        testing::RedisServer,
    };

    fn quota(limit: u32, per: u64, burst: u32) -> Quota {
        Quota::new(limit, Duration::from_secs(per), burst).unwrap()
    }

    /// The script and the table in memory, fed with the same arrivals at the same times, keep the same debts.
    #[tokio::test]
    async fn the_script_and_the_table_decide_alike() {
        let server = RedisServer::start().await;
        let redis = Redis::open(&server.url(), "t").unwrap();
        // The only change: the time comes with the call.
        let timed = SCRIPT.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
        assert_ne!(timed, SCRIPT);
        let script = Script::new(&timed);
        let start = Instant::now();
        let table = RateTable::new(1_024, start);
        let mut random = Random(7);
        // Minutes in the test are microseconds at the wall, so nothing expires before its time.
        let quotas = [
            quota(7, 60, 5),
            quota(60, 60, 59),
            quota(100_000, 3_600, 99_999),
        ];
        let mut micros = 1_700_000_000_000_000_u64;
        let (mut allowed, mut refused) = (0, 0);
        for step in 0..2_500 {
            micros += if random.below(10) == 0 {
                random.below(60_000_000)
            } else {
                random.below(6_000_000)
            };
            let which = random.below(3) as usize;
            let (quota, key) = (&quotas[which], table.key(&which));
            let charge = random.below(12) == 0;
            let mut cost = random.below(4) as i64 * if which == 2 { 4_000 } else { 1 };
            if charge && random.below(2) == 0 {
                cost = -cost;
            }
            let now = start + Duration::from_micros(micros - 1_700_000_000_000_000);
            let args = [
                if charge { "charge" } else { "take" }.to_owned(),
                cost.to_string(),
                quota.emission_ns().to_string(),
                quota.capacity_ns().to_string(),
                (micros / 1_000_000).to_string(),
                (micros % 1_000_000).to_string(),
            ];
            let keys = [redis.key("tag", &which.to_string())];
            let answer: Vec<u64> = redis.script(&script, &keys, &args).await.unwrap();
            assert_eq!(
                u128::from(answer[1]),
                table.debt(key, now).as_nanos(),
                "step {step}"
            );
            if charge {
                table.charge(key, quota, cost, now);
            } else {
                let decision = table.take(key, quota, cost as u32, now);
                assert_eq!(decision.allowed, answer[0] == 1, "step {step}");
                *if decision.allowed {
                    &mut allowed
                } else {
                    &mut refused
                } += 1;
            }
        }
        assert!(
            allowed > 300 && refused > 300,
            "{allowed} allowed, {refused} refused"
        );
    }

    #[tokio::test]
    async fn buckets_are_taken_together_expire_when_empty_and_survive_a_forgotten_script() {
        let server = RedisServer::start().await;
        let redis = Redis::open(&server.url(), "t").unwrap();
        let rates = RedisRates::new(redis.clone());
        let buckets = [
            ("small".to_owned(), quota(1, 60, 1)),
            ("large".to_owned(), quota(1, 60, 9)),
        ];
        let now = Instant::now();
        let take = |cost| rates.take("tag", &buckets, cost, now);
        assert_eq!(take(2).await.unwrap(), (true, vec![0, 0]));
        let (taken, debts) = take(1).await.unwrap();
        assert!(
            !taken
                && debts
                    .iter()
                    .all(|debt| (100_000_000_000..=120_000_000_000).contains(debt))
        );
        redis
            .query::<()>(redis::cmd("SCRIPT").arg("FLUSH"))
            .await
            .unwrap();
        rates.charge("tag", &buckets[..1], -2, now).await.unwrap();
        let (taken, debts) = take(1).await.unwrap();
        assert!(
            taken && debts[0] == 0 && debts[1] > 100_000_000_000,
            "the refusal took nothing: {debts:?}"
        );
        for (name, most) in [("small", 60_000), ("large", 180_000)] {
            let key = redis.key("tag", name);
            assert_eq!(key, format!("t:{{tag}}:{name}"));
            let left: i64 = redis.query(redis::cmd("PTTL").arg(key)).await.unwrap();
            assert!((most - 60_000..=most).contains(&left), "{name}: {left} ms");
        }
        rates.charge("tag", &buckets, -10, now).await.unwrap();
        let left: u64 = redis.query(&redis::cmd("DBSIZE")).await.unwrap();
        assert_eq!(left, 0, "an empty bucket is none");
    }

    /// Four nodes that do not know of each other, with clocks of their own.
    async fn race(seconds: u64, tasks_per_node: usize) {
        let server = RedisServer::start().await;
        let quota = quota(200, 1, 49);
        let admitted = Arc::new(AtomicU64::new(0));
        let tasks = Tasks::root("race");
        let started = Instant::now();
        let end = started + Duration::from_secs(seconds);
        let mut running = Vec::new();
        for node in 0..4_u64 {
            let rates = Arc::new(RedisRates::new(Redis::open(&server.url(), "t").unwrap()));
            for _ in 0..tasks_per_node {
                let (rates, admitted) = (Arc::clone(&rates), Arc::clone(&admitted));
                running.push(tasks.spawn("caller", move |_| async move {
                    let bucket = [("shared".to_owned(), quota)];
                    while Instant::now() < end {
                        // A clock an hour apart from the others changes nothing.
                        let skewed = Instant::now() + Duration::from_secs(3_600 * node);
                        let (taken, debts) = rates.take("tag", &bucket, 1, skewed).await.unwrap();
                        admitted.fetch_add(u64::from(taken), Ordering::Relaxed);
                        if !taken {
                            let Decision { retry_after, .. } = quota.decide(debts[0], 1);
                            tokio::time::sleep(retry_after).await;
                        }
                    }
                }));
            }
        }
        for task in running {
            task.await.unwrap();
        }
        let elapsed = started.elapsed().as_secs_f64();
        let admitted = admitted.load(Ordering::Relaxed) as f64;
        let most = quota.limit() as f64 + 200.0 * elapsed;
        assert!(admitted <= most, "{admitted} of {most}");
        // From the first to the last question nothing was left unused; answers that were late are not our business.
        let least = 0.99 * (quota.limit() as f64 + 200.0 * seconds as f64);
        assert!(admitted >= least, "{admitted} of {least}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn four_nodes_admit_together_what_one_may_and_nearly_all_of_it() {
        race(3, 10).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "half a minute"]
    async fn four_nodes_with_a_hundred_callers_each_for_half_a_minute() {
        race(30, 100).await;
    }

    #[tokio::test]
    async fn t27_a_dead_redis_is_asked_once_in_a_while() {
        let mut server = RedisServer::start().await;
        let rates = RedisRates::new(Redis::open(&server.url(), "t").unwrap());
        let bucket = [("b".to_owned(), quota(1, 60, 9))];
        let now = Instant::now();
        assert!(rates.take("tag", &bucket, 1, now).await.is_ok());
        server.kill().await;
        assert_eq!(rates.take("tag", &bucket, 1, now).await, Err(NoAnswer));
        // The circuit is open: this would take minutes otherwise.
        for _ in 0..10_000 {
            assert_eq!(rates.take("tag", &bucket, 1, now).await, Err(NoAnswer));
        }
        server.restart().await;
        assert_eq!(
            rates.take("tag", &bucket, 1, now).await,
            Err(NoAnswer),
            "not yet"
        );
        let later = now + Duration::from_millis(250);
        assert!(rates.take("tag", &bucket, 1, later).await.is_ok());
        assert!(rates.take("tag", &bucket, 1, later).await.is_ok());
    }
}

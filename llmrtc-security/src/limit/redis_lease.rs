//! Leases that all nodes share (D4): the rules of [`lease::table`](super::lease) as one atomic script.

use redis::Script;

use super::lease::table::{Caps, Claimed, MAX_WAITING, Owner, Renewed};
use crate::{
    limit::lease::NoPlace,
    redis::{Redis, Unavailable},
};

/// Leases of all users are in one hash slot, so that the caps of tenants and of all are exact. A slot carries tens of
/// thousands of renewals per second; sessions make one in ten seconds.
const TAG: &str = "leases";

/// Keys: of the user, claims by start, claims by deadline (both sorted sets) and epochs of holders (a hash); holders by
/// deadline of the tenant and of all (sorted sets); the last epoch. What is not extended expires.
pub(super) const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local starts, deadlines, epochs, tenant, total, last = unpack(KEYS)
local mode, id, ttl, channel, user = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local per_user, per_tenant, most, reject = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'
local argument, max_waiting = tonumber(ARGV[10]), tonumber(ARGV[11])
local function num(n) return string.format('%.0f', n) end

local function remove(member)
  redis.call('ZREM', starts, member)
  redis.call('ZREM', deadlines, member)
  redis.call('HDEL', epochs, member)
  redis.call('ZREM', tenant, member)
  redis.call('ZREM', total, member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', num(now))) do remove(member) end
redis.call('ZREMRANGEBYSCORE', tenant, '-inf', num(now))
redis.call('ZREMRANGEBYSCORE', total, '-inf', num(now))

local function extend()
  local deadline, ms = num(now + ttl), num(math.ceil(ttl / 1000) + 1000)
  redis.call('ZADD', deadlines, deadline, id)
  if redis.call('HEXISTS', epochs, id) == 1 then
    if per_tenant >= 0 then redis.call('ZADD', tenant, deadline, id) end
    redis.call('ZADD', total, deadline, id)
  end
  for _, key in ipairs({starts, deadlines, epochs, tenant, total}) do redis.call('PEXPIRE', key, ms) end
end
local function outranked() return redis.call('ZREVRANK', starts, id) >= per_user end
local epoch = redis.call('HGET', epochs, id)

if mode == 'renew' then
  if not epoch then return redis.call('ZSCORE', starts, id) and {'superseded'} or {'unknown'} end
  if tonumber(epoch) ~= argument then return {'superseded'} end
  if outranked() then return {'evicted'} end
  extend()
  return {'held', epoch}
end

if mode == 'release' then
  local known = redis.call('ZSCORE', starts, id)
  if known and tonumber(epoch or '0') == argument then
    remove(id)
    redis.call('PUBLISH', channel, 'free ' .. user)
    return {'released'}
  end
  return {'unknown'}
end

if not redis.call('ZSCORE', starts, id) then
  local claims = redis.call('ZCARD', starts)
  local waiting = claims - redis.call('HLEN', epochs)
  if (reject and claims >= per_user) or waiting >= max_waiting then return {'user'} end
  redis.call('ZADD', starts, num(math.max(0, now - argument)), id)
end
if outranked() then
  if not epoch then remove(id) end
  return {'replaced'}
end
if epoch then
  -- A session that registers itself again, after Redis lost it, does not end itself.
  if argument == 0 then redis.call('PUBLISH', channel, 'evict ' .. id) end
  return {'waiting', id}
end
if redis.call('HLEN', epochs) >= per_user then
  extend()
  local answer = {'waiting'}
  for _, member in ipairs(redis.call('ZREVRANGE', starts, num(per_user), -1)) do
    if redis.call('HEXISTS', epochs, member) == 1 then
      answer[#answer + 1] = member
      redis.call('PUBLISH', channel, 'evict ' .. member)
    end
  end
  return answer
end
local full = nil
if most > 0 and redis.call('ZCARD', total) >= most then full = 'server'
elseif per_tenant > 0 and redis.call('ZCARD', tenant) >= per_tenant then full = 'tenant' end
if full then
  remove(id)
  return {full}
end
epoch = num(math.max(now, tonumber(redis.call('GET', last) or '0') + 1))
redis.call('SET', last, epoch)
redis.call('HSET', epochs, id, epoch)
extend()
return {'held', epoch}
";

/// Leases in Redis.
#[derive(Debug)]
pub(super) struct RedisLeases {
    redis: Redis,
    script: Script,
}

impl RedisLeases {
    pub(super) fn new(redis: Redis) -> Self {
        Self::with_script(redis, SCRIPT)
    }

    fn with_script(redis: Redis, script: &str) -> Self {
        Self {
            redis,
            script: Script::new(script),
        }
    }

    pub(super) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Where nodes tell each other `evict ID` and `free USER`.
    pub(super) fn channel(&self) -> String {
        self.redis.key(TAG, "events")
    }

    pub(super) async fn claim(
        &self,
        id: &str,
        owner: &Owner,
        caps: &Caps,
        age: u64,
    ) -> Result<Claimed, Unavailable> {
        let answer = self.run("claim", id, owner, caps, age, &[]).await?;
        let (word, rest) = split(&answer);
        Ok(match word {
            "held" => Claimed::Held {
                epoch: rest
                    .first()
                    .and_then(|epoch| epoch.parse().ok())
                    .unwrap_or(0),
            },
            "waiting" => Claimed::Waiting {
                evicted: rest.to_vec(),
            },
            "replaced" => Claimed::Refused(NoPlace::Replaced),
            "tenant" => Claimed::Refused(NoPlace::Tenant),
            "server" => Claimed::Refused(NoPlace::Server),
            _ => Claimed::Refused(NoPlace::User),
        })
    }

    pub(super) async fn renew(
        &self,
        id: &str,
        epoch: u64,
        owner: &Owner,
        caps: &Caps,
    ) -> Result<Renewed, Unavailable> {
        let answer = self.run("renew", id, owner, caps, epoch, &[]).await?;
        Ok(match split(&answer).0 {
            "held" => Renewed::Held,
            "evicted" => Renewed::Evicted,
            "superseded" => Renewed::Superseded,
            _ => Renewed::Unknown,
        })
    }

    pub(super) async fn release(
        &self,
        id: &str,
        epoch: Option<u64>,
        owner: &Owner,
        caps: &Caps,
    ) -> Result<bool, Unavailable> {
        let answer = self
            .run("release", id, owner, caps, epoch.unwrap_or(0), &[])
            .await?;
        Ok(split(&answer).0 == "released")
    }

    /// `argument` is the age of a claim, or the epoch of a renewal or release.
    async fn run(
        &self,
        mode: &str,
        id: &str,
        owner: &Owner,
        caps: &Caps,
        argument: u64,
        extra: &[String],
    ) -> Result<Vec<String>, Unavailable> {
        let key = |name: String| self.redis.key(TAG, &name);
        let user = &owner.user;
        let keys = [
            key(format!("lease:{user}:starts")),
            key(format!("lease:{user}:deadlines")),
            key(format!("lease:{user}:epochs")),
            key(format!(
                "lease:tenant:{}",
                owner.tenant.as_deref().unwrap_or_default()
            )),
            key("lease:total".into()),
            key("lease:epoch".into()),
        ];
        // No tenant: -1. A tenant without a cap: 0, so that its holders are counted all the same.
        let per_tenant = match (&owner.tenant, caps.per_tenant) {
            (None, _) => "-1".to_owned(),
            (Some(_), most) => most.unwrap_or(0).to_string(),
        };
        let mut args = vec![
            mode.to_owned(),
            id.to_owned(),
            caps.ttl.to_string(),
            self.channel(),
            user.clone(),
            caps.per_user.to_string(),
            per_tenant,
            caps.total.unwrap_or(0).to_string(),
            u8::from(caps.reject).to_string(),
            argument.to_string(),
            MAX_WAITING.to_string(),
        ];
        args.extend_from_slice(extra);
        self.redis.script(&self.script, &keys, &args).await
    }
}

fn split(answer: &[String]) -> (&str, &[String]) {
    answer
        .split_first()
        .map_or(("", &[]), |(word, rest)| (word.as_str(), rest))
}

#[cfg(test)]
mod d4_parity {
    use super::*;
    use crate::{limit::lease::table::LeaseTable, testing::RedisServer};

    /// The rules in memory and the script, fed with the same random commands at the same times, answer alike.
    #[tokio::test]
    async fn the_script_and_the_table_answer_alike() {
        let server = RedisServer::start().await;
        // The only change: the time comes with the call.
        let script = SCRIPT.replace("redis.call('TIME')", "{ARGV[12], ARGV[13]}");
        assert_ne!(script, SCRIPT);
        let mut seen = [0; 8];
        for seed in 0..6_u64 {
            let redis = Redis::open(&server.url(), &format!("parity{seed}")).unwrap();
            let leases = RedisLeases::with_script(redis, &script);
            let mut table = LeaseTable::default();
            let mut random = crate::limit::lease::sim::Random(seed);
            let caps = Caps {
                per_user: 3,
                per_tenant: (seed % 2 == 0).then_some(5),
                total: (seed % 3 == 0).then_some(7),
                reject: seed == 5,
                ttl: 30_000_000,
            };
            let mut now = 1_700_000_000_000_000_u64;
            let mut epochs = vec![None; 16];
            for step in 0..1_500 {
                now += random.below(3_000_000);
                let at = random.below(16) as usize;
                let id = format!("session-{at:02}");
                let owner = Owner {
                    user: format!("user-{}", at % 4),
                    tenant: (at % 4 != 3).then(|| format!("tenant-{}", at % 2)),
                };
                let extra = [(now / 1_000_000).to_string(), (now % 1_000_000).to_string()];
                let context = format!("seed {seed}, step {step}, {id}");
                match random.below(10) {
                    0..5 => {
                        let age = if random.below(8) == 0 {
                            random.below(60_000_000)
                        } else {
                            0
                        };
                        let expected = table.claim(&id, &owner, &caps, age, now);
                        let answer = leases
                            .run("claim", &id, &owner, &caps, age, &extra)
                            .await
                            .unwrap();
                        let (expected, kind) = match expected {
                            Claimed::Held { epoch } => {
                                epochs[at] = Some(epoch);
                                (vec!["held".to_owned(), epoch.to_string()], 0)
                            }
                            Claimed::Waiting { evicted } => {
                                ([vec!["waiting".to_owned()], evicted].concat(), 1)
                            }
                            Claimed::Refused(NoPlace::Replaced) => (vec!["replaced".to_owned()], 2),
                            Claimed::Refused(NoPlace::Tenant) => (vec!["tenant".to_owned()], 3),
                            Claimed::Refused(NoPlace::Server) => (vec!["server".to_owned()], 3),
                            Claimed::Refused(_) => (vec!["user".to_owned()], 3),
                        };
                        seen[kind] += 1;
                        assert_eq!(answer, expected, "{context}");
                    }
                    5..8 => {
                        let epoch = epochs[at].unwrap_or(7);
                        let expected = table.renew(&id, epoch, &caps, now);
                        let answer = leases
                            .run("renew", &id, &owner, &caps, epoch, &extra)
                            .await
                            .unwrap();
                        let (expected, kind) = match expected {
                            Renewed::Held => ("held", 4),
                            Renewed::Evicted => ("evicted", 5),
                            Renewed::Superseded => ("superseded", 6),
                            Renewed::Unknown => ("unknown", 6),
                        };
                        seen[kind] += 1;
                        assert_eq!(answer[0], expected, "{context}");
                    }
                    _ => {
                        let epoch = epochs[at].filter(|_| random.below(4) > 0);
                        let expected = table.release(&id, epoch, now);
                        let answer = leases
                            .run("release", &id, &owner, &caps, epoch.unwrap_or(0), &extra)
                            .await
                            .unwrap();
                        seen[7] += u32::from(expected);
                        assert_eq!(answer[0] == "released", expected, "{context}");
                    }
                }
            }
        }
        assert!(
            seen.iter().all(|count| *count > 0),
            "every answer was given: {seen:?}"
        );
    }
}

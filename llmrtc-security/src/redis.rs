//! One way to talk with Redis: bounded in time, with typed failures, under one key prefix.
//!
//! Everything shared between nodes (tickets, limits, leases, revocations) goes through [`Redis`]. It never decides what
//! a failure means: each caller states its own policy for [`Unavailable`].

use std::{fmt, sync::Arc, time::Duration};

use llmrtc_core::redact::Secret;
use redis::{
    Client, Cmd, FromRedisValue, IntoConnectionInfo, Script, ToRedisArgs,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
};

/// Longest wait for an answer. On loopback one takes a tenth of a millisecond; a caller at the door must not wait
/// longer than they would for a busy server.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that reconnects by itself, shared by reference or by cloning.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    manager: ConnectionManager,
    prefix: Arc<str>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Redis did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("redis is unavailable")]
pub struct Unavailable(#[source] ::redis::RedisError);

impl Redis {
    /// Prepares a connection to `url` (`redis://` or `rediss://`, with credentials if needed). The first connection is
    /// made by the first command, so a server starts while Redis is down; ask [`ping`](Self::ping) to know.
    ///
    /// `prefix` begins every key, so that deployments can share a Redis.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn open(url: &Secret, prefix: &str) -> Result<Self, Unavailable> {
        let info = url.expose().into_connection_info().map_err(Unavailable)?;
        let client = Client::open(info).map_err(Unavailable)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(1);
        let manager =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(Unavailable)?;
        Ok(Self {
            client,
            manager,
            prefix: prefix.into(),
        })
    }

    /// The key of `name` in the hash slot of `tag`: keys with one tag may be used in one script on a cluster.
    pub fn key(&self, tag: &str, name: &str) -> String {
        format!("{}:{{{tag}}}:{name}", self.prefix)
    }

    /// Runs a script: one round trip, two when Redis has forgotten it.
    ///
    /// # Errors
    /// When there is no answer in time. The script may still have run.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the script may still run.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        args: &[impl ToRedisArgs],
    ) -> Result<T, Unavailable> {
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        for arg in args {
            invocation.arg(arg);
        }
        let mut connection = self.manager.clone();
        invocation
            .invoke_async(&mut connection)
            .await
            .map_err(Unavailable)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When there is no answer in time. The command may still have run.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let mut connection = self.manager.clone();
        command
            .query_async(&mut connection)
            .await
            .map_err(Unavailable)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        self.query(&::redis::cmd("PING")).await
    }

    /// A connection of its own for subscriptions. It ends when Redis goes away: reconnect, and catch up by polling.
    ///
    /// # Errors
    /// When there is no connection in time.
    pub async fn subscriber(&self) -> Result<PubSub, Unavailable> {
        match tokio::time::timeout(TIMEOUT, self.client.get_async_pubsub()).await {
            Ok(connected) => connected.map_err(Unavailable),
            Err(_) => Err(Unavailable(::redis::RedisError::from((
                ::redis::ErrorKind::Io,
                "connection timed out",
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::RedisServer;

    #[tokio::test]
    async fn scripts_and_commands_run_and_a_dead_server_is_a_typed_failure() {
        let server = RedisServer::start().await;
        let redis = Redis::open(&server.url(), "t").unwrap();
        redis.ping().await.unwrap();
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        let key = [redis.key("user", "n")];
        for expected in [2_i64, 4] {
            assert_eq!(
                redis.script::<i64>(&script, &key, &[2]).await.unwrap(),
                expected
            );
        }
        // A restarted Redis has forgotten the script.
        let mut flush = ::redis::cmd("SCRIPT");
        redis.query::<()>(flush.arg("FLUSH")).await.unwrap();
        assert_eq!(redis.script::<i64>(&script, &key, &[2]).await.unwrap(), 6);
        drop(server);
        assert_eq!(
            redis.ping().await.unwrap_err().to_string(),
            "redis is unavailable"
        );
    }
}

//! Revocations on every node.
//!
//! They are appended to a Redis stream, which every node reads from where it left off. Publishing only wakes the others
//! up, and a poll every [`POLL`] makes up for what a subscription loses, so no way of losing a message loses a
//! revocation. A node that starts reads what is still there.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::redis::cmd;
use futures_util::{StreamExt, future::pending};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Full, Revocation, Revocations};
use crate::redis::{Redis, Unavailable};

/// How often a node looks without being called. With the answer's deadline it keeps the promise of two seconds.
pub const POLL: Duration = Duration::from_secs(1);

/// Entries read at once.
const BATCH: usize = 500;

/// Revocations shared by the nodes of a deployment.
#[derive(Clone, Debug)]
pub struct SharedRevocations {
    redis: Redis,
    local: Arc<Revocations>,
}

/// A revocation that did not reach every node. It holds on this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// There are too many already. It does not even hold here.
    #[error(transparent)]
    Full(#[from] Full),
    /// Redis does not answer: try again.
    #[error("revoked on this node only")]
    ThisNodeOnly(#[source] Unavailable),
}

/// One entry of the stream: its id, and its fields.
type Entry = (String, HashMap<String, String>);

impl SharedRevocations {
    /// Shares what `local` knows through this Redis.
    pub fn new(redis: Redis, local: Arc<Revocations>) -> Self {
        Self { redis, local }
    }

    fn stream(&self) -> String {
        self.redis.key("revocations", "stream")
    }

    fn channel(&self) -> String {
        self.redis.key("revocations", "wake")
    }

    /// Revokes here and on every node.
    ///
    /// # Errors
    /// When it is not everywhere.
    ///
    /// # Cancel safety
    /// Dropping the future may leave it on this node only.
    pub async fn revoke(&self, revocation: Revocation, now: SystemTime) -> Result<(), RevokeError> {
        self.local.revoke(revocation.clone(), now)?;
        self.publish(&revocation, now)
            .await
            .map_err(RevokeError::ThisNodeOnly)
    }

    async fn publish(&self, revocation: &Revocation, now: SystemTime) -> Result<(), Unavailable> {
        let text = serde_json::to_string(revocation)
            .expect("texts and a time after 1970 are representable in JSON");
        let millis = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis());
        // What is older than every credential is of no use to a node that starts.
        let oldest = millis(
            now - self
                .local
                .retention
                .min(now.duration_since(UNIX_EPOCH).unwrap_or_default()),
        );
        let mut append = cmd("XADD");
        append.arg(self.stream()).arg("MINID").arg("~");
        append
            .arg(oldest.to_string())
            .arg("*")
            .arg("revocation")
            .arg(text);
        append.arg("at").arg(millis(now).to_string());
        self.redis.query::<String>(&append).await?;
        let mut wake = cmd("PUBLISH");
        self.redis.query(wake.arg(self.channel()).arg("")).await
    }

    /// Reads what came since `last` and remembers it. Returns whether there may be more.
    async fn catch_up(&self, last: &mut String) -> Result<bool, Unavailable> {
        let mut range = cmd("XRANGE");
        range.arg(self.stream()).arg(format!("({last}")).arg("+");
        let entries: Vec<Entry> = self.redis.query(range.arg("COUNT").arg(BATCH)).await?;
        let count = entries.len();
        for (id, fields) in entries {
            *last = id;
            let revocation = fields
                .get("revocation")
                .and_then(|text| serde_json::from_str::<Revocation>(text).ok());
            let at = fields.get("at").and_then(|text| text.parse().ok());
            let (Some(revocation), Some(at)) = (revocation, at) else {
                tracing::warn!("an entry of the revocation stream cannot be read");
                continue;
            };
            if self
                .local
                .revoke(revocation, UNIX_EPOCH + Duration::from_millis(at))
                .is_err()
            {
                tracing::error!("a revocation does not fit into the table of this node");
            }
        }
        Ok(count == BATCH)
    }

    /// Keeps this node informed until `cancel` fires. While Redis is away, what is known still holds.
    ///
    /// # Cancel safety
    /// Cancel safe; a later call begins anew.
    pub async fn follow(&self, cancel: CancellationToken) {
        let mut last = "0-0".to_owned();
        let mut subscription = None;
        let mut reachable = true;
        loop {
            let read = self.catch_up(&mut last).await;
            match &read {
                Err(error) if reachable => {
                    tracing::error!(%error, "revocations of other nodes do not arrive");
                }
                Ok(_) if !reachable => tracing::info!("revocations of other nodes arrive again"),
                _ => {}
            }
            reachable = read.is_ok();
            if matches!(read, Ok(true)) {
                continue;
            }
            let poll = Instant::now() + POLL;
            if subscription.is_none() && reachable {
                subscription = self.subscribe().await;
                // Something may have come in between.
                if subscription.is_some() {
                    continue;
                }
            }
            let woken = async {
                match &mut subscription {
                    Some(messages) => messages.next().await.is_some(),
                    None => pending().await,
                }
            };
            let lost = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                message = woken => !message,
                () = sleep_until(poll) => false,
            };
            if lost {
                subscription = None;
                // Redis went away: look again when it is time, and not in a loop.
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = sleep_until(poll) => {}
                }
            }
        }
    }

    async fn subscribe(
        &self,
    ) -> Option<std::pin::Pin<Box<dyn futures_util::Stream<Item = ::redis::Msg> + Send>>> {
        let mut subscriber = self.redis.subscriber().await.ok()?;
        subscriber.subscribe(self.channel()).await.ok()?;
        Some(Box::pin(subscriber.into_on_message()))
    }
}

#[cfg(test)]
mod b8_shared {
    use llmrtc_core::clock::{Clock, SystemClock};

    use super::*;
    use crate::{auth::Principal, testing::RedisServer};

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(server: &RedisServer) -> SharedRevocations {
        let redis = Redis::open(&server.url(), "t").unwrap();
        SharedRevocations::new(redis, Arc::new(Revocations::new(HOUR)))
    }

    fn now() -> SystemTime {
        SystemClock.wall()
    }

    /// Follows while it waits until `node` knows that `caller` is revoked.
    async fn learns(node: &SharedRevocations, caller: &Principal) {
        let cancel = CancellationToken::new();
        let learned = async {
            node.local.revoked(caller).await;
            cancel.cancel();
        };
        // Far longer than the promise: the machine may be busy, and a lost message would never come.
        let both = async { tokio::join!(node.follow(cancel.clone()), learned) };
        tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("the node never learns");
    }

    #[tokio::test]
    async fn a_revocation_reaches_nodes_that_run_and_nodes_that_start() {
        let mut server = RedisServer::start().await;
        let (here, there) = (node(&server), node(&server));
        let ann = Principal::user("ann", None);
        let revoke = async {
            here.revoke(Revocation::of(&ann, now()), now())
                .await
                .unwrap();
        };
        tokio::join!(learns(&there, &ann), revoke);
        assert!(here.local.is_revoked(&ann));
        learns(&node(&server), &ann).await;

        // While Redis is away it holds here, and the caller is told that it does not elsewhere.
        server.kill().await;
        let bob = Principal::user("bob", None);
        let outcome = here.revoke(Revocation::of(&bob, now()), now()).await;
        assert!(matches!(outcome, Err(RevokeError::ThisNodeOnly(_))));
        assert!(here.local.is_revoked(&bob) && there.local.is_revoked(&ann));

        // A node that followed all the time goes on when Redis is back, empty.
        let eve = Principal::user("eve", None);
        let recover = async {
            server.restart().await;
            while here
                .revoke(Revocation::of(&eve, now()), now())
                .await
                .is_err()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(learns(&there, &eve), recover);
    }
}

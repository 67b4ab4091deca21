use std::time::{Duration, SystemTime};

use ::redis::cmd;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{StoreUnavailable, TicketId, TicketRecord, TicketStore};
use crate::redis::Redis;

/// Tickets that any node may redeem. One key per ticket, named by its SHA-256.
#[derive(Clone, Debug)]
pub struct RedisTickets(Redis);

impl RedisTickets {
    /// Kept in this Redis.
    pub fn new(redis: Redis) -> Self {
        Self(redis)
    }

    fn key(&self, id: &TicketId) -> String {
        self.0.key(&URL_SAFE_NO_PAD.encode(id.as_bytes()), "ticket")
    }
}

#[async_trait]
impl TicketStore for RedisTickets {
    async fn put(
        &self,
        id: &TicketId,
        record: &TicketRecord,
        now: SystemTime,
    ) -> Result<(), StoreUnavailable> {
        let text = serde_json::to_string(record).map_err(StoreUnavailable::new)?;
        let ttl = record
            .redeem_before
            .duration_since(now)
            .unwrap_or(Duration::ZERO)
            .max(Duration::from_millis(1));
        let mut set = cmd("SET");
        set.arg(self.key(id)).arg(text).arg("PX");
        set.arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
            .arg("NX");
        let kept: Option<String> = self.0.query(&set).await.map_err(StoreUnavailable::new)?;
        // Two tickets with one digest do not happen; a lost reply whose command ran and was sent again does.
        kept.map(drop).ok_or_else(StoreUnavailable::full)
    }

    async fn take(
        &self,
        id: &TicketId,
        _now: SystemTime,
    ) -> Result<Option<TicketRecord>, StoreUnavailable> {
        let mut take = cmd("GETDEL");
        take.arg(self.key(id));
        let text: Option<String> = self.0.query(&take).await.map_err(StoreUnavailable::new)?;
        text.map(|text| serde_json::from_str(&text).map_err(StoreUnavailable::new))
            .transpose()
    }
}

//! Money and tokens per user and day (D2, T28).
//!
//! A turn *reserves* what it may cost before it starts, *extends* the reservation while it goes on, and *settles* for
//! what it did cost. Whoever has spent the day's budget starts no turn, and a turn that outgrows it is stopped. A
//! reservation that is dropped without settling counts as spent: a crash is no discount. Days are those of UTC.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use validator::{Validate, ValidationError};

#[cfg(feature = "redis")]
use super::config::WhenSharedFails;
use super::config::{DEFAULT_CLASS, LimitsConfig};
use crate::auth::{Principal, PrincipalKind, Rejection};

const DAY_SECS: u64 = 86_400;

/// Users whose spending is remembered for the day in memory. Beyond, nobody new is admitted: forgetting would hand out
/// budgets twice. 100 bytes each.
const MAX_USERS: usize = 1_000_000;

/// The largest amount that scripts count exactly.
const MAX_AMOUNT: u64 = (1 << 53) - 1;

/// Budgets per user and day, and what things cost.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
#[validate(schema(function = "amounts_are_countable"))]
pub struct BudgetConfig {
    /// By class of caller, as the grants name it; `default` is for all others. No class, no budget.
    pub classes: BTreeMap<String, DailyBudget>,
    /// What a unit costs, in the currency of the budgets, by `provider/model` or by `provider` alone.
    pub prices: BTreeMap<String, Price>,
}

/// What a user may spend in a day. Absent for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DailyBudget {
    /// Money, in the currency of the prices.
    pub money: Option<f64>,
    /// Tokens of language models, read and written.
    pub tokens: Option<u64>,
}

/// What a provider charges. Zero for what it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Per million tokens read.
    pub input_per_million: f64,
    /// Per million tokens written.
    pub output_per_million: f64,
    /// Per million characters to speak.
    pub characters_per_million: f64,
    /// Per minute of audio heard or spoken.
    pub audio_per_minute: f64,
}

fn amounts_are_countable(config: &BudgetConfig) -> Result<(), ValidationError> {
    let problem = |message: &'static str| {
        Err(ValidationError::new("inconsistent").with_message(message.into()))
    };
    // A billion of any currency, in millionths, is countable many times over.
    let sane = |amount: f64| (0.0..=1e9).contains(&amount);
    if !config
        .classes
        .values()
        .filter_map(|class| class.money)
        .all(sane)
    {
        return problem("classes: money must be between 0 and a billion");
    }
    if config
        .classes
        .values()
        .filter_map(|class| class.tokens)
        .any(|tokens| tokens > MAX_AMOUNT)
    {
        return problem("classes: tokens must be below 2^53");
    }
    let prices = config.prices.values();
    let mut amounts = prices.flat_map(|price| {
        [
            price.input_per_million,
            price.output_per_million,
            price.characters_per_million,
            price.audio_per_minute,
        ]
    });
    if !amounts.all(sane) {
        return problem("prices must be between 0 and a billion");
    }
    Ok(())
}

/// What was or may be used of one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Characters to speak.
    pub characters: u64,
    /// Audio heard or spoken.
    pub audio: Duration,
}

/// An amount to count: money in millionths, and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Money in millionths of the currency's unit.
    pub micros: u64,
    /// Tokens, read and written.
    pub tokens: u64,
}

impl Cost {
    /// Both amounts added.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            micros: self.micros.saturating_add(other.micros),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }
}

impl BudgetConfig {
    /// What this usage costs, rounded up to a millionth. A model without a price of its own costs what its provider
    /// does; a provider without a price costs nothing, but its tokens count.
    pub fn cost(&self, provider: &str, model: &str, usage: &Usage) -> Cost {
        let price = self
            .prices
            .get(&format!("{provider}/{model}"))
            .or_else(|| self.prices.get(provider));
        let money = price.map_or(0.0, |price| {
            // A price per million is the price of one in millionths.
            usage.input_tokens as f64 * price.input_per_million
                + usage.output_tokens as f64 * price.output_per_million
                + usage.characters as f64 * price.characters_per_million
                + usage.audio.as_secs_f64() / 60.0 * price.audio_per_minute * 1e6
        });
        Cost {
            // Without the dust that sums of fractions leave. `as` saturates.
            micros: ((money - 1e-6).ceil().max(0.0) as u64).min(MAX_AMOUNT),
            tokens: usage.input_tokens.saturating_add(usage.output_tokens),
        }
    }
}

/// The day's budget is spent, or nobody can say whether it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoBudget {
    /// Spent.
    #[error("the budget of the day is spent")]
    Spent {
        /// When the next day begins.
        retry_after: Duration,
    },
    /// Redis is down, and the operator chose to refuse then.
    #[error("budgets are unavailable")]
    Unavailable,
}

impl From<NoBudget> for Rejection {
    fn from(reason: NoBudget) -> Self {
        match reason {
            NoBudget::Spent { retry_after } => Self::RateLimited { retry_after },
            NoBudget::Unavailable => Self::Unavailable {
                retry_after: Duration::from_secs(5),
            },
        }
    }
}

/// What users have spent today. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budgets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    classes: HashMap<String, Caps>,
    #[cfg(feature = "redis")]
    nodes: u32,
    #[cfg(feature = "redis")]
    when_shared_fails: WhenSharedFails,
    spent: Mutex<Spent>,
    #[cfg(feature = "redis")]
    shared: Option<super::redis_budget::RedisBudgets>,
}

/// Absent for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) micros: Option<u64>,
    pub(super) tokens: Option<u64>,
}

#[derive(Debug, Default)]
struct Spent {
    day: u64,
    users: HashMap<String, Cost>,
}

/// What a turn has set aside.
#[derive(Debug)]
#[must_use = "settle it; what is dropped counts as spent"]
pub struct Reservation {
    budgets: Budgets,
    /// Absent for callers without a budget.
    account: Option<Account>,
    reserved: Cost,
}

#[derive(Clone, Debug)]
struct Account {
    user: String,
    caps: Caps,
    /// Days since 1970, as whoever counts saw it.
    day: u64,
    /// Whether this node counted it alone.
    here: bool,
}

impl Caps {
    fn admit(self, spent: Cost, more: Cost) -> bool {
        let fits = |cap: Option<u64>, spent: u64, more: u64| {
            cap.is_none_or(|cap| spent.saturating_add(more) <= cap)
        };
        fits(self.micros, spent.micros, more.micros) && fits(self.tokens, spent.tokens, more.tokens)
    }

    #[cfg(feature = "redis")]
    fn share(self, nodes: u32) -> Self {
        let share = |cap: Option<u64>| cap.map(|cap| cap / u64::from(nodes));
        Self {
            micros: share(self.micros),
            tokens: share(self.tokens),
        }
    }
}

impl Budgets {
    /// Budgets that this process counts alone. They are forgotten when it ends.
    pub fn new(config: &LimitsConfig) -> Self {
        Self(Arc::new(Inner::new(config)))
    }

    /// Budgets that all nodes count together.
    #[cfg(feature = "redis")]
    pub fn shared(config: &LimitsConfig, redis: crate::redis::Redis) -> Self {
        let mut inner = Inner::new(config);
        inner.shared = Some(super::redis_budget::RedisBudgets::new(redis));
        Self(Arc::new(inner))
    }

    /// Sets the cost of a turn aside before it starts. `class` is what the grants name. Callers without an identity are
    /// counted by `caller`, such as their address.
    ///
    /// # Errors
    /// When it does not fit into what is left of the day.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the cost counted as spent.
    pub async fn reserve(
        &self,
        principal: &Principal,
        caller: &str,
        class: Option<&str>,
        cost: Cost,
        now: SystemTime,
    ) -> Result<Reservation, NoBudget> {
        let classes = &self.0.classes;
        let caps = class
            .and_then(|class| classes.get(class))
            .or_else(|| classes.get(DEFAULT_CLASS));
        let mut reservation = Reservation {
            budgets: self.clone(),
            account: caps.map(|caps| Account {
                user: user(principal, caller),
                caps: *caps,
                day: 0,
                here: false,
            }),
            reserved: Cost::default(),
        };
        reservation.extend(cost, now).await?;
        Ok(reservation)
    }
}

impl Reservation {
    /// Sets more aside, because the turn goes on.
    ///
    /// # Errors
    /// When it does not fit: stop the turn. What was set aside before stays so.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the cost counted as spent.
    pub async fn extend(&mut self, cost: Cost, now: SystemTime) -> Result<(), NoBudget> {
        if let Some(account) = &mut self.account {
            self.budgets.0.spend(account, cost, now).await?;
        }
        self.reserved = self.reserved.plus(cost);
        Ok(())
    }

    /// What is set aside.
    pub fn reserved(&self) -> Cost {
        self.reserved
    }

    /// Counts what the turn did cost instead of what was set aside. More than that is counted as well; it happened.
    ///
    /// # Cancel safety
    /// Dropping the future may leave what was set aside counted.
    pub async fn settle(self, actual: Cost, now: SystemTime) {
        if let Some(account) = &self.account {
            self.budgets
                .0
                .correct(account, self.reserved, actual, now)
                .await;
        }
    }
}

impl Inner {
    fn new(config: &LimitsConfig) -> Self {
        let classes = config.budget.classes.iter().map(|(name, class)| {
            let caps = Caps {
                micros: class.money.map(|money| (money * 1e6).round() as u64),
                tokens: class.tokens,
            };
            (name.clone(), caps)
        });
        Self {
            classes: classes.collect(),
            #[cfg(feature = "redis")]
            nodes: config.nodes.max(1),
            #[cfg(feature = "redis")]
            when_shared_fails: config.when_shared_fails,
            spent: Mutex::default(),
            #[cfg(feature = "redis")]
            shared: None,
        }
    }

    async fn spend(
        &self,
        account: &mut Account,
        cost: Cost,
        now: SystemTime,
    ) -> Result<(), NoBudget> {
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared {
            match shared.spend(&account.user, account.caps, cost).await {
                Ok((true, day, _)) => {
                    (account.day, account.here) = (day, false);
                    return Ok(());
                }
                Ok((false, _, retry_after)) => return Err(NoBudget::Spent { retry_after }),
                Err(_) if self.when_shared_fails == WhenSharedFails::FailClosed => {
                    return Err(NoBudget::Unavailable);
                }
                Err(_) => {
                    return self.spend_here(account, account.caps.share(self.nodes), cost, now);
                }
            }
        }
        self.spend_here(account, account.caps, cost, now)
    }

    fn spend_here(
        &self,
        account: &mut Account,
        caps: Caps,
        cost: Cost,
        now: SystemTime,
    ) -> Result<(), NoBudget> {
        let (mut spent, left) = self.today(now);
        let before = spent.users.get(&account.user).copied();
        let fits = caps.admit(before.unwrap_or_default(), cost);
        if !fits || (before.is_none() && spent.users.len() >= MAX_USERS) {
            return Err(NoBudget::Spent { retry_after: left });
        }
        let total = spent.users.entry(account.user.clone()).or_default();
        *total = total.plus(cost);
        (account.day, account.here) = (spent.day, true);
        Ok(())
    }

    async fn correct(&self, account: &Account, reserved: Cost, actual: Cost, now: SystemTime) {
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared
            && !account.here
        {
            // Without an answer, what was set aside stays counted.
            let _ = shared
                .correct(&account.user, account.day, reserved, actual)
                .await;
            return;
        }
        let (mut spent, _) = self.today(now);
        // What was set aside yesterday is yesterday's.
        if spent.day == account.day
            && let Some(total) = spent.users.get_mut(&account.user)
        {
            total.micros = total.micros.saturating_sub(reserved.micros);
            total.tokens = total.tokens.saturating_sub(reserved.tokens);
            *total = total.plus(actual);
        }
    }

    /// What was spent today, and how long today still lasts. A clock that goes back does not start a new day.
    fn today(&self, now: SystemTime) -> (MutexGuard<'_, Spent>, Duration) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (day, into) = (since.as_secs() / DAY_SECS, since.as_secs() % DAY_SECS);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if day > spent.day {
            *spent = Spent {
                day,
                users: HashMap::new(),
            };
        }
        (spent, Duration::from_secs(DAY_SECS - into))
    }
}

fn user(principal: &Principal, caller: &str) -> String {
    match principal.kind {
        PrincipalKind::Anonymous => super::policy::pseudonym(&[b"caller", caller.as_bytes()]),
        PrincipalKind::User | PrincipalKind::Service => super::policy::user_pseudonym(principal),
    }
}

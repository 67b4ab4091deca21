//! How much a caller may have: rates, sessions, budgets (D1–D6).
//!
//! | Module | Subject | Shared by nodes over Redis |
//! | --- | --- | --- |
//! | [`policy`] | [`Limits`](policy::Limits): what the server asks before it does something | |
//! | [`config`] | what an operator may tune | |
//! | [`gcra`], [`rate`] | rates by address, user and tenant | `redis_rate` |
//! | [`lease`] | sessions at the same time | `redis_lease` |
//! | [`budget`] | money and tokens per day | `redis_budget` |
//! | [`admission`] | what this process takes on at the same time | |
//! | [`headers`] | `RateLimit`, `RateLimit-Policy`, `Retry-After` | |
//!
//! Whoever is refused learns when to come back. A limiter that cannot reach Redis does what the operator chose for that
//! case, at once.

pub mod admission;
pub mod budget;
pub mod circuit;
pub mod config;
pub mod gcra;
pub mod headers;
pub mod lease;
pub mod policy;
pub mod rate;
#[cfg(feature = "redis")]
mod redis_budget;
#[cfg(feature = "redis")]
mod redis_lease;
#[cfg(feature = "redis")]
pub mod redis_rate;

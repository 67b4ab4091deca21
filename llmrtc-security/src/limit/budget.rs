//! Money and tokens per user and day.

use serde::Deserialize;
use validator::Validate;

/// Budgets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {}

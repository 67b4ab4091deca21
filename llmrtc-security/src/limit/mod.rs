//! How much a caller may have: rates, sessions, budgets.

//! Plan, outcome and previous status to new status.

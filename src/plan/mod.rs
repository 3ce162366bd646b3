//! Desired, Observed and the time decide what to do next.

//! Custom resource and what it refers to, resolved and validated.

//! What users write: the five kinds.

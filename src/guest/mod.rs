//! Running things inside guests and on nodes: SSH and pct.

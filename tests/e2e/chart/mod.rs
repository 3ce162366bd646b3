//! The Helm chart: what it renders, what it refuses, and a whole life of a release on a real node.

mod install;
mod plain;
mod reached;
mod render;

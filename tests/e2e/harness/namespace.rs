//! A namespace of a test's own.

use super::cluster::{Cluster, cluster};
use super::kubectl::Kubectl;

/// A fresh namespace; deleted (without waiting) when dropped.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// `kubectl` as administrator in it.
    pub kubectl: Kubectl,
}

impl Namespace {
    /// Creates a namespace named after the test.
    pub fn create(test: &str) -> Self {
        Self::create_in(cluster(), test)
    }

    /// As [`Namespace::create`], in a cluster of the test's own.
    pub fn create_in(cluster: &Cluster, test: &str) -> Self {
        let name = match &cluster.run {
            Some(run) => format!("{test}-{run}"),
            None => test.to_owned(),
        };
        cluster.admin.must(&["create", "namespace", &name]);
        Self {
            kubectl: cluster.admin.within(&name),
            name,
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that failed has said so already.
        let _ = self
            .kubectl
            .run(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
    }
}

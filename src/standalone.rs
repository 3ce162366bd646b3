//! Manifests in, engine run, status out, no cluster.

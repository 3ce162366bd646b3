//! Legacy JSON files to manifests.

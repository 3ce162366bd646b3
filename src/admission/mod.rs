//! The API server's admission checks (schema, defaults, CEL) for manifests that never meet one.

//! What Argo CD and Flux conclude from everything that the operator writes, by their own code.

mod files;
mod moments;
mod scenes;

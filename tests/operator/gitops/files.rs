//! The files that people install: what is made from them is up to date, and their own tests hold.

//! The pipeline, without any I/O.

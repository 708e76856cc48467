//! The composition root of `payd`: the one place that knows every layer.

pub mod args;

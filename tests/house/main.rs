//! House rules: the crate map, import cycles, sizes, and the language. Uses the standard library
//! only, so that `make house` compiles it with rustc alone.

mod documentation;
mod language;
mod map;
mod modules;
mod sizes;
mod source;

//! What a component imports, and what a configuration grants it. Runs none of its code.

pub(in crate::wasm) mod inspect;
pub(in crate::wasm) mod review;

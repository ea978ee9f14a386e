//! What a backend may do, as plain values that do not name the WebAssembly engine.

pub(in crate::wasm) mod denial;
pub(in crate::wasm) mod external;
pub(in crate::wasm) mod granted;
pub(in crate::wasm) mod network;
pub(in crate::wasm) mod open_files;
pub(in crate::wasm) mod overlap;
pub(in crate::wasm) mod secrets;

pub(in crate::wasm) use self::denial::{Denial, DenialLog, Denials, Directories, Mark};
pub(in crate::wasm) use self::secrets::Secrets;

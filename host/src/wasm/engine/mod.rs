//! The engine that all guests share: which features of WebAssembly they may use, and the tick that interrupts them.

pub(in crate::wasm) mod ticker;

use wasmtime::Config;

/// Configures what guests may use of WebAssembly: the features that backends need, and none that is young.
pub(in crate::wasm) fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        .wasm_gc(false)
        .wasm_exceptions(false)
        .wasm_function_references(false)
        .wasm_memory64(false)
        .wasm_threads(false)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false)
        .wasm_tail_call(false)
        .wasm_stack_switching(false)
        .wasm_custom_page_sizes(false);
    config
}

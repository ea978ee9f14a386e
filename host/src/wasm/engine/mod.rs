//! The engine that all guests share: which features of WebAssembly they may use, and the tick that interrupts them.

pub(in crate::wasm) mod ticker;

use wasmtime::Config;

/// How the traps of guests are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wasm) enum Traps {
    /// By handlers of SIGSEGV, SIGILL and SIGFPE, which are installed once for the whole process. If other code of the
    /// process replaces them, a trap ends the process.
    Signals,
    /// By checks in the guest's code.
    Checks,
}

/// Configures what guests may use of WebAssembly: the features that backends need, and none that is young.
pub(in crate::wasm) fn engine_config(traps: Traps) -> Config {
    let mut config = Config::new();
    config
        .signals_based_traps(traps == Traps::Signals)
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

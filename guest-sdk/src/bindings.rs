//! What the generator makes of the contract in `wit/`.
//!
//! The export macro maps the author's bindings to these, so that there is one `Sources`, one `Error` and so on in a
//! component.

macro_rules! generate {
    ($($buffers:tt)*) => {
        wit_bindgen::generate!({
            path: "wit",
            world: "imports",
            with: {
                "wasi:clocks/types@0.3.0": wasip3::clocks::types,
                "wasi:clocks/system-clock@0.3.0": wasip3::clocks::system_clock,
                "wasi:filesystem/types@0.2.1": wasip2::filesystem::types,
                "wasi:filesystem/types@0.3.0": wasip3::filesystem::types,
                $($buffers)*
            },
            additional_derives: [PartialEq, Eq, PartialOrd, Ord, Hash],
            additional_derives_ignore: ["sources", "sinks"],
            generate_unused_types: true,
        });
    };
}

mod generated {
    #[cfg(not(all(feature = "testing", not(target_arch = "wasm32"))))]
    generate!();
    // A test has its buffers in its own memory.
    #[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
    generate!("kvtier:storage/buffers@0.1.0": crate::testing::buffers,);
}

pub use generated::*;

pub mod kvtier {
    pub mod storage {
        pub use crate::bindings::generated::kvtier::storage::*;
        #[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
        pub use crate::testing::buffers;
    }
}

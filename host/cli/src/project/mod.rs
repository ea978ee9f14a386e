//! New projects of backend authors: `kvtier new`.
//!
//! [`files`] makes the files of a project in memory, and [`write`] writes them. Neither starts a program; `tools` asks
//! whether the programs that build the project are installed.

mod name;
mod template;
mod tools;
mod write;

use std::path::PathBuf;

use clap::ValueEnum;

pub use self::name::{Name, NameError};
pub use self::template::{File, files};
pub use self::tools::{Tool, missing, tools};
pub use self::write::write;

/// A language of templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust, with the crate kvtier-guest.
    Rust,
    /// Python, with componentize-py.
    Python,
    /// JavaScript, with componentize-qjs.
    Javascript,
    /// C, with zig or clang.
    C,
}

/// Where the backend of a template keeps chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Medium {
    /// In the memory of the instance.
    Memory,
    /// In files of a granted directory, which survive a restart.
    Files,
}

impl Language {
    /// Returns its name on the command line, which is also that of its folder of templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::C => "c",
        }
    }

    /// Returns the file that building makes, with the names of a template.
    fn component(self) -> &'static str {
        match self {
            Self::Rust => "target/wasm32-wasip2/release/new_backend.wasm",
            Self::Python | Self::Javascript | Self::C => "new_backend.wasm",
        }
    }

    /// Returns the class, with the names of a template. A component that exports the contract's own interface has the
    /// class `Backend`.
    fn class(self) -> &'static str {
        match self {
            Self::Rust => "NewBackend",
            Self::Python | Self::Javascript | Self::C => "Backend",
        }
    }

    /// Returns memory that suffices for the capacity in the project's configuration.
    fn memory(self) -> &'static str {
        match self {
            // The interpreter alone takes 14 MiB.
            Self::Python => "128MiB",
            Self::Rust | Self::Javascript | Self::C => "64MiB",
        }
    }

    /// Returns the commands that build and test a project, in its folder.
    pub fn build_commands(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["cargo build --release --target wasm32-wasip2", "cargo test"],
            Self::Python | Self::C => &[
                "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt",
                "make",
                "make test",
            ],
            Self::Javascript => &["npm install", "npm run build", "npm test"],
        }
    }
}

impl Medium {
    /// Returns its name on the command line, which is also that of its folder of templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }
}

/// The project to make.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name, and that of its folder.
    pub name: Name,
    /// Its language.
    pub language: Language,
    /// Where its backend keeps chunks.
    pub medium: Medium,
    /// The folder of the crate kvtier-guest, instead of the published crate.
    pub sdk: Option<PathBuf>,
}

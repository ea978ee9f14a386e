//! The programs that build and test a project.

use std::process::{Command, Stdio};

use super::Language;

/// A program, and how to install it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What it is called.
    pub name: &'static str,
    /// A command that succeeds where it is installed, and changes nothing.
    probe: &'static [&'static str],
    /// What installs it: a command in the project's folder, or a page.
    pub install: &'static str,
}

const PYTHON: Tool = Tool {
    name: "Python 3.10 or later",
    probe: &["python3", "-c", "import sys; sys.exit(sys.version_info < (3, 10))"],
    install: "Debian: apt-get install python3-venv; others: https://www.python.org",
};
const MAKE: Tool =
    Tool { name: "make", probe: &["make", "--version"], install: "Debian: apt-get install make" };

/// Returns the programs that projects in a language need.
pub fn tools(language: Language) -> &'static [Tool] {
    match language {
        Language::Rust => {
            &[Tool { name: "rustup", probe: &["rustup", "--version"], install: "https://rustup.rs" }]
        }
        Language::Python => &[
            PYTHON,
            MAKE,
            Tool {
                name: "componentize-py",
                probe: &["componentize-py", "--version"],
                install: "pip install -r requirements.txt",
            },
        ],
        Language::Javascript => &[Tool {
            name: "npm",
            probe: &["npm", "--version"],
            install: "Debian: apt-get install npm; others: https://nodejs.org",
        }],
        Language::C => &[
            MAKE,
            Tool {
                name: "zig",
                probe: &["python3", "-m", "ziglang", "version"],
                install: "pip install -r requirements.txt (or use clang, as Makefile says)",
            },
        ],
    }
}

/// Returns the tools that are not installed here.
pub fn missing(language: Language) -> Vec<Tool> {
    tools(language).iter().filter(|tool| !is_installed(tool)).copied().collect()
}

fn is_installed(tool: &Tool) -> bool {
    let [program, arguments @ ..] = tool.probe else { return false };
    let mut probe = Command::new(program);
    probe.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

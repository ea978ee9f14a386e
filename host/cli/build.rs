//! Compiles the command again when a template is added: `include_dir` notices changes of files only.

fn main() {
    println!("cargo::rerun-if-changed=templates");
    println!("cargo::rerun-if-changed=wit");
}

//! The extension is built, and Python would find its module. What it does is tested in Python, in `tests/python`.

use std::{env, fs};

#[test]
fn the_library_has_the_module() {
    let own = env::current_exe().unwrap();
    let folders = own.ancestors().skip(1).take(2);
    let name = format!("{}kvtier_python{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let library = folders.map(|folder| folder.join(&name)).find(|path| path.exists());
    let library = fs::read(library.expect("the extension lies beside the tests")).unwrap();
    let module = b"PyInit__kvtier";
    assert!(library.windows(module.len()).any(|bytes| bytes == module));
}

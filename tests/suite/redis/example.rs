//! Runs the example of two nodes, with the files and the commands of its folder.

use std::path::{Path, PathBuf};

use kvtier_servers::redis::available;

use super::{needs_redis, size, start};
use crate::support;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/shared-redis");

/// Copies a node's file, with the server's address and the absolute path of the component.
fn configuration(node: &str, folder: &Path, addr: std::net::SocketAddr) -> PathBuf {
    let text = std::fs::read_to_string(Path::new(FOLDER).join(node)).unwrap();
    let module = "../../../target/kvtier-guests/redis.wasm";
    assert!(text.contains(module) && text.matches("127.0.0.1:6379").count() == 2, "{text}");
    let text = support::patient_example(&text).replace("127.0.0.1:6379", &addr.to_string());
    let path = folder.join(node);
    std::fs::write(&path, text.replace(module, &support::component("redis").display().to_string())).unwrap();
    path
}

#[test]
fn what_node_a_of_the_example_stores_node_b_finds() {
    needs_redis!();
    let (redis, mut client) = start();
    let folder = tempfile::tempdir().unwrap();
    let readme = std::fs::read_to_string(Path::new(FOLDER).join("README.md")).unwrap();
    let commands: Vec<_> =
        readme.lines().filter_map(|line| line.strip_prefix("target/release/kvtier ")).collect();
    assert_eq!(commands.len(), 3);
    let nodes =
        ["node-a.yaml", "node-b.yaml"].map(|node| (node, configuration(node, folder.path(), redis.addr())));
    let mut said = Vec::new();
    for command in commands {
        let words = command.split_whitespace().map(|word| {
            let node = nodes.iter().find(|(node, _)| word.ends_with(node)).map(|(_, path)| path.clone());
            node.unwrap_or_else(|| match word.strip_prefix("target/") {
                Some(file) => folder.path().join(file),
                None => word.into(),
            })
        });
        let output = support::kvtier().env("XDG_CACHE_HOME", folder.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        said.push(String::from_utf8(output.stdout).unwrap());
    }
    // The output is that of the page, except for times.
    let tables: Vec<_> =
        readme.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    for (table, said) in tables.iter().zip(&said[1..]) {
        for line in table.lines().filter(|line| !line.is_empty()) {
            assert!(said.contains(line), "{line}\n{said}");
        }
    }
    assert!(readme.contains(&format!("`redis-cli dbsize` prints {}", size(&mut client))));
}

//! `kvtier check` and `kvtier dev` as their users see them.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support;

/// Returns `kvtier` with these words, to run in `folder`, where it has its cache.
fn kvtier(folder: &Path, words: &str) -> Command {
    let mut command = support::kvtier();
    command.args(words.split_whitespace()).current_dir(folder).env("XDG_CACHE_HOME", folder);
    command
}

/// Runs a command, and returns its exit code, what it printed, and its errors.
fn run(folder: &Path, words: &str) -> (Option<i32>, String, String) {
    let output = kvtier(folder, words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Returns all files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Returns a folder with components.
fn folder(components: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in components {
        fs::copy(support::component(name), folder.path().join(format!("{name}.wasm"))).unwrap();
    }
    folder
}

#[test]
fn a_class_that_keeps_the_contract_ends_with_0_and_one_that_breaks_it_with_3_and_its_sentence() {
    let folder = folder(&["broken"]);
    fs::create_dir(folder.path().join("data")).unwrap();
    let words =
        "check broken.wasm --set config.capacity=4MiB --set limits.memory=16MiB --set allow.fs=data:/data:rw";
    let (code, text, errors) = run(folder.path(), &format!("{words} --quick"));
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with("BrokenBackend in "), "the only class need not be named: {text}");
    assert!(text.contains(" 0 broken, 1 not tried") && text.contains("near-memory-limit"), "{text}");

    fs::rename(folder.path().join("broken.wasm"), folder.path().join("broken&.wasm")).unwrap();
    let words = format!("{words} --set config.fault=get-order").replace("broken.wasm", "broken&.wasm");
    let (code, text, errors) = run(folder.path(), &format!("{words} --only get-order --report report.html"));
    assert_eq!(code, Some(3), "{errors}");
    assert_eq!(errors, "error: `BrokenBackend` breaks 1 sentence of the contract: get-order\n");
    let parts = [
        "BROKEN get-order (get): ",
        "  call      get of [",
        "  expected  the chunk",
        "  found ",
        "  likely ",
        "  do ",
    ];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let report = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("breaks the contract") && report.ends_with("</html>\n"), "{report}");
    let shown = ["broken&amp;.wasm", "get-order", "BROKEN", "Not tried"];
    assert!(shown.iter().all(|text| report.contains(text)) && !report.contains("broken&.wasm"), "{report}");
    for outside in ["http:", "https:", "src=", "href=", "url(", "<script", "<link"] {
        assert!(!report.contains(outside), "the report has {outside}");
    }

    let (code, text, _) = run(folder.path(), &format!("{words} --only get-order --json"));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["kept"]), (Some(3), &Value::Bool(false)));
    let sentences = json["sentences"].as_array().unwrap();
    let broken = sentences.iter().find(|sentence| sentence["outcome"] == "broken").unwrap();
    assert_eq!(broken["id"], "get-order");
    for field in ["call", "expected", "found", "cause", "remedy", "text"] {
        assert!(broken[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {broken}");
    }
}

#[test]
fn what_cannot_be_checked_is_named_with_what_to_do() {
    let folder = folder(&["memory"]);
    let backends = "a.module_path: memory.wasm, a.class_name: MemoryBackend, b.module_path: memory.wasm, b.class_name: MemoryBackend";
    let backends =
        backends.split(", ").flat_map(|line| ["  external_backend.", line, "\n"]).collect::<String>();
    fs::write(folder.path().join("two.yaml"), format!("external_backends: a, b\nextra_config:\n{backends}"))
        .unwrap();
    for (words, expected) in [
        (
            "check memory.wasm",
            "exports MemoryBackend, LruMemoryBackend; name the class that is to be checked\n",
        ),
        ("check none.wasm", "error: cannot open the component none.wasm\n"),
        ("check memory.wasm MemoryBackend --only nothing", "error: no sentence is called `nothing`; "),
        (
            "check memory.wasm MemoryBackend --set config.a=1 --set config.a=2",
            "error: --set config.a is given twice",
        ),
        (
            "check memory.wasm MemoryBackend --set class_name=X",
            "error: --set class_name is given twice, or stands",
        ),
        (
            "check memory.wasm MemoryBackend --set limits.memory=1",
            "error: the options make no valid configuration\n",
        ),
        (
            "check --config two.yaml",
            "error: the configuration has several backends; name one of them with --backend: a, b\n",
        ),
        ("check --config two.yaml --backend c", "error: the configuration has no backend `c`; it has a, b\n"),
        ("dev none.wasm", "error: none.wasm does not exist; build the component first\n"),
    ] {
        let (code, _, errors) = run(folder.path(), words);
        assert_eq!(code, Some(1), "{words}: {errors}");
        assert!(errors.contains(expected), "{words}: {errors}");
    }
    for words in ["check", "dev"] {
        let (code, _, errors) = run(folder.path(), words);
        assert!(code == Some(2) && errors.contains(" --config <FILE>\n"), "{words}: {errors}");
    }
}

#[test]
fn a_backend_of_a_configuration_is_checked_with_its_settings() {
    let folder = folder(&["memory"]);
    let lines =
        "module_path: memory.wasm\nclass_name: MemoryBackend\nconfig.capacity: 2MiB\nlimits.memory: 8MiB\n";
    let lines = lines.lines().flat_map(|line| ["  external_backend.a.", line, "\n"]).collect::<String>();
    fs::write(folder.path().join("one.yaml"), format!("external_backends: a\nextra_config:\n{lines}"))
        .unwrap();
    let words = "check --config one.yaml --only near-memory-limit --json";
    let (code, text, errors) = run(folder.path(), words);
    assert_eq!(code, Some(0), "{errors}");
    let json: Value = serde_json::from_str(&text).unwrap();
    let notes = json["notes"].as_array().unwrap();
    let is_bounded =
        |note: &Value| note["text"].as_str().is_some_and(|text| text.starts_with("full after 2"));
    assert!(notes.iter().any(is_bounded), "{text}");
}

#[test]
fn the_sentences_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text, _) = run(folder.path(), "check --list");
    assert_eq!((code, text.lines().count()), (Some(0), kvtier_check::sentences().count() + 1), "{text}");
    let (_, text, _) = run(folder.path(), "check --list --json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["sentences"].as_array().unwrap().len(), kvtier_check::sentences().count());
}

/// `kvtier dev`, which ends with the test.
struct Dev {
    process: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Dev {
    fn start(folder: &Path, words: &str) -> Self {
        let mut command = kvtier(folder, words);
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Reads up to a line with this text. Blocks until it comes; the harness ends a test that hangs.
    fn until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            assert!(!line.contains('\x1b'), "{line}");
            read.push(line);
            if read.last().is_some_and(|line| line.contains(text)) {
                return read.join("\n");
            }
        }
        panic!("it ended before `{text}`: {}", read.join("\n"));
    }

    /// Ends it as Ctrl-C does.
    fn end(mut self) {
        let id = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        self.until("ended");
        assert_eq!(self.process.0.wait().unwrap().code(), Some(0));
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already if the test passed.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}

#[test]
fn dev_judges_each_new_component_and_ends_on_ctrl_c() {
    let folder = folder(&["memory", "map"]);
    let path = folder.path().join("mine.wasm");
    fs::rename(folder.path().join("map.wasm"), &path).unwrap();
    let mut dev = Dev::start(folder.path(), "dev mine.wasm --set limits.memory=12MiB");
    let mut until = |text: &str| dev.until(text);
    let first = until("watching mine.wasm; Ctrl-C ends");
    assert!(
        first.contains("MapBackend in ")
            && first.contains("KEPT: ")
            && first.contains("replay of 100 requests")
            && !first.contains(", check 0)"),
        "{first}"
    );

    // As a build does: another file takes the place.
    fs::rename(folder.path().join("memory.wasm"), &path).unwrap();
    let second = until("watching ");
    assert!(second.contains("exports MemoryBackend, LruMemoryBackend; name the class"), "{second}");

    fs::copy(support::component("broken"), folder.path().join("part")).unwrap();
    fs::rename(folder.path().join("part"), &path).unwrap();
    let third = until("watching ");
    assert!(third.contains("BrokenBackend in "), "{third}");

    dev.end();
}

#[test]
fn dev_finds_nothing_of_its_last_replay_and_leaves_no_chunk() {
    let folder = folder(&["fs"]);
    fs::create_dir(folder.path().join("data")).unwrap();
    let words = "dev fs.wasm --set config.root=/data --set allow.fs=data:/data:rw";
    let mut dev = Dev::start(folder.path(), words);
    let mut replayed = || {
        let text = dev.until("watching ");
        let line = text.lines().find(|line| line.starts_with("replay of"));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        // How many of the hits are whose depends on the speed of the puts.
        line.split(['(', ')']).step_by(2).collect::<String>()
    };
    let first = replayed();
    fs::copy(folder.path().join("fs.wasm"), folder.path().join("again")).unwrap();
    fs::rename(folder.path().join("again"), folder.path().join("fs.wasm")).unwrap();
    assert_eq!(replayed(), first);
    dev.end();
    let left = files_below(&folder.path().join("data"));
    assert!(left.iter().all(|path| path.metadata().unwrap().len() < 64), "{left:?}");
}

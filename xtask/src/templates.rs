//! The templates of `kvtier new`: makes a project of each, builds it with its language's own tools, runs its tests,
//! checks the component, and puts it into a chain.
//!
//! Tools come from PyPI and npm, in the versions that the projects name, and stay in `target/templates`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guests;
use crate::python::{Environment, find_python};
use crate::servers;
use crate::step::{Runner, cargo, is_on_path};

/// A language, and the name that switches its templates off.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Language {
    name: &'static str,
    switch: Option<&'static str>,
}

/// Rust comes first: it needs what the repository needs, and nothing else.
const LANGUAGES: [Language; 4] = [
    Language { name: "rust", switch: None },
    Language { name: "python", switch: Some("template-python") },
    Language { name: "javascript", switch: Some("template-javascript") },
    Language { name: "c", switch: Some("template-c") },
];

/// The names that switch languages off.
pub(crate) fn switches() -> impl Iterator<Item = &'static str> {
    LANGUAGES.iter().filter_map(|language| language.switch)
}

/// Where backends of templates keep chunks.
const MEDIA: [&str; 2] = ["memory", "files"];

/// Requests of the trace, and the chunks of the CPU tier: so few that most chunks come from the backend.
const REQUESTS: &str = "60";
const CAPACITY_CHUNKS: &str = "20";
const CHUNK_BYTES: &str = "65536";

/// What the steps of all templates need.
struct Bench {
    /// The folder of projects and tools.
    folder: PathBuf,
    kvtier: PathBuf,
    trace: PathBuf,
}

/// A project that was made.
struct Project {
    name: String,
    folder: PathBuf,
}

/// Tries all templates, except those of languages that `without` switches off. The command has been built.
pub(crate) fn test(runner: &mut Runner, without: &str) -> Result<()> {
    let bench = Bench::new(runner)?;
    for language in LANGUAGES {
        if language.switch.is_some_and(|switch| without.split(',').any(|off| off == switch)) {
            // `servers::ensure` has printed that they are not tested.
            continue;
        }
        for medium in MEDIA {
            let project = bench.make(runner, language, medium)?;
            bench
                .build(runner, language, &project)
                .with_context(|| format!("the template for {} on {medium} does not build", language.name))?;
            bench.check(runner, &project)?;
            if medium == "memory" && ["c", "python"].contains(&language.name) {
                bench.check_behind_middleware(runner, &project)?;
            }
            bench.run_in_chain(runner, &project, medium)?;
        }
    }
    Ok(())
}

/// Builds the command, then tries the templates.
pub(crate) fn run(runner: &mut Runner, without: Option<String>) -> Result<()> {
    let without = servers::switched_off(without)?;
    // With the dependencies' features of the tests, as a build without them would compile wasmtime again.
    runner.cargo("kvtier", "test", &["--workspace", "--test", "cli", "--no-run"])?;
    test(runner, &without)?;
    runner.done("all templates build and run");
    Ok(())
}

impl Bench {
    fn new(runner: &mut Runner) -> Result<Self> {
        let target = &runner.workspace.target;
        let folder = target.join("templates");
        let projects = folder.join("projects");
        if projects.exists() {
            fs::remove_dir_all(&projects).with_context(|| format!("cannot remove {}", projects.display()))?;
        }
        fs::create_dir_all(&projects).with_context(|| format!("cannot make {}", projects.display()))?;
        let kvtier = target.join("debug").join(format!("kvtier{}", std::env::consts::EXE_SUFFIX));
        let bench = Self { trace: folder.join("chats.jsonl"), folder, kvtier };
        let mut generate = bench.kvtier();
        generate.args(["generate", "--requests", REQUESTS, "--sessions", "8", "--seed", "1", "--out"]);
        runner.run("trace", generate.arg(&bench.trace))?;
        Ok(bench)
    }

    /// Returns the command, which keeps compiled code here.
    fn kvtier(&self) -> Command {
        let mut kvtier = Command::new(&self.kvtier);
        kvtier.env("XDG_CACHE_HOME", self.folder.join("compiled"));
        kvtier
    }

    fn make(&self, runner: &mut Runner, language: Language, medium: &str) -> Result<Project> {
        let projects = self.folder.join("projects");
        let name = format!("{}-on-{medium}", language.name);
        let mut new = self.kvtier();
        new.args(["new", &name, "--lang", language.name, "--on", medium, "--in"]).arg(&projects);
        if language.name == "rust" {
            new.args(["--sdk", "guest-sdk"]);
        }
        runner.run("new project", &mut new)?;
        let folder = projects.join(&name);
        Ok(Project { name, folder })
    }

    /// Builds a project and runs its own tests.
    fn build(&self, runner: &mut Runner, language: Language, project: &Project) -> Result<()> {
        match language.name {
            "rust" => self.build_rust(runner, project),
            "javascript" => build_javascript(runner, project),
            _ => self.build_with_make(runner, language, project),
        }
    }

    /// Takes the versions of this repository's dependencies, which are downloaded already.
    fn build_rust(&self, runner: &mut Runner, project: &Project) -> Result<()> {
        let lock = runner.workspace.root.join("Cargo.lock");
        fs::copy(lock, project.folder.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
        let built = self.folder.join("cargo");
        fs::create_dir_all(&built)?;
        symlink(&built, project.folder.join("target")).context("cannot link the target folder")?;
        let manifest = project.folder.join("Cargo.toml").display().to_string();
        let run = |runner: &mut Runner, command: &str, arguments: &[&str]| {
            let mut cargo = cargo(command, &["--manifest-path", &manifest]);
            // The projects share what they compile.
            runner.run(&project.name, cargo.args(arguments).env("CARGO_TARGET_DIR", &built))
        };
        run(runner, "fmt", &["--check"])?;
        run(runner, "build", &["--offline", "--release", "--target", "wasm32-wasip2"])?;
        run(runner, "test", &["--offline", "--quiet"])
    }

    fn build_with_make(&self, runner: &mut Runner, language: Language, project: &Project) -> Result<()> {
        let python = find_python()?.context(
            "the tools come from PyPI, which needs Python 3.11 or later; Debian: apt-get install python3-venv",
        )?;
        let requirements = project.folder.join("requirements.txt");
        let environment = self.folder.join(format!("{}-environment", language.name));
        let environment = Environment::ensure(runner, &python, environment, &requirements)?;
        for goals in [&[][..], &["test"]] {
            let mut make = Command::new("make");
            make.arg("-C").arg(&project.folder).arg(format!("KVTIER={}", self.kvtier.display()));
            make.env("PATH", environment.search_path()?).env("PYTHONDONTWRITEBYTECODE", "1");
            // zig builds its C library once, and keeps it here.
            make.env("ZIG_GLOBAL_CACHE_DIR", self.folder.join("zig")).args(goals);
            runner.run(&project.name, &mut make)?;
        }
        Ok(())
    }

    /// Checks the component against each sentence of the contract.
    fn check(&self, runner: &mut Runner, project: &Project) -> Result<()> {
        let mut check = self.kvtier();
        check.args(["check", "--quick", "--config"]).arg(project.folder.join("kvtier.yaml"));
        runner.run("check", &mut check)
    }

    /// Composes the example middleware with a project's component, and checks both as one backend.
    fn check_behind_middleware(&self, runner: &mut Runner, project: &Project) -> Result<()> {
        let middleware = guests::folder(runner.workspace).join("middleware.wasm");
        let component = project.folder.join(format!("{}.wasm", project.name.replace('-', "_")));
        let both = self.folder.join(format!("admitting-{}.wasm", project.name));
        let mut compose = self.kvtier();
        runner
            .run("compose", compose.arg("compose").arg(middleware).arg(component).arg("--out").arg(&both))?;
        let mut check = self.kvtier();
        check.args(["check", "--quick"]).arg(&both);
        // All chunks are admitted at their first put, so that the sentences about puts mean something.
        for setting in ["config.admission.puts=1", "config.capacity=33554432", "limits.memory=128MiB"] {
            check.args(["--set", setting]);
        }
        runner.run("check behind the middleware", &mut check)
    }

    /// Replays the trace twice, each time in a new process, as a judge. Files are found by the second one.
    fn run_in_chain(&self, runner: &mut Runner, project: &Project, medium: &str) -> Result<()> {
        let config = project.folder.join("kvtier.yaml");
        let mut hits = Vec::new();
        for _ in 0..2 {
            let report = self.folder.join("replay.json");
            let mut replay = self.kvtier();
            replay.arg("replay").arg(&self.trace).arg("--config").arg(&config);
            replay.args(["--strict", "--json", "--chunk-bytes", CHUNK_BYTES]);
            replay.args(["--capacity-chunks", CAPACITY_CHUNKS]);
            let output = fs::File::create(&report)?;
            runner.run("replay", replay.stdout(output))?;
            let replayed: serde_json::Value = serde_json::from_slice(&fs::read(&report)?)?;
            hits.push(replayed["hits"][&project.name].as_u64().unwrap_or_default());
        }
        eprintln!("    {}: {} chunks of a first process, {} of a second one", project.name, hits[0], hits[1]);
        ensure!(hits[0] > 0, "{}: the backend served no chunk", project.name);
        ensure!(
            medium != "files" || hits[1] > hits[0],
            "{}: a new process did not find the files of the one before",
            project.name
        );
        Ok(())
    }
}

fn build_javascript(runner: &mut Runner, project: &Project) -> Result<()> {
    ensure!(
        is_on_path("npm"),
        "there is no `npm` on PATH (Debian: apt-get install npm); leave these templates out with \
         `--without template-javascript`"
    );
    for words in
        [&["install", "--no-audit", "--no-fund", "--prefer-offline"][..], &["run", "build"], &["test"]]
    {
        let mut npm = Command::new("npm");
        npm.arg("--prefix").arg(&project.folder).args(words);
        runner.run(&project.name, &mut npm)?;
    }
    Ok(())
}

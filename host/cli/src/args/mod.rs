//! The command line.
#![expect(clippy::doc_markdown, reason = "the comments are the help text, which shows no markup")]

mod author;
mod check;
mod compose;
mod generate;
mod replay;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::author::{ComponentizeArgs, NewArgs};
pub use self::check::{CheckArgs, DevArgs, SubjectArgs};
pub use self::compose::ComposeArgs;
pub use self::generate::{GenerateArgs, TraceCommand};
pub use self::replay::ReplayArgs;

/// The path that stands for the standard input.
pub const STANDARD_INPUT: &str = "-";

/// Tiered storage for the KV cache of large language models.
#[derive(Debug, Parser)]
#[command(
    name = "kvtier",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a backend failed a judgement. Each command's help explains its failures.\n\n\
                  Log lines go to the standard error. -v and -q set their level, else the variables KVTIER_LOG and \
                  RUST_LOG do. The default is warn."
)]
pub struct Cli {
    /// How much is logged.
    #[command(flatten)]
    pub verbosity: Verbosity,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Log more: -v info, -vv debug, -vvv trace.
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 900)]
    pub verbose: u8,

    /// Log errors only, and show no progress.
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 901)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a trace of requests through a chain of tiers and verify every byte that comes back.
    ///
    /// For each request: look up its prefix, retrieve it and compare every byte with the content that belongs to the
    /// chunk's key, then offer all chunks of the request to all tiers. One block of the trace is one chunk, whatever
    /// chunk_size is.
    #[command(
        after_help = "Exit codes: 0 if all bytes were right, 1 if a tier served wrong bytes or the replay \
                            failed, 2 for wrong usage, 3 if a backend broke the contract or trapped."
    )]
    Replay(ReplayArgs),
    /// Check whether a backend keeps the contract, sentence by sentence.
    ///
    /// Each sentence that is broken is shown with the call, the expected and the found answer, the likely cause, and
    /// the way to do it right. What is allowed and worth knowing is a note.
    /// Warnings are not logged, because the tests provoke them; -v logs them.
    #[command(
        after_help = "Exit codes: 0 if the backend keeps what was tried, 1 if it could not be checked, 2 for wrong \
                            usage, 3 if it breaks the contract or traps."
    )]
    Check(CheckArgs),
    /// Check a backend again whenever its component or its configuration changes, until Ctrl-C.
    ///
    /// Each time a new engine is started, and the quick part of `kvtier check` and a short replay run.
    #[command(
        after_help = "Exit codes: 0 after Ctrl-C, 1 if what is watched does not exist, 2 for wrong usage."
    )]
    Dev(DevArgs),
    /// Generate a trace of multi-turn chats with shared system prompts.
    ///
    /// Equal arguments give equal traces on every machine. Lengths are typical values: each draw is between half and
    /// twice of them.
    #[command(after_help = "Exit codes: 0 success, 1 if the trace cannot be written, 2 wrong usage.")]
    Generate(GenerateArgs),
    /// Another spelling of `generate`.
    #[command(subcommand, hide = true)]
    Trace(TraceCommand),
    /// Show a component's classes, whether they fulfil the contract, and which grants its imports need.
    ///
    /// Runs none of the component's code.
    #[command(
        after_help = "Exit codes: 0 if a configuration can use the component, 1 if not or if it cannot be read, \
                            2 for wrong usage."
    )]
    Inspect(InspectArgs),
    /// Show what each backend of a configuration asks for, what it is granted, and the difference.
    ///
    /// Compiles the components but runs none of their code. Whether directories, hosts and secrets exist is known when
    /// the engine starts.
    #[command(
        after_help = "Exit codes: 0 if all components can be loaded, 1 if not or if the configuration is \
                            invalid, 2 for wrong usage."
    )]
    Config(ConfigArgs),
    /// Compile components into the cache of compiled code, so that a host loads them at once.
    ///
    /// Each component is compiled in its own process, within the limits kvtier.compile_memory, kvtier.compile_cpu_secs
    /// and kvtier.compile_timeout_ms. Digests that the configuration pins are checked first. The cache must belong to
    /// the user that runs the host.
    #[command(
        after_help = "Exit codes: 0 if all components are in the cache, 1 if some could not be compiled (the \
                            others are), 2 for wrong usage."
    )]
    Compile(CompileArgs),
    /// Make a project for a new backend: sources, tests, a configuration that runs it, and how to build it.
    ///
    /// The project builds with the language's own tools. It carries what it needs of this kvtier's contract.
    #[command(
        after_help = "Exit codes: 0 success, 1 if the folder exists or cannot be written, or the name cannot be \
                            used, 2 for wrong usage."
    )]
    New(NewArgs),
    /// Make a component of a core module, as a C compiler writes it.
    ///
    /// The module describes its imports and exports: link the object that belongs to the bindings.
    #[command(
        after_help = "Exit codes: 0 success, 1 if the module does not describe a component or cannot be read, 2 \
                            for wrong usage."
    )]
    Componentize(ComponentizeArgs),
    /// Join a backend with one in front of it, such as a cache or a filter of chunks, to one component.
    ///
    /// The component in front imports the contract's interface kvtier:storage/backend, the one behind exports it. The
    /// result is used like any other component: its classes are those of the component in front.
    #[command(
        after_help = "Exit codes: 0 success, 1 if the components do not fit or a file cannot be read or written, \
                            2 for wrong usage."
    )]
    Compose(ComposeArgs),
    /// Print the completions of a shell.
    ///
    /// For instance: kvtier completions bash > ~/.local/share/bash-completion/completions/kvtier
    Completions(CompletionsArgs),
    /// The compiler that the other commands and the library start: one component from the standard input.
    #[command(name = kvtier::__internal::wasm::COMPILER_COMMAND, hide = true)]
    CompileOne(CompileOneArgs),
}

/// `kvtier inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The component.
    #[arg(value_name = "COMPONENT", required_unless_present = "config", conflicts_with = "config")]
    pub component: Option<PathBuf>,

    /// Another spelling of `kvtier config FILE`.
    #[arg(long, value_name = "FILE", hide = true)]
    pub config: Option<PathBuf>,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `kvtier config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration. Without it: the file that LMCACHE_CONFIG_FILE names, or the variables LMCACHE_* alone.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `kvtier compile`.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// Components to compile, besides those of the configuration.
    #[arg(value_name = "COMPONENT", required_unless_present = "config")]
    pub components: Vec<PathBuf>,

    /// Configuration in LMCache's form (YAML), which names components, the cache and the limits.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Directory of the cache, instead of kvtier.compile_cache.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `kvtier completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The words of the library's own protocol.
#[derive(Debug, Args)]
pub struct CompileOneArgs {
    /// What to compile, and within which limits.
    #[arg(value_name = "KEY=VALUE", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;
    use kvtier::EvictionPolicy;

    use super::*;
    use crate::presets::Preset;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn replay(line: &str) -> ReplayArgs {
        match parse(line).unwrap().command {
            Command::Replay(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent_and_documents_every_flag() {
        fn check(command: &clap::Command) {
            for arg in
                command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
            {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    #[test]
    fn a_replay_takes_all_its_options() {
        let args = replay(
            "kvtier replay t.jsonl --config c.yaml --model Llama-3-8B --capacity-chunks 10 --policy lru \
             --requests 5 --json --report r.html",
        );
        assert_eq!((args.model, args.policy), (Some(Preset::Llama3_8b), Some(EvictionPolicy::Lru)));
        assert_eq!((args.capacity_chunks.map(u64::from), args.requests.map(u64::from)), (Some(10), Some(5)));
        assert!(args.json && args.report.is_some() && args.config.is_some());
        assert_eq!((args.trace(), args.chunk_bytes.get()), (Path::new("t.jsonl"), 4096));
    }

    #[test]
    fn former_spellings_are_understood() {
        assert_eq!(replay("kvtier replay --trace t.jsonl").trace(), Path::new("t.jsonl"));
        let trace = parse("kvtier trace generate --requests 1").unwrap().command;
        assert!(matches!(trace, Command::Trace(TraceCommand::Generate(_))), "{trace:?}");
        let inspect = parse("kvtier inspect --config c.yaml").unwrap().command;
        assert!(matches!(inspect, Command::Inspect(InspectArgs { config: Some(_), .. })), "{inspect:?}");
    }

    #[test]
    fn verbosity_is_set_before_or_after_the_command() {
        for line in ["kvtier -vv replay t", "kvtier replay t -v -v", "kvtier replay t --verbose --verbose"] {
            assert_eq!(parse(line).unwrap().verbosity.verbose, 2, "{line}");
        }
        assert!(parse("kvtier replay -q t").unwrap().verbosity.quiet);
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "kvtier replay",
            "kvtier replay t --trace t",
            "kvtier replay t u",
            "kvtier replay t --chunk-bytes 0",
            "kvtier replay t --chunk-bytes 1 --model llama-3-8b",
            "kvtier replay t --model gpt-2",
            "kvtier replay t --policy random",
            "kvtier replay t --requests -1",
            "kvtier replay t -q -v",
            "kvtier generate",
            "kvtier generate --requests 1 --sessions 0",
            "kvtier inspect",
            "kvtier inspect a.wasm --config b.yaml",
            "kvtier compile",
            "kvtier compile --cache-dir d",
            "kvtier check a.wasm --config b.yaml",
            "kvtier check --config b.yaml --set config.a=1",
            "kvtier check a.wasm --backend disk",
            "kvtier check a.wasm --set capacity",
            "kvtier check a.wasm --set =1",
            "kvtier check a.wasm --quick --only put-then-get",
            "kvtier check a.wasm --patience 0",
            "kvtier compose a.wasm -o c.wasm",
            "kvtier compose a.wasm b.wasm",
            "kvtier completions cmd.exe",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}

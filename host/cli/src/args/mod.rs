//! The command line.
#![expect(clippy::doc_markdown, reason = "the comments are the help text, which shows no markup")]

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::presets::Preset;

/// Tiered storage for the KV cache of large language models.
#[derive(Debug, Parser)]
#[command(
    name = "kvtier",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Log lines go to the standard error; KVTIER_LOG, or else RUST_LOG, says how many (default: warn)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a trace of requests through a chain of tiers, and verify every byte that comes back.
    ///
    /// For each request: look up its prefix, retrieve what is there and compare every byte with what the chunk's key
    /// says, then offer all chunks of the request to all tiers. One block of the trace is one chunk, whatever
    /// chunk_size says. Ends with exit code 1 if a tier serves wrong bytes.
    Replay(ReplayArgs),
    /// Make traces.
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Show a component's classes, whether they fulfil the contract, and what its imports are granted by.
    ///
    /// With --config: what each backend of a configuration asks for, what it is granted, and the difference.
    ///
    /// Runs none of the component's code. Ends with exit code 1 if no configuration can use the component, or if the
    /// component of a backend of the configuration cannot be loaded. Whether directories, names and secrets exist shows
    /// when the engine starts.
    Inspect(InspectArgs),
    /// Compile components into the cache of compiled code, so that a host loads them at once.
    ///
    /// Each component is compiled by a process of its own, within the limits kvtier.compile_memory,
    /// kvtier.compile_cpu_secs and kvtier.compile_timeout_ms; digests that the configuration pins are checked before.
    /// The cache must belong to the user that runs the host. Ends with exit code 1 if a component could not be
    /// compiled; the others are.
    Compile(CompileArgs),
    /// The compiler that the other commands and the library start: one component from the standard input.
    #[command(name = kvtier::wasm::COMPILER_COMMAND, hide = true)]
    CompileOne(CompileOneArgs),
}

/// The eviction policy of the CPU tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Least recently used first.
    Lru,
    /// Least often used first.
    Lfu,
    /// Oldest first.
    Fifo,
    /// Most recently used first.
    Mru,
    /// Three queues: what came once goes before what came again.
    S3Fifo,
    /// Oldest first, but once spared for each use.
    Sieve,
}

/// `kvtier replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Configuration in LMCache's form (YAML). Without it: a CPU tier alone. Whatever it says, a replay waits where a
    /// queue is full, and stops if a backend cannot be loaded.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Trace: one JSON object a line with timestamp, input_length, output_length and hash_ids.
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,

    /// Payload of a chunk, in bytes.
    #[arg(long, value_name = "N", default_value_t = NonZeroU64::new(4096).expect("4096 is not 0"), conflicts_with = "model")]
    pub chunk_bytes: NonZeroU64,

    /// Take the chunk size of a model instead, for the configured chunk_size.
    #[arg(long, value_name = "MODEL", ignore_case = true)]
    pub model: Option<Preset>,

    /// Capacity of the CPU tier in chunks, in the place of max_local_cpu_size.
    #[arg(long, value_name = "N")]
    pub capacity_chunks: Option<NonZeroU64>,

    /// Eviction policy of the CPU tier, in the place of the configured one.
    #[arg(long, value_name = "NAME", ignore_case = true)]
    pub policy: Option<Policy>,

    /// Replay only the first N requests.
    #[arg(long, value_name = "N")]
    pub requests: Option<NonZeroU64>,

    /// Print one JSON object instead of tables, and no progress bar.
    #[arg(long)]
    pub json: bool,

    /// Write a report: one HTML file that needs no other.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// `kvtier trace`.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Generate multi-turn chats with shared system prompts.
    ///
    /// Equal arguments give equal traces, on every machine. Lengths are the usual ones: single values lie between
    /// half and twice of them.
    Generate(GenerateArgs),
}

/// `kvtier trace generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Number of requests.
    #[arg(long, value_name = "N")]
    pub requests: NonZeroU64,

    /// Decides everything random.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Chats that are open at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub sessions: u64,

    /// Distinct system prompts.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub system_prompts: u64,

    /// Tokens of a system prompt.
    #[arg(long, value_name = "N", default_value_t = 2_048, value_parser = tokens())]
    pub system_tokens: u64,

    /// Tokens of a message.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = tokens())]
    pub message_tokens: u64,

    /// Tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = tokens())]
    pub answer_tokens: u64,

    /// Turns of a chat.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub turns: u64,

    /// Where to write; without it, to the standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `kvtier inspect`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct InspectArgs {
    /// The component.
    #[arg(value_name = "FILE.wasm")]
    pub component: Option<PathBuf>,

    /// A configuration, whose backends are compared with their components.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `kvtier compile`.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// Components to compile, beside those of the configuration.
    #[arg(value_name = "FILE.wasm", required_unless_present = "config")]
    pub components: Vec<PathBuf>,

    /// Configuration in LMCache's form (YAML), which names components, the cache and the limits.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Directory of the cache, in the place of kvtier.compile_cache.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// The words of the library's own protocol.
#[derive(Debug, Args)]
pub struct CompileOneArgs {
    /// What to compile, and within which limits.
    #[arg(value_name = "KEY=VALUE", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

fn tokens() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=crate::generate::PROMPT_TOKENS_MAX)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_holds_together_and_documents_every_flag() {
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
        let line = "kvtier replay --config c.yaml --trace t.jsonl --model Llama-3-8B --capacity-chunks 10 \
                    --policy LRU --requests 5 --json --report r.html";
        let Command::Replay(args) = parse(line).unwrap().command else { panic!("another command") };
        assert_eq!((args.model, args.policy), (Some(Preset::Llama3_8b), Some(Policy::Lru)));
        assert_eq!((args.capacity_chunks.map(u64::from), args.requests.map(u64::from)), (Some(10), Some(5)));
        assert!(args.json && args.report.is_some() && args.config.is_some());
        assert_eq!(args.chunk_bytes.get(), 4096);
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "kvtier replay",
            "kvtier replay --trace t --chunk-bytes 0",
            "kvtier replay --trace t --chunk-bytes 1 --model llama-3-8b",
            "kvtier replay --trace t --model gpt-2",
            "kvtier replay --trace t --policy random",
            "kvtier replay --trace t --requests -1",
            "kvtier trace generate",
            "kvtier trace generate --requests 1 --sessions 0",
            "kvtier inspect",
            "kvtier inspect a.wasm --config b.yaml",
            "kvtier compile",
            "kvtier compile --cache-dir d",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}

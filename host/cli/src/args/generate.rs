//! The arguments of `kvtier generate`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, value_parser};

use crate::generate::PROMPT_TOKENS_MAX;

/// `kvtier trace`, the former group of `generate`.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Another spelling of `kvtier generate`.
    Generate(GenerateArgs),
}

/// `kvtier generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Number of requests.
    #[arg(long, value_name = "N")]
    pub requests: NonZeroU64,

    /// Seed for all random choices.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Chats that are open at the same time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub sessions: u64,

    /// Distinct system prompts.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u64).range(1..=100_000))]
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
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u64).range(1..=10_000))]
    pub turns: u64,

    /// Output file. Without it, the trace goes to the standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn tokens() -> RangedU64ValueParser {
    value_parser!(u64).range(1..=PROMPT_TOKENS_MAX)
}

//! KV geometry of common models, so that a replay moves chunks of realistic size.

use clap::ValueEnum;

/// A model whose KV geometry is known. Values are stored as bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Llama 3 8B and 3.1 8B.
    #[value(name = "llama-3-8b")]
    Llama3_8b,
    /// Llama 3 70B, 3.1 70B and 3.3 70B.
    #[value(name = "llama-3-70b")]
    Llama3_70b,
    /// Llama 3.1 405B.
    #[value(name = "llama-3.1-405b")]
    Llama31_405b,
    /// Mistral 7B.
    #[value(name = "mistral-7b")]
    Mistral7b,
    /// Qwen2.5 7B.
    #[value(name = "qwen2.5-7b")]
    Qwen25_7b,
    /// Qwen2.5 72B.
    #[value(name = "qwen2.5-72b")]
    Qwen25_72b,
    /// Qwen3 8B.
    #[value(name = "qwen3-8b")]
    Qwen3_8b,
    /// Qwen3 32B.
    #[value(name = "qwen3-32b")]
    Qwen3_32b,
    /// DeepSeek V3 and R1 (multi-head latent attention).
    #[value(name = "deepseek-v3")]
    DeepseekV3,
}

/// The size of one token's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Attention layers.
    pub layers: u32,
    /// 2 for separate keys and values, 1 for a latent vector that serves as both.
    pub kv: u32,
    /// KV heads of one layer, over all ranks.
    pub kv_heads: u32,
    /// Values of one head.
    pub head_size: u32,
}

/// Bytes of a bfloat16 value.
const VALUE_BYTES: u64 = 2;

impl Geometry {
    const fn attention(layers: u32, kv_heads: u32, head_size: u32) -> Self {
        Self { layers, kv: 2, kv_heads, head_size }
    }

    /// Returns the bytes of a chunk of `chunk_size` tokens.
    pub fn chunk_bytes(self, chunk_size: u32) -> u64 {
        u64::from(self.layers)
            * u64::from(self.kv)
            * u64::from(chunk_size)
            * u64::from(self.kv_heads)
            * u64::from(self.head_size)
            * VALUE_BYTES
    }
}

impl Preset {
    /// Returns the model's geometry.
    ///
    /// # Source
    /// The `config.json` of each published model: `num_hidden_layers`, `num_key_value_heads`, and `head_dim` or
    /// `hidden_size / num_attention_heads`; for DeepSeek, `kv_lora_rank + qk_rope_head_dim`.
    pub fn geometry(self) -> Geometry {
        match self {
            Self::Llama3_8b | Self::Mistral7b => Geometry::attention(32, 8, 128),
            Self::Llama3_70b | Self::Qwen25_72b => Geometry::attention(80, 8, 128),
            Self::Llama31_405b => Geometry::attention(126, 8, 128),
            Self::Qwen25_7b => Geometry::attention(28, 4, 128),
            Self::Qwen3_8b => Geometry::attention(36, 8, 128),
            Self::Qwen3_32b => Geometry::attention(64, 8, 128),
            Self::DeepseekV3 => Geometry { layers: 61, kv: 1, kv_heads: 1, head_size: 512 + 64 },
        }
    }

    /// Returns the name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn t57_chunk_bytes_of_256_tokens() {
        assert_eq!(Preset::Llama3_8b.geometry().chunk_bytes(256), 32 * MIB);
        assert_eq!(Preset::Llama3_70b.geometry().chunk_bytes(256), 80 * MIB);
        assert_eq!(Preset::DeepseekV3.geometry().chunk_bytes(256), 17_989_632, "17.16 MiB");
        assert_eq!(Preset::Qwen25_7b.geometry().chunk_bytes(256), 14 * MIB);
    }

    #[test]
    fn every_preset_has_a_name_and_whole_pages_at_256_tokens() {
        for preset in Preset::value_variants() {
            assert!(!preset.name().is_empty());
            assert_eq!(preset.geometry().chunk_bytes(256) % 4096, 0, "{}", preset.name());
        }
    }
}

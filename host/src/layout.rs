//! The layout of a chunk: model, shape, element type, size. The layout is part of a chunk's name (through the
//! namespace) and of its trailer, so that bytes of another layout are never called KV.

mod storage;

use std::fmt;

pub(crate) use self::storage::BackendMetadata;
pub use self::storage::StorageMetadata;
use crate::limits::{CHUNK_BYTES_MAX, LAYOUT_BYTES_MAX};

/// The element type of KV tensors, under LMCache's names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE half precision, 2 bytes.
    Float16,
    /// bfloat16, 2 bytes.
    BFloat16,
    /// IEEE single precision, 4 bytes.
    Float32,
    /// IEEE double precision, 8 bytes.
    Float64,
    /// Signed byte.
    Int8,
    /// Unsigned byte, also the carrier of formats that torch does not know.
    UInt8,
    /// 8-bit float, 4 bits exponent, finite.
    Fp8E4M3Fn,
    /// 8-bit float, 4 bits exponent, finite, no negative zero.
    Fp8E4M3Fnuz,
    /// 8-bit float, 5 bits exponent.
    Fp8E5M2,
    /// 8-bit float, 5 bits exponent, no negative zero.
    Fp8E5M2Fnuz,
}

impl Dtype {
    const ALL: [Self; 10] = [
        Self::Float16,
        Self::BFloat16,
        Self::Float32,
        Self::Float64,
        Self::Int8,
        Self::UInt8,
        Self::Fp8E4M3Fn,
        Self::Fp8E4M3Fnuz,
        Self::Fp8E5M2,
        Self::Fp8E5M2Fnuz,
    ];

    /// Returns LMCache's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float16 => "half",
            Self::BFloat16 => "bfloat16",
            Self::Float32 => "float",
            Self::Float64 => "double",
            Self::Int8 => "int8",
            Self::UInt8 => "uint8",
            Self::Fp8E4M3Fn => "fp8_e4m3fn",
            Self::Fp8E4M3Fnuz => "fp8_e4m3fnuz",
            Self::Fp8E5M2 => "fp8_e5m2",
            Self::Fp8E5M2Fnuz => "fp8_e5m2fnuz",
        }
    }

    /// Returns the size of one element in bytes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Float64 => 8,
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
            _ => 1,
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let name = match text {
            "float16" | "torch.float16" => "half",
            "torch.bfloat16" => "bfloat16",
            "float32" | "torch.float32" => "float",
            "float64" | "torch.float64" => "double",
            other => other,
        };
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| LayoutError::UnknownDtype(text.to_owned()))
    }
}

/// The shape of a chunk's KV tensors: `[layers, 2, chunk_size, kv_heads, head_size]`, with 1 instead of 2 for MLA.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape([u32; 5]);

impl KvShape {
    /// Checks and makes a shape.
    ///
    /// # Errors
    /// [`LayoutError::BadShape`] if an extent is 0, the second is neither 1 nor 2, or a chunk of
    /// 8-byte elements would be larger than 2⁴⁰ bytes.
    pub fn new(extents: [u32; 5]) -> Result<Self, LayoutError> {
        let size = extents.iter().try_fold(8_u64, |size, &extent| size.checked_mul(extent.into()));
        let sensible = matches!(size, Some(1..=CHUNK_BYTES_MAX)) && matches!(extents[1], 1 | 2);
        if sensible { Ok(Self(extents)) } else { Err(LayoutError::BadShape(extents)) }
    }

    /// Returns the five extents.
    pub const fn extents(self) -> [u32; 5] {
        self.0
    }

    /// Returns the number of tokens of a full chunk.
    pub const fn chunk_size(self) -> usize {
        self.0[2] as usize
    }
}

impl fmt::Debug for KvShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The model, and the shard of it, that an engine serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineMetadata {
    /// The model's name in the serving engine.
    pub model_name: String,
    /// The number of workers that hold a shard of the model.
    pub world_size: u32,
    /// This worker's index, in `0..world_size`.
    pub worker_id: u32,
    /// The element type.
    pub kv_dtype: Dtype,
    /// The shape of a chunk.
    pub kv_shape: KvShape,
}

impl EngineMetadata {
    /// Returns the payload size of a chunk of `n_tokens` tokens in bytes:
    /// `layers × 2 × n_tokens × kv_heads × head_size × element size`.
    pub fn chunk_bytes(&self, n_tokens: usize) -> usize {
        let [layers, kv, _, heads, head_size] = self.kv_shape.extents().map(|extent| extent as usize);
        layers * kv * n_tokens * heads * head_size * self.kv_dtype.size_bytes()
    }
}

/// The reason why a layout was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The element type's name is unknown.
    #[error(
        "unknown dtype `{0}`; known are half, bfloat16, float, double, int8, uint8, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2, fp8_e5m2fnuz"
    )]
    UnknownDtype(String),
    /// The shape cannot be that of a chunk.
    #[error(
        "{0:?} is not a KV shape; give [layers, 2, chunk_size, kv_heads, head_size], with 1 instead of 2 for MLA, and no zeros"
    )]
    BadShape([u32; 5]),
    /// The tag of an opaque layout is empty, too long, or has control characters.
    #[error(
        "the layout tag has {n_bytes} bytes; give 1 to {LAYOUT_BYTES_MAX} bytes of text without control characters"
    )]
    BadTag {
        /// The length of the tag in bytes.
        n_bytes: usize,
    },
    /// No chunk can have this size.
    #[error(
        "chunk_bytes_max is {0}; give the size of the largest chunk in bytes, from 1 to {CHUNK_BYTES_MAX}"
    )]
    BadChunkBytes(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(shape: [u32; 5], dtype: Dtype, n_tokens: usize) -> usize {
        let kv_shape = KvShape::new(shape).expect("a valid shape");
        let model_name = String::new();
        EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype: dtype, kv_shape }
            .chunk_bytes(n_tokens)
    }

    #[test]
    fn t57_chunk_bytes_of_known_models() {
        const MIB: usize = 1 << 20;
        let llama_8b = [32, 2, 256, 8, 128];
        let llama_70b = [80, 2, 256, 8, 128];
        let mla = [61, 1, 256, 1, 576];
        assert_eq!(bytes(llama_8b, Dtype::BFloat16, 256), 32 * MIB);
        assert_eq!(bytes([32, 2, 256, 1, 128], Dtype::BFloat16, 256), 4 * MIB);
        assert_eq!(bytes(llama_70b, Dtype::BFloat16, 256), 80 * MIB);
        assert_eq!(bytes(mla, Dtype::BFloat16, 256), 17_989_632);
        assert_eq!(bytes(llama_8b, Dtype::Fp8E4M3Fn, 256), 16 * MIB);
        assert_eq!(bytes(llama_8b, Dtype::BFloat16, 64), 8 * MIB);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for shape in [[0, 2, 256, 8, 128], [32, 3, 256, 8, 128], [u32::MAX; 5], [32, 0, 256, 8, 128]] {
            assert_eq!(KvShape::new(shape), Err(LayoutError::BadShape(shape)));
        }
    }

    #[test]
    fn dtypes_are_read_by_name_and_by_torch_name() {
        assert_eq!("torch.bfloat16".parse(), Ok(Dtype::BFloat16));
        assert_eq!("half".parse(), Ok(Dtype::Float16));
        assert!("float13".parse::<Dtype>().is_err());
    }
}

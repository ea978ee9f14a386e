//! Sealed chunks: a 64-byte trailer identifies a chunk and makes wrong bytes detectable.
//!
//! A backend stores payload and trailer as one opaque run of bytes. What comes back is called KV only after
//! [`Sealer::verify`] has accepted it for the key that was asked for. Sealing and verifying each read the payload once
//! and copy nothing. A payload that moves in pieces is hashed as it moves: a [`PayloadHash`] takes the pieces in order,
//! and seals or verifies the bytes that it has taken.
//!
//! # Source
//! The trailer's fields, integers little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `KVT1` |
//! | 4..6 | format version, 1 |
//! | 6..8 | algorithm: 1 = XXH3-128, 2 = keyed BLAKE3 truncated to 16 bytes |
//! | 8..24 | chunk key |
//! | 24..40 | namespace, which identifies model, shard, dtype and layout |
//! | 40..48 | payload length in bytes |
//! | 48..64 | check value: `H(bytes 0..48 ‖ H(payload))` under the algorithm |

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};
use zeroize::Zeroizing;

use crate::copies::{Pass, note};
use crate::key::{ChunkKey, Namespace};

/// The size of a trailer in bytes.
pub const TRAILER_BYTES: usize = 64;

/// A trailer as it is stored.
pub type Trailer = [u8; TRAILER_BYTES];

const MAGIC: [u8; 4] = *b"KVT1";
const VERSION: u16 = 1;
const CONTEXT_MAC: &str = "kvtier 2026-11 chunk mac v1";

/// The algorithm of check values.
#[derive(Clone)]
enum Algorithm {
    /// Detects accidents: torn writes, flipped bits, mixed-up chunks. Any program can compute it.
    Checksum,
    /// Also detects forgeries: computing it takes the key, which is wiped with the last sealer.
    Mac(Arc<Zeroizing<[u8; 32]>>),
}

/// Seals chunks before they leave the host, and verifies those that come back.
#[derive(Clone)]
pub struct Sealer {
    algorithm: Algorithm,
    namespace: Namespace,
}

impl Sealer {
    /// Makes a sealer whose check value is a checksum, which detects accidents but not forgeries.
    pub const fn checksum(namespace: Namespace) -> Self {
        Self { algorithm: Algorithm::Checksum, namespace }
    }

    /// Makes a sealer whose check value is a message authentication code under a key derived from
    /// `secret`, for backends that may forge chunks.
    pub fn mac(namespace: Namespace, secret: &[u8]) -> Self {
        let key = Arc::new(Zeroizing::new(blake3::derive_key(CONTEXT_MAC, secret)));
        Self { algorithm: Algorithm::Mac(key), namespace }
    }

    /// Starts the hash of a payload that arrives in pieces.
    pub fn hash(&self) -> PayloadHash {
        let state = match &self.algorithm {
            Algorithm::Checksum => DigestState::Checksum(RawHasher::new(SecretBuffer::default())),
            Algorithm::Mac(key) => DigestState::Mac(Box::new(blake3::Hasher::new_keyed(key))),
        };
        PayloadHash { state, n_bytes: 0 }
    }

    /// Computes the trailer of `payload` under `key`.
    pub fn seal(&self, key: ChunkKey, payload: &[u8]) -> Trailer {
        let mut hash = self.hash();
        hash.update(payload);
        self.seal_hashed(key, &hash)
    }

    /// Computes the trailer of the payload that `hash`, started by this sealer, has taken.
    pub fn seal_hashed(&self, key: ChunkKey, hash: &PayloadHash) -> Trailer {
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..4].copy_from_slice(&MAGIC);
        trailer[4..6].copy_from_slice(&VERSION.to_le_bytes());
        trailer[6..8].copy_from_slice(&self.algorithm.number().to_le_bytes());
        trailer[8..24].copy_from_slice(&key.to_bytes());
        trailer[24..40].copy_from_slice(&self.namespace.to_bytes());
        trailer[40..48].copy_from_slice(&(hash.n_bytes as u64).to_le_bytes());
        let check = self.algorithm.check(&trailer[..48], hash);
        trailer[48..].copy_from_slice(&check);
        trailer
    }

    /// Verifies that `payload` and `trailer` are the chunk `key`.
    ///
    /// # Errors
    /// The first [`Flaw`] found; cheap checks come first.
    pub fn verify(&self, key: ChunkKey, payload: &[u8], trailer: &Trailer) -> Result<(), Flaw> {
        self.verify_header(key, payload.len(), trailer)?;
        let mut hash = self.hash();
        hash.update(payload);
        self.verify_hashed(key, &hash, trailer)
    }

    /// Verifies that `trailer` and the payload that `hash`, started by this sealer, has taken are the chunk `key`.
    ///
    /// # Errors
    /// [`Flaw`]
    pub fn verify_hashed(&self, key: ChunkKey, hash: &PayloadHash, trailer: &Trailer) -> Result<(), Flaw> {
        self.verify_header(key, hash.n_bytes, trailer)?;
        let expected = self.algorithm.check(&trailer[..48], hash);
        // In constant time: a backend must not learn how much of a guessed MAC was right.
        if bool::from(expected.ct_eq(&trailer[48..])) { Ok(()) } else { Err(Flaw::CheckFailed) }
    }

    /// Verifies a trailer without the payload, of which only the length in bytes is compared.
    ///
    /// # Errors
    /// [`Flaw`], never [`Flaw::CheckFailed`].
    pub fn verify_header(&self, key: ChunkKey, n_bytes: usize, trailer: &Trailer) -> Result<(), Flaw> {
        if trailer[..4] != MAGIC || trailer[4..6] != VERSION.to_le_bytes() {
            return Err(Flaw::NoTrailer);
        }
        if trailer[6..8] != self.algorithm.number().to_le_bytes() {
            return Err(Flaw::OtherAlgorithm);
        }
        if trailer[8..24] != key.to_bytes() {
            return Err(Flaw::OtherKey);
        }
        if trailer[24..40] != self.namespace.to_bytes() {
            return Err(Flaw::OtherNamespace);
        }
        if trailer[40..48] != (n_bytes as u64).to_le_bytes() {
            return Err(Flaw::OtherLength);
        }
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Algorithm {
    const fn number(&self) -> u16 {
        match self {
            Self::Checksum => 1,
            Self::Mac(_) => 2,
        }
    }

    fn check(&self, header: &[u8], hash: &PayloadHash) -> [u8; 16] {
        let mut both = [0; 48 + 32];
        both[..48].copy_from_slice(header);
        match (self, &hash.state) {
            (Self::Checksum, DigestState::Checksum(state)) => {
                both[48..64].copy_from_slice(&state.finish_128().to_le_bytes());
                XxHash3_128::oneshot(&both[..64]).to_le_bytes()
            }
            (Self::Mac(key), DigestState::Mac(state)) => {
                both[48..].copy_from_slice(state.finalize().as_bytes());
                let mut check = [0; 16];
                check.copy_from_slice(&blake3::keyed_hash(key, &both).as_bytes()[..16]);
                check
            }
            _ => unreachable!("a sealer is given the hashes that it has started"),
        }
    }
}

/// The hash of a payload that arrives in order, in pieces; see [`Sealer::hash`]. Pieces may have any length.
#[derive(Clone)]
pub struct PayloadHash {
    state: DigestState,
    n_bytes: usize,
}

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "the common one is not boxed")]
enum DigestState {
    Checksum(RawHasher<&'static [u8; DEFAULT_SECRET_LENGTH]>),
    Mac(Box<blake3::Hasher>),
}

impl PayloadHash {
    /// Takes the next piece. Reads it once.
    pub fn update(&mut self, piece: &[u8]) {
        note(Pass::Hash, piece);
        match &mut self.state {
            DigestState::Checksum(state) => state.write(piece),
            DigestState::Mac(state) => drop(state.update(piece)),
        }
        self.n_bytes += piece.len();
    }

    /// Returns the number of bytes taken.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl fmt::Debug for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadHash").field("n_bytes", &self.n_bytes).finish_non_exhaustive()
    }
}

/// The flaw in bytes that a backend returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The bytes do not end in a trailer of this format and version.
    #[error("no trailer of a known version")]
    NoTrailer,
    /// Sealed under another algorithm than this host is configured for.
    #[error("sealed under another algorithm; see kvtier.integrity_key")]
    OtherAlgorithm,
    /// The chunk of another key.
    #[error("the chunk of another key")]
    OtherKey,
    /// A chunk of another model, shard, dtype or layout.
    #[error("a chunk of another model or layout")]
    OtherNamespace,
    /// The payload is shorter or longer than what was sealed.
    #[error("the payload is not as long as the sealed one")]
    OtherLength,
    /// The bytes are not those that were sealed.
    #[error("the check value does not match")]
    CheckFailed,
}

impl Flaw {
    /// Returns the flaw's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoTrailer => "no_trailer",
            Self::OtherAlgorithm => "other_algorithm",
            Self::OtherKey => "other_key",
            Self::OtherNamespace => "other_namespace",
            Self::OtherLength => "other_length",
            Self::CheckFailed => "check_failed",
        }
    }
}

#[cfg(test)]
mod tests;

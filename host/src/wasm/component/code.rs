//! Compiled code with the component and the engine that it belongs to: the cache keeps it, and compilers return it.
//!
//! An entry is a magic, a check value over all that follows, the engine's fingerprint, the component's digest, and the
//! code. So the content alone shows whether an entry was damaged, renamed or made by another engine.

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::config::Sha256Digest;

const MAGIC: &[u8; 8] = b"kvtierC2";
const HASH_BYTES: usize = 32;
const CHECKED_FROM: usize = MAGIC.len() + HASH_BYTES;
const HEAD_BYTES: usize = CHECKED_FROM + 2 * HASH_BYTES;

/// A digest of everything about an engine that compiled code depends on: its version, its settings, the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; HASH_BYTES]);

impl Fingerprint {
    pub(super) fn of(engine: &Engine) -> Self {
        let mut settings = StableHasher(blake3::Hasher::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut settings);
        Self(*settings.0.finalize().as_bytes())
    }

    pub(super) fn hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

/// Turns a `Hash` value into a digest that stays the same from process to process.
struct StableHasher(blake3::Hasher);

impl std::hash::Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes()[..8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// The code that an entry must hold: that of one component, for one engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) engine: Fingerprint,
    pub(super) component: Sha256Digest,
}

/// Why bytes are not the expected entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryError {
    #[error("is empty")]
    Empty,
    #[error("is not compiled code of this version of kvtier")]
    Foreign,
    #[error("is damaged")]
    Damaged,
    #[error("was made by another engine")]
    OtherEngine,
    #[error("belongs to another component")]
    OtherComponent,
}

/// An entry that was just made, or was checked.
pub(super) struct CachedCode(Vec<u8>);

impl CachedCode {
    /// Compiles a component.
    pub(super) fn compile(engine: &Engine, identity: &Identity, bytes: &[u8]) -> wasmtime::Result<Self> {
        let code = engine.precompile_component(bytes)?;
        let mut entry = Vec::with_capacity(HEAD_BYTES + code.len());
        entry.extend_from_slice(MAGIC);
        entry.extend_from_slice(&[0; HASH_BYTES]);
        entry.extend_from_slice(&identity.engine.0);
        entry.extend_from_slice(&identity.component.0);
        entry.extend_from_slice(&code);
        let check = blake3::hash(&entry[CHECKED_FROM..]);
        entry[MAGIC.len()..CHECKED_FROM].copy_from_slice(check.as_bytes());
        Ok(Self(entry))
    }

    /// Checks bytes that this user's cache or compiler delivered.
    pub(super) fn check(identity: &Identity, bytes: Vec<u8>) -> Result<Self, EntryError> {
        if bytes.is_empty() {
            return Err(EntryError::Empty);
        }
        if !bytes.starts_with(MAGIC) {
            return Err(EntryError::Foreign);
        }
        if bytes.len() < HEAD_BYTES
            || bytes[MAGIC.len()..CHECKED_FROM] != blake3::hash(&bytes[CHECKED_FROM..]).as_bytes()[..]
        {
            return Err(EntryError::Damaged);
        }
        let (engine, component) = bytes[CHECKED_FROM..HEAD_BYTES].split_at(HASH_BYTES);
        if engine != identity.engine.0 {
            return Err(EntryError::OtherEngine);
        }
        if component != identity.component.0 {
            return Err(EntryError::OtherComponent);
        }
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes a component of the code.
    ///
    /// # Errors
    /// The engine's, for code that it does not accept.
    #[expect(unsafe_code, reason = "the engine runs the code as it stands")]
    pub(super) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the code must be the output of an engine's compiler. This process compiled it (`compile`); or it came
        // over a pipe from the compiler that the operator names and trusts as much as the host's own program; or it was
        // read from a file that belongs to this user and that nobody else can write to (`cache`). In the last two cases
        // it is byte for byte what was sealed there for this engine (`check`).
        unsafe { Component::deserialize(engine, &self.0[HEAD_BYTES..]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity =
        Identity { engine: Fingerprint([3; HASH_BYTES]), component: Sha256Digest([4; HASH_BYTES]) };
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn entry() -> Vec<u8> {
        CachedCode::compile(&Engine::default(), &IDENTITY, COMPONENT).unwrap().0
    }

    fn refused(identity: &Identity, bytes: &[u8]) -> Option<EntryError> {
        CachedCode::check(identity, bytes.to_vec()).err()
    }

    #[test]
    fn an_entry_becomes_a_component_again() {
        let entry = CachedCode::check(&IDENTITY, entry()).unwrap();
        entry.component(&Engine::default()).unwrap();
    }

    #[test]
    fn every_changed_byte_and_every_missing_one_is_noticed() {
        let whole = entry();
        for index in (0..HEAD_BYTES).chain([HEAD_BYTES, whole.len() / 2, whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[index] ^= 0x10;
            assert!(refused(&IDENTITY, &flipped).is_some(), "byte {index}");
        }
        for len in (0..=HEAD_BYTES).chain([whole.len() - 1]) {
            assert!(refused(&IDENTITY, &whole[..len]).is_some(), "{len} bytes");
        }
        assert_eq!(refused(&IDENTITY, &[whole.clone(), vec![0]].concat()), Some(EntryError::Damaged));
        assert_eq!(refused(&IDENTITY, b""), Some(EntryError::Empty));
        assert_eq!(refused(&IDENTITY, b"kvtierC1 and more"), Some(EntryError::Foreign));
        assert_eq!(refused(&IDENTITY, MAGIC), Some(EntryError::Damaged));
    }

    #[test]
    fn a_whole_entry_of_another_component_or_engine_is_refused() {
        let other = Identity { component: Sha256Digest([5; HASH_BYTES]), ..IDENTITY };
        assert_eq!(refused(&other, &entry()), Some(EntryError::OtherComponent));
        let other = Identity { engine: Fingerprint([5; HASH_BYTES]), ..IDENTITY };
        assert_eq!(refused(&other, &entry()), Some(EntryError::OtherEngine));
    }

    #[test]
    fn engines_of_other_settings_have_other_fingerprints() {
        let of = |config: &wasmtime::Config| Fingerprint::of(&Engine::new(config).unwrap());
        let mut other = wasmtime::Config::new();
        other.epoch_interruption(true);
        let plain = of(&wasmtime::Config::new());
        assert!(plain == of(&wasmtime::Config::new()) && plain != of(&other));
        assert_eq!(plain.hex().len(), 64);
    }
}

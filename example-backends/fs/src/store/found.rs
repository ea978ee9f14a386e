//! Lookups and pins.

use kvtier_guest::{ChunkKey, Error, Pinning, each_bounded};

use super::{CHUNKS_AT_ONCE, Role, Store};
use crate::disk::{Found, Lease, STATS_AT_ONCE, now_ns};

/// The leading run of some keys that is present.
struct Run {
    len: usize,
    /// Those of it that the file system was asked for.
    asked: Vec<(ChunkKey, Found)>,
}

impl Store {
    pub(crate) async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return self.pin(keys).await;
        }
        let run = self.run(keys).await?;
        if self.role.get() == Role::Guest {
            self.disk.lease(&run.asked, Lease::Found).await;
        }
        Ok(run.len as u32)
    }

    pub(crate) async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let present = each_bounded(keys, STATS_AT_ONCE, async |_, key| {
            if self.knows(key) {
                return Ok(true);
            }
            let found = self.disk.stat(key).await?;
            Ok(found.is_some() && self.is_settled(key))
        });
        present.await.into_iter().collect()
    }

    pub(crate) async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let run = self.run(keys).await?;
        match self.role.get() {
            Role::Owner => {
                let keys: Vec<ChunkKey> = run.asked.iter().map(|(key, _)| *key).collect();
                each_bounded(&keys, CHUNKS_AT_ONCE, async |_, key| self.know(key).await).await;
            }
            Role::Guest => self.disk.lease(&run.asked, Lease::Pinned).await,
            // Nothing that this one could do.
            Role::Reader => {}
        }
        // One that the index has no room for is not evicted.
        let mut index = self.index.borrow_mut();
        for key in &keys[..run.len] {
            index.pin(&[*key]);
        }
        Ok(run.len as u32)
    }

    pub(crate) async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_pinned = self.index.borrow_mut().unpin(keys);
        if self.role.get() == Role::Guest {
            let now_ns = now_ns();
            let stats = self.disk.stats(keys).await;
            let leased = keys.iter().zip(stats).filter_map(|(key, stat)| Some((*key, stat.ok()??)));
            let leased: Vec<_> = leased.filter(|(_, found)| found.is_leased(now_ns)).collect();
            n_pinned = leased.len();
            self.disk.lease(&leased, Lease::Ended).await;
        }
        Ok(n_pinned as u32)
    }

    /// Finds the leading run of `keys`, in the index or else in the file system. Some keys at a time once the first one
    /// was there.
    async fn run(&self, keys: &[ChunkKey]) -> Result<Run, Error> {
        let mut run = Run { len: 0, asked: Vec::new() };
        let mut n_at_once = 1;
        loop {
            if self.owns() {
                run.len += self.index.borrow().leading_run(&keys[run.len..]);
            }
            let rest = &keys[run.len..];
            if rest.is_empty() {
                return Ok(run);
            }
            let some = &rest[..n_at_once.min(rest.len())];
            for (key, stat) in some.iter().zip(self.disk.stats(some).await) {
                match stat {
                    Ok(Some(found)) if self.is_settled(*key) => {
                        run.len += 1;
                        run.asked.push((*key, found));
                    }
                    Err(error) if run.len == 0 => return Err(error),
                    Ok(_) | Err(_) => return Ok(run),
                }
            }
            n_at_once = STATS_AT_ONCE;
        }
    }

    /// Reports whether a file that was found is present: not if a put or a removal of its chunk is under way.
    fn is_settled(&self, key: ChunkKey) -> bool {
        self.knows(key) || !self.locks.is_changing(key)
    }

    fn knows(&self, key: ChunkKey) -> bool {
        self.owns() && self.index.borrow().get(&key).is_some()
    }

    /// Counts a chunk that was found, or forgets one that is gone.
    pub(super) async fn know(&self, key: ChunkKey) {
        let _guard = self.locks.look(key).await;
        let is_known = self.index.borrow().get(&key).is_some();
        match self.disk.stat(key).await {
            Ok(Some(found)) if !is_known => {
                let call = self.call(1);
                self.take_in(call, 0, key, found.size_bytes);
            }
            Ok(None) if is_known => drop(self.index.borrow_mut().remove(&key)),
            Ok(_) | Err(_) => {}
        }
    }
}

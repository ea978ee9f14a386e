//! `kvbm-logical`'s block manager. It manages names of slots, which index memory that its user keeps, so nothing is
//! allocated here either. A prompt's blocks are matched by their lineage, allocated, staged and registered; a block
//! that has no holder can be evicted.

use kvbm_logical::manager::BlockManager;
use kvbm_logical::{BlockRegistry, SequenceHash};
use kvtier_bench_mix::{Block, Contender};

/// Tokens of a block. Blocks are not made from tokens here, but the manager requires a number.
const BLOCK_TOKENS: usize = 256;

/// The tier that the blocks belong to.
#[derive(Clone)]
struct Host;

/// A manager of blocks in host memory, and its registry.
pub(crate) struct Kvbm {
    manager: BlockManager<Host>,
    registry: BlockRegistry,
}

impl Kvbm {
    pub(crate) fn new(n_chunks: usize) -> Self {
        let registry = BlockRegistry::new();
        let builder = BlockManager::<Host>::builder().block_count(n_chunks).block_size(BLOCK_TOKENS);
        let manager = builder.registry(registry.clone()).with_lru_backend().build();
        Self { manager: manager.expect("the settings are valid"), registry }
    }
}

impl Contender for Kvbm {
    type Key = SequenceHash;
    type Hold = ();

    fn key(block: Block) -> SequenceHash {
        let parent = (block.position > 0).then_some(block.parent);
        SequenceHash::new(block.id, parent, block.position)
    }

    fn lookup(&self, keys: &[SequenceHash], (): &mut ()) -> usize {
        let found = self.registry.check_presence::<Host>(keys);
        found.iter().take_while(|(_, is_present)| *is_present).count()
    }

    fn get(&self, keys: &[SequenceHash], (): &mut ()) -> usize {
        self.manager.match_blocks(keys).len()
    }

    fn insert(&self, keys: &[SequenceHash], (): &mut ()) {
        let blocks = self.manager.allocate_blocks(keys.len()).expect("blocks are held only briefly");
        let staged = blocks.into_iter().zip(keys).map(|(block, key)| block.stage(*key, BLOCK_TOKENS));
        let staged = staged.map(|staged| staged.expect("the block's size is the manager's")).collect();
        drop(self.manager.register_blocks(staged));
    }

    /// Matching finds the run and holds it, so no lookup comes first.
    fn serve(&self, keys: &[SequenceHash], hold: &mut ()) -> usize {
        let run = self.manager.match_blocks(keys);
        let n_run = run.len();
        drop(run);
        if n_run < keys.len() {
            self.insert(&keys[n_run..], hold);
        }
        n_run
    }
}

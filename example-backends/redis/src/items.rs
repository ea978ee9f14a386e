//! The chunks of a call, as keys in Redis.

use crate::config::Address;
use crate::connection::{Broken, Reader};
use crate::refusal::Refusal;
use crate::resp;

/// A chunk of a call.
pub(crate) struct Item {
    /// Its place in the batch.
    pub(crate) place: usize,
    /// Its place in the call.
    pub(crate) index: u32,
    /// Its key in Redis.
    pub(crate) name: String,
    /// The node to ask although another one has the slot.
    pub(crate) ask: Option<Address>,
}

/// The answers to items, in their order, as far as they have come.
pub(crate) type Answers<T> = Vec<Result<T, Refusal>>;

/// Returns the same items for another batch.
pub(crate) fn renumbered(items: &[Item]) -> Vec<Item> {
    let item =
        |(place, item): (usize, &Item)| Item { place, index: item.index, name: item.name.clone(), ask: None };
    items.iter().enumerate().map(item).collect()
}

impl Item {
    /// Appends `ASKING`, so that a node serves a key of a slot that it does not have yet.
    pub(crate) fn asking(&self, out: &mut Vec<u8>) {
        if self.ask.is_some() {
            resp::command(out, &[b"ASKING"]);
        }
    }

    /// Reads the reply to that.
    pub(crate) async fn asked(&self, reader: &mut Reader) -> Result<(), Broken> {
        if self.ask.is_some() {
            reader.reply().await?;
        }
        Ok(())
    }
}

//! Which node of a cluster has which keys.

use redis_protocol::redis_keyslot;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

use crate::config::Address;

/// Slots of every cluster.
const N_SLOTS: usize = 16_384;

/// The owner of each slot.
#[derive(Debug, Default)]
pub(crate) struct SlotMap {
    owners: Vec<Address>,
    /// By slot, a place in `owners`; empty as long as nothing is known.
    slots: Vec<Option<u16>>,
}

/// Returns the slot of a key.
pub(crate) fn slot_of(name: &str) -> u16 {
    redis_keyslot(name.as_bytes())
}

impl SlotMap {
    /// Reads the reply to `CLUSTER SLOTS` of the node at `from`.
    ///
    /// # Errors
    /// The fault of the reply.
    pub(crate) fn parse(reply: &OwnedFrame, from: &Address) -> Result<Self, String> {
        let wrong = || "slots that make no sense".to_owned();
        let OwnedFrame::Array(ranges) = reply else { return Err(wrong()) };
        let mut map = Self { owners: Vec::new(), slots: vec![None; N_SLOTS] };
        for range in ranges {
            // First slot, last slot, then the master and its replicas: host, port, and more of each.
            let OwnedFrame::Array(range) = range else { return Err(wrong()) };
            let [OwnedFrame::Integer(first), OwnedFrame::Integer(last), OwnedFrame::Array(master), ..] =
                &range[..]
            else {
                return Err(wrong());
            };
            let [host, OwnedFrame::Integer(port), ..] = &master[..] else { return Err(wrong()) };
            let host = host.as_str().filter(|host| !host.is_empty() && *host != "?").unwrap_or(from.host());
            let owner = u16::try_from(*port).ok().map(|port| Address::new(host, port)).ok_or_else(wrong)?;
            let (first, last) = (usize::try_from(*first), usize::try_from(*last));
            let (Ok(first), Ok(last)) = (first, last) else { return Err(wrong()) };
            let place = map.place(owner);
            map.slots.get_mut(first..=last).ok_or_else(wrong)?.fill(Some(place));
        }
        Ok(map)
    }

    /// Returns the owner of a slot, if it is known.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Address> {
        let place = (*self.slots.get(usize::from(slot))?)?;
        self.owners.get(usize::from(place))
    }

    /// Notes that a slot has moved.
    pub(crate) fn assign(&mut self, slot: u16, owner: Address) {
        let place = self.place(owner);
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            *slot = Some(place);
        }
    }

    /// Returns all that own or owned a slot.
    pub(crate) fn owners(&self) -> &[Address] {
        &self.owners
    }

    fn place(&mut self, owner: Address) -> u16 {
        let place = self.owners.iter().position(|known| *known == owner);
        let place = place.unwrap_or_else(|| {
            self.owners.push(owner);
            self.owners.len() - 1
        });
        place as u16
    }
}

#[cfg(test)]
mod tests {
    use redis_protocol::resp2::types::OwnedFrame::{self, Array, BulkString, Integer, Null};

    use super::{SlotMap, slot_of};
    use crate::config::Address;

    fn range(first: i64, last: i64, host: &OwnedFrame, port: i64) -> OwnedFrame {
        let node = |port| Array(vec![host.clone(), Integer(port), BulkString(b"id".to_vec())]);
        Array(vec![Integer(first), Integer(last), node(port), node(port + 100)])
    }

    fn host(text: &str) -> OwnedFrame {
        BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn keys_have_the_slots_of_the_specification() {
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12182);
    }

    #[test]
    fn masters_own_their_ranges_and_unnamed_ones_are_where_the_answer_came_from() {
        let from = Address::new("10.0.0.9", 7009);
        let reply = Array(vec![
            range(0, 99, &host("10.0.0.1"), 7001),
            range(100, 100, &host(""), 7002),
            range(16_000, 16_383, &Null, 7003),
        ]);
        let mut map = SlotMap::parse(&reply, &from).unwrap();
        let owner = |map: &SlotMap, slot| map.owner(slot).map(ToString::to_string);
        assert_eq!(owner(&map, 0).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(&map, 99).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(&map, 100).as_deref(), Some("10.0.0.9:7002"));
        assert_eq!(owner(&map, 101), None);
        assert_eq!(owner(&map, 16_383).as_deref(), Some("10.0.0.9:7003"));
        map.assign(99, Address::new("10.0.0.2", 7004));
        assert_eq!(owner(&map, 98).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(&map, 99).as_deref(), Some("10.0.0.2:7004"));
        assert_eq!(SlotMap::default().owner(5), None);
    }

    #[test]
    fn other_replies_are_errors() {
        let from = Address::new("a", 1);
        for bad in [
            Null,
            Integer(1),
            Array(vec![Integer(1)]),
            Array(vec![Array(vec![Integer(0), Integer(1)])]),
            Array(vec![range(0, 16_384, &host("a"), 1)]),
            Array(vec![range(-1, 5, &host("a"), 1)]),
            Array(vec![range(9, 5, &host("a"), 1)]),
            Array(vec![range(0, 5, &host("a"), 70_000)]),
        ] {
            assert!(SlotMap::parse(&bad, &from).is_err(), "{bad:?}");
        }
        assert!(SlotMap::parse(&Array(vec![]), &from).is_ok(), "a cluster that is being made");
    }
}

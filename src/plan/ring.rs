//! A hash ring: where a key belongs among workers that come and go.

use serde::Serialize;
use uuid::Uuid;

use super::worker::{WorkerIx, WorkerKey};

/// Places of each worker on the ring.
const VIRTUAL_NODES: u32 = 150;

/// Workers on a ring of 2^64 places, each at 150 of them. When one worker comes or goes only the
/// keys between its places and those before them move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// Ascending.
    places: Box<[u64]>,
    /// Who is at each place.
    owners: Box<[WorkerIx]>,
    /// Everybody by opaque id, ascending.
    ids: Box<[(Uuid, WorkerIx)]>,
}

impl Ring {
    /// A ring of `workers`.
    pub fn new<'a>(workers: impl IntoIterator<Item = (WorkerIx, &'a WorkerKey)>) -> Self {
        let mut taken = Vec::new();
        let mut ids = Vec::new();
        for (ix, key) in workers {
            ids.push((key.id(), ix));
            for node in 0..VIRTUAL_NODES {
                taken.push((position(format!("{key}#{node}").as_bytes()), ix));
            }
        }
        taken.sort_unstable();
        ids.sort_unstable();
        Self {
            places: taken.iter().map(|(place, _)| *place).collect(),
            owners: taken.iter().map(|(_, ix)| *ix).collect(),
            ids: ids.into(),
        }
    }

    /// Workers clockwise from the place of `key`, once around. A worker comes as often as it has
    /// places.
    pub fn walk(&self, key: &[u8]) -> impl Iterator<Item = WorkerIx> + '_ {
        let from = position(key);
        let start = self.places.partition_point(|place| *place < from);
        let (before, after) = self.owners.split_at(start);
        after.iter().chain(before).copied()
    }

    /// The memberships of the worker with this id; none if it is not on the ring.
    pub fn of_id(&self, id: Uuid) -> impl Iterator<Item = WorkerIx> + '_ {
        let start = self.ids.partition_point(|(other, _)| *other < id);
        let (_, rest) = self.ids.split_at(start);
        rest.iter()
            .take_while(move |(other, _)| *other == id)
            .map(|(_, ix)| *ix)
    }
}

/// First 8 bytes, little-endian, of the BLAKE3 hash.
fn position(key: &[u8]) -> u64 {
    let hash = blake3::hash(key);
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(names: &[&str]) -> Ring {
        let keys: Vec<WorkerKey> = names.iter().map(|name| WorkerKey::new(name)).collect();
        Ring::new(keys.iter().map(|key| {
            // Named by its digit, so that a worker keeps its index whoever else is there.
            let digit = key.as_str().bytes().find(u8::is_ascii_digit);
            (WorkerIx(u32::from(digit.unwrap_or(0))), key)
        }))
    }

    #[test]
    fn a_worker_that_leaves_moves_only_its_own_keys() {
        let (all, fewer) = (
            ring(&["http://w1", "http://w2", "http://w3"]),
            ring(&["http://w1", "http://w3"]),
        );
        let gone = WorkerIx(u32::from(b'2'));
        let mut moved = 0;
        for key in 0..3000_u32 {
            let key = key.to_le_bytes();
            let (before, after) = (all.walk(&key).next(), fewer.walk(&key).next());
            if before == Some(gone) {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((700..1300).contains(&moved), "{moved}");
    }

    #[test]
    fn every_worker_is_met_and_an_empty_ring_has_none() {
        let ring = ring(&["http://w1", "http://w2"]);
        assert_eq!(ring.walk(b"x").count(), 300);
        assert_eq!(Ring::default().walk(b"x").next(), None);
    }

    #[test]
    fn places_are_those_of_the_numbered_url() {
        let key = WorkerKey::new("http://w1");
        let ring = Ring::new([(WorkerIx(0), &key)]);
        let mut places: Vec<u64> = (0..150)
            .map(|node| {
                let hash = blake3::hash(format!("http://w1:80#{node}").as_bytes());
                u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
            })
            .collect();
        places.sort_unstable();
        assert_eq!(*ring.places, *places);
    }

    #[test]
    fn an_id_leads_to_its_memberships() {
        let (a, b) = (WorkerKey::new("http://a"), WorkerKey::new("http://b"));
        let ring = Ring::new([(WorkerIx(4), &a), (WorkerIx(5), &b), (WorkerIx(9), &a)]);
        let of = |key: &WorkerKey| ring.of_id(key.id()).collect::<Vec<_>>();
        assert_eq!(of(&a), [WorkerIx(4), WorkerIx(9)]);
        assert_eq!(of(&b), [WorkerIx(5)]);
        assert_eq!(of(&WorkerKey::new("http://c")), []);
    }
}

//! Who has which VcNumber: within a group, one LAN address and one server, no two flows have the
//! same, and no flow has 0.

use std::collections::HashMap;
use std::net::IpAddr;

/// The numbers that one shard may give away, so that shards need not ask each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    first: u16,
    step: u16,
}

impl Numbers {
    /// All numbers but 0.
    pub const ALL: Self = Self { first: 1, step: 1 };

    /// The share of one shard of `shards`: every shard has small numbers, none has 0.
    pub fn share(shard: u16, shards: u16) -> Self {
        let step = shards.max(1);
        Self {
            first: (shard % step).saturating_add(1),
            step,
        }
    }

    fn number(self, index: usize) -> Option<u16> {
        let index = u16::try_from(index).ok()?;
        self.first.checked_add(self.step.checked_mul(index)?)
    }

    fn index(self, number: u16) -> Option<usize> {
        let above = number.checked_sub(self.first)?;
        (above % self.step == 0).then_some(usize::from(above / self.step))
    }
}

/// The addresses that a server uses to tell clients apart: its own and the client's as it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GroupId {
    pub lan: IpAddr,
    pub server: IpAddr,
}

/// The numbers that are given away, as bit sets.
#[derive(Debug)]
pub(super) struct Groups {
    numbers: Numbers,
    used: HashMap<GroupId, Vec<u64>>,
}

impl Groups {
    pub fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            used: HashMap::new(),
        }
    }

    /// Gives away the number that is asked for if it is free, else the smallest that is.
    pub fn take(&mut self, group: GroupId, asked: u16) -> Option<u16> {
        let used = self.used.entry(group).or_default();
        let index = match self.numbers.index(asked) {
            Some(index) if !is_used(used, index) => index,
            _ => first_unused(used),
        };
        let number = self.numbers.number(index)?;
        let word = index / 64;
        if used.len() <= word {
            used.resize(word + 1, 0);
        }
        used[word] |= 1 << (index % 64);
        Some(number)
    }

    /// Takes a number back.
    pub fn free(&mut self, group: GroupId, number: u16) {
        let Some(used) = self.used.get_mut(&group) else {
            return;
        };
        if let Some(index) = self.numbers.index(number)
            && let Some(word) = used.get_mut(index / 64)
        {
            *word &= !(1 << (index % 64));
        }
        if used.iter().all(|word| *word == 0) {
            self.used.remove(&group);
        }
    }
}

fn is_used(used: &[u64], index: usize) -> bool {
    used.get(index / 64)
        .is_some_and(|word| word >> (index % 64) & 1 != 0)
}

fn first_unused(used: &[u64]) -> usize {
    used.iter()
        .position(|word| *word != u64::MAX)
        .map_or(used.len() * 64, |word| {
            word * 64 + used[word].trailing_ones() as usize
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};

    fn group(n: u8) -> GroupId {
        GroupId {
            lan: [192, 0, 2, 1].into(),
            server: [198, 51, 100, n].into(),
        }
    }

    #[test]
    fn shares_are_disjoint_small_and_without_zero() {
        let mut all = BTreeSet::new();
        for shard in 0..4 {
            let mut groups = Groups::new(Numbers::share(shard, 4));
            for _ in 0..10 {
                assert!(all.insert(groups.take(group(1), 0).unwrap()));
            }
        }
        assert_eq!(all, (1..=40).collect());
        assert_eq!(Numbers::share(0, 1), Numbers::ALL);
        assert_eq!(Numbers::share(3, 0), Numbers::ALL);
    }

    #[test]
    fn a_number_outside_the_share_is_not_given() {
        let mut groups = Groups::new(Numbers::share(1, 2));
        assert_eq!(groups.take(group(1), 1), Some(2));
        assert_eq!(groups.take(group(1), 6), Some(6));
        assert_eq!(groups.take(group(1), 0), Some(4));
    }

    #[test]
    fn runs_out_only_when_all_are_given() {
        let mut groups = Groups::new(Numbers::ALL);
        for expected in 1..=u16::MAX {
            assert_eq!(groups.take(group(1), 0), Some(expected));
        }
        assert_eq!(groups.take(group(1), 0), None);
        assert_eq!(groups.take(group(2), 0), Some(1));
        groups.free(group(1), 4711);
        assert_eq!(groups.take(group(1), 1), Some(4711));
    }

    proptest! {
        #[test]
        fn is_like_a_set_for_each_group(steps in prop::collection::vec((any::<bool>(), 0u8..3, 0u16..150), 0..300)) {
            let mut groups = Groups::new(Numbers::ALL);
            let mut oracle: HashMap<u8, BTreeSet<u16>> = HashMap::new();
            for (take, n, number) in steps {
                let set = oracle.entry(n).or_default();
                if take {
                    let expected = if number != 0 && !set.contains(&number) {
                        number
                    } else {
                        (1..).find(|free| !set.contains(free)).unwrap()
                    };
                    prop_assert_eq!(groups.take(group(n), number), Some(expected));
                    set.insert(expected);
                } else {
                    groups.free(group(n), number);
                    set.remove(&number);
                }
            }
            oracle.retain(|_, set| !set.is_empty());
            prop_assert_eq!(groups.used.len(), oracle.len());
        }
    }
}

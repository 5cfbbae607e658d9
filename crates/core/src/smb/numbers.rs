//! Assigned VcNumbers: within a group of one LAN address and one server, each number belongs to at
//! most one flow. 0 is never assigned.
//!
//! A number whose connection has ended is quarantined until some others were freed after it: if the
//! end was lost on its way to the server, the server has time to continue the connection.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Maximum number of quarantined numbers of a group.
const MAX_RESTING: usize = 16;

/// A VcNumber that the hook assigns. It is never 0, which would disconnect the other clients at the
/// same address (MS-CIFS section 2.2.4.53.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VcNumber(NonZeroU16);

impl VcNumber {
    /// The smallest number.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The largest number.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// Returns `number` as an assigned one; `None` if it is 0.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// Returns the number as it is in a message.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for VcNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The numbers that one shard may assign, so that shards need not coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    first: u16,
    step: u16,
}

impl Numbers {
    /// All numbers except 0.
    pub const ALL: Self = Self { first: 1, step: 1 };

    /// Returns the share of one of `shards` shards. Every share has small numbers.
    pub fn share(shard: u16, shards: u16) -> Self {
        let step = shards.max(1);
        Self {
            first: (shard % step).saturating_add(1),
            step,
        }
    }

    fn number(self, index: usize) -> Option<VcNumber> {
        let index = u16::try_from(index).ok()?;
        VcNumber::new(self.first.checked_add(self.step.checked_mul(index)?)?)
    }

    fn index(self, number: u16) -> Option<usize> {
        let above = number.checked_sub(self.first)?;
        (above % self.step == 0).then_some(usize::from(above / self.step))
    }
}

/// The addresses by which a server groups connections: its own and the client's as it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GroupId {
    pub lan: IpAddr,
    pub server: IpAddr,
}

/// The numbers of a group, by index.
#[derive(Debug, Default)]
struct Group {
    /// Assigned numbers, as a bit set.
    used: Vec<u64>,
    /// Assigned numbers whose connection has ended, in the order of the ends.
    resting: VecDeque<usize>,
}

/// The assigned numbers of all groups.
#[derive(Debug)]
pub(super) struct Groups {
    numbers: Numbers,
    groups: HashMap<GroupId, Group>,
}

impl Groups {
    pub(super) fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            groups: HashMap::new(),
        }
    }

    /// Assigns the requested number if it is free, otherwise the smallest free one, otherwise the
    /// one longest in quarantine; always less than `limit`. `None` if no number is left.
    pub(super) fn take(&mut self, id: GroupId, asked: u16, limit: Option<u16>) -> Option<VcNumber> {
        let numbers = self.numbers;
        let is_below = |index: &usize| {
            let number = numbers.number(*index);
            number.is_some_and(|number| limit.is_none_or(|limit| number.get() < limit))
        };
        let group = self.groups.entry(id).or_default();
        let asked = numbers.index(asked).filter(is_below);
        let asked = asked.filter(|index| !is_used(&group.used, *index));
        let free = asked.or_else(|| Some(first_unused(&group.used)).filter(is_below));
        let index = match free {
            Some(free) => free,
            None => {
                let longest = group.resting.iter().position(is_below)?;
                group.resting.remove(longest)?
            }
        };
        group.set(index);
        numbers.number(index)
    }

    /// Frees a number.
    pub(super) fn free(&mut self, id: GroupId, number: VcNumber) {
        if let Some(group) = self.groups.get_mut(&id)
            && let Some(index) = self.numbers.index(number.get())
        {
            group.clear(index);
            self.forget_unused(id);
        }
    }

    /// Quarantines the number of a connection that has ended.
    pub(super) fn rest(&mut self, id: GroupId, number: VcNumber) {
        if let Some(group) = self.groups.get_mut(&id)
            && let Some(index) = self.numbers.index(number.get())
        {
            group.resting.push_back(index);
            if group.resting.len() > MAX_RESTING
                && let Some(longest) = group.resting.pop_front()
            {
                group.clear(longest);
            }
            self.forget_unused(id);
        }
    }

    /// Returns its number to a connection that continues; false if another flow has it by now.
    #[must_use]
    pub(super) fn resume(&mut self, id: GroupId, number: VcNumber) -> bool {
        let Some(index) = self.numbers.index(number.get()) else {
            return false;
        };
        let group = self.groups.entry(id).or_default();
        let rests = group.resting.iter().position(|resting| *resting == index);
        match rests {
            Some(place) => _ = group.resting.remove(place),
            None if is_used(&group.used, index) => return false,
            None => group.set(index),
        }
        true
    }

    /// Removes a group without a live connection.
    fn forget_unused(&mut self, id: GroupId) {
        let is_unused = |group: &Group| {
            let used: u32 = group.used.iter().map(|word| word.count_ones()).sum();
            used as usize == group.resting.len()
        };
        if self.groups.get(&id).is_some_and(is_unused) {
            self.groups.remove(&id);
        }
    }
}

impl Group {
    fn set(&mut self, index: usize) {
        let word = index / 64;
        if self.used.len() <= word {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= 1 << (index % 64);
    }

    fn clear(&mut self, index: usize) {
        if let Some(word) = self.used.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
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

    fn vc(number: u16) -> VcNumber {
        VcNumber::new(number).unwrap()
    }

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
                assert!(all.insert(groups.take(group(1), 0, None).unwrap().get()));
            }
        }
        assert_eq!(all, (1..=40).collect());
        assert_eq!(Numbers::share(0, 1), Numbers::ALL);
        assert_eq!(Numbers::share(3, 0), Numbers::ALL);
    }

    #[test]
    fn a_number_outside_the_share_is_not_given() {
        let mut groups = Groups::new(Numbers::share(1, 2));
        assert_eq!(groups.take(group(1), 1, None), Some(vc(2)));
        assert_eq!(groups.take(group(1), 6, None), Some(vc(6)));
        assert_eq!(groups.take(group(1), 0, None), Some(vc(4)));
    }

    #[test]
    fn runs_out_only_when_all_are_given() {
        let mut groups = Groups::new(Numbers::ALL);
        for expected in 1..=u16::MAX {
            assert_eq!(groups.take(group(1), 0, None), Some(vc(expected)));
        }
        assert_eq!(groups.take(group(1), 0, None), None);
        assert_eq!(groups.take(group(2), 0, None), Some(vc(1)));
        groups.free(group(1), vc(4711));
        assert_eq!(groups.take(group(1), 1, None), Some(vc(4711)));
    }

    #[test]
    fn a_number_rests_until_others_are_freed_after_it() {
        let mut groups = Groups::new(Numbers::ALL);
        for expected in 1..=20 {
            assert_eq!(groups.take(group(1), 0, None), Some(vc(expected)));
        }
        for number in 1..=16 {
            groups.rest(group(1), vc(number));
        }
        assert_eq!(groups.take(group(1), 3, None), Some(vc(21)));
        groups.rest(group(1), vc(17));
        assert_eq!(groups.take(group(1), 3, None), Some(vc(1)));
        assert!(!groups.resume(group(1), vc(1)), "another one has it");
        assert!(groups.resume(group(1), vc(2)));
        assert_eq!(groups.take(group(1), 0, None), Some(vc(22)));
        for number in [1, 2, 18, 19, 20, 21] {
            groups.free(group(1), vc(number));
        }
        assert_eq!(groups.groups.len(), 1);
        groups.rest(group(1), vc(22));
        assert!(groups.groups.is_empty(), "none is in use");
    }

    #[test]
    fn within_a_limit_rest_is_short() {
        let mut groups = Groups::new(Numbers::share(1, 2));
        let take = |groups: &mut Groups, asked| groups.take(group(1), asked, Some(6));
        assert_eq!(take(&mut groups, 8), Some(vc(2)));
        assert_eq!(take(&mut groups, 0), Some(vc(4)));
        assert_eq!(take(&mut groups, 0), None);
        groups.rest(group(1), vc(2));
        assert_eq!(take(&mut groups, 0), Some(vc(2)));
        assert_eq!(groups.take(group(1), 0, Some(2)), None);
        assert_eq!(groups.take(group(1), 0, None), Some(vc(6)));
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
                    prop_assert_eq!(groups.take(group(n), number, None), Some(vc(expected)));
                    set.insert(expected);
                } else if let Some(number) = VcNumber::new(number) {
                    groups.free(group(n), number);
                    set.remove(&number.get());
                }
            }
            oracle.retain(|_, set| !set.is_empty());
            prop_assert_eq!(groups.groups.len(), oracle.len());
        }
    }
}

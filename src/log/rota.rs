//! Whose turn it is among the members that one thread serves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// A member's number.
pub(super) type MemberId = u64;

/// Members, and when each has its next turn. Who is woken comes after those that were woken
/// before, so that a busy member does not keep the others waiting.
#[derive(Debug)]
pub(super) struct Rota<T> {
    members: BTreeMap<MemberId, Member<T>>,
    ready: VecDeque<MemberId>,
    timers: BTreeSet<(Duration, MemberId)>,
}

#[derive(Debug)]
struct Member<T> {
    value: T,
    is_ready: bool,
    due: Option<Duration>,
}

impl<T> Default for Rota<T> {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
        }
    }
}

impl<T: Clone> Rota<T> {
    /// Adds a member, who is to have a turn soon.
    pub(super) fn add(&mut self, id: MemberId, value: T) {
        let member = Member {
            value,
            is_ready: false,
            due: None,
        };
        self.members.insert(id, member);
        self.wake(id);
    }

    /// Gives a member a turn soon; whether it had none coming.
    pub(super) fn wake(&mut self, id: MemberId) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let is_news = !std::mem::replace(&mut member.is_ready, true);
        if is_news {
            self.ready.push_back(id);
        }
        is_news
    }

    /// Gives a member a turn at this moment, unless it is woken before.
    pub(super) fn set_due(&mut self, id: MemberId, due: Option<Duration>) {
        if let Some(member) = self.members.get_mut(&id) {
            let before = std::mem::replace(&mut member.due, due);
            self.timers.extend(due.map(|due| (due, id)));
            if let Some(before) = before.filter(|before| Some(*before) != due) {
                self.timers.remove(&(before, id));
            }
        }
    }

    /// Who has a turn now.
    pub(super) fn next(&mut self, now: Duration) -> Option<(MemberId, T)> {
        while let Some((due, id)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.remove(&(due, id));
            if let Some(member) = self.members.get_mut(&id) {
                member.due = None;
            }
            self.wake(id);
        }
        let id = self.ready.pop_front()?;
        let member = self.members.get_mut(&id)?;
        member.is_ready = false;
        Some((id, member.value.clone()))
    }

    /// When somebody has a turn, if nobody has one now.
    pub(super) fn first_due(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Takes a member out: it has no turn any more.
    pub(super) fn remove(&mut self, id: MemberId) {
        self.set_due(id, None);
        if self
            .members
            .remove(&id)
            .is_some_and(|member| member.is_ready)
        {
            self.ready.retain(|ready| *ready != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);
    const LATER: Duration = Duration::from_secs(6);

    fn turns(rota: &mut Rota<&'static str>, now: Duration) -> Vec<&'static str> {
        std::iter::from_fn(|| Some(rota.next(now)?.1)).collect()
    }

    #[test]
    fn a_new_member_has_a_turn_and_then_none() {
        let mut rota = Rota::default();
        rota.add(1, "a");
        rota.add(2, "b");
        assert_eq!(turns(&mut rota, NOW), ["a", "b"]);
        assert_eq!(turns(&mut rota, LATER), [""; 0]);
        assert_eq!(rota.first_due(), None);
    }

    #[test]
    fn who_is_woken_again_and_again_comes_after_those_whose_moment_has_come() {
        let mut rota = Rota::default();
        rota.add(1, "busy");
        rota.add(2, "patient");
        turns(&mut rota, Duration::ZERO);
        rota.set_due(2, Some(NOW));
        assert!(rota.wake(1));
        assert_eq!(rota.next(NOW), Some((1, "busy")));
        assert!(rota.wake(1));
        assert_eq!(rota.next(NOW), Some((2, "patient")));
        assert_eq!(rota.next(NOW), Some((1, "busy")));
    }

    #[test]
    fn being_woken_twice_is_one_turn() {
        let mut rota = Rota::default();
        rota.add(1, "a");
        assert!(!rota.wake(1));
        rota.set_due(1, Some(NOW));
        assert_eq!(turns(&mut rota, NOW), ["a"]);
    }

    #[test]
    fn only_the_last_moment_counts_and_the_first_of_all_is_told() {
        let mut rota = Rota::default();
        rota.add(1, "a");
        rota.add(2, "b");
        turns(&mut rota, Duration::ZERO);
        rota.set_due(1, Some(NOW));
        rota.set_due(1, Some(LATER));
        rota.set_due(2, Some(LATER * 2));
        assert_eq!(rota.first_due(), Some(LATER));
        assert_eq!(turns(&mut rota, NOW), [""; 0]);
        rota.set_due(1, Some(LATER));
        assert_eq!(turns(&mut rota, LATER), ["a"]);
        assert_eq!(rota.first_due(), Some(LATER * 2));
    }

    #[test]
    fn who_is_taken_out_has_no_turn_and_cannot_be_woken() {
        let mut rota = Rota::default();
        rota.add(1, "a");
        rota.add(2, "b");
        rota.set_due(1, Some(NOW));
        rota.remove(1);
        assert!(!rota.wake(1));
        rota.set_due(1, Some(NOW));
        assert_eq!(turns(&mut rota, LATER), ["b"]);
        assert_eq!(rota.first_due(), None);
    }
}

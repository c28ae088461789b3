//! Threads that wait for the same thing, in the order in which they came.

use std::{collections::VecDeque, task::Waker};

/// A place in a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Who waits, first come first served: only the first one may go on, and wakes the next when it
/// leaves. Each keeps its place until then, whoever wakes it in between.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<(Ticket, Waker)>,
    last: u64,
}

impl Line {
    /// Takes the last place.
    pub(super) fn join(&mut self, waker: Waker) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.waiting.push_back((ticket, waker));
        ticket
    }

    /// Whether this one may go on; who has no ticket, only if nobody waits.
    pub(super) fn is_turn(&self, ticket: Option<Ticket>) -> bool {
        self.waiting.front().map(|(first, _)| *first) == ticket
    }

    /// What wakes the first one.
    pub(super) fn first(&self) -> Option<Waker> {
        self.waiting.front().map(|(_, waker)| waker.clone())
    }

    /// Gives a place up; returns what wakes the first one then.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        self.first()
    }

    /// What wakes each of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Waker> {
        self.waiting.iter().map(|(_, waker)| waker.clone())
    }
}

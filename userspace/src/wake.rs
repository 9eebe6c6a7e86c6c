//! The inbox of the control thread, and its sleep, in which no work is missed.
//!
//! Three rules prevent a lost wake-up:
//!
//! 1. The time at which the thread has to work next is computed from the queue and the alarm at the moment it goes to
//!    sleep (`Inbox::sleep`). No other variable holds that time.
//! 2. A change of the queue or the alarm that makes this time earlier wakes the thread (`Inbox::push`,
//!    `Alarm::at_latest`).
//! 3. The thread clears a wake-up before it looks for work, and a time that has passed means no sleep at all.
//!
//! The tests in `loom` try these rules in every order in which the threads may run.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

#[cfg(all(test, loom))]
use self::loom::Waker;
use crate::sync::{AtomicU64, Mutex, Ordering, fence, lock};
#[cfg(not(all(test, loom)))]
use crate::sys::Waker;

/// A time in milliseconds of `now_ms` that never comes.
const NEVER: u64 = u64::MAX;
const OFF: u64 = 0;

/// A time in milliseconds of `now_ms`, or none. Any thread may set it.
#[derive(Default)]
pub(crate) struct Deadline(AtomicU64);

impl Deadline {
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != OFF
    }

    #[inline]
    pub(crate) fn set(&self, at: u64, alarm: &Alarm) {
        self.0.store(at, Ordering::Relaxed);
        alarm.at_latest(at);
    }

    #[inline]
    pub(crate) fn clear(&self) {
        if self.is_set() {
            self.0.store(OFF, Ordering::Relaxed);
        }
    }

    /// Whether the time has come. If so, the deadline is cleared.
    pub(crate) fn take(&self, now: u64) -> bool {
        let at = self.0.load(Ordering::Relaxed);
        at != OFF
            && at <= now
            && self.0.compare_exchange(at, OFF, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn next(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&at| at != OFF)
    }
}

/// The time by which the control thread must check the deadlines.
pub(crate) struct Alarm {
    next: AtomicU64,
    waker: Waker,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { next: AtomicU64::new(NEVER), waker: Waker::new()? })
    }

    /// Makes the thread check by this time; called after the deadline itself was set. The fence here and the one in `ring`
    /// leave two cases: `ring` sees the deadline, or this function sees that `ring` has reset the alarm.
    #[inline]
    pub(crate) fn at_latest(&self, at: u64) {
        fence(Ordering::SeqCst);
        if self.next.load(Ordering::Relaxed) > at && self.next.fetch_min(at, Ordering::Relaxed) > at {
            self.waker.wake();
        }
    }

    /// Calls `act` if the time has come. `act` handles all deadlines and returns the earliest one that is left.
    pub(crate) fn ring(&self, now: u64, act: impl FnOnce() -> Option<u64>) {
        if self.next() > now {
            return;
        }
        self.next.store(NEVER, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(next) = act() {
            self.next.fetch_min(next, Ordering::Relaxed);
        }
    }

    fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

struct Queue<T, M> {
    tasks: VecDeque<T>,
    messages: VecDeque<M>,
    /// Messages are held back until this time, because a batch costs less per message.
    gather_until: u64,
}

impl<T, M> Queue<T, M> {
    /// When the thread must check the queue.
    fn due(&self) -> u64 {
        match (self.tasks.is_empty(), self.messages.is_empty()) {
            (false, _) => 0,
            (true, false) => self.gather_until,
            (true, true) => NEVER,
        }
    }
}

/// Tasks and messages for the control thread, and the alarm for its deadlines.
pub struct Inbox<T, M> {
    pub(crate) alarm: Alarm,
    queue: Mutex<Queue<T, M>>,
}

impl<T, M> Inbox<T, M> {
    pub(crate) fn new() -> io::Result<Self> {
        let queue = Queue { tasks: VecDeque::new(), messages: VecDeque::new(), gather_until: 0 };
        Ok(Self { alarm: Alarm::new()?, queue: Mutex::new(queue) })
    }

    /// Adds to the queue, and wakes the thread if it must check earlier than before.
    fn push(&self, add: impl FnOnce(&mut Queue<T, M>)) {
        let mut queue = lock(&self.queue);
        let before = queue.due();
        add(&mut queue);
        let is_earlier = queue.due() < before;
        drop(queue);
        if is_earlier {
            self.alarm.waker.wake();
        }
    }

    pub(crate) fn push_task(&self, task: T) {
        self.push(|queue| queue.tasks.push_back(task));
    }

    /// Adds messages while fewer than `most` wait and drops the others. Empties `messages` and returns the number dropped.
    pub(crate) fn push_messages(&self, messages: &mut Vec<M>, most: usize) -> usize {
        if messages.is_empty() {
            return 0;
        }
        let mut dropped = 0;
        self.push(|queue| {
            let room = most.saturating_sub(queue.messages.len());
            dropped = messages.len().saturating_sub(room);
            queue.messages.extend(messages.drain(..).take(room));
        });
        dropped
    }

    /// Takes the next tasks.
    pub fn take_tasks(&self, most: usize) -> Vec<T> {
        let mut queue = lock(&self.queue);
        let count = queue.tasks.len().min(most);
        queue.tasks.drain(..count).collect()
    }

    /// Takes the next messages, unless they are held back, and returns how many are left.
    pub(crate) fn take_messages(&self, most: usize, now: u64) -> (Vec<M>, usize) {
        let mut queue = lock(&self.queue);
        let count = if now < queue.gather_until { 0 } else { queue.messages.len().min(most) };
        (queue.messages.drain(..count).collect(), queue.messages.len())
    }

    /// Holds messages back until this time.
    pub(crate) fn gather(&self, until: u64) {
        lock(&self.queue).gather_until = until;
    }

    /// Sleeps until there is work, or until `other`. `poll` gets the waker and the longest time to wait (`None` for no limit).
    /// This is the only place that computes how long the thread sleeps.
    pub(crate) fn sleep<R>(
        &self,
        now: u64,
        other: Option<u64>,
        poll: impl FnOnce(&Waker, Option<Duration>) -> R,
    ) -> R {
        let due = lock(&self.queue).due().min(self.alarm.next()).min(other.unwrap_or(NEVER));
        let timeout = (due != NEVER).then(|| Duration::from_millis(due.saturating_sub(now)));
        let polled = poll(&self.alarm.waker, timeout);
        self.alarm.waker.clear();
        polled
    }
}

#[cfg(test)]
impl Alarm {
    /// The time that the alarm is set to.
    pub(crate) fn set_to(&self) -> Option<u64> {
        Some(self.next()).filter(|&at| at != NEVER)
    }
}

/// Runs the threads in every relevant order with loom, which reports a thread that sleeps forever as a deadlock.
/// To run them: `RUSTFLAGS="--cfg loom" cargo test --lib loom::`.
#[cfg(all(test, loom))]
mod loom {
    use super::{Alarm, Deadline, Inbox};
    use crate::sync::{AtomicU64, Mutex, Ordering, lock};
    use loom::model::Builder;
    use loom::sync::Condvar;
    use loom::thread;
    use std::collections::VecDeque;
    use std::io;
    use std::os::fd::{AsRawFd, RawFd};
    use std::sync::Arc;
    use std::time::Duration;

    /// Stands in for the eventfd.
    pub(crate) struct Waker {
        is_set: Mutex<bool>,
        changed: Condvar,
    }

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self { is_set: Mutex::new(false), changed: Condvar::new() })
        }

        pub(crate) fn wake(&self) {
            *lock(&self.is_set) = true;
            self.changed.notify_all();
        }

        pub(crate) fn clear(&self) {
            *lock(&self.is_set) = false;
        }

        fn wait(&self) {
            let mut is_set = lock(&self.is_set);
            while !*is_set {
                is_set = self.changed.wait(is_set).unwrap();
            }
        }
    }

    impl AsRawFd for Waker {
        fn as_raw_fd(&self) -> RawFd {
            -1
        }
    }

    /// The clock. It advances while a thread sleeps, and also between any two steps of a thread.
    struct Clock(AtomicU64);

    impl Clock {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn pass(&self, ms: u64) {
            self.0.fetch_add(ms, Ordering::Relaxed);
        }

        /// Stands in for poll(2).
        fn poll(&self, waker: &Waker, timeout: Option<Duration>) {
            match timeout {
                None => waker.wait(),
                Some(_) if *lock(&waker.is_set) => (),
                Some(timeout) => {
                    self.pass(timeout.as_millis() as u64);
                    thread::yield_now(); // let the other threads run
                }
            }
        }
    }

    struct World {
        inbox: Inbox<u8, u8>,
        deadline: Deadline,
        clock: Clock,
    }

    impl World {
        fn new() -> Arc<Self> {
            let clock = Clock(AtomicU64::new(10));
            Arc::new(Self { inbox: Inbox::new().unwrap(), deadline: Deadline::default(), clock })
        }

        fn sleep(&self) {
            self.inbox.sleep(self.clock.now(), None, |waker, timeout| self.clock.poll(waker, timeout));
        }

        /// Works like the control thread under load, until it has taken so many messages, tasks and deadlines.
        fn take(&self, messages: usize, tasks: usize, deadlines: usize) {
            let mut left = [messages, tasks, deadlines];
            loop {
                left[0] -= self.take_messages();
                left[1] -= self.inbox.take_tasks(1).len();
                left[2] -= self.take_deadline();
                if left == [0; 3] {
                    return;
                }
                self.sleep();
            }
        }

        fn take_messages(&self) -> usize {
            let now = self.clock.now();
            let (messages, waiting) = self.inbox.take_messages(2, now);
            if !messages.is_empty() && waiting == 0 {
                self.inbox.gather(now + 2);
            }
            messages.len()
        }

        /// One if the time of the deadline had come.
        fn take_deadline(&self) -> usize {
            let (now, mut is_over) = (self.clock.now(), false);
            self.inbox.alarm.ring(now, || {
                is_over = self.deadline.take(now);
                self.deadline.next()
            });
            usize::from(is_over)
        }
    }

    /// Runs a model in every order with at most three preemptions.
    fn in_every_order(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    fn in_a_thread(world: &Arc<World>, work: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
        let world = world.clone();
        thread::spawn(move || work(&world))
    }

    #[test]
    fn each_message_is_taken_although_time_passes_meanwhile() {
        in_every_order(|| {
            let world = World::new();
            let others = [
                in_a_thread(&world, |world| {
                    (0..3).for_each(|message| _ = world.inbox.push_messages(&mut vec![message], 4));
                }),
                in_a_thread(&world, |world| world.clock.pass(5)),
            ];
            world.take(3, 0, 0);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    #[test]
    fn each_task_of_two_threads_is_taken() {
        in_every_order(|| {
            let world = World::new();
            let leave = |world: &World| (0..2).for_each(|task| world.inbox.push_task(task));
            let others = [in_a_thread(&world, leave), in_a_thread(&world, leave)];
            world.take(0, 4, 0);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    #[test]
    fn a_deadline_set_during_a_check_is_kept() {
        for at in [10, 12] {
            in_every_order(move || {
                let world = World::new();
                world.inbox.alarm.at_latest(10); // the deadline of another peer, which is over
                let other = in_a_thread(&world, move |world| world.deadline.set(at, &world.inbox.alarm));
                world.take(0, 0, 1);
                other.join().unwrap();
            });
        }
    }

    #[test]
    fn messages_tasks_and_deadlines_are_all_seen() {
        in_every_order(|| {
            let world = World::new();
            let others = [
                in_a_thread(&world, |world| {
                    world.inbox.push_messages(&mut vec![1], 4);
                    world.inbox.push_task(1);
                }),
                in_a_thread(&world, |world| world.deadline.set(11, &world.inbox.alarm)),
            ];
            world.take(1, 1, 1);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    /// The design of version 0.1.0: a push woke the thread only for an empty queue. The gathering time was stored
    /// separately, and was cleared when it had passed.
    struct Former {
        queue: Mutex<VecDeque<u8>>,
        alarm: Alarm,
        clock: Clock,
    }

    impl Former {
        fn push(&self, message: u8) {
            let mut queue = lock(&self.queue);
            let was_empty = queue.is_empty();
            queue.push_back(message);
            if was_empty {
                self.alarm.waker.wake();
            }
        }

        fn take_messages(&self, wanted: usize) {
            let (mut taken, mut gather_until) = (0, 0);
            loop {
                let now = self.clock.now();
                if now >= gather_until {
                    taken += lock(&self.queue).drain(..).count();
                    gather_until = now + 2;
                }
                if taken >= wanted {
                    return;
                }
                let timeout = gather_until.checked_sub(self.clock.now()).map(Duration::from_millis);
                self.clock.poll(&self.alarm.waker, timeout);
                self.alarm.waker.clear();
            }
        }
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn the_former_design_misses_a_message() {
        in_every_order(|| {
            let clock = Clock(AtomicU64::new(10));
            let former = Arc::new(Former { queue: Mutex::default(), alarm: Alarm::new().unwrap(), clock });
            let (pushing, passing) = (former.clone(), former.clone());
            let others = [
                thread::spawn(move || (0..2).for_each(|message| pushing.push(message))),
                thread::spawn(move || passing.clock.pass(5)),
            ];
            former.take_messages(2);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }
}

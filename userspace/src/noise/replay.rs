//! The sliding window against replays: RFC 6479, as the kernel's `receive.c` has it.

const WORDS: u64 = 128;
/// How far behind the newest counter an older one is still accepted.
pub const WINDOW: u64 = WORDS * 64 - 64;

/// Which of the last 8,192 counters were received.
pub struct Replay {
    /// One more than the highest counter seen.
    next: u64,
    bitmap: [u64; WORDS as usize],
}

impl Default for Replay {
    fn default() -> Self {
        Self { next: 0, bitmap: [0; WORDS as usize] }
    }
}

impl Replay {
    /// Marks an authenticated counter as received; false for one seen before or too old.
    #[inline]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= super::limits::REJECT_AFTER_MESSAGES || counter + WINDOW < self.next {
            return false;
        }
        self.advance(counter);
        let word = &mut self.bitmap[(counter / 64 % WORDS) as usize];
        let bit = 1 << (counter % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Clears the words that come into the window with a new highest counter.
    #[inline]
    fn advance(&mut self, counter: u64) {
        if counter < self.next {
            return;
        }
        let (old, new) = (self.next.saturating_sub(1) / 64, counter / 64);
        let entering = (new - old).min(WORDS);
        for word in 1..=entering {
            self.bitmap[((old + word) % WORDS) as usize] = 0;
        }
        self.next = counter + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn each_counter_is_accepted_once() {
        let mut window = Replay::default();
        assert!(window.accept(0));
        assert!(!window.accept(0));
        assert!(window.accept(1));
        assert!(window.accept(WINDOW));
        assert!(!window.accept(WINDOW));
        assert!(!window.accept(1));
    }

    #[test]
    fn a_counter_behind_the_window_is_refused() {
        let mut window = Replay::default();
        assert!(window.accept(100_000));
        assert!(window.accept(100_001 - WINDOW));
        assert!(!window.accept(100_000 - WINDOW));
    }

    #[test]
    fn a_counter_at_the_end_of_a_session_is_refused() {
        let mut window = Replay::default();
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(crate::noise::limits::REJECT_AFTER_MESSAGES));
        assert!(window.accept(crate::noise::limits::REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(0));
    }

    proptest! {
        #[test]
        fn it_accepts_what_a_set_of_all_counters_would(steps in prop::collection::vec((0u64..3, 0u64..20_000), 1..300)) {
            let (mut window, mut seen, mut highest) = (Replay::default(), HashSet::new(), 0u64);
            for (kind, offset) in steps {
                let counter = match kind {
                    0 => highest + offset % 70,
                    1 => highest.saturating_sub(offset),
                    _ => highest + offset,
                };
                let in_window = seen.is_empty() || counter + WINDOW > highest;
                let expected = in_window && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter), expected, "counter {} with highest {}", counter, highest);
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }
}

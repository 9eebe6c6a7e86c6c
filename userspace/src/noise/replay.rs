//! The sliding window against replays (RFC 6479), as in the kernel's `receive.c`.

/// A window of 8,192 counters.
pub(crate) type Replay = Window<128>;
/// The greatest distance from the newest counter at which an older one is accepted.
pub const WINDOW: u64 = Replay::LEN;

/// The window: one bit per counter, in `WORDS` words.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Window<const WORDS: usize> {
    /// The highest received counter plus one.
    next: u64,
    bitmap: [u64; WORDS],
}

impl<const WORDS: usize> Default for Window<WORDS> {
    fn default() -> Self {
        Self { next: 0, bitmap: [0; WORDS] }
    }
}

impl<const WORDS: usize> Window<WORDS> {
    /// The usable length. One word is partly filled and does not count.
    const LEN: u64 = WORDS as u64 * 64 - 64;

    /// Marks the counter of an authentic message as received. Returns false if it was received before or is too old.
    #[inline]
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter >= super::limits::REJECT_AFTER_MESSAGES || counter + Self::LEN < self.next {
            return false;
        }
        self.advance(counter);
        let word = &mut self.bitmap[(counter / 64) as usize % WORDS];
        let bit = 1 << (counter % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Clears the words that enter the window with a new highest counter.
    #[inline]
    fn advance(&mut self, counter: u64) {
        if counter < self.next {
            return;
        }
        let (old, new) = (self.next.saturating_sub(1) / 64, counter / 64);
        let entering = (new - old).min(WORDS as u64);
        for word in 1..=entering {
            self.bitmap[(old + word) as usize % WORDS] = 0;
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
    fn a_counter_behind_the_window_is_rejected() {
        let mut window = Replay::default();
        assert!(window.accept(100_000));
        assert!(window.accept(100_001 - WINDOW));
        assert!(!window.accept(100_000 - WINDOW));
    }

    #[test]
    fn a_counter_at_the_end_of_a_session_is_rejected() {
        let mut window = Replay::default();
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(crate::noise::limits::REJECT_AFTER_MESSAGES));
        assert!(window.accept(crate::noise::limits::REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(0));
    }

    proptest! {
        #[test]
        fn the_window_accepts_what_a_set_of_all_counters_would(steps in prop::collection::vec((0u64..3, 0u64..20_000), 1..300)) {
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

    /// Compares every sequence of these counters with a list of all accepted ones.
    mod exhaustive {
        use super::*;
        use crate::noise::limits::REJECT_AFTER_MESSAGES;

        fn all_sequences<const WORDS: usize>(
            window: &Window<WORDS>,
            (seen, next): (&mut Vec<u64>, u64),
            counters: &[u64],
            left: usize,
        ) {
            for &counter in counters.iter().filter(|_| left > 0) {
                let mut window = window.clone();
                let in_window = counter < REJECT_AFTER_MESSAGES && counter + Window::<WORDS>::LEN >= next;
                let fresh = in_window && !seen.contains(&counter);
                assert_eq!(window.accept(counter), fresh, "{counter} after {seen:?}");
                if fresh {
                    seen.push(counter);
                }
                all_sequences(
                    &window,
                    (seen, next.max(if fresh { counter + 1 } else { 0 })),
                    counters,
                    left - 1,
                );
                if fresh {
                    seen.pop();
                }
            }
        }

        #[test]
        fn a_window_of_one_word_is_correct_after_any_three_counters() {
            let counters: Vec<_> = (0..66).chain(126..131).chain(190..194).chain([255, 256, 257]).collect();
            all_sequences(&Window::<2>::default(), (&mut Vec::new(), 0), &counters, 3);
        }

        #[test]
        fn a_window_of_two_words_is_correct_after_any_six_counters() {
            let counters = [0, 1, 63, 64, 127, 128, 129, 192, 256];
            all_sequences(&Window::<3>::default(), (&mut Vec::new(), 0), &counters, 6);
        }

        #[test]
        fn the_window_is_correct_after_any_five_counters() {
            let around = [0, 63, 64, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 64, 2 * WINDOW + 200];
            all_sequences(&Replay::default(), (&mut Vec::new(), 0), &around, 5);
            let end = REJECT_AFTER_MESSAGES;
            let last = [0, end - WINDOW - 1, end - WINDOW, end - 65, end - 2, end - 1, end, u64::MAX];
            all_sequences(&Replay::default(), (&mut Vec::new(), 0), &last, 5);
        }
    }
}

//! Measures how fast the ciphers encrypt and decrypt on one core, as medians of alternating rounds: `cargo bench`.

use std::time::{Duration, Instant};

use wgq_userspace::aead::{Cipher, Key, MANY, Message, TAG_LEN};

const ROUNDS: usize = 31;
const CALLS: usize = 400;

fn laid_out(len: usize, count: usize) -> (Vec<u8>, Vec<Message>) {
    let whole = len + TAG_LEN;
    let messages = (0..count).map(|i| Message { at: i * whole, len, counter: i as u64 }).collect();
    (vec![7; whole * count], messages)
}

fn timed(mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..CALLS).for_each(|_| call());
    start.elapsed()
}

fn main() {
    println!(
        "{:>12} {:>8}  {:>8}  {:>18} {:>18}",
        "packet bytes", "at once", "cipher", "seal, ns a packet", "open, ns a packet"
    );
    for len in [32, 96, 528, 1424, 8944] {
        for count in [1, 2, 4, 8, MANY] {
            compare(len, count);
        }
    }
}

/// Prints each cipher of this processor with its speed relative to ring.
fn compare(len: usize, count: usize) {
    let ciphers = Cipher::ALL.into_iter().rev().filter(|cipher| cipher.is_possible());
    let keys: Vec<_> = ciphers.map(|cipher| (cipher, Key::new(&[3; 32], cipher))).collect();
    let mut times = vec![[const { Vec::new() }; 2]; keys.len()];
    let (mut buffer, messages) = laid_out(len, count);
    for _ in 0..ROUNDS {
        for ((_, key), times) in keys.iter().zip(&mut times) {
            times[0].push(timed(|| key.seal(&mut buffer, &messages)));
            times[1].push(timed(|| _ = key.open(&mut buffer, &messages)));
        }
    }
    let medians = times.into_iter().map(|times| times.map(|times| median(times) / f64::from(count as u32)));
    let medians: Vec<_> = medians.collect();
    for ((cipher, _), median) in keys.iter().zip(&medians) {
        let show = |which: usize| format!("{:8.0} {:5.2}x", median[which], medians[0][which] / median[which]);
        let cipher = format!("{cipher:?}");
        println!("{len:>12} {count:>8}  {cipher:>8}  {:>18} {:>18}", show(0), show(1));
    }
}

/// The nanoseconds of a call.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from(CALLS as u32)
}

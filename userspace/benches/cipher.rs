//! How fast the ciphers seal and open on one core: `cargo bench`. Medians of rounds in turn.

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
        "{:>12} {:>8}  {:>24} {:>24}",
        "packet bytes", "at once", "seal, ns a packet", "open, ns a packet"
    );
    for len in [32, 96, 528, 1424, 8944] {
        for count in [1, 2, 4, 8, MANY] {
            compare(len, count);
        }
    }
}

fn compare(len: usize, count: usize) {
    let keys = [Cipher::Ring, Cipher::Wide].map(|cipher| Key::new(&[3; 32], cipher));
    let mut times: [Vec<Duration>; 4] = Default::default();
    let (mut buffer, messages) = laid_out(len, count);
    for _ in 0..ROUNDS {
        for (key, times) in keys.iter().zip(times.as_chunks_mut::<2>().0) {
            times[0].push(timed(|| key.seal(&mut buffer, &messages)));
            times[1].push(timed(|| _ = key.open(&mut buffer, &messages)));
        }
    }
    let [ring_seal, ring_open, wide_seal, wide_open] = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from((CALLS * count) as u32)
    });
    let show = |ring: f64, wide: f64| format!("{ring:8.0} {wide:8.0} {:4.1}x", ring / wide);
    println!("{len:>12} {count:>8}  {:>24} {:>24}", show(ring_seal, wide_seal), show(ring_open, wide_open));
}

//! The ciphers that a test run exercises. A missing cipher is a failure and not a skip.

use super::Cipher;

/// The variable with the names of the ciphers that a run must exercise, separated by commas. valgrind hides some ciphers.
const VARIABLE: &str = "WGQ_TEST_CIPHERS";

/// The ciphers to test. Panics unless they are exactly those in the variable, or by default those that the kernel reports
/// for the processor.
pub(crate) fn exercised() -> Vec<Cipher> {
    let named = std::env::var(VARIABLE).map_or_else(|_| reported(), |names| named(&names));
    let possible: Vec<_> = Cipher::ALL.into_iter().filter(|cipher| cipher.is_possible()).collect();
    assert_eq!(named, possible, "{VARIABLE} or /proc/cpuinfo (left) and what can run here (right) differ");
    named
}

fn named(names: &str) -> Vec<Cipher> {
    let cipher = |name: &str| match name {
        "ring" => Cipher::Ring,
        "avx2" => Cipher::Avx2,
        "avx512" => Cipher::Avx512,
        _ => panic!("{VARIABLE}: `{name}' is none of ring, avx2 and avx512"),
    };
    let named: Vec<_> = names.split(',').map(cipher).collect();
    Cipher::ALL.into_iter().filter(|cipher| named.contains(cipher)).collect()
}

/// The ciphers that the processor supports according to the kernel.
fn reported() -> Vec<Cipher> {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("/proc is mounted");
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |wanted: &[&str]| wanted.iter().all(|flag| flags.split_whitespace().any(|word| word == *flag));
    let possible = |cipher: &Cipher| match cipher {
        Cipher::Ring => true,
        Cipher::Avx2 => has(&["avx2", "bmi2"]),
        Cipher::Avx512 => has(&["avx512f", "avx512bw", "avx512ifma"]),
    };
    Cipher::ALL.into_iter().filter(possible).collect()
}

#[test]
fn this_run_exercises_the_named_ciphers() {
    assert!(exercised().contains(&Cipher::Ring));
}

#[test]
fn ciphers_are_named_in_any_order() {
    assert_eq!(named("ring,avx512"), [Cipher::Avx512, Cipher::Ring]);
    assert_eq!(named("ring"), [Cipher::Ring]);
}

#[test]
#[should_panic(expected = "is none of ring, avx2 and avx512")]
fn an_unknown_cipher_name_fails() {
    named("ring,avx1024");
}

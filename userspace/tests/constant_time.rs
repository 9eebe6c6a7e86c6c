//! Checks that no branch and no address of the ciphers depends on a secret, by single-stepping them.
//!
//! A child process runs the routine with one secret after the other and stops after each instruction. All runs must execute
//! the same instructions and access the same addresses. The parent computes the addresses from the instruction and the
//! registers; an address that it cannot compute is a failure. Optimised code is tested, because that is what is shipped:
//!
//!     cargo test --release --test constant_time
#![cfg(target_arch = "x86_64")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;

use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register, UsedMemory};
use wgq_userspace::aead::{Cipher, Key, MANY, Message, TAG_LEN};

#[path = "../src/aead/exercised.rs"]
mod exercised;

/// The trace of a run.
#[derive(Default, PartialEq, Eq)]
struct Trace {
    /// The address of each instruction.
    instructions: Vec<u64>,
    /// The addresses that the instructions accessed, in order.
    memory: Vec<u64>,
}

/// The difference of two runs.
#[derive(Debug, PartialEq, Eq)]
enum Leak {
    Branch,
    Address,
}

impl Trace {
    fn compare(&self, other: &Self) -> Result<(), Leak> {
        if self.instructions != other.instructions {
            return Err(Leak::Branch);
        }
        if self.memory == other.memory { Ok(()) } else { Err(Leak::Address) }
    }
}

/// Reads instructions. They have the same addresses in the child as here.
struct Reader {
    known: HashMap<u64, (Instruction, Vec<UsedMemory>)>,
    factory: InstructionInfoFactory,
}

/// The most instructions that are traced. Unoptimised code takes many more.
const MOST: usize = 400_000;

/// The longest instruction.
const LONGEST: usize = 15;

impl Reader {
    fn new() -> Self {
        Self { known: HashMap::new(), factory: InstructionInfoFactory::new() }
    }

    fn at(&mut self, address: u64) -> &(Instruction, Vec<UsedMemory>) {
        let factory = &mut self.factory;
        self.known.entry(address).or_insert_with(|| {
            // SAFETY: the child has executed this code, and program and libraries are mapped at the same addresses in
            // both. Other sections follow the end of the text.
            let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, LONGEST) };
            let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
            assert!(!instruction.is_invalid(), "{bytes:02x?} is no instruction");
            (instruction, factory.info(&instruction).used_memory().to_vec())
        })
    }

    /// Adds the next instruction of the child.
    fn take(&mut self, child: libc::pid_t, trace: &mut Trace) {
        let registers = registers(child);
        let (instruction, used) = self.at(registers.rip);
        trace.instructions.push(registers.rip);
        for memory in used {
            let elements = match memory.vsib_size() {
                0 => 1,
                size => memory.index().size() / size as usize,
            };
            let vectors = if elements > 1 { vectors(child) } else { Vec::new() };
            for element in 0..elements {
                let address = memory.virtual_address(element, |register, element, size| {
                    if register.is_vector_register() {
                        Some(element_of(&vectors, register, element, size))
                    } else {
                        value(&registers, register)
                    }
                });
                trace.memory.push(address.unwrap_or_else(|| panic!("no address known of `{instruction:?}'")));
            }
        }
    }
}

/// The vector registers of the child, as XSAVE lays them out.
fn vectors(child: libc::pid_t) -> Vec<u8> {
    const NT_X86_XSTATE: libc::c_int = 0x202;
    let mut bytes = vec![0_u8; 16 << 10];
    let mut place = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the child is ours and stopped, and `place` is a valid place for the result.
    let outcome = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, child, NT_X86_XSTATE, &raw mut place) };
    assert_eq!(outcome, 0);
    bytes
}

/// A number in a vector register: the index of a gather.
fn element_of(vectors: &[u8], register: Register, element: usize, size: usize) -> u64 {
    // The offset of each component is in Intel's manual, volume 1, section 13.4, and CPUID leaf 0dh.
    let component = |number| std::arch::x86_64::__cpuid_count(0xd, number).ebx as usize;
    let (number, at) = (register.number(), element * size);
    let place = match (number, at) {
        (16.., _) => component(7) + 64 * (number - 16) + at,
        (_, 0..16) => 160 + 16 * number + at,
        (_, 16..32) => component(2) + 16 * number + at - 16,
        _ => component(6) + 32 * number + at - 32,
    };
    match size {
        4 => i32::from_le_bytes(*vectors[place..].first_chunk().expect("four bytes")) as u64,
        _ => u64::from_le_bytes(*vectors[place..].first_chunk().expect("eight bytes")),
    }
}

/// The value of a general or segment register that is part of an address.
fn value(registers: &libc::user_regs_struct, register: Register) -> Option<u64> {
    let whole = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    };
    match register.size() {
        8 => Some(whole),
        4 => Some(whole & 0xffff_ffff),
        _ => register.is_segment_register().then_some(whole),
    }
}

fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// Lets the child execute one instruction. Returns whether it continues.
fn step(child: libc::pid_t) -> bool {
    // SAFETY: the child is ours and stopped.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) }, 0);
    let status = wait(child);
    assert!(libc::WIFSTOPPED(status), "the routine ended the process: {status:#x}");
    match libc::WSTOPSIG(status) {
        libc::SIGTRAP => true,
        libc::SIGSTOP => false,
        signal => panic!("the routine was stopped by signal {signal}"),
    }
}

fn registers(child: libc::pid_t) -> libc::user_regs_struct {
    // SAFETY: the structure consists of numbers, and zeros are valid.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the child is ours and stopped, and `registers` is a valid place for the result.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers) }, 0);
    registers
}

/// Runs a routine in its own process, between two stops.
#[inline(never)]
fn traced(reader: &mut Reader, routine: &dyn Fn()) -> Trace {
    // SAFETY: the child runs the routine, which takes no locks and allocates no memory, and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: plain calls.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            routine();
            libc::raise(libc::SIGSTOP);
            libc::_exit(0);
        }
    }
    assert!(libc::WIFSTOPPED(wait(child)), "the child did not stop");
    let mut trace = Trace::default();
    loop {
        assert!(trace.instructions.len() < MOST, "the routine does not end");
        reader.take(child, &mut trace);
        if !step(child) {
            break;
        }
    }
    // SAFETY: the child is ours and stopped.
    unsafe { libc::kill(child, libc::SIGKILL) };
    wait(child);
    trace
}

/// Whether a routine executes the same instructions for each secret, and their number. All secrets are at one address,
/// and the routine is called from one place: each child has its own copy of both.
fn compare<T: Copy>(secrets: &[T], routine: impl Fn(&mut T)) -> Result<usize, Leak> {
    let (mut reader, place) = (Reader::new(), RefCell::new(secrets[0]));
    let mut traces = Vec::new();
    for secret in secrets {
        *place.borrow_mut() = *secret;
        traces.push(traced(&mut reader, &|| routine(&mut place.borrow_mut())));
    }
    traces[1..].iter().try_for_each(|trace| traces[0].compare(trace))?;
    Ok(traces[0].instructions.len())
}

/// A key and the packets that are encrypted with it.
#[derive(Clone, Copy)]
struct Secret {
    key: [u8; 32],
    buffer: [u8; 2048],
}

fn laid_out(lens: &[usize]) -> Vec<Message> {
    let (mut messages, mut end) = (Vec::new(), 0);
    for (slot, &len) in lens.iter().enumerate() {
        messages.push(Message { at: end, len, counter: slot as u64 });
        end += len + TAG_LEN;
    }
    messages
}

/// Lengths of packets: batches for both vector ciphers, for one of them, and for ring.
const BATCHES: [&[usize]; 3] =
    [&[0, 1, 15, 16, 17, 63, 64, 65, 96, 127, 128, 130, 2, 33, 0, 48], &[80, 17, 32], &[100]];

/// All ones, which cause the most carries, and mixed bits.
fn secrets() -> [Secret; 3] {
    let noise = |seed: usize| move |i: usize| (((i + seed) * (i + 7 * seed + 3) * 0x9e37) >> 5) as u8;
    let of = |byte: &dyn Fn(usize) -> u8| Secret {
        key: std::array::from_fn(|i| byte(i + 1000)),
        buffer: std::array::from_fn(byte),
    };
    [of(&|_| 0xff), of(&noise(1)), of(&noise(2))]
}

/// Encrypts the packets to be decrypted, and changes a bit of each tag that must be rejected.
fn sealed(
    secret: &Secret,
    messages: &[Message],
    cipher: Cipher,
    change: impl Fn(usize) -> Option<usize>,
) -> Secret {
    let mut secret = *secret;
    Key::new(&secret.key, cipher).seal(&mut secret.buffer, messages);
    for (slot, message) in messages.iter().enumerate() {
        if let Some(at) = change(slot) {
            secret.buffer[message.at + message.len + at] ^= 0x10;
        }
    }
    secret
}

#[test]
fn sealing_and_opening_have_no_secret_branch_or_address() {
    for cipher in exercised::exercised() {
        for lens in BATCHES {
            let (messages, plain) = (laid_out(lens), secrets());
            let seal =
                |secret: &mut Secret| Key::new(&secret.key, cipher).seal(&mut secret.buffer, &messages);
            let steps =
                compare(&plain, seal).unwrap_or_else(|leak| panic!("{cipher:?} seals {lens:?}: {leak:?}"));
            let open = |secret: &mut Secret| {
                black_box(Key::new(&secret.key, cipher).open(&mut secret.buffer, &messages));
            };
            let opened = plain.map(|secret| sealed(&secret, &messages, cipher, |_| None));
            compare(&opened, open).unwrap_or_else(|leak| panic!("{cipher:?} opens {lens:?}: {leak:?}"));
            // The position where a forged tag differs is as secret as the correct tag.
            let forged: [_; 3] = std::array::from_fn(|n| {
                sealed(&plain[n], &messages, cipher, |slot| Some((5 * n + slot) % TAG_LEN))
            });
            compare(&forged, open).unwrap_or_else(|leak| panic!("{cipher:?} refuses {lens:?}: {leak:?}"));
            assert!(steps > 1000, "only {steps} instructions were seen");
        }
    }
}

/// Returns at the first difference, which a comparison of tags must not do.
#[inline(never)]
fn hasty_eq(a: &[u8; 16], b: &[u8; 16]) -> bool {
    (0..16).all(|i| black_box(a[i]) == black_box(b[i]))
}

#[test]
fn a_secret_branch_is_detected() {
    let secrets = [[0_u8; 16], std::array::from_fn(|i| u8::from(i == 9))];
    let routine = |secret: &mut [u8; 16]| _ = black_box(hasty_eq(secret, &[0; 16]));
    assert_eq!(compare(&secrets, routine), Err(Leak::Branch));
}

/// A table lookup, as in a cipher with tables.
#[inline(never)]
fn looked_up(table: &[u8; 256], at: u8) -> u8 {
    black_box(table)[usize::from(black_box(at))]
}

#[test]
fn a_secret_address_is_detected() {
    let table = std::array::from_fn(|i| (i * 7) as u8);
    let routine = |secret: &mut u8| *secret = looked_up(&table, *secret);
    assert_eq!(compare(&[3_u8, 200], routine), Err(Leak::Address));
}

/// The same with one instruction for four indices.
#[target_feature(enable = "avx2")]
fn gathered(table: &[i32; 256], at: [u8; 4]) -> i64 {
    use std::arch::x86_64::{_mm_extract_epi64, _mm_i32gather_epi32, _mm_setr_epi32};
    let [a, b, c, d] = black_box(at).map(i32::from);
    // SAFETY: no index is beyond the table.
    let found = unsafe { _mm_i32gather_epi32::<4>(table.as_ptr(), _mm_setr_epi32(a, b, c, d)) };
    _mm_extract_epi64::<1>(found)
}

#[test]
fn a_secret_address_of_a_gather_is_detected() {
    if exercised::exercised().contains(&Cipher::Avx2) {
        let table = std::array::from_fn(|i| i as i32);
        // SAFETY: the processor has AVX2.
        let routine = |secret: &mut [u8; 4]| _ = black_box(unsafe { gathered(&table, *secret) });
        assert_eq!(compare(&[[1, 2, 3, 4], [1, 2, 3, 5]], routine), Err(Leak::Address));
        assert!(compare(&[[1, 2, 3, 4], [1, 2, 3, 4]], routine).is_ok());
    }
}

#[test]
fn a_constant_time_routine_passes() {
    let routine =
        |secret: &mut [u8; 16]| secret.iter_mut().for_each(|byte| *byte = byte.rotate_left(3) ^ 0x5c);
    assert!(compare(&[[0_u8; 16], [0xff; 16], [3; 16]], routine).is_ok_and(|steps| steps > 10));
    assert!(BATCHES.iter().all(|lens| lens.len() <= MANY));
}

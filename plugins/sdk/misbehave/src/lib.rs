//! What hostile guests do without any host function. Each ends the call, or never returns.

use std::hint::black_box;

/// Does what the word says; returns only from a word that it does not know.
pub fn misbehave(how: &str) {
    match how {
        "loop" => spin(),
        "recurse" => drop(black_box(deeper(0))),
        "trap" => panic!("as told"),
        "grow" => grow(),
        _ => {}
    }
}

/// Turns until it is stopped.
pub fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Takes memory, to 4 GiB if it were let; the allocator aborts when it gets no more.
pub fn grow() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1u8; 1 << 20]));
    }
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the point")]
fn deeper(depth: u64) -> u64 {
    let held = black_box([depth; 64]);
    deeper(depth + 1).wrapping_add(held[(depth % 64) as usize])
}

//! Clocks and memory of this process and of others with all their descendants.

use std::fs;

/// The roots and everything below them. Not every kernel lists children, so parents are looked up instead.
fn tree(roots: &[i32]) -> Vec<i32> {
    let parent = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it may hold anything, brackets too.
        let rest = &stat[stat.rfind(')')? + 1..];
        Some((pid, rest.split_whitespace().nth(1)?.parse::<i32>().ok()?))
    };
    if roots.is_empty() {
        return Vec::new();
    }
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(parent).collect();
    let mut all = roots.to_vec();
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        let children = parents.iter().filter(|(child, parent)| *parent == pid && !roots.contains(child));
        all.extend(children.map(|(child, _)| *child));
        at += 1;
    }
    all
}

fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local; a clock that has gone leaves zeroes.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The clock that the mock writes into its chunks.
pub fn now_ns() -> u64 {
    nanos(libc::CLOCK_MONOTONIC)
}

pub fn self_cpu_ns() -> u64 {
    nanos(libc::CLOCK_PROCESS_CPUTIME_ID)
}

pub fn cpu_ns(roots: &[i32]) -> u64 {
    let of = |pid| {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: the pointer is to a local.
        let known = unsafe { libc::clock_getcpuclockid(pid, &mut clock) } == 0;
        if known { nanos(clock) } else { 0 }
    };
    tree(roots).into_iter().map(of).sum()
}

pub fn rss_kb(roots: &[i32]) -> u64 {
    let of = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find(|line| line.starts_with("VmRSS:"))?.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    tree(roots).into_iter().filter_map(of).sum()
}
